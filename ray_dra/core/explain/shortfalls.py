"""After a no: what was missing where, wanted and available.

Looks at the demands one by one, from what could never be met to what is only taken now, and names
each that fails. Off the fast path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice

from ray_dra.core.cluster.clique_state import SHARING, CliqueState
from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.cluster.index import CLIQUE, LOOSE_NODE, SPARES
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import EPSILON, NodeState
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.request import Bundle, GangRequest, Strategy
from ray_dra.core.model.selector import labels_match
from ray_dra.core.model.shortfall import Shortfall, ShortfallKind
from ray_dra.core.planner.capacity import Capacities
from ray_dra.core.planner.equal import place_equal
from ray_dra.core.planner.fold import FoldedRequest, of_products
from ray_dra.core.planner.scope import Scope
from ray_dra.core.planner.work import MOST_CLASSES, STEPS

CLUSTER = "the cluster"

CLASSES_TOLD = 8
"""Kinds of bundles, the largest first, of which it is told why no node holds one."""

NODES_LOOKED_AT = 64
"""Nodes, those with most free devices, among which the best-linked one is looked for."""


def shortfalls(inventory: Inventory, folded: FoldedRequest, *, proven: bool = True) -> tuple[Shortfall, ...]:
    """The reasons for a no; at least one. Looks at single nodes only where no node holds one bundle."""
    request = folded.request
    found: list[Shortfall] = []
    for bundle in folded.classes[:CLASSES_TOLD]:
        found += _one_bundle(inventory, folded, bundle)
    found += _totals(inventory, request)
    if folded.demanding and folded.total:
        found += _cliques(inventory, folded)
    if not found:
        found += _resources(inventory, request)
    if not proven and len(folded.classes) > MOST_CLASSES:
        kinds = f"{len(folded.classes):,} kinds of bundles in one gang"
        found.append(
            Shortfall(ShortfallKind.BOUND, "bundles", kinds, f"at most {MOST_CLASSES:,} are searched a place for")
        )
    elif not proven:
        found.append(
            Shortfall(
                ShortfallKind.BOUND,
                CLUSTER,
                "a packing of bundles of several sizes",
                f"none found within {STEPS:,} steps of search; there may be one",
            )
        )
    return tuple(found) or (_packing(inventory, request),)


def _one_bundle(inventory: Inventory, folded: FoldedRequest, bundle: Bundle) -> list[Shortfall]:
    """Why no node holds even one bundle of this class; empty when one does."""
    if _some_node_holds(inventory, folded, bundle):
        return []
    products = tuple(p for d in bundle.devices for p in d.products)
    if not (bundle.labels or products or bundle.share or folded.request.exclude) and bundle.count:
        # Where devices alone say no, which is most often, no node need be asked what else it has left.
        freest = list(islice(_freest(inventory), NODES_LOOKED_AT))
        if freest and freest[0].free.bit_count() < bundle.count:
            short = _node_size(freest[0], bundle, freest[0].free.bit_count(), len(inventory.by_free) - 1)
            return [short, *_more_than_any(inventory, bundle)]
        if (
            freest
            and folded.connect is Connect.REQUIRED
            and not (bundle.resources and _some_node_holds(inventory, folded, replace(bundle, resources={})))
        ):
            return [_unlinked(freest, bundle, ()), *_more_than_any(inventory, bundle)]
    node_states = list(inventory.node_states.values())
    where = f"bundle {folded.request.bundles.index(bundle)}"
    open_nodes = list(_open(inventory, folded.request))
    if not open_nodes:
        lost = ", ".join(f"{s.name} ({s.node.reason or 'excluded'})" for s in node_states[:4])
        return [Shortfall(ShortfallKind.NODES, CLUSTER, "a node that is ready", lost or "no node")]
    labelled = [s for s in open_nodes if labels_match(bundle.labels, s.node.labels)] if bundle.labels else open_nodes
    if not labelled:
        return [Shortfall(ShortfallKind.LABELS, where, _pairs(bundle.labels), f"none of {len(open_nodes)} nodes")]
    if products:
        known = sorted({p for s in node_states for p in s.node.products})
        if not set(products) & set(known):
            return [
                Shortfall(ShortfallKind.PRODUCT, where, " or ".join(products), ", ".join(known) or "no product known")
            ]
    found = []
    if bundle.share:
        alone = FoldedRequest(replace(folded.request, bundles=(bundle,), locality=Locality(), strategy=Strategy.PACK))
        left = max((n for s in labelled for n, _ in alone.open_to_shares(s)), default=0)
        if left < bundle.share:
            wanted = f"{bundle.share / 1000:g} of a GPU" + (f" ({' or '.join(products)})" if products else "")
            found.append(Shortfall(ShortfallKind.NODE_SIZE, CLUSTER, wanted, f"{left / 1000:g} of one at most"))
    elif bundle.count:
        best = max(labelled, key=lambda s: (of_products(s, s.free, products).bit_count(), -s.size))
        free = of_products(best, best.free, products).bit_count()
        if free < bundle.count:
            found.append(_node_size(best, bundle, free, max(s.size for s in labelled)))
        elif folded.connect is Connect.REQUIRED:
            found.append(_unlinked(labelled, bundle, products))
    for resource, amount in bundle.resources.items():
        roomiest = max(labelled, key=lambda s: s.left(resource))
        if roomiest.left(resource) + EPSILON < amount:
            found.append(_node_resource(roomiest, resource, amount, roomiest.left(resource)))
    together = f"{bundle.count} GPUs with {_amounts(bundle)} on one node"
    return found or [Shortfall(ShortfallKind.RESOURCES, where, together, "each on some node, not all on one")]


def _some_node_holds(inventory: Inventory, folded: FoldedRequest, bundle: Bundle) -> bool:
    if bundle.count == 0:
        return any(
            labels_match(bundle.labels, s.node.labels)
            and all(s.left(r) + EPSILON >= n for r, n in bundle.resources.items())
            for s in _open(inventory, folded.request)
        )
    if bundle.share is None and not any(inventory.by_free[bundle.count :]):
        return False  # no node has so many free devices, whatever else is asked of it
    linked = folded.connect is Connect.REQUIRED and bundle.count > 1
    more = bundle.share or bundle.resources or bundle.labels or folded.request.exclude or linked
    if not more and not any(d.products for d in bundle.devices):
        orders = [c for c in inventory.orders.values() if c.cliques]
        if not any(c.kind == SPARES or c.grade == SHARING for c in orders):
            return True  # a number of free devices is all that is asked, and some node has it
    alone = replace(
        folded.request, bundles=(bundle,), locality=Locality(connect=folded.connect), strategy=Strategy.PACK
    )
    one = FoldedRequest(alone)
    kinds = (CLIQUE, LOOSE_NODE, SPARES) if folded.request.preemptible else (CLIQUE, LOOSE_NODE)
    return any(
        place_equal(inventory, one, scope).bundles is not None
        for scope in (Scope(kinds, one_node=True), Scope(kinds, one_node=True, anywhere=True))
    )


def _open(inventory: Inventory, request: GangRequest) -> Iterator[NodeState]:
    """Nodes that the gang may use."""
    for state in inventory.node_states.values():
        if state.node.ready and state.name not in request.exclude and (request.preemptible or not state.node.spare):
            yield state


def _node_size(best: NodeState, bundle: Bundle, free: int, largest: int) -> Shortfall:
    place = f"{best.name} (the node with most free)"
    wanted = f"{bundle.count} GPUs in one bundle"
    return Shortfall(ShortfallKind.NODE_SIZE, place, wanted, f"{free} free; the largest node has {largest}")


def _node_resource(roomiest: NodeState, resource: str, amount: float, has: float) -> Shortfall:
    place = f"{roomiest.name} (the node with most)"
    return Shortfall(ShortfallKind.RESOURCES, place, f"{amount:g} {resource} in one bundle", f"{has:g} {resource}")


def _more_than_any(inventory: Inventory, bundle: Bundle) -> Iterator[Shortfall]:
    """Other resources of which no node has so much, even when empty."""
    for resource, amount in bundle.resources.items():
        largest = inventory.largest(resource)
        if largest is not None and (has := largest.node.resources.get(resource, 0.0)) + EPSILON < amount:
            yield _node_resource(largest, resource, amount, has)


def _freest(inventory: Inventory) -> Iterator[NodeState]:
    """Nodes by free devices of one clique, most first; the full ones are left out."""
    for free in range(len(inventory.by_free) - 1, 0, -1):
        for order in inventory.orders.values():
            if order.present >> free & 1:
                for rank in order.levels[free]:
                    clique = order.at(rank)
                    yield from (clique.node_states[at] for at in bits(clique.nodes_by_free[free]))


def _unlinked(node_states: list[NodeState], bundle: Bundle, products: tuple[str, ...]) -> Shortfall:
    best, most = node_states[0], 0
    for state in node_states:
        mask = of_products(state, state.free, products)
        size = bundle.count - 1
        while size > most and not state.how_many(mask, size, Connect.REQUIRED):
            size -= 1
        if size > most:
            best, most = state, size
    wanted = f"{bundle.count} GPUs, every two linked by NVLink"
    return Shortfall(ShortfallKind.CONNECTED, f"{best.name} (the best-linked node)", wanted, f"{most} linked and free")


def _totals(inventory: Inventory, request: GangRequest) -> list[Shortfall]:
    found = []
    free = inventory.free_devices - _kept(inventory, request)
    wanted = request.whole_devices
    nodes = len(inventory.node_states)
    if request.exclude:
        away = [s for s in map(inventory.node_states.get, request.exclude) if s is not None]
        free -= sum(s.free.bit_count() for s in away)
        nodes -= len(away)
    if free < wanted:
        available = f"{free} free of {inventory.devices}{_elsewhere(inventory, request)}"
        found.append(Shortfall(ShortfallKind.DEVICES, CLUSTER, f"{wanted} GPUs", available))
    if request.strategy is Strategy.STRICT_SPREAD and nodes < len(request.bundles):
        found.append(Shortfall(ShortfallKind.NODES, CLUSTER, f"{len(request.bundles)} nodes", f"{nodes} nodes"))
    return found


def _kept(inventory: Inventory, request: GangRequest) -> int:
    """Free devices that are kept as spares, for others than this gang."""
    if request.preemptible:
        return 0
    return sum(d.free for c in inventory.orders.values() if c.kind == SPARES for d in c.cliques.values())


def _resources(inventory: Inventory, request: GangRequest) -> list[Shortfall]:
    """What the whole cluster has too little of, besides devices."""
    found = []
    for resource in sorted({r for b in request.bundles for r in b.resources}):
        wanted = sum(b.resources.get(resource, 0.0) for b in request.bundles)
        spare = 0.0
        for state in _open(inventory, request):
            spare += state.left(resource)
            if spare + EPSILON >= wanted:
                break
        else:
            found.append(Shortfall(ShortfallKind.RESOURCES, CLUSTER, f"{wanted:g} {resource}", f"{spare:g} {resource}"))
    return found


def _elsewhere(inventory: Inventory, request: GangRequest) -> str:
    """Where the devices that are not free are."""
    kept = _kept(inventory, request)
    rest = inventory.devices - inventory.free_devices - inventory.held_devices - inventory.busy_devices
    parts = []
    for count, text in (
        (inventory.held_devices, "held by gangs"),
        (inventory.busy_devices, "used by other work"),
        (max(rest, 0), "unhealthy, shared, or on nodes that are not ready"),
        (kept, "kept as spares"),
    ):
        if count:
            parts.append(f"{count} {text}")
    return f" ({', '.join(parts)})" if parts else ""


def _cliques(inventory: Inventory, folded: FoldedRequest) -> list[Shortfall]:
    request, locality = folded.request, folded.request.locality
    if not inventory.clique_count:
        return [
            Shortfall(
                ShortfallKind.CLIQUE_UNKNOWN,
                CLUSTER,
                str(locality),
                f"no NVLink clique is known; {inventory.devices} GPUs are in none",
            )
        ]
    scope = Scope((CLIQUE,), locality.cliques, locality.segment or 1, locality.exclusive)
    if locality.exclusive and not any(d.idle for d in inventory.clique_states.values() if not (d.loose or d.spare)):
        return [Shortfall(ShortfallKind.EXCLUSIVE, CLUSTER, "a clique to itself", "every clique is in use")]
    if not folded.equal:
        best = max((d for d in inventory.clique_states.values() if not d.loose), key=lambda d: (d.free, d.key))
        return [
            Shortfall(
                ShortfallKind.PACKING,
                _name(best) + " (the clique with most free)",
                f"{locality}, bundles of {_sizes(request)} GPUs",
                f"{best.free} free: {_pattern(best)}",
            )
        ]
    capacities = Capacities(inventory, folded, scope)
    total = len(request.bundles)
    size = f"bundles of {folded.classes[0].count} GPUs"
    first = next(capacities.largest_first(1), None)
    largest = first[1] if first else 0
    where = (
        f"{_name(first[0])} (the roomiest of {inventory.clique_count})"
        if first
        else f"{inventory.clique_count} cliques"
    )
    pattern = f": {_pattern(first[0])}" if first else ""
    if request.strategy is Strategy.STRICT_PACK:
        place = f"{_name(first[0])}, its roomiest node" if first else where
        return [Shortfall(ShortfallKind.CLIQUE, place, f"{total} {size} on one node", f"room for fewer{pattern}")]
    if locality.segment is not None and locality.segment < total:
        segments = total // locality.segment
        whole = capacities.sum_of_largest(locality.segment, locality.cliques)
        if whole < segments:
            wanted = f"{segments} segments of {locality.segment} {size}"
            place = CLUSTER if locality.cliques is None else f"the {locality.cliques} roomiest cliques"
            roomiest = f"; {_name(first[0])}, the roomiest, holds {largest} such bundles" if first else ""
            return [Shortfall(ShortfallKind.SEGMENT, place, wanted, f"{whole} whole segments{roomiest}")]
    elif locality.cliques == 1 or locality.segment == total:
        if largest < total:
            return [Shortfall(ShortfallKind.CLIQUE, where, f"{total} {size}", f"room for {largest}{pattern}")]
    elif locality.cliques is not None:
        most = capacities.sum_of_largest(1, locality.cliques)
        if most < total:
            place = f"the {locality.cliques} roomiest cliques"
            return [Shortfall(ShortfallKind.CLIQUES, place, f"{total} {size}", f"room for {most}")]
    return []


def _packing(inventory: Inventory, request: GangRequest) -> Shortfall:
    by_free = inventory.by_free
    free = ", ".join(
        f"{f} on {by_free[f]} node{'s' * (by_free[f] > 1)}" for f in range(len(by_free) - 1, 0, -1) if by_free[f]
    )
    return Shortfall(
        ShortfallKind.PACKING,
        CLUSTER,
        f"bundles of {_sizes(request)} GPUs, {request.strategy.value}",
        f"free {free or 'nothing'}",
    )


def _name(clique: CliqueState) -> str:
    return f"clique {clique.name}"


def _pattern(clique: CliqueState) -> str:
    """How the free devices of a clique lie, e.g. "4 on 3 nodes, 2 on 1 node"."""
    parts = [
        f"{free} on {(n := clique.nodes_by_free[free].bit_count())} node{'s' * (n > 1)}"
        for free in range(len(clique.nodes_by_free) - 1, 0, -1)
        if clique.nodes_by_free[free]
    ]
    if clique.imex and parts:
        parts.append(f"{clique.imex.bit_count()} of its nodes in IMEX domains of others")
    return ", ".join(parts) or "nothing free"


def _sizes(request: GangRequest) -> str:
    sizes: dict[int, int] = {}
    for bundle in request.bundles:
        sizes[bundle.count] = sizes.get(bundle.count, 0) + 1
    return " + ".join(f"{n} x {size}" for size, n in sorted(sizes.items(), reverse=True))


def _amounts(bundle: Bundle) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(bundle.resources.items())) or "nothing else"


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted(labels.items()))
