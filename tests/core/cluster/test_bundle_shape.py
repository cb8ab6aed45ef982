"""How many bundles of a shape a node holds, against trying; and where the number of free devices alone says so."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import REGULAR, UNEVEN
from ray_dra.core.model.node import Node
from tests.core.machines import DGX1, node

NODES = {
    REGULAR: node("box", 8, box=True),
    UNEVEN: node("dgx", 8, links=DGX1),
}
MASKS = range(0, 256, 5)


def most(there: Node, free: int, size: int, linked: bool) -> int:
    """Disjoint sets of devices that the node's links allow at once, by trying all."""
    positions = [i for i in range(len(there.devices)) if free >> i & 1]
    best = 0
    for chosen in combinations(positions, size):
        if linked and not all(there.links[i][j] for i, j in combinations(chosen, 2)):
            continue
        rest = free & ~sum(1 << i for i in chosen)
        best = max(best, 1 + most(there, rest & ~((1 << chosen[0]) - 1), size, linked))
    return best


@pytest.mark.parametrize("grade", NODES, ids=["regular", "uneven"])
def test_what_a_node_holds_and_where_numbers_say_it(grade: int) -> None:
    there = NODES[grade]
    inventory = Inventory([there])
    state = inventory.node_states[there.name]
    everything = (1 << len(there.devices)) - 1
    differs = set()
    for mask, (size, linked, spread) in product(MASKS, product((1, 2, 3), (False, True), (False, True))):
        inventory.set_others(there.name, everything & ~mask, {})
        free = state.free
        shape = BundleShape(size, linked=linked, spread=spread)
        fits = most(there, free, size, linked and size > 1)
        held = shape.on_node(state, everything)
        assert held == (min(fits, 1) if spread else fits), (bin(free), shape)
        count = free.bit_count() // size
        if shape.decided_by_count(grade):
            assert held == (min(count, 1) if spread else count)
        elif held != (min(count, 1) if spread else count):
            differs.add((linked, spread))
    assert bool(differs) is (grade != REGULAR), "elsewhere numbers of free devices do not say it"


def test_shares_are_never_decided_by_the_number_of_free_devices() -> None:
    inventory = Inventory([NODES[REGULAR]])
    state = inventory.node_states["box"]
    for share, each in ((250, 4), (300, 3), (500, 2), (600, 1), (1, 1000)):
        shape = BundleShape(1, share=share)
        assert shape.least_free() == 0
        assert not any(shape.decided_by_count(grade) for grade in NODES)
        assert shape.on_node(state, 0xFF) == 8 * each
        assert shape.on_node(state, 0b0110) == 2 * each
        assert shape._replace(spread=True).on_node(state, 0xFF) == 1
    assert BundleShape(3).least_free() == 3
