"""Cliques as the planner's index sees them.

A `Domain` is a clique (or the devices of one node that are in none): its seats in topology order, as
bits of masks, by how many of their devices are free. A `Catalog` lists the domains that a request
cannot tell apart by product, links or size of node, in two orders:

    levels     f -> domains with a node that has exactly f free devices       for gangs on one node
    measures   how a bundle counts -> domains by how many such bundles fit     for gangs over several

Both are sorted lists of ranks, the fullest domain first and then by name, and both are kept up change
by change: the cost of a change, and of a question, does not grow with the number of domains.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple

from ray_dra.core.devices import bits
from ray_dra.core.limits import Limits
from ray_dra.core.request import WHOLE, Connect
from ray_dra.core.seat import LOOSE, SPARE, Seat
from ray_dra.core.topology import BOX_PREFIX, DomainId, natural


class Measure(NamedTuple):
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


class Domain:
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
        "owner",
        "product",
        "rank",
        "rooms",
        "seats",
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
        self.seats: list[Seat] = []
        self.stock: list[int] = [0]
        self.imex = 0
        self.size = 0  # devices, whatever their state
        self.free = 0
        self.owner: str | None = None
        self.product = MIXED_PRODUCT
        self.grade = REGULAR
        self.catalog: Catalog | None = None
        self.rank = ""
        self.shown = 0  # levels that the catalog lists it on, as a mask
        self.rooms: dict[Measure, int] = {}

    @property
    def idle(self) -> bool:
        """Whether nobody has a device here, so that the clique can be had exclusively."""
        return self.owner is None and not any((s.busy | s.held) & s.domains[self.id] or s.shares for s in self.seats)

    # -- its seats

    def append(self, seat: Seat) -> int:
        """A seat that comes last in topology order; its bit. The caller lists its free devices."""
        members = seat.domains[self.id]
        count = members.bit_count()
        self.seats.append(seat)
        self.size += count
        while len(self.stock) <= count:
            self.stock.append(0)
        bit = 1 << (len(self.seats) - 1)
        self.stock[0] |= bit
        product = _product(seat, members)
        grade = _grade(seat, members)
        if len(self.seats) == 1:
            self.product, self.grade = product, grade
        else:
            self.grade = max(self.grade, grade)
            if product != self.product:
                self.product = MIXED_PRODUCT
        return bit

    def rebuild(self, seats: list[Seat]) -> None:
        """These seats from now on, in topology order; the caller has taken the domain off its catalog."""
        self.seats, self.stock, self.imex, self.size, self.free = [], [0], 0, 0, 0
        for seat in seats:
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

    def counts(self, measure: Measure) -> bool:
        """Whether the number of free devices on a node says how many bundles fit there."""
        return not measure.share and (self.grade == REGULAR or (self.grade == UNEVEN and not measure.linked))

    def room(self, measure: Measure, limits: Limits) -> int:
        """Bundles that one gang can have here at once: on one node, or on several within the limits of IMEX."""
        if not self.counts(measure):
            return most_of(self, [(seat_room(self, s, measure), s, 1 << i) for i, s in enumerate(self.seats)], limits)
        size, stock = measure.size, self.stock
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


def most_of(domain: Domain, rooms: list[tuple[int, Seat, int]], limits: Limits) -> int:
    """`Domain.room` where each seat's room, (room, seat, bit), has been worked out."""
    if not (domain.fabric and limits.compute_domains):
        return sum(room for room, _, _ in rooms)
    single = max((room for room, _, _ in rooms), default=0)
    if limits.one_per_clique and domain.imex:
        return single
    several = sorted((room for room, _, bit in rooms if not domain.imex & bit), reverse=True)
    return max(single, sum(several[: limits.domain_nodes]))


def seat_room(domain: Domain, seat: Seat, measure: Measure) -> int:
    """Bundles that fit on one node by devices alone."""
    mask = seat.free & seat.domains[domain.id]
    if measure.share:
        room = mask.bit_count() * (WHOLE // measure.share)
        for position, left in seat.shared_left().items():
            if seat.domains[domain.id] >> position & 1:
                room += left // measure.share
    else:
        connect = Connect.REQUIRED if measure.linked else Connect.ANY
        room = seat.how_many(mask, measure.size, connect)
    return min(room, 1) if measure.spread else room


class Buckets:
    """Domains by how many bundles fit, each bucket in rank order. Those without room are not in it."""

    __slots__ = ("lists", "present")

    def __init__(self) -> None:
        self.lists: dict[int, list[str]] = {}
        self.present = 0  # a bit for each number that has a domain

    def add(self, room: int, rank: str) -> None:
        bucket = self.lists.get(room)
        if bucket:
            insort(bucket, rank)
        else:
            self.lists[room] = [rank]
            self.present |= 1 << room

    def remove(self, room: int, rank: str) -> None:
        bucket = self.lists[room]
        if len(bucket) == 1:
            del self.lists[room]
            self.present ^= 1 << room
        else:
            del bucket[bisect_left(bucket, rank)]

    def upwards(self, least: int) -> Iterator[tuple[int, str]]:
        """(room, rank) from `least` up, ties the fullest first."""
        present = self.present >> least << least
        while present:
            low = present & -present
            room = low.bit_length() - 1
            for rank in self.lists[room]:
                yield room, rank
            present ^= low

    def downwards(self, segment: int) -> Iterator[tuple[int, str]]:
        """(room, rank), those that hold most whole segments first, of these the least roomy, ties the fullest.

        So as few domains as can be are used, and of those that serve as well the roomier are left to others.
        """
        present = self.present >> segment << segment
        while present:
            least = (present.bit_length() - 1) // segment * segment
            several = present >> least << least
            present ^= several
            while several:
                low = several & -several
                room = low.bit_length() - 1
                for rank in self.lists[room]:
                    yield room, rank
                several ^= low


MOST_MEASURES = 24
"""Measures that one catalog keeps up; the one asked for longest ago goes first."""


class Catalog:
    """Domains of one kind (clique, loose or spare), product, grade and size of node, in the planner's two orders."""

    __slots__ = ("_unlinked", "domains", "grade", "kind", "levels", "limits", "measures", "product")

    def __init__(self, kind: str, product: str, grade: int, limits: Limits) -> None:
        self.kind = kind
        self.product = product
        self.grade = grade
        self.limits = limits
        self.domains: dict[str, Domain] = {}  # by key
        self.levels: list[list[str]] = [[]]
        self.measures: dict[Measure, Buckets] = {}
        self._unlinked: dict[Measure, Measure] = {}  # where all are linked, linked bundles count like any

    def at(self, rank: str) -> Domain:
        return self.domains[rank[1:]]

    def buckets(self, measure: Measure) -> Buckets:
        """Domains by room for this measure; kept up from the first call on."""
        if measure.linked and self.grade == REGULAR:
            measure = self._unlinked.get(measure) or self._unlinked.setdefault(measure, measure._replace(linked=False))
        found = self.measures.get(measure)
        if found is None:
            if len(self.measures) >= MOST_MEASURES:
                oldest = next(iter(self.measures))
                del self.measures[oldest]
                for domain in self.domains.values():
                    domain.rooms.pop(oldest, None)
            found = self.measures[measure] = Buckets()
            for domain in self.domains.values():
                room = domain.rooms[measure] = domain.room(measure, self.limits)
                if room:
                    found.lists.setdefault(room, []).append(domain.rank)
            for room, bucket in found.lists.items():
                bucket.sort()
                found.present |= 1 << room
        elif len(self.measures) > MOST_MEASURES // 2:
            self.measures[measure] = self.measures.pop(measure)  # the order of the dict is that of use
        return found

    def add(self, domain: Domain) -> None:
        domain.catalog = self
        self.domains[domain.key] = domain
        while len(self.levels) < len(domain.stock):
            self.levels.append([])
        domain.rank = ""
        domain.shown = 0
        domain.rooms = dict.fromkeys(self.measures, 0)
        self.refresh(domain)

    def remove(self, domain: Domain) -> None:
        for level in bits(domain.shown):
            shelf = self.levels[level]
            del shelf[bisect_left(shelf, domain.rank)]
        for measure, room in domain.rooms.items():
            if room:
                self.measures[measure].remove(room, domain.rank)
        domain.shown = 0
        domain.rooms = {}
        domain.catalog = None
        del self.domains[domain.key]

    def refresh(self, domain: Domain) -> None:
        """Bring both orders up to date after a change in the domain."""
        old = domain.rank
        rank = domain.rank = chr(domain.free) + domain.key
        shown = 0
        levels = self.levels
        before = domain.shown
        moved = rank != old
        for level, mask in enumerate(domain.stock):
            if mask and level:
                bit = 1 << level
                shown |= bit
                if before & bit:
                    if moved:
                        shelf = levels[level]
                        del shelf[bisect_left(shelf, old)]
                        insort(shelf, rank)
                else:
                    insort(levels[level], rank)
        gone = before & ~shown
        while gone:
            low = gone & -gone
            shelf = levels[low.bit_length() - 1]
            del shelf[bisect_left(shelf, old)]
            gone ^= low
        domain.shown = shown
        rooms = domain.rooms
        for measure, buckets in self.measures.items():
            had = rooms[measure]
            room = domain.room(measure, self.limits)
            if had != room or moved:
                if had:
                    buckets.remove(had, old)
                if room:
                    buckets.add(room, rank)
                rooms[measure] = room


def _product(seat: Seat, members: int) -> str:
    """The product that all these devices are; MIXED_PRODUCT where they differ or do not say."""
    found = None
    for i, device in enumerate(seat.node.devices):
        if members >> i & 1:
            product = device.product
            if product is None or (found is not None and product != found):
                return MIXED_PRODUCT
            found = product
    return found or MIXED_PRODUCT


def _grade(seat: Seat, members: int) -> int:
    if seat.counters:
        return SHARING
    return REGULAR if seat.together_in(members) else UNEVEN
