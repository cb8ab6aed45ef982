"""Those that wait, each team's in its own order, and whose turn it is among the teams.

Without queues of teams there is one list of all. Of each kind of waiting there is a list: gangs, which hold up who
comes after them, and ordinary placement groups, which hold up nobody. Pure; changed by whoever keeps the records.
Neighbours: `team_queues.py` says which team comes first, `records.py` keeps this up, the replay of traces asks it, too.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import NamedTuple

from ray_dra.core.gangs.team_queues import (
    NO_QUEUES,
    NOTHING,
    Amounts,
    Entitlement,
    TeamQueue,
    TeamQueues,
    beyond,
    entitlement,
)
from ray_dra.core.gangs.turn import Turn, arrival

ALL = ""
"""The one list, where there are no queues of teams."""


class _Rank(NamedTuple):
    """How soon a team's next gang comes among the teams: by its right, by what the team has, by arrival."""

    entitlement: Entitlement
    beyond: float
    sequence: int
    gang: str


class TeamOrder:
    """See the module.

    Attributes:
        queues: of the teams.
        declared: whether there are any.
        total: what the cluster has.
        version: counts the changes of the two.
    """

    def __init__(self) -> None:
        self.queues: TeamQueues = NO_QUEUES
        self.declared = False
        self.total = NOTHING
        self.version = 0
        self._hold_up: dict[str, list[Turn]] = {}  # by team, of those that hold up who comes after them
        self._ordinary: dict[str, list[Turn]] = {}
        self._teams: dict[str, str] = {}  # gang -> the queue that it names
        self._wanted: dict[str, Amounts] = {}  # by gang that waits
        self._held: dict[str, tuple[str, Amounts]] = {}  # by gang that has devices
        self._has: dict[str, Amounts] = {}  # by team
        self._ranked: list[tuple[_Rank, str]] | None = None  # the teams' first, the soonest first; None: not known

    # -- changes

    def declare(self, queues: TeamQueues) -> None:
        """These queues from here on; gangs that wait in one that is gone do so until it comes back."""
        waiting = [(turn, ordinary) for ordinary in (False, True) for turn in self.turns(ordinary=ordinary)]
        holding = [(gang, *held) for gang, held in self._held.items()]
        teams, wanted = dict(self._teams), dict(self._wanted)
        self.queues, self.declared = queues, bool(queues)
        self.version, self._ranked = self.version + 1, None
        for kept in (self._hold_up, self._ordinary, self._teams, self._wanted, self._held, self._has):
            kept.clear()
        for turn, ordinary in waiting:
            self.wait(teams[turn[2]], turn, wanted[turn[2]], ordinary=ordinary)
        for gang, named, amounts in holding:
            self.hold(gang, named, amounts)

    def resize(self, total: Amounts) -> None:
        """The cluster has so much."""
        if total != self.total:
            self.total, self.version, self._ranked = total, self.version + 1, None

    def wait(self, named: str, turn: Turn, wants: Amounts, *, ordinary: bool = False) -> None:
        """A gang comes into the queue that it names."""
        insort(self._lists(ordinary).setdefault(self.team(named), []), turn)
        self._teams[turn[2]], self._wanted[turn[2]], self._ranked = named, wants, None

    def leave(self, turn: Turn, *, ordinary: bool = False) -> None:
        """It waits no more."""
        lists, team = self._lists(ordinary), self.team(self._teams.pop(turn[2]))
        del lists[team][bisect_left(lists[team], turn)]
        if not lists[team]:
            del lists[team]
        del self._wanted[turn[2]]
        self._ranked = None

    def hold(self, gang: str, named: str, amounts: Amounts) -> None:
        """A gang has devices."""
        team = self.team(named)
        self._held[gang] = named, amounts
        self._has[team] = self.has(team).plus(amounts)
        self._ranked = None

    def let_go(self, gang: str) -> None:
        """It has none any more, if it had."""
        named, amounts = self._held.pop(gang, (None, NOTHING))
        if named is None:
            return
        team = self.team(named)
        left = self.has(team).minus(amounts)
        self._has[team] = left
        if not left.gpus:  # nothing is left of roundings
            del self._has[team]
        self._ranked = None

    # -- questions

    def team(self, named: str) -> str:
        """The list in which a gang waits that names this queue."""
        return self.queues.queue(named).name if self.declared else ALL

    def queue(self, named: str) -> TeamQueue | None:
        """The queue of gangs that name it; None without queues of teams."""
        return self.queues.queue(named) if self.declared else None

    def has(self, named: str) -> Amounts:
        """What a team has."""
        return self._has.get(self.team(named), NOTHING)

    @property
    def teams(self) -> Mapping[str, Amounts]:
        """What each team has that has anything."""
        return self._has

    def turns(self, *, ordinary: bool = False) -> Iterator[Turn]:
        """All that wait, each team's in order."""
        return (turn for waiting in self._lists(ordinary).values() for turn in waiting)

    def part(self, turns: Iterable[Turn]) -> TeamOrder:
        """The same teams with what they have; of those that wait and hold up who comes after them, these alone."""
        found = TeamOrder()
        found.resize(self.total)
        found.declare(self.queues)
        for turn in turns:
            found.wait(self._teams[turn[2]], turn, self._wanted[turn[2]])
        for gang, (named, amounts) in self._held.items():
            found.hold(gang, named, amounts)
        return found

    def own_ahead(self, named: str, turn: Turn) -> int:
        """How many of its own team wait before a gang, there or not, and hold it up."""
        return bisect_left(self._hold_up.get(self.team(named), ()), turn)

    def first_of(self, named: str) -> Turn | None:
        """The first of a team that holds up who comes after it."""
        waiting = self._hold_up.get(self.team(named))
        return waiting[0] if waiting else None

    @property
    def first(self) -> Turn | None:
        """Whose turn it is, of those that hold up who comes after them; None: nobody's, as nobody waits or all who are
        first in their teams are over their limits."""
        if not self.declared:
            return self._hold_up[ALL][0] if ALL in self._hold_up else None
        ranked = self._firsts()
        return self._hold_up[ranked[0][1]][0] if ranked else None

    def after_first(self, most: int) -> list[Turn]:
        """At most so many of those that come after the first, in the order in which they would start if those before
        them did; those over a limit by then come last of their teams."""
        if not self.declared:
            return self._hold_up.get(ALL, [])[1 : 1 + most]
        has = dict(self._has)
        heap = [(self._rank(team, waiting[0], has), team, 0) for team, waiting in self._hold_up.items()]
        heapq.heapify(heap)
        first, found = self.first, list[Turn]()
        while heap and len(found) < most:
            rank, team, at = heapq.heappop(heap)
            turn = self._hold_up[team][at]
            if turn != first:
                found.append(turn)
            if rank.entitlement is not Entitlement.OVER_LIMIT:
                has[team] = has.get(team, NOTHING).plus(self._wanted[turn[2]])
            if at + 1 < len(self._hold_up[team]):
                heapq.heappush(heap, (self._rank(team, self._hold_up[team][at + 1], has), team, at + 1))
        return found

    def ahead(self, named: str, turn: Turn, wants: Amounts) -> int:
        """How many wait before a gang, there or not, and hold it up: those of its team, and of every other team its
        first if it comes sooner."""
        if not self.declared:
            return bisect_left(self._hold_up.get(ALL, ()), turn)
        team = self.team(named)
        own = self._hold_up.get(team, [])
        before = bisect_left(own, turn)
        mine = self._rank(team, own[0]) if before else self._rank_of(team, turn, wants, self.has(team))
        sooner = self._firsts()[: bisect_left(self._firsts(), (mine, ""))]
        return before + len(sooner) - ((self._rank(team, own[0]), team) in sooner if own else 0)

    def entitlement(self, named: str, wants: Amounts) -> Entitlement:
        """With what right a gang that names this queue would start now."""
        queue = self.queue(named)
        if queue is None:
            return Entitlement.GUARANTEED
        return entitlement(queue, self.has(named).gpus, wants.gpus)

    def may_pass_first(self, named: str, wants: Amounts) -> bool:
        """Whether a gang may start before the first: within its limit, also once the first has started, and so that the
        first stays first, and guaranteed if it is."""
        first = self.first
        if first is None or not self.declared:
            return True
        queue, team = self.queues.queue(named), self.team(named)
        has = self.has(team).plus(wants)
        theirs = self.team(self._teams[first[2]])
        beside = self._wanted[first[2]].gpus if theirs == team else 0
        if queue.limit is not None and has.gpus + beside > queue.limit:
            return False
        if theirs != team:
            return True
        rank = self._rank_of(team, first, self._wanted[first[2]], has)
        if rank.entitlement is not self._rank(team, first).entitlement:
            return False
        return all(rank < other for other, whose in self._firsts() if whose != team)

    def next_ordinary(self, passed: MutableMapping[str, Turn]) -> Turn | None:
        """The ordinary placement group that is next, unless a gang that holds it up comes first. `passed`: up to which
        each team's were asked; those over their limits are added."""
        found: tuple[_Rank, Turn] | None = None
        for team, waiting in self._ordinary.items():
            turn = self._next_of(team, waiting, passed)
            own = self._hold_up.get(team)
            if turn is None or (own and own[0] < turn):
                continue
            rank = self._rank(team, turn)
            others = next((other for other, whose in self._firsts() if whose != team), None) if self.declared else None
            if (others is None or rank < others) and (found is None or rank < found[0]):
                found = rank, turn
        return found[1] if found is not None else None

    def _next_of(self, team: str, waiting: list[Turn], passed: MutableMapping[str, Turn]) -> Turn | None:
        """The next of a team's ordinary placement groups that is within its limit."""
        at = bisect_right(waiting, passed[team]) if team in passed else 0
        while at < len(waiting):
            turn = waiting[at]
            if self.entitlement(team, self._wanted[turn[2]]) is not Entitlement.OVER_LIMIT:
                return turn
            passed[team], at = turn, at + 1
        return None

    # -- inside

    def _lists(self, ordinary: bool) -> dict[str, list[Turn]]:
        return self._ordinary if ordinary else self._hold_up

    def _firsts(self) -> list[tuple[_Rank, str]]:
        """The teams whose first may start by their limits, the soonest first."""
        if self._ranked is None:
            ranked = [(self._rank(team, waiting[0]), team) for team, waiting in self._hold_up.items()]
            self._ranked = sorted(each for each in ranked if each[0].entitlement is not Entitlement.OVER_LIMIT)
        return self._ranked

    def _rank(self, team: str, turn: Turn, has: Mapping[str, Amounts] | None = None) -> _Rank:
        given = self._has if has is None else has
        return self._rank_of(team, turn, self._wanted[turn[2]], given.get(team, NOTHING))

    def _rank_of(self, team: str, turn: Turn, wants: Amounts, has: Amounts) -> _Rank:
        if not self.declared:
            return _Rank(Entitlement.GUARANTEED, 0.0, arrival(turn), turn[2])
        queue = self.queues.queue(team)
        right = entitlement(queue, has.gpus, wants.gpus)
        amount = {
            Entitlement.GUARANTEED: 0.0,
            Entitlement.BORROWED: beyond(queue, has, self.total),
            Entitlement.OVER_LIMIT: math.inf,
        }[right]
        return _Rank(right, amount, arrival(turn), turn[2])
