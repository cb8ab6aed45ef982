"""Every decision about a gang: an event in, actions out. Pure and synchronous; the caller has the clock.

`handle` changes no record: the executor stores what an action Save says, then calls `saved`, and so for Drop. What a
restart may forget (how long a gang has waited, what was only seen of it) changes at once.

What an event leads to is the job of its parts: `queueing.py` (into the queue, and out of it), `starts.py`,
`elsewhere.py` (another place), `reshaping.py`, `faults.py`, `evictions.py`, `consolidating.py`, `quota_answers.py`,
`ends.py`; `recording.py` makes the records of it. Neighbours: `lifecycle.py` says what a gang's next step is,
`planning.py` where it goes; `coordinator/executor.py` acts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.actions import Action, MakeGroup, MakeWorkers, Refuse, RemoveGroup, Save, Tell, WriteMap
from ray_dra.core.gangs.admission import Admission
from ray_dra.core.gangs.consolidating import Consolidating
from ray_dra.core.gangs.discipline import DISCIPLINE, Discipline
from ray_dra.core.gangs.elastic import Elastic
from ray_dra.core.gangs.elsewhere import Elsewhere
from ray_dra.core.gangs.ends import Ends
from ray_dra.core.gangs.events import (
    Checkpointed,
    Committed,
    DevicesTaken,
    Event,
    GangObserved,
    GroupMade,
    JobsSeen,
    Moment,
    NextTurn,
    QueuesDeclared,
    QuotaAnswered,
    ReleaseAsked,
    ReshapeAsked,
    Submitted,
    TurnFailed,
    TurnTook,
    WorkersDue,
    WorkersLeft,
    WorkersProgressed,
)
from ray_dra.core.gangs.eviction import Eviction
from ray_dra.core.gangs.evictions import Evictions
from ray_dra.core.gangs.expecting import Expecting
from ray_dra.core.gangs.faults import Faults
from ray_dra.core.gangs.gang import Gang, made_here
from ray_dra.core.gangs.kept_workers import KeptWorkers
from ray_dra.core.gangs.lifecycle import Observed, Step, fault_is_due, may_move, next_step, phase
from ray_dra.core.gangs.past_runs import PastRuns
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.preempting import Preempting
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.gangs.queueing import Queueing
from ray_dra.core.gangs.quota_answers import QuotaAnswers
from ray_dra.core.gangs.record_sense import is_group
from ray_dra.core.gangs.recording import Recording
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.reshape import fall_back
from ray_dra.core.gangs.reshaping import Reshaping
from ray_dra.core.gangs.starts import Starts
from ray_dra.core.model.shortfall import PlaceKind
from ray_dra.errors import MOST_BYTES, GangGone, InvalidRequest, cut, shown


class Engine:
    """See the module. `records`: the gangs, and what is known of them."""

    def __init__(
        self,
        inventory: Inventory,
        known: KnownNodes,
        *,
        begins: Progress,
        own_workers: bool,
        ready_made: Collection[str] = (),
        discipline: Discipline = DISCIPLINE,
    ) -> None:
        """What the backend says of itself: `begins`, the progress of a gang whose devices were just held;
        `own_workers`, whether workers are made for each gang; `ready_made`, nodes that are tried before.
        `discipline`: who may go when."""
        self.records = Records(inventory, begins)
        self.past_runs = PastRuns()
        self.planning = Planning(inventory, known, ready_made, self.records.pools.get, self.records.own_spares)
        self.admission = Admission(self.records, self.planning, discipline)
        self.own_workers = own_workers
        self.recording = recording = Recording(self.records)
        self.starts = starts = Starts(recording, discipline.worth)
        self.ends = ends = Ends(recording, self.past_runs, own_workers=own_workers)
        self.elsewhere = Elsewhere(recording, self.planning, starts, own_workers=own_workers)
        self.elastic = Elastic(self.records, self.planning, discipline.worth)
        self.evictions = evictions = Evictions(recording, starts)
        self.faults = Faults(
            recording, self.planning, starts, ends, evictions, discipline.preemption, own_workers=own_workers
        )
        self.reshaping = Reshaping(recording, self.planning, starts, ends, self.faults, own_workers=own_workers)
        self.kept_workers = KeptWorkers(recording, self.planning)
        self.quota_answers = QuotaAnswers(recording, ends)
        preempting = Preempting(self.admission, evictions, discipline.preemption)
        self.consolidating = consolidating = Consolidating(
            self.admission, evictions, starts, discipline.consolidation, discipline.worth
        )
        self.queueing = Queueing(
            recording,
            self.admission,
            preempting,
            consolidating,
            starts,
            ends,
            past_runs=self.past_runs if discipline.learn else None,
            own_workers=own_workers,
        )
        self.expecting = Expecting(self.admission.answers)

    def handle(self, event: Event, now: Moment) -> list[Action]:
        """What is to be done, in this order. An event about a gang that is not there is none."""
        match event:
            case Submitted():
                return self.queueing.submitted(event, now)
            case QueuesDeclared():
                self.records.declare(event.queues)
                return []
            case JobsSeen():
                return self.queueing.jobs_seen(event, now)
            case NextTurn():
                return self.queueing.next_turn(now)
            case TurnTook():
                self.admission.took(event.seconds, now.lived)
                return []
            case TurnFailed():
                return self.queueing.turn_failed(event, now)
        gang = self.records.gangs.get(event.gang)
        if gang is None:
            return []
        match event:
            case Committed():
                return self._committed(gang, event, now)
            case GroupMade():
                return self._group_made(gang, event, now)
            case ReleaseAsked():
                return self.ends.give_back(gang, "released", now)
            case Checkpointed():
                self.recording.notes(gang).checkpoint = now.wall
                return []
            case ReshapeAsked():
                return self.reshaping.reshape_asked(gang, event, now)
            case WorkersDue():
                return self._workers_due(gang, event.seen, now)
            case WorkersProgressed():
                return self._workers_progressed(gang, event.progress, now)
            case GangObserved():
                return self._observed(gang, event.seen, now)
            case WorkersLeft():
                return self.ends.workers_left(gang, event, now)
            case QuotaAnswered():
                return self.quota_answers.quota_answered(gang, event.answer, event.seen, now)
            case DevicesTaken():
                gang, noted = self.recording.see(gang, event.seen, now)
                if phase(gang, event.seen) is Phase.READY:  # by work whose record says that it has it, too
                    return noted
                return noted + self.elsewhere.plan_again(gang, "other work took a device of it", now, stay=False)

    def saved(self, save: Save, now: Moment) -> None:
        """The store has it: so it is from here on. Raises ForbiddenChange for what no record may do."""
        before = self.records.gangs.get(save.gang.id)
        self.records.put(save.gang, now.lived)
        if save.keep_until is not None and before is not None and before.allocation is not None:
            self.records.kept.keep(save.gang.owner, before.allocation, save.keep_until)
        if before is not None and save.gang.waits and not before.waits:
            self.admission.queued(save.gang)
        notes = self.records.notes[save.gang.id]
        if save.could_start is not None or not save.gang.waits:
            notes.could_start = save.could_start
        if save.waits_for is not None:
            notes.refused = save.waits_for

    def validate(self) -> None:
        """Raises AssertionError where an invariant of the records does not hold. For tests."""
        self.records.validate()

    # -- a gang's placement group, its workers, and what the world says of it

    def _committed(self, gang: Gang, event: Committed, now: Moment) -> list[Action]:
        if not is_group(event.group):  # Ray could not remove it again
            said = "This is no id of a placement group."
            return [Refuse(InvalidRequest(said, place="group", wanted=shown(event.group), available="36 hex digits"))]
        if gang.releasing:
            return [Refuse(GangGone("The gang is being given back.", place=gang.id))]
        if gang.allocation is None or gang.group is not None or gang.moves != event.moves or made_here(gang):
            return []
        if event.group in self.records.groups:
            taken = "The placement group is another gang's, or one that this gang has left."
            return [Refuse(InvalidRequest(taken, place=gang.id, wanted=event.group))]
        grouped = replace(gang, group=event.group)
        return [
            WriteMap(event.group, gang.allocation),
            *self.recording.save(grouped, "its placement group exists", now),
        ]

    def _group_made(self, gang: Gang, event: GroupMade, now: Moment) -> list[Action]:
        """Ray's answer to a placement group that was made here."""
        self.recording.notes(gang).registered = True
        if gang.releasing or not (event.removed or event.refused):
            return []
        if event.refused and (back := fall_back(gang, event.refused)) is not None:
            return self.reshaping.take_step(gang, back, Observed(), now)
        if event.refused:
            return self.ends.give_back(gang, event.refused, now, failed=True)
        return self.ends.give_back(gang, "its placement group was removed", now)

    def _workers_due(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        """Until Ray has placed the gang for the first time; from then on what is missing of it is lost, and made anew
        only where that is what is done about it. Nor for a gang whose placement group was removed: it is given back
        next."""
        gang, noted = self.recording.see(gang, seen, now)
        notes = self.recording.notes(gang)
        notes.kept_lost, notes.kept_made = seen.kept_lost, False
        if not self.own_workers or gang.allocation is None or gang.releasing or seen.group_state == "ABSENT":
            return noted
        if seen.placed_once and not gang.replacing:
            notes.kept_made = self.kept_workers.to_make(gang, seen)
            return [*noted, MakeWorkers(gang.id)] if notes.kept_made else noted
        return [*noted, MakeWorkers(gang.id)]

    def _workers_progressed(self, gang: Gang, progress: Progress, now: Moment) -> list[Action]:
        """Planned again elsewhere where workers cannot be had, or given up."""
        notes = self.recording.notes(gang)
        if progress.failed and notes.kept_lost and not gang.releasing:
            return self.kept_workers.give_back(gang, notes.kept_lost, cut(progress.failed, MOST_BYTES), now)
        if notes.kept_made:
            return []
        if (progress.ready, progress.joined) != (notes.progress.ready, notes.progress.joined):
            notes.since = now.lived
        notes.progress = progress
        if not progress.failed or gang.releasing:
            return []
        if gang.replacing:
            return self.faults.replacement_failed(gang, progress.failed, now)
        if (back := fall_back(gang, cut(progress.failed, MOST_BYTES))) is not None:
            return self.reshaping.take_step(gang, back, Observed(provisioned=False), now)
        if progress.final or not (progress.gave_way or may_move(gang)):
            return self.ends.give_back(gang, progress.failed, now, failed=True)
        return self.elsewhere.plan_elsewhere(
            gang, PlaceKind.KUBERNETES, progress.failed, now, gives_way=progress.gave_way
        )

    def _evicted(self, gang: Gang, eviction: Eviction, seen: Observed, now: Moment) -> list[Action]:
        """What is next for a gang that has notice that it ends for another one."""
        if eviction.moves:
            return self.consolidating.move(gang, now)
        if eviction.repairs:
            return self.faults.take_for_repair(gang, seen, now)
        return self.evictions.look(gang, now)

    def _observed(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        gang, noted = self.recording.see(gang, seen, now)
        notes = self.recording.notes(gang)
        # Ray did not answer when it was planned again. Before another one is made, which may have the same name.
        left = [RemoveGroup(group) for group in seen.left_groups]
        if made_here(gang) and gang.group is not None and not (notes.registered or gang.releasing):
            notes.registered = seen.group_state not in (None, "ABSENT")
            if not notes.registered:  # Ray did not answer, or this coordinator was started after the record was written
                return [*noted, *left, MakeGroup(gang.id, again=True)]
        due = made_here(gang) and gang.group is None and gang.allocation is not None and not gang.releasing
        if due and seen.provisioned and seen.owner_alive:
            return [*noted, *left, *self.starts.register(gang, "its workers are there", now), Tell(gang.id)]
        if seen.kept_lost and (lost := self.kept_workers.look(gang, seen, now)):
            return [*noted, *left, *lost]
        if gang.reshape is not None and not gang.releasing:
            actions = self.reshaping.observed(gang, seen, now)
            return [*noted, *left, *actions, Tell(gang.id, None if actions else seen)]
        step, why = next_step(gang, seen, own_workers=self.own_workers)
        said = notes.progress.said
        actions = []
        if step is Step.GIVE_BACK:
            actions = self.ends.give_back(gang, why, now)
        elif step is Step.FORGET:
            actions = self.ends.end(gang, seen.undone, gang.history[-1].why, now)  # `recording.see` has left one
        elif step is Step.PLAN_AGAIN and self.own_workers:
            actions = self.elsewhere.plan_elsewhere(gang, PlaceKind.RAY, said, now)
        elif step is Step.PLAN_AGAIN:
            actions = self.elsewhere.plan_again(gang, why, now, stay=True)
        elif step is Step.OTHER_DEVICES and self.planning.taken(gang.allocation):
            actions = self.elsewhere.plan_again(gang, "other work took a device of it", now, stay=True)
        elif step is Step.GIVE_UP:
            actions = self.ends.give_back(gang, said or why, now, failed=True)
        elif gang.eviction is not None and not gang.releasing:
            actions = self._evicted(gang, gang.eviction, seen, now)
        elif gang.replacing and not gang.releasing:
            actions = self.faults.replaced(gang, seen, now)
        elif fault_is_due(gang, seen, now.wall):
            actions = self.faults.repair(gang, seen, now)
        elif gang.notice is not None:
            actions = self.faults.tell_libraries(gang, seen, now)
        elif gang.shrunk is not None and not gang.releasing:
            actions = self.reshaping.grow(gang, seen, now)
        return [*noted, *left, *actions, Tell(gang.id, None if actions else seen)]
