"""How soon an unchanged script of Ray Train hears that some of its workers will end, and where the time goes.

In turns, in one run: a GPU of the run has an XID (ray-dra's notice), and Ray drains the raylet of the same node by hand
(Ray's own notice, which Train polls for every five seconds). After each the run starts again from its checkpoint. The
sign is given once Train's watcher is there, which comes some seconds after the ranks; `watcher` is how long after.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray
from figures import parser, percentile, write
from ray.util.placement_group import placement_group_table

import ray_dra
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.device import Health
from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster

PROGRAM = Path(__file__).parents[1] / "examples" / "unchanged" / "train_checkpoints.py"
GRACE = 40.0  # so long that Train's restart is in time on a busy machine, too
HANG_SECONDS = 300.0
PARTS = {
    "ours": ("sign to notice", "notice to Train told", "told to script", "sign to script"),
    "ray": ("drain to Ray shows it", "shown to script", "sign to script"),
}


def until(found: Callable[[], Any], what: str) -> Any:
    """What `found` finds, once it finds something."""
    began = time.monotonic()
    while not (value := found()):
        assert time.monotonic() - began < HANG_SECONDS, f"{what}: it hangs"
        time.sleep(0.02)
    return value


def seen() -> tuple[list[Any], list[list[int]], list[tuple[float, int]]]:
    """The run's places, steps and what it heard, start by start."""
    try:
        found: tuple[list[Any], list[list[int]], list[tuple[float, int]]] = ray.get(
            ray.get_actor("seen", namespace="checkpoints").all.remote()
        )
        return found
    except ValueError:
        return [], [], []


def watcher() -> bool:
    actors = ray._private.state.actors().values()
    return any(each["ActorClassName"] == "PreemptionWatcher" and each["State"] == "ALIVE" for each in actors)


def at_work(number: int) -> float:
    """Seconds from the first step of this start until Train's watcher is there; waits for it."""
    until(lambda: len(seen()[1]) > number and len(seen()[1][number]) >= 3, f"start {number}")
    began = time.time()
    until(watcher, "Train's watcher")
    return time.time() - began


def gang() -> Any:
    """The run's gang."""
    return until(lambda: next((s for s in ask(coordinator().gangs.remote()) if s.phase is Phase.READY), None), "gang")


class Times:
    """When a sign had come how far, in Unix time: each is waited for by a thread of its own."""

    def __init__(self, **waits: Callable[[], float]) -> None:
        self.at: dict[str, float] = {}
        self._threads = [threading.Thread(target=self._wait, args=each, daemon=True) for each in waits.items()]
        for thread in self._threads:
            thread.start()

    def _wait(self, name: str, wait: Callable[[], float]) -> None:
        self.at[name] = wait()

    def __getitem__(self, name: str) -> float:
        for thread in self._threads:
            thread.join(HANG_SECONDS)
        return self.at[name]


def heard(count: int) -> float:
    return float(until(lambda: seen()[2][count:], "the script")[0][0])


def xid(cluster: LocalCluster) -> list[float]:
    """An XID of the hardware, and the parts of the way to the script."""
    run, before = gang(), len(seen()[2])
    (grant, *_) = run.allocation.bundles[0].grants
    machine = cluster.machine(run.allocation.bundles[0].node)

    def told() -> float:
        assert ask(coordinator().ends_at.remote(run.group, HANG_SECONDS), timeout=HANG_SECONDS)
        return time.time()

    times = Times(
        notice=lambda: float(ask(coordinator().notice.remote(run.group, HANG_SECONDS), timeout=HANG_SECONDS).since),
        told=told,
        heard=lambda: heard(before),
    )
    time.sleep(1.0)
    began = time.time()
    machine.xid(grant.index, 79)
    parts = [began, times["notice"], times["told"], times["heard"]]
    print("ours: the script has heard", *(f"{at - began:.2f}" for at in parts[1:]), flush=True)
    until(lambda: len(seen()[1]) > before + 1, "the next start")
    machine.lose(grant.index)  # a reset: it comes back without its XID
    until(lambda: Health.GONE in health(), "the GPU's loss")
    machine.heal()
    until(lambda: set(health()) == {Health.OK}, "the GPU's return")
    return [*(after - at for at, after in pairwise(parts)), parts[-1] - began]


def drain(cluster: LocalCluster) -> list[float]:
    """Ray's own drain of a node of the run, as by hand."""
    run, before = gang(), len(seen()[2])
    node = run.allocation.bundles[0].node
    raylet = placement_group_table()[run.group]["bundles_to_node_id"][0]

    def shown() -> float:
        until(lambda: raylet in ray._private.state.state.get_draining_nodes(), "the drain")
        return time.time()

    times = Times(shown=shown, heard=lambda: heard(before))
    time.sleep(1.0)
    began = time.time()
    deadline = int((began + GRACE - 10) * 1000)
    ray._private.worker.global_worker.gcs_client.drain_node(raylet, 2, "by hand", deadline)
    parts = [began, times["shown"], times["heard"]]
    until(lambda: len(seen()[1]) > before + 1, "the next start")
    if node in cluster.raylets():
        cluster.kill_node(node)  # Ray takes no drain back
    cluster.add_node(node)
    until(lambda: set(health()) == {Health.OK} and len(health()) == 16, "the node's return")
    return [*(after - at for at, after in pairwise(parts)), parts[-1] - began]


def health() -> list[Health]:
    return [device.health for node in ray_dra.topology().nodes.values() for device in node.devices if node.ready]


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    ray.init("ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2", log_to_driver=False, logging_level="ERROR")
    cluster = ray_dra.embedded_cluster()
    assert cluster is not None
    address = f"ray_dra://{cluster.address}?locality=same_clique&on_fault=restart,grace={GRACE:g}"
    taken: dict[str, list[list[float]]] = {"ours": [], "ray": []}
    watchers = []
    environment = {**os.environ, "RAY_ADDRESS": address}
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), "100000", "1000"], env=environment, stdout=subprocess.DEVNULL
    ) as program:
        try:
            for number in range(2 * options.rounds):
                watchers.append(at_work(number))
                whose, sign = ("ours", xid) if number % 2 == 0 else ("ray", drain)
                taken[whose].append(sign(cluster))
                print(f"{whose}: " + ", ".join(f"{seconds:.2f}" for seconds in taken[whose][-1]), flush=True)
        finally:
            program.kill()
    ray.shutdown()
    rows = [
        {"whose": whose, "part": part, "p50_s": percentile(column, 50), "max_s": max(column), "rounds": len(column)}
        for whose, rounds in taken.items()
        for part, column in zip(PARTS[whose], zip(*rounds, strict=True), strict=True)
    ]
    for row in rows:
        print(f"{row['whose']:<5} {row['part']:<24} p50 {row['p50_s']:6.2f} s   longest {row['max_s']:6.2f} s")
    print(f"Train's watcher after the third step: p50 {percentile(watchers, 50):.2f}, longest {max(watchers):.2f} s")
    write(options.json, rows)


if __name__ == "__main__":
    main()
