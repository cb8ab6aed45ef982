"""What is free: the incremental index that the planner reads.

A `Seat` (seat.py) is a node as the planner sees it, a `Domain` (domain.py) a clique, a `Catalog` an
order over cliques. Every change (a hold, a release, a node that joins, a device that turns unhealthy)
touches only the seats it names and their domains; nothing is rebuilt and no request scans all devices.
Single-threaded; its owner is the coordinator.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from ray_dra.core.allocation import Allocation
from ray_dra.core.domain import Catalog, Domain
from ray_dra.core.limits import NO_LIMITS, Limits
from ray_dra.core.request import WHOLE
from ray_dra.core.seat import Seat, domains_of
from ray_dra.core.topology import DeviceId, DomainId, Node, Topology, node_order

CLIQUE, LOOSE_NODE, SPARES = "clique", "loose", "spare"
"""Kinds of catalog: whose devices they are, and so who may have them."""


@dataclass(slots=True)
class _Hold:
    """What a gang has: `masks` of whole devices by seat, seats in its IMEX domains, cliques it has exclusively."""

    allocation: Allocation
    masks: dict[Seat, int]
    imex: tuple[Seat, ...]
    exclusive: tuple[DomainId, ...]


class Inventory:
    """All seats and domains, and who holds what.

    Invariant: a device is in the hold of at most one gang, and shares of one add up to at most the
    whole; `hold` raises ValueError rather than break it.

    Attributes:
        seats: by node name; domains: by id.
        catalogs: by (kind, product, grade, most devices of a node).
        split: seats whose devices are in more than one domain, by name.
        by_free: how many nodes have so many free devices.
        devices, free_devices, held_devices, busy_devices: counts over the cluster.
    """

    def __init__(self, topology: Topology | Iterable[Node] = (), limits: Limits = NO_LIMITS) -> None:
        self.limits = limits
        self.seats: dict[str, Seat] = {}
        self.domains: dict[DomainId, Domain] = {}
        self.catalogs: dict[tuple[str, str, int, int], Catalog] = {}
        self.split: dict[str, Seat] = {}
        self.by_free = [0]
        self.devices = 0
        self.free_devices = 0
        self.held_devices = 0
        self.busy_devices = 0
        self.shared: list[tuple[int, str, int, str]] = []  # (thousandths left, seat key, position, node), sorted
        self._holds: dict[str, _Hold] = {}
        self._exclusive: dict[DomainId, str] = {}
        self._away: dict[str, dict[str, None]] = {}  # node that is not there -> gangs that have something on it
        self._emptied: Inventory | None = None
        nodes = topology.nodes.values() if isinstance(topology, Topology) else topology
        self._build(nodes)

    def _build(self, nodes: Iterable[Node]) -> None:
        """All at once: in topology order every seat comes last in its domains, and each is listed once."""
        named = {node.name: node for node in nodes}
        for seat in sorted((Seat(node) for node in named.values()), key=attrgetter("key")):
            self._seat_count(seat, +1)
            self.seats[seat.name] = seat
            parts = []
            for domain_id, members in seat.domains.items():
                domain = self.domains.get(domain_id)
                if domain is None:
                    domain = self.domains[domain_id] = Domain(domain_id)
                parts.append((domain, members, domain.append(seat)))
            seat.parts = tuple(parts)
            seat.reopen()
            seat.free = seat.free_now()
            self.by_free[seat.free.bit_count()] += 1
            for domain, members, bit in seat.parts:
                count = (seat.free & members).bit_count()
                if count:
                    domain.stock[0] ^= bit
                    domain.stock[count] |= bit
                    domain.free += count
                    self.free_devices += count
        for domain in self.domains.values():
            self._catalog_of(domain).add(domain)

    # -- who holds what

    @property
    def gangs(self) -> tuple[str, ...]:
        return tuple(self._holds)

    @property
    def cliques(self) -> int:
        """How many NVLink cliques are known."""
        return sum(len(c.domains) for c in self.catalogs.values() if c.kind != LOOSE_NODE)

    def allocation(self, gang: str) -> Allocation | None:
        hold = self._holds.get(gang)
        return hold.allocation if hold else None

    def owner_of(self, device: DeviceId) -> str | None:
        """The gang that has the device."""
        for seat in self.seats.values():
            position = next((i for i, d in enumerate(seat.node.devices) if d.id == device), None)
            if position is not None:
                return next((gang for gang, mask in seat.tenants.items() if mask >> position & 1), None)
        return None

    def hold(self, allocation: Allocation) -> None:
        """Mark the allocation's devices and resources as held.

        Raises:
            ValueError: the gang holds something already, a device is held by another gang or has not so much left,
                or a clique or IMEX domain is another's. Nothing is held then.
        """
        gang = allocation.gang
        if gang in self._holds:
            raise ValueError(f"gang {gang} holds devices already")
        seats = self.seats
        masks: dict[Seat, int] = {}
        away: list[str] = []
        shares = False
        resources = False
        for placed in allocation.bundles:
            seat = seats.get(placed.node)
            if seat is None:
                away.append(placed.node)
                continue
            grants = placed.grants
            if placed.resources:
                resources = True
            mask = seat.known_masks.get(id(grants))
            if mask is None:  # not made by `plan` on this inventory: read back from a record
                if grants and grants[0].amount is not None:
                    shares = True
                    masks.setdefault(seat, 0)
                    continue
                mask = seat.mask_of(grants)
            taken = seat.held
            if seat in masks:
                taken |= masks[seat]
                masks[seat] |= mask
            else:
                masks[seat] = mask
            if taken & mask:
                raise ValueError(f"devices on {seat.name} are held by another gang")
        used, exclusive = self._check_counters(allocation, masks) if allocation.counters else ((), ())
        if shares:
            self._check_shares(allocation, masks)
        self._holds[gang] = _Hold(allocation, masks, used, exclusive)
        count = 0
        for seat, mask in masks.items():
            seat.held |= mask
            seat.tenants[gang] = mask
            count += mask.bit_count()
        self.held_devices += count
        if resources:
            self._use(allocation, +1.0)
        if shares:
            self._share(allocation, +1)
        for node in away:
            self._away.setdefault(node, {})[gang] = None
        touched: Iterable[Seat] = masks
        moved: dict[Domain, None] = {}
        for seat in used:
            self._set_imex(seat, gang, moved)
        for clique in exclusive:
            self._exclusive[clique] = gang
            touched = self._own(self.domains[clique], gang, touched)
        self._refresh(touched, moved)

    def release(self, gang: str) -> None:
        """Give back what the gang holds; harmless where it holds nothing."""
        hold = self._holds.pop(gang, None)
        if hold is None:
            return
        allocation = hold.allocation
        for seat, mask in hold.masks.items():
            seat.held &= ~mask
            seat.tenants.pop(gang, None)
            self.held_devices -= mask.bit_count()
        touched: Iterable[Seat] = hold.masks
        moved: dict[Domain, None] = {}
        if any(placed.resources for placed in allocation.bundles):
            self._use(allocation, -1.0)
        if any(placed.grants and placed.grants[0].amount is not None for placed in allocation.bundles):
            self._share(allocation, -1)
        if self._away:
            for node in allocation.nodes:
                self._away.get(node, {}).pop(gang, None)
        for seat in hold.imex:
            self._set_imex(seat, None, moved)
        for clique in hold.exclusive:
            self._exclusive.pop(clique, None)
            if clique in self.domains and self.domains[clique].owner == gang:
                touched = self._own(self.domains[clique], None, touched)
        self._refresh(touched, moved)

    def _check_counters(
        self, allocation: Allocation, masks: Mapping[Seat, int]
    ) -> tuple[tuple[Seat, ...], tuple[DomainId, ...]]:
        """Seats that join the gang's IMEX domains, and cliques it has exclusively; ValueError for what is another's."""
        if len(allocation.counters) == len(masks):  # as `plan` makes them: one a node, in the same order
            same = [
                seat for seat, counter in zip(masks, allocation.counters, strict=True) if counter is seat.imex_counter
            ]
            if len(same) == len(masks) and all(seat.imex is None for seat in same):
                return tuple(same), ()
        by_counter = {seat.imex_counter[0]: seat for seat in masks}
        used = []
        exclusive = []
        for counter, _ in allocation.counters:
            scope, what = counter
            if what == "imex":
                seat = by_counter.get(counter)
                if seat is not None:
                    if seat.imex is not None:
                        raise ValueError(f"node {seat.name} is in the IMEX domain of another gang")
                    used.append(seat)
            elif what == "exclusive" and scope in self.domains:
                domain = self.domains[scope]
                # Work outside our gangs may have come in meanwhile; that does not undo the gang's claim.
                if domain.owner is not None or any(s.held & s.domains[scope] for s in domain.seats):
                    raise ValueError(f"clique {scope} has gangs in it")
                exclusive.append(scope)
        return tuple(used), tuple(exclusive)

    def _set_imex(self, seat: Seat, gang: str | None, moved: dict[Domain, None]) -> None:
        seat.imex = gang
        for domain, _, bit in seat.parts:
            domain.imex ^= bit
            moved[domain] = None

    def _own(self, domain: Domain, gang: str | None, touched: Iterable[Seat]) -> Iterable[Seat]:
        domain.owner = gang
        for seat in domain.seats:
            seat.reopen()
        return {**dict.fromkeys(touched, 0), **dict.fromkeys(domain.seats, 0)}

    def _use(self, allocation: Allocation, sign: float) -> None:
        seats = self.seats
        for placed in allocation.bundles:
            if placed.resources:
                seat = seats.get(placed.node)
                if seat is not None:
                    used = seat.used
                    seat.version += 1
                    for resource, amount in placed.resources.items():
                        used[resource] = used.get(resource, 0.0) + sign * amount

    def _check_shares(self, allocation: Allocation, masks: Mapping[Seat, int]) -> None:
        wanted: dict[tuple[Seat, int], int] = {}
        for seat, position, amount in self._share_grants(allocation):
            at = (seat, position)
            wanted[at] = wanted.get(at, 0) + amount
            if (seat.held | masks.get(seat, 0)) >> position & 1:
                raise ValueError(f"a device on {seat.name} is held by another gang")
            if seat.shares.get(position, 0) + wanted[at] > WHOLE:
                raise ValueError(f"a device on {seat.name} has not so much left")

    def _share_grants(self, allocation: Allocation) -> list[tuple[Seat, int, int]]:
        """(seat, position, thousandths) of every share."""
        found = []
        for placed in allocation.bundles:
            seat = self.seats.get(placed.node)
            if seat is not None and placed.grants and placed.grants[0].amount is not None:
                for grant in placed.grants:
                    mask = seat.mask_of((grant._replace(amount=None),))
                    if mask:
                        found.append((seat, mask.bit_length() - 1, grant.amount or 0))
        return found

    def _share(self, allocation: Allocation, sign: int) -> None:
        for seat, position, amount in self._share_grants(allocation):
            taken = seat.shares.get(position, 0) + sign * amount
            if taken > 0:
                seat.shares[position] = taken
            else:
                seat.shares.pop(position, None)
            seat.reopen()

    # -- nodes that come, change and go

    def put_node(self, node: Node) -> None:
        """A node joins, or is what it was with another health, label or link."""
        self._emptied = None
        seat = self.seats.get(node.name)
        if seat is None:
            self._join(Seat(node))
            return
        if seat.node is node or seat.node == node:
            return
        if _same_place(seat, node):
            # The devices are where they were: only what is free can have changed.
            seat.node = node
            seat.healthy = sum(1 << i for i, d in enumerate(node.devices) if d.health.value == "ok")
            seat.reopen()
            self._refresh([seat], {})
            return
        others = (seat.busy, seat.used_by_others)
        self._leave(seat)
        seat = Seat(node)
        seat.busy, seat.used_by_others = others
        self._join(seat)

    def drop_node(self, name: str) -> None:
        """A node has left; the gangs on it keep their hold on paper until they are released."""
        seat = self.seats.get(name)
        if seat is not None:
            self._emptied = None
            self._leave(seat)

    def set_others(self, name: str, busy: int, resources: Mapping[str, float]) -> None:
        """What programs outside our gangs use on a node: device positions, and other resources."""
        seat = self.seats.get(name)
        if seat is None:
            return
        seat.used_by_others = resources
        seat.version += 1
        if seat.busy != busy:
            self.busy_devices += busy.bit_count() - seat.busy.bit_count()
            seat.busy = busy
            seat.reopen()
            self._refresh([seat], {})

    def _join(self, seat: Seat) -> None:
        self.seats[seat.name] = seat
        self._seat_count(seat, +1)
        self.by_free[0] += 1
        self._take_back(seat)
        for domain_id, members in seat.domains.items():
            domain = self.domains.get(domain_id)
            if domain is None:
                domain = self.domains[domain_id] = Domain(domain_id)
                domain.owner = self._exclusive.get(domain_id)
            elif domain.catalog is not None:
                domain.catalog.remove(domain)
            if not domain.seats or domain.seats[-1].key < seat.key:
                bit = domain.append(seat)
                seat.parts = (*seat.parts, (domain, members, bit))
                if seat.imex is not None:
                    domain.imex |= bit
            else:
                seats = list(domain.seats)
                insort(seats, seat, key=attrgetter("key"))
                domain.rebuild(seats)
            self._catalog_of(domain).add(domain)
        seat.reopen()
        self._refresh([seat], {})

    def _take_back(self, seat: Seat) -> None:
        """What gangs hold on a node that was away, or whose devices are numbered anew."""
        for gang in self._away.pop(seat.name, ()):
            hold = self._holds[gang]
            on_node = tuple(p for p in hold.allocation.bundles if p.node == seat.name)
            mask = 0
            for placed in on_node:
                for resource, amount in placed.resources.items():
                    seat.used[resource] = seat.used.get(resource, 0.0) + amount
                if placed.grants and placed.grants[0].amount is None:
                    mask |= seat.mask_of(placed.grants)
            self._share(Allocation(gang, on_node), +1)
            seat.held |= mask
            seat.tenants[gang] = mask
            self.held_devices += mask.bit_count()
            hold.masks[seat] = mask
            if any(c == seat.imex_counter for c in hold.allocation.counters):
                seat.imex = gang
                hold.imex = (*hold.imex, seat)

    def _leave(self, seat: Seat) -> None:
        self._seat_count(seat, -1)
        self._unlist_shares(seat)
        self.by_free[seat.free.bit_count()] -= 1
        for gang, mask in seat.tenants.items():
            hold = self._holds[gang]
            del hold.masks[seat]
            hold.imex = tuple(s for s in hold.imex if s is not seat)
            self._away.setdefault(seat.name, {})[gang] = None
            self.held_devices -= mask.bit_count()
        for domain, members, _ in seat.parts:
            assert domain.catalog is not None
            domain.catalog.remove(domain)
            self.free_devices -= (seat.free & members).bit_count()
            seats = [s for s in domain.seats if s is not seat]
            if seats:
                domain.rebuild(seats)
                self._catalog_of(domain).add(domain)
            else:
                del self.domains[domain.id]
        del self.seats[seat.name]

    def _seat_count(self, seat: Seat, sign: int) -> None:
        self.devices += sign * seat.size
        while len(self.by_free) <= seat.size:
            self.by_free.append(0)
        self.busy_devices += sign * seat.busy.bit_count()
        if len(seat.domains) > 1:
            if sign > 0:
                self.split[seat.name] = seat
            else:
                self.split.pop(seat.name, None)

    # -- the index

    def _catalog_of(self, domain: Domain) -> Catalog:
        kind = SPARES if domain.spare else LOOSE_NODE if domain.loose else CLIQUE
        key = (kind, domain.product, domain.grade, len(domain.stock))
        found = self.catalogs.get(key)
        if found is None:
            found = self.catalogs[key] = Catalog(kind, domain.product, domain.grade, self.limits)
        return found

    def _refresh(self, seats: Iterable[Seat], moved: dict[Domain, None]) -> None:
        """Bring `free` and the index up to date after a change of these seats; `moved`: domains changed otherwise."""
        gained = 0
        by_free = self.by_free
        for seat in seats:
            seat.version += 1
            before = seat.free
            if seat.odd:
                self._list_shares(seat)
                free = seat.free_now()
            else:
                free = seat.open & ~seat.held
            if free == before:
                continue
            seat.free = free
            old = before.bit_count()
            new = free.bit_count()
            by_free[old] -= 1
            by_free[new] += 1
            gained += new - old
            for domain, members, bit in seat.parts:
                if seat.odd:
                    old = (before & members).bit_count()
                    new = (free & members).bit_count()
                if old != new:
                    stock = domain.stock
                    stock[old] ^= bit
                    stock[new] ^= bit
                    domain.free += new - old
                    moved[domain] = None
        self.free_devices += gained
        for domain in moved:
            domain.catalog.refresh(domain)  # type: ignore[union-attr]  # every domain of a seat is listed

    def _list_shares(self, seat: Seat) -> None:
        self._unlist_shares(seat)
        closed = 0
        for domain, members, _ in seat.parts:
            if domain.owner is not None:
                closed |= members
        left = {} if closed else seat.shared_left()
        seat.listed = tuple((amount, seat.key, position, seat.name) for position, amount in left.items())
        for entry in seat.listed:
            insort(self.shared, entry)

    def _unlist_shares(self, seat: Seat) -> None:
        for entry in seat.listed:
            del self.shared[bisect_left(self.shared, entry)]
        seat.listed = ()

    def emptied(self) -> Inventory:
        """The same nodes with nothing held and nothing used: what could ever be placed here."""
        if self._emptied is None:
            self._emptied = Inventory((seat.node for seat in self.seats.values()), self.limits)
        return self._emptied


def _same_place(seat: Seat, node: Node) -> bool:
    """Whether the node's devices, domains and links are what they were."""
    before = seat.node
    return (
        len(before.devices) == len(node.devices)
        and before.links == node.links
        and before.ancestors == node.ancestors
        and before.counters == node.counters
        and all(
            (a.id, a.uuid, a.index, a.product, a.numa) == (b.id, b.uuid, b.index, b.product, b.numa)
            for a, b in zip(before.devices, node.devices, strict=True)
        )
        and seat.domains == domains_of(node)
        and seat.key == node_order(node)
    )
