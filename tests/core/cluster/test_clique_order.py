"""Cliques in the planner's orders."""

from __future__ import annotations

from itertools import combinations_with_replacement, product

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.clique_order import MOST_SHAPES, Buckets, Leveled
from ray_dra.core.cluster.inventory import Inventory
from tests.core.machines import node, rack


def test_cliques_of_one_node_answer_from_their_levels_as_from_buckets_kept_up_one_by_one() -> None:
    """Every number of free devices on three boxes, every shape, against buckets filled by `CliqueState.capacity`."""
    for free in combinations_with_replacement(range(9), 3):
        inventory = Inventory([node(f"n{i}", 8, box=True) for i in range(3)])
        for i, n in enumerate(free):
            inventory.set_others(f"n{i}", (1 << 8 - n) - 1, {})
        (order,) = (c for c in inventory.orders.values() if c.cliques)
        for size, spread in product(range(1, 9), (False, True)):
            shape = BundleShape(size, spread=spread)
            found, kept = order.buckets(shape), Buckets(least=size, by_count=True)
            assert isinstance(found, Leveled)
            for clique in inventory.clique_states.values():
                if capacity := clique.capacity(shape, inventory.limits):
                    kept.add(capacity, clique.rank)
            assert found.lists == kept.lists
            for least in range(1, 9):
                assert list(found.upwards(least)) == list(kept.upwards(least))
                assert found.segments(least) == kept.segments(least)
                runs = [[(s, capacity, list(ranks)) for s, capacity, ranks in b.runs(least)] for b in (found, kept)]
                assert runs[0] == runs[1]


def test_more_shapes_than_are_kept_up_are_answered_all_the_same() -> None:
    """The one asked for longest ago is given up, and is worked out anew when it is asked for again."""
    inventory = Inventory([*rack("a", 3, 8), *rack("b", 2, 8), *rack("c", 2, 8)])
    (order,) = (c for c in inventory.orders.values() if c.cliques)
    shapes = [BundleShape(size, spread=spread) for size in range(1, 9) for spread in (False, True)]
    shapes += [BundleShape(1, share=share) for share in range(100, 1000, 50)]
    assert len(shapes) > MOST_SHAPES
    oldest = order.buckets(shapes[0])
    assert order.buckets(shapes[0]) is oldest, "kept up"
    for turn, shape in enumerate([*shapes, *shapes[:20], *shapes]):
        inventory.set_others(f"{'abc'[turn % 3]}-t{turn % 2}", (turn * 37) % 256, {})
        found = order.buckets(shape)
        wanted: dict[int, list[str]] = {}
        for clique in sorted(order.cliques.values(), key=lambda c: c.rank):
            capacity = sum(shape.on_node(state, state.members[clique.id]) for state in clique.node_states)
            assert clique.capacity(shape, inventory.limits) == capacity
            if capacity:
                wanted.setdefault(capacity, []).append(clique.rank)
        assert found.lists == wanted
        assert len(order.by_shape) <= MOST_SHAPES
        assert all(clique.capacities.keys() == order.by_shape.keys() for clique in order.cliques.values())
    recent = shapes[-1]
    kept = order.buckets(recent)
    for shape in shapes[: MOST_SHAPES - 1]:
        order.buckets(shape)
        assert order.buckets(recent) is kept, "asked for just now, so others are given up first"
