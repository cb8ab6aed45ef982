"""The same GPUs serve from parts by day and train whole by night, and data is prepared on slices of others beside both.

Runs on a KubeRay head. `--gpus 4`: of a smaller machine.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import ray_dra

PARTS = 7  # 1g.10gb on an H100
AT_ONCE = 7  # requests: each part has a process of its own, and this is an example


def answer() -> str:
    """One request to a replica: the UUID of the part that served it."""
    return str(ray_dra.get_devices()[0].uuid)


def step() -> list[str]:
    """The UUIDs of the GPUs that a step of training had."""
    return [str(device.uuid) for device in ray_dra.get_devices()]


class Preparer:
    """Prepares data for as long as it lives."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def works(self) -> tuple[str, float]:
        """The GPU of which it has a half, and for how many seconds it has worked without a break."""
        return str(ray_dra.get_devices()[0].uuid), time.monotonic() - self._began


def on(gang: ray_dra.GangPlacementGroup, bundle: int) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(gang.placement_group, bundle)


def serve(gang: ray_dra.GangPlacementGroup) -> str:
    """By day: a request to each replica."""
    served: list[str] = []
    request = ray.remote(num_gpus=1, num_cpus=0, max_calls=1)(answer)
    for first in range(0, gang.bundle_count, AT_ONCE):
        some = range(first, min(first + AT_ONCE, gang.bundle_count))
        served += ray.get([request.options(scheduling_strategy=on(gang, bundle)).remote() for bundle in some])
    return f"{len(set(served))} parts answered {len(served)} requests"


def train(gang: ray_dra.GangPlacementGroup) -> str:
    """By night: one worker with all GPUs."""
    allocation = gang.allocation
    assert allocation is not None
    planned = [grant.uuid for grant in allocation.grants]
    worker = ray.remote(num_gpus=len(planned), num_cpus=0, max_calls=1)(step)
    seen = ray.get(worker.options(scheduling_strategy=on(gang, 0)).remote())
    return f"one worker trained on {len(seen)} GPUs, {'all as' if seen == planned else 'NOT as'} planned"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--gpus", type=int, default=8, help="that change their shape; all on one node")
    gpus = arguments.parse_args().gpus
    ray.init("ray_dra://kubernetes", log_to_driver=False, logging_level="ERROR")

    replicas, part = [{"GPU": 1}] * (gpus * PARTS), ray_dra.mig("1g.10gb")
    halves = ray_dra.time_slicing("Short")
    with (
        ray_dra.placement_group(replicas, "STRICT_PACK", part=part) as gang,  # on one node, which has these parts
        ray_dra.placement_group([{"GPU": 0.5}] * 4, sharing=halves) as beside,
    ):
        gang.wait(timeout=300)
        beside.wait(timeout=300)
        preparer: Any = ray.remote(num_gpus=1, num_cpus=0)(Preparer)  # of its bundle all, which is half of a GPU
        preparers = [preparer.options(scheduling_strategy=on(beside, bundle)).remote() for bundle in range(4)]
        ray.get([each.works.remote() for each in preparers])
        began = time.monotonic()
        gang.phases(
            {
                "day": ray_dra.shape(replicas, strategy="STRICT_PACK", part=part),
                "night": ray_dra.shape([{"GPU": gpus}]),
            }
        )
        for name in ("day", "night", "day"):  # as a schedule says: `gang.await_switch()` and `gang.switch()`
            since = time.monotonic()
            gang.switch(name, grace=10)
            took = time.monotonic() - since
            print(f"{name}: {serve(gang) if name == 'day' else train(gang)}; the change took {took:.0f} s", flush=True)
        took = time.monotonic() - began
        found = ray.get([each.works.remote() for each in preparers])
        ran = "all" if min(seconds for _, seconds in found) >= took else "NOT all"
        gpus = len({gpu for gpu, _ in found})
        print(f"data preparation ran {ran} the while, {len(found)} processes on {gpus} GPUs of their own")


if __name__ == "__main__":
    main()
