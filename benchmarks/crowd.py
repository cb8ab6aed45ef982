"""The coordinator with thousands of gangs in its queue, over fake ports: no Ray, and what a call costs on a processor.

Each figure stands beside the same with few gangs waiting, and beside the scans of all gangs that the queue's index
replaces (their sequences, names and turns, once a call).
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import figures

from ray_dra.core.gangs.order import Order
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.errors import RayDraError
from ray_dra.simulated.fakes import MemoryStore
from tests.coordinator.world import Clock, World

FEW = 50
STORE_MS = 1.3  # a call to Ray's internal KV


class CountingStore(MemoryStore):
    """Counts the calls that would cross to Ray's control store."""

    calls = 0

    def put(self, key: str, value: bytes) -> None:
        self.calls += 1
        super().put(key, value)

    def delete(self, key: str) -> None:
        self.calls += 1
        super().delete(key)


def gang(name: str, *sizes: int, cpus: float = 0.0) -> GangRequest:
    resources = {"CPU": cpus} if cpus else {}
    return GangRequest(name, tuple(Bundle((DeviceRequest(s),) if s else (), resources) for s in sizes))


def crowded(waiting: int, nodes: int, *, real_time: bool = False) -> World:
    """A full cluster, and so many gangs of one program that wait."""
    world = World(nodes=nodes, store=CountingStore())
    if real_time:
        world.clock.__class__ = _RealTime
    world.ray.jobs.add("another")
    world.coordinator.submit(Order(gang("all", *[4] * nodes), owner="another"))
    world.place("all")
    for number in range(waiting):
        world.coordinator.submit(Order(gang(f"w{number}", 1 + number % 4), owner="job"))
    return world


class _RealTime(Clock):
    def __call__(self) -> float:
        return self.now + time.perf_counter()


def cpu_ms(call: Callable[[], object]) -> float:
    began = time.process_time_ns()
    call()
    return (time.process_time_ns() - began) / 1e6


def scans(world: World) -> float:
    """What each submit and each look did before: the greatest sequence, the names, the sorted queue."""
    gangs = world.coordinator.gangs

    def scan() -> None:
        max(g.sequence for g in gangs.values())
        any(g.name == "x" and not g.releasing for g in gangs.values())
        sorted(
            (g for g in gangs.values() if g.allocation is None and not g.releasing),
            key=lambda g: (-g.request.priority, g.sequence),
        )

    return statistics.median(cpu_ms(scan) for _ in range(9))


def calls(waiting: int, nodes: int, rounds: int) -> dict[str, float]:
    world = crowded(waiting, nodes)
    coordinator = world.coordinator
    gc.collect()
    gc.freeze()
    gc.disable()  # the actor collects between calls
    times: dict[str, list[float]] = {}
    for number in range(rounds):
        name = f"more{number}"
        for what, call in (
            ("submit", lambda name=name: coordinator.submit(Order(gang(name, 4), owner="job"))),
            ("look", coordinator.observe),
            ("status", lambda name=name: coordinator.status(name)),
            ("release of a waiting gang", lambda name=name: coordinator.release(name)),
        ):
            times.setdefault(what, []).append(cpu_ms(call))
    times["gangs()"] = [cpu_ms(coordinator.statuses) for _ in range(5)]
    gc.enable()
    found = {what: statistics.median(each) for what, each in times.items()}
    found |= {f"{what}, p99": figures.percentile(each, 99) for what, each in times.items() if len(each) > 50}
    return {**found, "the scans alone": scans(world)}


def owner_dies(waiting: int, nodes: int) -> dict[str, float]:
    """Looks until all gangs of a program that has ended are gone; the longest with what its calls to the store take."""
    world = crowded(waiting, nodes, real_time=True)
    store = world.store
    assert isinstance(store, CountingStore)
    world.ray.jobs.discard("job")
    longest, cpu, looks = 0.0, 0.0, 0
    while len(world.coordinator.gangs) > 1:
        world.clock.now += 0.25
        before = store.calls
        put, delete = store.put, store.delete
        store.put = _slow(world, put)  # type: ignore[method-assign]
        store.delete = _slow(world, delete)  # type: ignore[method-assign]
        took = cpu_ms(world.coordinator.observe)
        store.put, store.delete = put, delete  # type: ignore[method-assign]
        longest = max(longest, took + STORE_MS * (store.calls - before))
        cpu += took
        looks += 1
    return {"longest look": longest, "all looks, CPU": cpu, "looks": looks}


def _slow(world: World, call: Callable[..., None]) -> Callable[..., None]:
    def slowly(*arguments: Any) -> None:
        world.clock.now += STORE_MS / 1e3
        call(*arguments)

    return slowly


def huge(nodes: int, bundles: int) -> dict[str, float]:
    """The CPU of one submit and one plan of what is large or odd; most are refused."""
    requests = {
        f"{bundles} different bundles of GPUs": gang("a", *[1 + n % 1024 for n in range(bundles)]),
        f"{bundles} different bundles of CPUs": GangRequest(
            "b", tuple(Bundle((), {"CPU": 1.0 + n / 1000}) for n in range(bundles))
        ),
        "different bundles, as many GPUs as there are": GangRequest(
            "c",
            tuple(Bundle((DeviceRequest(1),), {"CPU": 1.0 + n / 1000}) for n in range(4 * nodes)),
            Locality(cliques=1, required=False),
        ),
        f"{10 * bundles} equal bundles": gang("d", *[1] * 10 * bundles),
    }
    found = {}
    for name, request in requests.items():
        for what in ("submit", "plan"):
            world = World(nodes=nodes)

            def call(world: World = world, what: str = what, request: GangRequest = request) -> None:
                try:
                    if what == "plan":
                        world.coordinator.plan(request)
                    else:
                        world.coordinator.submit(Order(request, owner="job"))
                except RayDraError:
                    pass

            found[f"{what} of {name}"] = cpu_ms(call)
    return found


def memory(gangs: int, nodes: int) -> float:
    """KB that stay after so many gangs were made and removed, beyond what as many before them left: pydantic caches up
    to 16,384 texts."""
    world = World(nodes=nodes)

    def some(first: int, count: int) -> None:
        for number in range(first, first + count):
            world.coordinator.submit(Order(gang(f"g{number}", 4), owner="job", name=f"name{number}"))
            world.place(f"g{number}")
            world.coordinator.release(f"g{number}")
            world.ray.groups.clear()
            world.coordinator.observe()
            world.coordinator.records.changed.clear()  # as the actor does, which tells those who wait

    tracemalloc.start()
    some(0, gangs)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    some(gangs, gangs)
    gc.collect()
    left = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return left / 1024


def main() -> None:
    parser = figures.parser(__doc__ or "")
    parser.add_argument("--waiting", type=int, default=5_000)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--bundles", type=int, default=10_000, help="of one huge request")
    parser.add_argument("--gangs", type=int, default=10_000, help="made and removed, for memory")
    options = parser.parse_args()
    few, many = (calls(waiting, options.nodes, options.rounds) for waiting in (FEW, options.waiting))
    rows: list[dict[str, Any]] = [
        {"case": what, "few_ms": few[what], "many_ms": many[what], "ratio": many[what] / max(few[what], 1e-4)}
        for what in many
    ]
    print(f"{'CPU ms':<52} {FEW:>10} {options.waiting:>10}  ratio")
    for row in rows:
        print(f"{row['case']:<52} {row['few_ms']:>10.3f} {row['many_ms']:>10.3f} {row['ratio']:>6.1f}")
    for name, found in (
        (f"the owner of {options.waiting} dies", owner_dies(options.waiting, options.nodes)),
        ("one request", huge(options.nodes, options.bundles)),
    ):
        for what, value in found.items():
            rows.append({"case": f"{name}: {what}", "value": value})
            print(f"{name + ': ' + what:<78} {value:>8.0f}{'' if what == 'looks' else ' ms'}")
    left = memory(options.gangs, options.nodes)
    rows.append({"case": "memory", "gangs": options.gangs, "kb": left})
    print(f"{options.gangs} gangs made and removed leave {left:.0f} KB")
    figures.write(options.json, rows)


if __name__ == "__main__":
    main()
