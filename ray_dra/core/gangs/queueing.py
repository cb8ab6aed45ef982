"""Into the queue, and out of it: gangs that are submitted, whose turn it is, or whose program has ended.

Neighbours: `admission.py` says who starts, waits or is refused; `starts.py` starts.
"""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.gangs.actions import Action, AskQuota, BuryGroup, Refuse, Save, Tell
from ray_dra.core.gangs.admission import Admission
from ray_dra.core.gangs.consolidating import Consolidating
from ray_dra.core.gangs.ends import Ends
from ray_dra.core.gangs.events import JobsSeen, Moment, Submitted, TurnFailed
from ray_dra.core.gangs.gang import Beside, Gang
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.past_runs import PastRuns
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.preempting import Preempting
from ray_dra.core.gangs.quota import Quota
from ray_dra.core.gangs.recording import Recording, changed
from ray_dra.core.gangs.refusals import no_pool, no_queue, no_queue_for_pool, no_spares, pool_taken, two_queues
from ray_dra.core.gangs.repair import Way, without
from ray_dra.core.gangs.starts import Starts
from ray_dra.core.gangs.verdicts import Start, StartTogether, Wait
from ray_dra.core.model.shortfall import Shortfall
from ray_dra.errors import MOST_BYTES, GangGone, InvalidRequest, RayDraError, cut


class Queueing:
    """See the module."""

    def __init__(
        self,
        recording: Recording,
        admission: Admission,
        preempting: Preempting,
        consolidating: Consolidating,
        starts: Starts,
        ends: Ends,
        *,
        past_runs: PastRuns | None,
        own_workers: bool,
    ) -> None:
        """`past_runs`: what is known of gangs' earlier runs; None: nothing is to be learnt of them."""
        self._past_runs = past_runs
        self.recording = recording
        self.records = recording.records
        self.admission = admission
        self.preempting = preempting
        self.consolidating = consolidating
        self.starts = starts
        self.ends = ends
        self.own_workers = own_workers

    def submitted(self, event: Submitted, now: Moment) -> list[Action]:
        order = event.order
        if order.request.gang in self.records.gangs:  # asked again after a restart swallowed the answer
            return []
        sequence = self.records.next_sequence()
        gang = Gang(
            order.request, sequence, order.name, order.namespace, order.owner, order.detached, ordinary=order.ordinary
        )
        if order.runs_for is not None:
            gang = replace(gang, runs_for=float(order.runs_for))
        elif self._past_runs is not None:
            gang = replace(gang, runs_for=self._past_runs.guess(gang))
        if order.beside is not None:
            gang = replace(gang, beside=order.beside)
            if self.records.partner_of(gang) is None:
                return [Refuse(GangGone("The gang that this one goes with is not there.", place=order.beside.gang))]
        if order.movable:
            gang = replace(gang, movable=True)
        if order.spares and event.queue:
            return [Refuse(no_spares(event.queue))]
        gang = replace(gang, spares=int(order.spares))  # numpy's, too
        if event.queue:
            gang = replace(gang, quota=Quota(event.queue))
        refused = self._team_refused(order, event.queue)
        if refused is not None:
            return [Refuse(refused)]
        gang = replace(gang, team=order.team if not event.queue else "")
        if gang.request.pool:
            no = self._not_in_pool(gang, event.queue)
            if no is not None:
                return [Refuse(no)]
            if gang.request.in_pool:
                pool = self.records.pools.get(gang.request.pool)
                beside = Beside(pool.gang if pool is not None else "", near=False)
                gang = replace(gang, beside=beside, team="")  # the pool's GPUs count where that is made
        elif order.on_fault is not None:
            declared = order.on_fault if self.own_workers else without(order.on_fault, Way.REPLACE)
            declared = without(declared, Way.SHRINK) if event.queue else declared  # what is paid for keeps its size
            borrows = self.records.team_order.declared
            anew = {Way.RESTART, Way.SHRINK}.intersection(declared.ways)
            again = anew or order.request.preemptible or order.movable or borrows
            maker = order.maker if again else None
            gang = replace(gang, on_fault=declared, maker=maker, first_by_program=maker is not None)
        if not gang.on_fault.acts:  # e.g. it is to be replaced, and here it cannot be
            gang = replace(gang, spares=0)
        verdict = self.admission.arrives(gang, now, wait=order.wait, looked=event.looked)
        if isinstance(verdict, Refuse):
            return [verdict]
        if isinstance(verdict, Start):
            if not self.own_workers:
                gang = replace(gang, maker=order.maker, first_by_program=False)
            return self.starts.start(gang, verdict.allocation, "submitted; devices are held", now)
        if not order.wait:
            return []
        why = f"submitted; waits for {_sentence(verdict.why)}"
        asked = [AskQuota(gang.id)] if gang.unpaid else []
        gang = _patient(gang, verdict.could_start, now)
        return [*self.recording.save(gang, why, now, verdict.why, verdict.could_start), *asked, Tell(gang.id)]

    def _team_refused(self, order: Order, outside: str) -> InvalidRequest | None:
        """To a gang that names a team's queue. An ordinary placement group waits for one that is not there, as for
        anything that Ray does not have; where a queue outside pays for it, it is in none."""
        queues = self.records.team_order.queues
        if not order.team or order.ordinary is not None:
            return None
        if outside:
            return two_queues(order.team, outside)
        return None if queues.declared(order.team) else no_queue(order.team, queues)

    def _not_in_pool(self, gang: Gang, queue: str) -> RayDraError | None:
        """Why this is no pool, nor a gang with shares of one. Neither is replaced nor started again after a fault."""
        if queue:
            return no_queue_for_pool(queue)
        there = self.records.pools.get(gang.request.pool)
        if not gang.request.in_pool:
            return pool_taken(gang) if there is not None else None
        return no_pool(gang, self.records.pools.names) if there is None else None

    def next_turn(self, now: Moment) -> list[Action]:
        found = self.admission.next(now)
        if found is None:
            return self._after_no(now)
        gang, verdict = found
        if isinstance(verdict, StartTogether):
            why = "its set's turn: devices are held"
            batch = verdict.each[0][0].sequence
            started = [(replace(each, batch=batch), held) for each, held in verdict.each]
            return [action for each, held in started for action in self.starts.start(each, held, why, now, ())]
        if isinstance(verdict, Wait):
            notes = self.recording.notes(gang)
            notes.refused, notes.could_start = verdict.why, verdict.could_start
            patient = _patient(gang, verdict.could_start, now)
            if patient is not gang:
                return [Save(patient), Tell(gang.id)]
            return [Tell(gang.id)] if gang.ordinary is not None else self._after_no(now)
        return self.starts.start(
            replace(gang, batch=verdict.batch), verdict.allocation, "its turn: devices are held", now, ()
        )

    def _after_no(self, now: Moment) -> list[Action]:
        """The first waits: others may be moved for it, it may take others' devices, and others may go before it."""
        return self.consolidating.for_first(now) or self.preempting.for_first(now) or self._before_turn(now)

    def _before_turn(self, now: Moment) -> list[Action]:
        """A gang behind the first that delays it by nothing."""
        found = self.admission.before_turn(now)
        first = self.records.first
        promise = self.admission.overtaking.promise_to(first) if first is not None else None
        before = first.promised if first is not None else None
        new = promise is not None and promise != before
        later = promise is not None and before is not None and promise.by > before.by
        if first is not None and new and (found is not None or before is None or later):
            # Before anybody starts who goes by it; and where it could not be kept, for a coordinator after this one.
            return [Save(replace(first, promised=promise))]
        if found is None:
            return []
        gang, verdict = found
        return self.starts.start(gang, verdict.allocation, "before its turn: devices are held", now, ())

    def turn_failed(self, event: TurnFailed, now: Moment) -> list[Action]:
        """It would be so at each look: it leaves the queue, for those behind it."""
        turn = self.admission.answers.turn
        gang = self.records.gangs.get(turn.id) if turn is not None else None
        if gang is None or not gang.waits:
            return []
        why = cut(f"to plan it met a fault of ray-dra's, which its log has: {event.fault}", MOST_BYTES)
        buried: list[Action] = [BuryGroup(gang.id)] if gang.ordinary is not None else []
        return [*self.recording.save(replace(gang, releasing=True, failed=why), why, now), *buried]

    def jobs_seen(self, event: JobsSeen, now: Moment) -> list[Action]:
        """Gangs in the queue whose program has ended, all of them at once, are in it no more.

        In memory alone: a coordinator that starts again finds the same. Their records go look by look.
        """
        actions: list[Action] = []
        self.records.kept.look(event.jobs, now.lived)
        self.records.count_cluster()
        self.records.keep_spares()
        for gang in self.records.orphans(event.jobs, event.ended_actors):
            gone = changed(replace(gang, releasing=True), Phase.RELEASING, "its program has ended", now)
            self.records.put(gone, now.lived)
            if gang.ordinary is not None:
                actions.append(BuryGroup(gang.id))
        for gang in self.records.left_alone():
            actions += self.ends.give_back(gang, "the gang that it goes with has ended", now)
        return actions


def _patient(gang: Gang, could_start: float | None, now: Moment) -> Gang:
    """The gang's record with the time since when it waits only for what it prefers, for a coordinator after this
    one."""
    if could_start is None or gang.could_start is not None:
        return gang
    return replace(gang, could_start=now.wall - (now.lived - could_start))


def _sentence(shortfalls: tuple[Shortfall, ...]) -> str:
    return "; ".join(map(str, shortfalls))
