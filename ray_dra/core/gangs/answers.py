"""What the planner answers to gangs of the queue, with their patience, and until when those run that hold devices.

Neighbours: `admission.py` and its parts say whom to ask next; `patience.py` has the rule, `planning.py` the places.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import nsmallest

from ray_dra.core.gangs.backfill import ABOUT_TO, Ends, can_leave, earliest, expected_end
from ray_dra.core.gangs.borrowing import still_owed
from ray_dra.core.gangs.discipline import Discipline
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.eviction import Eviction
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.patience import Patience, in_turn, patience_of
from ray_dra.core.gangs.planning import Answer, Planning
from ray_dra.core.gangs.quota import paid
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.sets import place_near
from ray_dra.core.model.request import GangRequest


class Answers:
    """See the module.

    Attributes:
        turn: whose turn it is, or was last: who asks.
    """

    def __init__(self, records: Records, planning: Planning, discipline: Discipline) -> None:
        self.records, self.planning, self.discipline = records, planning, discipline
        self.turn: Gang | None = None
        self._expected: tuple[object, float | None] = (None, None)  # of what, and when it could have what it prefers

    def patience(self, gang: Gang) -> Patience:
        """For how long it waits for what it prefers."""
        return patience_of(gang.request.locality, gang.runs_for, self.discipline.worth)

    def since(self, gang: Gang, now: Moment) -> float | None:
        """Since when it waits only for what it prefers, by the wall clock: by this coordinator's own time, or as a
        coordinator before it has found."""
        notes = self.records.notes.get(gang.id)
        if notes is None or notes.could_start is None:
            return gang.could_start
        return now.wall - (now.lived - notes.could_start)

    def patiently(self, gang: Gang, now: Moment, batch: int = 0) -> tuple[Answer, float | None]:
        others, request = self.records.cliques_near(gang, batch), paid(gang.request, gang.quota)

        def place(strict: bool) -> Answer:
            return place_near(self.planning, gang, others, gang.moves, strict=strict)

        def expected() -> float | None:
            return self.expects(request, (request, gang.moves, batch), now, place)

        inventory = self.planning.inventory
        since, patience = self.since(gang, now), self.patience(gang)
        answer, since = in_turn(inventory, request, since, now.wall, place, patience, expected)
        return answer, lived(since, now)

    def expects(
        self, request: GangRequest, asked: object, now: Moment, place: Callable[[bool], Answer]
    ) -> float | None:
        """When a gang could have what it prefers, if running gangs end as their programs guess."""
        ends = self.ends(now.wall)
        key = asked, self.planning.inventory.changes, ends
        if self._expected[0] != key:
            found = earliest(self.planning.inventory, request, ends, now.wall, lambda: place(True))
            self._expected = key, found.at if found is not None else None
        return self._expected[1]

    def ends(self, wall: float) -> Ends:
        """When gangs that hold devices will have ended, as far as that is known."""
        found = []
        for gang, allocation in self.records.holders():
            if gang.releasing:
                end = ABOUT_TO
            elif gang.eviction is not None and self._still_ends(gang, gang.eviction):
                end = gang.eviction.deadline if gang.eviction.deadline > wall else ABOUT_TO
            elif gang.ends is not None:
                end = expected_end(gang.ends, wall)
            else:
                continue
            if can_leave(allocation):
                found.append((end, gang.id))
        return tuple(nsmallest(self.discipline.backfill.ends, found))

    def _still_ends(self, gang: Gang, eviction: Eviction) -> bool:
        """Whether a gang's notice holds, and is not about to be taken back."""
        return eviction.moves or eviction.repairs or still_owed(self.records, gang, eviction)


def lived(since: float | None, now: Moment) -> float | None:
    """A time by the wall clock as the coordinator's own."""
    return now.lived - (now.wall - since) if since is not None else None
