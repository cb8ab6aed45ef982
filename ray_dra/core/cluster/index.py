"""The index over nodes and cliques: built at once, then kept up change by change.

Neighbours: `holds.py` adds who holds what; `clique_order.py` has the orders that the planner looks into.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import NamedTuple

from ray_dra.core.cluster.clique_order import CliqueOrder
from ray_dra.core.cluster.clique_state import LOOSE_NODE, CliqueKind, CliqueState
from ray_dra.core.cluster.node_state import REGULAR, SEVERAL_PRODUCTS, CliqueKey, InClique, NodeState
from ray_dra.core.model.imex import NO_LIMITS, Limits
from ray_dra.core.model.node import Node
from ray_dra.core.model.topology import Topology

MOST_REMEMBERED = 100
"""How many lists of clique orders are remembered. Users write which products they ask for, so there is a bound."""


class CliqueOrders(NamedTuple):
    """The clique orders that a request looks into; regular: all devices of a node are linked; others: they are not."""

    orders: list[CliqueOrder]
    regular: list[CliqueOrder]
    others: list[CliqueOrder]


class Index:
    """All nodes and cliques, and what of them is free.

    Attributes:
        node_states: by node name; clique_states: by id.
        orders: by (kind, product, grade, most devices of a node, whether it is of one node).
        split: nodes whose devices are in more than one clique, by name.
        by_free: how many nodes have so many free devices.
        shared: (thousandths left, node key, position, node) of every device that is shared, sorted.
        devices, free_devices, held_devices, busy_devices: counts over the cluster.
        changes: how many there have been.
        touched: nodes that have come, changed or gone, for somebody who clears it; None: nobody asks.
        level_labels: labels of nodes that name the domains above their cliques, the lowest level first.
        leveled: whether a node has one of them, as far as is known.
    """

    def __init__(
        self,
        topology: Topology | Iterable[Node] = (),
        limits: Limits = NO_LIMITS,
        level_labels: tuple[str, ...] = (),
    ) -> None:
        self.limits = limits
        self.level_labels, self.leveled = level_labels, False
        self._above: dict[CliqueState, tuple[str | None, ...]] = {}
        self.node_states: dict[str, NodeState] = {}
        self.clique_states: dict[CliqueKey, CliqueState] = {}
        self.orders: dict[tuple[CliqueKind, str, int, int, bool], CliqueOrder] = {}
        self._shared_of: dict[NodeState, list[tuple[int, str, int, str]]] = {}  # entries of `shared`, by node
        self.split: dict[str, NodeState] = {}
        self.by_free = [0]
        self.shared: list[tuple[int, str, int, str]] = []
        self.devices = 0
        self.free_devices = 0
        self.held_devices = 0
        self.busy_devices = 0
        self.changes = 0
        self.touched: dict[NodeState, None] | None = None
        self._largest: dict[str, NodeState | None] = {}
        self._orders_for: dict[tuple[tuple[CliqueKind, ...], tuple[str, ...]], CliqueOrders] = {}
        self._build(topology.nodes.values() if isinstance(topology, Topology) else topology)

    def _build(self, nodes: Iterable[Node]) -> None:
        """All at once: in topology order every node comes last in its cliques, and each is listed once."""
        named = {node.name: node for node in nodes}
        for state in sorted((NodeState(node) for node in named.values()), key=attrgetter("key")):
            self._count_node(state, +1)
            self.node_states[state.name] = state
            for clique_id in state.members:
                clique = self.clique_states.get(clique_id)
                if clique is None:
                    clique = self.clique_states[clique_id] = CliqueState(clique_id)
                clique.append(state)
        for clique in self.clique_states.values():
            self._list(clique)

    @property
    def clique_count(self) -> int:
        """How many NVLink cliques are known."""
        return sum(len(c.cliques) for c in self.orders.values() if c.kind != LOOSE_NODE)

    def orders_for(self, kinds: tuple[CliqueKind, ...], products: tuple[str, ...]) -> CliqueOrders:
        """The orders of these kinds, by the products asked for; remembered until a node comes or goes."""
        found = self._orders_for.get((kinds, products))
        if found is None:
            if len(self._orders_for) > MOST_REMEMBERED:
                self._orders_for.clear()
            orders = [
                c
                for c in self.orders.values()
                if c.kind in kinds
                and c.cliques
                and (not products or c.product in products or c.product == SEVERAL_PRODUCTS)
            ]
            found = self._orders_for[kinds, products] = CliqueOrders(
                orders,
                [c for c in orders if c.grade == REGULAR],
                [c for c in orders if c.grade != REGULAR],
            )
        return found

    def largest(self, resource: str) -> NodeState | None:
        """The node that has most of a resource when empty; remembered until a node comes or goes."""
        if resource not in self._largest:
            node_states = self.node_states.values()
            self._largest[resource] = max(node_states, key=lambda s: s.node.resources.get(resource, 0.0), default=None)
        return self._largest[resource]

    def set_others(self, name: str, busy: int, resources: Mapping[str, float]) -> None:
        """What programs outside our gangs use on a node: device positions, and other resources."""
        state = self.node_states.get(name)
        if state is None or (state.busy == busy and state.used_by_others == resources):
            return
        before = {state: state.free}
        self.busy_devices += busy.bit_count() - state.busy.bit_count()
        state.see_others(busy, resources)
        self.refresh(before, {})

    def refresh(self, before: Mapping[NodeState, int], moved: dict[InClique, None]) -> None:
        """Bring the index up to date after changes of nodes.

        Args:
            before: the nodes that have changed, and what was free on each.
            moved: cliques that have changed otherwise.
        """
        gained = 0
        self.changes += 1
        if self.touched is not None:
            self.touched.update(dict.fromkeys(before))
        by_free = self.by_free
        shared_of = self._shared_of
        for state, was in before.items():
            free = state.free
            old = was.bit_count()
            new = free.bit_count()
            by_free[old] -= 1
            by_free[new] += 1
            gained += new - old
            if state.plain and not (shared_of and state in shared_of):
                if free != was:
                    clique, _, bit = state.memberships[0]
                    clique.move(bit, old, new)
                    moved[clique] = None
                continue
            for clique, members, bit in state.memberships:
                clique.move(bit, (was & members).bit_count(), (free & members).bit_count())
                moved[clique] = None  # what is left of shared devices may have changed, though as many are free
            self._list_shares(state)
        self.free_devices += gained
        for clique in moved:
            clique.relist()

    def touch(self, state: NodeState) -> None:
        """A node has changed in a way that moves it nowhere."""
        self.changes += 1
        if self.touched is not None:
            self.touched[state] = None

    def _insert(self, state: NodeState, owner_of: Mapping[CliqueKey, str]) -> None:
        """A node joins its cliques; what is held of it is known. `owner_of`: exclusive owners of cliques."""
        self.touch(state)
        for clique_id, members in state.members.items():
            if clique_id in owner_of:
                state.close(members)
        self._count_node(state, +1)
        self._list_shares(state)
        for clique_id in state.members:
            clique = self.clique_states.get(clique_id)
            if clique is None:
                clique = self.clique_states[clique_id] = CliqueState(clique_id, owner_of.get(clique_id))
            clique.leave_order()
            if not clique.node_states or clique.node_states[-1].key < state.key:
                clique.append(state)
            else:
                node_states = list(clique.node_states)
                insort(node_states, state, key=attrgetter("key"))
                clique.rebuild(node_states)
            self._list(clique)

    def _remove(self, state: NodeState) -> None:
        self.touch(state)
        self._count_node(state, -1)
        self._unlist_shares(state)
        for clique_id in state.members:
            clique = self.clique_states[clique_id]
            clique.leave_order()
            node_states = [s for s in clique.node_states if s is not state]
            if node_states:
                clique.rebuild(node_states)
                self._list(clique)
            else:
                del self.clique_states[clique_id]
        del self.node_states[state.name]

    def _count_node(self, state: NodeState, sign: int) -> None:
        """A node comes (+1) or goes (-1)."""
        if self.level_labels:
            for clique_id in state.members:
                if clique_id in self.clique_states:
                    self._above.pop(self.clique_states[clique_id], None)
            self.leveled = self.leveled or not state.node.labels.keys().isdisjoint(self.level_labels)
        free = state.free.bit_count()
        while len(self.by_free) <= state.size:
            self.by_free.append(0)
        self.by_free[free] += sign
        self.devices += sign * state.size
        self.free_devices += sign * free
        self.busy_devices += sign * state.busy.bit_count()
        self._largest.clear()
        self._orders_for.clear()
        if len(state.members) > 1:
            if sign > 0:
                self.split[state.name] = state
            else:
                self.split.pop(state.name, None)

    def above(self, clique: CliqueState) -> tuple[str | None, ...]:
        """The domain of each level that a clique is in; None where its nodes are in several, or one is in none. A
        domain's name is of its level; remembered until a node of the clique comes or goes."""
        found = self._above.get(clique)
        if found is None:
            labels = [state.node.labels for state in clique.node_states]
            found = self._above[clique] = tuple(
                _common(each.get(name) for each in labels) for name in self.level_labels
            )
        return found

    # -- lists

    def _list(self, clique: CliqueState) -> None:
        """Put a clique into the order of those like it."""
        single = len(clique.node_states) == 1
        key = (clique.kind, clique.product, clique.grade, len(clique.nodes_by_free), single)
        order = self.orders.get(key)
        if order is None:
            order = self.orders[key] = CliqueOrder(
                clique.kind, clique.product, clique.grade, self.limits, single=single
            )
        order.add(clique)

    def _list_shares(self, state: NodeState) -> None:
        self._unlist_shares(state)
        left = state.shared_left().items()
        if left:
            self._shared_of[state] = [(amount, state.key, position, state.name) for position, amount in left]
            for entry in self._shared_of[state]:
                insort(self.shared, entry)

    def _unlist_shares(self, state: NodeState) -> None:
        for entry in self._shared_of.pop(state, ()):
            del self.shared[bisect_left(self.shared, entry)]


def _common(names: Iterable[str | None]) -> str | None:
    """The one name that they all are; None where there are several."""
    found = set(names)
    return found.pop() if len(found) == 1 else None
