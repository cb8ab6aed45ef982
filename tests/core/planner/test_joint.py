"""Nodes in two cliques, and bundles without GPUs."""

from __future__ import annotations

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy
from ray_dra.core.plan import plan
from tests.core.brute import Brute, World, broken
from tests.core.machines import gang, node, one_clique, rack

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
