"""Devices given out in shares, and as partitions that share counters."""

from __future__ import annotations

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.machines import gang, held, node, shares


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
