"""Where bundles of one class have room: on single nodes, in cliques, anywhere.

The questions of `equal.py`, answered from the index where the number of free devices tells all, and
by looking at the candidates in the same order where more is asked of a node (CPUs, labels, products).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import heappop, heappush, merge
from itertools import islice

from ray_dra.core.cluster.clique_order import CliqueOrder
from ray_dra.core.cluster.clique_state import LOOSE_NODE, CliqueState, clique_capacity
from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import ALL_DEVICES, NodeState
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.scope import Scope, roomiest_first, tightest_first

NodeCounts = list[tuple[NodeState, int, int]]
"""(node, devices it may use, bundles), in topology order."""


class Capacities:
    """How many bundles each clique, and each node in it, holds.

    Attributes:
        by_count: orders where the number of free devices of a node says what fits.
        cached: the index's cached capacities are exact for this gang, because it asks only for devices.
    """

    def __init__(self, inventory: Inventory, folded: FoldedRequest, scope: Scope) -> None:
        self.inventory = inventory
        self.folded = folded
        self.scope = scope
        self.orders, self.regular, self.others = inventory.orders_for(scope.kinds, folded.products)
        if folded.simple:
            self.by_count = self.regular if folded.linked and folded.size > 1 else self.orders
            self.cached = True
        else:
            cached = [c for c in self.orders if folded.cached_capacity_is_exact(c)]
            self.by_count = [c for c in cached if folded.shape.decided_by_count(c.grade)]
            self.cached = len(cached) == len(self.orders)
        self._by_clique: dict[CliqueState, list[tuple[int, NodeState, int]]] = {}

    def decided_by_count(self, clique: CliqueState) -> bool:
        """Whether the number of free devices of a clique's nodes says what fits there."""
        return self.folded.cached_capacity_is_exact(clique) and self.folded.shape.decided_by_count(clique.grade)

    # -- one node

    def one_node(self, count: int) -> tuple[CliqueState, NodeState] | None:
        """The node that takes all bundles and is left with least, in the fullest clique; None where there is none."""
        folded = self.folded
        if folded.spread and count > 1:
            return None
        if not folded.whole:
            return self._one_shared(count)
        wanted = folded.size * count
        # Where some devices of a node have no link, its number of free ones says little: the buckets know more.
        uneven, even = (self.others, self.regular) if folded.linked and folded.size > 1 else ([], self.orders)
        if len(self.by_count) == len(even) and not self.scope.exclusive:
            best = self.one_by_count(even, wanted)
        else:
            best = self._one_looked_at(even, count)
        return self._one_linked(uneven, count, best) if uneven else best

    def _one_looked_at(self, orders: Sequence[CliqueOrder], count: int) -> tuple[CliqueState, NodeState] | None:
        """The first of `levels` that has what is asked for besides devices."""
        folded = self.folded
        looked = 0
        try:
            for clique, free in self.levels(orders, folded.size * count):
                if self.offers(clique):
                    mask = clique.nodes_by_free[free]
                    for at in (*bits(mask & clique.imex_nodes), *bits(mask & ~clique.imex_nodes)):
                        state = clique.node_states[at]
                        looked += 1
                        if folded.capacity(state, state.members[clique.id]) >= count:
                            return clique, state
            return None
        finally:
            folded.charge_looks(looked)

    def levels(self, orders: Sequence[CliqueOrder], least: int) -> Iterator[tuple[CliqueState, int]]:
        """(clique, free devices of some of its nodes), in the order in which single nodes are taken.

        Nodes in use first, the least free, in the fullest clique; then whole ones: a rack is not broken
        into where a box will do, nor a box where there is a node without a clique; of racks the fullest.
        """
        present = 0
        for order in orders:
            present |= order.present & ~order.whole
        present = present >> least << least
        while present:
            low = present & -present
            present ^= low
            free = low.bit_length() - 1
            for clique in _by_rank([c for c in orders if c.present & low and free < len(c.levels) - 1], free):
                yield clique, free
        whole = [c for c in orders if c.present & c.whole and least < len(c.levels)]
        if len(whole) > 1:
            whole.sort(key=_breaking)
        for order in whole:
            for rank in order.levels[-1]:
                yield order.at(rank), len(order.levels) - 1

    def one_by_count(self, orders: Sequence[CliqueOrder], wanted: int) -> tuple[CliqueState, NodeState] | None:
        """The same, among cliques where free devices tell all: the first of `levels`."""
        least, best, at = 0, "", None
        for order in orders:
            present = (order.present & ~order.whole) >> wanted
            if present:
                free = wanted + (present & -present).bit_length() - 1
                head = order.levels[free][0]
                if at is None or free < least or (free == least and head < best):
                    least, best, at = free, head, order
        if at is None:
            whole = [c for c in orders if c.present & c.whole and wanted < len(c.levels)]
            if not whole:
                return None
            at = whole[0] if len(whole) == 1 else min(whole, key=_breaking)
            least = len(at.levels) - 1
            best = at.levels[least][0]
        clique = at.cliques[best[1:]]
        mask = clique.nodes_by_free[least]
        if clique.imex_nodes:  # a node in another gang's IMEX domain can take no part of a larger gang: use it up first
            mask = mask & clique.imex_nodes or mask
        return clique, clique.node_states[(mask & -mask).bit_length() - 1]

    def _one_linked(
        self, orders: Sequence[CliqueOrder], count: int, best: tuple[CliqueState, NodeState] | None
    ) -> tuple[CliqueState, NodeState] | None:
        """A node of partly connected ones, by the linked bundles that the buckets know, where it beats `best`."""
        for order in orders:
            for _, rank in order.buckets(self.folded.shape).upwards(count):
                clique = order.at(rank)
                if not self.offers(clique):
                    continue
                if order.single and self.cached:
                    state: NodeState | None = clique.node_states[0]
                else:
                    state = next(
                        (s for s in clique.node_states if self.folded.capacity(s, s.members[clique.id]) >= count), None
                    )
                if state is not None:
                    if best is None or _worth(clique, state) < _worth(*best):
                        best = (clique, state)
                    break
        return best

    def _one_shared(self, count: int) -> tuple[CliqueState, NodeState] | None:
        """For shares: first a device that is shared already and is left with least, then a free one."""
        folded, inventory = self.folded, self.inventory
        if count == 1:
            shared = inventory.shared
            for at in range(bisect_left(shared, (folded.share,)), len(shared)):
                _, _, position, name = shared[at]
                state = inventory.node_states[name]
                clique = next(
                    inventory.clique_states[i] for i, members in state.members.items() if members >> position & 1
                )
                if clique.kind in self.scope.kinds and self.offers(clique) and folded.capacity(state, 1 << position):
                    return clique, state
        for clique, free in self.levels(self.orders, 1):
            for at in bits(clique.nodes_by_free[free]):
                state = clique.node_states[at]
                if self.offers(clique) and folded.capacity(state, state.members[clique.id]) >= count:
                    return clique, state
        for clique in (d for c in self.orders for d in c.cliques.values()) if count > 1 else ():
            for state in clique.node_states:
                if self.offers(clique) and folded.capacity(state, state.members[clique.id]) >= count:
                    return clique, state
        return None

    def offers(self, clique: CliqueState) -> bool:
        """Whether the gang may be there at all."""
        return not self.scope.exclusive or clique.idle

    # -- cliques

    def tightest(self, count: int, taken: Iterable[CliqueState]) -> CliqueState | None:
        """The least roomy clique that holds `count` bundles."""
        if not self.cached or self.scope.exclusive:
            for _, clique in tightest_first(self.orders, self.folded.shape, count):
                if clique not in taken and self.offers(clique) and self.capacity(clique) >= count:
                    return clique
            return None
        best: tuple[int, str] | None = None
        found = None
        for order in self.orders:
            for bound, rank in order.buckets(self.folded.shape).upwards(count):
                clique = order.at(rank)
                if clique not in taken:
                    if best is None or (bound, rank) < best:
                        best, found = (bound, rank), clique
                    break
        return found

    def largest_first(self, segment: int) -> Iterator[tuple[CliqueState, int]]:
        """(clique, bundles it holds): most whole segments first, of these the least roomy. See `Buckets.runs`."""
        stream = roomiest_first(self.orders, self.folded.shape, segment)
        if self.scope.exclusive:
            stream = ((clique, capacity) for clique, capacity in stream if clique.idle)
        if self.cached:
            yield from stream
            return
        waiting: list[tuple[int, int, str, CliqueState]] = []  # capacities worked out, until no bound is above them
        for clique, bound in stream:
            while waiting and -waiting[0][0] >= bound // segment:
                _, capacity, _, roomiest = heappop(waiting)
                yield roomiest, capacity
            if (capacity := self.capacity(clique)) >= segment:
                if capacity // segment == bound // segment:  # nothing that follows holds more
                    yield clique, capacity
                else:
                    heappush(waiting, (-(capacity // segment), capacity, clique.rank, clique))
        while waiting:
            _, capacity, _, roomiest = heappop(waiting)
            yield roomiest, capacity

    def most_nodes(self, clique: CliqueState) -> int:
        """Most nodes of a clique that one gang may use."""
        bound = clique.fabric and self.inventory.limits.compute_domains
        return self.inventory.limits.domain_nodes if bound else len(clique.node_states)

    def most(self, segment: int) -> int:
        """Whole segments that all cliques hold, as far as devices tell: no more fit."""
        return sum(c.buckets(self.folded.shape).segments(segment) for c in self.orders)

    def sum_of_largest(self, segment: int, cliques: int | None) -> int:
        """Whole segments that so many of the roomiest cliques hold (None: all of them)."""
        if cliques is None and self.cached and not self.scope.exclusive:
            return self.most(segment)
        capacities = (capacity for _, capacity in self.largest_first(segment))
        return sum(capacity // segment for capacity in islice(capacities, cliques))

    def capacity(self, clique: CliqueState) -> int:
        return clique_capacity(clique, self._of(clique), self.inventory.limits)

    def _of(self, clique: CliqueState) -> list[tuple[int, NodeState, int]]:
        """(capacity, node, bit) of the nodes with any, where counting is not enough."""
        found = self._by_clique.get(clique)
        if found is None:
            self.folded.charge_looks(len(clique.node_states))
            found = self._by_clique[clique] = [
                (capacity, state, 1 << at)
                for at, state in enumerate(clique.node_states)
                if (capacity := self.folded.capacity(state, state.members[clique.id]))
            ]
        return found

    def fill(self, clique: CliqueState, count: int) -> NodeCounts:
        """The nodes of a clique for `count` bundles: one if one will do, else the fewest, the last the tightest."""
        if self.cached and len(clique.node_states) == 1:
            state = clique.node_states[0]
            return [(state, ALL_DEVICES if state.plain else state.members[clique.id], count)]
        bound = clique.fabric and self.inventory.limits.compute_domains
        by_capacity: dict[tuple[int, int], int] = {}  # (capacity, free) -> nodes
        if self.decided_by_count(clique):
            size = self.folded.size
            for free in range(size, len(clique.nodes_by_free)):
                if clique.nodes_by_free[free]:
                    by_capacity[1 if self.folded.spread else free // size, free] = clique.nodes_by_free[free]
        else:
            for capacity, state, bit in self._of(clique):
                mark = (capacity, (state.free & state.members[clique.id]).bit_count())
                by_capacity[mark] = by_capacity.get(mark, 0) | bit
        chosen: list[tuple[int, int]] = []
        marks = sorted(by_capacity)
        one = next((mark for mark in marks if mark[0] >= count), None)
        if one is not None:
            mask = by_capacity[one]
            if bound:  # a node in another gang's IMEX domain can take no part of a larger gang: use it up first
                mask = mask & clique.imex_nodes or mask
            chosen.append(((mask & -mask).bit_length() - 1, count))
            count = 0
        elif bound and clique.imex_nodes:
            by_capacity = {mark: mask for mark in marks if (mask := by_capacity[mark] & ~clique.imex_nodes)}
            marks = sorted(by_capacity)
        while count:
            mark = marks[-1]
            capacity = mark[0]
            if count <= capacity:
                mark = next(m for m in marks if m[0] >= count)
                chosen.append((bits(by_capacity[mark])[0], count))
                break
            positions = bits(by_capacity[mark])[: (count - 1) // capacity]
            chosen += [(at, capacity) for at in positions]
            count -= capacity * len(positions)
            left = by_capacity[mark] & -(2 << positions[-1])  # those after the last one taken
            if left:
                by_capacity[mark] = left
            else:
                marks.pop()
        chosen.sort()
        node_states = clique.node_states
        clique_id = clique.id
        # All devices of a node that is in one clique are the clique's: nothing else of it need be looked at.
        return [
            ((state := node_states[at]), ALL_DEVICES if state.plain else state.members[clique_id], n)
            for at, n in chosen
        ]

    def _most_anywhere(self) -> int:
        """A bound on the bundles that fit: by the free devices of each node, or by linked ones where it is known."""
        folded, inventory = self.folded, self.inventory
        size = folded.size
        most = sum(n * (free // size) for free, n in enumerate(inventory.by_free))
        if folded.shape.linked and not inventory.split:
            for order in inventory.orders.values():
                if order.single and not folded.shape.decided_by_count(order.grade):
                    by_count = sum(len(level) * (free // size) for free, level in enumerate(order.levels))
                    most -= by_count - order.buckets(folded.shape).segments(1)
        return most

    def anywhere(self, count: int) -> NodeCounts:
        """Nodes of the whole cluster for `count` bundles, cliques forgotten; empty if there are not enough."""
        inventory, folded, scope = self.inventory, self.folded, self.scope
        if not folded.size:
            node_states: Collection[NodeState] = inventory.node_states.values()
        elif scope.one_node or count == 1:  # whole cliques have been tried; what is left is to mix devices of several
            node_states = inventory.split.values()
        elif not inventory.split and not inventory.limits.compute_domains:
            return []
        else:
            node_states = inventory.node_states.values()
            if folded.whole and self._most_anywhere() < count:
                return []
        by_capacity: dict[tuple[int, int], list[NodeState]] = {}
        total = most = 0
        folded.charge_looks(len(node_states))
        for state in node_states:
            if (not state.free and folded.size and folded.whole) or (
                state.node.spare and not folded.request.preemptible
            ):
                continue
            capacity = folded.capacity(state, ALL_DEVICES)
            if capacity:
                by_capacity.setdefault((capacity, state.free.bit_count()), []).append(state)
                total += capacity
                most = max(most, capacity)
        if (most if scope.one_node else total) < count:
            return []
        for alike in by_capacity.values():
            alike.sort(key=lambda state: state.key)
        node_counts = [(state, ALL_DEVICES, n) for state, n in _fewest(by_capacity, count)]
        node_counts.sort(key=lambda f: f[0].key)
        return node_counts


def _worth(clique: CliqueState, state: NodeState) -> tuple[bool, int, int, str]:
    """Sort key of nodes, as in `Capacities.levels`."""
    free = state.free.bit_count()
    whole = free == state.size
    return whole, (0 if clique.kind == LOOSE_NODE else clique.size) if whole else 0, free, clique.rank


def _breaking(order: CliqueOrder) -> tuple[int, int, str]:
    """Sort key of orders: what a whole node of them is worth to larger gangs."""
    rank = order.levels[-1][0]
    return (0 if order.kind == LOOSE_NODE else order.at(rank).size, len(order.levels), rank)


def _by_rank(orders: Sequence[CliqueOrder], free: int) -> Iterator[CliqueState]:
    """Cliques with a node that has exactly so many free devices, the fullest first."""
    if len(orders) == 1:
        order = orders[0]
        return map(order.at, order.levels[free])
    return (at(rank) for rank, _, at in merge(*(_level(c, free, i) for i, c in enumerate(orders))))


def _level(order: CliqueOrder, free: int, tie: int) -> Iterator[tuple[str, int, Callable[[str], CliqueState]]]:
    return ((rank, tie, order.at) for rank in order.levels[free])


def _fewest(by_capacity: dict[tuple[int, int], list[NodeState]], count: int) -> Iterator[tuple[NodeState, int]]:
    """(node, bundles): the roomiest nodes until one takes all that is left, and that one the tightest."""
    marks = sorted(by_capacity)
    used = dict.fromkeys(marks, 0)
    while count:
        for mark in marks:
            if mark[0] >= count and used[mark] < len(by_capacity[mark]):
                yield by_capacity[mark][used[mark]], count
                return
        mark = next(m for m in reversed(marks) if used[m] < len(by_capacity[m]))
        yield by_capacity[mark][used[mark]], mark[0]
        used[mark] += 1
        count -= mark[0]
