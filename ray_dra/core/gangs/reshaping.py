"""A change of shape: it begins, because its program asks for it or a gang that faults have shrunk can grow back, and
goes on step by step.

Neighbours: `reshape.py` says which shape may come, and what is next, `growing.py` where a gang grows; here it becomes
actions.
"""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.gangs.actions import Action, DeleteMap, Refuse, RemoveGroup, Tell, TellNotice
from ray_dra.core.gangs.drains import FLAP_SECONDS
from ray_dra.core.gangs.ends import Ends
from ray_dra.core.gangs.events import Moment, ReshapeAsked
from ray_dra.core.gangs.faults import Faults
from ray_dra.core.gangs.gang import Gang, made_here
from ray_dra.core.gangs.growing import grown, still_there
from ray_dra.core.gangs.lifecycle import Observed, phase
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.recording import Recording
from ray_dra.core.gangs.reshape import (
    ReshapeStep,
    begin_growth,
    begin_reshape,
    next_reshape_step,
    reshape_notice,
    stay_in_shape,
)
from ray_dra.core.gangs.shapes import ReshapeStage, Shape
from ray_dra.core.gangs.starts import Starts
from ray_dra.core.gangs.team_queues import Entitlement, amounts_of
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import RayDraError

AGAIN_SECONDS = 600.0  # after a gang could not grow back, before it tries again: each try ends its program's work


class Reshaping:
    """See the module."""

    def __init__(
        self, recording: Recording, planning: Planning, starts: Starts, ends: Ends, faults: Faults, *, own_workers: bool
    ) -> None:
        self.recording = recording
        self.records = recording.records
        self.planning = planning
        self.starts = starts
        self.ends = ends
        self.faults = faults
        self.own_workers = own_workers

    def reshape_asked(self, gang: Gang, event: ReshapeAsked, now: Moment) -> list[Action]:
        until = now.wall + event.grace
        begun = begin_reshape(
            gang,
            event.request,
            event.seen,
            self.planning,
            own_workers=self.own_workers,
            keep=event.keep,
            until=until,
            timeout=event.timeout,
        )
        if isinstance(begun, RayDraError):
            return [Refuse(begun)]
        if begun is None:
            return []
        if begun.reshape is None:
            return self.recording.save(begun, "gives back what it kept", now, seen=event.seen)
        gang, noted = self.recording.see(gang, event.seen, now)
        begun = replace(gang, reshape=begun.reshape, shape_failed="")
        if gang.notice is None:  # else its program has heard that it ends anyway
            begun = replace(begun, notice=reshape_notice(begun, until, now.wall))
        saved = self.recording.save(begun, "it is to change its shape", now, seen=event.seen)
        told = [] if begun.notice is None else [TellNotice(gang.id, begun.notice)]
        return [*noted, *saved, *told, Tell(gang.id)]

    def check(self, gang: Gang, request: GangRequest, seen: Observed, *, keep: bool) -> None:
        """Whether the gang could begin to change to this shape now. Raises why not."""
        own = self.own_workers
        begun = begin_reshape(gang, request, seen, self.planning, own_workers=own, keep=keep, until=0.0, timeout=1.0)
        if isinstance(begun, RayDraError):
            raise begun

    def grow(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        """A gang that faults have shrunk grows back, once there has been room for a while, and nobody waits before it.
        Its program has as much notice as of a fault."""
        notes, present = self.recording.notes(gang), gang.shape
        found = self._could_grow_to(gang, seen, now)
        if found is None or present is None:
            notes.could_grow = None
            return []
        if notes.could_grow is None:
            notes.could_grow = now.lived
        if now.lived - notes.could_grow < FLAP_SECONDS:
            return []
        notes.could_grow, until = None, now.wall + gang.on_fault.grace
        begun = begin_growth(gang, present, found, until)
        told = reshape_notice(begun, until, now.wall)
        why = f"grows back, to {found.shrunk.said if found.shrunk is not None else 'all of its bundles'}"
        saved = self.recording.save(replace(begun, notice=told), why, now, seen=seen)
        return [*saved, TellNotice(gang.id, told), Tell(gang.id)]

    def _could_grow_to(self, gang: Gang, seen: Observed, now: Moment) -> Shape | None:
        """What it could grow to now; None where it may not, or there is no room."""
        notes, inventory = self.recording.notes(gang), self.planning.inventory
        settled = phase(gang, seen) is Phase.READY and not (seen.ending or gang.eviction or seen.breaker)
        if not settled or notes.cannot_grow == inventory.changes or self.records.ahead(gang):
            return None
        if gang.shape_failed and now.lived - notes.since < AGAIN_SECONDS:
            return None
        team_order, has, over = self.records.team_order, amounts_of(gang.request), False

        def may(request: GangRequest) -> bool:
            nonlocal over
            more = amounts_of(request).minus(has)
            beyond = team_order.entitlement(gang.team, more) is Entitlement.OVER_LIMIT
            over = over or beyond
            return not beyond

        found = grown(self.planning, gang, own_workers=self.own_workers, may=may)
        if found is None and not over:  # a limit may rise though nothing changes in the inventory
            notes.cannot_grow = inventory.changes
        return found

    def observed(self, gang: Gang, seen: Observed, now: Moment) -> list[Action]:
        """One step further in a change of shape."""
        change = gang.reshape
        begins = change is not None and change.grows and change.stage is ReshapeStage.DRAINS
        if change is not None and begins and not still_there(self.planning, change):
            why = "it does not grow back: what it was to have is not there any more"
            return self.recording.save(stay_in_shape(gang, why), why, now, seen=seen)
        drains = change is not None and change.gpus and change.stage is ReshapeStage.DRAINS
        taken = self.planning.others_on(change.leaves.allocation) if change is not None and drains else ""
        if taken:  # before all of it was guarded; the next shape needs it whole, and would be waited for in vain
            why = f"somebody else has a part of its GPUs by now: {taken}"
            return self.recording.save(stay_in_shape(gang, why), f"its shape stays: {why}", now, seen=seen)
        return self.take_step(gang, next_reshape_step(gang, seen, now.wall), seen, now)

    def take_step(self, gang: Gang, step: ReshapeStep | None, seen: Observed, now: Moment) -> list[Action]:
        """What is next in a change of shape: the record first, then the placement group that it leaves. The next one
        is made at once where it can be: so Ray, which has no taints, has it before others' work."""
        if step is None:
            return []
        if step.gang is None:
            lost = gang.reshape if step.failed else None
            again = self.faults.restart_in(gang, lost.leaves, step.why, now) if lost is not None else []
            return again or self.ends.give_back(gang, step.why, now, failed=step.failed)
        if step.gang.group is not None:
            forgotten = [DeleteMap(group) for group in gang.groups if group not in step.gang.groups]
            return [*self.recording.save(step.gang, step.why, now, seen=seen), *forgotten]
        self.recording.notes(gang).registered = False
        if made_here(step.gang) and self.records.begins.ready:
            return self.starts.register(step.gang, step.why, now, left=gang.group)
        left: list[Action] = [RemoveGroup(gang.group), DeleteMap(gang.group)] if gang.group is not None else []
        return [*self.recording.save(step.gang, step.why, now), *left]
