"""A request as the planner works on it: equal bundles folded into classes, nodes into kinds.

Nodes that are alike for a request (as many free devices, the same labels matched, the same spare
resources) are one kind; that is what keeps the exact search small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import combinations

from ray_dra.core.cluster.clique_order import CliqueOrder
from ray_dra.core.cluster.clique_state import MIXED_PRODUCT, BundleShape
from ray_dra.core.cluster.device_choice import Masks, bits
from ray_dra.core.cluster.index import CLIQUE, LOOSE_NODE, SPARES
from ray_dra.core.cluster.node_state import EPSILON, NodeState
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import WHOLE, Bundle, GangRequest, Strategy
from ray_dra.core.model.selector import labels_match
from ray_dra.core.planner.packing import Contents
from ray_dra.core.planner.work import LOOK, MOST_KINDS, Work

NodeClass = tuple[object, ...]


class FoldedRequest:
    """The bundles of a request by class, the largest first.

    Attributes:
        equal: all bundles are alike.
        total: devices that the bundles have together, a shared one counted by each bundle.
        classes: the distinct bundles.
        bare: some of several classes have no devices: cliques say nothing about them.
        spread: at most one bundle on a node.
        together: every two devices that the gang has on a node are linked, whichever bundles they are of.
        demanding: cliques are required, not only preferred.
        products: of the first class; () for any.
        measure: how the first class is counted on a node.
        extra: more is asked of a node than free devices (resources, labels, not being excluded).
        simple: nothing is asked of a node but a number of whole devices, linked or not.
        proven: False once a bounded search inside a node gave up.
        work: what the searches for this gang may still do; shared with other `FoldedRequest` of the same plan.
    """

    def __init__(
        self,
        request: GangRequest,
        *,
        spread: bool | None = None,
        linked: bool = False,
        together: bool = False,
        work: Work | None = None,
    ) -> None:
        self.request = request
        self._work = work
        self.together = together
        self.connect = Connect.REQUIRED if linked or together else request.locality.connect
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
            members = self.by_bundle
            self.work.left -= len(bundles) // 2
            few = len(members) <= MOST_KINDS  # more are not searched a place for, in whatever order
            self.classes = tuple(sorted(members, key=_size, reverse=True) if few else members)
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
        self.bare = not (self.equal or self.classes[-1].devices)  # those without devices are the smallest
        self.extra = bool(first.resources or first.labels or request.exclude)
        self.simple = not (self.extra or self.share or self.products)

    @property
    def work(self) -> Work:
        """Made when it is first asked for: most gangs are counted, and search for nothing."""
        if self._work is None:
            self._work = Work()
        return self._work

    def looked_at(self, nodes: int) -> None:
        """So many nodes' CPUs and labels have been looked at: that counts for those whose plans share their work."""
        if self._work is not None:
            self._work.left -= LOOK * nodes

    @cached_property
    def measure(self) -> BundleShape:
        return BundleShape(self.size, self.linked and self.size > 1, self.spread, self.share)

    @cached_property
    def _rooms(self) -> dict[tuple[NodeClass, Contents], bool]:
        return {}

    @cached_property
    def _kept(self) -> dict[NodeClass, tuple[NodeState, int]]:
        return {}

    @cached_property
    def by_bundle(self) -> dict[Bundle, list[int]]:
        """Bundle -> its indices, ascending."""
        found: dict[Bundle, list[int]] = {}
        known: dict[int, list[int]] = {}  # most bundles of a gang are one object, which need not be hashed again
        for index, bundle in enumerate(self.request.bundles):
            members = known.get(id(bundle))
            if members is None:
                members = known[id(bundle)] = found.setdefault(bundle, [])
            members.append(index)
        return found

    @cached_property
    def resources(self) -> tuple[str, ...]:
        return tuple(sorted({r for b in self.classes for r in b.resources}))

    @cached_property
    def class_of(self) -> dict[int, int]:
        """Bundle index -> class."""
        return {i: c for c, bundle in enumerate(self.classes) for i in self.by_bundle[bundle]}

    # -- which cliques

    def told_by_measure(self, catalog: CliqueOrder) -> bool:
        """Whether the room that the index keeps for a clique is the gang's own."""
        return not (self.extra or (self.products and catalog.product == MIXED_PRODUCT))

    # -- equal bundles

    def on(self, seat: NodeState, members: int) -> int:
        """Bundles of the one class that fit on a node at once, using only the devices in `members`. Exact."""
        request, bundle = self.request, self.classes[0]
        if not seat.node.ready or seat.name in request.exclude:
            return 0
        if bundle.labels and not labels_match(bundle.labels, seat.node.labels):
            return 0
        if self.share:
            room = sum(left // self.share for left, _ in self.open_to_shares(seat, members))
        elif not self.size:
            room = self.counts[0]
        else:
            mask = of_products(seat, seat.free & members, self.products)
            room = seat.how_many(mask, self.size, Connect.REQUIRED if self.measure.linked else Connect.ANY)
        for resource, amount in bundle.resources.items():
            if not room:
                return 0
            if amount > 0:
                room = min(room, int((seat.spare(resource) + EPSILON) / amount))
        return min(room, 1) if self.spread else max(room, 0)

    def open_to_shares(self, seat: NodeState, members: int = -1) -> list[tuple[int, int]]:
        """(thousandths left, position) of devices on which shares of the one class may lie at once, least left first.

        The only place that says so: whatever chooses a device for a share chooses among these.
        """
        shared = [(left, at) for at, left in seat.shared_left().items() if members >> at & 1]
        if self.products:
            shared = [(left, at) for left, at in shared if of_products(seat, 1 << at, self.products)]
        shared.sort()
        free = of_products(seat, seat.free & members, self.products)
        if seat.counters:  # partitions exclude each other: the most that can be opened beside each other
            count = seat.how_many(free, 1, Connect.ANY)
            free = sum(seat.split(free, (1,) * count, Connect.ANY) or ())
        return shared + [(WHOLE, at) for at in bits(free)]

    # -- bundles of several classes

    def kind(self, seat: NodeState, members: int) -> NodeClass | None:
        """What makes this node differ from others for this request; None where nothing of it can lie.

        Args:
            members: the devices that count, free or not: those of one domain, -1 for all.
        """
        if not seat.node.ready or seat.name in self.request.exclude:
            return None
        self.work.left -= 4 + len(self.classes) // 4
        matches = self._matches(seat.node.labels) if self._labelled else (True,) * len(self.classes)
        if not any(matches):
            return None
        mask = seat.free & members
        shared = tuple(sorted(_shared(seat, members).items())) if self._shares else ()
        anything = mask
        for position, _ in shared:
            anything |= 1 << position
        narrow: tuple[int, ...] = (anything,) * len(self.classes)
        alike = True
        if self._choosy:
            self.work.left -= len(self.classes)
            narrow = tuple(self.usable(seat, anything, c) for c in range(len(self.classes)))
            alike = all(n == anything for n in narrow)
        by_count = (not self.linked or seat.shape.linked) and alike and not seat.counters
        devices: object = mask.bit_count()
        if not by_count or shared:
            devices = (seat.shape.digest, mask, narrow, shared, seat.name if seat.counters else "")
        kind = (devices, matches, tuple(seat.spare(r) for r in self.resources))
        self._kept.setdefault(kind, (seat, members))
        return kind

    @cached_property
    def _shares(self) -> bool:
        return any(b.share for b in self.classes)

    @cached_property
    def _choosy(self) -> bool:
        return any(d.products for b in self.classes for d in b.devices)

    @cached_property
    def _labelled(self) -> bool:
        return any(b.labels for b in self.classes)

    def _matches(self, labels: Mapping[str, str]) -> tuple[bool, ...]:
        self.work.left -= len(self.classes)
        return tuple(not b.labels or labels_match(b.labels, labels) for b in self.classes)

    def usable(self, seat: NodeState, mask: int, c: int) -> int:
        """The devices of `mask` that class `c` accepts."""
        return of_products(seat, mask, _products(self.classes[c]))

    def fits(self, kind: NodeClass, contents: Contents) -> bool:
        """Whether a node of this kind holds so many bundles of each class at once. Exact."""
        key = (kind, contents)
        found = self._rooms.get(key)
        if found is None:
            found = self._rooms[key] = self._fits(kind, contents)
        return found

    def room(self, kind: NodeClass, c: int = 0) -> int:
        """Most bundles of class `c` alone that a node of this kind holds."""
        low, high = 0, self.counts[c] if not self.spread else 1
        while low < high:
            middle = (low + high + 1) // 2
            self.work.left -= 1 + len(self.classes) // 16
            contents = tuple(middle if i == c else 0 for i in range(len(self.classes)))
            low, high = (middle, high) if self.fits(kind, contents) else (low, middle - 1)
        return low

    def _fits(self, kind: NodeClass, contents: Contents) -> bool:
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

    def split(self, seat: NodeState, members: int, contents: Contents) -> tuple[int, ...] | None:
        """Masks of devices among `members` for the bundles on a node, class by class; None where they do not fit.

        Whole devices first, the best-connected; then shares on what is left. Where every free device will do for
        every share, as many are left whichever are chosen, so that this is exact; else shares come first.
        """
        free = seat.free & members
        left = _shared(seat, members)
        anything = free
        for position in left:
            anything |= 1 << position
        sizes: list[int] = []
        allowed: list[int] = []
        shares: list[tuple[int, int]] = []
        for c, n in enumerate(contents):
            share = self.classes[c].share
            if share is not None:
                shares += [(share, self.usable(seat, anything, c))] * n
            elif n:
                sizes += [self.classes[c].count] * n
                allowed += [self.usable(seat, free, c)] * n
        narrow = tuple(allowed) if any(a != free for a in allowed) else None
        if self.together:
            masks = self._split_together(seat, free, tuple(sizes), narrow)
        else:
            masks = seat.split(free, tuple(sizes), self.connect, narrow)
        if masks is None or not shares:
            return masks
        taken = 0
        for mask in masks:
            taken |= mask
        alike = not seat.counters and all(usable & free == free for _, usable in shares)
        parts = None
        if not seat.counters:
            parts = self._split_shares(left | dict.fromkeys(bits(free & ~taken), WHOLE), shares, None)
        if parts is None and not alike:
            whole = _Wholes(seat, free, tuple(sizes), tuple(allowed), self.connect)
            parts = self._split_shares(left | dict.fromkeys(bits(free), WHOLE), shares, whole)
            if parts is not None:
                opened = 0
                for part in parts:
                    opened |= part & free
                masks = whole.beside(opened)
        if parts is None or masks is None:
            return None
        wholes, partly = iter(masks), iter(parts)
        return tuple(
            next(wholes if self.classes[c].share is None else partly) for c, n in enumerate(contents) for _ in range(n)
        )

    def _split_together(self, seat: NodeState, free: int, sizes: Masks, narrow: Masks | None) -> Masks | None:
        """`NodeState.split` where the devices of all these bundles are linked to each other."""
        best = seat.split(free, (sum(sizes),), self.connect) if sizes else ()
        if not best:
            return best  # none at all, or none asked for
        masks = seat.split(best[0], sizes, self.connect, narrow and tuple(allowed & best[0] for allowed in narrow))
        if masks is None and narrow is not None:  # the products may be on others
            for positions in combinations(bits(free), sum(sizes)):
                self.work.left -= 1
                if self.work.spent:
                    self.proven = False
                    return None
                mask = sum(1 << at for at in positions)
                if seat.shape.all_linked(mask):
                    masks = seat.split(mask, sizes, self.connect, tuple(allowed & mask for allowed in narrow))
                    if masks is not None:
                        break
        return masks

    def _split_shares(
        self, left: dict[int, int], shares: list[tuple[int, int]], wholes: _Wholes | None
    ) -> list[int] | None:
        """A device for each (share, devices allowed), the tightest first, by backtracking.

        Args:
            left: position -> thousandths.
            wholes: whole bundles that have to fit beside the devices that are opened; None: they have theirs.
        """
        if sum(share for share, _ in shares) > sum(left.values()):
            return None
        order = sorted(range(len(shares)), key=lambda i: (-shares[i][0], shares[i][1]))
        # Devices that the same shares may lie on are alike, unless whole bundles are to be put beside them.
        masks = sorted({allowed for _, allowed in shares})
        like = {p: p if wholes is not None else sum((m >> p & 1) << i for i, m in enumerate(masks)) for p in left}
        failed: set[tuple[int, tuple[tuple[int, int], ...]]] = set()
        trail = [_Share(0, 0)]
        least = self.work.left // 2  # as in `pack`: there is some left to look elsewhere
        while trail:
            step = trail[-1]
            if step.at == len(order):
                places = [0] * len(shares)
                for i, taken in zip(order, trail, strict=False):
                    places[i] = 1 << taken.position
                return places
            share, allowed = shares[order[step.at]]
            if step.moves is None:
                step.key = (step.at, tuple(sorted((n, like[p]) for p, n in left.items())))
                if step.key in failed:
                    trail.pop()
                    continue
                self.work.left -= 4 + len(left)
                if self.work.left <= least:
                    self.proven = False
                    return None
                fitting = {
                    (n, like[p]): p for p, n in sorted(left.items(), reverse=True) if n >= share and allowed >> p & 1
                }
                step.moves = iter([(n, p) for (n, _), p in sorted(fitting.items())])
            elif step.position >= 0:
                left[step.position] = step.amount
            step.amount, step.position = next(step.moves, (0, -1))
            if step.position < 0:
                failed.add(step.key)
                trail.pop()
                continue
            opened = step.opened | 1 << step.position if step.amount == WHOLE else step.opened
            if wholes is None or opened == step.opened or wholes.beside(opened) is not None:
                left[step.position] = step.amount - share
                trail.append(_Share(step.at + 1, opened))
        return None


class _Share:
    """A step of the search: the share that is placed, devices opened before it, and where it lies now (-1: nowhere)."""

    __slots__ = ("amount", "at", "key", "moves", "opened", "position")

    def __init__(self, at: int, opened: int) -> None:
        self.at, self.opened = at, opened
        self.amount, self.position = 0, -1
        self.key: tuple[int, tuple[tuple[int, int], ...]] = (0, ())
        self.moves: Iterator[tuple[int, int]] | None = None


class _Wholes:
    """The bundles of whole devices on a node, beside devices that are opened for shares."""

    def __init__(self, seat: NodeState, free: int, sizes: Masks, allowed: Masks, connect: Connect) -> None:
        self.seat, self.free, self.sizes, self.allowed, self.connect = seat, free, sizes, allowed, connect
        self._found: dict[int, Masks | None] = {}

    def beside(self, opened: int) -> Masks | None:
        """Devices for each bundle when those in `opened` are others'; None where the bundles do not fit."""
        if opened not in self._found:
            each = tuple(1 << at for at in bits(opened))  # as bundles of one device, so that their counters are charged
            allowed = (*self.allowed, *each)
            narrow = allowed if any(a != self.free for a in allowed) else None
            sizes = (*self.sizes, *(1 for _ in each))
            masks = self.seat.split(self.free, sizes, self.connect, narrow)
            self._found[opened] = None if masks is None else masks[: len(self.sizes)]
        return self._found[opened]


def kinds_for(request: GangRequest, *, cliques: bool) -> tuple[tuple[str, ...], ...]:
    """Kinds of catalog to look in, the preferred first; `cliques`: only in NVLink cliques."""
    return _KINDS[cliques, request.preemptible]


_KINDS: dict[tuple[bool, bool], tuple[tuple[str, ...], ...]] = {
    (cliques, preemptible): (*(((SPARES,),) if preemptible else ()), (CLIQUE,) if cliques else (CLIQUE, LOOSE_NODE))
    for cliques in (True, False)
    for preemptible in (True, False)
}


def _shared(seat: NodeState, members: int) -> dict[int, int]:
    """Position -> thousandths left, of the devices among `members` that are shared already."""
    return {position: left for position, left in seat.shared_left().items() if members >> position & 1}


def of_products(seat: NodeState, mask: int, products: tuple[str, ...]) -> int:
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
