"""What the first in the queue has been promised: by when it starts. It gets better, and never worse.

Whoever starts before its turn keeps what is promised, not what would be promised now. So gangs that run longer than was
guessed delay the first by no more than the longest of them does, however many they are. Pure; times are by the wall
clock. Neighbours: `backfill.py` finds the reservations, `overtaking.py` asks for the coordinator,
`benchmarks/overtaking.py` for the replay; a gang's record has its promise, for the coordinator after this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.backfill import Reservation, apart
from ray_dra.core.model.allocation import Allocation


@dataclass(frozen=True, slots=True)
class Promise:
    """See the module.

    Attributes:
        could: by when the gang could start somewhere; then its patience begins.
        by: by when it starts.
    """

    could: float
    by: float


@dataclass(frozen=True, slots=True)
class Promised:
    """A promise, and the reservations by which it was made; () where a coordinator before this one has made it."""

    promise: Promise
    places: tuple[Reservation, ...] = ()


def outdone(
    inventory: Inventory, before: Promised, found: tuple[Reservation, ...], started: Iterable[Allocation]
) -> bool:
    """Whether a promise cannot be kept any more because of some who have `started` since in their turn, which came
    before: they have something of the promised place, and all others are later. Of those who overtake nobody does."""
    if found and found[-1].at <= before.promise.by:
        return False
    return any(not apart(inventory, place.allocation, other) for other in started for place in before.places)


def kept(
    before: Promised | None, found: tuple[Reservation, ...], overrun: Callable[[tuple[Reservation, ...]], bool]
) -> tuple[Promised | None, tuple[Reservation, ...]]:
    """The promise from now on, and the reservations that whoever overtakes has to keep; () where nobody may.

    Where somebody overruns in the promised place, it stays reserved beside the one that was found later: else a gang
    that is late by a second would let others in for as long as it takes to have another place.

    Args:
        found: the reservations as they are now.
        overrun: whether somebody for whom these wait has run longer than was guessed; of (): whether anybody has.
    """
    if not found:
        return before, ()
    promise = Promise(found[0].at, found[-1].at)
    places = found
    if before is not None:
        late = promise.by > before.promise.by
        promise = Promise(min(promise.could, before.promise.could), min(promise.by, before.promise.by))
        if late and overrun(before.places):
            places = before.places
    capped = [replace(each, at=min(each.at, promise.by)) for each in found]
    if len(found) > 1:
        capped[0] = replace(capped[0], at=min(capped[0].at, promise.could))
    if places is found:
        return Promised(promise, tuple(capped)), tuple(capped)
    return Promised(promise, places), (*places, *capped) if places else ()
