"""Cliques in the planner's orders."""

from __future__ import annotations

from itertools import combinations_with_replacement, product

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.clique_order import Buckets, Leveled
from ray_dra.core.cluster.inventory import Inventory
from tests.core.machines import node


def test_cliques_of_one_node_answer_from_their_levels_as_from_buckets_kept_up_one_by_one() -> None:
    """Every number of free devices on three boxes, every shape, against buckets filled by `CliqueState.capacity`."""
    for free in combinations_with_replacement(range(9), 3):
        inventory = Inventory([node(f"n{i}", 8, box=True) for i in range(3)])
        for i, n in enumerate(free):
            inventory.set_others(f"n{i}", (1 << 8 - n) - 1, {})
        (order,) = (c for c in inventory.orders.values() if c.cliques)
        for size, spread in product(range(1, 9), (False, True)):
            shape = BundleShape(size, spread=spread)
            found, kept = order.buckets(shape), Buckets()
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
