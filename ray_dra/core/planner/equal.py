"""Placing equal bundles: exact by counting.

Equal bundles fill a node to floor(free / size) whatever the order, so a clique holds the sum over its
nodes, and m segments of n bundles fit if and only if the cliques' floor(bundles / n) add up to m.
Under the limits of IMEX a clique holds what its roomiest node alone holds, or the sum over the
roomiest nodes without an IMEX domain, whichever is more; anything less fits too, so counting stays
exact. Largest first needs the fewest cliques; the last one is the tightest that takes the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import ALL_DEVICES, NodeState
from ray_dra.core.model.allocation import Placed, make
from ray_dra.core.model.request import Bundle, GangRequest
from ray_dra.core.planner.capacity import Capacities, NodeCounts
from ray_dra.core.planner.fold import FoldedRequest, kinds_for
from ray_dra.core.planner.levels import limit_of, nearest
from ray_dra.core.planner.placement import NOTHING, Layout, exclusively, imex_counters
from ray_dra.core.planner.scope import Scope


def place_equal(inventory: Inventory, folded: FoldedRequest, scope: Scope) -> Layout:
    """Place a gang of one class of bundles."""
    total = folded.counts[0]
    capacities = Capacities(inventory, folded, scope)
    if scope.anywhere:
        return _anywhere(capacities, total)
    if scope.one_node:
        found = capacities.one_node(total)
        if found is None:
            return NOTHING
        clique, state = found
        return lay_out_equal(
            capacities, [(clique, [(state, ALL_DEVICES if state.plain else state.members[clique.id], total)])]
        )
    chosen = _choose(capacities, total, scope)
    if chosen is None:
        return NOTHING
    if len(chosen) > 1:
        chosen.sort(key=lambda c: c[0].key)
    return lay_out_equal(capacities, [(clique, capacities.fill(clique, count)) for clique, count in chosen])


def place_linked(inventory: Inventory, folded: FoldedRequest) -> Layout:
    """Equal bundles on one node, every two of the gang's devices linked: as if they were one bundle.

    For nodes whose GPUs are not all linked: bundles of one GPU each say nothing of links among them.
    """
    request, bundle, count = folded.request, folded.classes[0], folded.counts[0]
    if folded.spread and count > 1:
        return NOTHING
    if not folded.whole or len(bundle.devices) != 1 or folded.total >= len(inventory.by_free):
        return NOTHING
    devices = (replace(bundle.devices[0], count=folded.total),)
    resources = {name: amount * count for name, amount in bundle.resources.items()}
    one = Bundle(devices, resources, bundle.labels)
    whole = GangRequest(request.gang, (one,), exclude=request.exclude, preemptible=request.preemptible)
    as_one = FoldedRequest(whole, linked=True)
    for kinds in kinds_for(request, cliques=False):
        for state, mask in (place_equal(inventory, as_one, Scope(kinds, one_node=True)).masks or {}).items():
            placed: list[Placed] = []
            masks: dict[NodeState, int] = {}
            place_bundles(folded, [(state, mask, count)], placed, masks)
            return Layout(tuple(placed), masks=masks)
    return NOTHING


def lay_out_equal(capacities: Capacities, parts: Sequence[tuple[CliqueState, NodeCounts]]) -> Layout:
    folded, limits = capacities.folded, capacities.inventory.limits
    placed: list[Placed] = []
    masks: dict[NodeState, int] = {}
    node_counts = parts[0][1] if len(parts) == 1 else [each for _, node_counts in parts for each in node_counts]
    place_bundles(folded, node_counts, placed, masks)
    counters = exclusively(capacities.scope, (clique for clique, _ in parts)) if capacities.scope.exclusive else ()
    if limits.compute_domains and len(node_counts) > len(parts) and folded.sharing is None:  # some have several nodes
        counters += tuple(
            c for clique, part in parts for c in imex_counters(clique, [state for state, _, _ in part], limits)
        )
    return make(Layout, (tuple(placed), counters, True, masks if folded.whole else None))


def place_bundles(
    folded: FoldedRequest, node_counts: NodeCounts, placed: list[Placed], held: dict[NodeState, int]
) -> None:
    """Give the bundles on these nodes their devices; `held` gathers the whole devices of each."""
    size, connect, choosy = folded.size, folded.connect, folded.choosy
    resources = folded.classes[0].resources
    for state, members, count in node_counts:
        free = state.free & members
        if choosy or not state.plain:
            masks = folded.devices.choose(state, members, count)
        elif count == 1 and free.bit_count() == size:
            placed.append(make(Placed, (state.name, state.known.get(free) or state.granted(free), resources)))
            held[state] = free
            continue
        else:
            masks = state.graph.pieces(free, size, count, connect) or ()
        assert len(masks) == count, "the planner chose a node without room"
        union = held.get(state, 0)  # a node in several cliques comes once for each
        for mask in masks:
            grants = folded.devices.granted(state, mask) if choosy else state.known.get(mask) or state.granted(mask)
            placed.append(make(Placed, (state.name, grants, resources)))
            union |= mask
        held[state] = union


def _anywhere(capacities: Capacities, total: int) -> Layout:
    node_counts = capacities.anywhere(total)
    if not node_counts:
        return NOTHING
    placed: list[Placed] = []
    place_bundles(capacities.folded, node_counts, placed, {})
    return Layout(tuple(placed))


def _choose(capacities: Capacities, total: int, scope: Scope) -> list[tuple[CliqueState, int]] | None:
    """(clique, bundles) pairs that hold `total` bundles in whole segments, as few and as tight as can be."""
    last = capacities.tightest(total, ())
    if last is not None:
        return [(last, total)]
    if scope.cliques == 1 or capacities.most(scope.segment) * scope.segment < total:
        return None
    chosen = _fewest(capacities, total, scope)
    inventory = capacities.inventory
    if chosen is None or inventory.split or not inventory.leveled:
        return chosen
    found = list(capacities.largest_first(1))
    limit = limit_of(inventory, capacities.folded.request.locality)
    return nearest(inventory, found, total, scope.segment, scope.cliques, limit) or chosen


def _fewest(capacities: Capacities, total: int, scope: Scope) -> list[tuple[CliqueState, int]] | None:
    """The same, of several cliques, wherever they are."""
    chosen: dict[CliqueState, int] = {}
    left = total
    segment = scope.segment
    for clique, capacity in capacities.largest_first(segment):
        whole = capacity - capacity % segment
        chosen[clique] = min(whole, left)
        left -= whole
        if left <= 0:
            return list(chosen.items())
        if len(chosen) == scope.cliques:
            return None
        if left < whole + segment:  # before that no single clique takes the rest
            last = capacities.tightest(left, chosen)
            if last is not None:
                return [*chosen.items(), (last, left)]
    return None
