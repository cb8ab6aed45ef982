"""Gangs of parts on random clusters: a yes is what Kubernetes' allocator gives in any order of claims, a no is true,
and as few GPUs, then cliques, are broken as can be."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Health
from ray_dra.core.model.device_selector import COMPUTE_CAPABILITY
from ray_dra.core.model.locality import Gpus, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.parts import Part, profile_order
from ray_dra.core.model.request import Bundle, GangRequest, Strategy
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.machines import gang, node
from tests.core.parted import GIGABYTE, H100, SMALL, allocated, bundle, parted, parted_node

SAME, SPREAD = Locality(gpus=Gpus.SAME), Locality(gpus=Gpus.SPREAD)


def asking(*bundles: Bundle, name: str = "g", **more: object) -> GangRequest:
    return GangRequest(name, bundles, **more)  # type: ignore[arg-type]


class World:
    """Nodes, what strangers' claims have, and gangs' claims in the order in which they were made."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)
        self.inventory = Inventory(nodes)
        self.gpus = {gpu.uuid: gpu for node in nodes for gpu in node.parted}
        self.strangers: dict[str, list[Part]] = {uuid: [] for uuid in self.gpus}
        self._fits: dict[tuple[str, tuple[str, ...]], bool] = {}  # once the strangers are there

    def stranger(self, uuid: str, part: Part) -> None:
        """Takes a part that is free."""
        self._fits.clear()
        self.strangers[uuid].append(part)
        node = next(node for node in self.nodes if any(gpu.uuid == uuid for gpu in node.parted))
        masks, busy = {}, 0
        for gpu in node.parted:
            masks[gpu.uuid] = sum(1 << gpu.parts.index(part) for part in self.strangers[gpu.uuid])
            if masks[gpu.uuid] and gpu.position is not None:
                busy |= 1 << gpu.position
        self.inventory.set_others(node.name, busy, {})
        self.inventory.set_parts(node.name, masks, {})

    def fits(self, uuid: str, profiles: Sequence[str]) -> bool:
        key = (uuid, tuple(in_order(profiles)))
        if key not in self._fits:
            self._fits[key] = allocated(self.gpus[uuid], self.strangers[uuid], key[1]) is not None
        return self._fits[key]

    def broken(self, uuid: str) -> bool:
        return bool(self.strangers[uuid]) or self.gpus[uuid].position is None


def in_order(profiles: Sequence[str]) -> list[str]:
    return sorted(profiles, key=profile_order)


def random_world(dice: random.Random, *, resources: bool = False) -> World:
    nodes = []
    for at in range(dice.randint(1, 3)):
        cpus = {"CPU": float(dice.randint(1, 6))} if resources else {}
        made = parted_node(f"n{at}", dice.randint(1, 2), SMALL, resources=cpus)
        if dice.random() < 0.2:
            made = replace(
                made, parted=(*made.parted, parted(f"n{at}", 7, static=dice.choices(("1g.1gb", "2g.2gb"), k=2)))
            )
        nodes.append(made)
    world = World(nodes)
    for uuid, gpu in world.gpus.items():
        if dice.random() < 0.4:
            got = allocated(gpu, [], [dice.choice(gpu.parts).profile])
            if got:
                world.stranger(uuid, got[0])
    return world


def ways(world: World, bundles: Sequence[str], one_gpu: bool, one_each: bool) -> Iterator[dict[str, list[str]]]:
    """Every way to put bundles on GPUs, whatever else is asked."""
    names = list(world.gpus)
    for chosen in product(names, repeat=len(bundles)):
        if (one_gpu and len(set(chosen)) > 1) or (one_each and len(set(chosen)) < len(chosen)):
            continue
        on: dict[str, list[str]] = {}
        for uuid, profile in zip(chosen, bundles, strict=True):
            on.setdefault(uuid, []).append(profile)
        if all(world.fits(uuid, profiles) for uuid, profiles in on.items()):
            yield on


def check(world: World, request: GangRequest, answer: Allocation) -> dict[str, list[str]]:
    """Each bundle has one part of its profile, each part once, and every claim gets them; the parts by GPU."""
    on: dict[str, list[str]] = {}
    devices = set()
    for placed, asked in zip(answer.bundles, request.bundles, strict=True):
        (grant,) = placed.grants
        assert grant.part is not None
        assert asked.part is not None
        assert grant.part.profile == asked.part.profile
        assert grant.clique is None
        assert placed.resources == asked.resources
        assert grant.node == placed.node
        on.setdefault(grant.part.parent, []).append(grant.part.profile)
        devices.add(grant.device)
        (part,) = [part for part in world.gpus[grant.part.parent].parts if part.id == grant.device]
        assert part not in world.strangers[grant.part.parent]
        assert part.uuid == grant.uuid
    assert len(devices) == len(answer.bundles)
    assert all(world.fits(uuid, profiles) for uuid, profiles in on.items())
    return on


def newly_broken(world: World, on: dict[str, list[str]]) -> tuple[int, int]:
    """GPUs, and cliques (a box each here) of which nobody had anything."""
    whole = [uuid for uuid in on if not world.broken(uuid)]
    boxes = {uuid.rsplit("-", 1)[0] for uuid in whole}
    used = {
        uuid.rsplit("-", 1)[0]
        for uuid, parts in world.strangers.items()
        if parts and world.gpus[uuid].position is not None
    }
    return len(whole), len(boxes - used)


@pytest.mark.parametrize("seed", range(4))
def test_equal_parts_break_the_fewest_gpus_and_then_cliques(seed: int) -> None:
    """150 a seed."""
    dice, answers = random.Random(seed), {True: 0, False: 0}
    for _ in range(150):
        world = random_world(dice)
        profile, count = dice.choice([p for p, *_ in SMALL]), dice.randint(1, 5)
        gpus = dice.choice((Gpus.ANY, Gpus.ANY, Gpus.SAME, Gpus.SPREAD))
        request = asking(*[bundle(profile)] * count, locality=Locality(gpus=gpus))
        found = [
            newly_broken(world, on) for on in ways(world, [profile] * count, gpus is Gpus.SAME, gpus is Gpus.SPREAD)
        ]
        answer = plan(world.inventory, request)
        answers[bool(found)] += 1
        assert isinstance(answer, Allocation) is bool(found), answer
        if isinstance(answer, Allocation):
            assert newly_broken(world, check(world, request, answer)) == min(found)
        else:
            assert answer.proven
            assert answer.shortfalls[0].kind is ShortfallKind.PARTS
            str(answer)
    assert min(answers.values()) > 20


@pytest.mark.parametrize("seed", range(4))
def test_parts_that_differ_break_the_fewest_gpus_and_then_cliques(seed: int) -> None:
    """100 a seed."""
    dice, answers = random.Random(100 + seed), {True: 0, False: 0}
    for _ in range(100):
        world = random_world(dice)
        bundles = [dice.choice([p for p, *_ in SMALL]) for _ in range(dice.randint(2, 5))]
        gpus = dice.choice((Gpus.ANY, Gpus.ANY, Gpus.SAME, Gpus.SPREAD))
        request = asking(*map(bundle, bundles), locality=Locality(gpus=gpus))
        found = [newly_broken(world, on) for on in ways(world, bundles, gpus is Gpus.SAME, gpus is Gpus.SPREAD)]
        answer = plan(world.inventory, request)
        answers[bool(found)] += 1
        assert isinstance(answer, Allocation) is bool(found), (bundles, answer)
        if isinstance(answer, Allocation):
            assert newly_broken(world, check(world, request, answer)) == min(found)
        else:
            assert answer.proven
            str(answer)
    assert min(answers.values()) > 20


@pytest.mark.parametrize("seed", range(4))
def test_other_resources_and_strategies_are_kept(seed: int) -> None:
    """100 a seed: the answer is yes exactly where some way of all holds, and the fewest GPUs are broken."""
    dice, answers = random.Random(200 + seed), {True: 0, False: 0}
    for _ in range(100):
        world = random_world(dice, resources=True)
        one = dice.random() < 0.5
        profiles = [dice.choice([p for p, *_ in SMALL]) for _ in range(dice.randint(1, 4))]
        cpus = [float(dice.randint(0, 2)) for _ in profiles]
        if one:
            profiles, cpus = profiles[:1] * len(profiles), cpus[:1] * len(cpus)
        strategy = dice.choice((Strategy.PACK, Strategy.STRICT_PACK, Strategy.STRICT_SPREAD, Strategy.SPREAD))
        request = asking(*(bundle(p, CPU=c) for p, c in zip(profiles, cpus, strict=True)), strategy=strategy)
        left = {node.name: node.resources["CPU"] for node in world.nodes}
        found = []
        for chosen in product(world.gpus, repeat=len(profiles)):
            nodes = [uuid.split("-")[1] for uuid in chosen]
            if strategy is Strategy.STRICT_PACK and len(set(nodes)) > 1:
                continue
            if strategy is Strategy.STRICT_SPREAD and len(set(nodes)) < len(nodes):
                continue
            if any(sum(c for c, on in zip(cpus, nodes, strict=True) if on == name) > left[name] for name in set(nodes)):
                continue
            on: dict[str, list[str]] = {}
            for uuid, profile in zip(chosen, profiles, strict=True):
                on.setdefault(uuid, []).append(profile)
            if all(world.fits(uuid, each) for uuid, each in on.items()):
                found.append(newly_broken(world, on)[0])
        answer = plan(world.inventory, request)
        answers[bool(found)] += 1
        assert isinstance(answer, Allocation) is bool(found), (profiles, cpus, strategy, answer)
        if isinstance(answer, Allocation):
            on = check(world, request, answer)
            used: dict[str, float] = {}
            for placed in answer.bundles:
                used[placed.node] = used.get(placed.node, 0.0) + placed.resources.get("CPU", 0.0)
            assert all(amount <= left[name] for name, amount in used.items())
            if strategy is not Strategy.SPREAD:  # which is as far apart as it can be, first
                assert newly_broken(world, on)[0] == min(found)
    assert min(answers.values()) > 20


@pytest.mark.parametrize("seed", range(5))
def test_gangs_one_after_the_other_get_their_parts_in_any_order_of_claims(seed: int) -> None:
    """200 clusters a seed with strangers' parts: whichever gang's claims come first, the allocator serves them all."""
    dice, several = random.Random(300 + seed), 0
    for at in range(200):
        world = World([parted_node("n", 2)])
        for uuid, gpu in world.gpus.items():
            if dice.random() < 0.5:
                profile = dice.choices([p for p, *_ in H100], (6, 1, 2, 2, 1, 0))[0]
                got = allocated(gpu, [], [profile])
                assert got is not None
                world.stranger(uuid, got[0])
        claims: dict[str, list[list[str]]] = {}
        for number in range(dice.randint(2, 4)):
            profiles = dice.choices([p for p, *_ in H100], (6, 1, 2, 2, 2, 1), k=dice.randint(1, 4))
            request = asking(*map(bundle, profiles), name=f"g{number}")
            answer = plan(world.inventory, request)
            if isinstance(answer, Allocation):
                world.inventory.hold(answer)
                on: dict[str, list[str]] = {}
                for grant in answer.grants:
                    assert grant.part is not None
                    on.setdefault(grant.part.parent, []).append(grant.part.profile)
                for uuid, each in on.items():
                    claims.setdefault(uuid, []).append(in_order(each))
        for uuid, theirs in claims.items():
            several += len(theirs) > 1
            for order in permutations(theirs):
                have = list(world.strangers[uuid])
                for claim in order:
                    got = allocated(world.gpus[uuid], have, claim)
                    assert got is not None, (seed, at, order)
                    have += got
        for gang_id in world.inventory.gangs:
            world.inventory.release(gang_id)
        assert not any(gpu.held for gpu in world.inventory.node_states["n"].parts)
    assert several > 20


def test_a_gpu_in_parts_is_given_to_nobody_whole_and_the_other_way_round() -> None:
    inventory = Inventory([parted_node("n", 2)])
    parts = plan(inventory, asking(*[bundle("1g.10gb")] * 7))
    assert isinstance(parts, Allocation)
    inventory.hold(parts)
    state = inventory.node_states["n"]
    assert state.free.bit_count() == 1
    assert inventory.free_devices == 1
    whole = plan(inventory, gang(1, name="whole"))
    assert isinstance(whole, Allocation)
    assert whole.grants[0].position not in {grant.position for grant in parts.grants}
    assert isinstance(plan(inventory, gang(2, name="both")), Unsatisfiable)
    inventory.hold(whole)
    assert isinstance(plan(inventory, asking(bundle("1g.10gb"), name="more")), Unsatisfiable)
    with pytest.raises(ValueError, match=r"has not so many parts left|held whole"):
        inventory.hold(parts._replace(gang="again"))
    assert inventory.gangs == ("g", "whole")
    inventory.release("g")
    assert state.free.bit_count() == 1
    inventory.release("whole")
    assert state.free == 0b11


def test_what_a_gangs_claim_has_got_counts_and_not_what_was_foreseen() -> None:
    """The allocator gave 1g at start 5, not at 0: then a 4g fits beside it."""
    inventory = Inventory([parted_node("n", 1)])
    first = plan(inventory, asking(bundle("1g.10gb"), name="first"))
    assert isinstance(first, Allocation)
    inventory.hold(first)
    assert isinstance(plan(inventory, asking(bundle("4g.40gb"))), Unsatisfiable)
    (gpu,) = inventory.node_states["n"].parts
    name = next(name for name in gpu.names if name.endswith("1g10gb-0-5"))
    inventory.set_parts("n", {}, {"first": {gpu.gpu.uuid: gpu.names[name]}})
    second = plan(inventory, asking(bundle("4g.40gb")))
    assert isinstance(second, Allocation)
    no = plan_and_explain(inventory, asking(bundle("7g.80gb")))  # tries what were if the gang left
    assert isinstance(no, Unsatisfiable)
    assert gpu.placed == {"first": gpu.names[name]}
    assert plan(inventory, asking(bundle("4g.40gb"))) == second
    inventory.release("first")
    assert gpu.placed == {}
    inventory.set_parts("n", {}, {})
    inventory.hold(first)
    assert gpu.placed == {}, "its claim is gone"


def test_a_node_that_comes_back_has_its_gangs_parts() -> None:
    made = parted_node("n", 1)
    inventory = Inventory([made])
    held = plan(inventory, asking(*[bundle("1g.10gb")] * 5))
    assert isinstance(held, Allocation)
    inventory.hold(held)
    inventory.drop_node("n")
    inventory.put_node(replace(made, labels={"a": "b"}))
    assert isinstance(plan(inventory, asking(*[bundle("1g.10gb")] * 3, name="h")), Unsatisfiable)
    assert isinstance(plan(inventory, asking(*[bundle("1g.10gb")] * 2, name="h")), Allocation)
    sick = replace(made, parted=tuple(replace(gpu, health=Health.TAINTED) for gpu in made.parted))
    inventory.put_node(sick)
    assert isinstance(plan(inventory, asking(bundle("1g.10gb"), name="h")), Unsatisfiable)
    inventory.put_node(made)
    inventory.release("g")
    assert isinstance(plan(inventory, asking(*[bundle("1g.10gb")] * 7, name="h")), Allocation)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (asking(*[bundle("1g.10gb")] * 15), "wanted 15 parts (MIG 1g.10gb), available 14 free"),
        (asking(*[bundle("1g.10gb")] * 8, locality=SAME), "8 parts (MIG 1g.10gb) on one GPU, available 7 at most"),
        (asking(*[bundle("7g.80gb")] * 3, locality=SPREAD), "each on another GPU, available 2 at most"),
        (
            asking(bundle("1g.5gb")),
            "no GPU has such a part; there are 7g.80gb, 4g.40gb, 3g.40gb, 2g.20gb, 1g.20gb",
        ),
        (
            asking(bundle(memory=81 * GIGABYTE)),
            "(MIG with 81G), available no GPU has such a part (74.5Gi at most); there",
        ),
        (asking(*[bundle("4g.40gb")] * 2, *[bundle("3g.40gb")] * 3), "each kind fits, not all together"),
    ],
)
def test_a_no_says_what_there_is(request_: GangRequest, said: str) -> None:
    answer = plan(Inventory([parted_node("n", 2)]), request_)
    assert isinstance(answer, Unsatisfiable)
    assert said in str(answer)
    nothing = plan(Inventory([node("n", 8)]), request_)
    assert isinstance(nothing, Unsatisfiable)
    assert "no node gives GPUs in parts by claims" in str(nothing)


def test_parts_that_are_all_taken_are_told_apart_from_those_that_no_gpu_has() -> None:
    inventory = Inventory([parted_node("n", 1)])
    held = plan(inventory, asking(*[bundle("1g.10gb")] * 7))
    assert isinstance(held, Allocation)
    inventory.hold(held)
    for asked in (bundle("1g.10gb"), bundle(memory=9 * GIGABYTE)):
        full = plan(inventory, asking(asked, name="h"))
        assert isinstance(full, Unsatisfiable)
        assert "none free; there are 7g.80gb" in str(full)


def test_a_gpu_that_needs_a_reset_for_parts_is_named() -> None:
    made = node("n", 2, product="A100")
    ampere = tuple(replace(d, attributes={**d.attributes, COMPUTE_CAPABILITY: "8.0.0"}) for d in made.devices)
    no = plan(Inventory([replace(made, devices=ampere)]), asking(bundle("1g.5gb")))
    assert isinstance(no, Unsatisfiable)
    assert "A100 has parts once an administrator has turned it over by a reset" in str(no)


def test_the_smallest_profile_with_so_much_memory_is_planned() -> None:
    answer = plan(Inventory([parted_node("n", 1)]), asking(*[bundle(memory=20 * GIGABYTE)] * 4))
    assert isinstance(answer, Allocation)
    assert {grant.part.profile for grant in answer.grants if grant.part} == {"1g.20gb"}


def test_bundles_are_in_the_order_of_nodes_and_gpus() -> None:
    answer = plan(Inventory([parted_node(f"n{at}", 4) for at in range(3)]), asking(*[bundle("1g.10gb")] * 50))
    assert isinstance(answer, Allocation)
    places = [(grant.node, grant.position) for grant in answer.grants]
    assert places == sorted(places)
    assert len(set(places)) == 8


def test_a_what_if_on_a_gpu_that_offers_less_than_its_gangs_have_leaves_them_theirs() -> None:
    made = parted_node("n", 1)
    inventory = Inventory([made])
    for name in ("g", "h"):
        held = plan(inventory, asking(*[bundle("1g.10gb")] * 2, name=name))
        assert isinstance(held, Allocation)
        inventory.hold(held)
    (gpu,) = made.parted
    fewer = tuple((name, min(amount, 40)) for name, amount in gpu.counters)  # of 132 multiprocessors
    inventory.put_node(replace(made, parted=(replace(gpu, counters=fewer),)))
    assert isinstance(plan_and_explain(inventory, asking(bundle("1g.10gb"), name="i")), Unsatisfiable)
    assert sorted(inventory.gangs) == ["g", "h"]
    assert sorted(inventory.node_states["n"].parts[0].held) == ["g", "h"]
    had = inventory.allocation("h")
    assert had is not None
    with pytest.raises(ValueError, match="has not so many parts left"):
        inventory.hold(had._replace(gang="i"))


def test_a_node_that_comes_back_with_other_parts_keeps_what_its_gangs_have() -> None:
    """An administrator has made other parts meanwhile: nothing is refused for it, and what is left is given."""
    had = replace(node("n", 0), parted=(parted("n", 0, static=("1g.10gb", "3g.40gb")),))
    inventory = Inventory([had])
    held = plan(inventory, asking(bundle("1g.10gb"), bundle("3g.40gb")))
    assert isinstance(held, Allocation)
    inventory.hold(held)
    inventory.put_node(replace(had, parted=(parted("n", 0, static=("1g.10gb",)),)))
    assert isinstance(plan(inventory, asking(bundle("1g.10gb"), name="h")), Unsatisfiable)
    inventory.release("g")
    inventory.hold(held)  # as a gang that is planned again, in vain
    inventory.release("g")
    assert isinstance(plan(inventory, asking(bundle("1g.10gb"), name="h")), Allocation)
