"""`ray-dra validate`: a gang on the free GPUs of each clique, and whether its ranks have what was planned.

It makes placement groups as a program does, one clique after another, and gives each back before the next. Where a
clique's free GPUs are taken meanwhile it is left out. What the ranks do: `rank_checks.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_dra.core.cluster.clique_state import LOOSE_NODE, SPARES
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.errors import GangTimeout, RayDraError, UnsatisfiableError
from ray_dra.operate.rank_checks import Rank, RankView
from ray_dra.translate.lines import several
from ray_dra.translate.names import NODE_LABEL
from ray_dra.translate.nvml.reading import FABRIC_COMPLETED

HOST_LABEL = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check of one clique. `ok` None: it could not be made, or does not apply; `said` tells."""

    what: str
    ok: bool | None
    said: str


@dataclass(frozen=True, slots=True)
class CliqueReport:
    """What was found out about a clique, "rack" or "box", or about a "node" whose GPUs are in none."""

    clique: str
    kind: str
    nodes: tuple[str, ...]
    gpus: int
    seconds: float
    verdicts: tuple[Verdict, ...]

    @property
    def ok(self) -> bool | None:
        """False where a check failed; None where none could be made."""
        found = [verdict.ok for verdict in self.verdicts]
        return False if False in found else True if True in found else None


@dataclass(frozen=True, slots=True)
class Target:
    """The free GPUs of a clique: by node, with a label that selects it."""

    clique: str
    kind: str
    nodes: tuple[Node, ...]
    free: tuple[int, ...]

    @property
    def selectors(self) -> list[dict[str, str]] | None:
        """None where a node has no label that is its own."""
        found = []
        for node in self.nodes:
            label = next((name for name in (NODE_LABEL, HOST_LABEL) if name in node.labels), None)
            if label is None:
                return None
            found.append({label: node.labels[label]})
        return found


def targets(inventory: Inventory) -> Iterator[Target]:
    """Each clique, and each node with GPUs in none, in order of their names, with the free GPUs of each node."""
    cliques = [clique for clique in inventory.clique_states.values() if clique.kind != SPARES]
    for clique in sorted(cliques, key=attrgetter("key")):
        free = [(s.node, (s.free & s.members[clique.id]).bit_count()) for s in clique.node_states]
        found = [(node, count) for node, count in free if count]
        kind = "node" if clique.kind == LOOSE_NODE else "rack" if clique.fabric else "box"
        yield Target(clique.name, kind, tuple(n for n, _ in found), tuple(count for _, count in found))


def validate(target: Target, timeout: float, placement_group: Callable[..., Any], *, domains: bool) -> CliqueReport:
    """Place a gang on the target, have its ranks look and speak to each other, and give it back.

    Args:
        timeout: seconds for the gang to be ready, and as many for its ranks to answer.
        placement_group: `ray_dra.placement_group`.
        domains: a gang over several nodes has an IMEX channel here.
    """
    began = time.monotonic()
    names = tuple(node.name for node in target.nodes)

    def report(*verdicts: Verdict) -> CliqueReport:
        seconds = round(time.monotonic() - began, 1)
        return CliqueReport(target.clique, target.kind, names, sum(target.free), seconds, verdicts)

    if not target.nodes:
        return report(Verdict("gang", None, "no GPU of it is free"))
    try:
        gang = placement_group(
            [{"GPU": float(count)} for count in target.free],
            bundle_label_selector=target.selectors,
            locality=Locality(cliques=1) if target.kind != "node" else None,
            name=f"validate {target.clique}"[:253],
            wait=False,
        )
    except UnsatisfiableError as error:
        return report(Verdict("gang", None, f"somebody was quicker, or it cannot be asked for: {error.reason}"))
    try:
        gang.wait(timeout)
        ready = Verdict("gang", True, f"{several(len(names), 'bundle')} ready")
        planned = gang.allocation
        assert planned is not None
        return report(ready, *_ranks(gang.placement_group, planned, timeout, domains=domains and len(names) > 1))
    except GangTimeout as error:
        return report(Verdict("gang", False, f"not ready in {timeout:g} s: {error.available or error.reason}"))
    except RayDraError as error:
        return report(Verdict("gang", False, str(error)))
    finally:
        gang.remove()


def _ranks(group: Any, planned: Allocation, timeout: float, *, domains: bool) -> Iterator[Verdict]:
    make = ray.remote(Rank)
    ranks = [
        make.options(
            num_cpus=0,
            num_gpus=len(placed.grants),
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
        ).remote()
        for index, placed in enumerate(planned.bundles)
    ]
    try:
        views: list[RankView] = ray.get([rank.view.remote() for rank in ranks], timeout=timeout)
        yield judge_gpus(planned, views)
        yield judge_fabric(views)
        yield judge_imex(views, domains=domains)
        yield _sum(ranks, timeout)
    except ray.exceptions.GetTimeoutError:
        yield Verdict("ranks", False, f"no answer in {timeout:g} s")
    except ray.exceptions.RayError as error:
        yield Verdict("ranks", False, str(error).strip().splitlines()[-1])
    finally:
        for rank in ranks:
            ray.kill(rank)


def judge_gpus(planned: Allocation, views: Sequence[RankView]) -> Verdict:
    """Whether each rank sees exactly the planned GPUs, in order, by NVML."""
    for rank, (placed, view) in enumerate(zip(planned.bundles, views, strict=True)):
        if view.reading.error is not None:
            return Verdict("GPUs", False, f"rank {rank} on {view.host}: {view.reading.error}")
        wanted = tuple(grant.uuid for grant in placed.grants)
        if view.uuids != wanted:
            seen = ", ".join(str(uuid) for uuid in view.uuids) or "none"
            planned_here = ", ".join(map(str, wanted))
            return Verdict("GPUs", False, f"rank {rank} on {view.host}: planned {planned_here}, sees {seen}")
    count = sum(len(placed.grants) for placed in planned.bundles)
    return Verdict("GPUs", True, f"{several(count, 'GPU')}, each rank sees those planned, in order")


def judge_fabric(views: Sequence[RankView]) -> Verdict:
    """Whether NVLink's fabric is up for each GPU of a rank, and is one; boxes without one have none."""
    cliques = set()
    for rank, view in enumerate(views):
        for gpu in view.reading.gpus:
            if gpu.uuid not in view.uuids or gpu.fabric is None:
                continue
            if (gpu.fabric.state, gpu.fabric.status) != (FABRIC_COMPLETED, 0):
                said = f"state {gpu.fabric.state}, status {gpu.fabric.status}"
                return Verdict("fabric", False, f"rank {rank} on {view.host}: GPU {gpu.index}: {said}")
            cliques.add((gpu.fabric.cluster_uuid, gpu.fabric.clique_id))
    if not cliques:
        return Verdict("fabric", None, "these GPUs have no fabric that NVML tells of")
    if len(cliques) > 1:
        return Verdict("fabric", False, f"the ranks are in {len(cliques)} cliques")
    ((cluster, clique),) = cliques
    return Verdict("fabric", True, f"completed, clique {cluster}.{clique}")


def judge_imex(views: Sequence[RankView], *, domains: bool) -> Verdict:
    """Whether each rank has an IMEX channel, where it should."""
    without = [rank for rank, view in enumerate(views) if not view.channels]
    if not domains:
        return Verdict("IMEX", None, "not needed: one node, or no ComputeDomains here")
    if without:
        return Verdict("IMEX", False, f"no channel in ranks {', '.join(map(str, without))}")
    return Verdict("IMEX", True, f"each of {several(len(views), 'rank')} has a channel")


def _sum(ranks: Sequence[Any], timeout: float) -> Verdict:
    """Each rank puts in its square: what is left out or counted twice shows."""
    if len(ranks) == 1:
        return Verdict("sum", None, "one rank has nobody to speak to")
    places = ray.get([rank.address.remote() for rank in ranks], timeout=timeout)
    asked = [
        rank.sum_over.remote(places[(at + 1) % len(ranks)], len(ranks), at * at + 1, timeout)
        for at, rank in enumerate(ranks)
    ]
    answers = ray.get(asked, timeout=timeout)
    expected = sum(at * at + 1 for at in range(len(ranks)))
    wrong = [at for at, (total, _) in enumerate(answers) if total != expected]
    if wrong:
        return Verdict("sum", False, f"ranks {', '.join(map(str, wrong))} have another sum than {expected}")
    slowest = max(seconds for _, seconds in answers)
    return Verdict("sum", True, f"over {several(len(ranks), 'rank')} by TCP in {slowest:.2f} s")
