"""Who goes when: names, the limit on a program's gangs, whose turn it is, and what is hopeless.

Whether a gang starts, waits or is refused is answered here, with the reason. Whose turn it is in a pool, on a kept
place, among ordinary placement groups, and who goes before its turn, its parts say: `pool_turns.py`, `kept_turns.py`,
`ordinary_turns.py`, `overtaking.py`. Neighbours: `preempting.py` says whom the first may take, `team_order.py` which
team's turn it is.
"""

from __future__ import annotations

from ray_dra.core.gangs.actions import Refuse
from ray_dra.core.gangs.answers import Answers
from ray_dra.core.gangs.discipline import DISCIPLINE, Discipline
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.kept_turns import KeptTurns
from ray_dra.core.gangs.ordinary_turns import OrdinaryTurns, size_of
from ray_dra.core.gangs.overtaking import Overtaking
from ray_dra.core.gangs.planning import Answer, Planning
from ray_dra.core.gangs.pool_turns import PoolTurns
from ray_dra.core.gangs.quota import wanting
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.refusals import name_taken, no_answer, refusal
from ray_dra.core.gangs.standing import behind
from ray_dra.core.gangs.team_queues import over_limit
from ray_dra.core.gangs.verdicts import No, Start, StartTogether, Verdict, Wait
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import QUEUE, ShortfallKind, Unsatisfiable, short
from ray_dra.errors import RayDraError, UnsatisfiableError, unsatisfiable

MOST_WAITING = 10_000
"""Gangs of one program in the queue: far more than a program can mean, and so few that what they cost everybody (a few
KB each, a write to the store when the program ends) stays small."""
REST_FACTOR = 10  # how many times as long as a no took to find the queue rests before its first is planned again


class Admission:
    """See the module.

    Attributes:
        overtaking: who goes before its turn, and what the first is promised.
    """

    def __init__(self, records: Records, planning: Planning, discipline: Discipline = DISCIPLINE) -> None:
        self.records, self.planning = records, planning
        self.answers = answers = Answers(records, planning, discipline)
        self.overtaking = Overtaking(answers, self.searches)
        self._pools, self._kept, self._ordinary = PoolTurns(answers), KeptTurns(answers), OrdinaryTurns(answers)
        self.no: No | None = None  # what was a no to the first gang
        self._timed = True  # how long that no took is known
        self._not_before = 0.0  # when that gang is planned again at the earliest

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
            return self._pending(gang, self._ordinary.lacks_groups(gang), None, now)
        kept = self._kept.place(gang)
        if kept is not None:
            return Start(kept)
        could_start = None
        answer: Answer | None = self._unpaid(gang) or self._turn_of(gang)
        if answer is None and wait:
            answer, could_start = self.answers.patiently(gang, now)
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
        answer = self._pools.answer(gang)
        if isinstance(answer, Allocation):
            return Start(answer)
        if looked:
            return Refuse(refusal("The pool does not have it now.", answer))
        waiting = len(self.records.waiting_of(gang.owner))
        return Refuse(_crowd(waiting)) if waiting >= MOST_WAITING else Wait(answer.shortfalls)

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
        return self._pools.next() or self._kept.next() or self._ordinary.next(now) or self._next(now)

    def queued(self, gang: Gang) -> None:
        """A gang comes into the queue."""
        self._ordinary.queued(gang)

    def _next(self, now: Moment) -> tuple[Gang, Start | Wait] | None:
        """The answer to the first of those that hold up who comes after them.

        What was a no is none again until the inventory changes, nor sooner than a no that took long to find may cost: a
        gang that is hard to place takes a small share of the time.
        """
        self.answers.turn = gang = self.records.first
        if gang is None:
            return None
        asked = No(gang.id, gang.moves, gang.quota, self.planning.inventory.changes)
        if asked == self.no and not self.answers.patience(gang).most:
            return None
        if self.no is not None and asked[:-1] == self.no[:-1] and now.lived < self._not_before:
            return None
        answer, could_start = self.answers.patiently(gang, now)
        if isinstance(answer, Allocation):
            return gang, Start(answer)
        self.no, self._timed = asked, False
        return gang, Wait(answer.shortfalls, could_start)

    def refused(self, now: float) -> Gang | None:
        """The first gang, if it is a no on the cluster as it is, and that is not left to rest."""
        first = self.records.first
        if first is None or now < self._not_before:
            return None
        asked = No(first.id, first.moves, first.quota, self.planning.inventory.changes)
        return first if asked == self.no else None

    def searches(self) -> None:
        """Something is searched for on behalf of the first gang: how long that takes is to be told, as of a no."""
        self._timed = False

    def before_turn(self, now: Moment) -> tuple[Gang, Start] | None:
        """The next gang behind the first that may start now all the same. Only after a no to the first."""
        first = self.refused(now.lived)
        return self.overtaking.next(first, self.no, now) if first is not None and self.no is not None else None

    def took(self, seconds: float, now: float) -> None:
        """How long the last no to the first in the queue took to find."""
        if not self._timed:
            self._timed, self._not_before = True, now + REST_FACTOR * seconds

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


def _crowd(waiting: int) -> UnsatisfiableError:
    return unsatisfiable(
        f"A program has at most {MOST_WAITING} gangs in the queue; wait for some of them, or remove some.",
        (short(ShortfallKind.QUEUE, QUEUE, waiting + 1, MOST_WAITING),),
    )
