"""A Ray program gets a multi-node NVLink gang and trains on it.

Four simulated GB200 trays in two racks. The gang's segments are its tensor-parallel groups: each lies in
one NVLink clique. Run it by `make demo`, or on any cluster:

    python examples/train_nvlink_gang.py --address ray_dra://HOST:PORT
"""

from __future__ import annotations

import argparse
import sys
import time

import ray
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tensor_parallel import Place, Rank

import ray_dra
from ray_dra.simulated.profile import drawing

console = Console(highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="ray_dra://embedded?profile=gb200-nvl72&nodes=4&cliques=2")
    parser.add_argument("--segment", type=int, default=2, help="bundles (one a node) in a tensor-parallel group")
    parser.add_argument("--bundles", type=int, default=4)
    parser.add_argument("--gpus", type=int, default=4, help="GPUs in a bundle")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()

    if "profile=gb200-nvl72" in options.address:
        console.print(Panel(drawing("gb200-nvl72"), title="the machine, simulated", width=90))
    began = time.monotonic()
    ray.init(options.address, log_to_driver=False, logging_level="ERROR")  # a terminal shows what it waits for
    console.print(f"Ray is up after {time.monotonic() - began:.1f} s\n")

    bundles = [{"GPU": options.gpus, "CPU": 1}] * options.bundles
    asked = time.monotonic()
    with ray_dra.placement_group(bundles, locality=ray_dra.same_clique(segment=options.segment)) as gang:
        gang.wait(timeout=120)
        console.print(f"gang ready in {(time.monotonic() - asked) * 1000:.0f} ms\n")
        return train(gang, options.segment, options.steps)


def train(gang: ray_dra.GangPlacementGroup, tensor_parallel: int, steps: int) -> int:
    world = gang.bundle_count
    allocation = gang.allocation
    assert allocation is not None
    marks = {g.uuid or "": chr(ord("A") + i) for i, b in enumerate(allocation.bundles) for g in b.grants}
    console.print(
        Panel(
            ray_dra.draw_topology(ray_dra.topology(), held=marks), title="who sits where (rank A, B, ...)", expand=False
        )
    )

    ranks = []
    for rank in range(world):
        place = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(gang.placement_group, rank)
        gpus = len(allocation.bundles[rank].grants)
        options = {"num_gpus": gpus, "num_cpus": 1, "scheduling_strategy": place}
        ranks.append(ray.remote(Rank).options(**options).remote(rank, tensor_parallel, world))
    ray.get([r.join.remote(ranks) for r in ranks])
    places: list[Place] = ray.get([r.place.remote() for r in ranks])

    losses: list[float] = []
    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("step {task.completed}/{task.total}  loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("train", total=steps, loss=float("nan"))
        for _ in range(steps):
            losses.append(ray.get([r.step.remote(0.5) for r in ranks])[0])
            progress.update(task, advance=1, loss=losses[-1])
    console.print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}\n")
    return report(allocation, places, losses)


def report(allocation: object, places: list[Place], losses: list[float]) -> int:
    """The closing table: the GPUs that were planned beside those that each rank saw."""
    table = Table(title="planned against seen")
    for column in ("rank", "node", "CUDA_VISIBLE_DEVICES", "planned UUIDs", "seen UUIDs", ""):
        table.add_column(column)
    good = True
    for place, planned in zip(places, allocation.bundles, strict=True):  # type: ignore[attr-defined]
        wanted = [g.uuid for g in planned.grants]
        seen = [d.uuid for d in place.devices]
        same = wanted == seen
        good = good and same
        short = [" ".join((u or "?")[4:12] for u in uuids) for uuids in (wanted, seen)]
        table.add_row(
            str(place.rank), planned.node, place.cuda_visible_devices, *short, "same" if same else "DIFFERENT"
        )
    console.print(table)
    learned = losses[-1] < losses[0] / 2
    console.print("every rank saw exactly its planned GPUs" if good else "some rank saw other GPUs than planned")
    return 0 if good and learned else 1


if __name__ == "__main__":
    sys.exit(main())
