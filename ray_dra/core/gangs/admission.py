"""Who goes when: names, the limit on a program's gangs, whose turn it is, patience, and what is hopeless.

Whether a gang starts, waits or is refused is answered here and nowhere else, with the reason. Who may start before its
turn: `backfill.py`; whom the first may take: `preempting.py`; which team's turn it is: `team_order.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from heapq import nsmallest
from itertools import islice
from typing import NamedTuple

from ray_dra.core.gangs.actions import Refuse
from ray_dra.core.gangs.backfill import (
    ABOUT_TO,
    Ends,
    Reservation,
    before_its_turn,
    can_leave,
    earliest,
    expected_end,
    passed,
    reservations,
)
from ray_dra.core.gangs.discipline import DISCIPLINE, Discipline
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.patience import Patience, in_turn, patience_of
from ray_dra.core.gangs.planning import Answer, Planning
from ray_dra.core.gangs.pools import program_may_have
from ray_dra.core.gangs.promise import Promise, Promised, kept
from ray_dra.core.gangs.quota import Quota, paid, wanting
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.refusals import name_taken, no_answer, refusal
from ray_dra.core.gangs.sets import place_near, place_together
from ray_dra.core.gangs.standing import behind, limit_of
from ray_dra.core.gangs.team_queues import over_limit
from ray_dra.core.gangs.turn import Turn, turn_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import QUEUE, Shortfall, ShortfallKind, Unsatisfiable, short
from ray_dra.errors import RayDraError, UnsatisfiableError, unsatisfiable

MOST_WAITING = 10_000
"""Gangs of one program in the queue: far more than a program can mean, and so few that what they cost everybody (a few
KB each, a write to the store when the program ends) stays small."""
MOST_ON_KEPT_PLACES = 16  # gangs of a program that are tried on the places kept for it
REST_FACTOR = 10  # how many times as long as a no took to find the queue rests before its first is planned again


@dataclass(frozen=True, slots=True)
class Start:
    """It gets these devices now. `batch`: of its set, if that is a gang (`Gang.batch`)."""

    allocation: Allocation
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """It does not fit now, or others come first. `could_start`: since when it waits only for what it prefers."""

    why: tuple[Shortfall, ...]
    could_start: float | None = None


@dataclass(frozen=True, slots=True)
class StartTogether:
    """The groups of a set, each with its devices, which they get now."""

    each: tuple[tuple[Gang, Allocation], ...]


Verdict = Start | Wait | Refuse


class _No(NamedTuple):
    """What was a no: a gang, its moves, the nodes that are paid for, and the inventory."""

    gang: str
    moves: int
    quota: Quota | None
    changes: int


_For = tuple[_No, float | None, Ends]


class Admission:
    """See the module."""

    def __init__(self, records: Records, planning: Planning, discipline: Discipline = DISCIPLINE) -> None:
        self.records, self.planning = records, planning
        self.discipline, self._bounds = discipline, discipline.backfill
        # The first gang, since when it waits for what it prefers, and who ends when: its reservation depends on these.
        self._promised_for: _For | None = None
        self._passed: tuple[_For, Allocation, int] | None = None  # who has just started before its turn, by what
        self._reservations: tuple[Reservation, ...] = ()
        self._promised: tuple[tuple[str, int], Promised | None] | None = None  # to which gang and try, and what
        self._expected: tuple[object, float | None] = (None, None)  # of what, and when it could have what it prefers
        self._looked: set[tuple[str, Quota | None]] = (
            set()
        )  # the gangs that may not start before it, as long as that is so
        self._pool_noes: dict[str, object] = {}  # by pool: by what it was a no to the first that waits for it
        self.turn: Gang | None = None  # whose turn it is, or was last
        self.no: _No | None = None  # what was a no to the first gang
        self._timed = True  # how long that no took is known
        self._not_before = 0.0  # when that gang is planned again at the earliest
        # Of the inventory, of sets and of teams' queues, by which the ordinary groups up to `_after` were a no.
        self._changes = (-1, -1, -1)
        self._after: dict[str, Turn] = {}  # by team
        self._kept_changes = -1  # of the inventory, by which nobody could have a place kept
        self._patient = False  # one of these waits for what it prefers
        self._noes: dict[object, Wait] = {}  # by what was asked: equal groups need no other answer

    def arrives(self, gang: Gang, now: Moment, *, wait: bool, looked: bool) -> Verdict:
        """The answer to a new gang. `wait`: it may wait in the queue; `looked`: this is asked again, after another look
        at the world, because the first answer was Wait."""
        if self.records.named(gang.name, gang.namespace) is not None:
            return Refuse(name_taken(gang))
        if gang.quota is not None and (size_of(gang) > 1 or not wait):
            return Refuse(no_answer(gang.quota.queue, together=size_of(gang) > 1))
        if gang.request.in_pool:
            return self._arrives_in_pool(gang, now, looked=looked)
        if size_of(gang) > 1:  # it starts with the others of its set, in its turn
            return self._pending(gang, self._lacks_groups(gang), None, now)
        kept = self._on_kept_place(gang)
        if kept is not None:
            return Start(kept)
        could_start = None
        answer: Answer | None = self._unpaid(gang) or self._turn_of(gang)
        if answer is None and wait:
            answer, could_start = self._patiently(gang, now)
        elif answer is None:
            answer = self.planning.plan(gang.request)
        if isinstance(answer, Allocation):
            return Start(answer)
        assert answer is not None
        if gang.ordinary is not None:
            return self._pending(gang, answer, could_start, now)
        refused = self._refused(gang, answer, now.lived, wait=wait, looked=looked)
        return Refuse(refused) if refused is not None else Wait(answer.shortfalls, could_start)

    def _arrives_in_pool(self, gang: Gang, now: Moment, *, looked: bool) -> Verdict:
        """The answer to a gang that wants shares of a pool. It waits for that pool alone, and holds up nobody else."""
        never = self.planning.never(gang.request, now.lived)
        if never is not None:
            return Refuse(refusal("The pool would not have it even if nobody else had shares.", never))
        answer = self._in_pool(gang)
        if isinstance(answer, Allocation):
            return Start(answer)
        if looked:
            return Refuse(refusal("The pool does not have it now.", answer))
        waiting = len(self.records.waiting_of(gang.owner))
        return Refuse(_crowd(waiting)) if waiting >= MOST_WAITING else Wait(answer.shortfalls)

    def _in_pool(self, gang: Gang) -> Answer:
        """Shares for a gang now, in its turn among those that wait for the same pool."""
        limited = self._limit_in_pool(gang)
        if limited is not None:
            return Unsatisfiable(gang.id, (limited,))
        before = (self.records.gangs[gang_id] for _, _, gang_id in self.records.before_in_pool(gang))
        if any(self._limit_in_pool(each) is None for each in before):
            no = self._turn_of(gang)
            assert no is not None
            return no
        return self.planning.plan(gang.request, gang.moves)

    def _limit_in_pool(self, gang: Gang) -> Shortfall | None:
        """That a gang waits for others of its own program; it holds up nobody else then."""
        pool = self.records.pool(gang.request.pool)
        if pool is None or not pool.terms.per_program:
            return None
        return program_may_have(pool, self.records.program_has(pool, gang.owner), gang.request)

    def _next_in_pools(self) -> tuple[Gang, Start] | None:
        """The first that waits for a pool, where that has become ready, or has other gangs."""
        for waiting in self.records.waiting_in_pools():
            gang = next((each for each in waiting if self._limit_in_pool(each) is None), None)
            if gang is None:
                continue
            asked = gang.id, gang.moves, self.planning.inventory.changes, self.records.pool(gang.request.pool)
            if self._pool_noes.get(gang.request.pool) == asked:
                continue
            self.turn = gang
            answer = self._in_pool(gang)
            if isinstance(answer, Allocation):
                return gang, Start(answer)
            self._pool_noes[gang.request.pool] = asked
            self.records.notes[gang.id].refused = answer.shortfalls
        return None

    def _pending(self, gang: Gang, answer: Unsatisfiable, could_start: float | None, now: Moment) -> Verdict:
        """An ordinary placement group waits for what it lacks, also for what it can never have, as in Ray."""
        waiting = len(self.records.waiting_of(gang.owner))
        if waiting >= MOST_WAITING:
            return Refuse(_crowd(waiting))
        never = self.planning.never(gang.request, now.lived)
        return Wait(never.shortfalls if never is not None else answer.shortfalls, could_start)

    def next(self, now: Moment) -> tuple[Gang, Start | StartTogether | Wait] | None:
        """The answer to the next in the queue; None where nothing is new.

        An ordinary placement group holds up nobody, as one that is pending in Ray; it waits for those before it that
        do.
        """
        return self._next_in_pools() or self._next_on_kept_place() or self._next_ordinary(now) or self._next(now)

    def _next_on_kept_place(self) -> tuple[Gang, Start] | None:
        """A gang of a program for which places are kept, whoever else waits; again once the inventory has changed."""
        records, inventory = self.records, self.planning.inventory
        if not records.kept.owners or self._kept_changes == inventory.changes:
            return None
        for owner in records.kept.owners:
            waiting = [records.gangs[gang_id] for gang_id in islice(records.waiting_of(owner), MOST_ON_KEPT_PLACES)]
            for gang in filter(lambda each: each.waits, waiting):
                self.turn = gang
                found = self._on_kept_place(gang)
                if found is not None:
                    return gang, Start(found)
        self._kept_changes = inventory.changes
        return None

    def _on_kept_place(self, gang: Gang) -> Allocation | None:
        """Devices for a gang that lie in a place kept for its program, which is let go then. What a gang would wait for
        it has to get: else it takes its turn, as if nothing were kept."""
        kept = self.records.kept
        if gang.request.pool or gang.owner not in kept.owners or gang.quota is not None or size_of(gang) > 1:
            return None
        if limit_of(self.records, gang) is not None:
            return None
        others = self.records.cliques_near(gang, batch=0)  # of a set that is no gang
        actor = gang.ordinary.actor if gang.ordinary is not None else ""

        def place(strict: bool) -> Answer:
            return place_near(self.planning, gang, others, gang.moves, strict=strict)

        waits = gang.request.locality.required or self.patience(gang).most > 0
        for strict in (True,) if waits else (True, False):
            answer = kept.without(gang.owner, actor, partial(place, strict))
            if isinstance(answer, Allocation) and kept.take(gang.owner, actor, answer):
                return answer
        return None

    def queued(self, gang: Gang) -> None:
        """A gang comes into the queue. An ordinary placement group may come before those that were a no, e.g. where a
        queue outside admits it late: then it is asked next, though the inventory has not changed."""
        priority, sequence, _ = turn_of(gang)
        team = self.records.team_order.team(gang.team)
        if gang.ordinary is not None and team in self._after:
            self._after[team] = min(self._after[team], (priority, sequence, ""))

    def _next_ordinary(self, now: Moment) -> tuple[Gang, Start | StartTogether | Wait] | None:
        """One after the other, and all of them again once the inventory has changed, or who waits together."""
        order = self.records.team_order
        changes = (self.planning.inventory.changes, self.records.sets.left_sets, order.version)
        if self._changes != changes:
            self._changes, self._after, self._patient = changes, {}, False
            self._noes.clear()
        while (gang := self.records.ordinary_after(self._after)) is not None:
            passed, self.turn = dict(self._after), gang
            self._after[order.team(gang.team)] = turn_of(gang)
            size, lacking = size_of(gang), self._lacking(gang)
            together = size > 1 and not lacking
            if together and len(turns := self._in_queue(gang)) < size:
                return gang, Wait(self._lacks_groups(gang).shortfalls)
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
            if self.patience(gang).most:
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
        patience = patience_of(batch[0].request.locality, longest, self.discipline.worth)

        def expected(place: Callable[[bool], Answer], joint: GangRequest) -> float | None:
            return self._expects(joint, (joint, len(batch)), now, place)

        since = self.since(batch[0], now)
        answer, since = place_together(self.planning, batch, since, now.wall, patience, expected)
        could_start = _lived(since, now)
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
            answer, could_start = self._patiently(gang, now, batch)
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

    def _lacks_groups(self, gang: Gang) -> Unsatisfiable:
        """A no for a set of which not all groups have come."""
        there = len(self._in_queue(gang)) + (gang.id not in self.records.gangs)
        return Unsatisfiable(gang.id, (short(ShortfallKind.SET, QUEUE, size_of(gang), there),))

    def _next(self, now: Moment) -> tuple[Gang, Start | Wait] | None:
        """The answer to the first of those that hold up who comes after them.

        What was a no is none again until the inventory changes, nor sooner than a no that took long to find may cost: a
        gang that is hard to place takes a small share of the time.
        """
        self.turn = gang = self.records.first
        if gang is None:
            return None
        asked = _No(gang.id, gang.moves, gang.quota, self.planning.inventory.changes)
        if asked == self.no and not self.patience(gang).most:
            return None
        if self.no is not None and asked[:-1] == self.no[:-1] and now.lived < self._not_before:
            return None
        answer, could_start = self._patiently(gang, now)
        if isinstance(answer, Allocation):
            return gang, Start(answer)
        self.no, self._timed = asked, False
        return gang, Wait(answer.shortfalls, could_start)

    def refused(self, now: float) -> Gang | None:
        """The first gang, if it is a no on the cluster as it is, and that is not left to rest."""
        first = self.records.first
        if first is None or now < self._not_before:
            return None
        asked = _No(first.id, first.moves, first.quota, self.planning.inventory.changes)
        return first if asked == self.no else None

    def searches(self) -> None:
        """Something is searched for on behalf of the first gang: how long that takes is to be told, as of a no."""
        self._timed = False

    def before_turn(self, now: Moment) -> tuple[Gang, Start] | None:
        """The next gang behind the first that may start now all the same. Only after a no to the first.

        It has to say how long it runs, and to get what it prefers. Who has been looked at is not looked at again
        before something has changed: the longer a gang waits, the later it would end.
        """
        first = self.refused(now.lived)
        if first is None or not (self._bounds.waiting and self.records.guesses):
            return None
        order = self.records.team_order
        behind_it = [
            gang
            for gang in self.records.behind_first(self._bounds.waiting)
            if gang.runs_for is not None and order.may_pass_first(gang.team, self.records.amounts(gang))
        ]
        ends, notes = self.ends(now.wall), self.records.notes[first.id]
        assert self.no is not None
        promised_for = (self.no, notes.could_start, ends)
        if promised_for != self._promised_for and not self._only_passed(promised_for):
            self._timed = False
            found = self._reservations_of(first, ends, now)
            self._reservations = self._with_promise(first, found, now.wall)
            self._looked.clear()
            notes.reservation = found[-1] if found else None
        self._promised_for = promised_for
        free = self.planning.inventory.free_devices
        for gang in behind_it if self._reservations else ():
            if gang.request.whole_devices <= free and (gang.id, gang.quota) not in self._looked:
                self._timed = False
                self.turn = gang
                answer = self._before_turn(gang, now)
                if answer is not None:
                    self._passed = promised_for, answer, self.planning.inventory.changes + 1
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

        since = self.since(first, now)
        waited = now.wall - since if since is not None else None
        return reservations(self.planning.inventory, request, ends, now.wall, waited, place, self.patience(first))

    def _with_promise(self, first: Gang, found: tuple[Reservation, ...], wall: float) -> tuple[Reservation, ...]:
        """What whoever overtakes has to keep."""
        to, promised = self._promised or (None, None)
        if to is None and first.promised is not None:  # by a coordinator before this one
            promised = Promised(first.promised)
        elif to != (first.id, first.moves):
            promised = None

        def overrun(places: tuple[Reservation, ...]) -> bool:
            after = [gang for each in places for gang in each.after] if places else self.records.gangs
            waited_for = [self.records.gangs.get(gang) for gang in after]
            return any(g is not None and g.allocation and g.ends is not None and g.ends <= wall for g in waited_for)

        promised, places = kept(promised, found, overrun)
        self._promised = (first.id, first.moves), promised
        return places

    def promise_to(self, gang: Gang) -> Promise | None:
        """What the first in the queue was promised at the last look."""
        to, promised = self._promised or (None, None)
        return promised.promise if promised is not None and to == (gang.id, gang.moves) else None

    def _before_turn(self, gang: Gang, now: Moment) -> Allocation | None:
        def place(without: frozenset[str]) -> Answer:
            request = replace(gang.request, exclude=gang.request.exclude | without) if without else gang.request
            return self.planning.plan(paid(request, gang.quota), gang.moves, strict=True, explain=False)

        until = now.wall + (gang.runs_for or 0.0)
        return before_its_turn(self.planning.inventory, self._reservations, until, place)

    def ends(self, wall: float) -> Ends:
        """When gangs that hold devices will have ended, as far as that is known."""
        found = []
        for gang, allocation in self.records.holders():
            if gang.releasing:
                end = ABOUT_TO
            elif gang.eviction is not None:
                end = gang.eviction.deadline if gang.eviction.deadline > wall else ABOUT_TO
            elif gang.ends is not None:
                end = expected_end(gang.ends, wall)
            else:
                continue
            if can_leave(allocation):
                found.append((end, gang.id))
        return tuple(nsmallest(self._bounds.ends, found))

    def took(self, seconds: float, now: float) -> None:
        """How long the last no to the first in the queue took to find."""
        if not self._timed:
            self._timed, self._not_before = True, now + REST_FACTOR * seconds

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

    def _patiently(self, gang: Gang, now: Moment, batch: int = 0) -> tuple[Answer, float | None]:
        others, request = self.records.cliques_near(gang, batch), paid(gang.request, gang.quota)

        def place(strict: bool) -> Answer:
            return place_near(self.planning, gang, others, gang.moves, strict=strict)

        def expected() -> float | None:
            return self._expects(request, (request, gang.moves, batch), now, place)

        inventory = self.planning.inventory
        since, patience = self.since(gang, now), self.patience(gang)
        answer, since = in_turn(inventory, request, since, now.wall, place, patience, expected)
        return answer, _lived(since, now)

    def _expects(
        self, request: GangRequest, asked: object, now: Moment, place: Callable[[bool], Answer]
    ) -> float | None:
        """When a gang could have what it prefers, if running gangs end as their programs guess."""
        ends = self.ends(now.wall)
        key = asked, self.planning.inventory.changes, ends
        if self._expected[0] != key:
            found = earliest(self.planning.inventory, request, ends, now.wall, lambda: place(True))
            self._expected = key, found.at if found is not None else None
        return self._expected[1]

    def _unpaid(self, gang: Gang) -> Unsatisfiable | None:
        """A no where a queue outside is asked first."""
        if gang.quota is None or not gang.unpaid:
            return None
        return Unsatisfiable(gang.id, (wanting(gang.request, gang.quota.queue, "it is asked"),))

    def _turn_of(self, gang: Gang) -> Unsatisfiable | None:
        """A no where others wait before the gang, or its team's limit is reached."""
        turn = behind(self.records, gang)
        return Unsatisfiable(gang.id, (turn,)) if turn is not None else None

    def _refused(
        self, gang: Gang, answer: Unsatisfiable, now: float, *, wait: bool, looked: bool
    ) -> RayDraError | None:
        """Why a gang that cannot start now may not wait either."""
        if looked:
            return refusal("The gang does not fit now.", answer)
        waiting = len(self.records.waiting_of(gang.owner))
        if wait and waiting >= MOST_WAITING:
            return _crowd(waiting)
        queue = self.records.team_order.queue(gang.team)
        wants = self.records.amounts(gang).gpus
        if queue is not None and queue.limit is not None and wants > queue.limit:
            too_much = Unsatisfiable(gang.id, (over_limit(queue, 0, wants, self.records.team_order.queues),))
            return refusal("The gang would be over its team's limit even if nothing else of the team ran.", too_much)
        never = self.planning.never(gang.request, now)
        if never is None:
            return None
        if not never.proven:
            return refusal("No place was found within the bound of work, not even with nobody else here.", never)
        return refusal("The gang would not fit even if nobody else were here.", never)


def _lived(since: float | None, now: Moment) -> float | None:
    """A time by the wall clock as the coordinator's own."""
    return now.lived - (now.wall - since) if since is not None else None


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


def _crowd(waiting: int) -> UnsatisfiableError:
    return unsatisfiable(
        f"A program has at most {MOST_WAITING} gangs in the queue; wait for some of them, or remove some.",
        (short(ShortfallKind.QUEUE, QUEUE, waiting + 1, MOST_WAITING),),
    )
