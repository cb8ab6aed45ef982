"""Every answer of the planner against exhaustive search: yes, no, what would fit instead, and whose leaving helps."""

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
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy
from ray_dra.core.model.shortfall import Counterfactual
from ray_dra.core.plan import plan

from .brute import Brute, World, broken, out_of_cliques, random_request, random_world
from .machines import gang, node, one_clique, picture, rack


def told(world: World, request: GangRequest) -> str:
    lines = [
        f"{n.name}: {[(d.clique, d.product) for d in n.devices]} {n.links} free {sorted(world.free(n))}, CPU"
        f" {world.left(n, 'CPU')}, imex {world.in_imex(n)}, ready {n.ready}"
        for n in world.nodes
    ]
    return "\n".join([*lines, str(world.limits), str(world.gangs), str(request)])


@pytest.mark.parametrize("seed", range(4))
def test_every_answer_is_right(seed: int) -> None:
    """600 a seed. A yes breaks nothing, a no is true."""
    dice = random.Random(seed)
    answers = {True: 0, False: 0}
    for _ in range(600):
        world, request = random_world(dice), random_request(dice)
        answer = plan(world.inventory(), request)
        possible = Brute(world, request).fits()
        if isinstance(answer, Allocation):
            assert not broken(world, request, answer), (broken(world, request, answer), told(world, request), answer)
            world.inventory().hold(answer)
        else:
            assert answer.shortfalls
            assert answer.proven
        assert isinstance(answer, Allocation) is possible, (told(world, request), answer)
        answers[possible] += 1
    assert min(answers.values()) > 100, "both answers have to be common for this to say anything"


@pytest.mark.parametrize("seed", range(2))
def test_what_is_preferred_is_met_wherever_it_could_be_required(seed: int) -> None:
    """500 a seed: `strict` is a yes where `required` is, and the answer without it is the same then."""
    dice = random.Random(1000 + seed)
    met = 0
    for _ in range(500):
        world, request = random_world(dice), random_request(dice)
        locality = request.locality
        if locality.exclusive or not locality.within_cliques:
            continue
        preferred = replace(request, locality=replace(locality, required=False))
        required = replace(request, locality=replace(locality, required=True))
        strict, answer = plan(world.inventory(), preferred, strict=True), plan(world.inventory(), preferred)
        if Brute(world, required).fits():
            assert isinstance(strict, Allocation), (told(world, required), strict)
            met += 1
        if isinstance(strict, Allocation):
            assert strict == answer, told(world, preferred)
            assert not broken(world, preferred, strict), (told(world, preferred), strict)
            nearby = linked_on_one_node(world, strict)
            assert nearby or not out_of_cliques(world, required, strict), (told(world, required), strict)
        else:
            assert strict.shortfalls
    assert met > 100


def linked_on_one_node(world: World, answer: Allocation) -> bool:
    """All the gang's devices, as near as can be without a clique."""
    if len({g.node for g in answer.grants}) != 1:
        return False
    links = next(n.links for n in world.nodes if n.name == answer.grants[0].node)
    return all(links[a.position][b.position] for a, b in combinations(answer.grants, 2))


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


BOX = node("box", 8, box=True, loose=[7], resources={"CPU": 7.0})
"""Seven GPUs in the box's clique, one in none, and a CPU for seven."""


@pytest.mark.parametrize(
    ("request_", "fits"),
    [
        (gang(*[1] * 8), True),
        (gang(*[1] * 8, resources={"CPU": 1.0}), False),
        (gang(*[1] * 7, resources={"CPU": 1.0}), True),
        (gang(7, 1, strategy=Strategy.STRICT_SPREAD), False),
        (gang(*[1] * 7, locality=one_clique()), True),
        (gang(*[1] * 8, locality=one_clique()), False),
        (gang(4, 4, locality=Locality(cliques=2)), False),
        (GangRequest("g", (Bundle((DeviceRequest(7),)), Bundle((), {"CPU": 7.0})), one_clique()), True),
        (GangRequest("g", (Bundle((DeviceRequest(7),)), Bundle((), {"CPU": 8.0})), one_clique()), False),
    ],
)
def test_a_degraded_box_is_one_node(request_: GangRequest, fits: bool) -> None:
    """What a node has besides GPUs counts once, though its GPUs lie in two domains. The search by hand says so, too."""
    world = World([BOX])
    assert Brute(world, request_).fits() is fits, "the oracle itself"
    answer = plan(world.inventory(), request_)
    assert isinstance(answer, Allocation) is fits, answer
    if isinstance(answer, Allocation):
        assert not broken(world, request_, answer)


def test_a_bundle_without_gpus_keeps_near_where_it_can_and_lies_elsewhere_where_it_must() -> None:
    trays, spare = rack("a", 2), node("cpu", 0, resources={"CPU": 64.0})
    inventory = Inventory([*trays, spare])
    members = (*gang(4, 4, resources={"CPU": 8.0}).bundles, Bundle((), {"CPU": 48.0}))
    near = plan(inventory, GangRequest("g", members, one_clique()))
    assert isinstance(near, Allocation)
    assert set(near.nodes) == {"a-t0", "a-t1"}
    far = plan(inventory, GangRequest("g", (*members[:2], Bundle((), {"CPU": 60.0})), one_clique()))
    assert isinstance(far, Allocation)
    assert far.nodes == ("a-t0", "a-t1", "cpu")
    assert far.cliques == ("a", "a", None)


def test_imex_domains_are_of_the_nodes_with_gpus_alone_and_no_larger_than_they_may_be() -> None:
    """A bundle without GPUs needs no domain; and it does not push the others onto more nodes than a domain has."""
    trays = [node(f"t{i}", 4, clique="a", order=i, resources={"CPU": 8.0}) for i in range(2)]
    members = (Bundle((DeviceRequest(4),), {"CPU": 8.0}), Bundle((), {"CPU": 8.0}))
    answer = plan(Inventory(trays, Limits(True)), GangRequest("g", members, one_clique()))
    assert isinstance(answer, Allocation)
    assert len(set(answer.nodes)) == 2
    assert not answer.counters
    uneven = [node("t0", 2, clique="a", order=0, resources={"CPU": 3.0})]
    uneven += [node(f"t{i}", 1, clique="a", order=i, resources={"CPU": 1.0}) for i in (1, 2)]
    request = GangRequest("g", (*gang(1, 1, 1, resources={"CPU": 1.0}).bundles, Bundle((), {"CPU": 2.0})), one_clique())
    for most, fits in ((2, False), (3, True)):
        world = World(uneven, Limits(True, most))
        assert Brute(world, request).fits() is fits
        assert isinstance(plan(world.inventory(), request), Allocation) is fits


def test_partitions_in_two_cliques_share_their_counters() -> None:
    """Partitions 0 and 2 are over one slice, 1 over another; 0 and 1 are in one clique, 2 in another."""
    first, second = (("gpu/0", "slice-0"), 1), (("gpu/0", "slice-1"), 1)
    whole = node("n", 3)
    of = zip(whole.devices, "aab", (first, second, first), strict=True)
    devices = tuple(replace(d, domains=(clique,), consumes=(over,)) for d, clique, over in of)
    inventory = Inventory([replace(whole, devices=devices, counters=(first, second))])
    answer = plan(inventory, gang(1, 1, locality=Locality(cliques=2, segment=1)))
    assert isinstance(answer, Allocation)
    assert {g.position for g in answer.grants} in ({0, 1}, {1, 2})
    for sizes, fits in (((1,), True), ((1, 1), True), ((1, 1, 1), False)):
        inventory.set_others("n", 0, {})
        found = plan(inventory, gang(*sizes, locality=Locality(cliques=2)))
        assert isinstance(found, Allocation) is fits
    apart = tuple(replace(d, attributes={"product": p}) for d, p in zip(devices, "AAB", strict=True))
    inventory = Inventory([replace(whole, devices=apart, counters=(first, second))])
    one_each = (*gang(1, products=("A",)).bundles, *gang(1, products=("B",)).bundles)
    found = plan(inventory, GangRequest("g", one_each, Locality(cliques=2)))
    assert isinstance(found, Allocation)
    assert {g.position for g in found.grants} == {1, 2}
