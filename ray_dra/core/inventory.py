"""What is free: the incremental index that the planner reads.

A `Seat` is a node as the planner sees it, a `Domain` a clique. Every change (a hold, a release, a
node that joins, a device that turns unhealthy) touches only the seats it names and their domains;
nothing is rebuilt and no request scans all devices. Single-threaded; its owner is the coordinator.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ray_dra.core.allocation import Allocation, Grant
from ray_dra.core.devices import Shape, bits, shape_of
from ray_dra.core.topology import DeviceId, DomainId, Health, Node, Topology, natural, node_order

LOOSE = ""  # the domain of devices that are in no clique; never offered where a clique is asked for


class Seat:
    """A node: which of its devices are free (bit masks by position), and what else it offers."""

    __slots__ = (
        "busy",
        "domains",
        "free",
        "grants",
        "healthy",
        "held",
        "key",
        "node",
        "shape",
        "tuples",
        "used",
        "used_by_others",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.key = node_order(node)
        self.shape: Shape = shape_of(node)
        self.grants = tuple(Grant(node.name, i, d.id, d.uuid, d.index, d.clique) for i, d in enumerate(node.devices))
        self.domains: dict[DomainId, int] = {}  # clique -> mask of its devices here
        for i, device in enumerate(node.devices):
            clique = device.clique or LOOSE
            self.domains[clique] = self.domains.get(clique, 0) | 1 << i
        self.healthy = sum(1 << i for i, d in enumerate(node.devices) if d.health is Health.OK)
        self.held = 0  # by gangs
        self.busy = 0  # by others, seen from outside
        self.used: dict[str, float] = {}  # by gangs
        self.used_by_others: Mapping[str, float] = {}
        self.free = 0
        self.tuples: dict[int, tuple[Grant, ...]] = {}

    @property
    def name(self) -> str:
        return self.node.name

    def granted(self, mask: int) -> tuple[Grant, ...]:
        """The grants for `mask`, one tuple for each mask ever asked for."""
        found = self.tuples.get(mask)
        if found is None:
            found = self.tuples[mask] = tuple(self.grants[i] for i in bits(mask))
        return found

    def spare(self, resource: str) -> float:
        """How much of a resource is left."""
        total = self.node.resources.get(resource, 0.0)
        return total - self.used.get(resource, 0.0) - self.used_by_others.get(resource, 0.0)


class Domain:
    """A clique: its seats in topology order, and by how many of its devices are free on each."""

    __slots__ = ("capacity", "free", "gangs", "id", "key", "owner", "seats", "size", "stock")

    def __init__(self, clique: DomainId, key: tuple[object, ...]) -> None:
        self.id = clique
        self.key = key
        self.seats: dict[str, Seat] = {}
        self.size = 0  # devices, whatever their state
        self.free = 0
        self.stock: dict[int, list[tuple[tuple[object, ...], Seat]]] = {}  # free devices -> seats, in order
        self.capacity: dict[int, int] = {}  # devices a bundle -> bundles that fit
        self.gangs: dict[str, int] = {}  # gang -> devices it has here
        self.owner: str | None = None  # the gang that has the clique exclusively

    @property
    def empty(self) -> bool:
        """Whether nobody has a device here, so that the clique can be had exclusively."""
        return (
            not self.gangs and self.owner is None and not any(s.busy & s.domains[self.id] for s in self.seats.values())
        )


class Buckets:
    """Domains by a number, each bucket in key order, so that ties break by name."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[tuple[tuple[object, ...], DomainId]]] = {}

    def move(self, domain: Domain, old: int | None, new: int | None) -> None:
        if old == new:
            return
        entry = (domain.key, domain.id)
        if old is not None:
            bucket = self._buckets[old]
            del bucket[bisect_left(bucket, entry)]
            if not bucket:
                del self._buckets[old]
        if new is not None:
            insort(self._buckets.setdefault(new, []), entry)

    def upwards(self, least: int) -> Iterator[tuple[int, DomainId]]:
        """(number, domain) from `least` up."""
        for number in sorted(n for n in self._buckets if n >= least):
            for _, domain in self._buckets[number]:
                yield number, domain

    def downwards(self) -> Iterator[tuple[int, DomainId]]:
        """(number, domain) from the largest number down."""
        for number in sorted(self._buckets, reverse=True):
            for _, domain in self._buckets[number]:
                yield number, domain


@dataclass(slots=True)
class _Hold:
    allocation: Allocation
    exclusive: tuple[DomainId, ...]


class Inventory:
    """All seats and domains, and who holds what.

    Invariant: a device is in the hold of at most one gang; `hold` raises ValueError rather than
    break it.
    """

    def __init__(self, topology: Topology | Iterable[Node] = ()) -> None:
        self.seats: dict[str, Seat] = {}
        self.domains: dict[DomainId, Domain] = {}
        self._by_capacity: dict[int, Buckets] = {}
        self._holds: dict[str, _Hold] = {}
        nodes = topology.nodes.values() if isinstance(topology, Topology) else topology
        for node in nodes:
            self.put_node(node)

    # -- who holds what

    @property
    def gangs(self) -> tuple[str, ...]:
        return tuple(self._holds)

    def allocation(self, gang: str) -> Allocation | None:
        hold = self._holds.get(gang)
        return hold.allocation if hold else None

    def owner_of(self, device: DeviceId) -> str | None:
        """The gang that has the device."""
        for gang, hold in self._holds.items():
            if any(g.device == device for g in hold.allocation.grants):
                return gang
        return None

    def hold(self, allocation: Allocation) -> None:
        """Mark the allocation's devices and resources as held.

        Raises:
            ValueError: the gang holds something already, or a device is held by another gang.
        """
        gang = allocation.gang
        if gang in self._holds:
            raise ValueError(f"gang {gang} holds devices already")
        masks = self._masks(allocation)
        for name, mask in masks.items():
            seat = self.seats.get(name)
            if seat is not None and seat.held & mask:
                raise ValueError(f"devices on {name} are held by another gang")
        exclusive = tuple(scope for (scope, what), _ in allocation.counters if what == "exclusive")
        for clique in exclusive:
            # Work outside our gangs may have come in meanwhile; that does not undo the gang's claim.
            if clique in self.domains and (self.domains[clique].gangs or self.domains[clique].owner is not None):
                raise ValueError(f"clique {clique} has gangs in it")
        self._holds[gang] = _Hold(allocation, exclusive)
        self._apply(gang, masks, allocation, +1)
        for clique in exclusive:
            if clique in self.domains:
                self._own(self.domains[clique], gang)

    def release(self, gang: str) -> None:
        """Give back what the gang holds; harmless where it holds nothing."""
        hold = self._holds.pop(gang, None)
        if hold is None:
            return
        self._apply(gang, self._masks(hold.allocation), hold.allocation, -1)
        for clique in hold.exclusive:
            if clique in self.domains and self.domains[clique].owner == gang:
                self._own(self.domains[clique], None)

    def _masks(self, allocation: Allocation) -> dict[str, int]:
        """Node -> held positions; devices are found again by id, since a node may have been renumbered."""
        masks: dict[str, int] = {}
        for placed in allocation.bundles:
            seat = self.seats.get(placed.node)
            mask = masks.get(placed.node, 0)
            for grant in placed.grants:
                position = grant.position
                if seat is not None and (position >= len(seat.grants) or seat.grants[position].device != grant.device):
                    found = [g.position for g in seat.grants if g.device == grant.device]
                    if not found:
                        continue  # the device is gone
                    position = found[0]
                mask |= 1 << position
            masks[placed.node] = mask
        return masks

    def _apply(self, gang: str, masks: dict[str, int], allocation: Allocation, sign: int) -> None:
        for placed in allocation.bundles:
            seat = self.seats.get(placed.node)
            if seat is not None:
                for resource, amount in placed.resources.items():
                    seat.used[resource] = seat.used.get(resource, 0.0) + sign * amount
        touched = []
        for name, mask in masks.items():
            seat = self.seats.get(name)
            if seat is None:
                continue
            seat.held = seat.held | mask if sign > 0 else seat.held & ~mask
            for clique, members in seat.domains.items():
                if mask & members:
                    gangs = self.domains[clique].gangs
                    count = gangs.get(gang, 0) + sign * (mask & members).bit_count()
                    if count:
                        gangs[gang] = count
                    else:
                        gangs.pop(gang, None)
            touched.append(seat)
        self._refresh(touched)

    def _own(self, domain: Domain, gang: str | None) -> None:
        domain.owner = gang
        self._refresh(domain.seats.values())

    # -- nodes that come, change and go

    def put_node(self, node: Node) -> None:
        """A node joins, or is what it was with another health, label or link."""
        before = self.seats.get(node.name)
        if before is not None:
            if before.node == node:
                return
            self._drop(before)
        seat = Seat(node)
        if before is not None:
            seat.busy = before.busy
            seat.used_by_others = before.used_by_others
        self.seats[node.name] = seat
        for clique, members in seat.domains.items():
            domain = self.domains.get(clique)
            if domain is None:
                key = (natural(clique or "~"), clique)
                domain = self.domains[clique] = Domain(clique, key)
                for size, buckets in self._by_capacity.items():
                    domain.capacity[size] = 0
                    buckets.move(domain, None, 0)
            domain.seats[node.name] = seat
            domain.size += members.bit_count()
            insort(domain.stock.setdefault(0, []), (seat.key, seat), key=_first)
        for gang, hold in self._holds.items():
            self._reapply(gang, hold, seat)
        self._refresh([seat])

    def drop_node(self, name: str) -> None:
        """A node has left; the gangs on it keep their hold on paper until they are released."""
        seat = self.seats.get(name)
        if seat is not None:
            self._drop(seat)

    def set_others(self, name: str, busy: int, resources: Mapping[str, float]) -> None:
        """What programs outside our gangs use on a node: device positions, and other resources."""
        seat = self.seats.get(name)
        if seat is None:
            return
        seat.used_by_others = resources
        if seat.busy != busy:
            seat.busy = busy
            self._refresh([seat])

    def _reapply(self, gang: str, hold: _Hold, seat: Seat) -> None:
        on_node = [p for p in hold.allocation.bundles if p.node == seat.name]
        if not on_node:
            return
        mask = self._masks(Allocation(gang, tuple(on_node)))[seat.name]
        seat.held |= mask
        for placed in on_node:
            for resource, amount in placed.resources.items():
                seat.used[resource] = seat.used.get(resource, 0.0) + amount
        for clique, members in seat.domains.items():
            if mask & members:
                gangs = self.domains[clique].gangs
                gangs[gang] = gangs.get(gang, 0) + (mask & members).bit_count()
            if clique in hold.exclusive:
                self.domains[clique].owner = gang

    def _drop(self, seat: Seat) -> None:
        for clique, members in seat.domains.items():
            domain = self.domains[clique]
            self._restock(domain, seat, (seat.free & members).bit_count(), None)
            for gang in list(domain.gangs):
                allocation = self._holds[gang].allocation
                mask = self._masks(Allocation(gang, tuple(p for p in allocation.bundles if p.node == seat.name)))
                left = domain.gangs[gang] - (mask.get(seat.name, 0) & members).bit_count()
                if left > 0:
                    domain.gangs[gang] = left
                else:
                    del domain.gangs[gang]
            del domain.seats[seat.name]
            domain.size -= members.bit_count()
            if not domain.seats:
                for size, buckets in self._by_capacity.items():
                    buckets.move(domain, domain.capacity[size], None)
                del self.domains[clique]
        del self.seats[seat.name]

    # -- the index

    def capacity_index(self, size: int) -> Buckets:
        """Domains by how many bundles of `size` devices fit by count; kept up from the first call on."""
        buckets = self._by_capacity.get(size)
        if buckets is None:
            buckets = self._by_capacity[size] = Buckets()
            for domain in self.domains.values():
                capacity = sum(len(seats) * (free // size) for free, seats in domain.stock.items())
                domain.capacity[size] = capacity
                buckets.move(domain, None, capacity)
        return buckets

    def _refresh(self, seats: Iterable[Seat]) -> None:
        """Bring `free` and the index up to date after a change of these seats."""
        for seat in seats:
            free = seat.healthy & ~seat.held & ~seat.busy if seat.node.ready else 0
            for clique, members in seat.domains.items():
                if self.domains[clique].owner is not None:
                    free &= ~members
            if free == seat.free:
                continue
            for clique, members in seat.domains.items():
                old, new = (seat.free & members).bit_count(), (free & members).bit_count()
                if old != new:
                    self._restock(self.domains[clique], seat, old, new)
            seat.free = free

    def _restock(self, domain: Domain, seat: Seat, old: int, new: int | None) -> None:
        shelf = domain.stock[old]
        del shelf[bisect_left(shelf, seat.key, key=_first)]
        if not shelf:
            del domain.stock[old]
        if new is not None:
            insort(domain.stock.setdefault(new, []), (seat.key, seat), key=_first)
        now = new or 0
        domain.free += now - old
        for size, buckets in self._by_capacity.items():
            change = now // size - old // size
            if change:
                capacity = domain.capacity[size]
                domain.capacity[size] = capacity + change
                buckets.move(domain, capacity, capacity + change)

    def emptied(self) -> Inventory:
        """The same nodes with nothing held and nothing used: what could ever be placed here."""
        return Inventory(seat.node for seat in self.seats.values())

    @property
    def free_devices(self) -> int:
        return sum(domain.free for domain in self.domains.values())


def _first(entry: tuple[tuple[object, ...], Seat]) -> tuple[object, ...]:
    return entry[0]
