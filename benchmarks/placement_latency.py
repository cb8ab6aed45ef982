"""Our placement group beside Ray's own: from the call to all bundles placed, in one run.

The two take turns on the same embedded cluster. Ray needs about a second after a removal before it
places at once again, so each turn waits that long first; the removal itself is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from figures import parser, percentile, write

import ray_dra
from ray_dra.adapters.ray_groups import plain
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from ray_dra.translate.ray.bundles import bundle_from_resources

REST_SECONDS = 1.3


def timed(make: Callable[[], Any], wait: Callable[[Any], Any], remove: Callable[[Any], None]) -> float:
    """Milliseconds."""
    time.sleep(REST_SECONDS)
    began = time.perf_counter()
    group = make()
    wait(group)
    taken = (time.perf_counter() - began) * 1000
    remove(group)
    return taken


def planners_share(nodes: int, rounds: int) -> float:
    """Median of plan() alone on the same topology, in milliseconds."""
    inventory = Inventory(ray_dra.topology())
    bundle = bundle_from_resources({"GPU": 4}, index=0)
    request = GangRequest("g", (bundle,) * nodes, Locality(cliques=1))
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        plan(inventory, request)
        taken.append((time.perf_counter() - began) * 1000)
    return percentile(taken, 50)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 8])
    options = arguments.parse_args()
    ray.init(
        f"ray_dra://embedded?profile=gb200-nvl72&nodes={max(options.sizes)}", log_to_driver=False, logging_level="ERROR"
    )
    rows = []
    print("nodes  ours p50  ours p99  ray p50  ray p99  ratio p50  plan p50  (ms)")
    for nodes in options.sizes:
        bundles = [{"GPU": 4}] * nodes
        ours, rays = [], []
        for turn in range(options.rounds + 1):
            o = timed(
                lambda b=bundles: ray_dra.placement_group(b, locality=ray_dra.same_clique()),  # type: ignore[misc]
                lambda g: g.wait(60),
                lambda g: g.remove(),
            )
            r = timed(
                lambda b=bundles: plain("placement_group")(b, strategy="STRICT_SPREAD"),  # type: ignore[misc]
                lambda g: g.wait(60),
                plain("remove_placement_group"),
            )
            if turn:  # the first of each warms up
                ours.append(o)
                rays.append(r)
        share = planners_share(nodes, 200)
        row = {
            "nodes": nodes,
            "ours_p50_ms": percentile(ours, 50),
            "ours_p99_ms": percentile(ours, 99),
            "ray_p50_ms": percentile(rays, 50),
            "ray_p99_ms": percentile(rays, 99),
            "ratio_p50": percentile(ours, 50) / percentile(rays, 50),
            "plan_p50_ms": share,
        }
        rows.append(row)
        print(
            f"{nodes:>5}{row['ours_p50_ms']:>10.1f}{row['ours_p99_ms']:>10.1f}{row['ray_p50_ms']:>9.1f}"
            f"{row['ray_p99_ms']:>9.1f}{row['ratio_p50']:>11.2f}{share:>10.3f}"
        )
    ray.shutdown()
    write(options.json, rows)


if __name__ == "__main__":
    main()
