"""When a gang of the queue should start, or one that would come now, for whoever asks.

Neighbours: `forecast.py` plays the queue forward; `admission.py` says who runs until when.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from ray_dra.core.gangs.admission import Admission
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.forecast import MOST_AHEAD, MOST_NAMED, Expected, Next, starts
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.patience import runs_with
from ray_dra.core.gangs.planning import Answer, Planning
from ray_dra.core.gangs.quota import paid
from ray_dra.core.gangs.sets import place_near
from ray_dra.core.gangs.standing import limit_of
from ray_dra.core.gangs.turn import turn_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.request import GangRequest

COMES = "(comes now)"  # an id that no gang can have


class Expecting:
    """See the module. Holds nothing."""

    def __init__(self, admission: Admission) -> None:
        self.admission, self.records, self.planning = admission, admission.records, admission.planning

    def of_request(self, request: GangRequest, runs_for: float | None, now: Moment) -> Expected:
        """Of a gang that would come now."""
        request = replace(request, gang=COMES)
        return self.of(Gang(request, self.records.next_sequence(), runs_for=runs_for), now)

    def of(self, gang: Gang, now: Moment) -> Expected:
        """Of one that waits."""
        first = self.records.first
        queue = [first, *self.records.behind_first(MOST_AHEAD - 1)] if first is not None else []
        pooled = gang.request.in_pool
        if pooled:
            before = [self.records.gangs[gang_id] for _, _, gang_id in self.records.before_in_pool(gang)]
        else:
            before = [each for each in queue if each.id != gang.id and turn_of(each) < turn_of(gang)]
        ahead = max(len(before), self.records.ahead(gang))
        start = None
        if not pooled and ahead == len(before) and limit_of(self.records, gang) is None:
            nexts = [self._next(each, now) for each in (*before, gang)]
            found = starts(self.planning.inventory, self.admission.ends(now.wall), nexts, now.wall)
            start = found[-1] if len(found) == len(nexts) else None
        named = self.records.gangs
        after = start.after if start is not None else ()
        return Expected(
            ahead=ahead,
            first=tuple((each.name or each.id, each.request.device_count) for each in before[:MOST_NAMED]),
            starts=start.at if start is not None else None,
            after=tuple(named[other].name or other for other in after if other in named),
            silent=tuple(each.name or each.id for each in (*self._silent(), *before) if each.runs_for is None),
            guessed=gang.runs_for is not None,
            now=self.planning.explained(paid(gang.request, gang.quota)),
        )

    def _silent(self) -> list[Gang]:
        """Gangs that hold devices, and of which nobody can tell until when."""
        held = (gang for gang, _ in self.records.holders())
        return [gang for gang in held if not gang.releasing and gang.eviction is None and gang.ends is None]

    def _next(self, gang: Gang, now: Moment) -> Next:
        near = self.records.cliques_near(gang, gang.batch)
        worth = self.admission.discipline.worth

        def runs(allocation: Allocation) -> float | None:
            return runs_with(allocation, gang.request.locality, gang.runs_for, worth)

        place = partial(_place, self.planning, gang, near)
        since = self.admission.since(gang, now)
        waited = now.wall - since if since is not None else None
        return Next(paid(gang.request, gang.quota), place, self.admission.patience(gang), waited, runs)


def _place(planning: Planning, gang: Gang, near: Collection[DomainId], strict: bool) -> Answer:
    return place_near(planning, gang, near, gang.moves, strict=strict)
