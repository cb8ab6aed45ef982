"""Ray's own call for a placement group, planned and as Ray has it: the call, the wait, 200 at once, and cliques.

The two take turns on the same embedded cluster. Ray needs about a second after a removal before it places at once
again, so each turn waits that long first; the removal is timed apart.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import ray
from figures import parser, percentile, write
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from ray_dra.adapters.ray_groups import uncaught
from ray_dra.translate.names import GPU_DOMAIN

REST_SECONDS = 1.3
WAIT_SECONDS = 60
MODES: dict[str, Callable[[], AbstractContextManager[None]]] = {"ours": nullcontext, "ray": uncaught}


def once(nodes: int) -> tuple[float, float, float]:
    """Milliseconds of the call, of call and wait, and of the removal."""
    time.sleep(REST_SECONDS)
    began = time.perf_counter()
    group = placement_group([{"GPU": 4}] * nodes, strategy="STRICT_SPREAD")
    called = time.perf_counter()
    assert group.wait(WAIT_SECONDS)
    waited = time.perf_counter()
    remove_placement_group(group)
    removed = time.perf_counter()
    return (called - began) * 1000, (waited - began) * 1000, (removed - waited) * 1000


def at_once(count: int) -> tuple[float, float]:
    """Milliseconds of the slowest of so many calls, and until every group has had its turn and was removed."""
    time.sleep(REST_SECONDS)
    began = time.perf_counter()
    slowest, left = 0.0, []
    for _ in range(count):
        before = time.perf_counter()
        left.append(placement_group([{"GPU": 1}]))
        slowest = max(slowest, time.perf_counter() - before)
    while left:
        states = {key: row["state"] for key, row in placement_group_table().items()}
        created = [group for group in left if states.get(group.id.hex()) == "CREATED"]
        for group in created:
            remove_placement_group(group)
        left = [group for group in left if group not in created]
        time.sleep(0.01)
    return slowest * 1000, (time.perf_counter() - began) * 1000


def in_one_clique(programs: int, seed: int, **more: Any) -> tuple[int, int]:
    """(groups in one clique, groups that could be) of random programs on a half-full cluster."""
    chance = random.Random(seed)
    domains = {node["NodeID"]: node["Labels"].get(GPU_DOMAIN) for node in ray.nodes()}
    within = of = 0
    for _ in range(programs):
        groups = []
        for _ in range(chance.randint(1, 3)):
            bundles = [{"GPU": chance.choice([1, 2, 4])}] * chance.randint(2, 4)
            group = placement_group(bundles, **more)
            if not group.wait(1):
                remove_placement_group(group)
                continue
            groups.append(group)
            nodes = placement_group_table(group)["bundles_to_node_id"].values()
            of += 1
            within += len({domains[node] for node in nodes}) == 1
        for group in groups:
            remove_placement_group(group)
        time.sleep(0.2)
    return within, of


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 8])
    arguments.add_argument("--burst", type=int, default=200)
    arguments.add_argument("--programs", type=int, default=200)
    options = arguments.parse_args()
    nodes = max(4, *options.sizes)
    address = f"ray_dra://embedded?profile=gb200-nvl72&nodes={nodes}&cliques=2&locality=prefer:same_clique"
    ray.init(address, log_to_driver=False, logging_level="ERROR")
    rows: list[dict[str, Any]] = []
    print("nodes        call p50  call p99  wait p50  wait p99  remove p50  (ms)")
    for size in options.sizes:
        taken: dict[str, list[tuple[float, float, float]]] = {mode: [] for mode in MODES}
        for turn in range(options.rounds + 1):
            for mode, context in MODES.items():
                with context():
                    found = once(size)
                if turn:  # the first of each warms up
                    taken[mode].append(found)
        for mode, times in taken.items():
            call, wait, remove = map(list, zip(*times, strict=True))
            row = {
                "nodes": size,
                "whose": mode,
                "call_p50_ms": percentile(call, 50),
                "call_p99_ms": percentile(call, 99),
                "wait_p50_ms": percentile(wait, 50),
                "wait_p99_ms": percentile(wait, 99),
                "remove_p50_ms": percentile(remove, 50),
            }
            rows.append(row)
            print(f"{size:>5}  {mode:<6}" + "".join(f"{row[key]:>10.1f}" for key in list(row)[2:]))
    for mode, context in MODES.items():
        with context():
            slowest, all_done = at_once(options.burst)
        rows.append({"burst": options.burst, "whose": mode, "slowest_call_ms": slowest, "all_ms": all_done})
        print(
            f"{options.burst} at once, {mode}: slowest call {slowest:.1f} ms, all had their turn in {all_done:.0f} ms"
        )
    by_ray: list[tuple[str, dict[str, Any]]] = [
        ("ray", {}),
        ("ray", {"topology_strategy": {GPU_DOMAIN: "STRICT_PACK"}}),
    ]
    for mode, more in [("ours", {}), *by_ray]:
        with MODES[mode]():
            within, of = in_one_clique(options.programs, 7, **more)
        name = f"{mode} with topology_strategy" if more else mode
        rows.append({"programs": options.programs, "whose": name, "in_one_clique": within, "placed": of})
        print(f"{options.programs} random programs, {name}: {within} of {of} placed groups in one clique")
    ray.shutdown()
    write(options.json, rows)


if __name__ == "__main__":
    main()
