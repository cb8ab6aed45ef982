"""Which devices of a DGX-1: every state of one, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.plan import plan
from tests.core.brute import linked_by_hand
from tests.core.machines import DGX1, gang, node


def test_linked_devices_on_every_state_of_a_dgx1() -> None:
    """Every set of free GPUs of a DGX-1, several demands for linked GPUs, against brute force."""
    demands = [(2,), (3,), (4,), (5,), (2, 2), (2, 2, 2), (4, 4), (3, 2), (2, 2, 2, 2), (4, 2, 2)]
    whole = node("dgx", 8, links=DGX1)
    for free in range(1 << 8):
        inventory = Inventory([whole])
        inventory.set_others("dgx", 0xFF & ~free, {})
        for sizes in demands:
            answer = plan(inventory, gang(*sizes, locality=Locality(connect=Connect.REQUIRED)))
            possible = linked_by_hand(DGX1, {i for i in range(8) if free >> i & 1}, sizes)
            assert isinstance(answer, Allocation) is possible, (bin(free), sizes)
            if isinstance(answer, Allocation):
                for placed in answer.bundles:
                    chosen = [g.position for g in placed.grants]
                    assert all(DGX1[i][j] for i, j in combinations(chosen, 2))


def linked_pairs(links: Sequence[Sequence[int]], free: frozenset[int]) -> int:
    """Most disjoint linked pairs, by trying all."""
    if len(free) < 2:
        return 0
    first, *others = sorted(free)
    without = linked_pairs(links, free - {first})
    return max(
        [without, *(1 + linked_pairs(links, free - {first, other}) for other in others if links[first][other])],
    )


def test_a_pair_leaves_as_many_linked_pairs_as_it_can_on_every_state_of_a_dgx1() -> None:
    """A pair is linked where one can be; of linked pairs it leaves most to others, and of these it has most links."""
    links = DGX1
    inventory = Inventory([node("dgx", 8, links=links, numa=[0] * 4 + [1] * 4)])
    for mask in range(1 << 8):
        free = frozenset(i for i in range(8) if mask >> i & 1)
        if len(free) < 2:
            continue
        inventory.set_others("dgx", 0xFF & ~mask, {})
        answer = plan(inventory, gang(2))
        assert isinstance(answer, Allocation)
        a, b = (grant.position for grant in answer.grants)
        best = max(
            (links[i][j] > 0, links[i][j] and linked_pairs(links, free - {i, j}), links[i][j])
            for i, j in combinations(sorted(free), 2)
        )
        assert (links[a][b] > 0, links[a][b] and linked_pairs(links, free - {a, b}), links[a][b]) == best, sorted(free)
