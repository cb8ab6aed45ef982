"""A request as the planner works on it: equal bundles folded into classes, nodes into kinds.

Nodes that are alike for a request (as many free devices, the same labels matched, the same spare
resources) are one `Kind`; that is what keeps the exact search small.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from ray_dra.core.inventory import Seat
from ray_dra.core.packing import Contents
from ray_dra.core.request import Bundle, Connect, GangRequest, Strategy

EPSILON = 1e-6  # Ray counts resources in 1/10,000

SeatKind = tuple[object, ...]


class Needs:
    """The bundles of a request by class, the largest first.

    Attributes:
        classes: the distinct bundles.
        members: bundle indices of each class, ascending.
        spread: at most one bundle on a node.
    """

    def __init__(self, request: GangRequest, *, spread: bool | None = None) -> None:
        self.request = request
        self.connect = request.locality.connect
        self.spread = request.strategy is Strategy.STRICT_SPREAD if spread is None else spread
        members: dict[Bundle, list[int]] = {}
        last: Bundle | None = None
        for index, bundle in enumerate(request.bundles):
            if last is None or (bundle is not last and bundle != last):
                members.setdefault(bundle, [])
                last = bundle
            members[last if bundle is last else bundle].append(index)
        self.classes = tuple(sorted(members, key=_size, reverse=True))
        self.members = tuple(tuple(members[bundle]) for bundle in self.classes)
        self.class_of = {i: c for c, indices in enumerate(self.members) for i in indices}
        self.counts: Contents = tuple(len(m) for m in self.members)
        self.resources = tuple(sorted({r for b in self.classes for r in b.resources}))
        self._rooms: dict[tuple[SeatKind, Contents], bool] = {}
        self._kept: dict[SeatKind, tuple[Seat, int]] = {}

    @cached_property
    def plain(self) -> bool:
        """Whether counting free devices says it all: one class, nothing else asked of the node."""
        bundle = self.classes[0]
        return (
            len(self.classes) == 1
            and not self.resources
            and not bundle.labels
            and not self.request.exclude
            and not self.spread
            and not any(d.products for d in bundle.devices)
            and self.connect is not Connect.REQUIRED
        )

    @property
    def equal(self) -> bool:
        return len(self.classes) == 1

    def kind(self, seat: Seat, mask: int) -> SeatKind | None:
        """What makes this node differ from others for this request; None where nothing of it can lie."""
        if not seat.node.ready or seat.name in self.request.exclude:
            return None
        matches = tuple(labels_match(b.labels, seat.node.labels) for b in self.classes)
        if not any(matches):
            return None
        narrow = tuple(self.usable(seat, mask, c) for c in range(len(self.classes)))
        by_count = (self.connect is not Connect.REQUIRED or seat.shape.linked) and all(n == mask for n in narrow)
        devices: object = mask.bit_count() if by_count else (id(seat.shape), mask, narrow)
        spare = tuple(seat.spare(r) for r in self.resources)
        kind = (devices, matches, spare)
        self._kept.setdefault(kind, (seat, mask))
        return kind

    def usable(self, seat: Seat, mask: int, c: int) -> int:
        """The devices of `mask` that class `c` accepts."""
        return of_products(seat, mask, tuple(p for d in self.classes[c].devices for p in d.products))

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
        seat, mask = self._kept[kind]
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
        return self.split(seat, mask, contents) is not None

    def split(self, seat: Seat, mask: int, contents: Contents) -> tuple[int, ...] | None:
        """Device masks for the bundles on a node, class by class; None where they do not fit."""
        sizes: list[int] = []
        allowed: list[int] = []
        for c, n in enumerate(contents):
            sizes += [self.classes[c].count] * n
            if n:
                allowed += [self.usable(seat, mask, c)] * n
        narrow = tuple(allowed) if any(a != mask for a in allowed) else None
        return seat.shape.split(mask, tuple(sizes), self.connect, narrow)


def of_products(seat: Seat, mask: int, products: tuple[str, ...]) -> int:
    """The devices of `mask` that are one of `products`; all of them where none is named."""
    if not products:
        return mask
    return sum(1 << i for i, d in enumerate(seat.node.devices) if mask >> i & 1 and d.product in products)


def _size(bundle: Bundle) -> tuple[object, ...]:
    """Order of the classes: what is hardest to place first; then anything that is the same every time."""
    return (
        bundle.count,
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
