"""A node as the planner sees it: which of its devices are free, and what else it has left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray_dra.core.cluster.device_choice import DeviceGraph, Masks, bits, graph_of
from ray_dra.core.model.allocation import Grant
from ray_dra.core.model.device import Counter, DomainId, Health
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.node import Node, node_order
from ray_dra.core.model.request import WHOLE

if TYPE_CHECKING:
    from ray_dra.core.cluster.clique_state import CliqueState

SPARE = "#spare"
"""Ends the id of the CliqueState that a clique's spare nodes form."""

LOOSE = "#loose/"
"""Begins the id of the CliqueState of a node's devices that are in no clique."""

EPSILON = 1e-6  # Ray counts resources in 1/10,000


class NodeState:
    """Masks are integers with one bit a device, by position in `Node.devices`.

    Attributes:
        cliques: clique -> mask of its devices here. Nearly always one.
        parts: the same for the index: (clique, mask, the node's bit in the clique's masks).
        grants: every device as a grant, by position.
        free: whole devices that can be held now; held: by gangs; busy: by others, seen from outside.
        open: devices that would be free if no gang held any (see `reopen`).
        closed: devices of cliques that a gang has exclusively; nothing more is given there, shares included.
        odd: it has shared devices or counters, or is in several cliques.
        shares: position -> thousandths of the device that are taken, where it is shared.
        tenants: gang -> mask of what it has here.
        imex: whether a gang's IMEX domain has the node.
    """

    __slots__ = (
        "busy",
        "closed",
        "counters",
        "free",
        "grades",
        "grants",
        "graph",
        "healthy",
        "held",
        "imex",
        "imex_counter",
        "key",
        "known",
        "members",
        "memberships",
        "name",
        "node",
        "odd",
        "open",
        "shared_entries",
        "shares",
        "size",
        "tenants",
        "used",
        "used_by_others",
        "version",
    )

    def __init__(self, node: Node) -> None:
        self.name = node.name
        self.key = node_order(node)
        self.held = 0
        self.busy = 0
        self.closed = 0
        self.free = 0
        self.open = 0
        self.odd = False
        self.shares: dict[int, int] = {}
        self.used: dict[str, float] = {}
        self.used_by_others: Mapping[str, float] = {}
        self.tenants: dict[str, int] = {}
        self.imex: str | None = None
        self.imex_counter: tuple[Counter, int] = (("node/" + node.name, "imex"), 1)
        self.memberships: tuple[tuple[CliqueState, int, int], ...] = ()
        self.shared_entries: tuple[tuple[int, str, int, str], ...] = ()  # its entries in the index of shared devices
        self.version = 0  # counts changes, for those who remember what they worked out for a node
        self.see(node)

    def see(self, node: Node) -> None:
        """The hardware is this now."""
        self.node = node
        self.graph: DeviceGraph = graph_of(node)
        self.size = len(node.devices)
        self.members = members_of(node)
        healthy = 0
        for i, device in enumerate(node.devices):
            if device.health is Health.OK:
                healthy |= 1 << i
        self.healthy = healthy
        self.counters = bool(node.counters)
        self.grades: dict[DomainId, tuple[str, int]] = {}  # clique -> product and grade of its devices here
        self.grants = tuple([Grant(node.name, i, d.id, d.uuid, d.index, d.clique) for i, d in enumerate(node.devices)])
        # mask -> its grants, and -id of these -> mask; the grants are kept here, so that their id is nobody else's.
        self.known: dict[int, Any] = {}

    def granted(self, mask: int) -> tuple[Grant, ...]:
        """The grants for `mask`; one tuple for each mask ever asked for, so that `mask_of` knows it again."""
        found: tuple[Grant, ...] | None = self.known.get(mask)
        if found is None:
            grants = self.grants
            found = self.known[mask] = tuple([grants[i] for i in bits(mask)])
            self.known[-id(found)] = mask
        return found

    def mask_of(self, grants: tuple[Grant, ...]) -> int:
        """The mask of grants, found by device: a node may have been renumbered. Devices that are gone are left out."""
        mask: int | None = self.known.get(-id(grants))
        if mask is not None:
            return mask
        mask = 0
        own = self.grants
        for grant in grants:
            position = grant.position
            if position >= self.size or own[position].device != grant.device:
                position = next((g.position for g in own if g.device == grant.device), -1)
            if position >= 0:
                mask |= 1 << position
        return mask

    def reopen(self) -> None:
        """Work out `open` and `closed` after any change but a hold of whole devices, which is the frequent one."""
        found = self.healthy & ~self.busy if self.node.ready else 0
        for position in self.shares:
            found &= ~(1 << position)
        closed = 0
        for clique, members, _ in self.memberships:
            if clique.owner is not None:
                closed |= members
        self.closed = closed
        self.open = found & ~closed
        self.odd = bool(self.counters or self.shares or self.shared_entries or len(self.memberships) > 1)

    def free_now(self) -> int:
        """Whole devices that can be held."""
        free = self.open & ~self.held
        if self.counters and free:
            left = self.counters_left()
            for i in bits(free):
                if any(left.get(c, 0) < n for c, n in self.node.devices[i].consumes):
                    free &= ~(1 << i)
        return free

    def counters_left(self) -> dict[Counter, int]:
        """What the devices that somebody has leave of the shared counters."""
        left = dict(self.node.counters)
        taken = self.held | self.busy
        for position in self.shares:
            taken |= 1 << position  # charged once, however many share the device
        for i in bits(taken):
            for counter, amount in self.node.devices[i].consumes:
                left[counter] = left.get(counter, 0) - amount
        return left

    def left(self, resource: str) -> float:
        """How much of a resource is left: nothing, and not less, where others have more than the node offers."""
        total = self.node.resources.get(resource, 0.0)
        left = total - self.used.get(resource, 0.0) - self.used_by_others.get(resource, 0.0)
        return left if left > 0.0 else 0.0

    def shared_left(self) -> dict[int, int]:
        """Position -> thousandths left, of the healthy devices that are shared already and not another gang's alone."""
        if not self.node.ready or not self.shares:
            return {}
        open_now = self.healthy & ~(self.held | self.busy | self.closed)
        return {i: WHOLE - n for i, n in self.shares.items() if open_now >> i & 1 and n < WHOLE}

    # -- devices for bundles

    def how_many(self, mask: int, size: int, connect: Connect) -> int:
        """Most bundles of `size` devices that `mask` holds at once."""
        if not self.counters:
            return self.graph.how_many(mask, size, connect)
        count = mask.bit_count() // size
        while count and self.split(mask, (size,) * count, connect) is None:
            count -= 1
        return count

    def split(self, mask: int, sizes: tuple[int, ...], connect: Connect, allowed: Masks | None = None) -> Masks | None:
        """`DeviceGraph.split` on this node's devices; shared counters are respected."""
        if not self.counters:
            return self.graph.split(mask, sizes, connect, allowed)
        left = self.counters_left()
        consumes = tuple(d.consumes for d in self.node.devices)
        return self.graph.split_sharing(mask, sizes, connect, allowed, consumes, left)

    def together_in(self, members: int) -> bool:
        """Whether every two of these devices are linked."""
        return self.graph.linked or self.graph.all_linked(members)


def members_of(node: Node) -> dict[DomainId, int]:
    """Domain -> mask of its devices on the node: the clique, that of the clique's spares, or the node's loose ones."""
    found: dict[DomainId, int] = {}
    for i, device in enumerate(node.devices):
        clique = device.clique or LOOSE + node.name
        if node.spare:
            clique += SPARE
        found[clique] = found.get(clique, 0) | 1 << i
    return found
