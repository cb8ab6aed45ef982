"""The first in the queue has GPUs enough and no clique: movable gangs get notice, and then other places.

All of them are moved in one step of one of them, each by a write of its own; a coordinator that is killed in between
goes on with the rest, or takes their notice back where that cannot be any more. Neighbours: `consolidation.py` says
who, `evictions.py` has the notice, `preempting.py` takes devices without giving others.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ray_dra.core.gangs.actions import Action, DeleteMap, RemoveGroup, Tell
from ray_dra.core.gangs.admission import Admission
from ray_dra.core.gangs.consolidation import Consolidation, gangs_to_move, losses, places_for
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.eviction import Eviction
from ray_dra.core.gangs.evictions import Evictions
from ray_dra.core.gangs.gang import Gang, made_here
from ray_dra.core.gangs.patience import Worth, slowdown
from ray_dra.core.gangs.planning import Answer
from ray_dra.core.gangs.sets import place_near
from ray_dra.core.gangs.starts import Starts
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import ShortfallKind

LOOK_SECONDS = 30.0  # between two looks at the same cluster: the longer a gang waits, the more is gained


class Consolidating:
    """See the module. Holds what was asked last, so that the same is not asked again at once."""

    def __init__(
        self, admission: Admission, evictions: Evictions, starts: Starts, settings: Consolidation, worth: Worth | None
    ) -> None:
        self.admission, self.evictions, self.starts, self.settings = admission, evictions, starts, settings
        self.records, self.planning, self.worth = evictions.records, admission.planning, worth
        self._asked: object = None
        self._again = -math.inf

    def for_first(self, now: Moment) -> list[Action]:
        """Notice for those who are moved for the first in the queue."""
        first = self.admission.refused(now.lived)
        if first is None or not (
            self.settings.times and self.records.movable and first.request.locality.within_cliques
        ):
            return []
        if self._asked == self.admission.no and now.wall < self._again:
            return []
        if any(gang.eviction is not None and gang.eviction.by == first.id for gang in self.records.leaving()):
            return []  # devices are about to come
        self._asked, self._again = self.admission.no, now.wall + LOOK_SECONDS
        lost = losses(self.records, self.settings, now.wall)
        gained = self._gained(first, now)
        if not lost or gained <= min(lost.values()):
            return []
        self.admission.searches()
        gangs = gangs_to_move(
            self.planning.inventory,
            first.request,
            lost,
            gained,
            self.settings.gangs,
            lambda: self._place(first, frozenset()),
            lambda gang, nodes: self._place(self.records.gangs[gang], nodes),
        )
        moved = [self.records.gangs[gang] for gang in gangs]
        until = now.wall + max((gang.on_fault.grace for gang in moved), default=0.0)
        why = f"moved to other GPUs, so that {first.name or first.id} has its clique"
        told = (self.evictions.tell(gang, Eviction(first.id, why, until, moves=True), now) for gang in moved)
        return [action for actions in told for action in actions]

    def move(self, gang: Gang, now: Moment) -> list[Action]:
        """The notice of a gang that is moved is over: it and all that are moved with it have other places, or all of
        them go on."""
        eviction = gang.eviction
        first = self.records.gangs.get(eviction.by) if eviction is not None else None
        if first is None or not first.waits:
            return self.evictions.take_back(gang, now)
        if eviction is None or now.wall < eviction.deadline:
            return []
        mine = (each for each in self.records.leaving() if each.eviction is not None and each.eviction.moves)
        told = {each.id: each for each in mine if each.eviction is not None and each.eviction.by == first.id}
        moved = dict(sorted(told.items()))  # as they were chosen
        found = places_for(
            self.planning.inventory,
            tuple(moved),
            lambda: self._place(first, frozenset()),
            lambda other, nodes: self._place(moved[other], nodes),
        )
        if found is None:
            return [action for each in moved.values() for action in self.evictions.take_back(each, now)]
        return [action for place in found for action in self._moved(moved[place.gang], place, now)]

    def _moved(self, gang: Gang, place: Allocation, now: Moment) -> list[Action]:
        why = gang.eviction.why if gang.eviction is not None else ""
        again = replace(self.starts.started_again(gang, place, now), consolidated=gang.consolidated + 1)
        self.evictions.recording.notes(gang).registered = False
        if made_here(again) and self.records.begins.ready:
            return self.starts.register(again, why, now, left=gang.group)
        left: list[Action] = [RemoveGroup(gang.group), DeleteMap(gang.group)] if gang.group is not None else []
        return [*self.evictions.recording.save(again, why, now), *left, Tell(gang.id)]

    def _place(self, gang: Gang, without: frozenset[str]) -> Answer:
        """Where a gang goes without these nodes, with what it prefers."""
        asked = replace(gang, request=replace(gang.request, exclude=gang.request.exclude | without))
        moves = gang.moves + (gang.allocation is not None)
        return place_near(self.planning, asked, self.records.cliques_near(gang, gang.batch), moves, strict=True)

    def _gained(self, first: Gang, now: Moment) -> float:
        """GPU seconds that are gained if the first in the queue has its clique soon.

        One that could start elsewhere loses what it is slower there. Another one waits until its reservation; or where
        nobody knows, as long again as it has waited.
        """
        notes, devices = self.records.notes[first.id], first.request.device_count
        if any(each.kind is ShortfallKind.PATIENCE for each in notes.refused):
            if first.runs_for is None or self.worth is None:
                return 0.0
            return devices * first.runs_for * (slowdown(first.request.locality, self.worth) - 1.0)
        until = notes.reservation.at - now.wall if notes.reservation is not None else now.lived - notes.since
        return devices * max(0.0, until)
