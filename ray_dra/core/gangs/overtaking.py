"""Who of those behind the first in the queue starts before its turn, and what the first is promised meanwhile.

Holds what was found for as long as it is so: a look at a hundred gangs that may not is a few plans. Neighbours:
`backfill.py` and `promise.py` have the rules; `admission.py` asks, and says whose turn it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ray_dra.core.gangs.answers import Answers
from ray_dra.core.gangs.backfill import Ends, Reservation, before_its_turn, passed, reservations
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.planning import Answer
from ray_dra.core.gangs.promise import Promise, Promised, kept, outdone
from ray_dra.core.gangs.quota import Quota, paid
from ray_dra.core.gangs.verdicts import No, Start
from ray_dra.core.model.allocation import Allocation

_For = tuple[No, float | None, Ends]


class Overtaking:
    """See the module."""

    def __init__(self, answers: Answers, searches: Callable[[], None]) -> None:
        """`searches`: something is searched for on behalf of the first."""
        self.answers, self.records, self.planning = answers, answers.records, answers.planning
        self._bounds, self._searches = answers.discipline.backfill, searches
        # The first gang, since when it waits for what it prefers, and who ends when: its reservation depends on these.
        self._promised_for: _For | None = None
        self._passed: tuple[_For, Allocation, int] | None = None  # who has just started before its turn, by what
        self._reservations: tuple[Reservation, ...] = ()
        self._promised: tuple[tuple[str, int], Promised | None] | None = None  # to which gang and try, and what
        # What gangs had at the last look, and what those have got since that have overtaken.
        self._holders: dict[str, Allocation] = {}
        # The gangs that may not start before it, as long as that is so.
        self._looked = set[tuple[str, Quota | None]]()

    def next(self, first: Gang, no: No, now: Moment) -> tuple[Gang, Start] | None:
        """The next gang behind the first that may start now all the same. `no`: to the first, just now.

        It has to say how long it runs, and to get what it prefers. Who has been looked at is not looked at again
        before something has changed: the longer a gang waits, the later it would end.
        """
        if not (self._bounds.waiting and self.records.guesses):
            return None
        order = self.records.team_order
        behind_it = [
            gang
            for gang in self.records.behind_first(self._bounds.waiting)
            if gang.runs_for is not None and order.may_pass_first(gang.team, self.records.amounts(gang))
        ]
        ends, notes = self.answers.ends(now.wall), self.records.notes[first.id]
        promised_for = (no, notes.could_start, ends)
        if promised_for != self._promised_for and not self._only_passed(promised_for):
            self._searches()
            found = self._reservations_of(first, ends, now)
            self._reservations = self._with_promise(first, found, now.wall)
            self._looked.clear()
            notes.reservation = found[-1] if found else None
        self._promised_for = promised_for
        free = self.planning.inventory.free_devices
        for gang in behind_it if self._reservations else ():
            if gang.request.whole_devices <= free and (gang.id, gang.quota) not in self._looked:
                self._searches()
                self.answers.turn = gang
                answer = self._place(gang, now)
                if answer is not None:
                    self._passed = promised_for, answer, self.planning.inventory.changes + 1
                    self._holders[gang.id] = answer
                    return gang, Start(answer)
                self._looked.add((gang.id, gang.quota))
        return None

    def _only_passed(self, promised_for: _For) -> bool:
        """Whether nothing has changed but that a gang started before its turn: it keeps what is promised, and who could
        not start then cannot now. It is waited for, too, where it has something that is reserved."""
        just, self._passed = self._passed, None
        if just is None:
            return False
        before, allocation, changes = just
        no, could_start, ends = promised_for
        others = tuple(end for end in ends if end[1] != allocation.gang)
        if (no[:-1], could_start, others) != (before[0][:-1], *before[1:]) or no.changes != changes:
            return False
        if self.planning.inventory.allocation(allocation.gang) != allocation:
            return False
        self._reservations = passed(self._reservations, allocation)
        notes = self.records.notes[no.gang]
        if notes.reservation is not None:
            (notes.reservation,) = passed((notes.reservation,), allocation)
        to, promised = self._promised or (None, None)
        if to is not None and promised is not None:
            self._promised = to, replace(promised, places=passed(promised.places, allocation))
        return True

    def _reservations_of(self, first: Gang, ends: Ends, now: Moment) -> tuple[Reservation, ...]:
        request = paid(first.request, first.quota)

        def place(strict: bool) -> Answer:
            return self.planning.plan(request, first.moves, strict=strict, explain=False)

        since = self.answers.since(first, now)
        waited = now.wall - since if since is not None else None
        return reservations(
            self.planning.inventory, request, ends, now.wall, waited, place, self.answers.patience(first)
        )

    def _with_promise(self, first: Gang, found: tuple[Reservation, ...], wall: float) -> tuple[Reservation, ...]:
        """What whoever overtakes has to keep."""
        to, promised = self._promised or (None, None)
        if to is None and first.promised is not None:  # by a coordinator before this one
            promised = Promised(first.promised)
        elif to != (first.id, first.moves) or self._outdone(promised, found):
            promised = None
        self._holders = {gang.id: allocation for gang, allocation in self.records.holders()}

        def overrun(places: tuple[Reservation, ...]) -> bool:
            after = [gang for each in places for gang in each.after] if places else self.records.gangs
            waited_for = [self.records.gangs.get(gang) for gang in after]
            return any(g is not None and g.allocation and g.ends is not None and g.ends <= wall for g in waited_for)

        promised, places = kept(promised, found, overrun)
        self._promised = (first.id, first.moves), promised
        return places

    def _outdone(self, promised: Promised | None, found: tuple[Reservation, ...]) -> bool:
        """Whether what was promised is taken by those who have started since the last look without overtaking."""
        holders, known = self.records.holders(), self._holders
        started = (allocation for gang, allocation in holders if known.get(gang.id) != allocation)
        return promised is not None and outdone(self.planning.inventory, promised, found, started)

    def promise_to(self, gang: Gang) -> Promise | None:
        """What the first in the queue was promised at the last look."""
        to, promised = self._promised or (None, None)
        return promised.promise if promised is not None and to == (gang.id, gang.moves) else None

    def _place(self, gang: Gang, now: Moment) -> Allocation | None:
        def place(without: frozenset[str]) -> Answer:
            request = replace(gang.request, exclude=gang.request.exclude | without) if without else gang.request
            return self.planning.plan(paid(request, gang.quota), gang.moves, strict=True, explain=False)

        until = now.wall + (gang.runs_for or 0.0)
        return before_its_turn(self.planning.inventory, self._reservations, until, place)
