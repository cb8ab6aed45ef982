"""Gangs over several nodes of a clique, and the limits of IMEX domains."""

from __future__ import annotations

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import IMEX_LIMITS, Limits
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Strategy
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.machines import gang, held, node, one_clique, rack


def test_two_gangs_over_several_nodes_never_share_one() -> None:
    inventory = Inventory(rack("r", 3), IMEX_LIMITS)
    first = held(inventory, gang(3, 3, name="first", locality=one_clique()))
    assert {scope for (scope, what), _ in first.counters if what == "imex"} == {f"node/{n}" for n in first.nodes}
    second = plan(inventory, gang(1, 1, 1, 1, name="second", locality=one_clique()))
    assert isinstance(second, Allocation)
    assert len(set(second.nodes)) == 1, "4 GPUs on one node need no IMEX domain"
    refused = plan(inventory, gang(2, 3, name="third", locality=one_clique()))
    assert isinstance(refused, Unsatisfiable), "5 free GPUs lie beside the first gang's, in its IMEX domain"
    single = held(inventory, gang(1, name="single"))
    assert single.nodes[0] in first.nodes, "nodes that no larger gang can use are used up first"
    anywhere = plan(inventory, gang(1, 1, 1, 1, 1, name="fourth"))
    assert isinstance(anywhere, Allocation), "without a clique asked for, no IMEX domain is needed"
    assert not anywhere.counters
    with pytest.raises(ValueError, match="IMEX domain of another gang"):
        inventory.hold(first._replace(gang="thief", bundles=tuple(p._replace(grants=()) for p in first.bundles)))
    inventory.release("first")
    assert isinstance(plan(inventory, gang(4, 4, name="third", locality=one_clique())), Allocation)


@pytest.mark.parametrize("one_per_clique", [False, True])
def test_a_part_of_the_nodes_is_in_the_imex_domains_that_the_whole_is_in(one_per_clique: bool) -> None:
    """Workers that are there already are planned on alone."""
    inventory = Inventory(rack("r", 4), Limits(compute_domains=True, one_per_clique=one_per_clique))
    first = held(inventory, gang(3, 3, name="first", locality=one_clique()))
    part = inventory.part(set(first.nodes))
    assert part.free_devices == 2
    assert isinstance(plan(part, gang(1, 1, name="second", locality=one_clique())), Unsatisfiable)
    assert isinstance(plan(part, gang(1, name="single", locality=one_clique())), Allocation)
    whole = plan(inventory.part(inventory.node_states), gang(4, 4, name="third", locality=one_clique()))
    assert isinstance(whole, Unsatisfiable if one_per_clique else Allocation)
    inventory.release("first")
    second = plan(inventory.part(set(first.nodes)), gang(3, 3, name="second", locality=one_clique()))
    assert isinstance(second, Allocation)
    inventory.hold(second)


def test_an_imex_domain_has_at_most_18_nodes() -> None:
    inventory = Inventory(rack("r", 20), IMEX_LIMITS)
    assert isinstance(plan(inventory, gang(*[4] * 18, locality=one_clique())), Allocation)
    assert isinstance(plan(inventory, gang(*[4] * 19, locality=one_clique())), Unsatisfiable)
    assert isinstance(plan(inventory, gang(*[2] * 36, locality=one_clique())), Allocation)
    assert isinstance(plan(inventory, gang(*[2] * 37, locality=one_clique())), Unsatisfiable)
    assert isinstance(plan(Inventory(rack("r", 20)), gang(*[4] * 19, locality=one_clique())), Allocation)


def test_one_imex_domain_a_clique_where_the_driver_needs_it() -> None:
    inventory = Inventory(rack("r", 8), Limits(compute_domains=True, one_per_clique=True))
    held(inventory, gang(4, 4, name="first", locality=one_clique()))
    assert isinstance(plan(inventory, gang(4, 4, name="second", locality=one_clique())), Unsatisfiable)
    assert isinstance(plan(inventory, gang(4, name="single", locality=one_clique())), Allocation)


def test_boxes_need_no_imex_domain() -> None:
    inventory = Inventory([node("a", 8, box=True), node("b", 8, box=True)], IMEX_LIMITS)
    answer = held(inventory, gang(8, 8, locality=Locality(segment=1)))
    assert not answer.counters


def test_spread_and_pack_on_one_node_under_limits() -> None:
    inventory = Inventory(rack("r", 4), IMEX_LIMITS)
    answer = plan(inventory, gang(1, 1, 1, strategy=Strategy.STRICT_SPREAD, locality=one_clique()))
    assert isinstance(answer, Allocation)
    assert len(answer.counters) == 3
    packed = plan(inventory, gang(2, 2, strategy=Strategy.STRICT_PACK, locality=one_clique()))
    assert isinstance(packed, Allocation)
    assert not packed.counters
