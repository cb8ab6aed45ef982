"""After a no: what was missing where, wanted and available.

Looks at the demands one by one, from what could never be met to what is only taken now, and names
each that fails. Off the fast path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from ray_dra.core.cluster.clique_state import CLIQUE, LOOSE_NODE, SPARES, CliqueState
from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import EPSILON, NodeState
from ray_dra.core.explain.criteria import totals_that_will_do, unmet
from ray_dra.core.explain.parts import parts_short
from ray_dra.core.explain.shares import no_share, not_ready, too_few_shares
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.request import Bundle, GangRequest, Strategy
from ray_dra.core.model.selector import labels_match
from ray_dra.core.model.shortfall import CLUSTER, Choice, Place, PlaceKind, Shortfall, ShortfallKind, short
from ray_dra.core.planner.bundle_devices import ShareBundles
from ray_dra.core.planner.capacity import Capacities
from ray_dra.core.planner.equal import place_equal
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.scope import Scope
from ray_dra.core.planner.work import MOST_CLASSES, STEPS

CLASSES_TOLD = 8
"""For how many kinds of bundles, the largest first, a no says why no node holds one."""

NODES_LOOKED_AT = 64
"""Among how many nodes, those with most free devices first, the best-linked one is looked for."""


def shortfalls(inventory: Inventory, folded: FoldedRequest, *, proven: bool = True) -> tuple[Shortfall, ...]:
    """The reasons for a no; at least one. Looks at single nodes only where no node holds one bundle."""
    request = folded.request
    if folded.parted:
        return parts_short(inventory, request, proven=proven)
    found: list[Shortfall] = []
    for bundle in folded.classes[:CLASSES_TOLD]:
        found += _one_bundle(inventory, folded, bundle)
    found += _totals(inventory, request)
    found += totals_that_will_do(folded, _open(inventory, request))
    if folded.demanding and folded.total:
        found += _cliques(inventory, folded)
    if not found:
        lost = not_ready(inventory.node_states.values())
        found += too_few_shares(list(_open(inventory, request)), folded, lost=lost)
    if not found:
        found += _resources(inventory, request)
    if not proven and len(folded.classes) > MOST_CLASSES:
        found.append(short(ShortfallKind.BOUND, Place(PlaceKind.GANG), len(folded.classes), MOST_CLASSES))
    elif not proven:
        found.append(short(ShortfallKind.BOUND, CLUSTER, _sizes(request), None, steps=STEPS))
    return tuple(found) or (_packing(inventory, request),)


def _one_bundle(inventory: Inventory, folded: FoldedRequest, bundle: Bundle) -> list[Shortfall]:
    """Why no node holds even one bundle of this class; empty when one does."""
    if _some_node_holds(inventory, folded, bundle):
        return []
    criteria = bundle.criteria
    if not (bundle.labels or criteria or bundle.share or folded.request.exclude) and bundle.count:
        # Where devices alone say no, which is most often, no node need be asked what else it has left.
        spares = folded.request.preemptible  # lent to it; nobody else has a place there
        freest = list(islice((s for s in _freest(inventory) if spares or not s.node.spare), NODES_LOOKED_AT))
        # A node in several cliques is listed by what is free in one of them.
        split = (s for s in inventory.split.values() if spares or not s.node.spare)
        best = max((*freest[:1], *split), key=lambda s: s.free.bit_count(), default=None)
        if best is not None and (free := best.free.bit_count()) < bundle.count:
            too_small = _node_size(best, bundle, free, len(inventory.by_free) - 1)
            return [too_small, *_more_than_any(inventory, bundle)]
        if (
            freest
            and folded.connect is Connect.REQUIRED
            and not (bundle.resources and _some_node_holds(inventory, folded, replace(bundle, resources={})))
        ):
            return [_unlinked(freest, bundle), *_more_than_any(inventory, bundle)]
    node_states = list(inventory.node_states.values())
    where = Place(PlaceKind.BUNDLE, folded.request.bundles.index(bundle))
    open_nodes = list(_open(inventory, folded.request))
    if not open_nodes:
        lost = tuple((s.name, s.node.reason) for s in node_states[:4])
        return [short(ShortfallKind.NODES, CLUSTER, 1, 0, lost=lost)]
    labelled = [s for s in open_nodes if labels_match(bundle.labels, s.node.labels)] if bundle.labels else open_nodes
    if not labelled:
        labels = tuple(sorted(bundle.labels.items()))
        return [short(ShortfallKind.LABELS, where, labels, (), nodes=len(open_nodes))]
    if criteria is not None and (unknown := unmet(labelled, criteria, where)):
        return unknown
    found = []
    if bundle.sharing is not None:
        found += no_share(labelled, bundle, bundle.sharing, lost=not_ready(node_states))
    elif bundle.share:
        bundles = ShareBundles(bundle.share, criteria, folded.connect)
        left = max((n for s in labelled for n, _ in bundles.open_to(s)), default=0)
        if left < bundle.share:
            found.append(short(ShortfallKind.NODE_SIZE, CLUSTER, bundle.share, left, criteria=criteria))
    elif bundle.count:
        best = max(labelled, key=lambda s: (s.accepted(s.free, criteria).bit_count(), -s.size))
        free = best.accepted(best.free, criteria).bit_count()
        if free < bundle.count:
            found.append(_node_size(best, bundle, free, max(s.size for s in labelled)))
        elif folded.connect is Connect.REQUIRED:
            unlinked = _unlinked(labelled, bundle)
            found += [unlinked] if unlinked.available < bundle.count else []
    for resource, amount in bundle.resources.items():
        roomiest = max(labelled, key=lambda s: s.left(resource))
        if roomiest.left(resource) + EPSILON < amount:
            found.append(_node_resource(roomiest, resource, amount, roomiest.left(resource)))
    amounts = tuple(sorted(bundle.resources.items()))
    return found or [short(ShortfallKind.RESOURCES, where, amounts, (), devices=bundle.count)]


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
    if not more and bundle.criteria is None:
        orders = [c for c in inventory.orders.values() if c.cliques]
        if not any(c.kind == SPARES for c in orders):
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
    place = Place(PlaceKind.NODE, best.name, Choice.MOST_FREE)
    return short(ShortfallKind.NODE_SIZE, place, bundle.count, free, largest=largest, criteria=bundle.criteria)


def _node_resource(roomiest: NodeState, resource: str, amount: float, has: float) -> Shortfall:
    place = Place(PlaceKind.NODE, roomiest.name, Choice.MOST)
    return short(ShortfallKind.RESOURCES, place, amount, has, resource=resource)


def _more_than_any(inventory: Inventory, bundle: Bundle) -> Iterator[Shortfall]:
    """Other resources of which no node has so much, even when empty."""
    for resource, amount in bundle.resources.items():
        largest = inventory.largest(resource)
        if largest is not None and (has := largest.node.resources.get(resource, 0.0)) + EPSILON < amount:
            yield _node_resource(largest, resource, amount, has)


def _freest(inventory: Inventory) -> Iterator[NodeState]:
    """Nodes by free devices of one clique, most first; the full ones are left out."""
    return (node_state for node_state, _ in _freest_in_cliques(inventory))


def _freest_in_cliques(inventory: Inventory) -> Iterator[tuple[NodeState, CliqueState]]:
    for free in range(len(inventory.by_free) - 1, 0, -1):
        for order in inventory.orders.values():
            if order.present >> free & 1:
                for rank in order.levels[free]:
                    clique = order.at(rank)
                    for at in bits(clique.nodes_by_free[free]):
                        yield clique.node_states[at], clique


def _roomiest_node(inventory: Inventory, folded: FoldedRequest) -> tuple[int, NodeState | None, CliqueState | None]:
    """Most bundles that the devices of one clique on one node hold, among the nodes with most free, and where."""
    most: tuple[int, NodeState | None, CliqueState | None] = (0, None, None)
    for node_state, clique in islice(_freest_in_cliques(inventory), NODES_LOOKED_AT):
        if clique.kind != CLIQUE or (folded.request.locality.exclusive and not clique.idle):
            continue
        count = folded.capacity(node_state, node_state.members[clique.id])
        if most[1] is None or count > most[0]:
            most = count, node_state, clique
    return most


def _unlinked(node_states: list[NodeState], bundle: Bundle) -> Shortfall:
    criteria = bundle.criteria
    best, most = node_states[0], 0
    for state in node_states:
        mask = state.accepted(state.free, criteria)
        size = min(bundle.count, mask.bit_count())
        while size > most and not state.graph.how_many(mask, size, Connect.REQUIRED):
            size -= 1
        if size > most:
            best, most = state, size
    return short(ShortfallKind.CONNECTED, Place(PlaceKind.NODE, best.name, Choice.BEST_LINKED), bundle.count, most)


def _totals(inventory: Inventory, request: GangRequest) -> list[Shortfall]:
    found = []
    free = inventory.free_devices - _kept(inventory, request)
    wanted = request.whole_devices
    nodes = len(inventory.node_states)
    if request.exclude:
        away = [s for s in map(inventory.node_states.get, request.exclude) if s is not None]
        # Of spares that are kept, those of all nodes are taken off already.
        free -= sum(s.free.bit_count() for s in away if request.preemptible or not s.node.spare)
        nodes -= len(away)
    if free < wanted:
        found.append(short(ShortfallKind.DEVICES, CLUSTER, wanted, free, **_elsewhere(inventory, request)))
    if request.strategy is Strategy.STRICT_SPREAD and nodes < len(request.bundles):
        found.append(short(ShortfallKind.NODES, CLUSTER, len(request.bundles), nodes))
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
        left = 0.0
        for state in _open(inventory, request):
            left += state.left(resource)
            if left + EPSILON >= wanted:
                break
        else:
            found.append(short(ShortfallKind.RESOURCES, CLUSTER, wanted, left, resource=resource))
    return found


def _elsewhere(inventory: Inventory, request: GangRequest) -> dict[str, int]:
    """How many devices there are, and where those are that are not free."""
    rest = inventory.devices - inventory.free_devices - inventory.held_devices - inventory.busy_devices
    return {
        "devices": inventory.devices,
        "held": inventory.held_devices,
        "busy": inventory.busy_devices,
        "unusable": max(rest, 0),
        "spares": _kept(inventory, request),
    }


def _cliques(inventory: Inventory, folded: FoldedRequest) -> list[Shortfall]:
    request, locality = folded.request, folded.request.locality
    if not inventory.clique_count:
        return [short(ShortfallKind.CLIQUE_UNKNOWN, CLUSTER, 1, 0, locality=locality, devices=inventory.devices)]
    scope = Scope((CLIQUE,), locality.cliques, locality.segment or 1, locality.exclusive)
    if locality.exclusive and not any(d.idle for d in inventory.clique_states.values() if d.kind == CLIQUE):
        return [short(ShortfallKind.EXCLUSIVE, CLUSTER, 1, 0)]
    if not folded.equal:
        best = max((d for d in inventory.clique_states.values() if d.kind != LOOSE_NODE), key=lambda d: (d.free, d.key))
        facts: dict[str, Any] = {"locality": locality, "free": best.free, "imex_nodes": best.imex_nodes.bit_count()}
        place, pattern = Place(PlaceKind.CLIQUE, best.name, Choice.MOST_FREE), _pattern(best)
        return [short(ShortfallKind.PACKING, place, _sizes(request), pattern, pattern=pattern, **facts)]
    capacities = Capacities(inventory, folded, scope)
    total = len(request.bundles)
    size = folded.classes[0].count
    roomiest = Place(PlaceKind.CLIQUES, locality.cliques, Choice.ROOMIEST)
    first, best_capacity = next(capacities.largest_first(1), (None, 0))
    where = Place(PlaceKind.CLIQUES, inventory.clique_count)
    facts = {"size": size}
    if first is not None:
        where = Place(PlaceKind.CLIQUE, first.name, Choice.ROOMIEST, inventory.clique_count)
        facts |= {"pattern": _pattern(first), "imex_nodes": first.imex_nodes.bit_count()}
    if request.strategy is Strategy.STRICT_PACK:
        most, node_state, clique = _roomiest_node(inventory, folded)
        if node_state is not None and clique is not None:
            where = Place(PlaceKind.NODE, node_state.name, Choice.ROOMIEST, clique.name)
            facts |= {"pattern": _pattern(clique), "imex_nodes": clique.imex_nodes.bit_count()}
        return [short(ShortfallKind.CLIQUE, where, total, most, **facts)]
    if locality.segment is not None and locality.segment < total:
        segments = total // locality.segment
        whole = capacities.sum_of_largest(locality.segment, locality.cliques)
        if whole < segments:
            place = CLUSTER if locality.cliques is None else roomiest
            facts = {"segment": locality.segment, "size": size}
            if first is not None:
                facts |= {"roomiest": first.name, "room": best_capacity}
            return [short(ShortfallKind.SEGMENT, place, segments, whole, **facts)]
    elif locality.cliques == 1 or locality.segment == total:
        if best_capacity < total:
            return [short(ShortfallKind.CLIQUE, where, total, best_capacity, **facts)]
    elif locality.cliques is not None:
        most = capacities.sum_of_largest(1, locality.cliques)
        if most < total:
            return [short(ShortfallKind.CLIQUES, roomiest, total, most, size=size)]
    return []


def _packing(inventory: Inventory, request: GangRequest) -> Shortfall:
    by_free = inventory.by_free
    free = tuple((f, by_free[f]) for f in range(len(by_free) - 1, 0, -1) if by_free[f])
    return short(ShortfallKind.PACKING, CLUSTER, _sizes(request), free, strategy=request.strategy.value)


def _pattern(clique: CliqueState) -> tuple[tuple[int, int], ...]:
    """How the free devices of a clique lie: (free devices, nodes with so many), most first."""
    by_free = clique.nodes_by_free
    return tuple((free, by_free[free].bit_count()) for free in range(len(by_free) - 1, 0, -1) if by_free[free])


def _sizes(request: GangRequest) -> tuple[tuple[int, int], ...]:
    """(devices, bundles of so many), the largest first."""
    sizes: dict[int, int] = {}
    for bundle in request.bundles:
        sizes[bundle.count] = sizes.get(bundle.count, 0) + 1
    return tuple(sorted(sizes.items(), reverse=True))
