"""What a request says of devices, against an evaluation that shares no code with the planner's matcher."""

from __future__ import annotations

import operator
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import MOST_CRITERIA, NodeState
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Device
from ray_dra.core.model.device_selector import (
    COMPUTE_CAPABILITY,
    DRIVER_VERSION,
    MEMORY,
    DeviceCriteria,
    Operator,
    Selector,
    version_of,
)
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.reason import PlaceKind
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, check_request
from ray_dra.core.model.shortfall import Shortfall, ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest
from tests.core.brute import Brute, World, broken, random_request, random_world
from tests.core.machines import gang, node, rack

SYMBOLS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq}
MEMORIES, CAPABILITIES, DRIVERS = (40, 80, None), ("8.0", "9.0", "10.0", None), ("570.10", "580.95.05")


def known_as(device: Device) -> tuple[int | None, tuple[int, ...] | None, tuple[int, ...]]:
    """Memory, compute capability and driver, read without the matcher."""
    capability = device.attributes.get(COMPUTE_CAPABILITY)
    driver = [int(part) for part in str(device.attributes[DRIVER_VERSION]).split(".")]
    return (
        device.capacity.get(MEMORY),
        None if capability is None else (*map(int, str(capability).split(".")), 0),
        tuple([*driver, 0, 0][:3]),
    )


def accepts(criteria: DeviceCriteria, device: Device) -> bool:
    memory, capability, driver = known_as(device)
    has = {MEMORY: memory, COMPUTE_CAPABILITY: capability, DRIVER_VERSION: driver}
    for selector in criteria.selectors:
        known = has[selector.name]
        if known is None or not SYMBOLS[selector.operator.value](known, selector.value):
            return False
    return not criteria.products or device.attributes.get("product") in criteria.products


def random_device(dice: random.Random, device: Device) -> Device:
    memory, capability, driver = dice.choice(MEMORIES), dice.choice(CAPABILITIES), dice.choice(DRIVERS)
    attributes = {**device.attributes, DRIVER_VERSION: driver}
    if capability:
        attributes[COMPUTE_CAPABILITY] = capability
    return replace(device, attributes=attributes, capacity={MEMORY: memory} if memory else {})


def random_criteria(dice: random.Random) -> tuple[Selector, ...]:
    versions = {COMPUTE_CAPABILITY: ((8, 0, 0), (9, 0, 0), (10, 0, 0)), DRIVER_VERSION: ((580, 0, 0), (580, 95, 5))}
    found = []
    for name in dice.sample((MEMORY, COMPUTE_CAPABILITY, DRIVER_VERSION), dice.randint(1, 2)):
        symbol = dice.choice((">=", ">=", "<", "==", "<=", ">"))
        value = dice.choice((40, 80, 81)) if name == MEMORY else dice.choice(versions[name])
        found.append(Selector(name, Operator(symbol), value))
    return tuple(found)


@pytest.mark.parametrize("seed", range(3))
def test_every_answer_is_right(seed: int) -> None:
    """500 a seed: a gang with selectors lies where the same gang would that names, as products, what they accept."""
    dice = random.Random(7000 + seed)
    answers = {True: 0, False: 0}
    kinds: set[ShortfallKind] = set()
    for _ in range(500):
        world, request = random_world(dice), random_request(dice)
        for at, on in enumerate(world.nodes):
            one = dice.choice((None, None, None, dice.random()))  # the devices of most nodes differ
            devices = tuple(random_device(dice if one is None else random.Random(one), d) for d in on.devices)
            world.nodes[at] = replace(on, devices=devices)
        known: dict[Bundle, Bundle] = {}
        for bundle in request.bundles:
            if bundle not in known and bundle.devices:
                selectors = random_criteria(dice) if dice.random() < 0.7 else ()
                known[bundle] = replace(bundle, devices=(replace(bundle.devices[0], selectors=selectors),))
        asked = replace(request, bundles=tuple(known.get(b, b) for b in request.bundles))
        named = World(
            [
                replace(n, devices=tuple(replace(d, attributes={"product": d.uuid or ""}) for d in n.devices))
                for n in world.nodes
            ],
            world.limits,
            world.busy,
            world.gangs,
        )
        by_name = replace(request, bundles=tuple(by_products(b, world) for b in asked.bundles))
        answer = plan(world.inventory(), asked)
        possible = Brute(named, by_name).fits()
        assert isinstance(answer, Allocation) is possible, (asked, world)
        if isinstance(answer, Allocation):
            assert not broken(named, by_name, answer), (broken(named, by_name, answer), asked)
        else:
            for found in answer.shortfalls:
                kinds.add(found.kind)
                check_shortfall(found, [n for n in world.nodes if n.ready and n.name not in asked.exclude], world)
        answers[possible] += 1
    assert min(answers.values()) > 50
    assert {ShortfallKind.ATTRIBUTE, ShortfallKind.MATCHING, ShortfallKind.NODE_SIZE} <= kinds


def by_products(bundle: Bundle, world: World) -> Bundle:
    """The same bundle, with the very devices named that it accepts."""
    if not bundle.devices or bundle.devices[0].criteria is None:
        return bundle
    criteria = bundle.devices[0].criteria
    names = tuple(d.uuid or "" for n in world.nodes for d in n.devices if accepts(criteria, d))
    return replace(bundle, devices=(replace(bundle.devices[0], products=names or ("no device",), selectors=()),))


def check_shortfall(found: Shortfall, nodes: list[Node], world: World) -> None:
    devices = {n.name: n.devices for n in nodes}
    if found.kind is ShortfallKind.ATTRIBUTE:
        selector = found.facts["selector"]
        assert not any(accepts(DeviceCriteria(selectors=(selector,)), d) for ds in devices.values() for d in ds)
        assert found.wanted == selector.value
        column = (MEMORY, COMPUTE_CAPABILITY, DRIVER_VERSION).index(selector.name)
        if found.available is None:
            assert found.place.kind is PlaceKind.CLUSTER
        else:
            assert found.available in [known_as(d)[column] for d in devices[str(found.place.id)]]
    elif found.kind is ShortfallKind.MATCHING and found.place.kind is PlaceKind.CLUSTER:
        criteria = found.facts["criteria"]
        free = sum(accepts(criteria, n.devices[i]) for n in nodes for i in world.free(n))
        assert found.available == free
        assert found.available < found.wanted
    assert str(found)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=6), st.integers(0, 100), st.sampled_from(list(Operator)))
def test_the_mask_of_a_node_is_what_each_device_says(memories: list[int], wanted: int, compared: Operator) -> None:
    plain = node("n", len(memories))
    devices = tuple(replace(d, capacity={MEMORY: m}) for d, m in zip(plain.devices, memories, strict=True))
    state = NodeState(replace(plain, devices=devices))
    criteria = DeviceCriteria(selectors=(Selector(MEMORY, compared, wanted),))
    symbols = {**SYMBOLS, "!=": operator.ne}
    expected = sum(1 << i for i, m in enumerate(memories) if symbols[compared.value](m, wanted))
    for _ in range(2):  # the second time it is remembered
        assert state.accepted(-1, criteria) == expected
        assert state.accepted(1, criteria) == expected & 1
    for at in range(2 * MOST_CRITERIA):
        state.accepted(-1, DeviceCriteria(products=(f"p{at}",)))
    assert len(state._accepting or {}) <= MOST_CRITERIA
    assert state.accepted(-1, criteria) == expected


def test_a_node_that_changes_its_driver_is_matched_anew() -> None:
    before = rack("a", 1)[0]
    old, new = (with_driver(before, version) for version in ("570.1", "580.1"))
    inventory = Inventory([old])
    request = selective(Selector(DRIVER_VERSION, Operator.AT_LEAST, (580, 0, 0)))
    refused = plan(inventory, request)
    assert isinstance(refused, Unsatisfiable)
    assert str(refused.shortfalls[0]) == (
        "device attribute in a-t0 (the nearest to it): wanted driverVersion >= 580.0.0, available 570.1.0"
    )
    inventory.put_node(new)
    assert isinstance(plan(inventory, request), Allocation)


def test_the_reasons() -> None:
    small = tuple(replace(d, capacity={MEMORY: 40 << 30}) for d in node("n", 2).devices)
    inventory = Inventory([replace(node("n", 2), devices=small)])
    lacking = plan(inventory, selective(Selector(MEMORY, Operator.AT_LEAST, 80 * 10**9)))
    assert "device attribute in n (the nearest to it): wanted memory >= 80G, available 40Gi" in str(lacking)
    unknown = plan(inventory, selective(Selector(COMPUTE_CAPABILITY, Operator.AT_LEAST, (9, 0, 0))))
    assert "device attribute in the cluster: wanted computeCapability >= 9.0.0, available unknown" in str(unknown)
    classed = plan(inventory, replace_class("mig.nvidia.com"))
    assert "device class in bundle 0: wanted mig.nvidia.com, available gpu.nvidia.com" in str(classed)
    many = plan(inventory, selective(Selector(MEMORY, Operator.AT_LEAST, 40 * 10**9), count=3))
    assert "wanted 3 GPUs in one bundle (memory >= 40G), available 2 free" in str(many)


def test_partitions_are_had_by_their_class() -> None:
    whole = node("n", 4, clique="a")
    devices = tuple(replace(d, kind="mig.nvidia.com") if i == 2 else d for i, d in enumerate(whole.devices))
    answer = plan(Inventory([replace(whole, devices=devices)]), replace_class("mig.nvidia.com"))
    assert isinstance(answer, Allocation)
    assert [g.position for g in answer.grants] == [2]


def test_equal_products_with_other_drivers_are_told_apart_in_one_clique() -> None:
    """The index counts a clique of one product; which drivers its nodes have it does not know."""
    nodes = [with_driver(n, v) for n, v in zip(rack("a", 4), ("570.1", "580.1", "570.1", "580.1"), strict=True)]
    wanted = selective(Selector(DRIVER_VERSION, Operator.AT_LEAST, (580, 0, 0)), count=4, bundles=2)
    answer = plan(Inventory(nodes), replace(wanted, locality=Locality(cliques=1)))
    assert isinstance(answer, Allocation)
    assert set(answer.nodes) == {"a-t1", "a-t3"}
    three = selective(Selector(DRIVER_VERSION, Operator.AT_LEAST, (580, 0, 0)), count=4, bundles=3)
    refused = plan(Inventory(nodes), three)
    assert "devices that will do in the cluster: wanted 12 GPUs (driverVersion >= 580.0.0), available 8 free" in str(
        refused
    )


def with_driver(on: Node, version: str) -> Node:
    devices = tuple(replace(d, attributes={**d.attributes, DRIVER_VERSION: version}) for d in on.devices)
    return replace(on, devices=devices)


def selective(*selectors: Selector, count: int = 1, bundles: int = 1) -> GangRequest:
    return GangRequest("g", (Bundle((DeviceRequest(count, selectors=selectors),)),) * bundles)


def replace_class(name: str) -> GangRequest:
    return GangRequest("g", (Bundle((DeviceRequest(1, name),)),))


@pytest.mark.parametrize(
    "selector",
    [
        Selector("colour", Operator.EQUAL, 1),
        Selector(MEMORY, Operator.EQUAL, (1, 0, 0)),
        Selector(MEMORY, Operator.EQUAL, -1),
        Selector(MEMORY, Operator.EQUAL, True),
        Selector(DRIVER_VERSION, Operator.EQUAL, 580),
        Selector(DRIVER_VERSION, Operator.EQUAL, (580, 0)),  # type: ignore[arg-type]
        Selector(DRIVER_VERSION, "==", (580, 0, 0)),  # type: ignore[arg-type]
        Selector(np.array(["memory", "x"]), Operator.EQUAL, 1),  # type: ignore[arg-type]
        Selector("\ud800", Operator.EQUAL, 1),
        ">=80G",
    ],
    ids=repr,
)
def test_what_another_process_sends_is_checked(selector: Selector) -> None:
    with pytest.raises(InvalidRequest):
        check_request(selective(selector))


@given(st.text(max_size=12))
def test_versions(text: str) -> None:
    found = version_of(text)
    if found is not None:
        parts = [int(part) for part in text.split(".")]
        assert list(found) == [*parts, 0, 0][:3]


def test_no_selector_says_nothing() -> None:
    assert gang(1).bundles[0].criteria is None
    assert DeviceCriteria().accepts(node("n", 1).devices[0])
