"""Every counterfactual against exhaustive search."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import combinations

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain import whatif
from ray_dra.core.explain.whatif import counterfactual
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Counterfactual
from ray_dra.core.plan import plan
from tests.core.brute import Brute, World, broken, random_request, random_world, told
from tests.core.machines import gang, node, one_clique, picture


@pytest.mark.parametrize("seed", range(3))
def test_every_counterfactual_is_right(seed: int) -> None:
    """400 a seed: what it says would fit does, and what it calls the most or the smallest is."""
    dice = random.Random(2000 + seed)
    told_of = {"instead": 0, "leaving": 0}
    for _ in range(400):
        world, request = random_world(dice, gangs=6), random_request(dice)
        inventory = world.inventory()
        if isinstance(plan(inventory, request), Allocation):
            continue
        before = picture(inventory)
        found = counterfactual(inventory, request)
        assert picture(inventory) == before, "everything is put back"
        check_instead(world, request, found)
        check_leaving(world, request, found)
        told_of["instead"] += len(found.instead)
        told_of["leaving"] += found.leaving is not None
    assert min(told_of.values()) > 30


def test_every_counterfactual_is_right_where_not_every_set_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a cluster with many gangs: what it finds is enough, and a single one that it calls the smallest is."""
    monkeypatch.setattr(whatif, "ALL_SETS_OF", 0)
    dice = random.Random(3000)
    found = 0
    for _ in range(400):
        world, request = random_world(dice, gangs=6), random_request(dice)
        inventory = world.inventory()
        if isinstance(plan(inventory, request), Allocation):
            continue
        answer = counterfactual(inventory, request)
        check_leaving(world, request, answer, most=1)
        found += answer.leaving is not None
    assert found > 30


def test_a_gang_without_gpus_may_be_the_one_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The devices are free, the CPUs are not: the gang that has only CPUs costs least."""
    monkeypatch.setattr(whatif, "ALL_SETS_OF", 0)
    inventory = Inventory([node("a", 4, clique="a", resources={"CPU": 4.0})])
    for name, gpus in (("both", 1), ("cpus", 0)):
        held = plan(inventory, gang(gpus, name=name, resources={"CPU": 2.0}))
        assert isinstance(held, Allocation)
        inventory.hold(held)
    leaving = counterfactual(inventory, gang(2, locality=one_clique(), resources={"CPU": 2.0})).leaving
    assert leaving is not None
    assert leaving.gangs == ("cpus",)
    assert leaving.smallest


def check_instead(world: World, request: GangRequest, found: Counterfactual) -> None:
    for instead in found.instead:
        tried = changed(request, instead.change)
        assert not broken(world, tried, instead.allocation), (instead, told(world, tried))
        fewer = re.match(r"(\d+) of the", instead.change)
        if fewer:
            more = request.bundles[: int(fewer[1]) + (request.locality.segment or 1)]
            assert not Brute(world, replace(request, bundles=more)).fits(), (instead, told(world, request))


def changed(request: GangRequest, change: str) -> GangRequest:
    """The request that an alternative speaks of."""
    locality, bundles = request.locality, request.bundles
    numbers = [int(n) for n in re.findall(r"\d+", change)]
    if " of the " in change:
        return replace(request, bundles=bundles[: numbers[0]])
    if change == "not exclusively":
        return replace(request, locality=replace(locality, exclusive=False))
    if change.startswith("segments"):
        return replace(request, locality=replace(locality, segment=numbers[0], cliques=None))
    if change.startswith("on "):
        return replace(request, locality=replace(locality, cliques=numbers[0]))
    if change == "anywhere":
        return replace(request, locality=Locality(connect=locality.connect))
    if change == "devices that are not all linked":
        return replace(request, locality=replace(locality, connect=Connect.PREFERRED))
    assert change == f"{2 * len(bundles)} bundles of {bundles[0].count // 2} GPUs", change
    device = replace(bundles[0].devices[0], count=numbers[1])
    half = replace(bundles[0], devices=(device,), resources={r: n / 2 for r, n in bundles[0].resources.items()})
    segment = None if locality.segment is None else 2 * locality.segment
    return replace(request, bundles=(half,) * numbers[0], locality=replace(locality, segment=segment))


def check_leaving(world: World, request: GangRequest, found: Counterfactual, most: int = 10) -> None:
    """`most`: of how many gangs the smallest set is the smallest."""
    may = sorted(name for name, a in world.gangs.items() if a.priority <= request.priority)
    sets = [s for n in range(1, len(may) + 1) for s in combinations(may, n)]
    enough = [s for s in sets if Brute(world.without(s), request).fits()]
    leaving = found.leaving
    assert (leaving is not None) is bool(enough), (told(world, request), leaving)
    if leaving is not None:
        assert leaving.gangs in enough
        after = world.without(leaving.gangs)
        assert not broken(after, request, leaving.allocation), told(after, request)

        def cost(gangs: tuple[str, ...]) -> tuple[int, int, int]:
            held = [world.gangs[g] for g in gangs]
            return max(a.priority for a in held), sum(len(a.grants) for a in held), len(gangs)

        if leaving.smallest:
            assert cost(leaving.gangs) == min(cost(gangs) for gangs in enough if len(gangs) <= most)
