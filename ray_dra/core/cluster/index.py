"""The index over nodes and cliques: built at once, then kept up change by change.

Neighbours: `inventory.py` adds who holds what; `clique_order.py` has the orders that the planner looks into.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import NamedTuple

from ray_dra.core.cluster.clique_order import CliqueOrder
from ray_dra.core.cluster.clique_state import MIXED_PRODUCT, REGULAR, SHARING, CliqueState
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.imex import NO_LIMITS, Limits
from ray_dra.core.model.node import Node
from ray_dra.core.model.topology import Topology

CLIQUE, LOOSE_NODE, SPARES = "clique", "loose", "spare"
"""Kinds of clique order: whose devices they are, and so who may have them."""

MOST_REMEMBERED = 100
"""Lists of clique orders that are remembered; what products are asked for is the users' text."""


class CliqueOrders(NamedTuple):
    """The clique orders that a request looks into.

    `whole`: where a number of devices says what fits; regular: all devices of a node are linked; others: they are not.
    """

    orders: list[CliqueOrder]
    whole: list[CliqueOrder]
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
    """

    def __init__(self, topology: Topology | Iterable[Node] = (), limits: Limits = NO_LIMITS) -> None:
        self.limits = limits
        self.node_states: dict[str, NodeState] = {}
        self.clique_states: dict[DomainId, CliqueState] = {}
        self.orders: dict[tuple[str, str, int, int, bool], CliqueOrder] = {}
        self.split: dict[str, NodeState] = {}
        self.by_free = [0]
        self.shared: list[tuple[int, str, int, str]] = []
        self.devices = 0
        self.free_devices = 0
        self.held_devices = 0
        self.busy_devices = 0
        self.changes = 0
        self._largest: dict[str, NodeState | None] = {}
        self._orders_for: dict[tuple[tuple[str, ...], tuple[str, ...]], CliqueOrders] = {}
        self._build(topology.nodes.values() if isinstance(topology, Topology) else topology)

    def _build(self, nodes: Iterable[Node]) -> None:
        """All at once: in topology order every node comes last in its cliques, and each is listed once."""
        named = {node.name: node for node in nodes}
        for state in sorted((NodeState(node) for node in named.values()), key=attrgetter("key")):
            self._count_node(state, +1)
            self.node_states[state.name] = state
            parts = []
            for clique_id, members in state.members.items():
                clique = self.clique_states.get(clique_id)
                if clique is None:
                    clique = self.clique_states[clique_id] = CliqueState(clique_id)
                parts.append((clique, members, clique.append(state)))
            state.memberships = tuple(parts)
            state.reopen()
            state.free = state.free_now()
            self.by_free[state.free.bit_count()] += 1
            for clique, members, bit in state.memberships:
                count = (state.free & members).bit_count()
                if count:
                    clique.nodes_by_free[0] ^= bit
                    clique.nodes_by_free[count] |= bit
                    clique.free += count
                    self.free_devices += count
        for clique in self.clique_states.values():
            self._order_of(clique).add(clique)

    @property
    def clique_count(self) -> int:
        """How many NVLink cliques are known."""
        return sum(len(c.cliques) for c in self.orders.values() if c.kind != LOOSE_NODE)

    def orders_for(self, kinds: tuple[str, ...], products: tuple[str, ...]) -> CliqueOrders:
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
                and (not products or c.product in products or c.product == MIXED_PRODUCT)
            ]
            found = self._orders_for[kinds, products] = CliqueOrders(
                orders,
                [c for c in orders if c.grade != SHARING],
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
        if state is None:
            return
        if state.used_by_others != resources:
            state.used_by_others = resources
            state.version += 1
            self.changes += 1
        if state.busy != busy:
            self.busy_devices += busy.bit_count() - state.busy.bit_count()
            state.busy = busy
            state.reopen()
            self.refresh([state], {})

    def _insert(self, state: NodeState, owner_of: Mapping[DomainId, str]) -> None:
        """A node joins its cliques; what is held of it is known. `owner_of`: exclusive owners of cliques."""
        self._count_node(state, +1)
        self.by_free[0] += 1
        for clique_id, members in state.members.items():
            clique = self.clique_states.get(clique_id)
            if clique is None:
                clique = self.clique_states[clique_id] = CliqueState(clique_id)
                clique.owner = owner_of.get(clique_id)
            elif clique.order is not None:
                clique.order.remove(clique)
            if not clique.node_states or clique.node_states[-1].key < state.key:
                bit = clique.append(state)
                state.memberships = (*state.memberships, (clique, members, bit))
                if state.imex is not None:
                    clique.imex |= bit
            else:
                node_states = list(clique.node_states)
                insort(node_states, state, key=attrgetter("key"))
                clique.rebuild(node_states)
            self._order_of(clique).add(clique)
        state.reopen()
        self.refresh([state], {})

    def _remove(self, state: NodeState) -> None:
        self.changes += 1
        self._count_node(state, -1)
        self._unlist_shares(state)
        self.by_free[state.free.bit_count()] -= 1
        for clique, members, _ in state.memberships:
            assert clique.order is not None
            clique.order.remove(clique)
            self.free_devices -= (state.free & members).bit_count()
            node_states = [s for s in clique.node_states if s is not state]
            if node_states:
                clique.rebuild(node_states)
                self._order_of(clique).add(clique)
            else:
                del self.clique_states[clique.id]
        del self.node_states[state.name]

    def _count_node(self, state: NodeState, sign: int) -> None:
        self.devices += sign * state.size
        self._largest.clear()
        self._orders_for.clear()
        while len(self.by_free) <= state.size:
            self.by_free.append(0)
        self.busy_devices += sign * state.busy.bit_count()
        if len(state.members) > 1:
            if sign > 0:
                self.split[state.name] = state
            else:
                self.split.pop(state.name, None)

    def _order_of(self, clique: CliqueState) -> CliqueOrder:
        kind = SPARES if clique.spare else LOOSE_NODE if clique.loose else CLIQUE
        single = len(clique.node_states) == 1
        key = (kind, clique.product, clique.grade, len(clique.nodes_by_free), single)
        found = self.orders.get(key)
        if found is None:
            found = self.orders[key] = CliqueOrder(kind, clique.product, clique.grade, self.limits, single=single)
        return found

    def refresh(self, node_states: Iterable[NodeState], moved: dict[CliqueState, None]) -> None:
        """Bring `free` and the index up to date after a change of these nodes; `moved`: cliques changed otherwise."""
        gained = 0
        self.changes += 1
        by_free = self.by_free
        for state in node_states:
            state.version += 1
            before = state.free
            if state.odd:
                self._list_shares(state)
                free = state.free_now()
            else:
                free = state.open & ~state.held
            if free == before:
                if state.odd:  # what is left of shared devices may have changed
                    for clique, _, _ in state.memberships:
                        moved[clique] = None
                continue
            state.free = free
            old = before.bit_count()
            new = free.bit_count()
            by_free[old] -= 1
            by_free[new] += 1
            gained += new - old
            for clique, members, bit in state.memberships:
                if state.odd:
                    old = (before & members).bit_count()
                    new = (free & members).bit_count()
                if old != new:
                    nodes_by_free = clique.nodes_by_free
                    nodes_by_free[old] ^= bit
                    nodes_by_free[new] ^= bit
                    clique.free += new - old
                    moved[clique] = None
        self.free_devices += gained
        for clique in moved:
            clique.order.refresh(clique)  # type: ignore[union-attr]  # every clique of a node is listed

    def _list_shares(self, state: NodeState) -> None:
        self._unlist_shares(state)
        left = state.shared_left().items()
        state.shared_entries = tuple((amount, state.key, position, state.name) for position, amount in left)
        for entry in state.shared_entries:
            insort(self.shared, entry)

    def _unlist_shares(self, state: NodeState) -> None:
        for entry in state.shared_entries:
            del self.shared[bisect_left(self.shared, entry)]
        state.shared_entries = ()
