"""A request as the planner works on it: equal bundles folded into classes."""

from __future__ import annotations

from functools import cached_property

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.clique_order import CliqueOrder
from ray_dra.core.cluster.clique_state import CLIQUE, LOOSE_NODE, SPARES, CliqueKind, CliqueState
from ray_dra.core.cluster.node_state import EPSILON, SEVERAL_PRODUCTS, NodeState
from ray_dra.core.model.gpu_sharing import GpuSharing
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import WHOLE, Bundle, GangRequest, Strategy
from ray_dra.core.model.selector import labels_match
from ray_dra.core.planner.bundle_devices import ShareBundles, WholeBundles
from ray_dra.core.planner.node_class import NodeClasses
from ray_dra.core.planner.packing import Contents
from ray_dra.core.planner.work import LOOK, MOST_CLASSES, Work


class FoldedRequest:
    """The bundles of a request by class, the largest first.

    Attributes:
        equal: all bundles are alike.
        total: devices that the bundles have together, a shared one counted by each bundle.
        classes: the distinct bundles.
        bare: some of several classes have no devices: cliques say nothing about them.
        spread: at most one bundle on a node.
        together: every two devices that the gang has on a node are linked, whichever bundles they are of.
        parted: bundles have parts of GPUs (`parts.py`).
        demanding: cliques are required, not only preferred.
        criteria: which devices the first class accepts; None for any. products: of these; () for any.
        sharing: by what bundles share the gang's own devices; None where they do not.
        shape: how the first class is counted on a node.
        extra: more is asked of a node than free devices (resources, labels, not being excluded).
        whole: bundles of the first class have whole devices, or none.
        choosy: not every free device will do for the first class as well as another.
        simple: nothing is asked of a node but a number of whole devices, linked or not.
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
        self.parted = False
        self.sharing: GpuSharing | None = None
        if len(devices) == 1:
            device = devices[0]
            self.size = device.count
            some = device.products or device.selectors or device.device_class
            self.criteria = device.criteria if some else None  # a call less for most gangs
            if device.share:
                self.share = device.share
                self.sharing = device.sharing
            if device.part is not None:
                self.parted = True
        else:
            self.size = first.count
            self.criteria = first.criteria
        self.total = self.size * len(bundles) if self.equal else request.device_count
        self.bare = not (self.equal or self.classes[-1].devices)  # those without devices are the smallest
        self.products = self.criteria.products if self.criteria is not None else ()
        selective = self.criteria is not None and bool(self.criteria.selectors or self.criteria.device_class)
        self.extra = bool(first.resources or first.labels or request.exclude or selective or self.sharing)
        self.whole = not self.share
        self.choosy = bool(self.share or self.criteria)
        self.simple = not (self.extra or self.choosy)

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

    @property
    def proven(self) -> bool:
        """False once a bounded search inside a node gave up."""
        return self.equal or self.node_classes.proven

    @cached_property
    def node_classes(self) -> NodeClasses:
        """What tells nodes apart; used where there are several classes of bundles."""
        return NodeClasses(
            self.request.exclude,
            self.classes,
            self.counts,
            self.work,
            resources=self.resources,
            connect=self.connect,
            spread=self.spread,
            together=self.together,
        )

    @cached_property
    def devices(self) -> WholeBundles:
        """How bundles of the one class take devices."""
        if self.share:
            return ShareBundles(self.share, self.criteria, self.connect, self.sharing)
        return WholeBundles(self.size, self.criteria, self.connect)

    @property
    def least_devices(self) -> int:
        """Fewer cannot be enough, whatever the devices."""
        if self.sharing is None:
            return self.total
        return -(-sum((b.share or 0) * n for b, n in zip(self.classes, self.counts, strict=True)) // WHOLE)

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
        capacity = self.devices.capacity(state, members) if self.size else self.counts[0]
        for resource, amount in bundle.resources.items():
            if not capacity:
                return 0
            if amount > 0:
                capacity = int(min(capacity, (state.left(resource) + EPSILON) / amount))  # the quotient may be inf
        return min(capacity, 1) if self.spread else max(capacity, 0)


def kinds_for(request: GangRequest, *, cliques: bool) -> tuple[tuple[CliqueKind, ...], ...]:
    """Kinds of cliques to look in, the preferred first; `cliques`: only in NVLink cliques."""
    return _KINDS[cliques, request.preemptible]


_KINDS: dict[tuple[bool, bool], tuple[tuple[CliqueKind, ...], ...]] = {
    (cliques, preemptible): (*(((SPARES,),) if preemptible else ()), (CLIQUE,) if cliques else (CLIQUE, LOOSE_NODE))
    for cliques in (True, False)
    for preemptible in (True, False)
}


def _size(bundle: Bundle) -> tuple[object, ...]:
    """Order of the classes: what is hardest to place first; then anything that is the same every time."""
    return (
        bundle.whole_devices,
        bundle.share or 0,
        bool(bundle.labels),
        sorted((r, a) for r, a in bundle.resources.items()),
        sorted(bundle.labels.items()),
        [(d.device_class, d.count, d.products, [str(s) for s in d.selectors]) for d in bundle.devices],
    )
