"""A request as the planner works on it: equal bundles folded into classes, nodes into kinds.

Nodes that are alike for a request (as many free devices, the same labels matched, the same spare
resources) are one kind; that is what keeps the exact search small.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from ray_dra.core.catalog import Catalog
from ray_dra.core.devices import bits
from ray_dra.core.domain import MIXED_PRODUCT, Measure
from ray_dra.core.index import CLIQUE, LOOSE_NODE, SPARES
from ray_dra.core.packing import Contents
from ray_dra.core.request import WHOLE, Bundle, Connect, GangRequest, Strategy
from ray_dra.core.seat import EPSILON, Seat

SeatKind = tuple[object, ...]

SHARE_BOUND = 20_000
"""States looked at when shares of several sizes are packed onto one node's devices."""


class Needs:
    """The bundles of a request by class, the largest first.

    Attributes:
        equal: all bundles are alike.
        total: devices that the bundles have together, a shared one counted by each bundle.
        classes: the distinct bundles.
        spread: at most one bundle on a node.
        demanding: cliques are required, not only preferred.
        products: of the first class; () for any.
        measure: how the first class is counted on a node.
        extra: more is asked of a node than free devices (resources, labels, not being excluded).
        simple: nothing is asked of a node but a number of whole devices, linked or not.
        proven: False once a bounded search inside a node gave up.
    """

    def __init__(self, request: GangRequest, *, spread: bool | None = None, linked: bool = False) -> None:
        self.request = request
        self.connect = Connect.REQUIRED if linked else request.locality.connect
        self.linked = self.connect is Connect.REQUIRED
        self.spread = request.strategy is Strategy.STRICT_SPREAD if spread is None else spread
        self.proven = True
        locality = request.locality
        self.demanding = locality.required and (
            locality.cliques is not None or locality.segment is not None or locality.exclusive
        )
        bundles = request.bundles
        first = bundles[0]
        self.equal = bundles.count(first) == len(bundles)
        if self.equal:
            self.classes: tuple[Bundle, ...] = (first,)
            self.counts: Contents = (len(bundles),)
        else:
            members = self.by_bundle()
            self.classes = tuple(sorted(members, key=_size, reverse=True))
            self.counts = tuple(len(members[bundle]) for bundle in self.classes)
            first = self.classes[0]
        devices = first.devices
        self.share = 0
        if len(devices) == 1:
            device = devices[0]
            self.size = device.count
            self.products = device.products
            if device.share:
                self.share = device.share
        else:
            self.size = first.count
            self.products = _products(first)
        self.total = self.size * len(bundles) if self.equal else request.device_count
        self.extra = bool(first.resources or first.labels or request.exclude)
        self.simple = not (self.extra or self.share or self.products)

    @cached_property
    def measure(self) -> Measure:
        return Measure(self.size, self.linked and self.size > 1, self.spread, self.share)

    @cached_property
    def _rooms(self) -> dict[tuple[SeatKind, Contents], bool]:
        return {}

    @cached_property
    def _kept(self) -> dict[SeatKind, tuple[Seat, int]]:
        return {}

    def by_bundle(self) -> dict[Bundle, list[int]]:
        """Bundle -> its indices, ascending."""
        found: dict[Bundle, list[int]] = {}
        for index, bundle in enumerate(self.request.bundles):
            found.setdefault(bundle, []).append(index)
        return found

    @cached_property
    def resources(self) -> tuple[str, ...]:
        return tuple(sorted({r for b in self.classes for r in b.resources}))

    @property
    def class_of(self) -> dict[int, int]:
        """Bundle index -> class."""
        members = self.by_bundle()
        return {i: c for c, bundle in enumerate(self.classes) for i in members[bundle]}

    # -- which cliques

    def told_by_measure(self, catalog: Catalog) -> bool:
        """Whether the room that the index keeps for a clique is the gang's own."""
        return not (self.extra or (self.products and catalog.product == MIXED_PRODUCT))

    # -- equal bundles

    def on(self, seat: Seat, members: int) -> int:
        """Bundles of the one class that fit on a node at once, using only the devices in `members`. Exact."""
        request, bundle = self.request, self.classes[0]
        if not seat.node.ready or seat.name in request.exclude:
            return 0
        if bundle.labels and not labels_match(bundle.labels, seat.node.labels):
            return 0
        mask = of_products(seat, seat.free & members, self.products)
        if self.share:
            room = mask.bit_count() * (WHOLE // self.share)
            for position, left in seat.shared_left().items():
                if of_products(seat, 1 << position & members, self.products):
                    room += left // self.share
        elif not self.size:
            room = self.counts[0]
        else:
            room = seat.how_many(mask, self.size, Connect.REQUIRED if self.measure.linked else Connect.ANY)
        for resource, amount in bundle.resources.items():
            if not room:
                return 0
            if amount > 0:
                room = min(room, int((seat.spare(resource) + EPSILON) / amount))
        return min(room, 1) if self.spread else max(room, 0)

    # -- bundles of several classes

    def kind(self, seat: Seat, members: int) -> SeatKind | None:
        """What makes this node differ from others for this request; None where nothing of it can lie.

        Args:
            members: the devices that count, free or not: those of one domain, -1 for all.
        """
        if not seat.node.ready or seat.name in self.request.exclude:
            return None
        matches = tuple(labels_match(b.labels, seat.node.labels) for b in self.classes)
        if not any(matches):
            return None
        mask = seat.free & members
        shared = tuple(sorted(_shared(seat, members).items())) if any(b.share for b in self.classes) else ()
        narrow = tuple(self.usable(seat, mask, c) for c in range(len(self.classes)))
        by_count = (not self.linked or seat.shape.linked) and all(n == mask for n in narrow) and not seat.counters
        devices: object = mask.bit_count()
        if not by_count or shared:
            devices = (id(seat.shape), mask, narrow, shared, seat.name if seat.counters else "")
        kind = (devices, matches, tuple(seat.spare(r) for r in self.resources))
        self._kept.setdefault(kind, (seat, members))
        return kind

    def usable(self, seat: Seat, mask: int, c: int) -> int:
        """The devices of `mask` that class `c` accepts."""
        return of_products(seat, mask, _products(self.classes[c]))

    def fits(self, kind: SeatKind, contents: Contents) -> bool:
        """Whether a node of this kind holds so many bundles of each class at once. Exact."""
        key = (kind, contents)
        found = self._rooms.get(key)
        if found is None:
            found = self._rooms[key] = self._fits(kind, contents)
        return found

    def room(self, kind: SeatKind, c: int = 0) -> int:
        """Most bundles of class `c` alone that a node of this kind holds."""
        low, high = 0, self.counts[c] if not self.spread else 1
        while low < high:
            middle = (low + high + 1) // 2
            contents = tuple(middle if i == c else 0 for i in range(len(self.classes)))
            low, high = (middle, high) if self.fits(kind, contents) else (low, middle - 1)
        return low

    def _fits(self, kind: SeatKind, contents: Contents) -> bool:
        seat, members = self._kept[kind]
        _, matches, spare = kind
        assert isinstance(matches, tuple)
        assert isinstance(spare, tuple)
        if self.spread and sum(contents) > 1:
            return False
        if any(n and not matches[c] for c, n in enumerate(contents)):
            return False
        for resource, left in zip(self.resources, spare, strict=True):
            wanted = sum(n * self.classes[c].resources.get(resource, 0.0) for c, n in enumerate(contents))
            if wanted > left + EPSILON:
                return False
        return self.split(seat, members, contents) is not None

    def split(self, seat: Seat, members: int, contents: Contents) -> tuple[int, ...] | None:
        """Masks of devices among `members` for the bundles on a node, class by class; None where they do not fit.

        Whole devices first: whichever are chosen, as many are left over for shares.
        """
        mask = seat.free & members
        left = _shared(seat, members)
        sizes: list[int] = []
        allowed: list[int] = []
        shares: list[tuple[int, int]] = []
        for c, n in enumerate(contents):
            share = self.classes[c].share
            if share is not None:
                everything = mask
                for position in left:
                    everything |= 1 << position
                shares += [(share, self.usable(seat, everything, c))] * n
            elif n:
                sizes += [self.classes[c].count] * n
                allowed += [self.usable(seat, mask, c)] * n
        narrow = tuple(allowed) if any(a != mask for a in allowed) else None
        whole = seat.split(mask, tuple(sizes), self.connect, narrow)
        if whole is None or not shares:
            return whole
        for used in whole:
            mask &= ~used
        left |= dict.fromkeys(bits(mask), WHOLE)
        parts = self._split_shares(left, shares)
        if parts is None:
            return None
        wholes, partly = iter(whole), iter(parts)
        return tuple(
            next(wholes if self.classes[c].share is None else partly) for c, n in enumerate(contents) for _ in range(n)
        )

    def _split_shares(self, left: dict[int, int], shares: list[tuple[int, int]]) -> list[int] | None:
        """A device for each (share, devices allowed), the tightest first, by backtracking."""
        order = sorted(range(len(shares)), key=lambda i: -shares[i][0])
        chosen = [0] * len(shares)
        failed: set[tuple[int, tuple[tuple[int, int], ...]]] = set()

        def place(at: int) -> bool:
            if at == len(order):
                return True
            key = (at, tuple(sorted(left.items())))
            if key in failed:
                return False
            if len(failed) > SHARE_BOUND:
                self.proven = False
                return False
            share, allowed = shares[order[at]]
            for amount, position in sorted((n, p) for p, n in left.items() if n >= share and allowed >> p & 1):
                left[position] = amount - share
                chosen[order[at]] = 1 << position
                if place(at + 1):
                    return True
                left[position] = amount
            failed.add(key)
            return False

        return chosen if place(0) else None


def kinds_for(request: GangRequest, *, cliques: bool) -> tuple[tuple[str, ...], ...]:
    """Kinds of catalog to look in, the preferred first; `cliques`: only in NVLink cliques."""
    return _KINDS[cliques, request.preemptible]


_KINDS: dict[tuple[bool, bool], tuple[tuple[str, ...], ...]] = {
    (cliques, preemptible): (*(((SPARES,),) if preemptible else ()), (CLIQUE,) if cliques else (CLIQUE, LOOSE_NODE))
    for cliques in (True, False)
    for preemptible in (True, False)
}


def _shared(seat: Seat, members: int) -> dict[int, int]:
    """Position -> thousandths left, of the devices among `members` that are shared already."""
    return {position: left for position, left in seat.shared_left().items() if members >> position & 1}


def of_products(seat: Seat, mask: int, products: tuple[str, ...]) -> int:
    """The devices of `mask` that are one of `products`; all of them where none is named."""
    if not products:
        return mask
    return sum(1 << i for i, d in enumerate(seat.node.devices) if mask >> i & 1 and d.product in products)


def _products(bundle: Bundle) -> tuple[str, ...]:
    return tuple(p for d in bundle.devices for p in d.products)


def _size(bundle: Bundle) -> tuple[object, ...]:
    """Order of the classes: what is hardest to place first; then anything that is the same every time."""
    return (
        bundle.count if bundle.share is None else 0,
        bundle.share or 0,
        bool(bundle.labels),
        sorted((r, a) for r, a in bundle.resources.items()),
        sorted(bundle.labels.items()),
        [(d.device_class, d.count, d.products) for d in bundle.devices],
    )


_TERM = re.compile(r"^(!?)in\((.*)\)$")


def labels_match(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Ray's label selectors: `v`, `!v`, `in(a,b)`, `!in(a,b)`; a missing label matches only the negative forms."""
    for key, term in wanted.items():
        found = _TERM.match(term)
        if found:
            negative, values = bool(found[1]), {v.strip() for v in found[2].split(",")}
        else:
            negative, values = term.startswith("!"), {term.removeprefix("!")}
        if (labels.get(key) in values) is negative:
            return False
    return True
