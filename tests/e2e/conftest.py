"""What tests of the embedded cluster share: two racks of two GB200 trays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

import ray_dra
from ray_dra.core.model.device import Health
from ray_dra.simulated.cluster import LocalCluster

# Workers import this very module, for the functions that they are sent.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
ADDRESS = "ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2"


def users_hook() -> None:
    os.environ["USERS_HOOK"] = "ran"


@contextmanager
def connected() -> Iterator[LocalCluster]:
    runtime_env = {"worker_process_setup_hook": users_hook, "env_vars": {"USERS_VARIABLE": "kept"}}
    ray.init(ADDRESS, runtime_env=runtime_env, log_to_driver=False, namespace="tests")
    found = ray_dra.embedded_cluster()
    assert found is not None
    yield found
    ray.shutdown()


def pinned(gang: ray_dra.GangPlacementGroup, bundle: int, **options: Any) -> dict[str, Any]:
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(gang.placement_group, bundle, **options)
    return {"scheduling_strategy": strategy}


def seen() -> tuple[str, list[int], list[str]]:
    """(CUDA_VISIBLE_DEVICES, ray.get_gpu_ids(), UUIDs by ray_dra) of the process that asks."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", ""), ray.get_gpu_ids(), [d.uuid or "" for d in ray_dra.get_devices()]


def eventually(holds: Callable[[], bool], seconds: float) -> float:
    """Seconds until `holds`; fails after `seconds`."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - began


def health() -> list[Health]:
    """Of all devices on nodes that are ready."""
    return [device.health for node in ray_dra.topology().nodes.values() if node.ready for device in node.devices]


def reset(cluster: LocalCluster, node: str, gpu: int) -> None:
    """A GPU falls off the bus and comes back without its XIDs, which nothing else ends."""
    cluster.machine(node).lose(gpu)
    eventually(lambda: Health.GONE in health(), 30)
    cluster.machine(node).heal()
    eventually(lambda: Health.GONE not in health(), 60)


def planned(gang: ray_dra.GangPlacementGroup, bundle: int) -> tuple[str, list[int], list[str]]:
    assert gang.allocation is not None
    grants = gang.allocation.bundles[bundle].grants
    indices = [g.index or 0 for g in grants]
    return ",".join(map(str, indices)), indices, [g.uuid or "" for g in grants]
