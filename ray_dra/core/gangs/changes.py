"""How a gang's record may change: what may follow what, whoever asks for it. `records.py` asks `check_change` of each.

Neighbours: `gang.py` is the record, `phases.py` has the table of phases and their changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_dra.core.gangs.gang import Gang, made_here, nodes_of
from ray_dra.core.gangs.lifecycle import Observed, phase
from ray_dra.core.gangs.phases import ARROWS, Phase
from ray_dra.core.gangs.quota import Quota
from ray_dra.core.gangs.shapes import forbidden, gpu_of, kept_less, shrinks


class ForbiddenChange(RuntimeError):
    """A record was to change as no record may: a fault of ours."""


_MAY_BE: Mapping[Phase, frozenset[Phase]] = {
    Phase.HELD: frozenset({Phase.PROVISIONING, Phase.HELD, Phase.DEGRADED}),
    Phase.PLACING: frozenset({Phase.PLACING, Phase.READY, Phase.DEGRADED, Phase.DRAINING}),
}
"""By the phase of a record alone: the phases that it may be in, as the world says."""


def check_change(before: Gang | None, after: Gang | None) -> None:
    """Raises ForbiddenChange where one record may not follow the other. None: there is no record."""
    _check_arrow(before, after)
    if before is None or after is None:
        return
    _check(_who(before) == _who(after), "it is another gang's", before, after)
    _check(after.releasing or not before.releasing, "what is given back stays so", before, after)
    over = before.reshape is not None and after.reshape is None and after.group == before.group
    _check(over or set(before.groups) <= set(after.groups), "a placement group was forgotten", before, after)
    moved = after.moves > before.moves
    smaller = moved and shrinks(before.shrunk, before.request, after.shrunk)
    if before.reshape is None and after.reshape is None and not smaller:
        same = (before.request, before.shrunk) == (after.request, after.shrunk)
        _check(same, "it asks for something else", before, after)
    again = after.restarts - before.restarts
    changes = before.reshape, after.reshape
    wrong = forbidden(before.shape, changes[0], after.shape, changes[1], moved=moved, restarted=again > 0)
    _check(not wrong, wrong, before, after)
    if before.reshape is not None and again > 0:
        as_before = after.request == before.reshape.leaves.request
        _check(as_before, "it was started again in a shape that it never had", before, after)
    _check(moved or after.moves == before.moves, "moves were taken back", before, after)
    kept = after.ordinary is not None and before.group is not None
    replaced = moved and after.reshape is None and not smaller and _same_attempt(before, after)
    if kept:
        _check(after.releasing or after.group == before.group, "its placement group is the program's", before, after)
        _check(replaced or nodes_of(after) == nodes_of(before), "Ray has pinned it to its nodes", before, after)
    if after.allocation is not None and after.allocation.kept is not None:
        has = set(map(gpu_of, before.holds.held_grants)) if before.holds is not None else set()
        keeps = {gpu_of(grant) for placed in after.allocation.kept.placed for grant in placed.grants}
        _check(keeps <= has, "it keeps a GPU that it did not hold", before, after)
    if before.quota is not None and after.quota is not None:
        _check_quota(before.quota, after.quota, before, after)
    new = after.moves - before.moves
    _check(0 <= again <= min(new, 1), "it was started again without a move", before, after)
    given_up = (after.preempted - before.preempted) + (after.consolidated - before.consolidated)
    _check(0 <= given_up <= again, "it was preempted or moved and not started again", before, after)
    free = after.gave_way - before.gave_way
    anew = after.gave_way in (before.moves, after.moves)  # a repair begins: it has all its tries
    _check(0 <= free <= new or (moved and anew), "it gave way without a move", before, after)
    if not moved and before.allocation is not None:
        held, holds = before.allocation, after.allocation
        same = holds == held or (holds is not None and holds in kept_less(held, holds))
        _check(same, "its devices changed without a move", before, after)
        _check(before.group in (None, after.group), "its placement group changed without a move", before, after)
    if replaced:
        _check(
            after.group == before.group, "its placement group changed though its workers are replaced", before, after
        )
    elif moved and not kept:
        made = again > 0 or smaller or after.reshape is not None  # here, with the next record
        _check(after.group is None or made, "its placement group outlived a move", before, after)
        _check(after.group not in before.groups or after.group is None, "a placement group came back", before, after)


def _same_attempt(before: Gang, after: Gang) -> bool:
    """Whether some of its workers are replaced, in the same attempt."""
    held, holds = before.allocation, after.allocation
    return before.group is not None and held is not None and holds is not None and held.epoch == holds.epoch


def _check_quota(was: Quota, now: Quota, before: Gang, after: Gang) -> None:
    again = now.asks - was.asks
    _check(again in (0, 1), "a request for its quota was forgotten", before, after)
    _check(again == 0 or now.granted is None, "a request was admitted before it was made", before, after)
    _check(again == 1 or was.granted in (None, now.granted), "its quota changed without a request", before, after)
    _check(now.granted is not None or after.allocation is None, "it holds what nobody pays for", before, after)


def _check_arrow(before: Gang | None, after: Gang | None) -> None:
    was, to = phase(before, Observed()), phase(after, Observed())
    if before is None:
        begins = {Phase.QUOTA, Phase.QUEUED, Phase.HELD} | ({Phase.PLACING} if after and made_here(after) else set())
        _check(to in begins, "a gang begins unpaid, queued or held", before, after)
        return
    if after is not None and not made_here(after):
        _check((was, to) != (Phase.QUEUED, Phase.PLACING), "no arrow leads from queued to placing", before, after)
    pairs = [(a, b) for a in _MAY_BE.get(was, {was}) for b in _MAY_BE.get(to, {to})]
    _check(was is to or any(pair in ARROWS for pair in pairs), f"no arrow leads from {was.value} to {to.value}", before)


def _check(holds: bool, otherwise: str, before: Gang | None, after: Gang | None = None) -> None:
    if not holds:
        gang = before or after
        raise ForbiddenChange(f"gang {gang.id if gang is not None else ''}: {otherwise}")


def _who(gang: Gang) -> tuple[object, ...]:
    queue = gang.quota.queue if gang.quota is not None else None
    return (
        gang.id,
        gang.beside,
        gang.sequence,
        gang.name,
        gang.namespace,
        gang.owner,
        gang.detached,
        gang.ordinary,
        gang.maker,
        queue,
        gang.runs_for,
        gang.on_fault,
        gang.first_by_program,
        gang.movable,
        gang.team,
    )
