"""How soon a program hears of a fault, and has its gang again, on the embedded cluster.

First a GPU of a gang has an XID, again and again: until its program has the notice. Then a raylet is killed, in turns:
the gang starts again by itself, its program gives it up and asks anew as soon as Ray says that the node is dead, or
nobody does anything until the node is back. All from Ray's own word that the node is dead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from figures import parser, percentile, write

import ray_dra
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.device import Health
from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster

HANG_SECONDS = 60.0
PAIR: dict[str, Any] = {"bundles": [{"GPU": 4}] * 2, "locality": ray_dra.same_clique()}


def until(found: Callable[[], bool], what: str) -> float:
    """The Unix time at which it is so."""
    began = time.monotonic()
    while not found():
        assert time.monotonic() - began < HANG_SECONDS, f"{what}: it hangs"
        time.sleep(0.01)
    return time.time()


def health() -> list[Health]:
    return [device.health for node in ray_dra.topology().nodes.values() for device in node.devices if node.ready]


def well() -> bool:
    return health() == [Health.OK] * 16


def notices(cluster: LocalCluster, rounds: int) -> list[float]:
    """Seconds from an XID until the program has its notice."""
    taken = []
    with ray_dra.placement_group([{"GPU": 4}], on_fault="restart", grace=HANG_SECONDS) as gang:
        gang.wait(60)
        assert gang.allocation is not None
        machine = cluster.machine(gang.allocation.nodes[0])
        for number in range(rounds):
            heard: list[float] = []

            def hear(heard: list[float] = heard) -> None:
                while gang.notice(timeout=HANG_SECONDS) is None:
                    pass
                heard.append(time.time())

            waits = threading.Thread(target=hear, daemon=True)
            waits.start()
            time.sleep(0.2 + 0.1 * (number % 7))  # not in step with anybody's looks
            began = time.time()
            machine.xid(number % 4, 79)
            waits.join(HANG_SECONDS)
            assert heard, gang.explain()
            taken.append(heard[0] - began)
            machine.lose(number % 4)  # a reset: it comes back without its XID
            until(lambda: Health.GONE in health(), "the GPU's loss")
            machine.heal()
            until(well, "the GPU's return")
            until(lambda: gang.notice() is None, "the notice's end")
    return taken


def kill(cluster: LocalCluster, gang: ray_dra.GangPlacementGroup) -> tuple[str, float]:
    """A node of the gang, and when Ray said that it is dead."""
    assert gang.allocation is not None
    node = gang.allocation.nodes[1]
    raylets = {each["NodeID"] for each in ray.nodes() if each["Alive"]}
    cluster.kill_node(node)
    sign = until(lambda: raylets != {each["NodeID"] for each in ray.nodes() if each["Alive"]}, "Ray's word")
    return node, sign


def starts_again(cluster: LocalCluster) -> float:
    with ray_dra.placement_group(**PAIR, on_fault="restart", grace=0) as gang:
        gang.wait(60)
        node, sign = kill(cluster, gang)
        ready = until(
            lambda: (s := ask(coordinator().status.remote(gang.id))).moves == 1 and s.phase is Phase.READY, "it"
        )
        cluster.add_node(node)
        until(well, "the node's return")
    return ready - sign


def asks_anew(cluster: LocalCluster) -> float:
    with ray_dra.placement_group(**PAIR) as gang:
        gang.wait(60)
        node, sign = kill(cluster, gang)
    with ray_dra.placement_group(**PAIR) as gang:
        assert gang.wait(60)
        ready = time.time()
        cluster.add_node(node)
        until(well, "the node's return")
    return ready - sign


def does_nothing(cluster: LocalCluster) -> float:
    """Half of it stands still until its node is back, which here is at once."""
    with ray_dra.placement_group(**PAIR) as gang:
        gang.wait(60)
        node, sign = kill(cluster, gang)
        until(lambda: gang.phase is Phase.DEGRADED, "its being degraded")
        cluster.add_node(node)
        ready = until(lambda: gang.phase is Phase.READY, "it")
        until(well, "the node's return")
    return ready - sign


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--notices", type=int, default=30)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    ray.init("ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2", log_to_driver=False, logging_level="ERROR")
    cluster = ray_dra.embedded_cluster()
    assert cluster is not None
    until(well, "the cluster")
    taken = {"XID, until the program has its notice": notices(cluster, options.notices)}
    ways = {
        "the gang starts again": starts_again,
        "its program asks anew": asks_anew,
        "nobody does anything, the node comes back at once": does_nothing,
    }
    for _ in range(options.rounds):
        for name, way in ways.items():
            taken.setdefault(f"raylet dead, until ready: {name}", []).append(way(cluster))
    ray.shutdown()
    rows = []
    for name, seconds in taken.items():
        rows.append(
            {"what": name, "p50_s": percentile(seconds, 50), "p99_s": percentile(seconds, 99), "of": len(seconds)}
        )
        print(f"{name:<78} p50 {rows[-1]['p50_s']:5.2f} s   p99 {rows[-1]['p99_s']:5.2f} s   of {len(seconds)}")
    write(options.json, rows)


if __name__ == "__main__":
    main()
