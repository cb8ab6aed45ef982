"""Placing equal bundles: exact by counting.

Equal bundles fill a node to floor(free / size) whatever the order, so a clique holds the sum over its
nodes, and m segments of n bundles fit if and only if the cliques' floor(bundles / n) add up to m.
Under the limits of IMEX a clique holds what its roomiest node alone holds, or the sum over the
roomiest nodes without an IMEX domain, whichever is more; anything less fits too, so counting stays
exact. Largest first needs the fewest cliques; the last one is the tightest that takes the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.device_choice import Masks
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.allocation import Placed, make
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.planner.capacity import Capacity, NodeCounts
from ray_dra.core.planner.fold import FoldedRequest, kinds_for, of_products
from ray_dra.core.planner.placement import NOTHING, Layout, exclusively, granted, imex
from ray_dra.core.planner.scope import Scope


def place_equal(inventory: Inventory, needs: FoldedRequest, scope: Scope) -> Layout:
    """Place a gang of one class of bundles."""
    total = needs.counts[0]
    rooms = Capacity(inventory, needs, scope)
    if scope.anywhere:
        return _anywhere(rooms, total)
    if scope.one_node:
        found = rooms.one_node(total)
        if found is None:
            return NOTHING
        domain, seat = found
        return laid_out(rooms, [(domain, [(seat, seat.domains[domain.id] if seat.odd else -1, total)])])
    chosen = _choose(rooms, total, scope)
    if chosen is None:
        return NOTHING
    if len(chosen) > 1:
        chosen.sort(key=lambda c: c[0].key)
    return laid_out(rooms, [(domain, rooms.fill(domain, count)) for domain, count in chosen])


def place_linked(inventory: Inventory, needs: FoldedRequest) -> Layout:
    """Equal bundles on one node, every two of the gang's devices linked: as if they were one bundle.

    For nodes whose GPUs are not all linked: bundles of one GPU each say nothing of links among them.
    """
    request, bundle, count = needs.request, needs.classes[0], needs.counts[0]
    if needs.spread and count > 1:
        return NOTHING
    if needs.share or len(bundle.devices) != 1 or needs.total >= len(inventory.by_free):
        return NOTHING
    devices = (DeviceRequest(needs.total, bundle.devices[0].device_class, needs.products),)
    resources = {name: amount * count for name, amount in bundle.resources.items()}
    one = Bundle(devices, resources, bundle.labels)
    whole = GangRequest(request.gang, (one,), exclude=request.exclude, preemptible=request.preemptible)
    as_one = FoldedRequest(whole, linked=True)
    for kinds in kinds_for(request, cliques=False):
        for seat, mask in (place_equal(inventory, as_one, Scope(kinds, one_node=True)).masks or {}).items():
            placed: list[Placed] = []
            masks: dict[NodeState, int] = {}
            place_bundles(needs, [(seat, mask, count)], placed, masks)
            return make(Layout, (tuple(placed), (), True, masks))
    return NOTHING


def laid_out(rooms: Capacity, parts: Sequence[tuple[CliqueState, NodeCounts]]) -> Layout:
    needs, limits = rooms.needs, rooms.inventory.limits
    placed: list[Placed] = []
    masks: dict[NodeState, int] = {}
    filled = parts[0][1] if len(parts) == 1 else [each for _, filled in parts for each in filled]
    place_bundles(needs, filled, placed, masks)
    counters = exclusively(rooms.scope, (domain for domain, _ in parts)) if rooms.scope.exclusive else ()
    if limits.compute_domains and len(filled) > len(parts):  # some part has several nodes
        counters += tuple(c for domain, part in parts for c in imex(domain, [seat for seat, _, _ in part], limits))
    return make(Layout, (tuple(placed), counters, True, None if needs.share else masks))


def place_bundles(needs: FoldedRequest, filled: NodeCounts, placed: list[Placed], held: dict[NodeState, int]) -> None:
    """Give the bundles on these seats their devices; `held` gathers the whole devices of each."""
    size, share, connect = needs.size, needs.share, needs.connect
    resources = needs.classes[0].resources
    choosy = bool(share or needs.products)
    for seat, members, count in filled:
        free = seat.free & members
        if choosy or seat.odd:
            masks = _masks(needs, seat, members, count)
        elif count == 1 and free.bit_count() == size:
            placed.append(make(Placed, (seat.name, seat.known.get(free) or seat.granted(free), resources)))
            held[seat] = free
            continue
        else:
            masks = seat.shape.pieces(free, size, count, connect) or ()
        assert len(masks) == count, "the planner chose a seat without room"
        union = held.get(seat, 0)  # a seat in several cliques comes once for each
        for mask in masks:
            grants = granted(seat, mask, share) if share else seat.known.get(mask) or seat.granted(mask)
            placed.append(make(Placed, (seat.name, grants, resources)))
            union |= mask
        held[seat] = union


def _masks(needs: FoldedRequest, seat: NodeState, members: int, count: int) -> Masks:
    """Devices for each bundle where not every free device is like the others; () where there are none."""
    if needs.share:
        return _shares(needs, seat, members, count)
    usable = of_products(seat, seat.free & members, needs.products)
    return seat.split(usable, (needs.size,) * count, needs.connect) or ()


def _shares(needs: FoldedRequest, seat: NodeState, members: int, count: int) -> tuple[int, ...]:
    """A device for each equal share: those with least left first, so that whole devices stay whole."""
    found: list[int] = []
    for left, position in needs.open_to_shares(seat, members):
        found += [1 << position] * min(left // needs.share, count - len(found))
    return tuple(found)


def _anywhere(rooms: Capacity, total: int) -> Layout:
    filled = rooms.anywhere(total)
    if not filled:
        return NOTHING
    placed: list[Placed] = []
    place_bundles(rooms.needs, filled, placed, {})
    return Layout(tuple(placed))


def _choose(rooms: Capacity, total: int, scope: Scope) -> list[tuple[CliqueState, int]] | None:
    """(clique, bundles) pairs that hold `total` bundles in whole segments, as few and as tight as can be."""
    last = rooms.tightest(total, ())
    if last is not None:
        return [(last, total)]
    if scope.cliques == 1 or rooms.most(scope.segment) * scope.segment < total:
        return None
    chosen: dict[CliqueState, int] = {}
    left = total
    segment = scope.segment
    for domain, room in rooms.largest_first(segment):
        whole = room - room % segment
        chosen[domain] = min(whole, left)
        left -= whole
        if left <= 0:
            return list(chosen.items())
        if len(chosen) == scope.cliques:
            return None
        if left < whole + segment:  # before that no single clique takes the rest
            last = rooms.tightest(left, chosen)
            if last is not None:
                return [*chosen.items(), (last, left)]
    return None
