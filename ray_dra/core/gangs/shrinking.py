"""What is left of a gang that shrinks after a fault: whole segments that are well, on the devices that they have. Pure.

A gang without segments loses single bundles. Of a gang whose workers were made for it a whole worker goes, with all of
its bundles, and with these the segments that they are of. Neighbours: `faults.py` asks, `growing.py` finds the way
back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.repair import segment_of
from ray_dra.core.gangs.shapes import Shape, Shrunk, kept_off
from ray_dra.core.model.imex import imex_counter


def shrunk_to(gang: Gang, faulty: Collection[int], *, own_workers: bool) -> Shape | None:
    """The gang without the segments of these bundles; None where too few are left, or none would go, or it has parts or
    shares of GPUs.

    Workers that stay keep their numbers, and the cliques that the gang has to itself stay its own.
    """
    held, least = gang.allocation, gang.on_fault.min_bundles
    if held is None or least is None:
        return None
    if any(bundle.part is not None or bundle.share is not None for bundle in gang.request.bundles):
        return None  # by a change of shape; `check_shrink` refuses it to a gang that comes
    left = _well(faulty, held.nodes, segment_of(gang.request), whole_nodes=own_workers)
    if not least <= len(left) < len(held.bundles) or not any(gang.request.bundles[rank].count for rank in left):
        return None
    before = gang.shrunk
    whole, ranks = (gang.request, range(len(held.bundles))) if before is None else (before.whole, before.ranks)
    shrunk = Shrunk(whole, tuple(ranks[rank] for rank in left))
    bundles = tuple(held.bundles[rank] for rank in left)
    stay = {placed.node for placed in bundles}
    gone = {imex_counter(node) for node in held.nodes if node not in stay}
    return Shape(
        shrunk.request,
        held._replace(
            bundles=bundles,
            kept=kept_off(held.kept, set(held.nodes) - stay),
            counters=tuple(each for each in held.counters if each[0] not in gone),
            renewed=tuple(each for each in held.renewed if each[0] in stay),
            numbered=(held.numbered or tuple(dict.fromkeys(held.nodes))) if own_workers else (),
        ),
        shrunk,
    )


def _well(faulty: Collection[int], nodes: Sequence[str], size: int, *, whole_nodes: bool) -> list[int]:
    """The bundles of segments in which none is faulty; with `whole_nodes`, nor shares a node with one that goes."""
    segments, gone = {rank // size for rank in faulty}, set[str]()
    while whole_nodes:
        lost = {node for rank, node in enumerate(nodes) if rank // size in segments}
        if lost == gone:
            break
        gone = lost
        segments |= {rank // size for rank, node in enumerate(nodes) if node in gone}
    return [rank for rank in range(len(nodes)) if rank // size not in segments]
