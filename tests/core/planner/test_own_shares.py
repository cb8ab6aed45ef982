"""Shares of a gang's own GPUs: placed exactly where they fit, on GPUs that nobody else gets anything of."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ray_dra
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.replacing import place_again
from ray_dra.core.model.allocation import Allocation, Grant
from ray_dra.core.model.gpu_sharing import GpuSharing, SharingKind
from ray_dra.core.model.imex import IMEX_LIMITS
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import WHOLE, Bundle, DeviceRequest, GangRequest, Strategy
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.translate.files.snapshot import dump_snapshot, inventory_of, load_snapshot, snapshot_of
from ray_dra.translate.kube.slots import slots_of
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.core.machines import gang, node, picture, rack
from tests.core.machines import shares as open_shares

SLICES = ray_dra.time_slicing("Short")
GIB = 1 << 30


def with_memory(made: Node, *gib: int) -> Node:
    """Its GPUs have so much, in turn."""
    sizes = itertools.cycle(gib)
    return replace(made, devices=tuple(replace(d, capacity={"memory": next(sizes) * GIB}) for d in made.devices))


def asking(amounts: Sequence[float], sharing: GpuSharing = SLICES, name: str = "g", **more: object) -> GangRequest:
    request = request_from_bundles([{"GPU": amount} for amount in amounts], sharing=sharing, **more)  # type: ignore[arg-type]
    return replace(request, gang=name)


def by_device(answer: Allocation) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for grant in answer.grants:
        assert grant.amount is not None
        assert grant.own
        found.setdefault(str(grant.uuid), []).append(grant.amount)
    return found


def fits(amounts: Sequence[int], rooms: Sequence[int]) -> bool:
    """By trying everything: shares on GPUs that hold so many each."""
    if not amounts:
        return True
    left = [[WHOLE, room] for room in rooms]

    def place(at: int) -> bool:
        if at == len(amounts):
            return True
        for gpu in left:
            if gpu[0] >= amounts[at] and gpu[1]:
                gpu[0] -= amounts[at]
                gpu[1] -= 1
                if place(at + 1):
                    return True
                gpu[0] += amounts[at]
                gpu[1] += 1
        return False

    return place(0)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_yes_holds_and_a_no_is_true(data: st.DataObject) -> None:
    """Against everything that can be tried, on nodes that differ in memory and in what they can."""
    machines = []
    for at in range(data.draw(st.integers(1, 3))):
        made = with_memory(node(f"n{at}", data.draw(st.integers(1, 2)), box=True), *data.draw(st.sampled_from(SIZES)))
        if data.draw(st.integers(0, 4)) == 0:
            made = replace(made, unshared=((SharingKind.MPS.value, "of a test"),))
        machines.append(made)
    tenths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    limit = data.draw(st.sampled_from([0, 10, 25, 40, 79]))
    sharing = ray_dra.mps(memory=f"{limit}Gi" if limit else None) if data.draw(st.booleans()) else SLICES
    inventory = Inventory(machines)
    busy = data.draw(st.integers(0, 1))
    inventory.set_others("n0", busy, {})
    request = asking([tenth / 10 for tenth in tenths], sharing)
    rooms = [
        sharing.most_on(device.capacity["memory"])
        for machine in machines
        for position, device in enumerate(machine.devices)
        if not (machine.name == "n0" and busy >> position & 1)
        and not (machine.unshared and sharing.kind is SharingKind.MPS)
    ]
    answer = plan(inventory, request)
    possible = fits([tenth * 100 for tenth in tenths], [min(room, 9) for room in rooms])
    if isinstance(answer, Unsatisfiable):
        assert answer.proven
        assert not possible
        assert answer.shortfalls
        return
    assert possible
    known = {device.uuid: device for machine in machines for device in machine.devices}
    for uuid, amounts in by_device(answer).items():
        assert sum(amounts) <= WHOLE
        assert len(amounts) <= sharing.most_on(known[uuid].capacity["memory"])
    assert [grant.amount for grant in answer.grants] == [tenth * 100 for tenth in tenths]
    inventory.hold(answer)
    again = inventory_of(load_snapshot(dump_snapshot(snapshot_of(inventory))))
    assert picture(again) == picture(inventory)


SIZES = [(80,), (80, 40), (24,), (40, 80)]


@pytest.mark.parametrize("size", [4, 5])
def test_every_set_that_fills_two_gpus_has_a_place_in_every_order(size: int) -> None:
    """Most fail in some order where Ray packs fractions best-fit. Here each has a GPU of its raylet to itself."""
    filling = [
        tenths
        for tenths in itertools.combinations_with_replacement(range(1, 10), size)
        if sum(tenths) == 20 and fits([tenth * 100 for tenth in tenths], [9, 9])
    ]
    refused = 0
    for tenths in filling:
        orders = set(itertools.permutations(tenths))
        refused += any(not best_fit(order) for order in orders)
        for order in sorted(orders)[:6]:
            request = asking([tenth / 10 for tenth in order])
            answer = plan(Inventory([node("a", 2, box=True)]), request)
            assert isinstance(answer, Allocation)
            (slot,) = slots_of(answer, request.bundles).values()
            assert (slot.devices, len(slot.uuids)) == (size, 2)
            assert Counter(slot.shares) == Counter(str(grant.uuid) for grant in answer.grants)
    assert refused > len(filling) // 2, "Ray's rule would refuse most"


def best_fit(tenths: Sequence[int]) -> bool:
    """Ray's rule: each where least is left, in the order in which they come, and nothing is moved."""
    left = [10, 10]
    for tenth in tenths:
        open_to = [at for at in (0, 1) if left[at] >= tenth]
        if not open_to:
            return False
        left[min(open_to, key=lambda at: left[at])] -= tenth
    return True


def test_nobody_gets_what_a_gang_leaves() -> None:
    inventory = Inventory([node("a", 2, box=True)])
    before = picture(inventory)
    answer = plan(inventory, asking([0.5]))
    assert isinstance(answer, Allocation)
    inventory.hold(answer)
    assert (inventory.free_devices, inventory.held_devices) == (1, 1)
    assert isinstance(plan(inventory, gang(2, name="whole")), Unsatisfiable)
    other = plan(inventory, asking([0.5, 0.5], name="other"))
    assert isinstance(other, Allocation)
    assert by_device(other).keys().isdisjoint(by_device(answer)), "also not shares of another gang"
    assert isinstance(plan(inventory, asking([0.5, 0.6], name="other")), Unsatisfiable)
    (free,) = {grant.device for grant in other.grants}
    opened = plan(inventory, open_shares(400, name="open"))
    assert isinstance(opened, Allocation)
    assert {grant.device for grant in opened.grants} == {free}
    with pytest.raises(ValueError, match="held by another gang"):
        inventory.hold(answer._replace(gang="twice"))
    inventory.hold(opened)
    with pytest.raises(ValueError, match="held by another gang"):
        inventory.hold(other)
    inventory.release("open")
    inventory.release("g")
    assert picture(inventory) == before


def test_more_than_a_gpu_is_never_held() -> None:
    inventory = Inventory([node("a", 1, box=True)])
    answer = plan(inventory, asking([0.5, 0.5]))
    assert isinstance(answer, Allocation)
    swollen = answer._replace(
        bundles=tuple(
            placed._replace(grants=tuple(grant._replace(amount=600) for grant in placed.grants))
            for placed in answer.bundles
        )
    )
    with pytest.raises(ValueError, match="not so much left"):
        inventory.hold(swollen)
    assert inventory.free_devices == 1


def test_a_node_that_comes_back_has_its_shares_still() -> None:
    inventory = Inventory([node("a", 2, box=True)])
    answer = plan(inventory, asking([0.5, 0.4]))
    assert isinstance(answer, Allocation)
    inventory.hold(answer)
    held = picture(inventory)
    inventory.drop_node("a")
    assert inventory.held_devices == 0
    inventory.put_node(node("a", 2, box=True))
    assert picture(inventory) == held
    inventory.release("g")
    assert inventory.free_devices == 2


def test_few_gpus_and_few_nodes_are_used() -> None:
    for nodes, amounts, gpus, used in (
        ([node("a", 8, box=True), node("b", 4, box=True)], [0.25] * 16, 4, {"b"}),
        ([node("a", 8, box=True), node("b", 8, box=True)], [0.25] * 33, 9, None),
        ([node("a", 4, box=True)], [0.5, 0.25, 0.25, 0.5, 0.5], 2, None),
        ([node(name, 4, box=True) for name in "abcd"], [0.4, 0.6] * 16, 16, None),
        ([node(name, 4, box=True) for name in "abcd"], [0.4, 0.6] * 8, 8, None),
    ):
        answer = plan(Inventory(nodes), asking(amounts))
        assert isinstance(answer, Allocation)
        assert len(by_device(answer)) == gpus
        assert used is None or set(answer.nodes) == used


def test_a_gang_of_shares_over_a_rack_asks_for_no_imex_domain() -> None:
    inventory = Inventory(rack("c", 4), IMEX_LIMITS)
    for amounts in ([0.25] * 40, [0.5, 0.25] * 16):
        answer = plan(inventory, asking(amounts))
        assert isinstance(answer, Allocation)
        assert len(set(answer.nodes)) > 1
        assert answer.counters == ()


@pytest.mark.parametrize("strategy", ["STRICT_SPREAD", "STRICT_PACK", "SPREAD", "PACK"])
def test_strategies_hold(strategy: str) -> None:
    inventory = Inventory([node(name, 2, box=True) for name in "abc"])
    answer = plan(inventory, asking([0.5, 0.5, 0.5], strategy=strategy))
    assert isinstance(answer, Allocation)
    nodes = {"STRICT_SPREAD": 3, "SPREAD": 3}.get(strategy, 1)
    assert len(set(answer.nodes)) == nodes
    if strategy == "STRICT_SPREAD":
        assert isinstance(plan(inventory, asking([0.5] * 4, strategy=strategy)), Unsatisfiable)
        assert Strategy[strategy] is Strategy.STRICT_SPREAD


def test_a_no_says_what_is_short_and_what_would_do() -> None:
    small = Inventory([with_memory(node("a", 4, box=True), 79)])
    twenty = ray_dra.mps(memory="20Gi", threads=25)
    answer = plan_and_explain(small, asking([0.25] * 16, twenty))
    assert isinstance(answer, Unsatisfiable)
    (short,) = answer.shortfalls
    assert (short.wanted, short.available) == (16, 12)
    assert "16 shares of 0.25 of a GPU (MPS, 25 % of the threads and 20Gi each)" in str(short)
    assert answer.counterfactual is not None
    assert [each.change for each in answer.counterfactual.instead] == [
        "12 of the 16 bundles",
        "MPS, 25 % of the threads and 20224Mi each",
    ]
    answer = plan_and_explain(small, asking([0.25], ray_dra.mps(memory="90Gi")))
    assert isinstance(answer, Unsatisfiable)
    assert "GPUs with 79Gi at most" in str(answer.shortfalls[0])
    closed = Inventory([replace(node("a", 4, box=True), unshared=((SharingKind.MPS.value, "it parts its GPUs"),))])
    answer = plan_and_explain(closed, asking([0.25], twenty))
    assert isinstance(answer, Unsatisfiable)
    assert "a (it parts its GPUs)" in str(answer.shortfalls[0])
    assert answer.counterfactual is not None
    assert [each.change for each in answer.counterfactual.instead] == ["time slices, Default"]
    full = Inventory([node("a", 4, box=True)])
    held = plan(full, asking([0.5] * 7, name="first"))
    assert isinstance(held, Allocation)
    full.hold(held)
    answer = plan_and_explain(full, asking([0.5]))
    assert isinstance(answer, Unsatisfiable)
    assert "no GPU that is free" in str(answer.shortfalls[0])
    assert answer.counterfactual is not None
    assert answer.counterfactual.leaving is not None
    assert (answer.counterfactual.leaving.gangs, answer.counterfactual.leaving.devices) == (("first",), 4)


def test_a_grant_of_a_share_that_is_open_names_no_device_alone() -> None:
    """What two records may both name, and what they may not."""
    (grant,) = Inventory([node("a", 1)]).node_states["a"].grants
    assert grant.alone
    assert not grant._replace(amount=500).alone
    assert grant._replace(amount=500, own=True).alone
    assert Grant(*grant[:8]) == grant, "as they were stored before"
    assert GangRequest("g", (Bundle((DeviceRequest(1),)),)).sharing is None


def test_a_lost_worker_is_replaced_by_one_with_as_many_shares() -> None:
    """So that Ray's bundles find as many GPUs on its raylet as there were."""
    inventory = Inventory(rack("c", 3, 1))
    request = asking([0.6, 0.5, 0.4, 0.5])
    held = plan(inventory, request)
    assert isinstance(held, Allocation)
    inventory.hold(held)
    lost = held.nodes[0]
    inventory.put_node(replace(inventory.node_states[lost].node, ready=False, reason="lost"))
    planning = Planning(inventory, KnownNodes(inventory), ())
    found = place_again(planning, Gang(request, 1, allocation=held, group="g"), [0])
    assert found is not None
    inventory.release("g")
    inventory.hold(found)
    for before, now in zip(held.bundles, found.bundles, strict=True):
        assert (before == now) is (before.node != lost)
        assert before.grants[0].amount == now.grants[0].amount
    sizes = [Counter(slot.devices for slot in slots_of(each, request.bundles).values()) for each in (held, found)]
    assert sizes[0] == sizes[1]
