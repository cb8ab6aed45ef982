"""Every decision about a gang: an event in, actions out. Pure and synchronous; the caller has the clock.

`handle` changes no record: the executor stores what an action Save says, then calls `saved`, and so for Drop. What a
restart may forget (how long a gang has waited, what was only seen of it) changes at once.

Neighbours: `admission.py` says who starts, waits or is refused, `lifecycle.py` what a gang's next step is,
`planning.py` where it goes; `coordinator/executor.py` acts.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.actions import (
    Action,
    AskQuota,
    BuryGroup,
    DeleteMap,
    Drop,
    EndWorkers,
    MakeGroup,
    MakeWorkers,
    Note,
    Refuse,
    RemoveGroup,
    Save,
    Tell,
    TellNotice,
    TellRepair,
    Timed,
    WriteMap,
)
from ray_dra.core.gangs.admission import Admission, Start, StartTogether, Wait
from ray_dra.core.gangs.backfill import BOUNDS, Bounds
from ray_dra.core.gangs.drains import to_drain
from ray_dra.core.gangs.events import (
    Committed,
    DevicesTaken,
    Event,
    GangObserved,
    GroupMade,
    JobsSeen,
    Moment,
    NextTurn,
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
from ray_dra.core.gangs.gang import MOST_CHANGES, MOST_WHY, Change, Gang, group_made_here, made_here
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.lifecycle import Observed, Step, fault_is_due, may_move, next_step, phase, stage_of
from ray_dra.core.gangs.notice import noticed
from ray_dra.core.gangs.phases import ARROWS, Phase
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.gangs.quota import GRACE_SECONDS, Answer, Quota, Said, wanting
from ray_dra.core.gangs.record_sense import is_group
from ray_dra.core.gangs.records import Records, RuntimeNotes
from ray_dra.core.gangs.repair import Way, possible
from ray_dra.core.gangs.replacing import place_again
from ray_dra.core.gangs.reshape import (
    Turn,
    begin_reshape,
    ending_of,
    fall_back,
    next_turn,
    reshape_notice,
    stay_in_shape,
)
from ray_dra.core.gangs.sets import place_near
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.gangs.stages import READY, StageEnded, StageTimes
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import Place, PlaceKind, Shortfall, ShortfallKind, short
from ray_dra.errors import MOST_BYTES, GangGone, InvalidRequest, RayDraError, cut, shown


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
        backfill: Bounds = BOUNDS,
    ) -> None:
        """What the backend says of itself: `begins`, the progress of a gang whose devices were just held;
        `own_workers`, whether workers are made for each gang; `ready_made`, nodes that are tried before.
        `backfill`: how far is looked for gangs that may start before their turn."""
        self.records = Records(inventory, begins)
        self.planning = Planning(inventory, known, ready_made)
        self.admission = Admission(self.records, self.planning, backfill)
        self.own_workers = own_workers

    def handle(self, event: Event, now: Moment) -> list[Action]:
        """What is to be done, in this order. An event about a gang that is not there is none."""
        match event:
            case Submitted():
                return self._submitted(event, now)
            case JobsSeen():
                return self._jobs_seen(event, now)
            case NextTurn():
                return self._next_turn(now)
            case TurnTook():
                self.admission.took(event.seconds, now.lived)
                return []
            case TurnFailed():
                return self._turn_failed(event, now)
        gang = self.records.gangs.get(event.gang)
        if gang is None:
            return []
        match event:
            case Committed():
                return self._committed(gang, event, now)
            case GroupMade():
                return self._group_made(gang, event, now)
            case ReleaseAsked():
                return self._give_back(gang, "released", now)
            case ReshapeAsked():
                return self._reshape_asked(gang, event, now)
            case WorkersDue():
                return self._workers_due(gang, event.seen, now)
            case WorkersProgressed():
                return self._workers_progressed(gang, event.progress, now)
            case GangObserved():
                return self._observed(gang, event.seen, now)
            case WorkersLeft():
                return self._workers_left(gang, event, now)
            case QuotaAnswered():
                return self._quota_answered(gang, event.answer, event.seen, now)
            case DevicesTaken():
                gang, noted = self._see(gang, event.seen, now)
                if phase(gang, event.seen) is Phase.READY:  # by work whose record says that it has it, too
                    return noted
                return noted + self._plan_again(gang, "other work took a device of it", now, stay=False)

    def saved(self, save: Save, now: Moment) -> None:
        """The store has it: so it is from here on. Raises ForbiddenChange for what no record may do."""
        before = self.records.gangs.get(save.gang.id)
        self.records.put(save.gang, now.lived)
        if save.keep_until is not None and before is not None and before.allocation is not None:
            self.records.kept.keep(save.gang.owner, before.allocation, save.keep_until)
        if before is not None and save.gang.waits and not before.waits:
            self.admission.queued(save.gang)
        notes = self.records.notes[save.gang.id]
        if save.waits_for is not None:
            notes.refused = save.waits_for
        if save.could_start is not None:
            notes.could_start = save.could_start

    def validate(self) -> None:
        """Raises AssertionError where an invariant of the records does not hold. For tests."""
        self.records.validate()

    # -- into the queue, and out of it

    def _submitted(self, event: Submitted, now: Moment) -> list[Action]:
        order = event.order
        if order.request.gang in self.records.gangs:  # asked again after a restart swallowed the answer
            return []
        sequence = self.records.next_sequence()
        gang = Gang(
            order.request, sequence, order.name, order.namespace, order.owner, order.detached, ordinary=order.ordinary
        )
        if order.runs_for is not None:
            gang = replace(gang, runs_for=float(order.runs_for))
        if order.beside is not None:
            gang = replace(gang, beside=order.beside)
            if self.records.partner_of(gang) is None:
                return [Refuse(GangGone("The gang that this one goes with is not there.", place=order.beside.gang))]
        if event.queue:
            gang = replace(gang, quota=Quota(event.queue))
        if order.on_fault is not None:
            declared = possible(order.on_fault, own_workers=self.own_workers, ordinary=order.ordinary is not None)
            maker = order.maker if Way.RESTART in declared.ways else None
            gang = replace(gang, on_fault=declared, maker=maker, first_by_program=maker is not None)
        verdict = self.admission.arrives(gang, now.lived, wait=order.wait, looked=event.looked)
        if isinstance(verdict, Refuse):
            return [verdict]
        if isinstance(verdict, Start):
            if not self.own_workers:
                gang = replace(gang, maker=order.maker, first_by_program=False)
            return self._start(gang, verdict.allocation, "submitted; devices are held", now)
        if not order.wait:
            return []
        why = f"submitted; waits for {_sentence(verdict.why)}"
        asked = [AskQuota(gang.id)] if gang.unpaid else []
        return [*self._save(gang, why, now, verdict.why, verdict.could_start), *asked, Tell(gang.id)]

    def _next_turn(self, now: Moment) -> list[Action]:
        found = self.admission.next(now.lived)
        if found is None:
            return self._before_turn(now)
        gang, verdict = found
        if isinstance(verdict, StartTogether):
            why = "its set's turn: devices are held"
            batch = verdict.each[0][0].sequence
            started = [(replace(each, batch=batch), held) for each, held in verdict.each]
            return [action for each, held in started for action in self._start(each, held, why, now, ())]
        if isinstance(verdict, Wait):
            notes = self._notes(gang)
            notes.refused, notes.could_start = verdict.why, verdict.could_start
            # Others may go before it.
            return [Tell(gang.id)] if gang.ordinary is not None else self._before_turn(now)
        return self._start(
            replace(gang, batch=verdict.batch), verdict.allocation, "its turn: devices are held", now, ()
        )

    def _before_turn(self, now: Moment) -> list[Action]:
        """A gang behind the first that delays it by nothing."""
        found = self.admission.before_turn(now)
        if found is None:
            return []
        gang, verdict = found
        return self._start(gang, verdict.allocation, "before its turn: devices are held", now, ())

    def _turn_failed(self, event: TurnFailed, now: Moment) -> list[Action]:
        """It would be so at each look: it leaves the queue, for those behind it."""
        gang = self.records.gangs.get(self.admission.turn.id) if self.admission.turn is not None else None
        if gang is None or not gang.waits:
            return []
        why = cut(f"to plan it met a fault of ray-dra's, which its log has: {event.fault}", MOST_BYTES)
        buried: list[Action] = [BuryGroup(gang.id)] if gang.ordinary is not None else []
        return [*self._save(replace(gang, releasing=True, failed=why), why, now), *buried]

    def _start(
        self, gang: Gang, allocation: Allocation, why: str, now: Moment, waits_for: tuple[Shortfall, ...] | None = None
    ) -> list[Action]:
        """It holds these devices from here on. Where its workers are there already, Ray is told at once of a placement
        group that is made here."""
        gang = replace(gang, allocation=allocation, ends=_ends(gang, now))
        if made_here(gang) and self.records.begins.ready:
            return self._register(gang, why, now, waits_for)
        return self._save(gang, why, now, waits_for)

    def _register(
        self, gang: Gang, why: str, now: Moment, waits_for: tuple[Shortfall, ...] | None = None, left: str | None = None
    ) -> list[Action]:
        """Ray is told of a placement group, once its workers can find its map; before that the one is removed that the
        gang has `left`, which may have the same name."""
        if gang.allocation is None:
            return []
        group = group_made_here(gang)
        again = gang.id in self.records.gangs  # a coordinator before this one may have been ended in the middle
        saved = self._save(replace(gang, group=group), why, now, waits_for)
        removed: list[Action] = [RemoveGroup(left), DeleteMap(left)] if left is not None else []
        return [WriteMap(group, gang.allocation), *saved, *removed, MakeGroup(gang.id, again)]

    def _jobs_seen(self, event: JobsSeen, now: Moment) -> list[Action]:
        """Gangs in the queue whose program has ended, all of them at once, are in it no more.

        In memory alone: a coordinator that starts again finds the same. Their records go look by look.
        """
        actions: list[Action] = []
        self.records.kept.look(event.jobs, now.lived)
        for gang in self.records.orphans(event.jobs, event.ended_actors):
            gone = _changed(replace(gang, releasing=True), Phase.RELEASING, "its program has ended", now)
            self.records.put(gone, now.lived)
            if gang.ordinary is not None:
                actions.append(BuryGroup(gang.id))
        for gang in self.records.left_alone():
            actions += self._give_back(gang, "the gang that it goes with has ended", now)
        return actions

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
        return [WriteMap(event.group, gang.allocation), *self._save(grouped, "its placement group exists", now)]

    def _group_made(self, gang: Gang, event: GroupMade, now: Moment) -> list[Action]:
        """Ray's answer to a placement group that was made here."""
        self._notes(gang).registered = True
        if gang.releasing or not (event.removed or event.refused):
            return []
        if event.refused and (turn := fall_back(gang, event.refused)) is not None:
            return self._take_turn(gang, turn, Observed(), now)
        if event.refused:
            return self._give_back(gang, event.refused, now, failed=True)
        return self._give_back(gang, "its placement group was removed", now)

    # -- a gang's workers, and what the world says of it

    def _workers_due(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        """Until Ray has placed the gang for the first time; from then on what is missing of it is lost, and made anew
        only where that is what is done about it. Nor for a gang whose placement group was removed: it is given back
        next."""
        gang, noted = self._see(gang, seen, now)
        if not self.own_workers or gang.allocation is None or gang.releasing:
            return noted
        if (seen.placed_once and not gang.replacing) or seen.group_state == "ABSENT":
            return noted
        return [*noted, MakeWorkers(gang.id)]

    def _workers_progressed(self, gang: Gang, progress: Progress, now: Moment) -> list[Action]:
        """Planned again elsewhere where workers cannot be had, or given up."""
        notes = self._notes(gang)
        if (progress.ready, progress.joined) != (notes.progress.ready, notes.progress.joined):
            notes.since = now.lived
        notes.progress = progress
        if not progress.failed or gang.releasing:
            return []
        if gang.replacing:
            return self._replacement_failed(gang, progress.failed, now)
        if (turn := fall_back(gang, cut(progress.failed, MOST_BYTES))) is not None:
            return self._take_turn(gang, turn, Observed(provisioned=False), now)
        if progress.final or not (progress.gave_way or may_move(gang)):
            return self._give_back(gang, progress.failed, now, failed=True)
        return self._plan_elsewhere(gang, PlaceKind.KUBERNETES, progress.failed, now, gives_way=progress.gave_way)

    def _observed(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        gang, noted = self._see(gang, seen, now)
        notes = self._notes(gang)
        # Ray did not answer when it was planned again. Before another one is made, which may have the same name.
        left = [RemoveGroup(group) for group in seen.left_groups]
        if made_here(gang) and gang.group is not None and not (notes.registered or gang.releasing):
            notes.registered = seen.group_state not in (None, "ABSENT")
            if not notes.registered:  # Ray did not answer, or this coordinator was started after the record was written
                return [*noted, *left, MakeGroup(gang.id, again=True)]
        due = made_here(gang) and gang.group is None and gang.allocation is not None and not gang.releasing
        if due and seen.provisioned and seen.owner_alive:
            return [*noted, *left, *self._register(gang, "its workers are there", now), Tell(gang.id)]
        if gang.reshape is not None and not gang.releasing:
            actions = self._take_turn(gang, next_turn(gang, seen, now.wall), seen, now)
            return [*noted, *left, *actions, Tell(gang.id, None if actions else seen)]
        step, why = next_step(gang, seen, own_workers=self.own_workers)
        said = notes.progress.said
        actions = []
        if step is Step.GIVE_BACK:
            actions = self._give_back(gang, why, now)
        elif step is Step.FORGET:
            actions = self._end(gang, seen.undone, gang.history[-1].why, now)  # `_see` has left one
        elif step is Step.PLAN_AGAIN and self.own_workers:
            actions = self._plan_elsewhere(gang, PlaceKind.RAY, said, now)
        elif step is Step.PLAN_AGAIN:
            actions = self._plan_again(gang, why, now, stay=True)
        elif step is Step.OTHER_DEVICES and self.planning.taken(gang.allocation):
            actions = self._plan_again(gang, "other work took a device of it", now, stay=True)
        elif step is Step.GIVE_UP:
            actions = self._give_back(gang, said or why, now, failed=True)
        elif gang.replacing and not gang.releasing:
            actions = self._replaced(gang, seen, now)
        elif fault_is_due(gang, seen, now.wall):
            actions = self._repair(gang, seen, now)
        return [*noted, *left, *actions, Tell(gang.id, None if actions else seen)]

    # -- another shape on the same GPUs

    def _reshape_asked(self, gang: Gang, event: ReshapeAsked, now: Moment) -> list[Action]:
        until = now.wall + event.grace
        begun = begin_reshape(
            gang,
            event.request,
            event.seen,
            self.planning,
            own_workers=self.own_workers,
            until=until,
            timeout=event.timeout,
        )
        if isinstance(begun, RayDraError):
            return [Refuse(begun)]
        if begun is None:
            return []
        gang, noted = self._see(gang, event.seen, now)
        begun = replace(gang, reshape=begun.reshape, shape_failed="")
        if gang.notice is None:  # else its program has heard that it ends anyway
            begun = replace(begun, notice=reshape_notice(begun, until, now.wall))
        saved = self._save(begun, "it is to change its shape", now, seen=event.seen)
        told = [] if begun.notice is None else [TellNotice(gang.id, begun.notice)]
        return [*noted, *saved, *told, Tell(gang.id)]

    def _take_turn(self, gang: Gang, turn: Turn | None, seen: Observed, now: Moment) -> list[Action]:
        """What is next in a change of shape: the record first, then the placement group that it leaves. The next one
        is made at once where it can be: so Ray, which has no taints, has it before others' work."""
        if turn is None:
            return []
        if turn.gang is None:
            return self._give_back(gang, turn.why, now, failed=turn.failed)
        if turn.gang.group is not None:
            forgotten = [DeleteMap(group) for group in gang.groups if group not in turn.gang.groups]
            return [*self._save(turn.gang, turn.why, now, seen=seen), *forgotten]
        self._notes(gang).registered = False
        if made_here(turn.gang) and self.records.begins.ready:
            return self._register(turn.gang, turn.why, now, left=gang.group)
        left: list[Action] = [RemoveGroup(gang.group), DeleteMap(gang.group)] if gang.group is not None else []
        return [*self._save(turn.gang, turn.why, now), *left]

    # -- the queue outside that pays for it

    def _quota_answered(self, gang: Gang, answer: Answer, seen: Observed, now: Moment) -> list[Action]:
        """Admitted, it comes into our own queue, for the nodes that are paid for. What is taken back is given back
        whole before it is asked for again, in the same order as if it had failed."""
        quota, notes = gang.quota, self._notes(gang)
        if quota is None or gang.releasing:
            return []
        waits_for = (wanting(gang.request, quota.queue, answer.why),)
        if quota.granted is None and answer.said is Said.NOTHING:
            return [AskQuota(gang.id)]
        if quota.granted is None and answer.said is Said.WAITS:
            told, notes.answer, notes.refused = notes.answer == answer, answer, waits_for
            return [] if told else [Tell(gang.id)]
        if answer.said is Said.ADMITTED:
            notes.answer = notes.evicted = None  # what it said before counts no more
            if quota.granted is not None:
                return []
            admitted = replace(gang, quota=replace(quota, granted=answer.granted))
            return [*self._save(admitted, f"admitted by {quota.queue}", now, ()), Tell(gang.id)]
        if seen.group_state == "ABSENT":
            return []  # its program has removed it, so it is given back next
        gang, noted = self._see(gang, seen, now)
        why = f"{quota.queue}: {answer.why or 'the request is gone'}"
        if seen.placed_once and answer.said is Said.EVICTED and not self._grace_is_over(gang, why, now):
            return noted
        # Whoever has a placement group that Ray has placed does not expect another one.
        if answer.said is Said.REFUSED or seen.placed_once or (gang.ordinary is not None and gang.group is not None):
            return [*noted, *self._give_back(gang, why, now, failed=True)]
        return [*noted, *self._ask_again(gang, quota, f"quota taken back by {why}", now, waits_for)]

    def _grace_is_over(self, gang: Gang, why: str, now: Moment) -> bool:
        """Of a gang that runs and is evicted: its program has had notice of it (`Observed.ending`) for so long; after a
        restart, too, by the deadline in its record."""
        notes, notice = self._notes(gang), gang.notice
        if notes.evicted is None:
            notes.evicted = now.lived, why
        told = notice is not None and notice.reason == notes.evicted[1] and (notice.deadline or math.inf) <= now.wall
        return told or now.lived - notes.evicted[0] >= GRACE_SECONDS

    def _ask_again(
        self, gang: Gang, quota: Quota, why: str, now: Moment, waits_for: tuple[Shortfall, ...]
    ) -> list[Action]:
        """It holds nothing any more, and costs no try; the next request is made once nothing is left of the last."""
        moved = int(gang.allocation is not None)
        again = replace(
            gang,
            quota=Quota(quota.queue, quota.asks + 1),
            allocation=None,
            ends=None,
            group=None,
            moves=gang.moves + moved,
            gave_way=gang.gave_way + moved,
            old_groups=gang.groups,
            notice=None,
            replacing=(),
        )
        actions = self._save(again, why, now, waits_for)
        if gang.group is not None:
            actions += [RemoveGroup(gang.group), DeleteMap(gang.group)]
        return [*actions, Tell(gang.id)]

    # -- elsewhere

    def _plan_elsewhere(
        self, gang: Gang, place: PlaceKind, reason: str, now: Moment, *, gives_way: bool = False
    ) -> list[Action]:
        """For want of workers: planned again, also where no other place is free now. `gives_way`: to another
        RayCluster's gang."""
        gang = replace(gang, gave_way=gang.gave_way + gives_way)
        workers = len(set(gang.allocation.nodes)) if gang.allocation is not None else 0
        lacking = short(ShortfallKind.WORKERS, Place(place), workers, None, reason=reason)
        return self._plan_again(gang, reason, now, stay=False, waits_for=(lacking,))

    def _plan_again(
        self, gang: Gang, why: str, now: Moment, *, stay: bool, waits_for: tuple[Shortfall, ...] | None = None
    ) -> list[Action]:
        """Another place for a gang that cannot go on where it is. `stay`: not if it can have this one yet, or has its
        clique to itself; where others' work is there and no other place is free, it gives up what Ray does not give."""
        if gang.reshape is not None:
            if gang.reshape.stage is not ReshapeStage.DRAINS:
                return []  # its own GPUs alone will do: it waits for them, as long as its program says
            gang = stay_in_shape(gang, cut(why, MOST_BYTES))
        if gang.allocation is None or gang.releasing:
            return []
        if gang.ordinary is not None and gang.group is not None:
            return self._other_devices(gang, gang.allocation, why, now)
        others = self.records.cliques_near(gang, gang.batch)
        answer = self.planning.elsewhere(
            gang.allocation, lambda: place_near(self.planning, gang, others, gang.moves + 1)
        )
        found = answer if isinstance(answer, Allocation) else None
        same = found is not None and found.grants == gang.allocation.grants
        if stay and (same or (found is None and gang.request.locality.exclusive)):
            self._notes(gang).since = now.lived
            return []
        if not isinstance(answer, Allocation):
            waits_for = answer.shortfalls
        moved = replace(gang, allocation=found, group=None, moves=gang.moves + 1, old_groups=gang.groups, notice=None)
        moved = replace(moved, replacing=())
        moved = replace(moved, ends=_ends(gang, now) if found is not None else None)
        actions = self._save(moved, f"planned again: {why}", now, waits_for)
        if gang.group is not None:
            actions += [RemoveGroup(gang.group), DeleteMap(gang.group)]
        return actions if found is not None else [*actions, Tell(gang.id)]

    def _repair(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        """The first of the declared ways that is possible. What was not is tried again once the inventory has
        changed."""
        notes, inventory = self._notes(gang), self.planning.inventory
        if gang.notice is None or notes.no_place == inventory.changes:
            return []
        for way in gang.on_fault.ways:
            actions: list[Action] = []
            if way is Way.REPLACE:
                actions = self._replace(gang, gang.notice.faulty, gang.notice.reason, now, moves_before=gang.moves + 1)
            elif way is Way.RESTART:
                actions = self._restart(gang, gang.notice.reason, now, lost=bool(seen.lost))
            if actions:
                return actions
        notes.no_place = inventory.changes
        return []

    def _replace(
        self, gang: Gang, faulty: Collection[int], why: str, now: Moment, *, moves_before: int
    ) -> list[Action]:
        """New workers in the place of those of these bundles, in the same placement group. `moves_before`: of which the
        tries do not count."""
        found = place_again(self.planning, gang, faulty)
        if found is None or gang.group is None:
            return []
        moves = gang.moves + 1
        nodes = tuple(node for node, renewed in found.renewed if renewed == moves)
        again = replace(gang, allocation=found, moves=moves, gave_way=moves_before, notice=None, replacing=nodes)
        why = f"replace, on {', '.join(nodes)}: {why}"
        saved = self._save(again, why, now)
        return [TellRepair(gang.id, why), WriteMap(gang.group, found), *saved, Tell(gang.id)]

    def _replaced(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        """Whether new workers are there, and Ray has placed their bundles on them."""
        progress = self._notes(gang).progress
        if progress.joined and seen.group_state == "CREATED":
            done = f"replaced: workers on {', '.join(gang.replacing)} have joined"
            return self._save(replace(gang, replacing=()), done, now)
        if progress.joined and seen.held_for > seen.place_within:
            why = progress.said or f"Ray did not place their bundles within {seen.place_within:.0f} s"
            return self._replacement_failed(gang, why, now)
        return []

    def _replacement_failed(self, gang: Gang, why: str, now: Moment) -> list[Action]:
        """The next way that was declared; where there is none, other nodes, as long as the gang has tries."""
        why = f"workers in place of lost ones could not be had: {why}"
        if Way.RESTART in gang.on_fault.ways:
            return self._restart(gang, why, now, lost=True)
        nodes, states = (
            gang.allocation.nodes if gang.allocation is not None else (),
            self.planning.inventory.node_states,
        )
        lost = {node for node in nodes if node in gang.replacing or node not in states or not states[node].node.ready}
        faulty = [rank for rank, node in enumerate(nodes) if node in lost]
        actions = self._replace(gang, faulty, why, now, moves_before=gang.gave_way) if may_move(gang) else []
        if actions:
            return actions
        self._notes(gang).no_place = self.planning.inventory.changes
        return [TellRepair(gang.id, why), *self._save(replace(gang, replacing=()), why, now)]

    def _restart(self, gang: Gang, why: str, now: Moment, *, lost: bool) -> list[Action]:
        """The whole gang once more, after a fault: elsewhere, or in the queue with the turn that it had. It has all its
        tries again. Of what is only to be drained (not `lost`) nothing ends before another place is free."""
        if gang.allocation is None:
            return []
        others = self.records.cliques_near(gang, gang.batch)
        answer = self.planning.elsewhere(
            gang.allocation, lambda: place_near(self.planning, gang, others, gang.moves + 1)
        )
        found, waits_for = (answer, None) if isinstance(answer, Allocation) else (None, answer.shortfalls)
        if found is None and not lost:
            return []
        moves = gang.moves + 1
        again = replace(
            gang,
            allocation=found,
            ends=_ends(gang, now) if found is not None else None,
            group=None,
            moves=moves,
            gave_way=moves,
            restarts=gang.restarts + 1,
            old_groups=gang.groups,
            notice=None,
            replacing=(),
            times=StageTimes(again=True),
        )
        why = f"restart: {why}"
        told = TellRepair(gang.id, why)
        self._notes(gang).registered = False
        if found is not None and made_here(again) and self.records.begins.ready:
            return [told, *self._register(again, why, now, left=gang.group)]
        saved, *more = self._save(again, why, now, waits_for)
        if isinstance(saved, Save) and found is None and gang.quota is None:
            saved = replace(saved, keep_until=now.lived + KEPT_SECONDS)
        left: list[Action] = [RemoveGroup(gang.group), DeleteMap(gang.group)] if gang.group is not None else []
        return [told, saved, *more, *left, Tell(gang.id)]

    def _other_devices(self, gang: Gang, held: Allocation, why: str, now: Moment) -> list[Action]:
        """Of the same nodes, as Ray has registered it there; none where no others are free."""
        if self.own_workers:  # which have these devices and no others
            return []
        found = self.planning.other_devices(gang.request, held, gang.moves + 1)
        if found is None or found.grants == held.grants:
            return []
        moved = replace(gang, allocation=found, moves=gang.moves + 1)
        return [*self._save(moved, f"other devices: {why}", now), WriteMap(gang.id, found)]

    # -- the end

    def _give_back(self, gang: Gang, why: str, now: Moment, *, failed: bool = False) -> list[Action]:
        """Its placement group is removed; its devices are free once Ray has ended its workers. `failed`: nothing more
        is tried for it, and whoever waits hears why."""
        why = cut(why, MOST_BYTES)  # it may be a container's last words, and goes into the record
        registered = bool(gang.group) and self._notes(gang).registered
        unknown = made_here(gang) and not registered and (gang.ordinary is not None or gang.group is not None)
        buried: list[Action] = [BuryGroup(gang.id)] if unknown else []
        if not _made(gang):
            return [*buried, Drop(gang.id, why)]  # it held nothing
        actions: list[Action] = []
        # Without workers to undo, a placement group that is gone is record enough for a coordinator that starts again.
        if failed or (not gang.releasing and (gang.group is None or self.own_workers)):
            actions = self._save(replace(gang, releasing=True, failed=why if failed else gang.failed), why, now)
        return [*actions, *buried, *map(RemoveGroup, gang.groups), EndWorkers(gang.id, why)]

    def _workers_left(self, gang: Gang, event: WorkersLeft, now: Moment) -> list[Action]:
        if not event.busy:
            return self._end(gang, event.undone, event.why, now)
        return [] if gang.releasing else self._save(replace(gang, releasing=True), event.why, now)

    def _end(self, gang: Gang, undone: bool, why: str, now: Moment) -> list[Action]:
        """Once the workers made for it are given back, look by look. A program that gives back what has met a fault is
        likely to ask again; one whose gang was ended is not."""
        notes = self._notes(gang)
        notes.ending = True
        comes_back = notes.faulted and not (gang.failed or gang.detached or gang.quota is not None)
        keep_until = now.lived + KEPT_SECONDS if comes_back else None
        return [Drop(gang.id, why, keep_until)] if undone or not _made(gang) else []

    # -- records

    def _save(
        self,
        gang: Gang,
        why: str,
        now: Moment,
        waits_for: tuple[Shortfall, ...] | None = None,
        could_start: float | None = None,
        *,
        seen: Observed | None = None,
    ) -> list[Action]:
        """A record with this change in its history. `seen`: what the world shows of it just now, where it stays."""
        before = self.records.gangs.get(gang.id)
        begins = before is None or before.allocation is not gang.allocation
        progress = self.records.begins if begins else self._notes(gang).progress
        seen = seen or Observed(provisioned=progress.ready)
        gang, timed = _timed(_changed(gang, phase(gang, seen), why, now), stage_of(gang, seen, progress), now)
        return [Save(gang, waits_for, could_start), Note(gang.id, gang.name, gang.history[-1]), *timed]

    def _see(self, gang: Gang, seen: Observed, now: Moment) -> tuple[Gang, list[Action]]:
        """Take note of the phase and stage that the world says a gang is in, and of what it says of its end."""
        before, noted = gang, list[Action]()
        to, was = phase(gang, seen), gang.history[-1].to if gang.history else None
        if to is not was:
            why = "; ".join(seen.lost) if to is Phase.DEGRADED else ""
            why = why or (ARROWS.get((was, to), "") if was is not None else "found in the store")
            gang = _changed(gang, to, why, now)
            noted.append(Note(gang.id, gang.name, gang.history[-1]))
        self._note_faults(gang, seen)
        if not gang.releasing:  # else it has heard of its end
            gang, told = _with_notice(gang, seen, now)
            noted += told
        gang, timed = _timed(gang, stage_of(gang, seen, self._notes(gang).progress), now)
        if gang is not before:
            self.records.put(gang, now.lived)
        return gang, [*noted, *timed]

    def _note_faults(self, gang: Gang, seen: Observed) -> None:
        """Once its placement group is gone, what was seen before counts too: the program may have been as quick."""
        notes = self._notes(gang)
        runs = seen.placed_once and not gang.releasing
        faulted = bool(seen.lost or to_drain(seen.ending)) and (seen.placed_once or seen.group_state == "ABSENT")
        notes.faulted = seen.owner_alive and (faulted or (notes.faulted and not runs))

    def _notes(self, gang: Gang) -> RuntimeNotes:
        return self.records.notes[gang.id]


def _made(gang: Gang) -> bool:
    """Whether anything may have been made for a gang."""
    return bool(gang.moves) or gang.allocation is not None


def _ends(gang: Gang, now: Moment) -> float | None:
    """When a gang that gets its devices now has ended, as its program guesses."""
    return now.wall + gang.runs_for if gang.runs_for is not None else None


def _changed(gang: Gang, to: Phase, why: str, now: Moment) -> Gang:
    was = gang.history[-1].to if gang.history else None
    why = cut(why, MOST_BYTES)
    change = Change(now.wall, was, to, why if len(why) <= MOST_WHY else f"{why[: MOST_WHY - 3]}...")
    return replace(gang, history=(*gang.history[1 - MOST_CHANGES :], change))


def _with_notice(gang: Gang, seen: Observed, now: Moment) -> tuple[Gang, list[Action]]:
    """The gang with the notice of what the world shows of its end, and what is told of a new one. Stored at once: after
    a restart its deadline is what the program was told."""
    before, notice = gang.notice, noticed(gang.notice, ending_of(gang, seen, now.wall), now.wall)
    if notice is before:
        return gang, []
    told: list[Action] = []
    if notice is not None:
        why = f"notice: {notice.reason}"
        told = [TellNotice(gang.id, notice)]
    else:
        why = f"the notice is taken back: {before.reason if before is not None else ''}"
    gang = _changed(replace(gang, notice=notice), gang.history[-1].to if gang.history else phase(gang, seen), why, now)
    return gang, [Save(gang), Note(gang.id, gang.name, gang.history[-1]), *told]


def _timed(gang: Gang, stage: str | None, now: Moment) -> tuple[Gang, list[Action]]:
    """The gang in this stage of its way to readiness, and which one has ended with that."""
    times, ended = gang.times.entered(stage, now.wall)
    if times is gang.times:
        return gang, []
    timed: list[Action] = [Timed(gang.id, ended)] if ended is not None else []
    if times.stage == READY and not times.again:
        timed.append(Timed(gang.id, StageEnded(READY, times.total)))
    return replace(gang, times=times), timed


def _sentence(shortfalls: tuple[Shortfall, ...]) -> str:
    return "; ".join(map(str, shortfalls))
