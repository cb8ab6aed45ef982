"""The first in the queue takes the devices of gangs of a lower priority: they get notice, and then give them back.

Asked at each look at which the first has been a no: so those who have notice, and are not needed any more because
somebody else has ended, go on. What was told stays while it is enough with those who end before it is over. What was
decided is in the victims' records (`Gang.eviction`), so that a coordinator that starts again goes on with it.
Neighbours: `preemption.py` says who may be taken, `victims.py` who of them, `evictions.py` acts; `queueing.py` asks.
"""

from __future__ import annotations

import math

from ray_dra.core.gangs.actions import Action
from ray_dra.core.gangs.admission import Admission
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.eviction import Eviction
from ray_dra.core.gangs.evictions import Evictions
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.planning import Answer, Planning
from ray_dra.core.gangs.preemption import BORROWED, Preemption, Takeable, leaves, takeable, waits_before
from ray_dra.core.gangs.sets import place_near
from ray_dra.core.gangs.team_order import TeamOrder
from ray_dra.core.gangs.victims import Prices, Rank, Victims, victims_as_preferred
from ray_dra.core.model.shortfall import ShortfallKind


class Preempting:
    """See the module. Holds what was asked last, so that the same is not asked again."""

    def __init__(self, admission: Admission, evictions: Evictions, settings: Preemption) -> None:
        self.admission, self.evictions, self.settings = admission, evictions, settings
        self.records, self.planning = evictions.records, admission.planning
        self._asked: object = None
        self._again = -math.inf  # the Unix time at which the answer may be another one though nothing has changed

    def for_first(self, now: Moment) -> list[Action]:
        """Notice for those whom the first in the queue takes, and for those no more whom it does not need any more."""
        first = self.admission.refused(now.lived)
        some_may = self.records.preemptible or self.records.evicted or self.records.team_order.declared
        if first is None or not (self.settings.most and some_may):
            return []
        if any(each.kind is ShortfallKind.PATIENCE for each in self.records.notes[first.id].refused):
            return []  # it could start, and waits for what it prefers
        mine = [gang.eviction for gang in self.records.leaving() if gang.eviction and gang.eviction.by == first.id]
        if any(eviction.moves for eviction in mine):
            return []  # devices are about to come
        teams = self.records.team_order.version
        asked = (self.admission.no, teams, frozenset((gang.id, gang.eviction) for gang in self.records.leaving()))
        if asked == self._asked and now.wall < self._again:
            return []
        self.admission.searches()
        found = takeable(self.records, first, self.settings, now.wall)
        some = mine or not all(map(leaves, found.prices.values()))
        near = self.records.cliques_near(first, 0)
        chosen = victims_for(self.planning, near, first, found) if some else None
        self._asked, self._again = asked, found.again
        if chosen is not None and not mine:
            waited = now.lived - self.records.notes[first.id].since
            more = waits_before(found.prices, chosen.gangs, first.request.device_count, self.settings) - waited
            if more > 0:
                self._again = min(self._again, now.wall + more)
                return []
        return self._tell(first, found.prices, chosen, now)

    def _tell(self, first: Gang, prices: Prices, chosen: Victims | None, now: Moment) -> list[Action]:
        gangs = chosen.gangs if chosen is not None else ()
        taken = [self.records.gangs[gang] for gang in gangs if not leaves(prices[gang])]
        actions: list[Action] = []
        for gang in self.records.leaving():
            if gang.eviction is not None and gang.eviction.by == first.id and gang.id not in gangs:
                actions += self.evictions.take_back(gang, now)
        grace = max((gang.on_fault.grace for gang in taken), default=0.0)  # all of them end at once
        for gang in taken:
            why = _why(first, gang, prices[gang.id].rank, self.records.team_order)
            actions += self.evictions.tell(gang, Eviction(first.id, why, now.wall + grace), now)
        return actions


def _why(first: Gang, gang: Gang, rank: Rank, teams: TeamOrder) -> str:
    name = first.name or first.id
    if rank[0] != BORROWED:
        return f"preempted by {name}, of priority {first.request.priority}"
    return f"borrowed by {teams.team(gang.team)}, and given back to {teams.team(first.team)}, for {name}"


def victims_for(planning: Planning, near: frozenset[str], first: Gang, takeable: Takeable) -> Victims | None:
    """Who has to end so that a gang gets what it prefers; where that cannot be, so that it gets anything."""

    def place(strict: bool) -> Answer:
        return place_near(planning, first, near, first.moves, strict=strict)

    return victims_as_preferred(planning.inventory, first.request, takeable.prices, place, takeable.told)
