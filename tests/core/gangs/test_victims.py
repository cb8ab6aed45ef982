"""Who ends for another: against exhaustive search, and what holds of every set that is chosen."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.victims import Answer, Price, Prices, Victims, cheapest_victims, cost_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from tests.core.machines import gang, node, picture, rack

LIMITS = (Limits(), Limits(), Limits(True, 18), Limits(True, 3))


class Case:
    """A small cluster that gangs have filled as far as dice made them, a gang that wants something, and prices."""

    def __init__(self, dice: random.Random, most_gangs: int) -> None:
        self.nodes: list[Node] = []
        for clique in range(dice.randint(1, 3)):
            self.nodes += rack(f"c{clique}", dice.randint(1, 4), dice.choice((2, 4)))
        self.nodes += [node(f"loose-{n}", dice.choice((1, 4))) for n in range(dice.randint(0, 2))]
        self.limits = dice.choice(LIMITS)
        inventory = Inventory(self.nodes, self.limits)
        self.held: dict[str, Allocation] = {}
        for n in range(dice.randint(1, most_gangs)):
            answer = plan(inventory, self._request(dice, f"g{n}"))
            if isinstance(answer, Allocation):
                inventory.hold(answer)
                self.held[answer.gang] = answer
        self.wants = self._request(dice, "wants", large=True)
        taken = [name for name in self.held if dice.random() < 0.9]
        self.prices: Prices = {
            name: Price((dice.randint(0, 2),), dice.choice((0, 1, 5, 5, 70)), len(self.held[name].grants))
            for name in taken
        }

    def _request(self, dice: random.Random, name: str, *, large: bool = False) -> GangRequest:
        size = dice.choice((1, 1, 2, 4))
        bundles = dice.randint(1, 4) if large else dice.choice((1, 1, 1, 2, 2, 3))
        cliques = dice.choice((None, 1, 1))
        locality = Locality(cliques=cliques, exclusive=cliques == 1 and dice.random() < 0.15)
        if bundles % 2 == 0 and dice.random() < 0.2:
            locality = Locality(segment=2)
        return gang(*[size] * bundles, name=name, locality=locality)

    def inventory(self, without: tuple[str, ...] = ()) -> Inventory:
        made = Inventory(self.nodes, self.limits)
        for name, held in self.held.items():
            if name not in without:
                made.hold(held)
        return made

    def fits_without(self, gangs: tuple[str, ...]) -> bool:
        return isinstance(plan(self.inventory(gangs), self.wants), Allocation)

    def chosen(self, inventory: Inventory, **bounds: Any) -> Victims | None:
        def place() -> Answer:
            return plan(inventory, self.wants)

        return cheapest_victims(inventory, self.wants, self.prices, place, **bounds)

    def cheapest(self) -> tuple[str, ...] | None:
        """By trying every set, the cheapest first."""
        names = sorted(self.prices)
        sets = [each for n in range(1, len(names) + 1) for each in combinations(names, n)]
        sets.sort(key=lambda each: cost_of(self.prices, each))
        return next((each for each in sets if self.fits_without(each)), None)


def cases(count: int, most_gangs: int, seed: int = 1) -> list[Case]:
    """In which the gang does not fit with all of them there."""
    dice, found = random.Random(seed), list[Case]()
    while len(found) < count:
        case = Case(dice, most_gangs)
        if case.prices and not case.fits_without(()):
            found.append(case)
    return found


def equals_exhaustive_search(count: int, most_gangs: int, seed: int) -> None:
    yes = 0
    for at, case in enumerate(cases(count, most_gangs, seed)):
        inventory = case.inventory()
        before = picture(inventory), inventory.changes
        found, wanted = case.chosen(inventory), case.cheapest()
        assert (found.gangs if found is not None else None) == wanted, f"case {at}"
        assert (picture(inventory), inventory.changes) == before
        yes += found is not None
    assert yes > count / 4, "most are a no"


def test_the_cheapest_set_is_what_exhaustive_search_finds() -> None:
    equals_exhaustive_search(1_000, 10, 1)


@pytest.mark.by_hand
def test_the_cheapest_set_of_ten_thousand() -> None:
    equals_exhaustive_search(10_000, 10, 2)


@pytest.mark.parametrize("all_sets_of", [0, 2, 4])
def test_of_many_gangs_too_each_is_needed_and_the_highest_rank_is_the_lowest_that_can_be(all_sets_of: int) -> None:
    """As if they were more than every set can be tried of."""
    dearer = found_any = 0
    for case in cases(400, 10, 3 + all_sets_of):
        inventory = case.inventory()
        before = picture(inventory), inventory.changes
        found, wanted = case.chosen(inventory, all_sets_of=all_sets_of), case.cheapest()
        assert (picture(inventory), inventory.changes) == before
        assert (found is None) == (wanted is None)
        if found is None or wanted is None:
            continue
        assert set(found.gangs) <= case.prices.keys()
        assert case.fits_without(found.gangs)
        for gang_id in found.gangs:
            fewer = tuple(each for each in found.gangs if each != gang_id)
            assert not case.fits_without(fewer), f"{gang_id} is not needed"
        case.inventory(found.gangs).hold(found.allocation)
        least, cost = cost_of(case.prices, wanted), cost_of(case.prices, found.gangs)
        assert cost.rank == least.rank
        found_any += 1
        dearer += cost.lost > least.lost
    assert found_any > 100
    assert dearer < found_any / 10, f"{dearer} of {found_any} lose more work than need be"


def test_who_is_out_of_plans_takes_nobody() -> None:
    for case in cases(50, 10, 9):
        for most in range(6):
            found = case.chosen(case.inventory(), most_plans=most)
            assert found is None or case.fits_without(found.gangs)
            assert case.chosen(case.inventory(), most_plans=0) is None


def test_by_hand() -> None:
    """Two racks of two trays of four. The rank comes first, then the work lost, then devices."""
    inventory = Inventory([*rack("a", 2), *rack("b", 2)])
    for name, clique in (("a1", "a"), ("a2", "a"), ("b", "b")):
        size = (4, 4) if name == "b" else (4,)
        asked = replace(gang(*size, name=name), exclude=frozenset(n for n in inventory.node_states if n[0] != clique))
        answer = plan(inventory, asked)
        assert isinstance(answer, Allocation)
        inventory.hold(answer)
    wants = gang(4, 4, name="wants", locality=Locality(cliques=1))

    def chosen(a1: Price, a2: Price, b: Price) -> tuple[str, ...]:
        prices = {"a1": a1, "a2": a2, "b": b}
        found = cheapest_victims(inventory, wants, prices, lambda: plan(inventory, wants))
        assert found is not None
        return found.gangs

    assert chosen(Price((0,), 5, 4), Price((0,), 4, 4), Price((0,), 10, 8)) == ("a1", "a2")
    assert chosen(Price((0,), 5, 4), Price((0,), 5, 4), Price((0,), 10, 8)) == ("b",), "fewer gangs"
    assert chosen(Price((0,), 5, 4), Price((1,), 4, 4), Price((0,), 99, 8)) == ("b",), "a lower rank"
