"""A clique as the planner's index sees it: what is free on its nodes, and how many bundles fit.

A `CliqueState` is a clique (or the devices of one node that are in none): its seats in topology order, as
bits of masks, by how many of their devices are free. `clique_order.py` orders domains.
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
"""Grades of a domain: every two devices of a node linked; some not; devices that share counters (MIG)."""

MIXED_PRODUCT = "#mixed"


class CliqueState:
    """A clique with its seats.

    Attributes:
        seats: in topology order; a seat's bit in the masks is 1 << its place here.
        stock: stock[f]: mask of the seats with exactly f free devices.
        imex: mask of the seats that a gang's IMEX domain has.
        owner: the gang that has the clique exclusively.
        rank: sorts domains, the fullest first.
    """

    __slots__ = (
        "catalog",
        "clique",
        "fabric",
        "free",
        "grade",
        "id",
        "imex",
        "key",
        "loose",
        "node_states",
        "owner",
        "product",
        "rank",
        "rooms",
        "shown",
        "size",
        "spare",
        "stock",
    )

    def __init__(self, domain_id: DomainId) -> None:
        self.id = domain_id
        self.key = natural(domain_id)
        self.spare = domain_id.endswith(SPARE)
        self.loose = domain_id.startswith(LOOSE)
        self.clique = domain_id.removesuffix(SPARE)
        self.fabric = not self.loose and not domain_id.startswith(BOX_PREFIX)
        self.node_states: list[NodeState] = []
        self.stock: list[int] = [0]
        self.imex = 0
        self.size = 0  # devices, whatever their state
        self.free = 0
        self.owner: str | None = None
        self.product = MIXED_PRODUCT
        self.grade = REGULAR
        self.catalog: CliqueOrder | None = None
        self.rank = ""
        self.shown = 0  # levels that the catalog lists it on, as a mask
        self.rooms: dict[BundleShape, int] = {}

    @property
    def idle(self) -> bool:
        """Whether nobody has a device here, so that the clique can be had exclusively."""
        return self.owner is None and not any(
            (s.busy | s.held) & s.domains[self.id] or any(s.domains[self.id] >> at & 1 for at in s.shares)
            for s in self.node_states
        )

    # -- its seats

    def append(self, seat: NodeState) -> int:
        """A seat that comes last in topology order; its bit. The caller lists its free devices."""
        members = seat.domains[self.id]
        count = members.bit_count()
        self.node_states.append(seat)
        self.size += count
        while len(self.stock) <= count:
            self.stock.append(0)
        bit = 1 << (len(self.node_states) - 1)
        self.stock[0] |= bit
        product, grade = seat.kinds.get(self.id) or seat.kinds.setdefault(
            self.id, (_product(seat, members), _grade(seat, members))
        )
        if len(self.node_states) == 1:
            self.product, self.grade = product, grade
        else:
            self.grade = max(self.grade, grade)
            if product != self.product:
                self.product = MIXED_PRODUCT
        return bit

    def rebuild(self, node_states: list[NodeState]) -> None:
        """These seats from now on, in topology order; the caller has taken the domain off its catalog."""
        self.node_states, self.stock, self.imex, self.size, self.free = [], [0], 0, 0, 0
        for seat in node_states:
            bit = self.append(seat)
            members = seat.domains[self.id]
            free = (seat.free & members).bit_count()
            self.stock[0] ^= bit
            self.stock[free] |= bit
            self.free += free
            if seat.imex is not None:
                self.imex |= bit
            seat.parts = (*(p for p in seat.parts if p[0] is not self), (self, members, bit))

    # -- what fits

    def room(self, measure: BundleShape, limits: Limits) -> int:
        """Bundles that one gang can have here at once: on one node, or on several within the limits of IMEX."""
        if not counted(measure, self.grade):
            if len(self.node_states) == 1:
                return seat_room(self, self.node_states[0], measure)
            return most_of(
                self, [(seat_room(self, s, measure), s, 1 << i) for i, s in enumerate(self.node_states)], limits
            )
        size, stock = measure.size, self.stock
        if len(self.node_states) == 1:
            return (1 if self.free >= size else 0) if measure.spread else self.free // size
        total = single = 0
        if not (self.fabric and limits.compute_domains):
            for free in range(size, len(stock)):
                mask = stock[free]
                if mask:
                    total += mask.bit_count() * (1 if measure.spread else free // size)
            return total
        nodes_left = 0 if limits.one_per_clique and self.imex else limits.domain_nodes
        open_seats = ~self.imex
        for free in range(len(stock) - 1, size - 1, -1):
            mask = stock[free]
            if mask:
                each = 1 if measure.spread else free // size
                if not single:
                    single = each
                nodes = (mask & open_seats).bit_count()
                if nodes > nodes_left:
                    nodes = nodes_left
                total += nodes * each
                nodes_left -= nodes
        return total if total > single else single


def counted(measure: BundleShape, grade: int) -> bool:
    """Whether the number of free devices on a node of this grade says how many bundles fit there."""
    return not measure.share and (grade == REGULAR or (grade == UNEVEN and not measure.linked))


def most_of(domain: CliqueState, rooms: list[tuple[int, NodeState, int]], limits: Limits) -> int:
    """`CliqueState.room` where each seat's room, (room, seat, bit), has been worked out."""
    if not (domain.fabric and limits.compute_domains):
        return sum(room for room, _, _ in rooms)
    single = max((room for room, _, _ in rooms), default=0)
    if limits.one_per_clique and domain.imex:
        return single
    several = sorted((room for room, _, bit in rooms if not domain.imex & bit), reverse=True)
    return max(single, sum(several[: limits.domain_nodes]))


def seat_room(domain: CliqueState, seat: NodeState, measure: BundleShape) -> int:
    """Bundles that fit on one node by devices alone."""
    mask = seat.free & seat.domains[domain.id] if seat.odd else seat.free
    if measure.share:
        room = seat.how_many(mask, 1, Connect.ANY) * (WHOLE // measure.share)
        for position, left in seat.shared_left().items():
            if seat.domains[domain.id] >> position & 1:
                room += left // measure.share
    else:
        room = seat.how_many(mask, measure.size, Connect.REQUIRED if measure.linked else Connect.ANY)
    return 1 if measure.spread and room else room


def _product(seat: NodeState, members: int) -> str:
    """The product that all these devices are; MIXED_PRODUCT where they differ or do not say."""
    found = None
    for i, device in enumerate(seat.node.devices):
        if members >> i & 1:
            product = device.product
            if product is None or (found is not None and product != found):
                return MIXED_PRODUCT
            found = product
    return found or MIXED_PRODUCT


def _grade(seat: NodeState, members: int) -> int:
    if seat.counters:
        return SHARING
    return REGULAR if seat.together_in(members) else UNEVEN
