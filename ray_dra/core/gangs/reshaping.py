"""A change of shape: it begins, and goes on step by step.

Neighbours: `reshape.py` says which shape may come, and what is next; here it becomes actions.
"""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.gangs.actions import Action, DeleteMap, Refuse, RemoveGroup, Tell, TellNotice
from ray_dra.core.gangs.ends import Ends
from ray_dra.core.gangs.events import Moment, ReshapeAsked
from ray_dra.core.gangs.gang import Gang, made_here
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.recording import Recording
from ray_dra.core.gangs.reshape import ReshapeStep, begin_reshape, reshape_notice
from ray_dra.core.gangs.starts import Starts
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import RayDraError


class Reshaping:
    """See the module."""

    def __init__(
        self, recording: Recording, planning: Planning, starts: Starts, ends: Ends, *, own_workers: bool
    ) -> None:
        self.recording = recording
        self.records = recording.records
        self.planning = planning
        self.starts = starts
        self.ends = ends
        self.own_workers = own_workers

    def reshape_asked(self, gang: Gang, event: ReshapeAsked, now: Moment) -> list[Action]:
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
        gang, noted = self.recording.see(gang, event.seen, now)
        begun = replace(gang, reshape=begun.reshape, shape_failed="")
        if gang.notice is None:  # else its program has heard that it ends anyway
            begun = replace(begun, notice=reshape_notice(begun, until, now.wall))
        saved = self.recording.save(begun, "it is to change its shape", now, seen=event.seen)
        told = [] if begun.notice is None else [TellNotice(gang.id, begun.notice)]
        return [*noted, *saved, *told, Tell(gang.id)]

    def check(self, gang: Gang, request: GangRequest, seen: Observed) -> None:
        """Whether the gang could begin to change to this shape now. Raises why not."""
        begun = begin_reshape(gang, request, seen, self.planning, own_workers=self.own_workers, until=0.0, timeout=1.0)
        if isinstance(begun, RayDraError):
            raise begun

    def take_step(self, gang: Gang, step: ReshapeStep | None, seen: Observed, now: Moment) -> list[Action]:
        """What is next in a change of shape: the record first, then the placement group that it leaves. The next one
        is made at once where it can be: so Ray, which has no taints, has it before others' work."""
        if step is None:
            return []
        if step.gang is None:
            return self.ends.give_back(gang, step.why, now, failed=step.failed)
        if step.gang.group is not None:
            forgotten = [DeleteMap(group) for group in gang.groups if group not in step.gang.groups]
            return [*self.recording.save(step.gang, step.why, now, seen=seen), *forgotten]
        self.recording.notes(gang).registered = False
        if made_here(step.gang) and self.records.begins.ready:
            return self.starts.register(step.gang, step.why, now, left=gang.group)
        left: list[Action] = [RemoveGroup(gang.group), DeleteMap(gang.group)] if gang.group is not None else []
        return [*self.recording.save(step.gang, step.why, now), *left]
