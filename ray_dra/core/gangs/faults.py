"""What a fault leads to, as a gang's program has declared: workers are replaced, or the gang goes on without a part of
it, or is started again.

Neighbours: `repair.py` says what may be declared, `lifecycle.fault_is_due` when it is time, `replacing.py` where lost
slots go, `shrinking.py` what is left of a gang.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ray_dra.core.gangs.actions import (
    Action,
    DeleteMap,
    DrainRaylets,
    RemoveGroup,
    Save,
    Tell,
    TellNotice,
    TellRepair,
    WriteMap,
)
from ray_dra.core.gangs.ends import Ends
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.eviction import Eviction
from ray_dra.core.gangs.evictions import Evictions
from ray_dra.core.gangs.gang import Gang, made_here
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.lifecycle import Observed, may_move
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.planning import Answer, Planning
from ray_dra.core.gangs.preemption import Preemption, callable_back
from ray_dra.core.gangs.recording import Recording
from ray_dra.core.gangs.repair import Way, for_fault, is_lost
from ray_dra.core.gangs.replacing import place_again
from ray_dra.core.gangs.sets import place_near
from ray_dra.core.gangs.shapes import Shape
from ray_dra.core.gangs.shrinking import shrunk_to
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.gangs.starts import Starts
from ray_dra.core.gangs.victims import cheapest_victims
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.errors import MOST_BYTES, cut

MORE_SECONDS = 2.0  # for which a sign to drain stands on after the notice, before Ray is told; of the grace, half


class Faults:
    """See the module."""

    def __init__(
        self,
        recording: Recording,
        planning: Planning,
        starts: Starts,
        ends: Ends,
        evictions: Evictions,
        preemption: Preemption,
        *,
        own_workers: bool,
    ) -> None:
        self.own_workers = own_workers
        self.evictions, self.preemption = evictions, preemption
        self.recording = recording
        self.records = recording.records
        self.planning = planning
        self.starts = starts
        self.ends = ends

    def repair(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        """The first of the declared ways that is possible. What was not is tried again once the inventory has
        changed."""
        notes, inventory = self.recording.notes(gang), self.planning.inventory
        if gang.notice is None:
            return []
        if late := self._tell_late(gang, gang.notice, seen, now):
            return late
        for way in gang.on_fault.ways if notes.no_place != inventory.changes else ():
            actions: list[Action] = []
            if way is Way.REPLACE:
                actions = self._replace(gang, gang.notice.faulty, gang.notice.reason, now, moves_before=gang.moves + 1)
                if not actions and self._victims(gang):
                    break  # their devices are about to come
                actions = actions or self._take(gang, gang.notice.faulty, now)
            else:
                lost = is_lost(seen.ending) or bool(seen.drained)
                actions = self._anew(way, gang, gang.notice.faulty, gang.notice.reason, now, lost=lost)
            if actions:
                return actions
        notes.no_place = inventory.changes
        notes.at_loss = gang.notice if not self._victims(gang) else None
        return []

    def tell_libraries(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        """Ray's libraries hear of it, too, once the gang has its notice: they start again for it, and do not take that
        back. So only where one of the declared ways is possible, by which something does end, and of a sign to drain,
        which may pass just after the notice, only once it has stood a little longer. What is told stands in the gang's
        notes, for those who wait for it; of raylets that are the gang's own, Ray is told as well. That cannot be taken
        back either, and nothing new runs there from then on: so never of a raylet that others share."""
        notice, notes = gang.notice, self.recording.notes(gang)
        if notice is None or notice.deadline is None or not notice.faulty or gang.releasing or gang.replacing:
            return []
        ranks = self._to_tell(gang, notice, seen)
        if not ranks and notes.told == notice:
            return []
        if notice.deadline <= now.wall:
            return []  # of what is late, `_tell_late` tells
        if seen.breaker or not for_fault(seen.ending) or notes.may_end == self.planning.inventory.changes:
            return []
        grace = gang.on_fault.grace  # from the first of its signs: one that comes and goes changes what is said
        if not is_lost(seen.ending) and now.wall - (notice.deadline - grace) < min(MORE_SECONDS, grace / 2):
            return []
        if seen.drained.isdisjoint(notice.ranks) and not self._is_possible(gang, notice.faulty, seen):
            notes.may_end = self.planning.inventory.changes
            return []
        notes.told = notice
        return [DrainRaylets(gang.id, ranks, notice.deadline, notice.reason)] if ranks else []

    def _tell_late(self, gang: Gang, notice: Notice, seen: Observed, now: Moment) -> list[Action]:
        """Where nothing was possible while the notice ran, or there was a wave of signs, or nobody knows after a start,
        Ray's libraries have not heard of it, and now something is: the notice begins anew, and they hear of it before
        anything ends. What is lost is not waited for; nor where somebody waits in the queue, who would have the place
        meanwhile."""
        notes, changes, grace = self.recording.notes(gang), self.planning.inventory.changes, gang.on_fault.grace
        heard = notes.told is not None and notes.told.deadline == notice.deadline  # though of other signs, maybe
        if heard or notes.may_end == changes or is_lost(seen.ending) or not grace or self.records.waiting:
            return []
        if not seen.drained.isdisjoint(notice.ranks):
            return []  # it has heard by Ray's own notice
        if not self._is_possible(gang, notice.faulty, seen):
            notes.may_end = changes
            return []
        anew = replace(notice, deadline=now.wall + grace, since=now.wall)
        notes.told, notes.may_end = anew, -1
        saved = self.recording.save(replace(gang, notice=anew), f"notice anew: {notice.reason}", now, seen=seen)
        ranks = self._to_tell(gang, notice, seen)
        told: list[Action] = [DrainRaylets(gang.id, ranks, now.wall + grace, notice.reason)] if ranks else []
        return [*saved, TellNotice(gang.id, anew), *told]

    def _to_tell(self, gang: Gang, notice: Notice, seen: Observed) -> tuple[int, ...]:
        """The bundles of which Ray is to be told that their raylets, which are the gang's own, end."""
        stay = self._stay(gang, notice.faulty)
        return tuple(rank for rank in notice.ranks if rank in seen.untold and rank not in stay)

    def _is_possible(self, gang: Gang, faulty: Collection[int], seen: Observed) -> bool:
        """Whether something would be done, if it were due now."""
        for way in gang.on_fault.ways:
            if way is Way.REPLACE and place_again(self.planning, gang, faulty) is not None:
                return True
            if way is Way.SHRINK and shrunk_to(gang, faulty, own_workers=self.own_workers) is not None:
                return True
            if way is Way.RESTART and (is_lost(seen.ending) or isinstance(self._elsewhere(gang), Allocation)):
                return True
        return False

    def _stay(self, gang: Gang, faulty: Collection[int]) -> frozenset[int]:
        """The bundles whose raylets a gang keeps that is to shrink, though all of its placement group ends."""
        shrinks = gang.on_fault.ways[0] is Way.SHRINK and gang.allocation is not None
        left = shrunk_to(gang, faulty, own_workers=self.own_workers) if shrinks else None
        nodes = set(left.allocation.nodes) if left is not None else set[str]()
        held = gang.allocation.nodes if gang.allocation is not None else ()
        return frozenset(rank for rank, node in enumerate(held) if node in nodes)

    def _elsewhere(self, gang: Gang) -> Answer | None:
        """Where the whole gang would be started again."""
        if gang.holds is None:
            return None
        others = self.records.cliques_near(gang, gang.batch)
        return self.planning.elsewhere(gang.holds, lambda: place_near(self.planning, gang, others, gang.moves + 1))

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
        saved = self.recording.save(again, why, now)
        return [TellRepair(gang.id, why), WriteMap(gang.group, found), *saved, Tell(gang.id)]

    def _victims(self, gang: Gang) -> dict[str, Gang]:
        """Those who have notice that they end for this gang's repair."""
        leaving = (each for each in self.records.leaving() if each.eviction is not None and each.eviction.repairs)
        return {each.id: each for each in leaving if each.eviction is not None and each.eviction.by == gang.id}

    def _take(self, gang: Gang, faulty: Collection[int], now: Moment) -> list[Action]:
        """Notice for those in whose place the lost slots could go: gangs that are lent a spare first."""
        prices = callable_back(self.records, gang, self.preemption, now.wall) if self.preemption.most else {}
        if not prices:
            return []

        def place() -> Answer:
            return place_again(self.planning, gang, faulty) or Unsatisfiable(gang.id, ())

        found = cheapest_victims(self.planning.inventory, gang.request, prices, place, by_counts=False)
        taken = [self.records.gangs[each] for each in (found.gangs if found is not None else ())]
        until = now.wall + max((each.on_fault.grace for each in taken), default=0.0)
        why = f"its place is for the repair of {gang.name or gang.id}"
        told = (self.evictions.tell(each, Eviction(gang.id, why, until, repairs=True), now) for each in taken)
        return [action for actions in told for action in actions]

    def take_for_repair(self, victim: Gang, seen: Observed, now: Moment) -> list[Action]:
        """What is next for a gang that ends for a repair. All of them end in one step with that repair: else they would
        have their places back from the queue. They go on where it is not to be done any more, or cannot be."""
        eviction = victim.eviction
        gang = self.records.gangs.get(eviction.by) if eviction is not None else None
        notice = gang.notice if gang is not None and not (gang.releasing or gang.replacing) else None
        if eviction is None or gang is None or notice is None or not notice.faulty:
            return self.evictions.take_back(victim, now)
        if now.wall < eviction.deadline or seen.breaker:
            return []
        victims, inventory = self._victims(gang), self.planning.inventory
        held = [each.allocation for each in victims.values() if each.allocation is not None]
        changes = inventory.changes
        for each in held:
            inventory.release(each.gang)
        actions = self._replace(gang, notice.faulty, notice.reason, now, moves_before=gang.moves + 1)
        for each in held:
            inventory.hold(each)
        inventory.changes = changes
        if not actions:
            return [action for each in victims.values() for action in self.evictions.take_back(each, now)]
        ended = (self.evictions.end(each, now) for each in victims.values())
        return [*(action for each in ended for action in each), *actions]

    def replaced(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        """Whether new workers are there, and Ray has placed their bundles on them."""
        progress = self.recording.notes(gang).progress
        if progress.joined and seen.group_state == "CREATED":
            done = f"replaced: workers on {', '.join(gang.replacing)} have joined"
            return self.recording.save(replace(gang, replacing=()), done, now)
        if progress.joined and seen.held_for > seen.place_within:
            why = progress.said or f"Ray did not place their bundles within {seen.place_within:.0f} s"
            return self.replacement_failed(gang, why, now)
        return []

    def replacement_failed(self, gang: Gang, why: str, now: Moment) -> list[Action]:
        """The next way that was declared; where there is none, other nodes, as long as the gang has tries."""
        why = f"workers in place of lost ones could not be had: {why}"
        nodes, states = (
            gang.allocation.nodes if gang.allocation is not None else (),
            self.planning.inventory.node_states,
        )
        lost = {node for node in nodes if node in gang.replacing or node not in states or not states[node].node.ready}
        faulty = [rank for rank, node in enumerate(nodes) if node in lost]
        actions: list[Action] = []
        for way in gang.on_fault.ways:
            actions = actions or self._anew(way, gang, faulty, why, now, lost=True)
        if not actions and may_move(gang):
            actions = self._replace(gang, faulty, why, now, moves_before=gang.gave_way)
        if actions:
            return actions
        self.recording.notes(gang).no_place = self.planning.inventory.changes
        return [TellRepair(gang.id, why), *self.recording.save(replace(gang, replacing=()), why, now)]

    def restart_in(self, gang: Gang, shape: Shape, why: str, now: Moment) -> list[Action]:
        """The same for a gang whose change of shape has come to nothing: in the shape that it had; nothing where its
        program has not declared that it starts again."""
        if Way.RESTART not in gang.on_fault.ways:
            return []
        before = replace(
            gang,
            request=shape.request,
            shrunk=shape.shrunk,
            allocation=gang.holds,
            reshape=None,
            reshaped=True,
            shape_failed=cut(why, MOST_BYTES),
        )
        return self._restart(before, why, now, lost=True)

    def _anew(
        self, way: Way, gang: Gang, faulty: Collection[int], why: str, now: Moment, *, lost: bool
    ) -> list[Action]:
        """A way that leads to another placement group."""
        if way is Way.RESTART:
            return self._restart(gang, why, now, lost=lost)
        return self._shrink(gang, faulty, why, now) if way is Way.SHRINK else []

    def _shrink(self, gang: Gang, faulty: Collection[int], why: str, now: Moment) -> list[Action]:
        """Whole segments that are well, in a new placement group on the devices that they have. It has all its tries
        again."""
        left = shrunk_to(gang, faulty, own_workers=self.own_workers)
        if left is None or left.shrunk is None:
            return []
        moves = gang.moves + 1
        smaller = replace(
            gang,
            request=left.request,
            allocation=left.allocation,
            shrunk=left.shrunk,
            group=None,
            moves=moves,
            gave_way=moves,
            old_groups=gang.groups,
            notice=None,
            replacing=(),
            reshaped=True,
            shape_failed="",
            times=StageTimes(again=True),
        )
        why = f"shrink, to {left.shrunk.said}: {why}"
        notes = self.recording.notes(gang)
        notes.registered, notes.could_grow = False, None
        told = TellRepair(gang.id, why)
        if made_here(smaller) and self.records.begins.ready:
            return [told, *self.starts.register(smaller, why, now, left=gang.group)]
        return [told, *self.recording.save(smaller, why, now), *_left(gang), Tell(gang.id)]

    def _restart(self, gang: Gang, why: str, now: Moment, *, lost: bool) -> list[Action]:
        """The whole gang once more, after a fault: elsewhere, or in the queue with the turn that it had. It has all its
        tries again. Of what is only to be drained, and Ray has not been told (not `lost`), nothing ends before another
        place is free."""
        answer = self._elsewhere(gang)
        if answer is None:
            return []
        found, waits_for = (answer, None) if isinstance(answer, Allocation) else (None, answer.shortfalls)
        if found is None and not lost:
            return []
        why = f"restart: {why}"
        if gang.ordinary is not None:  # its id is in its program's hands, which makes it anew; its place is kept
            return [TellRepair(gang.id, why), *self.ends.give_back(gang, why, now)]
        again = self.starts.started_again(gang, found, now)
        told = TellRepair(gang.id, why)
        self.recording.notes(gang).registered = False
        if found is not None and made_here(again) and self.records.begins.ready:
            return [told, *self.starts.register(again, why, now, left=gang.group)]
        saved, *more = self.recording.save(again, why, now, waits_for)
        if isinstance(saved, Save) and found is None and gang.quota is None:
            saved = replace(saved, keep_until=now.lived + KEPT_SECONDS)
        return [told, saved, *more, *_left(gang), Tell(gang.id)]


def _left(gang: Gang) -> list[Action]:
    """The placement group that it leaves goes."""
    return [RemoveGroup(gang.group), DeleteMap(gang.group)] if gang.group is not None else []
