"""A request as the planner works on it: equal bundles folded into classes, and nodes, too.

Nodes that are alike for a request (as many free devices, the same labels matched, as much left of other resources) are
one class; that is what keeps the exact search small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import combinations

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.clique_order import CliqueOrder
from ray_dra.core.cluster.clique_state import CLIQUE, LOOSE_NODE, SPARES, CliqueState
from ray_dra.core.cluster.device_choice import Masks, bits
from ray_dra.core.cluster.node_state import EPSILON, SEVERAL_PRODUCTS, NodeState
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import WHOLE, Bundle, GangRequest, Strategy
from ray_dra.core.model.selector import labels_match
from ray_dra.core.planner.packing import Contents
from ray_dra.core.planner.work import LOOK, MOST_CLASSES, Work

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
        shape: how the first class is counted on a node.
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
            few = len(members) <= MOST_CLASSES  # more are not searched a place for, in whatever order
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

    def charge_looks(self, nodes: int) -> None:
        """So many nodes' CPUs and labels have been looked at: that counts for those whose plans share their work."""
        if self._work is not None:
            self._work.left -= LOOK * nodes

    @cached_property
    def shape(self) -> BundleShape:
        return BundleShape(self.size, self.linked and self.size > 1, self.spread, self.share)

    @cached_property
    def _known_fits(self) -> dict[tuple[NodeClass, Contents], bool]:
        return {}

    @cached_property
    def _examples(self) -> dict[NodeClass, tuple[NodeState, int]]:
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

    def cached_capacity_is_exact(self, of: CliqueOrder | CliqueState) -> bool:
        """Whether the capacity that the index caches for a clique is exact for this gang."""
        return not (self.extra or (self.products and of.product == SEVERAL_PRODUCTS))

    # -- equal bundles

    def capacity(self, state: NodeState, members: int) -> int:
        """Bundles of the one class that fit on a node at once, using only the devices in `members`. Exact."""
        request, bundle = self.request, self.classes[0]
        if not state.node.ready or state.name in request.exclude:
            return 0
        if bundle.labels and not labels_match(bundle.labels, state.node.labels):
            return 0
        if self.share:
            capacity = sum(left // self.share for left, _ in self.open_to_shares(state, members))
        elif not self.size:
            capacity = self.counts[0]
        else:
            mask = of_products(state, state.free & members, self.products)
            capacity = state.how_many(mask, self.size, Connect.REQUIRED if self.shape.linked else Connect.ANY)
        for resource, amount in bundle.resources.items():
            if not capacity:
                return 0
            if amount > 0:
                capacity = min(capacity, int((state.left(resource) + EPSILON) / amount))
        return min(capacity, 1) if self.spread else max(capacity, 0)

    def open_to_shares(self, state: NodeState, members: int = -1) -> list[tuple[int, int]]:
        """(thousandths left, position) of devices on which shares of the one class may lie at once, least left first.

        The only place that says so: whatever chooses a device for a share chooses among these.
        """
        shared = [(left, at) for at, left in state.shared_left().items() if members >> at & 1]
        if self.products:
            shared = [(left, at) for left, at in shared if of_products(state, 1 << at, self.products)]
        shared.sort()
        free = of_products(state, state.free & members, self.products)
        return shared + [(WHOLE, at) for at in bits(state.at_once(free))]

    # -- bundles of several classes

    def node_class(self, state: NodeState, members: int) -> NodeClass | None:
        """What makes this node differ from others for this request; None where nothing of it can lie.

        Args:
            members: the devices that count, free or not: those of one clique, -1 for all.
        """
        if not state.node.ready or state.name in self.request.exclude:
            return None
        self.work.left -= 4 + len(self.classes) // 4
        matches = self._matches(state.node.labels) if self._labelled else (True,) * len(self.classes)
        if not any(matches):
            return None
        mask = state.free & members
        shared = tuple(sorted(_shared(state, members).items())) if self._shares else ()
        anything = mask
        for position, _ in shared:
            anything |= 1 << position
        narrow: tuple[int, ...] = (anything,) * len(self.classes)
        alike = True
        if self._choosy:
            self.work.left -= len(self.classes)
            narrow = tuple(self.usable(state, anything, c) for c in range(len(self.classes)))
            alike = all(n == anything for n in narrow)
        by_count = (not self.linked or state.graph.linked) and alike and state.sharing.independent
        devices: object = mask.bit_count()
        if not by_count or shared:
            devices = (state.graph.digest, mask, narrow, shared, "" if state.sharing.independent else state.name)
        node_class = (devices, matches, tuple(state.left(r) for r in self.resources))
        self._examples.setdefault(node_class, (state, members))
        return node_class

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

    def usable(self, state: NodeState, mask: int, c: int) -> int:
        """The devices of `mask` that class `c` accepts."""
        return of_products(state, mask, _products(self.classes[c]))

    def fits(self, node_class: NodeClass, contents: Contents) -> bool:
        """Whether a node of this class holds so many bundles of each class at once. Exact."""
        key = (node_class, contents)
        found = self._known_fits.get(key)
        if found is None:
            found = self._known_fits[key] = self._fits(node_class, contents)
        return found

    def capacity_of_class(self, node_class: NodeClass, c: int = 0) -> int:
        """Most bundles of class `c` alone that a node of this class holds."""
        low, high = 0, self.counts[c] if not self.spread else 1
        while low < high:
            middle = (low + high + 1) // 2
            self.work.left -= 1 + len(self.classes) // 16
            contents = tuple(middle if i == c else 0 for i in range(len(self.classes)))
            low, high = (middle, high) if self.fits(node_class, contents) else (low, middle - 1)
        return low

    def _fits(self, node_class: NodeClass, contents: Contents) -> bool:
        state, members = self._examples[node_class]
        _, matches, resources_left = node_class
        assert isinstance(matches, tuple)
        assert isinstance(resources_left, tuple)
        if self.spread and sum(contents) > 1:
            return False
        if any(n and not matches[c] for c, n in enumerate(contents)):
            return False
        for resource, left in zip(self.resources, resources_left, strict=True):
            wanted = sum(n * self.classes[c].resources.get(resource, 0.0) for c, n in enumerate(contents))
            if wanted > left + EPSILON:
                return False
        return self.split(state, members, contents) is not None

    def split(self, state: NodeState, members: int, contents: Contents) -> tuple[int, ...] | None:
        """Masks of devices among `members` for the bundles on a node, class by class; None where they do not fit.

        Whole devices first, the best-connected; then shares on what is left. Where every free device will do for
        every share, as many are left whichever are chosen, so that this is exact; else shares come first.
        """
        free = state.free & members
        left = _shared(state, members)
        anything = free
        for position in left:
            anything |= 1 << position
        sizes: list[int] = []
        allowed: list[int] = []
        shares: list[tuple[int, int]] = []
        for c, n in enumerate(contents):
            share = self.classes[c].share
            if share is not None:
                shares += [(share, self.usable(state, anything, c))] * n
            elif n:
                sizes += [self.classes[c].count] * n
                allowed += [self.usable(state, free, c)] * n
        narrow = tuple(allowed) if any(a != free for a in allowed) else None
        if self.together:
            masks = self._split_together(state, free, tuple(sizes), narrow)
        else:
            masks = state.split(free, tuple(sizes), self.connect, narrow)
        if masks is None or not shares:
            return masks
        taken = 0
        for mask in masks:
            taken |= mask
        alike = state.sharing.independent and all(usable & free == free for _, usable in shares)
        parts = None
        if state.sharing.independent:
            parts = self._split_shares(left | dict.fromkeys(bits(free & ~taken), WHOLE), shares, None)
        if parts is None and not alike:
            whole = _Wholes(state, free, tuple(sizes), tuple(allowed), self.connect)
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

    def _split_together(self, state: NodeState, free: int, sizes: Masks, narrow: Masks | None) -> Masks | None:
        """`NodeState.split` where the devices of all these bundles are linked to each other."""
        best = state.split(free, (sum(sizes),), self.connect) if sizes else ()
        if not best:
            return best  # none at all, or none asked for
        masks = state.split(best[0], sizes, self.connect, narrow and tuple(allowed & best[0] for allowed in narrow))
        if masks is None and narrow is not None:  # the products may be on others
            for positions in combinations(bits(free), sum(sizes)):
                self.work.left -= 1
                if self.work.spent:
                    self.proven = False
                    return None
                mask = sum(1 << at for at in positions)
                if state.graph.all_linked(mask):
                    masks = state.split(mask, sizes, self.connect, tuple(allowed & mask for allowed in narrow))
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

    def __init__(self, state: NodeState, free: int, sizes: Masks, allowed: Masks, connect: Connect) -> None:
        self.state, self.free, self.sizes, self.allowed, self.connect = state, free, sizes, allowed, connect
        self._found: dict[int, Masks | None] = {}

    def beside(self, opened: int) -> Masks | None:
        """Devices for each bundle when those in `opened` are others'; None where the bundles do not fit."""
        if opened not in self._found:
            each = tuple(1 << at for at in bits(opened))  # as bundles of one device, so that their counters are charged
            allowed = (*self.allowed, *each)
            narrow = allowed if any(a != self.free for a in allowed) else None
            sizes = (*self.sizes, *(1 for _ in each))
            masks = self.state.split(self.free, sizes, self.connect, narrow)
            self._found[opened] = None if masks is None else masks[: len(self.sizes)]
        return self._found[opened]


def kinds_for(request: GangRequest, *, cliques: bool) -> tuple[tuple[str, ...], ...]:
    """Kinds of clique order to look in, the preferred first; `cliques`: only in NVLink cliques."""
    return _KINDS[cliques, request.preemptible]


_KINDS: dict[tuple[bool, bool], tuple[tuple[str, ...], ...]] = {
    (cliques, preemptible): (*(((SPARES,),) if preemptible else ()), (CLIQUE,) if cliques else (CLIQUE, LOOSE_NODE))
    for cliques in (True, False)
    for preemptible in (True, False)
}


def _shared(state: NodeState, members: int) -> dict[int, int]:
    """Position -> thousandths left, of the devices among `members` that are shared already."""
    return {position: left for position, left in state.shared_left().items() if members >> position & 1}


def of_products(state: NodeState, mask: int, products: tuple[str, ...]) -> int:
    """The devices of `mask` that are one of `products`; all of them where none is named."""
    if not products:
        return mask
    return sum(1 << i for i, d in enumerate(state.node.devices) if mask >> i & 1 and d.product in products)


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
