"""Nodes that are alike for a request, and those that are not."""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from tests.core.brute_shares import Cluster, share, valid
from tests.core.checks import check
from tests.core.machines import gang, node


def test_a_node_with_two_products() -> None:
    base = node("a", 4, box=True)
    devices = tuple(
        replace(d, attributes={**d.attributes, "product": "A100" if i < 3 else "H100"})
        for i, d in enumerate(base.devices)
    )
    inventory = Inventory([replace(base, devices=devices), node("b", 2, box=True, product="H100")])
    for sizes, product_name, fits in (
        ((3,), "A100", True),
        ((2,), "H100", True),
        ((2, 1), "H100", True),
        ((3,), "H100", False),
    ):
        request = gang(*sizes, products=(product_name,))
        answer = plan(inventory, request)
        assert isinstance(answer, Allocation) is fits, (sizes, product_name)
        if isinstance(answer, Allocation):
            check(answer, inventory, request)
            products = {inventory.node_states[g.node].node.devices[g.position].product for g in answer.grants}
            assert products == {product_name}


def test_nodes_whose_shared_devices_are_of_other_products_are_not_alike() -> None:
    devices = {("n0", 0): ("A", None), ("n1", 0): ("B", None)}
    cluster = Cluster(devices, {"gang": {("n0", 0): 500, ("n1", 0): 500}}, {}, {"gang": 0})
    for first, second in (("A", "B"), ("B", "A")):
        request = GangRequest("new", (share(400, first), share(300, second)))
        answer = plan(cluster.inventory(), request)
        assert isinstance(answer, Allocation)
        assert valid(cluster, request, answer)
