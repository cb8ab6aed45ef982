"""Nodes that are alike for a request, and whether bundles of several classes fit on one of them together.

Nodes with as many free devices, the same labels matched and as much left of other resources are one class; that is what
keeps the exact search of `unequal.py` small.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import combinations

from ray_dra.core.cluster.device_choice import Masks, bits
from ray_dra.core.cluster.node_state import EPSILON, NodeState
from ray_dra.core.model.gpu_sharing import why_not_shared
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import WHOLE, Bundle
from ray_dra.core.model.selector import labels_match
from ray_dra.core.planner.bundle_devices import most_on
from ray_dra.core.planner.packing import Contents
from ray_dra.core.planner.share_packing import OutOfWork, WholesBeside, pack_shares
from ray_dra.core.planner.work import Work

NodeClass = tuple[object, ...]


class NodeClasses:
    """The nodes' classes for the bundles of one request.

    Attributes:
        exclude: nodes on which nothing may lie.
        classes, counts: the distinct bundles, and how many there are of each.
        resources: that any of them asks for.
        spread: at most one bundle on a node.
        together: every two devices that the gang has on a node are linked, whichever bundles they are of.
        sharing: by what bundles share the gang's own devices; None where they do not.
        proven: False once a bounded search inside a node gave up.
    """

    def __init__(
        self,
        exclude: frozenset[str],
        classes: tuple[Bundle, ...],
        counts: Contents,
        work: Work,
        *,
        resources: tuple[str, ...],
        connect: Connect,
        spread: bool,
        together: bool,
    ) -> None:
        self.exclude = exclude
        self.classes = classes
        self.counts = counts
        self.work = work
        self.resources = resources
        self.connect = connect
        self.linked = connect is Connect.REQUIRED
        self.spread = spread
        self.together = together
        self.proven = True
        self.sharing = next((bundle.sharing for bundle in classes if bundle.sharing is not None), None)
        self._criteria = [bundle.criteria for bundle in classes]
        self._known_fits: dict[tuple[NodeClass, Contents], bool] = {}
        self._examples: dict[NodeClass, tuple[NodeState, int]] = {}  # a node of each class, and its devices that count

    def of(self, state: NodeState, members: int) -> NodeClass | None:
        """What makes this node differ from others for this request; None where nothing of it can lie.

        Args:
            members: the devices that count, free or not: those of one clique, or ALL_DEVICES.
        """
        if not state.node.ready or state.name in self.exclude:
            return None
        self.work.left -= 4 + len(self.classes) // 4
        matches = self._matches(state.node.labels) if self._labelled else (True,) * len(self.classes)
        if self.sharing is not None and why_not_shared(state.node.unshared, self.sharing.kind):
            matches = tuple(each and not b.share for each, b in zip(matches, self.classes, strict=True))
        if not any(matches):
            return None
        mask = state.free & members
        shared = tuple(sorted(self._shared(state, members).items())) if self._shares else ()
        anything = mask
        for position, _ in shared:
            anything |= 1 << position
        narrow: tuple[int, ...] = (anything,) * len(self.classes)
        alike = True
        if self._choosy:
            self.work.left -= len(self.classes)
            narrow = tuple(self.usable(state, anything, c) for c in range(len(self.classes)))
            alike = all(n == anything for n in narrow)
        by_count = (not self.linked or state.graph.linked) and alike
        devices: object = mask.bit_count()
        if not by_count or shared:
            devices = (state.graph.digest, mask, narrow, shared)
        if self.sharing is not None and self.sharing.memory:
            most = tuple(most_on(state, at, self.sharing) for at in bits(mask))
            devices = (state.graph.digest, mask, narrow, most)
        node_class = (devices, matches, tuple(state.left(r) for r in self.resources))
        self._examples.setdefault(node_class, (state, members))
        return node_class

    @cached_property
    def _shares(self) -> bool:
        return any(b.share for b in self.classes)

    @cached_property
    def _choosy(self) -> bool:
        return any(self._criteria)

    @cached_property
    def _labelled(self) -> bool:
        return any(b.labels for b in self.classes)

    def _matches(self, labels: Mapping[str, str]) -> tuple[bool, ...]:
        self.work.left -= len(self.classes)
        return tuple(not b.labels or labels_match(b.labels, labels) for b in self.classes)

    def usable(self, state: NodeState, mask: int, c: int) -> int:
        """The devices of `mask` that class `c` accepts."""
        return state.accepted(mask, self._criteria[c])

    def fits(self, node_class: NodeClass, contents: Contents) -> bool:
        """Whether a node of this class holds so many bundles of each class at once. Exact."""
        key = (node_class, contents)
        found = self._known_fits.get(key)
        if found is None:
            found = self._known_fits[key] = self._fits(node_class, contents)
        return found

    def capacity(self, node_class: NodeClass, c: int = 0) -> int:
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
        left = self._shared(state, members)
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
            masks = state.graph.split(free, tuple(sizes), self.connect, narrow)
        if masks is None or not shares:
            return masks
        taken = 0
        for mask in masks:
            taken |= mask
        alike = all(usable & free == free for _, usable in shares)
        parts = self._pack(state, left | dict.fromkeys(bits(free & ~taken), WHOLE), shares, None)
        if parts is None and not alike:
            whole = WholesBeside(state, free, tuple(sizes), tuple(allowed), self.connect)
            parts = self._pack(state, left | dict.fromkeys(bits(free), WHOLE), shares, whole)
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

    def _pack(
        self, state: NodeState, left: dict[int, int], shares: list[tuple[int, int]], wholes: WholesBeside | None
    ) -> list[int] | None:
        most = {} if self.sharing is None else {at: most_on(state, at, self.sharing) for at in left}
        try:
            return pack_shares(left, shares, wholes, self.work, most)
        except OutOfWork:
            self.proven = False
            return None

    def _shared(self, state: NodeState, members: int) -> dict[int, int]:
        """Position -> thousandths left, of the devices among `members` that are shared already; none for a gang that
        has its own."""
        if self.sharing is not None:
            return {}
        return {position: left for position, left in state.shared_left().items() if members >> position & 1}

    def _split_together(self, state: NodeState, free: int, sizes: Masks, narrow: Masks | None) -> Masks | None:
        """`NodeState.split` where the devices of all these bundles are linked to each other."""
        best = state.graph.split(free, (sum(sizes),), self.connect) if sizes else ()
        if not best:
            return best  # none at all, or none asked for
        masks = state.graph.split(
            best[0], sizes, self.connect, narrow and tuple(allowed & best[0] for allowed in narrow)
        )
        if masks is None and narrow is not None:  # the products may be on others
            for positions in combinations(bits(free), sum(sizes)):
                self.work.left -= 1
                if self.work.spent:
                    self.proven = False
                    return None
                mask = sum(1 << at for at in positions)
                if state.graph.all_linked(mask):
                    masks = state.graph.split(mask, sizes, self.connect, tuple(allowed & mask for allowed in narrow))
                    if masks is not None:
                        break
        return masks
