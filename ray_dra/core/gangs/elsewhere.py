"""Another place for a gang that cannot go on where it is, before Ray has placed it.

Neighbours: `planning.py` finds the place; `faults.py` does so for a gang that has met a fault.
"""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.gangs.actions import Action, DeleteMap, RemoveGroup, Tell, WriteMap
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.recording import Recording
from ray_dra.core.gangs.reshape import stay_in_shape
from ray_dra.core.gangs.sets import place_near
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.gangs.starts import Starts
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import Place, PlaceKind, Shortfall, ShortfallKind, short
from ray_dra.errors import MOST_BYTES, cut


class Elsewhere:
    """See the module."""

    def __init__(self, recording: Recording, planning: Planning, starts: Starts, *, own_workers: bool) -> None:
        self.recording, self.starts = recording, starts
        self.records = recording.records
        self.planning = planning
        self.own_workers = own_workers

    def plan_elsewhere(
        self, gang: Gang, place: PlaceKind, reason: str, now: Moment, *, gives_way: bool = False
    ) -> list[Action]:
        """For want of workers: planned again, also where no other place is free now. `gives_way`: to another
        RayCluster's gang."""
        gang = replace(gang, gave_way=gang.gave_way + gives_way)
        workers = len(set(gang.allocation.nodes)) if gang.allocation is not None else 0
        lacking = short(ShortfallKind.WORKERS, Place(place), workers, None, reason=reason)
        return self.plan_again(gang, reason, now, stay=False, waits_for=(lacking,))

    def plan_again(
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
            self.recording.notes(gang).since = now.lived
            return []
        if not isinstance(answer, Allocation):
            waits_for = answer.shortfalls
        moved = replace(gang, allocation=found, group=None, moves=gang.moves + 1, old_groups=gang.groups, notice=None)
        moved = replace(moved, replacing=(), eviction=None, started=now.wall if found is not None else None)
        moved = replace(moved, ends=self.starts.guessed_end(gang, found, now) if found is not None else None)
        actions = self.recording.save(moved, f"planned again: {why}", now, waits_for)
        if gang.group is not None:
            actions += [RemoveGroup(gang.group), DeleteMap(gang.group)]
        return actions if found is not None else [*actions, Tell(gang.id)]

    def _other_devices(self, gang: Gang, held: Allocation, why: str, now: Moment) -> list[Action]:
        """Of the same nodes, as Ray has registered it there; none where no others are free."""
        if self.own_workers:  # which have these devices and no others
            return []
        found = self.planning.other_devices(gang.request, held, gang.moves + 1)
        if found is None or found.grants == held.grants:
            return []
        moved = replace(gang, allocation=found, moves=gang.moves + 1)
        return [*self.recording.save(moved, f"other devices: {why}", now), WriteMap(gang.id, found)]
