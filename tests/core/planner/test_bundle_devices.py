"""How equal shares take the devices of a node, against counting by hand."""

from __future__ import annotations

from itertools import product

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.locality import Connect
from ray_dra.core.planner.bundle_devices import ShareBundles, WholeBundles
from tests.core.machines import held, node, shares


def test_shares_lie_where_least_is_left_and_still_enough() -> None:
    """Two GPUs with 0, 250, 500 or 750 thousandths taken of each, a whole one, and one in no clique."""
    for first, second in product((0, 250, 500, 750), repeat=2):
        inventory = Inventory([node("a", 4, box=True, loose=[3])])
        state = inventory.node_states["a"]
        for at, amount in ((0, first), (1, second)):
            if amount:
                inventory.set_others("a", 15 & ~(1 << at), {})
                held(inventory, shares(amount, name=f"gang-{at}"))
        inventory.set_others("a", 0, {})
        left = sorted((1000 - amount, at) for at, amount in ((0, first), (1, second), (2, 0)))
        for share in (100, 250, 251, 500, 750, 751, 1000):
            bundles = ShareBundles(share, None, Connect.ANY)
            assert bundles.open_to(state, 0b0111) == left
            assert bundles.open_to(state) == [*left, (1000, 3)]
            assert bundles.capacity(state, 0b0111) == sum(n // share for n, _ in left)
            assert bundles.tightest(state) == next((at for n, at in [*left, (1000, 3)] if n >= share), None)
            places = [1 << at for n, at in left for _ in range(n // share)]
            for count in range(len(places) + 1):
                assert bundles.choose(state, 0b0111, count) == tuple(places[:count])
            (grant,) = bundles.granted(state, 0b0100)
            assert (grant.position, grant.amount) == (2, share)
    assert WholeBundles(1, None, Connect.ANY).tightest(state) is None
