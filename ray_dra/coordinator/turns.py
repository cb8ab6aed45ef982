"""Gangs' turns within a look: a step for each that has devices or leaves the queue, and the queue, each in its time.

What is left over when the time is up is the next look's, which begins there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from ray_dra.coordinator.observer import Observer
from ray_dra.core.gangs.events import Event, GangObserved, NextTurn, QuotaAnswered, TurnFailed, TurnTook, WorkersDue
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.quota import Said
from ray_dra.core.gangs.records import Records
from ray_dra.errors import InvalidRequest, RayDraError
from ray_dra.ports.clock import Clock
from ray_dra.ports.quota import Quotas

BUSY_SECONDS = 0.25  # of a look for gangs' steps, and as much for the queue


class Turns:
    """See the module. `decide` has the engine decide on an event and the executor act, and returns whether there was
    anything to do."""

    def __init__(
        self,
        records: Records,
        observer: Observer,
        quotas: Quotas,
        clock: Clock,
        decide: Callable[[Event], bool],
    ) -> None:
        self._records, self._observer, self._clock, self._decide = records, observer, clock, decide
        self._quotas = quotas
        self._resume = {True: 0, False: 0}  # whether it has devices -> the gang with which the next look begins

    def hear_queues(self) -> Exception | None:
        """What queues outside say to gangs' requests, where it is news. Returns a fault of ours."""
        faults = [_fault_of(self._hear_queue, gang) for gang in self._records.with_quota()]
        return next(filter(None, faults), None)

    def _hear_queue(self, gang: Gang) -> None:
        quota, notes = gang.quota, self._records.notes[gang.id]
        answer = self._quotas.answer(quota, gang.request) if quota is not None and not gang.releasing else None
        if quota is None or answer is None:
            return
        settled = quota.granted is not None and notes.evicted is None
        known = settled if answer.said is Said.ADMITTED else answer == notes.answer
        if not known:
            self._decide(QuotaAnswered(gang.id, answer, self._observer.observed(gang, notes)))

    def advance(self) -> tuple[bool, Exception | None]:
        """Take each gang past the queue one step on. Returns whether the time sufficed, and a fault of ours."""
        past = self._records.past_queue()
        done, fault = self._advance_some([gang for gang in past if gang.allocation is not None], BUSY_SECONDS)
        all_left, late_fault = self._advance_some([g for g in past if g.allocation is None], BUSY_SECONDS / 2)
        return done and all_left, fault or late_fault

    def serve(self) -> bool:
        """Plan the queue, in order; the first that does not fit holds up those behind it, but an ordinary placement
        group nobody. False where the time was over before that."""
        until = self._clock() + BUSY_SECONDS
        while self._records.waiting and self._clock() <= until:
            began = self._clock()
            try:
                more = self._decide(NextTurn())
            except InvalidRequest as error:  # what it got cannot be recorded, say: the same at each look
                more = self._decide(TurnFailed(str(error)))
            if not more:
                self._decide(TurnTook(self._clock() - began))
                return True
        return not self._records.waiting

    def _advance_some(self, gangs: list[Gang], seconds: float) -> tuple[bool, Exception | None]:
        """Take each one step on; where the time does not suffice, the next look goes on with the rest. Returns whether
        it sufficed, and a fault of ours that one of them met."""
        if not gangs:
            return True, None
        holds = gangs[0].allocation is not None
        start = bisect_left(gangs, self._resume[holds], key=lambda g: g.sequence)
        until = self._clock() + seconds
        self._resume[holds] = 0
        fault: Exception | None = None
        for gang in gangs[start:] + gangs[:start]:
            if self._clock() > until:
                self._resume[holds] = gang.sequence
                break
            met = _fault_of(self._advance, gang)
            fault = fault or met
        return not self._resume[holds], fault

    def _advance(self, was: Gang) -> None:
        gang = self._records.gangs.get(was.id)
        if gang is None:
            return
        seen = self._observer.observed(gang, self._records.notes[gang.id])
        acted = self._decide(WorkersDue(gang.id, seen))
        gang = self._records.gangs.get(was.id)
        if gang is not None:
            seen = self._observer.observed(gang, self._records.notes[gang.id]) if acted else seen
            self._decide(GangObserved(gang.id, seen))


def _fault_of(step: Callable[[Gang], None], gang: Gang) -> Exception | None:
    """What a gang's step met that is its own, or a fault of ours; those behind it get on all the same."""
    try:
        step(gang)
    except InvalidRequest as error:  # it cannot be recorded, say
        return error
    except RayDraError:
        raise  # the world does not answer, to no gang
    except Exception as error:
        return error
    return None
