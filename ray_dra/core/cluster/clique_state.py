"""A clique as the planner's index sees it: what is free on its nodes, and how many bundles fit.

A `CliqueState` is a clique (or the devices of one node that are in none): its nodes in topology order, as
bits of masks, by how many of their devices are free. `clique_order.py` orders cliques.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ray_dra.core.cluster.node_state import LOOSE, SPARE, NodeState
from ray_dra.core.model.clique import BOX_PREFIX
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.node import natural
from ray_dra.core.model.request import WHOLE

if TYPE_CHECKING:
    from ray_dra.core.cluster.clique_order import CliqueOrder


class BundleShape(NamedTuple):
    """How a bundle is counted on a node's free devices.

    `size` whole devices (or one device's `share` in thousandths), `linked` to each other, and with
    `spread` at most one bundle a node.
    """

    size: int
    linked: bool = False
    spread: bool = False
    share: int = 0


REGULAR, UNEVEN, SHARING = range(3)
"""Grades of a clique: every two devices of a node linked; some not; devices that share counters (MIG)."""

MIXED_PRODUCT = "#mixed"


class CliqueState:
    """A clique with its nodes.

    Attributes:
        node_states: in topology order; a node's bit in the masks is 1 << its place here.
        nodes_by_free: nodes_by_free[f]: mask of the nodes with exactly f free devices.
        imex: mask of the nodes that a gang's IMEX domain has.
        owner: the gang that has the clique exclusively.
        rank: sorts cliques, the fullest first.
    """

    __slots__ = (
        "capacities",
        "fabric",
        "free",
        "grade",
        "id",
        "imex",
        "key",
        "loose",
        "name",
        "node_states",
        "nodes_by_free",
        "on_levels",
        "order",
        "owner",
        "product",
        "rank",
        "size",
        "spare",
    )

    def __init__(self, clique_id: DomainId) -> None:
        self.id = clique_id
        self.key = natural(clique_id)
        self.spare = clique_id.endswith(SPARE)
        self.loose = clique_id.startswith(LOOSE)
        self.name = clique_id.removesuffix(SPARE)
        self.fabric = not self.loose and not clique_id.startswith(BOX_PREFIX)
        self.node_states: list[NodeState] = []
        self.nodes_by_free: list[int] = [0]
        self.imex = 0
        self.size = 0  # devices, whatever their state
        self.free = 0
        self.owner: str | None = None
        self.product = MIXED_PRODUCT
        self.grade = REGULAR
        self.order: CliqueOrder | None = None
        self.rank = ""
        self.on_levels = 0  # levels that the order lists it on, as a mask
        self.capacities: dict[BundleShape, int] = {}

    @property
    def idle(self) -> bool:
        """Whether nobody has a device here, so that the clique can be had exclusively."""
        return self.owner is None and not any(
            (s.busy | s.held) & s.members[self.id] or any(s.members[self.id] >> at & 1 for at in s.shares)
            for s in self.node_states
        )

    # -- its nodes

    def append(self, state: NodeState) -> int:
        """A node that comes last in topology order; its bit. The caller lists its free devices."""
        members = state.members[self.id]
        count = members.bit_count()
        self.node_states.append(state)
        self.size += count
        while len(self.nodes_by_free) <= count:
            self.nodes_by_free.append(0)
        bit = 1 << (len(self.node_states) - 1)
        self.nodes_by_free[0] |= bit
        product, grade = state.grades.get(self.id) or state.grades.setdefault(
            self.id, (_product(state, members), _grade(state, members))
        )
        if len(self.node_states) == 1:
            self.product, self.grade = product, grade
        else:
            self.grade = max(self.grade, grade)
            if product != self.product:
                self.product = MIXED_PRODUCT
        return bit

    def rebuild(self, node_states: list[NodeState]) -> None:
        """These nodes from now on, in topology order; the caller has taken the clique off its order."""
        self.node_states, self.nodes_by_free, self.imex, self.size, self.free = [], [0], 0, 0, 0
        for state in node_states:
            bit = self.append(state)
            members = state.members[self.id]
            free = (state.free & members).bit_count()
            self.nodes_by_free[0] ^= bit
            self.nodes_by_free[free] |= bit
            self.free += free
            if state.imex is not None:
                self.imex |= bit
            state.memberships = (*(p for p in state.memberships if p[0] is not self), (self, members, bit))

    # -- what fits

    def capacity(self, shape: BundleShape, limits: Limits) -> int:
        """Bundles that one gang can have here at once: on one node, or on several within the limits of IMEX."""
        if not decided_by_count(shape, self.grade):
            if len(self.node_states) == 1:
                return node_capacity(self, self.node_states[0], shape)
            return clique_capacity(
                self, [(node_capacity(self, s, shape), s, 1 << i) for i, s in enumerate(self.node_states)], limits
            )
        size, nodes_by_free = shape.size, self.nodes_by_free
        if len(self.node_states) == 1:
            return (1 if self.free >= size else 0) if shape.spread else self.free // size
        total = single = 0
        if not (self.fabric and limits.compute_domains):
            for free in range(size, len(nodes_by_free)):
                mask = nodes_by_free[free]
                if mask:
                    total += mask.bit_count() * (1 if shape.spread else free // size)
            return total
        nodes_left = 0 if limits.one_per_clique and self.imex else limits.domain_nodes
        open_nodes = ~self.imex
        for free in range(len(nodes_by_free) - 1, size - 1, -1):
            mask = nodes_by_free[free]
            if mask:
                each = 1 if shape.spread else free // size
                if not single:
                    single = each
                nodes = (mask & open_nodes).bit_count()
                if nodes > nodes_left:
                    nodes = nodes_left
                total += nodes * each
                nodes_left -= nodes
        return total if total > single else single


def decided_by_count(shape: BundleShape, grade: int) -> bool:
    """Whether the number of free devices on a node of this grade says how many bundles fit there."""
    return not shape.share and (grade == REGULAR or (grade == UNEVEN and not shape.linked))


def clique_capacity(clique: CliqueState, capacities: list[tuple[int, NodeState, int]], limits: Limits) -> int:
    """`CliqueState.capacity` where each node's, (capacity, node, bit), has been worked out."""
    if not (clique.fabric and limits.compute_domains):
        return sum(capacity for capacity, _, _ in capacities)
    single = max((capacity for capacity, _, _ in capacities), default=0)
    if limits.one_per_clique and clique.imex:
        return single
    several = sorted((capacity for capacity, _, bit in capacities if not clique.imex & bit), reverse=True)
    return max(single, sum(several[: limits.domain_nodes]))


def node_capacity(clique: CliqueState, state: NodeState, shape: BundleShape) -> int:
    """Bundles that fit on one node by devices alone."""
    mask = state.free & state.members[clique.id] if state.odd else state.free
    if shape.share:
        capacity = state.how_many(mask, 1, Connect.ANY) * (WHOLE // shape.share)
        for position, left in state.shared_left().items():
            if state.members[clique.id] >> position & 1:
                capacity += left // shape.share
    else:
        capacity = state.how_many(mask, shape.size, Connect.REQUIRED if shape.linked else Connect.ANY)
    return 1 if shape.spread and capacity else capacity


def _product(state: NodeState, members: int) -> str:
    """The product that all these devices are; MIXED_PRODUCT where they differ or do not say."""
    found = None
    for i, device in enumerate(state.node.devices):
        if members >> i & 1:
            product = device.product
            if product is None or (found is not None and product != found):
                return MIXED_PRODUCT
            found = product
    return found or MIXED_PRODUCT


def _grade(state: NodeState, members: int) -> int:
    if state.counters:
        return SHARING
    return REGULAR if state.together_in(members) else UNEVEN
