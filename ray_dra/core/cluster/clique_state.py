"""A clique as the planner's index sees it: what is free on its nodes, and how many bundles fit.

A `CliqueState` is a clique (or the devices of one node that are in none): its nodes in topology order, as bits of
masks, by how many of their devices are free. Only its own methods change it. `clique_order.py` sorts cliques.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.node_state import REGULAR, SEVERAL_PRODUCTS, Apart, CliqueKey, NodeState
from ray_dra.core.model.device import FabricKind
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.node import natural

CliqueKind = Literal["clique", "loose", "spare"]
"""Whose devices they are, and so who may have them: an NVLink clique's, a node's that are in none, spare nodes'."""

CLIQUE: CliqueKind = "clique"
LOOSE_NODE: CliqueKind = "loose"
SPARES: CliqueKind = "spare"


class Listing(Protocol):
    """The `Buckets` in which an order lists cliques by capacity for one shape of bundle."""

    @property
    def least(self) -> int: ...

    @property
    def by_count(self) -> bool: ...

    def remove(self, capacity: int, rank: str) -> None: ...

    def add(self, capacity: int, rank: str) -> None: ...


class CliqueListing(Protocol):
    """The `CliqueOrder` that lists a clique."""

    @property
    def single(self) -> bool: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def by_shape(self) -> Mapping[BundleShape, Listing]: ...

    def move(self, old: str, gone: int, rank: str, new: int) -> None: ...

    def remove(self, clique: CliqueState) -> None: ...


class CliqueState:
    """A clique with its nodes.

    Attributes:
        id: unique; name: the clique's id, its spares' too.
        key: sorts cliques by name; rank: the fullest first, then by name.
        kind: see `CliqueKind`; fabric: it may be over many nodes, so that a gang's part in it may need an IMEX domain.
        node_states: in topology order; a node's bit in the masks is 1 << its place here.
        nodes_by_free: nodes_by_free[f]: mask of the nodes with exactly f free devices.
        imex_nodes: mask of the nodes that a gang's IMEX domain has.
        order: that lists it; levels: on which of its levels, as a mask; capacities: by shape, as it lists them.
        size: devices, whatever their state; free: those that are free.
        owner: the gang that has the clique exclusively.
        product: of all its devices, or SEVERAL_PRODUCTS; grade: of the worst node, see `NodeState.profile`.
    """

    __slots__ = (
        "capacities",
        "fabric",
        "free",
        "grade",
        "id",
        "imex_nodes",
        "key",
        "kind",
        "levels",
        "name",
        "node_states",
        "nodes_by_free",
        "order",
        "owner",
        "product",
        "rank",
        "size",
    )

    def __init__(self, clique_id: CliqueKey, owner: str | None = None) -> None:
        self.id = clique_id
        self.name, loose, spare = clique_id if isinstance(clique_id, Apart) else (clique_id, False, False)
        self.kind: CliqueKind = SPARES if spare else LOOSE_NODE if loose else CLIQUE
        # Loose devices come first; the end tells apart what has the same name.
        self.key = f"{'#' * loose}{natural(self.name)}\x00{loose:d}{spare:d}"
        self.fabric = False  # until a node of it says so
        self.owner = owner
        self.order: CliqueListing | None = None
        self.rank = ""
        self.levels = 0
        self.capacities: dict[BundleShape, int] = {}
        self._empty()

    def _empty(self) -> None:
        self.node_states: list[NodeState] = []
        self.nodes_by_free: list[int] = [0]
        self.imex_nodes = self.size = self.free = 0
        self.product = SEVERAL_PRODUCTS
        self.grade = REGULAR

    @property
    def idle(self) -> bool:
        """Whether nobody has a device here, so that the clique can be had exclusively."""
        return self.owner is None and not any(s.in_use(s.members[self.id]) for s in self.node_states)

    # -- changes

    def append(self, state: NodeState) -> None:
        """A node that comes last in topology order."""
        members = state.members[self.id]
        bit = 1 << len(self.node_states)
        self.node_states.append(state)
        count = members.bit_count()
        while len(self.nodes_by_free) <= count:
            self.nodes_by_free.append(0)
        free = (state.free & members).bit_count()
        self.nodes_by_free[free] |= bit
        self.size += count
        self.free += free
        if state.imex_gang is not None:
            self.imex_nodes |= bit
        product, grade = state.profile(self.id)
        if bit == 1:
            self.product, self.grade = product, grade
            first = state.node.devices[(members & -members).bit_length() - 1]
            self.fabric = first.clique is not None and first.fabric_kind is FabricKind.MULTI_NODE
        else:
            self.grade = max(self.grade, grade)
            if product != self.product:
                self.product = SEVERAL_PRODUCTS
        state.enter(self, self.id, bit)

    def rebuild(self, node_states: list[NodeState]) -> None:
        """These nodes from now on, in topology order."""
        self._empty()
        for state in node_states:
            self.append(state)

    def move(self, bit: int, before: int, now: int) -> None:
        """A node had so many free devices before, and has so many now."""
        nodes_by_free = self.nodes_by_free
        nodes_by_free[before] ^= bit
        nodes_by_free[now] ^= bit
        self.free += now - before

    def flip_imex(self, bits: int) -> None:
        """Nodes have joined a gang's IMEX domain, or left it."""
        self.imex_nodes ^= bits

    def own(self, gang: str | None) -> None:
        """A gang has the clique to itself; None: nobody."""
        self.owner = gang

    def enter_order(self, order: CliqueListing) -> None:
        """This order lists it from now on."""
        self.order = order
        self.rank = ""
        self.levels = 0
        self.capacities = dict.fromkeys(order.by_shape, 0)
        self.relist()

    def leave_order(self) -> None:
        """Off its order, before its nodes change."""
        if self.order is not None:
            self.order.remove(self)
            self.order = None

    def relist(self) -> None:
        """Bring its order's lists up to date, after any change."""
        order = self.order
        if order is None:
            return
        old = self.rank
        free = self.free
        # One character in front of the key sorts by number and name in a single comparison of strings.
        rank = self.rank = chr(free) + self.key
        moved = rank != old
        before = self.levels
        if order.single:
            levels = 1 << free if free else 0
        else:
            levels = 0
            bit = 1
            for mask in self.nodes_by_free:
                if mask:
                    levels |= bit
                bit <<= 1
            levels &= ~1
        if moved:
            order.move(old, before, rank, levels)
        elif levels != before:
            order.move(old, before & ~levels, rank, levels & ~before)
        self.levels = levels
        capacities = self.capacities
        for shape, listing in order.by_shape.items():
            had = capacities[shape]
            if free < listing.least:
                capacity = 0
            elif listing.by_count:
                capacity = self.capacity_by_count(shape[0], shape[2], order.limits)  # by position: quicker than by name
            else:
                capacity = self.capacity(shape, order.limits)
            if had != capacity or moved:
                if had:
                    listing.remove(had, old)
                if capacity:
                    listing.add(capacity, rank)
                capacities[shape] = capacity

    def learn(self, shape: BundleShape, limits: Limits) -> int:
        """Its capacity for a shape that its order lists from now on."""
        found = self.capacities[shape] = self.capacity(shape, limits)
        return found

    def forget(self, shape: BundleShape) -> None:
        self.capacities.pop(shape, None)

    # -- what fits

    def capacity(self, shape: BundleShape, limits: Limits) -> int:
        """Bundles that one gang can have here at once: on one node, or on several within the limits of IMEX."""
        if not shape.decided_by_count(self.grade):
            if len(self.node_states) == 1:
                return shape.on_node(self.node_states[0], self.node_states[0].members[self.id])
            each = [(shape.on_node(s, s.members[self.id]), s, 1 << i) for i, s in enumerate(self.node_states)]
            return clique_capacity(self, each, limits)
        return self.capacity_by_count(shape.size, shape.spread, limits)

    def capacity_by_count(self, size: int, spread: bool, limits: Limits) -> int:
        """The same where the numbers of free devices decide."""
        nodes_by_free = self.nodes_by_free
        if len(self.node_states) == 1:
            return (1 if self.free >= size else 0) if spread else self.free // size
        total = single = 0
        if not (self.fabric and limits.compute_domains):
            for free in range(size, len(nodes_by_free)):
                mask = nodes_by_free[free]
                if mask:
                    total += mask.bit_count() * (1 if spread else free // size)
            return total
        nodes_left = 0 if limits.one_per_clique and self.imex_nodes else limits.domain_nodes
        open_nodes = ~self.imex_nodes
        for free in range(len(nodes_by_free) - 1, size - 1, -1):
            mask = nodes_by_free[free]
            if mask:
                each_node = 1 if spread else free // size
                if not single:
                    single = each_node
                nodes = (mask & open_nodes).bit_count()
                if nodes > nodes_left:
                    nodes = nodes_left
                total += nodes * each_node
                nodes_left -= nodes
        return total if total > single else single


def clique_capacity(clique: CliqueState, capacities: list[tuple[int, NodeState, int]], limits: Limits) -> int:
    """`CliqueState.capacity` where each node's, (capacity, node, bit), has been worked out."""
    if not (clique.fabric and limits.compute_domains):
        return sum(capacity for capacity, _, _ in capacities)
    single = max((capacity for capacity, _, _ in capacities), default=0)
    if limits.one_per_clique and clique.imex_nodes:
        return single
    several = sorted((capacity for capacity, _, bit in capacities if not clique.imex_nodes & bit), reverse=True)
    return max(single, sum(several[: limits.domain_nodes]))
