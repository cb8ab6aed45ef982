"""Which single node, which clique: IMEX domains, spares, kinds of machine."""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.machines import DGX1, gang, held, node, one_clique, rack


def test_spares_are_lent_to_preemptible_gangs_only() -> None:
    """A rack of 18 trays as 16 + 2."""
    trays = [replace(n, spare=i >= 16) for i, n in enumerate(rack("r", 18))]
    inventory = Inventory(trays)
    small = held(inventory, replace(gang(4, name="small"), preemptible=True))
    assert small.nodes[0] in ("r-t16", "r-t17"), "a preemptible gang goes to the spares first"
    assert isinstance(plan(inventory, gang(*[4] * 17, name="x", locality=one_clique())), Unsatisfiable)
    large = held(inventory, gang(*[4] * 16, name="large", locality=one_clique()))
    assert not {"r-t16", "r-t17"} & set(large.nodes)
    refused = plan(inventory, gang(1, name="y"))
    assert isinstance(refused, Unsatisfiable)
    assert "kept as spares" in str(refused)
    assert isinstance(plan(inventory, replace(gang(4, name="z"), preemptible=True)), Allocation)
    # A tray breaks: the spare takes its place once the label says so.
    inventory.release("small")
    inventory.put_node(replace(trays[17], spare=False))
    assert isinstance(plan(inventory, gang(4, name="y")), Allocation)


def test_a_rack_is_not_broken_into_where_a_box_will_do() -> None:
    inventory = Inventory([*rack("r", 4), node("box", 8, box=True), node("loose", 4)])
    assert held(inventory, gang(1, name="1")).nodes == ("loose",)
    assert held(inventory, gang(2, name="2")).nodes == ("box",)
    assert held(inventory, gang(4, 4, name="3", locality=one_clique())).cliques == ("r", "r")


def test_of_a_partly_connected_box_linked_devices_first() -> None:
    """Free: 0 and 4-7 of a DGX-1; the best quad is 4-7, and a pair without a link is taken only at last."""
    inventory = Inventory([node("dgx", 8, links=DGX1)])
    inventory.set_others("dgx", 0b00001110, {})
    linked = Locality(connect=Connect.REQUIRED)
    assert [g.position for g in held(inventory, gang(4, locality=linked)).grants] == [4, 5, 6, 7]
    inventory.release("g")
    assert isinstance(plan(inventory, gang(5, locality=linked)), Unsatisfiable)
    assert isinstance(plan(inventory, gang(5)), Allocation)
