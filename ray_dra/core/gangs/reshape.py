"""Another shape for a gang on the GPUs that it has: whether it can be, and what is next on the way there. Pure.

    drains -> comes -> (done)
      |         '----> returns -> (done, in the old shape)   |   given back, with the reason
      '-> (undone: it stays as it is)

The next shape is planned, on the gang's own GPUs alone, before anything of the old one is let go. From then on the
record says both shapes and what is held for both (`shapes.py`), so that a coordinator killed at any write goes on.

Workers that were made for the gang stay where both shapes have whole GPUs: the next shape has all of theirs, and no
more of the rest than they offer. Where one has parts or shares of GPUs, the gang's claims end and others are made on
the same GPUs, with workers of their own. Nothing is let go before others' claims are kept off these GPUs
(`Observed.guarded`), as no claim has them in between.

Neighbours: `reshaping.py` makes actions of it; `planning.py` plans; `changes.check_change` refuses what no record
may do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ray_dra.core.cluster.node_state import exclusive_key
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.lifecycle import HOLD_SECONDS, Observed, phase
from ray_dra.core.gangs.notice import Ending, Notice
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.repair import for_fault
from ray_dra.core.gangs.shapes import Reshape, ReshapeStage, Shape, by_node, has_anew, kept_beside
from ray_dra.core.model.allocation import Allocation, KeptDevices, Placed
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Place, PlaceKind, ShortfallKind, Unsatisfiable, short
from ray_dra.errors import GangGone, InvalidRequest, RayDraError, unsatisfiable

NOTICE = "its program changes its shape"
GROWS = "it grows back, as there is room again for what a fault took from it"
GROW_SECONDS = 300.0  # for the workers of a gang that grows back, and then for Ray to place it
PASSING_SECONDS = 10.0  # after the grace time, for what may pass: a driver that starts again publishes its pool anew
_ALL_USED = (
    "the workers that were made for the gang keep their GPUs, so its next shape needs all of them, or keep=True keeps "
    "those that it does not use"
)
GUARD_SECONDS = 30.0  # after the grace time, for others to be kept off the GPUs that a gang is about to leave


class ReshapeStep(NamedTuple):
    """What is next in a change of shape: the record as it is to be, or (None) the gang is given back."""

    gang: Gang | None
    why: str
    failed: bool = False


def begin_reshape(
    gang: Gang,
    request: GangRequest,
    seen: Observed,
    planning: Planning,
    *,
    own_workers: bool,
    keep: bool,
    until: float,
    timeout: float,
) -> Gang | RayDraError | None:
    """The gang with a change to another shape begun, or why that cannot be; None where there is nothing to do. Of one
    that has the shape, and is not to keep what it keeps: the gang without that.

    Args:
        own_workers: the gang's workers were made for it, with exactly its devices.
        keep: what the next shape does not use stays the gang's.
        until: the Unix time at which what still runs in the old shape is ended.
        timeout: seconds for Ray to place a shape.
    """
    if gang.reshape is not None and gang.reshape.comes.request == request and _keeps(gang.reshape) in (keep, None):
        return None  # asked again, after a restart swallowed the answer
    no = _refused(gang, request, seen)
    if no is not None or gang.allocation is None:
        return no
    held, gpus = gang.allocation, tuple[Placed, ...]()
    if gang.request == request:
        return None if keep or held.kept is None else _without_kept(gang, held, held.kept, planning, own_workers)
    if has_anew(gang.request, request) or (held.kept is not None and held.kept.guarded):
        whole = _gpus_for_anew(held, planning, own_workers=own_workers)
        if isinstance(whole, RayDraError):
            return whole
        gpus = whole
    found = next_allocation(held, request, planning, own_workers=own_workers, gpus=gpus, keep=keep)
    if isinstance(found, Unsatisfiable):
        return unsatisfiable(f"The gang's own GPUs do not have this shape. {found}", found.shortfalls)
    leaves, comes = Shape(gang.request, held, gang.shrunk), Shape(request, found)
    change = Reshape(ReshapeStage.DRAINS, leaves, comes, until, timeout, gpus=_with_most(gpus, held, found))
    return replace(gang, reshape=change, shape_failed="")


def begin_growth(gang: Gang, present: Shape, whole: Shape, until: float) -> Gang:
    """A gang that faults have shrunk, about to grow to this shape; its present one is a part of that. `until` as
    above."""
    change = Reshape(ReshapeStage.DRAINS, present, whole, until, GROW_SECONDS, grows=True)
    return replace(gang, reshape=change, shape_failed="")


def next_allocation(
    held: Allocation,
    request: GangRequest,
    planning: Planning,
    *,
    own_workers: bool,
    gpus: tuple[Placed, ...] = (),
    keep: bool = False,
) -> Allocation | Unsatisfiable:
    """The next shape on devices that a gang has; nothing changes with it. Cliques that it has to itself stay so.

    Args:
        keep: what it does not use stays the gang's.
        own_workers: the gang's workers were made for it, with exactly its devices.
        gpus: the gang's GPUs, whole, where workers with other claims are made in their place; () where they stay.
    """
    locality = replace(request.locality, exclusive=False)
    stay = own_workers and not gpus
    answer = planning.on_own(held, replace(request, locality=locality), by_node(held.holdings) if stay else None, gpus)
    if isinstance(answer, Unsatisfiable):
        return answer
    if stay and not keep:
        before, after = _devices(held), _devices(answer)
        for node, devices in before.items():
            if after.get(node) != devices:
                left = len(after.get(node, ()))
                place = Place(PlaceKind.NODE, node)
                said = _ALL_USED
                return Unsatisfiable(
                    request.gang, (short(ShortfallKind.WORKERS, place, len(devices), left, reason=said),)
                )
    counters = tuple(dict.fromkeys((*held.counters, *answer.counters)))
    if gpus:
        kept = (each for each in held.counters if exclusive_key(each[0]) is not None)
        counters = tuple(dict.fromkeys((*kept, *answer.counters)))
    answer = answer._replace(kept=kept_beside(held, answer.bundles, gpus) if keep else None)
    if not stay:
        return answer._replace(epoch=held.epoch, counters=counters)
    numbered = held.numbered or tuple(dict.fromkeys(held.nodes))
    return answer._replace(epoch=held.epoch, counters=counters, renewed=held.renewed, numbered=numbered)


def next_reshape_step(gang: Gang, seen: Observed, wall: float) -> ReshapeStep | None:
    """What is next in the gang's change of shape; None: it waits. `wall`: the Unix time."""
    change = gang.reshape
    if change is None:
        return None
    if not seen.owner_alive and not gang.detached:
        return ReshapeStep(None, "its program has ended")
    if gang.group is not None and seen.group_state == "ABSENT":
        return ReshapeStep(None, "its placement group was removed")
    if change.stage is ReshapeStage.DRAINS:
        return _drained(gang, change, seen, wall)
    if gang.group is not None and seen.placed_once:
        why = "its next shape is there" if change.stage is ReshapeStage.COMES else "its old shape is there again"
        return ReshapeStep(_done(gang, seen, change.why), why)
    if gang.group is None and not seen.provisioned and seen.held_for > change.timeout:
        return fall_back(gang, f"its workers were not there within {change.timeout:g} s")
    if gang.group is None and seen.provisioned and seen.held_for > HOLD_SECONDS:
        return fall_back(gang, f"nobody made its placement group within {HOLD_SECONDS:.0f} s")
    if change.grows and change.stage is ReshapeStage.COMES and seen.lost:
        return fall_back(gang, f"a part of it is lost: {'; '.join(seen.lost)}")
    if gang.group is not None and seen.group_state == "PENDING" and seen.held_for > change.timeout:
        why = f"Ray did not place it within {change.timeout:g} s"
        if seen.lost and not change.grows:  # of GPUs that the old shape needs, too
            return ReshapeStep(None, f"{_so_far(change)}{why}: {'; '.join(seen.lost)}", failed=True)
        return fall_back(gang, why)
    return None


def fall_back(gang: Gang, why: str) -> ReshapeStep | None:
    """The shape that was to come cannot: the old one returns; and where that cannot either, all is given back. A gang
    that was to grow is what it was before then, and goes on as any other."""
    change = gang.reshape
    if change is None or change.stage is ReshapeStage.DRAINS:
        return None
    if change.stage is ReshapeStage.RETURNS and change.grows:
        return ReshapeStep(replace(gang, reshape=None, shape_failed=change.why), f"its old shape: {why}")
    if change.stage is ReshapeStage.RETURNS:
        return ReshapeStep(None, f"{_so_far(change)}its old shape: {why}", failed=True)
    back = replace(change, stage=ReshapeStage.RETURNS, why=why)
    return ReshapeStep(_in_shape(gang, back), f"its old shape returns: {why}")


def stay_in_shape(gang: Gang, why: str) -> Gang:
    """The gang stays as it is, before anything was let go."""
    told = gang.notice if gang.notice is not None and gang.notice.reason not in (NOTICE, GROWS) else None
    grows = gang.reshape is not None and gang.reshape.grows
    return replace(gang, reshape=None, notice=told, shape_failed="" if grows else why)


def ending_of(gang: Gang, seen: Observed, wall: float) -> Ending | None:
    """What is told of a gang's end: what the world shows of it, or that it is evicted, or that its program changes its
    shape. What a fault would end is told of no gang that ends whole in any case."""
    change, eviction = gang.reshape, gang.eviction
    if eviction is not None and (seen.ending is None or for_fault(seen.ending)):
        return Ending(eviction.why, max(0.0, eviction.deadline - wall), tuple(range(len(gang.request.bundles))))
    if seen.ending is not None or change is None or change.stage is not ReshapeStage.DRAINS:
        return seen.ending
    reason = GROWS if change.grows else NOTICE
    return Ending(reason, max(0.0, change.until - wall), tuple(range(len(gang.request.bundles))))


def reshape_notice(gang: Gang, until: float, wall: float) -> Notice:
    """The notice of a change of shape that begins."""
    grows = gang.reshape is not None and gang.reshape.grows
    return Notice(GROWS if grows else NOTICE, until, tuple(range(len(gang.request.bundles))), wall)


# -- inside


def _refused(gang: Gang, request: GangRequest, seen: Observed) -> RayDraError | None:
    """Why this gang may not change to this shape, whatever its GPUs are."""
    if gang.releasing:
        return GangGone("The gang is being given back.", place=gang.id)
    if gang.reshape is not None:
        return InvalidRequest(
            "The gang is changing its shape already; wait until that is over.",
            place=gang.id,
            available=gang.reshape.stage.value,
        )
    if gang.ordinary is not None:
        return InvalidRequest(
            "An ordinary placement group keeps its bundles, as Ray's own does.",
            place=gang.id,
            available="ray_dra.placement_group(...), whose gang can change its shape",
        )
    if gang.quota is not None:
        return InvalidRequest(
            "A gang that is paid from a queue keeps the shape that it was admitted with.",
            place=f"the queue {gang.quota.queue}",
            available="a gang that no queue pays for",
        )
    if gang.request.pool or request.pool:
        return InvalidRequest(
            "A pool keeps its GPUs, and who has shares of it keeps those.",
            place="pool",
            wanted=gang.request.pool or request.pool,
            available="another gang with shares of the pool; another pool",
        )
    counters = gang.allocation.counters if gang.allocation is not None else ()
    if request.locality.exclusive and all(exclusive_key(counter) is None for counter, _ in counters):
        return InvalidRequest(
            "A gang that shares its cliques cannot have them to itself by another shape.",
            place="locality",
            wanted=str(request.locality),
            available="the same without exclusive=True",
        )
    if gang.eviction is not None:
        return InvalidRequest("The gang is about to end for another one.", place=gang.id, available=gang.eviction.why)
    at = phase(gang, seen)
    if at is not Phase.READY:
        return InvalidRequest(
            "Only a gang that is ready can change its shape; call wait() before.",
            place=gang.id,
            wanted=Phase.READY.value,
            available=at.value if not seen.lost else f"{at.value}: {'; '.join(seen.lost)}",
        )
    return None


def _drained(gang: Gang, change: Reshape, seen: Observed, wall: float) -> ReshapeStep | None:
    """The old shape goes once no work of it has a GPU, or the grace time is over."""
    if seen.lost:
        if change.gpus and wall < change.until + PASSING_SECONDS:
            return None
        why = f"a part of it is lost: {'; '.join(seen.lost)}"
        return ReshapeStep(stay_in_shape(gang, why), f"its shape stays: {why}")
    if seen.group_state != "CREATED":
        return None
    if change.gpus and seen.no_guard:
        why = f"others cannot be kept off its GPUs meanwhile: {seen.no_guard}"
        return ReshapeStep(stay_in_shape(gang, why), f"its shape stays: {why}")
    if change.gpus and not seen.guarded:
        if wall < change.until + GUARD_SECONDS:
            return None
        why = f"others were not kept off its GPUs within {GUARD_SECONDS:g} s"
        return ReshapeStep(stay_in_shape(gang, why), f"its shape stays: {why}")
    if seen.busy and wall < change.until:
        return None
    why = "its grace time is over" if seen.busy else "its work has ended"
    return ReshapeStep(_in_shape(gang, replace(change, stage=ReshapeStage.COMES)), f"its next shape comes: {why}")


def _in_shape(gang: Gang, change: Reshape) -> Gang:
    """The gang in the present shape of its change; its placement group is still to be made, and its workers where they
    are made anew. It costs no try."""
    if change.gpus:
        shape = change.present
        again = Shape(shape.request, shape.allocation._replace(epoch=gang.moves + 1, renewed=(), numbered=()))
        comes = change.stage is ReshapeStage.COMES
        change = replace(change, comes=again) if comes else replace(change, leaves=again)
    return replace(
        gang,
        request=change.present.request,
        allocation=change.present.allocation,
        shrunk=change.present.shrunk,
        group=None,
        moves=gang.moves + 1,
        gave_way=gang.gave_way + 1,
        old_groups=gang.groups,
        notice=None,
        reshape=change,
        reshaped=True,
    )


def _done(gang: Gang, seen: Observed, why: str) -> Gang:
    """The change is over. What the next shape does not need is free; placement groups that Ray has no more are
    forgotten, or a gang that changes its shape each day would never end to gather them."""
    old = gang.old_groups if seen.left_groups else ()
    return replace(gang, reshape=None, shape_failed=why, old_groups=old)


def _without_kept(
    gang: Gang, held: Allocation, kept: KeptDevices, planning: Planning, own_workers: bool
) -> Gang | RayDraError:
    """The gang without what it keeps beside its shape; or why its workers cannot give that back."""
    stay = [placed.node for placed in kept.placed if placed.grants and placed.node not in planning.ready_made]
    if own_workers and stay and not kept.guarded:
        place = Place(PlaceKind.NODE, stay[0])
        return unsatisfiable(
            "The gang cannot give back what it keeps.", (short(ShortfallKind.WORKERS, place, 1, 0, reason=_ALL_USED),)
        )
    return replace(gang, allocation=held._replace(kept=None))


def _gpus_for_anew(held: Allocation, planning: Planning, *, own_workers: bool) -> tuple[Placed, ...] | RayDraError:
    """The gang's GPUs, whole; or why workers with other claims cannot be made on them."""
    ready_made = [node for node in dict.fromkeys(held.nodes) if node in planning.ready_made]
    if not own_workers or ready_made:
        return InvalidRequest(
            "Whole GPUs, parts and shares of GPUs become one another by other claims, for workers that are made anew.",
            place=f"node {ready_made[0]}" if ready_made else "this Ray cluster",
            available="shapes of whole GPUs; for others a gang with workers of its own, on Kubernetes",
        )
    gpus = planning.own_gpus(held)
    if gpus is None:
        return InvalidRequest(
            "A GPU that the gang has in part can be had in another way only where nobody else has a part of it, and it "
            "can be given whole.",
            place=held.gang,
            available="another gang, or this one once it is alone on its GPUs",
        )
    return gpus


def _with_most(gpus: tuple[Placed, ...], *shapes: Allocation) -> tuple[Placed, ...]:
    """The GPUs of each node, with as much of its other resources as that shape needs that needs the most."""
    if not gpus:
        return ()
    amounts, by_name = [by_node(shape.holdings) for shape in shapes], {placed.node: placed for placed in gpus}
    found = []
    for node in dict.fromkeys([*by_name, *(node for each in amounts for node in each)]):
        here = [each.get(node, {}) for each in amounts]
        names = dict.fromkeys(name for each in here for name in each)
        most = {name: max(each.get(name, 0.0) for each in here) for name in names}
        found.append(Placed(node, by_name[node].grants if node in by_name else (), most))
    return tuple(found)


def _keeps(change: Reshape) -> bool | None:
    """Whether the shape that comes keeps what it does not use; None: it uses all."""
    left, comes = change.leaves.allocation, change.comes.allocation
    return comes.kept is not None if kept_beside(left, comes.bundles, change.gpus) is not None else None


def _so_far(change: Reshape) -> str:
    return f"its next shape: {change.why}; " if change.why else ""


def _devices(allocation: Allocation) -> dict[str, frozenset[object]]:
    """Node -> the devices there."""
    found: dict[str, set[object]] = {}
    for placed in allocation.holdings:
        found.setdefault(placed.node, set()).update(grant.device for grant in placed.grants)
    return {node: frozenset(devices) for node, devices in found.items()}
