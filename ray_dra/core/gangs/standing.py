"""Where a gang stands in the queue, for whoever asks.

Neighbours: `records.py` has the queue, `backfill.py` what the first in it is promised.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.records import Records
from ray_dra.core.model.shortfall import QUEUE, Shortfall, ShortfallKind, short


def behind(records: Records, gang: Gang) -> Shortfall | None:
    """That others come before a gang in the queue, as it is now; None where nobody does."""
    ahead, first = records.ahead(gang), records.first
    if not ahead or first is None:
        return None
    return short(ShortfallKind.QUEUE, QUEUE, gang.id, first.id, ahead=ahead, first=first.name)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a gang stands in the queue.

    Attributes:
        ahead: gangs that wait before it.
        starts: when it starts at the latest if running gangs end as their programs guess, in seconds since 1970; None:
            nobody can tell, or others wait before it.
        after: names of gangs that have ended by then, and have something that it needs.
        guessed: its program has said how long it runs.
    """

    ahead: int
    starts: float | None = None
    after: tuple[str, ...] = ()
    guessed: bool = False


def standing(records: Records, gang: Gang) -> Standing | None:
    """Where a gang stands; None for one that is not in the queue, or holds up nobody there."""
    if not gang.waits or gang.ordinary is not None:
        return None
    ahead, reservation = records.ahead(gang), records.notes[gang.id].reservation
    if ahead or reservation is None:
        return Standing(ahead, guessed=gang.runs_for is not None)
    named = (records.gangs[other].name or other for other in reservation.after if other in records.gangs)
    return Standing(0, reservation.at, tuple(named), gang.runs_for is not None)
