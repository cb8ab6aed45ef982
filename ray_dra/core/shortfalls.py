"""After a no: what was missing where, wanted and available.

Looks at the demands one by one, from what could never be met to what is only taken now, and names
each that fails. Off the fast path.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_dra.core.allocation import Kind, Shortfall
from ray_dra.core.counting import Rooms
from ray_dra.core.inventory import LOOSE, Domain, Inventory, Seat
from ray_dra.core.layout import Scope
from ray_dra.core.needs import EPSILON, Needs, labels_match, of_products
from ray_dra.core.packing import SEARCH_BOUND
from ray_dra.core.request import Bundle, Connect, GangRequest, Strategy

CLUSTER = "the cluster"


def shortfalls(inventory: Inventory, needs: Needs, *, proven: bool = True) -> tuple[Shortfall, ...]:
    """The reasons for a no; at least one."""
    request = needs.request
    found: list[Shortfall] = []
    for bundle in needs.classes:
        found += _one_bundle(inventory, needs, bundle)
    found += _totals(inventory, request)
    if request.locality.within_cliques and request.locality.required:
        found += _cliques(inventory, needs)
    if not proven:
        found.append(
            Shortfall(
                Kind.BOUND,
                CLUSTER,
                "a packing of bundles of several sizes",
                f"none found within {SEARCH_BOUND} states; there may be one",
            )
        )
    return tuple(found) or (_packing(inventory, request),)


def _one_bundle(inventory: Inventory, needs: Needs, bundle: Bundle) -> list[Shortfall]:
    """Why no node holds even one bundle of this class; empty when one does."""
    seats = list(inventory.seats.values())
    where = f"bundle {needs.members[needs.classes.index(bundle)][0]}"
    excluded = needs.request.exclude
    open_seats = [s for s in seats if s.node.ready and s.name not in excluded]
    if not open_seats:
        lost = ", ".join(f"{s.name} ({s.node.reason or 'excluded'})" for s in seats[:4])
        return [Shortfall(Kind.NODES, CLUSTER, "a node that is ready", lost or "no node")]
    labelled = [s for s in open_seats if labels_match(bundle.labels, s.node.labels)]
    if not labelled:
        return [Shortfall(Kind.LABELS, where, _pairs(bundle.labels), f"none of {len(open_seats)} nodes")]
    products = tuple(p for d in bundle.devices for p in d.products)
    if products:
        known = sorted({p for s in inventory.seats.values() for p in s.node.products})
        if not set(products) & set(known):
            return [Shortfall(Kind.PRODUCT, where, " or ".join(products), ", ".join(known) or "no product known")]
    if any(_holds_one(needs, seat, bundle) for seat in labelled):
        return []
    found = []
    if bundle.count:
        best = max(labelled, key=lambda s: (of_products(s, s.free, products).bit_count(), -len(s.grants)))
        free = of_products(best, best.free, products).bit_count()
        wanted = f"{bundle.count} GPUs in one bundle"
        if free < bundle.count:
            largest = max(len(s.grants) for s in labelled)
            place = f"{best.name} (the node with most free)"
            found.append(Shortfall(Kind.NODE_SIZE, place, wanted, f"{free} free; the largest node has {largest}"))
        elif needs.connect is Connect.REQUIRED:
            found.append(_unlinked(labelled, bundle, products))
    for resource, amount in bundle.resources.items():
        best = max(labelled, key=lambda s: s.spare(resource))
        if best.spare(resource) + EPSILON < amount:
            found.append(
                Shortfall(
                    Kind.RESOURCES,
                    f"{best.name} (the node with most)",
                    f"{amount:g} {resource} in one bundle",
                    f"{max(best.spare(resource), 0):g} {resource}",
                )
            )
    together = f"{bundle.count} GPUs with {_amounts(bundle)} on one node"
    return found or [Shortfall(Kind.RESOURCES, where, together, "each on some node, not all on one")]


def _holds_one(needs: Needs, seat: Seat, bundle: Bundle) -> bool:
    kind = needs.kind(seat, seat.free)
    return kind is not None and needs.fits(kind, tuple(int(b is bundle) for b in needs.classes))


def _unlinked(seats: list[Seat], bundle: Bundle, products: tuple[str, ...]) -> Shortfall:
    best, most = seats[0], 0
    for seat in seats:
        mask = of_products(seat, seat.free, products)
        size = bundle.count - 1
        while size > most and not seat.shape.how_many(mask, size, Connect.REQUIRED):
            size -= 1
        if size > most:
            best, most = seat, size
    wanted = f"{bundle.count} GPUs, every two linked by NVLink"
    return Shortfall(Kind.CONNECTED, f"{best.name} (the best-linked node)", wanted, f"{most} linked and free")


def _totals(inventory: Inventory, request: GangRequest) -> list[Shortfall]:
    found = []
    ready = [s for s in inventory.seats.values() if s.name not in request.exclude]
    free = sum(s.free.bit_count() for s in ready)
    if free < request.device_count:
        total = sum(len(s.grants) for s in inventory.seats.values())
        available = f"{free} free of {total}{_elsewhere(inventory)}"
        found.append(Shortfall(Kind.DEVICES, CLUSTER, f"{request.device_count} GPUs", available))
    if request.strategy is Strategy.STRICT_SPREAD and len(ready) < len(request.bundles):
        found.append(Shortfall(Kind.NODES, CLUSTER, f"{len(request.bundles)} nodes", f"{len(ready)} nodes"))
    for resource in sorted({r for b in request.bundles for r in b.resources}):
        wanted = sum(b.resources.get(resource, 0.0) for b in request.bundles)
        spare = sum(max(s.spare(resource), 0.0) for s in ready if s.node.ready)
        if spare + EPSILON < wanted:
            found.append(Shortfall(Kind.RESOURCES, CLUSTER, f"{wanted:g} {resource}", f"{spare:g} {resource}"))
    return found


def _elsewhere(inventory: Inventory) -> str:
    """Where the devices that are not free are."""
    seats = inventory.seats.values()
    parts = []
    for count, text in (
        (sum(s.held.bit_count() for s in seats), "held by gangs"),
        (sum((s.busy & ~s.held).bit_count() for s in seats), "used by other work"),
        (sum(len(s.grants) - s.healthy.bit_count() for s in seats), "unhealthy"),
        (sum(len(s.grants) for s in seats if not s.node.ready), "on nodes that are not ready"),
    ):
        if count:
            parts.append(f"{count} {text}")
    return f" ({', '.join(parts)})" if parts else ""


def _cliques(inventory: Inventory, needs: Needs) -> list[Shortfall]:
    request, locality = needs.request, needs.request.locality
    cliques = [d for c, d in inventory.domains.items() if c != LOOSE]
    if not cliques:
        unknown = sum(len(s.grants) for s in inventory.seats.values())
        return [
            Shortfall(
                Kind.CLIQUE_UNKNOWN,
                CLUSTER,
                str(locality),
                f"no NVLink clique is known; {unknown} GPUs are in none",
            )
        ]
    if locality.exclusive:
        empty = [d for d in cliques if d.empty]
        if len(empty) < len(cliques):
            cliques = empty
            if not empty:
                return [Shortfall(Kind.EXCLUSIVE, CLUSTER, "a clique to itself", "every clique is in use")]
    scope = Scope(locality.cliques, locality.segment or 1, locality.exclusive, request.strategy is Strategy.STRICT_PACK)
    if not needs.equal:
        best = max(cliques, key=lambda d: (d.free, d.key))
        return [
            Shortfall(
                Kind.PACKING,
                _name(best) + " (the clique with most free)",
                f"{locality}, bundles of {_sizes(request)} GPUs",
                f"{best.free} free: {_pattern(best)}",
            )
        ]
    rooms = Rooms(inventory, needs, scope)
    by_room = sorted(((rooms.room(d), d) for d in cliques), key=lambda r: (-r[0], r[1].key))
    size = f"bundles of {needs.classes[0].count} GPUs"
    total = len(request.bundles)
    best_room, best = by_room[0]
    if locality.segment is not None and locality.segment < total:
        whole = sum(room // locality.segment for room, _ in by_room[: locality.cliques])
        wanted = f"{total // locality.segment} segments of {locality.segment} {size}"
        if whole < total // locality.segment:
            place = CLUSTER if locality.cliques is None else f"the {locality.cliques} roomiest cliques"
            available = f"{whole} whole segments; the roomiest clique, {_name(best)}, holds {best_room} such bundles"
            return [Shortfall(Kind.SEGMENT, place, wanted, available)]
    elif locality.cliques == 1 or locality.segment == total:
        if best_room < total:
            place = f"{_name(best)} (the roomiest of {len(by_room)})"
            return [Shortfall(Kind.CLIQUE, place, f"{total} {size}", f"room for {best_room}: {_pattern(best)}")]
    elif locality.cliques is not None:
        most = sum(room for room, _ in by_room[: locality.cliques])
        if most < total:
            place = f"the {locality.cliques} roomiest cliques"
            return [Shortfall(Kind.CLIQUES, place, f"{total} {size}", f"room for {most}")]
    return []


def _packing(inventory: Inventory, request: GangRequest) -> Shortfall:
    seats = sorted(inventory.seats.values(), key=lambda s: (-s.free.bit_count(), s.key))
    free = ", ".join(f"{s.name}: {s.free.bit_count()}" for s in seats[:8])
    return Shortfall(
        Kind.PACKING,
        CLUSTER,
        f"bundles of {_sizes(request)} GPUs, {request.strategy.value}",
        f"free {free}{', ...' if len(seats) > 8 else ''}",
    )


def _name(domain: Domain) -> str:
    return f"clique {domain.id}"


def _pattern(domain: Domain) -> str:
    """How the free devices of a clique lie, e.g. "4 on 3 nodes, 2 on 1 node"."""
    parts = [
        f"{free} on {len(shelf)} node{'s' * (len(shelf) > 1)}"
        for free, shelf in sorted(domain.stock.items(), reverse=True)
        if free
    ]
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
