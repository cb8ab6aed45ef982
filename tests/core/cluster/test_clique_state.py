"""How many bundles a clique of several nodes holds, under IMEX limits and with links that are missing."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.imex import Limits
from tests.core.brute import linked_by_hand
from tests.core.machines import node

PAIRS = list(combinations(range(4), 2))


@given(
    links=st.lists(st.integers(0, 63), min_size=1, max_size=4),
    free=st.lists(st.integers(0, 15), min_size=4, max_size=4),
    in_imex=st.integers(0, 15),
    limits=st.sampled_from([Limits(), Limits(True, 1), Limits(True, 2), Limits(True), Limits(True, 18, True)]),
)
@settings(max_examples=300, deadline=None)
def test_a_clique_holds_what_its_nodes_hold_one_alone_or_several_that_may_join(
    links: list[int], free: list[int], in_imex: int, limits: Limits
) -> None:
    """Every shape. A node that is in an IMEX domain already serves alone; of the others the roomiest ones together."""
    nodes = []
    for at, there in enumerate(links):
        pairs = {pair for i, pair in enumerate(PAIRS) if there >> i & 1}
        table = tuple(tuple(int((i, j) in pairs or (j, i) in pairs) for j in range(5)) for i in range(5))
        nodes.append(node(f"n{at}", 5, clique="r", links=table, order=at))
    inventory = Inventory(nodes, limits)
    taken = [at for at in range(len(nodes)) if in_imex >> at & 1] if limits.compute_domains else []
    for at in taken:
        state = inventory.node_states[f"n{at}"]
        inventory.hold(Allocation(f"g{at}", (Placed(state.name, state.granted(16)),), counters=(state.imex_counter,)))
    for at in range(len(nodes)):
        inventory.set_others(f"n{at}", (15 & ~free[at]) | (0 if at in taken else 16), {})
    clique = inventory.clique_states["r"]
    for size in (1, 2, 3):
        for linked, spread in ((False, False), (False, True), (True, False), (True, True)):
            each = []
            for at in range(len(nodes)):
                open_ = {i for i in range(4) if free[at] >> i & 1}
                table = nodes[at].links if linked else ((1,) * 4,) * 4
                most = max(n for n in range(5) if linked_by_hand(table, open_, (size,) * n))
                each.append(min(most, 1) if spread else most)
            several = sorted((n for at, n in enumerate(each) if at not in taken), reverse=True)
            if not limits.compute_domains:
                wanted = sum(each)
            elif limits.one_per_clique and taken:
                wanted = max(each)
            else:
                wanted = max(max(each), sum(several[: limits.domain_nodes]))
            shape = BundleShape(size, linked=linked, spread=spread)
            assert clique.capacity(shape, limits) == wanted
            (order,) = (o for o in inventory.orders.values() if o.cliques)
            assert [n for n, _ in order.buckets(shape).upwards(1)] == [wanted] * bool(wanted)
