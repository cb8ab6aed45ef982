"""Devices given out in shares, and as partitions that share counters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement, product

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Counter, Device, DeviceId
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.brute_shares import share
from tests.core.machines import gang, held, mig_node, node, partitions, shares


def test_shares_fill_devices_that_are_shared_before_whole_ones() -> None:
    inventory = Inventory([node("a", 4, box=True), node("b", 4, box=True)])
    first = held(inventory, shares(500, name="1"))
    second = held(inventory, shares(400, name="2"))
    assert first.grants[0].device == second.grants[0].device
    assert (first.grants[0].amount, second.grants[0].amount) == (500, 400)
    third = held(inventory, shares(200, name="3"))
    assert third.grants[0].device != first.grants[0].device, "100 left are not 200"
    whole = held(inventory, gang(4, name="whole"))
    assert whole.nodes == ("b",), "a node with shared devices has no four whole ones"
    inventory.release("1")
    inventory.release("2")
    assert inventory.node_states["a"].shares == {second.grants[0].position + 1: 200}
    assert inventory.free_devices == 3


def test_a_shared_device_is_one_cliques_though_its_node_is_in_two() -> None:
    """GPU 0 of the box is in no clique, and sick; GPU 1, in the box's, has a quarter left, which must be given once."""
    inventory = Inventory([node("a", 4, box=True, loose=[0], sick=[0])])
    held(inventory, GangRequest("first", (Bundle((DeviceRequest(1, share=750),)),), Locality(cliques=1)))
    inventory.put_node(node("b", 1, box=True))
    answer = held(inventory, GangRequest("mixed", (*shares(250, 250).bundles, *gang(2).bundles)))
    assert sorted((g.node, g.position) for g in answer.grants) == [("a", 1), ("a", 2), ("a", 3), ("b", 0)]


def overlap(profiles: Sequence[str]) -> bool:
    """Whether partitions can lie side by side, by hand: starts as in `mig_node`."""
    starts = {"1g": range(7), "2g": (0, 2, 4), "4g": (0,)}
    for where in product(*(starts[p] for p in profiles)):
        used = [s + i for p, s in zip(profiles, where, strict=True) for i in range(int(p[0]))]
        if len(set(used)) == len(used):
            return True
    return False


def test_partitions_over_the_same_slices_exclude_each_other() -> None:
    inventory = Inventory([mig_node("a")])
    large = held(inventory, partitions("4g"))
    assert {i for i in range(11) if inventory.node_states["a"].free >> i & 1} == {4, 5, 6, 9}, (
        "1g and 2g from slice 4 on"
    )
    with_three = plan(inventory, partitions("1g", "1g", "1g", name="x"))
    assert isinstance(with_three, Allocation)
    assert isinstance(plan(inventory, partitions("2g", "1g", "1g", name="x")), Unsatisfiable)
    inventory.release(large.gang)
    assert inventory.free_devices == 11


def test_all_small_mixes_of_partitions() -> None:
    """Every mix of up to four partitions on one GPU, against brute force."""
    inventory = Inventory([mig_node("a")])
    for count in range(1, 5):
        for profiles in combinations_with_replacement(("1g", "2g", "4g"), count):
            answer = plan(inventory, partitions(*profiles))
            assert isinstance(answer, Allocation) is overlap(profiles), profiles
            if isinstance(answer, Allocation):
                inventory.hold(answer)
                inventory.release("m")


def test_a_partition_that_is_shared_uses_up_its_counters_once() -> None:
    """Two halves of a GPU, or the whole of it: a share of a half leaves the other half, and no whole."""
    slices: tuple[tuple[Counter, int], ...] = ((("gpu/0", "slice-0"), 1), (("gpu/0", "slice-1"), 1))
    parts = (slices[:1], slices[1:], slices)
    devices = tuple(
        Device(
            DeviceId("gpu.nvidia.com", "n", f"part-{i}"), None, None, attributes={"product": "AAB"[i]}, consumes=part
        )
        for i, part in enumerate(parts)
    )
    inventory = Inventory([Node("n", devices, counters=slices)])
    half = plan(inventory, GangRequest("half", (share(500, "A"),)))
    assert isinstance(half, Allocation)
    inventory.hold(half)
    for bundles, fits in (
        ((share(500, "A"),) * 3, True),  # the other half of the half, and the whole other half
        ((share(500, "A"),) * 4, False),
        ((share(500, "A"), share(400, "A"), share(600, "A")), True),
        ((share(300, "B"),), False),
        ((Bundle((DeviceRequest(1),)), share(500)), True),
        ((Bundle((DeviceRequest(1),)), share(500), share(400)), False),
    ):
        assert isinstance(plan(inventory, GangRequest("new", bundles)), Allocation) is fits, bundles
    inventory.release("half")
    assert inventory.free_devices == 3
    assert isinstance(plan(inventory, GangRequest("new", (share(300, "B"), share(700)))), Allocation)
    assert not isinstance(plan(inventory, GangRequest("new", (share(300, "B"), share(701)))), Allocation)
    assert isinstance(plan(inventory, GangRequest("new", (share(501, "A"),) * 2)), Allocation)
    assert not isinstance(plan(inventory, GangRequest("new", (share(501),) * 3)), Allocation)


def test_as_many_partitions_as_are_promised_lie_side_by_side() -> None:
    """Beside every mix of up to three partitions on one GPU: one more 1g for each of seven slices that is free."""
    for count in range(4):
        for profiles in combinations_with_replacement(("1g", "2g", "4g"), count):
            inventory = Inventory([mig_node("a")])
            if profiles:
                if not overlap(profiles):
                    continue
                held(inventory, partitions(*profiles))
            state = inventory.node_states["a"]
            taken = {
                counter
                for at, device in enumerate(state.node.devices)
                if state.held >> at & 1
                for counter, _ in device.consumes
            }
            left = 7 - len({name for _, name in taken} - {"memory-slice-7"})
            assert state.how_many(state.free, 1, Connect.ANY) == left
            assert state.at_once(state.free).bit_count() == left
            for wanted in range(1, 9):
                answer = plan(inventory, gang(*[1] * wanted, name="more"))
                assert isinstance(answer, Allocation) is (wanted <= left), (profiles, wanted)


def test_a_device_that_is_shared_out_has_nothing_left_for_anybody() -> None:
    for amounts in ((400, 600), (999, 1), (300, 300, 400)):
        inventory = Inventory([node("a", 1, box=True)])
        for at, amount in enumerate(amounts):
            held(inventory, shares(amount, name=f"gang-{at}"))
        state = inventory.node_states["a"]
        assert (state.shared_left(), inventory.shared, state.shares) == ({}, [], {0: 1000})
        assert isinstance(plan(inventory, shares(1, name="more")), Unsatisfiable)
        inventory.release("gang-0")
        assert state.shared_left() == {0: amounts[0]}
        assert [entry[0] for entry in inventory.shared] == [amounts[0]]
        assert isinstance(plan(inventory, shares(amounts[0], name="more")), Allocation)
        if amounts[0] < 999:
            assert isinstance(plan(inventory, shares(amounts[0] + 1, name="more")), Unsatisfiable)
