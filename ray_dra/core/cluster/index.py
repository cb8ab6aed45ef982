"""The index over seats and domains: built at once, then kept up change by change.

Neighbours: `inventory.py` adds who holds what; `clique_order.py` has the orders that the planner looks into.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import NamedTuple

from ray_dra.core.cluster.clique_order import CliqueOrder
from ray_dra.core.cluster.clique_state import MIXED_PRODUCT, REGULAR, SHARING, CliqueState
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.imex import NO_LIMITS, Limits
from ray_dra.core.model.node import Node
from ray_dra.core.model.topology import Topology

CLIQUE, LOOSE_NODE, SPARES = "clique", "loose", "spare"
"""Kinds of catalog: whose devices they are, and so who may have them."""

MOST_LISTED = 100
"""Lists of catalogs that are remembered; what products are asked for is the users' text."""


class CliqueOrders(NamedTuple):
    """The catalogs that a request looks into.

    `whole`: where a number of devices says what fits; regular: all devices of a node are linked; others: they are not.
    """

    catalogs: list[CliqueOrder]
    whole: list[CliqueOrder]
    regular: list[CliqueOrder]
    others: list[CliqueOrder]


class Index:
    """All seats and domains, and what of them is free.

    Attributes:
        seats: by node name; domains: by id.
        catalogs: by (kind, product, grade, most devices of a node, whether it is of one node).
        split: seats whose devices are in more than one domain, by name.
        by_free: how many nodes have so many free devices.
        shared: (thousandths left, seat key, position, node) of every device that is shared, sorted.
        devices, free_devices, held_devices, busy_devices: counts over the cluster.
        changes: how many there have been.
    """

    def __init__(self, topology: Topology | Iterable[Node] = (), limits: Limits = NO_LIMITS) -> None:
        self.limits = limits
        self.node_states: dict[str, NodeState] = {}
        self.domains: dict[DomainId, CliqueState] = {}
        self.catalogs: dict[tuple[str, str, int, int, bool], CliqueOrder] = {}
        self.split: dict[str, NodeState] = {}
        self.by_free = [0]
        self.shared: list[tuple[int, str, int, str]] = []
        self.devices = 0
        self.free_devices = 0
        self.held_devices = 0
        self.busy_devices = 0
        self.changes = 0
        self._largest: dict[str, NodeState | None] = {}
        self._listed: dict[tuple[tuple[str, ...], tuple[str, ...]], CliqueOrders] = {}
        self._build(topology.nodes.values() if isinstance(topology, Topology) else topology)

    def _build(self, nodes: Iterable[Node]) -> None:
        """All at once: in topology order every seat comes last in its domains, and each is listed once."""
        named = {node.name: node for node in nodes}
        for seat in sorted((NodeState(node) for node in named.values()), key=attrgetter("key")):
            self._seat_count(seat, +1)
            self.node_states[seat.name] = seat
            parts = []
            for domain_id, members in seat.domains.items():
                domain = self.domains.get(domain_id)
                if domain is None:
                    domain = self.domains[domain_id] = CliqueState(domain_id)
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

    @property
    def cliques(self) -> int:
        """How many NVLink cliques are known."""
        return sum(len(c.domains) for c in self.catalogs.values() if c.kind != LOOSE_NODE)

    def listed(self, kinds: tuple[str, ...], products: tuple[str, ...]) -> CliqueOrders:
        """The catalogs of these kinds that have domains, by the products asked for; remembered until a node comes or
        goes."""
        found = self._listed.get((kinds, products))
        if found is None:
            if len(self._listed) > MOST_LISTED:
                self._listed.clear()
            catalogs = [
                c
                for c in self.catalogs.values()
                if c.kind in kinds
                and c.domains
                and (not products or c.product in products or c.product == MIXED_PRODUCT)
            ]
            found = self._listed[kinds, products] = CliqueOrders(
                catalogs,
                [c for c in catalogs if c.grade != SHARING],
                [c for c in catalogs if c.grade == REGULAR],
                [c for c in catalogs if c.grade != REGULAR],
            )
        return found

    def largest(self, resource: str) -> NodeState | None:
        """The node that has most of a resource when empty; remembered until a node comes or goes."""
        if resource not in self._largest:
            node_states = self.node_states.values()
            self._largest[resource] = max(node_states, key=lambda s: s.node.resources.get(resource, 0.0), default=None)
        return self._largest[resource]

    def set_others(self, name: str, busy: int, resources: Mapping[str, float]) -> None:
        """What programs outside our gangs use on a node: device positions, and other resources."""
        seat = self.node_states.get(name)
        if seat is None:
            return
        if seat.used_by_others != resources:
            seat.used_by_others = resources
            seat.version += 1
            self.changes += 1
        if seat.busy != busy:
            self.busy_devices += busy.bit_count() - seat.busy.bit_count()
            seat.busy = busy
            seat.reopen()
            self.refresh([seat], {})

    def _insert(self, seat: NodeState, owner_of: Mapping[DomainId, str]) -> None:
        """A node joins its cliques; what is held of it is known. `owner_of`: exclusive owners of cliques."""
        self._seat_count(seat, +1)
        self.by_free[0] += 1
        for domain_id, members in seat.domains.items():
            domain = self.domains.get(domain_id)
            if domain is None:
                domain = self.domains[domain_id] = CliqueState(domain_id)
                domain.owner = owner_of.get(domain_id)
            elif domain.catalog is not None:
                domain.catalog.remove(domain)
            if not domain.node_states or domain.node_states[-1].key < seat.key:
                bit = domain.append(seat)
                seat.parts = (*seat.parts, (domain, members, bit))
                if seat.imex is not None:
                    domain.imex |= bit
            else:
                node_states = list(domain.node_states)
                insort(node_states, seat, key=attrgetter("key"))
                domain.rebuild(node_states)
            self._catalog_of(domain).add(domain)
        seat.reopen()
        self.refresh([seat], {})

    def _remove(self, seat: NodeState) -> None:
        self.changes += 1
        self._seat_count(seat, -1)
        self._unlist_shares(seat)
        self.by_free[seat.free.bit_count()] -= 1
        for domain, members, _ in seat.parts:
            assert domain.catalog is not None
            domain.catalog.remove(domain)
            self.free_devices -= (seat.free & members).bit_count()
            node_states = [s for s in domain.node_states if s is not seat]
            if node_states:
                domain.rebuild(node_states)
                self._catalog_of(domain).add(domain)
            else:
                del self.domains[domain.id]
        del self.node_states[seat.name]

    def _seat_count(self, seat: NodeState, sign: int) -> None:
        self.devices += sign * seat.size
        self._largest.clear()
        self._listed.clear()
        while len(self.by_free) <= seat.size:
            self.by_free.append(0)
        self.busy_devices += sign * seat.busy.bit_count()
        if len(seat.domains) > 1:
            if sign > 0:
                self.split[seat.name] = seat
            else:
                self.split.pop(seat.name, None)

    def _catalog_of(self, domain: CliqueState) -> CliqueOrder:
        kind = SPARES if domain.spare else LOOSE_NODE if domain.loose else CLIQUE
        single = len(domain.node_states) == 1
        key = (kind, domain.product, domain.grade, len(domain.stock), single)
        found = self.catalogs.get(key)
        if found is None:
            found = self.catalogs[key] = CliqueOrder(kind, domain.product, domain.grade, self.limits, single=single)
        return found

    def refresh(self, node_states: Iterable[NodeState], moved: dict[CliqueState, None]) -> None:
        """Bring `free` and the index up to date after a change of these seats; `moved`: domains changed otherwise."""
        gained = 0
        self.changes += 1
        by_free = self.by_free
        for seat in node_states:
            seat.version += 1
            before = seat.free
            if seat.odd:
                self._list_shares(seat)
                free = seat.free_now()
            else:
                free = seat.open & ~seat.held
            if free == before:
                if seat.odd:  # what is left of shared devices may have changed
                    for domain, _, _ in seat.parts:
                        moved[domain] = None
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

    def _list_shares(self, seat: NodeState) -> None:
        self._unlist_shares(seat)
        left = seat.shared_left().items()
        seat.listed = tuple((amount, seat.key, position, seat.name) for position, amount in left)
        for entry in seat.listed:
            insort(self.shared, entry)

    def _unlist_shares(self, seat: NodeState) -> None:
        for entry in seat.listed:
            del self.shared[bisect_left(self.shared, entry)]
        seat.listed = ()
