"""When a gang of the queue should start, or one that would come now, for whoever asks.

Neighbours: `forecast.py` plays the queue forward; `answers.py` says who runs until when, `preempting.py` whom a gang
takes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial

from ray_dra.core.gangs.answers import Answers
from ray_dra.core.gangs.backfill import Reservation
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.forecast import MOST_AHEAD, MOST_NAMED, Expected, Next, Unreckoned, starts
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.patience import runs_with
from ray_dra.core.gangs.planning import Answer, Planning
from ray_dra.core.gangs.preempting import victims_for
from ray_dra.core.gangs.preemption import leaves, takeable, waits_before
from ray_dra.core.gangs.quota import paid
from ray_dra.core.gangs.sets import place_near
from ray_dra.core.gangs.standing import limit_of
from ray_dra.core.gangs.team_order import TeamOrder
from ray_dra.core.gangs.team_queues import NOTHING
from ray_dra.core.gangs.turn import Turn, turn_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable

COMES = "(comes now)"  # an id that no gang can have


class Expecting:
    """See the module. Holds nothing."""

    def __init__(self, answers: Answers) -> None:
        self.answers, self.records, self.planning = answers, answers.records, answers.planning

    def of_request(self, request: GangRequest, runs_for: float | None, now: Moment, team: str = "") -> Expected:
        """Of a gang that would come now. `team`: the queue that it names; "": none."""
        request = replace(request, gang=COMES)
        return self.of(Gang(request, self.records.next_sequence(), runs_for=runs_for, team=team), now)

    def of(self, gang: Gang, now: Moment) -> Expected:
        """Of one that waits."""
        if gang.request.in_pool:
            before = [self.records.gangs[gang_id] for _, _, gang_id in self.records.pools.before(gang)]
            return self._told(gang, len(before), before, None)
        mine, reckoned = turn_of(gang), _line(self.records.team_order, MOST_AHEAD)
        order = self._order_with(gang, reckoned)
        line = _line(order, len(reckoned) + 1)
        before = [self.records.gangs[turn[2]] for turn in line[: line.index(mine)]]
        its_turn = order.first == mine
        start = None
        if self._has_all_before(gang, reckoned):
            waiting = {turn[2]: self._next(self._gang(turn, gang), now) for turn in line}
            inventory, ends = self.planning.inventory, self.answers.ends(now.wall)
            start = starts(inventory, ends, order, waiting, gang.id, now.wall)
        told = self._told(gang, self.records.ahead(gang), self._holding_up(gang, before), start)
        takes = its_turn and gang.ordinary is None and isinstance(told.now, Unsatisfiable)
        return self._with_victims(told, gang, now) if takes else told

    def _order_with(self, gang: Gang, reckoned: Sequence[Turn]) -> TeamOrder:
        """The order of these, with a gang that is there or comes now."""
        order, mine = self.records.team_order, turn_of(gang)
        found = order.part(turn for turn in reckoned if turn != mine)
        found.wait(gang.team, mine, self.records.amounts(gang) if order.declared else NOTHING)
        return found

    def _has_all_before(self, gang: Gang, reckoned: Sequence[Turn]) -> bool:
        """Whether all that come before a gang are among these. Behind as many as are reckoned nobody can tell of other
        teams."""
        order, mine = self.records.team_order, turn_of(gang)
        whole = not order.declared or mine in reckoned or len(reckoned) < MOST_AHEAD
        own = [turn for turn in reckoned if turn < mine and self.records.same_team(self._gang(turn, gang), gang)]
        return whole and len(own) == order.own_ahead(gang.team, mine)

    def _gang(self, turn: Turn, mine: Gang) -> Gang:
        return mine if turn[2] == mine.id else self.records.gangs[turn[2]]

    def _holding_up(self, gang: Gang, before: Sequence[Gang]) -> list[Gang]:
        """Of those before a gang, its own team's, and the first of each other team: behind that one it is not."""
        order = self.records.team_order
        if not order.declared:
            return list(before)
        return [
            each for each in before if self.records.same_team(each, gang) or order.first_of(each.team) == turn_of(each)
        ]

    def _told(self, gang: Gang, ahead: int, before: Sequence[Gang], start: Reservation | None) -> Expected:
        named = self.records.gangs
        after = start.after if start is not None else ()
        return Expected(
            ahead=ahead,
            first=tuple((each.name or each.id, each.request.device_count) for each in before[: min(ahead, MOST_NAMED)]),
            starts=start.at if start is not None else None,
            after=tuple(named[other].name or other for other in after if other in named),
            silent=tuple(each.name or each.id for each in (*self._silent(), *before) if each.runs_for is None),
            guessed=gang.runs_for is not None,
            now=self.planning.explained(paid(gang.request, gang.quota)),
            limit=None if gang.request.in_pool else limit_of(self.records, gang),
            unreckoned=() if gang.request.in_pool else tuple(self._unreckoned()),
        )

    def _with_victims(self, told: Expected, gang: Gang, now: Moment) -> Expected:
        """Where it is the gang's turn, and it does not fit: whose devices it takes, as `preempting.py` would choose."""
        settings = self.answers.discipline.preemption
        if not settings.most:
            return told
        found = takeable(self.records, gang, settings, now.wall)
        prices = found.prices
        if all(map(leaves, prices.values())):
            return told
        chosen = victims_for(self.planning, self.records.cliques_near(gang, 0), gang, found)
        gangs = [self.records.gangs[name] for name in chosen.gangs] if chosen is not None else []
        taken = [each for each in gangs if not leaves(prices[each.id])]
        if not taken:
            return told
        ends = {name: end for end, name in self.answers.ends(now.wall)}
        notes = self.records.notes.get(gang.id)
        waited = now.lived - notes.since if notes is not None else 0.0
        more = waits_before(prices, [each.id for each in taken], gang.request.device_count, settings) - waited
        over = now.wall + max(0.0, more) + max(each.on_fault.grace for each in taken)
        over = max([over, *(ends.get(each.id, over) for each in gangs if each not in taken)])
        if told.starts is not None and told.starts <= over:
            return told
        return replace(told, starts=over, after=(), takes=tuple(each.name or each.id for each in taken))

    def _unreckoned(self) -> Iterator[Unreckoned]:
        order, discipline = self.records.team_order, self.answers.discipline
        if discipline.preemption.most and (self.records.preemptible or order.queues.guaranteed):
            yield Unreckoned.PREEMPTION
        if discipline.consolidation.times and self.records.movable:
            yield Unreckoned.MOVES

    def _silent(self) -> list[Gang]:
        """Gangs that hold devices, and of which nobody can tell until when."""
        held = (gang for gang, _ in self.records.holders())
        return [gang for gang in held if not gang.releasing and gang.eviction is None and gang.ends is None]

    def _next(self, gang: Gang, now: Moment) -> Next:
        near = self.records.cliques_near(gang, gang.batch)
        worth = self.answers.discipline.worth

        def runs(allocation: Allocation) -> float | None:
            return runs_with(allocation, gang.request.locality, gang.runs_for, worth)

        place = partial(_place, self.planning, gang, near)
        since = self.answers.since(gang, now)
        waited = now.wall - since if since is not None else None
        wants = self.records.amounts(gang) if self.records.team_order.declared else NOTHING
        patience = self.answers.patience(gang)
        return Next(paid(gang.request, gang.quota), place, patience, waited, runs, gang.team, wants)


def _line(order: TeamOrder, most: int) -> list[Turn]:
    """At most so many of those who wait, in the order in which they would start if those before them did; those over
    their limits, too."""
    first = order.first
    return order.after_first(most) if first is None else [first, *order.after_first(most - 1)]


def _place(planning: Planning, gang: Gang, near: Collection[DomainId], strict: bool) -> Answer:
    return place_near(planning, gang, near, gang.moves, strict=strict)
