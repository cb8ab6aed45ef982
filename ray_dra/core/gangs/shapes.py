"""A gang's shape, and the change from one to another on the same GPUs: what its record says of it.

A shape is a gang's bundles and locality with the devices for each bundle. While a gang changes its shape all GPUs of
both shapes are its own: the inventory holds them by the record, so that no plan gives them to anybody in between.
Where the next shape has GPUs in another way (whole, in parts, in shares), the gang's workers are made anew and its
claims end; then the record holds the GPUs whole from the first step to the last, as both shapes lie on them.
Neighbour: `reshape.py` decides which shape may come, and what is next in a change.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from ray_dra.core.model.allocation import Allocation, Grant, KeptDevices, Placed
from ray_dra.core.model.imex import imex_counter
from ray_dra.core.model.request import GangRequest


class ReshapeStage(enum.Enum):
    """How far a change of shape has come."""

    DRAINS = "drains"  # the gang has the shape that it leaves; its program ends the work there
    COMES = "comes"  # the gang has the next shape; Ray is to place it
    RETURNS = "returns"  # that failed: the gang has the shape again that it left; Ray is to place it


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What a gang was before faults took segments of it, and becomes again once there is room.

    Attributes:
        whole: what it asked for.
        ranks: which of these bundles it still has, in order.
    """

    whole: GangRequest
    ranks: tuple[int, ...]

    @property
    def request(self) -> GangRequest:
        """What it is now."""
        return replace(self.whole, bundles=tuple(self.whole.bundles[rank] for rank in self.ranks))

    @property
    def said(self) -> str:
        return f"{len(self.ranks)} of {len(self.whole.bundles)} bundles"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a gang is made of, and where. `shrunk`: what it was before a fault; None: it is whole."""

    request: GangRequest
    allocation: Allocation
    shrunk: Shrunk | None = None


@dataclass(frozen=True, slots=True)
class Reshape:
    """A change of shape that is under way. `Gang.request` and `Gang.allocation` are those of the present shape.

    Attributes:
        leaves: the shape that is left, and comes back where the next one fails.
        comes: the next shape.
        until: the Unix time at which what still runs in the old shape is ended.
        timeout: seconds for Ray to place the next shape; as long for the old one on the way back.
        why: why the next shape failed; "" while it has not.
        gpus: the gang's GPUs, whole, by node, where its workers are made anew; () where they stay.
        grows: a gang that faults have shrunk grows back: the next shape has all that it has, and more.
    """

    stage: ReshapeStage
    leaves: Shape
    comes: Shape
    until: float
    timeout: float
    why: str = ""
    gpus: tuple[Placed, ...] = ()
    grows: bool = False

    @property
    def present(self) -> Shape:
        return self.comes if self.stage is ReshapeStage.COMES else self.leaves

    @property
    def holds(self) -> Allocation:
        """The GPUs, resources and counters of both shapes, under the gang's id. The next shape has no GPU besides those
        of the one that is left, and all of its counters; one that grows has all that the other has."""
        if self.grows:
            return self.comes.allocation
        left, come = self.leaves.allocation, self.comes.allocation
        if self.gpus:
            counters = tuple(dict.fromkeys((*left.counters, *come.counters)))
            return left._replace(bundles=self.gpus, counters=counters, renewed=(), numbered=(), kept=None)
        has, wants = by_node(left.holdings), by_node(come.holdings)
        more = {node: _beyond(wanted, has.get(node, {})) for node, wanted in wants.items()}
        extra = tuple(Placed(node, (), amounts) for node, amounts in more.items() if amounts)
        return left._replace(bundles=(*left.bundles, *extra), counters=come.counters)


def by_node(bundles: Iterable[Placed]) -> dict[str, dict[str, float]]:
    """Node -> the sum of what bundles have there besides devices."""
    found: dict[str, dict[str, float]] = {}
    for placed in bundles:
        there = found.setdefault(placed.node, {})
        for name, amount in placed.resources.items():
            there[name] = there.get(name, 0.0) + amount
    return found


def forbidden(
    before: Shape | None,
    was: Reshape | None,
    after: Shape | None,
    now: Reshape | None,
    *,
    moved: bool,
    restarted: bool = False,
) -> str:
    """Why one record may not follow another, by their present shapes and their changes of shape; "" where it may.
    None for a shape: the gang holds nothing; `moved`: it was planned again in between; `restarted`: as a whole, after a
    fault."""
    if was is not None and now is not None:
        if (_of_any_attempt(was.leaves), _of_any_attempt(was.comes), was.gpus) != (
            _of_any_attempt(now.leaves),
            _of_any_attempt(now.comes),
            now.gpus,
        ):
            return "it changes to another shape than before"
        if (was.stage, now.stage) not in _NEXT:
            return f"no change of shape leads from {was.stage.value} to {now.stage.value}"
        if moved is (was.stage is now.stage):
            return "its shape changed without a move, or the other way round"
    elif was is None and now is not None:
        if now.stage is not ReshapeStage.DRAINS or moved:
            return "a change of shape begins with the old one"
        if now.leaves != before:
            return "it leaves a shape that it has not"
    elif was is not None and moved and not restarted and was.stage is not ReshapeStage.DRAINS:
        return "it was planned again while it changed its shape"
    if now is not None and after != now.present:
        return "it has another shape than its change of shape says"
    return ""


def shrinks(before: Shrunk | None, request: GangRequest, after: Shrunk | None) -> bool:
    """Whether a gang of this request has lost segments from one record to the next, and nothing else."""
    whole, ranks = (request, None) if before is None else (before.whole, set(before.ranks))
    if after is None or after.whole != whole or after == before:
        return False
    return len(after.ranks) < len(whole.bundles) if ranks is None else set(after.ranks) < ranks


def sense_of_shrunk(shrunk: Shrunk, request: GangRequest) -> str:
    """What a record can not say of a gang that was whole; "" where nothing is amiss."""
    ranks, count = shrunk.ranks, len(shrunk.whole.bundles)
    if not ranks or len(ranks) >= count or list(ranks) != sorted({*ranks}) or not 0 <= ranks[0] <= ranks[-1] < count:
        return "it has shrunk to bundles that it never had"
    return "" if shrunk.request == request else "it has other bundles than it has shrunk to"


def sense_of_reshape(reshape: Reshape, present: Shape | None, gang: str, moves: int) -> str:
    """What of a stored change of shape can be no gang's; "" where nothing is."""
    if present != reshape.present:
        return "it has another shape than its change of shape says"
    for shape in (reshape.leaves, reshape.comes):
        if {shape.request.gang, shape.allocation.gang} != {gang} or not 0 <= shape.allocation.epoch <= moves:
            return "its change of shape is another gang's"
    for shape in (reshape.leaves, reshape.comes):
        if shape.shrunk is not None and (wrong := sense_of_shrunk(shape.shrunk, shape.request)):
            return wrong
        if wrong := sense_of_kept(shape.allocation):
            return wrong
    has = set(map(gpu_of, reshape.holds.held_grants))
    for shape in (reshape.leaves, reshape.comes):
        if not has.issuperset(map(gpu_of, shape.allocation.held_grants)):
            return "its next shape has GPUs that it does not hold"
    leaves, comes = reshape.leaves.shrunk, reshape.comes
    if reshape.grows and (leaves is None or leaves.whole != (comes.shrunk.whole if comes.shrunk else comes.request)):
        return "it grows to what it never was"
    if not all(grant.part is None and grant.amount is None for placed in reshape.gpus for grant in placed.grants):
        return "it holds GPUs in part while it changes its shape"
    if not (reshape.gpus or set(reshape.leaves.allocation.counters) <= set(reshape.comes.allocation.counters)):
        return "its next shape lacks a counter that it has"
    if not reshape.timeout > 0 or bool(reshape.why) is not (reshape.stage is ReshapeStage.RETURNS):
        return "its change of shape makes no sense"
    return ""


def gpu_of(grant: Grant) -> tuple[str, str]:
    """The node and GPU of which a grant is all, a part, or a share."""
    return grant.node, grant.part.parent if grant.part is not None else grant.uuid or str(grant.device)


def kept_beside(own: Allocation, bundles: Iterable[Placed], gpus: tuple[Placed, ...]) -> KeptDevices | None:
    """What a gang keeps that has these bundles next: the rest of what it holds; None where that is nothing.

    Args:
        own: what it holds.
        gpus: its GPUs, whole, where its workers are made anew; () where they stay.
    """
    bundles = tuple(bundles)
    used = {gpu_of(grant) for placed in bundles for grant in placed.grants}
    grants: dict[str, list[Grant]] = {}
    for placed in gpus or own.holdings:
        left = grants.setdefault(placed.node, [])
        left += [grant for grant in placed.grants if gpu_of(grant) not in used]
    wanted, amounts = by_node(bundles), by_node(own.holdings)
    found = []
    for node in dict.fromkeys([*grants, *amounts]):
        more = _beyond(amounts.get(node, {}), wanted.get(node, {}))
        if more or grants.get(node):
            found.append(Placed(node, tuple(grants.get(node, ())), more))
    return KeptDevices(tuple(found), guarded=bool(gpus)) if found else None


def kept_off(kept: KeptDevices | None, lost: Collection[str]) -> KeptDevices | None:
    """What a gang keeps that has lost its workers on these nodes."""
    if kept is None:
        return None
    left = tuple(placed for placed in kept.placed if placed.node not in lost)
    return kept._replace(placed=left) if left else None


def without_kept(held: Allocation, nodes: Collection[str]) -> Allocation:
    """What a gang holds that gives back what it keeps on these nodes, on which it has no bundles."""
    gone = {imex_counter(node) for node in nodes}
    return held._replace(
        kept=kept_off(held.kept, nodes),
        counters=tuple(each for each in held.counters if each[0] not in gone),
        renewed=tuple(each for each in held.renewed if each[0] not in nodes),
    )


def kept_less(before: Allocation, after: Allocation) -> Collection[Allocation]:
    """What a gang may hold that keeps less than before, and has the same bundles."""
    left = after.kept.placed if after.kept is not None else ()
    was = before.kept.placed if before.kept is not None else ()
    if not set(map(_where, left)) <= set(map(_where, was)):
        return ()
    gone = {placed.node for placed in was} - {placed.node for placed in left}
    return before._replace(kept=after.kept), without_kept(before, gone)


def _where(placed: Placed) -> tuple[object, ...]:
    return placed.node, placed.grants, tuple(placed.resources.items())


def sense_of_kept(held: Allocation) -> str:
    """What a gang can not keep beside its bundles; "" where nothing is amiss."""
    if held.kept is None:
        return ""
    if not held.kept.placed or held.pool:
        return "it keeps what it does not hold"
    grants = [grant for placed in held.kept.placed for grant in placed.grants]
    if not all(grant.part is None and grant.amount is None for grant in grants):
        return "it keeps GPUs in part"
    if not all(grant.node == placed.node for placed in held.kept.placed for grant in placed.grants):
        return "it keeps a GPU on another node than it is on"
    if not all(0 <= n < math.inf for placed in held.kept.placed for n in placed.resources.values()):
        return "it keeps an amount that is no number"
    gpus = list(map(gpu_of, grants))
    if len(set(gpus)) < len(gpus) or not set(gpus).isdisjoint(map(gpu_of, held.grants)):
        return "it keeps a GPU that it uses"
    return ""


def has_anew(before: GangRequest, after: GangRequest) -> bool:
    """Whether GPUs are had in another way in the one shape than in the other, or in parts or shares in both: their
    claims say so, and workers have their claims for life."""
    return before.bundles != after.bundles and any(
        bundle.part is not None or bundle.share is not None for each in (before, after) for bundle in each.bundles
    )


def _of_any_attempt(shape: Shape) -> Shape:
    """Where workers are made anew, each shape's are of another attempt. What it keeps may be lost meanwhile."""
    return Shape(shape.request, shape.allocation._replace(epoch=0, kept=None))


def _beyond(wanted: Mapping[str, float], has: Mapping[str, float]) -> dict[str, float]:
    return {name: more for name, amount in wanted.items() if (more := amount - has.get(name, 0.0)) > 0}


_NEXT = {(stage, stage) for stage in ReshapeStage} | {
    (ReshapeStage.DRAINS, ReshapeStage.COMES),
    (ReshapeStage.COMES, ReshapeStage.RETURNS),
}
