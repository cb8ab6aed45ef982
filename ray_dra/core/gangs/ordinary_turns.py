"""Whose turn it is among ordinary placement groups: they hold up nobody, as pending ones in Ray, and wait for those
gangs before them that do. Groups of a set that is a gang start together, and one that is lost of them where they are.

Neighbours: `sets.py` has the places of sets; `admission.py` asks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ray_dra.core.gangs.answers import Answers, lived
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.patience import patience_of
from ray_dra.core.gangs.planning import Answer
from ray_dra.core.gangs.quota import paid
from ray_dra.core.gangs.sets import place_together
from ray_dra.core.gangs.standing import limit_of
from ray_dra.core.gangs.turn import Turn, turn_of
from ray_dra.core.gangs.verdicts import Start, StartTogether, Wait
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import QUEUE, Shortfall, ShortfallKind, Unsatisfiable, short


class OrdinaryTurns:
    """See the module."""

    def __init__(self, answers: Answers) -> None:
        self.answers, self.records, self.planning = answers, answers.records, answers.planning
        # Of the inventory, of sets and of teams' queues, by which those up to `_after` were a no.
        self._changes = (-1, -1, -1)
        self._after: dict[str, Turn] = {}  # by team
        self._patient = False  # one of these waits for what it prefers
        self._noes: dict[object, Wait] = {}  # by what was asked: equal groups need no other answer

    def queued(self, gang: Gang) -> None:
        """A gang comes into the queue. An ordinary placement group may come before those that were a no, e.g. where a
        queue outside admits it late: then it is asked next, though the inventory has not changed."""
        priority, sequence, _ = turn_of(gang)
        team = self.records.team_order.team(gang.team)
        if gang.ordinary is not None and team in self._after:
            self._after[team] = min(self._after[team], (priority, sequence, ""))

    def next(self, now: Moment) -> tuple[Gang, Start | StartTogether | Wait] | None:
        """One after the other, and all of them again once the inventory has changed, or who waits together."""
        order = self.records.team_order
        changes = (self.planning.inventory.changes, self.records.sets.left_sets, order.version)
        if self._changes != changes:
            self._changes, self._after, self._patient = changes, {}, False
            self._noes.clear()
        while (gang := self.records.ordinary_after(self._after)) is not None:
            passed, self.answers.turn = dict(self._after), gang
            self._after[order.team(gang.team)] = turn_of(gang)
            size, lacking = size_of(gang), self._lacking(gang)
            together = size > 1 and not lacking
            if together and len(turns := self._in_queue(gang)) < size:
                return gang, Wait(self.lacks_groups(gang).shortfalls)
            if together and turn_of(gang) < turns[size - 1]:
                continue
            asked = _asked(gang, together=together)
            before = self._noes.get(asked)
            if before is not None:
                self.records.notes[gang.id].refused = before.why
                continue
            verdict, first = self._together(gang, now) if together else (self._alone(gang, lacking or (0,), now), gang)
            if not isinstance(verdict, Wait):
                self._after = passed  # where the store does not take it, its turn comes again
                return gang, verdict
            if self.answers.patience(gang).most:
                self._patient = True
            else:
                self._noes[asked] = verdict
            new = verdict.could_start is not None and first.could_start is None
            return (first if new else gang), verdict
        if self._patient:  # it may end without any change: asked again at the next look
            self._after, self._patient = {}, False
        return None

    def _together(self, gang: Gang, now: Moment) -> tuple[StartTogether | Wait, Gang]:
        """For as many of its set as are one gang, the first that have come; and the very first of them. They have the
        turn of the last: so nobody passes a gang that was asked for before it."""
        turns = self._in_queue(gang)[: size_of(gang)]
        batch = [self.records.gangs[gang_id] for _, _, gang_id in turns]
        limited = self._limit_of_all(batch)
        if limited is not None:
            return Wait((limited,)), batch[0]
        runs_for = [each.runs_for for each in batch]
        longest = None if None in runs_for else max(each for each in runs_for if each is not None)
        patience = patience_of(batch[0].request.locality, longest, self.answers.discipline.worth)

        def expected(place: Callable[[bool], Answer], joint: GangRequest) -> float | None:
            return self.answers.expects(joint, (joint, len(batch)), now, place)

        since = self.answers.since(batch[0], now)
        answer, since = place_together(self.planning, batch, since, now.wall, patience, expected)
        could_start = lived(since, now)
        if isinstance(answer, Unsatisfiable):
            for each in batch:
                self.records.notes[each.id].refused = answer.shortfalls
            return Wait(answer.shortfalls, could_start), batch[0]
        return StartTogether(tuple(zip(batch, answer, strict=True))), batch[0]

    def _limit_of_all(self, batch: Sequence[Gang]) -> Shortfall | None:
        """That gangs which start together wait for a team's limit."""
        for team in dict.fromkeys(each.team for each in batch):
            of_team = [each for each in batch if each.team == team]
            limited = limit_of(self.records, of_team[0], of_team[1:])
            if limited is not None:
                return limited
        return None

    def _alone(self, gang: Gang, batches: Collection[int], now: Moment) -> Start | Wait:
        """For one group; of a set that is a gang, where the others of the first of these batches are that has a place
        for it."""
        waits: list[Wait] = []
        for batch in batches:
            answer, could_start = self.answers.patiently(gang, now, batch)
            if isinstance(answer, Allocation):
                return Start(answer, batch)
            waits.append(Wait(answer.shortfalls, could_start))
        return waits[0]

    def _lacking(self, gang: Gang) -> Collection[int]:
        """The batches of its set, where that is a gang, that lack one."""
        part_of = gang.ordinary.part_of if gang.ordinary is not None else None
        return self.records.sets.lacking(part_of) if part_of is not None else ()

    def _in_queue(self, gang: Gang) -> Sequence[Turn]:
        part_of = gang.ordinary.part_of if gang.ordinary is not None else None
        return self.records.sets.in_queue(part_of) if part_of is not None else ()

    def lacks_groups(self, gang: Gang) -> Unsatisfiable:
        """A no for a set of which not all groups have come."""
        there = len(self._in_queue(gang)) + (gang.id not in self.records.gangs)
        return Unsatisfiable(gang.id, (short(ShortfallKind.SET, QUEUE, size_of(gang), there),))


def size_of(gang: Gang) -> int:
    """How many ordinary placement groups are one gang with this one; 0 where each is placed by itself."""
    part_of = gang.ordinary.part_of if gang.ordinary is not None else None
    return part_of.size if part_of is not None else 0


def _asked(gang: Gang, *, together: bool) -> object:
    """By which a no to one ordinary placement group is a no to another. `together`: to all of its set."""
    request, part_of = paid(gang.request, gang.quota), gang.ordinary.part_of if gang.ordinary is not None else None
    if together:
        return part_of
    bound = part_of if size_of(gang) > 1 else None
    return bound, request.bundles, request.locality, request.strategy, request.exclude
