"""The map's cells are the inventory's GPUs: each with its state and who has it, counted as the metrics count them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.figures import figures_of
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.device import Health
from ray_dra.core.model.request import GangRequest
from ray_dra.translate.map.cells import STATES, Use, node_row
from tests.core.machines import gang, held, node, rack, shares
from tests.core.parted import bundle, parted, parted_node
from tests.translate.map.worlds import STEPS, Step, start


@given(st.lists(STEPS, max_size=12))
@settings(max_examples=80, deadline=None)
def test_cells_are_what_the_inventory_has(steps: list[Step]) -> None:
    inventory = start()
    for step in steps:
        step(inventory)
    counts: Counter[str] = Counter()
    for state in inventory.node_states.values():
        row = node_row(inventory, state)
        assert (row.name, row.ready, row.why, row.spare) == (
            state.name,
            state.node.ready,
            state.node.reason,
            state.node.spare,
        )
        assert row.imex_gang == (state.imex_gang or "")
        whole = [cell for cell in row.cells if cell.whole]
        assert len(whole) == state.size
        for at, (cell, device) in enumerate(zip(whole, state.node.devices, strict=True)):
            counts[cell.state] += 1
            assert cell.clique == device.clique
            assert bool(cell.sick) == (device.health is not Health.OK)
            assert cell.gang == next((g for g, mask in state.tenants.items() if mask >> at & 1), "")
            assert (cell.state == "free") == bool(state.free >> at & 1 and at not in state.shares)
    assert {state: counts[state] for state in STATES} == dict(figures_of(inventory).gpus)


def test_shares_say_whose_they_are() -> None:
    inventory = Inventory([node("n", 2)])
    held(inventory, shares(300, 300, name="a"))
    held(inventory, shares(250, name="b"))
    (row,) = (node_row(inventory, state) for state in inventory.node_states.values())
    assert [(cell.state, cell.uses) for cell in row.cells] == [
        ("shared", (Use("a", 600), Use("b", 250))),
        ("free", ()),
    ]


def test_parts_say_whose_they_are() -> None:
    inventory = Inventory([parted_node("m", 2)])
    held(inventory, GangRequest("a", (bundle("3g.40gb"), bundle("1g.10gb"))))
    inventory.set_parts("m", {"GPU-m-1": 1}, {})
    (row,) = (node_row(inventory, state) for state in inventory.node_states.values())
    assert row.cells[0].uses == (Use("a", parts=("1g.10gb", "3g.40gb")),)
    assert row.cells[0].state == "shared"
    assert row.cells[1].uses == (Use("", parts=("1g.10gb",)),)


def test_a_gpu_in_parts_alone_is_a_cell_that_counts_as_no_gpu() -> None:
    inventory = Inventory([replace(node("m", 0), parted=(parted("m", 0, static=["1g.10gb", "1g.10gb"]),))])
    assert [(c.state, c.whole) for c in node_row(inventory, inventory.node_states["m"]).cells] == [("free", False)]
    held(inventory, GangRequest("a", (bundle("1g.10gb"),)))
    (cell,) = node_row(inventory, inventory.node_states["m"]).cells
    assert (cell.state, cell.uses) == ("shared", (Use("a", parts=("1g.10gb",)),))


def test_a_held_gpu_that_is_not_well_stays_its_gangs() -> None:
    nodes = rack("r", 1)
    inventory = Inventory(nodes)
    held(inventory, gang(4))
    sick = tuple(replace(d, health=Health.DRAIN, health_reason="links down") for d in nodes[0].devices)
    inventory.put_node(replace(nodes[0], devices=sick))
    cells = node_row(inventory, inventory.node_states["r-t0"]).cells
    assert {(cell.state, cell.gang, cell.sick) for cell in cells} == {("held", "g", "links down")}
