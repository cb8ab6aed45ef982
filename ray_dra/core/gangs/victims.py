"""Which running gangs end for another: the cheapest set of those that may be taken, never one more than needed. Pure.

    a set's cost: its highest rank; then the work lost; then devices; then gangs

Who may be taken, and at what price, is the caller's: `preemption.py` takes gangs of a lower priority. Up to ALL_SETS_OF
gangs the cheapest of all sets is found. Of more, where the request wants one clique, those of one clique after the
other are looked at, the clique with the lowest bound of the cost first; else all of them. Where so few are to choose
from there, again the cheapest of all sets is found; else as few leave, the cheapest first, as are enough, and then each
returns, the dearest first, without whom the request fits as well. Two orders are tried: by what a gang costs for each
of its devices, and by what the gangs of a node cost together.

Neighbours: `preemption.py` asks for the coordinator, `benchmarks/preemption.py` times it; `core.explain.whatif` names
who could leave to a program that was refused, by priority and devices alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

from ray_dra.core.cluster.clique_state import CLIQUE, CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import exclusive_key
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable

Answer = Allocation | Unsatisfiable
Rank = tuple[int, ...]

ALL_SETS_OF = 10
"""Up to so many gangs every set of them is tried."""
MOST_PLANS = 400
"""So often is the request planned in one search. What is not found by then is not taken."""

MANY = 64
"""Of more gangs than these, those are left first who have nothing where the request lies: each return is a plan."""


class Price(NamedTuple):
    """What it costs to take a gang.

    Attributes:
        rank: compared first, by the highest of a set, e.g. the priority.
        lost: work that is lost with it, in GPU seconds.
        devices: that it has.
    """

    rank: Rank
    lost: int
    devices: int


Prices = Mapping[str, Price]


class Cost(NamedTuple):
    """Of a set of gangs; the smaller is the better."""

    rank: Rank
    lost: int
    devices: int
    gangs: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Victims:
    """Who ends, by name, and what the other gang gets once they have ended."""

    gangs: tuple[str, ...]
    allocation: Allocation


def cost_of(prices: Prices, gangs: Iterable[str]) -> Cost:
    names = tuple(sorted(gangs))
    each = [prices[gang] for gang in names]
    rank = max((price.rank for price in each), default=())
    return Cost(rank, sum(p.lost for p in each), sum(p.devices for p in each), len(names), names)


def cheapest_victims(
    inventory: Inventory,
    request: GangRequest,
    prices: Prices,
    place: Callable[[], Answer],
    *,
    all_sets_of: int = ALL_SETS_OF,
    most_plans: int = MOST_PLANS,
    by_counts: bool = True,
) -> Victims | None:
    """The cheapest set of these gangs without which the request fits; None: there is none, or none was found in time.

    The inventory is as it was afterwards.

    Args:
        prices: those who may be taken; all of them hold devices, and no parts of GPUs (`backfill.can_leave`).
        place: `plan` for the request on the inventory as it is at that moment.
        by_counts: it is a no wherever fewer devices are free than the request has.
    """
    if not prices:
        return None
    search = _Search(inventory, request, prices, place, all_sets_of, most_plans, by_counts)
    try:
        return search.best()
    finally:
        search.all_back()


@dataclass(frozen=True, slots=True)
class Told:
    """What was told already on behalf of a request, and stays so while it is enough.

    Attributes:
        leave: those among the prices that end no later than the notice is over, those with the notice among them.
        by_then: others that have ended by then as well, as their programs guess.
    """

    leave: frozenset[str]
    by_then: frozenset[str]


def victims_as_preferred(
    inventory: Inventory,
    request: GangRequest,
    prices: Prices,
    place: Callable[[bool], Answer],
    told: Told | None = None,
) -> Victims | None:
    """The cheapest set without which the request gets what it prefers; where there is none, without which it gets
    anything. `place`: `plan` for it, strictly or not. `told`: who ends for it already, if anybody does."""
    preferred = request.locality.within_cliques and not request.locality.required
    found = _victims(inventory, request, prices, lambda: place(preferred), told)
    if found is None and preferred:
        anywhere = replace(request, locality=Locality(connect=request.locality.connect))
        found = _victims(inventory, anywhere, prices, lambda: place(False), told)
    return found


def _victims(
    inventory: Inventory, request: GangRequest, prices: Prices, place: Callable[[], Answer], told: Told | None
) -> Victims | None:
    """The cheapest set; but all who leave already, where these and those who have ended by then are enough.

    Those who have ended by then let nobody off, since without the notice they would not count: it would be taken back
    and told again without end.
    """
    if told is not None and told.by_then:
        found = cheapest_victims(inventory, request, {gang: prices[gang] for gang in told.leave}, place)
        if found is not None:
            return found
        answer = fits_without(inventory, told.leave | told.by_then, place)
        if isinstance(answer, Allocation):
            return Victims(tuple(sorted(told.leave)), answer)
    return cheapest_victims(inventory, request, prices, place)


def fits_without(inventory: Inventory, gangs: Iterable[str], place: Callable[[], Answer]) -> Answer:
    """What the planner answers once these have left. The inventory is as it was afterwards."""
    found = map(inventory.allocation, sorted(gangs))
    left, changes = [held for held in found if held is not None], inventory.changes
    inventory.release_all([held.gang for held in left])
    try:
        return place()
    finally:
        inventory.hold_all(left)
        inventory.changes = changes


class _Scope(NamedTuple):
    """Gangs to choose from.

    Attributes:
        clique: that they have devices of; None: they are all.
        devices: that each has there.
        frees: devices that are free there once each has left, at most.
        free: that are free there while none of them has left.
        least: the lowest rank and lost work that a set of them can have.
    """

    clique: CliqueState | None
    devices: Mapping[str, int]
    frees: Mapping[str, int]
    free: int
    least: tuple[Rank, int]


class _Search:
    """One search: gangs leave and return until the cheapest set is known."""

    def __init__(
        self,
        inventory: Inventory,
        request: GangRequest,
        prices: Prices,
        place: Callable[[], Answer],
        all_sets_of: int,
        most_plans: int,
        by_counts: bool,
    ) -> None:
        self._inventory, self._prices, self._place = inventory, prices, place
        self._all_sets_of, self._left = all_sets_of, most_plans
        self._wanted = request.whole_devices
        self._one_clique = request.locality.cliques == 1 and request.locality.segment is None
        self._wants_cliques = request.locality.within_cliques
        self._gone: dict[str, Allocation] = {}
        self._changes, self._free = inventory.changes, inventory.free_devices
        self._countable = by_counts and _countable(inventory, prices)
        self._frees = {gang: self._holds(gang) for gang in prices} if self._countable else {}
        self._places: dict[str | None, list[dict[str, tuple[Rank, int]]]] = {}  # by clique; what `_orders` sorts by

    def _holds(self, gang: str) -> int:
        """Devices of a gang, with those that none of its bundles has."""
        held = self._inventory.allocation(gang)
        return len(held.held_grants) if held is not None else 0

    # -- the inventory without some gangs

    def all_back(self) -> None:
        self._without(())
        self._inventory.changes = self._changes  # nothing has, for those who remember what they found

    def _without(self, gangs: Collection[str]) -> None:
        """Exactly these gangs are away."""
        wanted = set(gangs)
        back = [gang for gang in self._gone if gang not in wanted]
        if back:
            self._inventory.hold_all([self._gone.pop(gang) for gang in back])
        leave = [gang for gang in gangs if gang not in self._gone]
        for gang in leave:
            held = self._inventory.allocation(gang)
            assert held is not None
            self._gone[gang] = held
        if leave:
            self._inventory.release_all(leave)

    def _fits_without(self, gangs: Collection[str], scope: _Scope) -> Allocation | None:
        """Where the request fits without these gangs, in the scope's clique if it has one."""
        if self._countable:
            # Each gang frees no more than it has: that alone is mostly a no, and moves nobody.
            if self._most_free(gangs, scope) < self._wanted:
                return None
            self._without(gangs)
            free = self._inventory.free_devices if scope.clique is None else scope.clique.free
            if free < self._wanted:
                return None
        self._without(gangs)
        if self._left <= 0:
            return None
        self._left -= 1
        answer = self._place()
        return answer if isinstance(answer, Allocation) else None

    def _most_free(self, gangs: Iterable[str], scope: _Scope) -> int:
        """So many devices are free in the scope at most once these have left."""
        return scope.free + sum(map(scope.frees.__getitem__, gangs))

    # -- which set

    def best(self) -> Victims | None:
        if len(self._prices) <= self._all_sets_of:
            return self._every_set(sorted(self._prices), None, self._all_together())
        found: Victims | None = None
        for scope in self._scopes():
            if found is not None and scope.least > self._cost(found)[:2]:
                break  # they come in this order
            found = self._cheaper(scope, found)
        return found or self._cheaper(self._all_together(), None)

    def _cost(self, found: Victims) -> Cost:
        return cost_of(self._prices, found.gangs)

    def _cheaper(self, scope: _Scope, found: Victims | None) -> Victims | None:
        """A cheaper set of a scope's gangs than what was found so far, or that."""
        order = sorted(self._orders(list(scope.devices), scope)[-1], key=lambda gang: self._prices[gang].rank)
        enough = self._shortest(order, scope)
        if enough is None:
            return found
        rank = self._prices[enough[-1]].rank  # the highest of them, and no set has a lower one
        if found is not None and rank > self._cost(found).rank:
            return found
        allowed = [gang for gang in order if self._prices[gang].rank <= rank]
        if len(allowed) <= self._all_sets_of:
            return self._every_set(allowed, found, scope) or found
        for tried in self._orders(allowed, scope):
            shortest = self._shortest(tried, scope)
            better = self._return(shortest, scope) if shortest is not None else None
            if better is not None and (found is None or self._cost(better) < self._cost(found)):
                found = better
        return found

    def _every_set(self, gangs: Sequence[str], found: Victims | None, scope: _Scope) -> Victims | None:
        """The cheapest of all sets of these gangs that is cheaper than what was found; None where none is.

        In the order of cost. Of a set that is not enough, more leave as long as that is not enough either: one of those
        that are left has to be in every set that is.
        """
        if self._fits_without(gangs, scope) is None:
            return None
        limit = self._cost(found) if found is not None else None
        costs = (cost_of(self._prices, each) for n in range(1, len(gangs) + 1) for each in combinations(gangs, n))
        one_of_each: list[frozenset[str]] = []
        for cost in sorted(cost for cost in costs if limit is None or cost < limit):
            if any(each.isdisjoint(cost.names) for each in one_of_each):
                continue
            answer = self._fits_without(cost.names, scope)
            if answer is not None:
                return Victims(cost.names, answer)
            away = list(cost.names)
            for gang in gangs:
                if gang not in away and self._fits_without([*away, gang], scope) is None:
                    away.append(gang)
            if self._left <= 0:
                return None
            one_of_each.append(frozenset(gangs) - frozenset(away))
        return None

    def _shortest(self, order: Sequence[str], scope: _Scope) -> list[str] | None:
        """As few of these as are enough, from the first on; None: all of them are not."""
        low, high = 1, 1
        while self._fits_without(order[:high], scope) is None:
            if high == len(order):
                return None
            low, high = high + 1, min(2 * high, len(order))
        while low < high:
            middle = (low + high) // 2
            if self._fits_without(order[:middle], scope) is None:
                low = middle + 1
            else:
                high = middle
        return list(order[:high])

    def _return(self, order: Sequence[str], scope: _Scope) -> Victims | None:
        """All leave; then, from the last on, each returns without whom the request fits as well."""
        away = dict.fromkeys(order)
        answer = self._fits_without(away, scope)
        if answer is not None and len(away) > MANY:
            away, answer = self._only_where_it_lies(away, answer, scope)
        spare = self._most_free(away, scope) - self._wanted if self._countable else 0
        for gang in reversed(list(away)) if answer is not None else ():
            if not self._countable or scope.frees[gang] <= spare:  # else too few are left, as `_fits_without` would say
                del away[gang]
                fewer = self._fits_without(away, scope)
                if fewer is None:
                    away[gang] = None
                else:
                    answer, spare = fewer, self._most_free(away, scope) - self._wanted if self._countable else 0
            if self._left <= 0:
                return None  # somebody could be among them who is not needed
        return Victims(tuple(sorted(away)), answer) if answer is not None else None

    def _only_where_it_lies(
        self, away: dict[str, None], answer: Allocation, scope: _Scope
    ) -> tuple[dict[str, None], Allocation]:
        """Those alone that have something of the nodes on which the request lies, if that is enough."""
        nodes = set(answer.nodes)
        there = {gang: None for gang in away if not nodes.isdisjoint(self._gone[gang].nodes)}
        fewer = self._fits_without(there, scope)
        return (there, fewer) if fewer is not None else (away, answer)

    # -- in which order

    def _dear(self, gang: str, scope: _Scope) -> tuple[float, int, str]:
        """How much a gang costs for what it has here."""
        price, here = self._prices[gang], max(scope.devices[gang], 1)
        return price.lost / here, price.devices - here, gang

    def _orders(self, gangs: Sequence[str], scope: _Scope) -> list[list[str]]:
        """In which gangs may leave: the cheapest first for what it has here; and those of the cheapest nodes first, and
        where the request wants cliques, of the cheapest cliques: one gang that stays on a node, or in a clique, may
        keep all of it from the request. The first is left out where it would free all cliques but a part of each."""
        several = scope.clique is None and self._wants_cliques
        keys = self._costs_of_places(scope, several)
        last: tuple[Rank, int] = (), 0
        alone = sorted(gangs, key=lambda gang: self._dear(gang, scope))
        places = sorted(alone, key=lambda gang: [key.get(gang, last) for key in keys])
        return [places] if several and len(gangs) > MANY else [alone, places]

    def _costs_of_places(self, scope: _Scope, several: bool) -> list[dict[str, tuple[Rank, int]]]:
        """Of each gang, what all gangs of its clique (if `several`) and of its node cost: found once a scope, since
        everybody has to be back for that."""
        key = scope.clique.key if scope.clique is not None else None
        if key not in self._places:
            self._without(())
            states = scope.clique.node_states if scope.clique is not None else self._inventory.node_states.values()
            keys = self._places[key] = [self._cheapest(state.tenants for state in states)]
            if several:
                cliques = self._inventory.clique_states.values()
                keys.insert(0, self._cheapest(_devices_in(clique, self._prices) for clique in cliques))
        return self._places[key]

    def _cheapest(self, places: Iterable[Iterable[str]]) -> dict[str, tuple[Rank, int]]:
        """Of each gang, what all gangs of a place cost together: of the cheapest place where it has something."""
        found: dict[str, tuple[Rank, int]] = {}
        for there in places:
            each = {gang: self._prices[gang] for gang in there if gang in self._prices}
            if each:
                total = max(price.rank for price in each.values()), sum(price.lost for price in each.values())
                for gang in each:
                    found[gang] = min(found.get(gang, total), total)
        return found

    # -- where to look

    def _scopes(self) -> Iterator[_Scope]:
        """Where the request wants one clique, those that could hold it, the lowest bound first."""
        found: list[tuple[tuple[Rank, int], str, _Scope]] = []
        for clique in self._inventory.clique_states.values() if self._one_clique else ():
            if clique.kind == CLIQUE and clique.size >= self._wanted:
                devices = _devices_in(clique, self._prices)
                least = self._least(devices, clique.free) if self._countable else ((), 0)
                if devices and least is not None:
                    found.append((least, clique.key, _Scope(clique, devices, devices, clique.free, least)))
        return (scope for *_, scope in sorted(found, key=lambda each: each[:2]))

    def _all_together(self) -> _Scope:
        devices = {gang: price.devices for gang, price in self._prices.items()}
        return _Scope(None, devices, self._frees, self._free, ((), 0))

    def _least(self, devices: Mapping[str, int], free: int) -> tuple[Rank, int] | None:
        """The lowest rank, and the least work lost with it, of a set of these that frees enough; None: all do not."""
        missing = self._wanted - free
        rank: Rank = ()
        for gang in sorted(devices, key=lambda gang: self._prices[gang].rank):
            if missing <= 0:
                break
            rank, missing = self._prices[gang].rank, missing - devices[gang]
        if missing > 0:
            return None
        missing, lost = self._wanted - free, 0.0
        allowed = [gang for gang in devices if devices[gang] and self._prices[gang].rank <= rank]
        for gang in sorted(allowed, key=lambda gang: self._prices[gang].lost / devices[gang]):
            if missing <= 0:
                break
            lost += min(1.0, missing / devices[gang]) * self._prices[gang].lost
            missing -= devices[gang]
        return rank, int(lost)


def _devices_in(clique: CliqueState, prices: Prices) -> dict[str, int]:
    found: dict[str, int] = {}
    for state in clique.node_states:
        for gang, mask in state.tenants.items():
            if gang in prices:
                found[gang] = found.get(gang, 0) + mask.bit_count()
    return found


def _countable(inventory: Inventory, prices: Prices) -> bool:
    """Whether a gang that leaves frees the devices that it has, and no more: then numbers alone can say no."""
    for gang in prices:
        held = inventory.allocation(gang)
        if (
            held is None
            or inventory.has_besides(gang)
            or any(exclusive_key(counter) is not None for counter, _ in held.counters)
        ):
            return False
        if any(grant.amount is not None for placed in held.bundles[:1] for grant in placed.grants):
            return False
    return True
