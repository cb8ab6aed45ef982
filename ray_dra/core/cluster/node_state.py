"""A node as the planner sees it: which of its devices are free, and what else it has left.

Only its own methods change a `NodeState`, and `free` is right after each. They do not tell the index: whoever calls one
calls `Index.refresh` after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from ray_dra.core.cluster.device_choice import DeviceGraph, bits, graph_of
from ray_dra.core.cluster.gpu_parts import GpuParts
from ray_dra.core.model.allocation import Grant
from ray_dra.core.model.device import Counter, DomainId, Health
from ray_dra.core.model.device_selector import DeviceCriteria
from ray_dra.core.model.imex import imex_counter
from ray_dra.core.model.node import Node, node_order
from ray_dra.core.model.request import WHOLE


class Apart(NamedTuple):
    """Devices that are indexed apart from the cliques that all may use.

    Attributes:
        name: of the clique, or of the node whose devices are in none (`loose`).
        spare: on nodes that are kept as spares.
    """

    name: str
    loose: bool
    spare: bool


CliqueKey = DomainId | Apart
"""A clique is known by its id, which hashes faster than a tuple; what is no clique as such is an Apart."""

EXCLUSIVE, EXCLUSIVE_SPARES = "exclusive", "exclusive spares"
"""Names of the counters of a gang that has a clique, or its spare nodes, to itself; their scope is the clique."""


def exclusive_key(counter: Counter) -> CliqueKey | None:
    """What a counter says a gang has to itself; None for another counter."""
    scope, name = counter
    if name == EXCLUSIVE:
        return scope
    return Apart(scope, False, True) if name == EXCLUSIVE_SPARES else None


EPSILON = 1e-6  # Ray counts resources in 1/10,000

ALL_DEVICES = -1
"""A mask with every bit set. It stands for all devices of a node, so that nobody has to look up which these are."""

REGULAR, UNEVEN = range(2)
"""Grades of devices: every two of a node linked; some not."""

NO_SHARES: Mapping[int, int] = {}

MOST_CRITERIA = 8
"""For how many criteria a node remembers the devices that they accept. Users write criteria, so there is a bound."""

OTHERS = "#others"
"""Whose IMEX domain a node is in that is in one of no gang's."""

SEVERAL_PRODUCTS = "#several"


class InClique(Protocol):
    """A clique as its nodes know it: a `CliqueState`."""

    def move(self, bit: int, before: int, now: int) -> None: ...

    def flip_imex(self, bits: int) -> None: ...

    def relist(self) -> None: ...


Membership = tuple[InClique, int, int]
"""A node's place in a clique: the mask of its devices there, and its bit in the clique's masks."""


class NodeState:
    """Masks are integers with one bit a device, by position in `Node.devices`.

    Attributes:
        node: what the hardware is; graph: how its devices hang together.
        members: clique id -> mask of its devices here. Nearly always one.
        memberships: the same for the index.
        grants: every device as a grant, by position.
        shares: position -> thousandths of the device that are taken, where it is shared.
        parts: its GPUs that are given out in parts, and who has which.
        free: whole devices that can be held now; held: by gangs; busy: by others, seen from outside.
        plain: its devices are in one clique and are given out whole, so that `free` says all about them.
        tenants: gang -> mask of what it has here.
        used: resource -> amount that gangs have; used_by_others: that others have.
        imex_gang: the gang whose IMEX domain has the node; OTHERS: one of somebody else.
        version: counts changes, for those who remember what they worked out for a node.
        known: mask -> its grants, and -id of these -> mask; see `granted` and `mask_of`.
    """

    __slots__ = (
        "_accepting",
        "_closed",
        "_healthy",
        "_open",
        "_profiles",
        "busy",
        "free",
        "grants",
        "graph",
        "held",
        "imex_counter",
        "imex_gang",
        "key",
        "known",
        "members",
        "memberships",
        "name",
        "node",
        "parts",
        "plain",
        "shares",
        "size",
        "tenants",
        "used",
        "used_by_others",
        "version",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.name = node.name
        self.key = node_order(node)
        self.size = len(node.devices)
        self.graph: DeviceGraph = graph_of(node)
        self.members = members_of(node)
        self.shares: Mapping[int, int] = NO_SHARES
        self.parts = tuple([GpuParts(at, gpu) for at, gpu in enumerate(node.parted)]) if node.parted else ()
        self.held = 0
        self.busy = 0
        self.tenants: dict[str, int] = {}
        self.used: dict[str, float] = {}
        self.used_by_others: Mapping[str, float] = {}
        self.imex_gang: str | None = None
        self.imex_counter: tuple[Counter, int] = (imex_counter(node.name), 1)
        self.grants = tuple([Grant(node.name, i, d.id, d.uuid, d.index, d.clique) for i, d in enumerate(node.devices)])
        self.known: dict[int, Any] = {}
        self.version = 0
        self.memberships: tuple[Membership, ...] = ()
        self._profiles: dict[CliqueKey, tuple[str, int]] = {}
        self._accepting: dict[DeviceCriteria, int] | None = None  # most nodes are never asked
        self._closed = 0  # devices of cliques that a gang has exclusively; nothing more is given there, shares included
        self._healthy = _healthy(node)
        self._reopen()

    # -- changes

    def see(self, node: Node) -> None:
        """The hardware is this now; its devices and links are what they were, their health may not be."""
        self.node = node
        self._healthy = _healthy(node)
        self._reopen()

    @property
    def healthy(self) -> int:
        """The devices that are healthy, whoever has them."""
        return self._healthy

    def see_others(self, busy: int, used: Mapping[str, float]) -> None:
        """Programs outside our gangs use these devices, and these amounts of other resources."""
        self.busy = busy
        self.used_by_others = used
        self._reopen()

    @staticmethod
    def take(gang: str, masks: Mapping[NodeState, int]) -> dict[NodeState, int]:
        """A gang has these devices, whole, of several nodes at once; node -> what was free before.

        One call for all nodes, and `_refresh` written out: this and `give_back` are the most frequent changes.
        """
        before = {}
        for state, mask in masks.items():
            before[state] = state.free
            state.version += 1
            state.tenants[gang] = mask
            state.held = held = state.held | mask
            state.free = state._open & ~held if state.plain else state._free()
        return before

    @staticmethod
    def give_back(gang: str, masks: Mapping[NodeState, int]) -> dict[NodeState, int]:
        """The opposite of `take`."""
        before = {}
        for state, mask in masks.items():
            before[state] = state.free
            state.version += 1
            state.tenants.pop(gang, None)
            state.held = held = state.held & ~mask
            state.free = state._open & ~held if state.plain else state._free()
        return before

    def use(self, resources: Mapping[str, float], sign: float) -> None:
        """Gangs use so much more of these resources, or less where `sign` is negative."""
        self.version += 1
        used = self.used
        for resource, amount in resources.items():
            used[resource] = used.get(resource, 0.0) + sign * amount

    def share(self, position: int, amount: int) -> None:
        """So many thousandths more of a device are taken; less: a negative amount."""
        shares = dict(self.shares)
        shares[position] = shares.get(position, 0) + amount
        if shares[position] <= 0:
            del shares[position]
        self.shares = shares
        self._reopen()

    def close(self, members: int) -> None:
        """A gang has the clique of these devices to itself."""
        self._closed |= members
        self._reopen()

    def reopen(self, members: int) -> None:
        self._closed &= ~members
        self._reopen()

    @staticmethod
    def join_imex(gang: str | None, node_states: Iterable[NodeState]) -> dict[InClique, int]:
        """These nodes are in the IMEX domain of this gang; None: of nobody. Clique -> the bits of its nodes among them.

        One call for all nodes, as `take`.
        """
        joined: dict[InClique, int] = {}
        for state in node_states:
            state.imex_gang = gang
            for clique, _, bit in state.memberships:
                joined[clique] = joined.get(clique, 0) | bit
        return joined

    def enter(self, clique: InClique, clique_id: CliqueKey, bit: int) -> None:
        """Its bit in a clique is this one now."""
        membership = (clique, self.members[clique_id], bit)
        if len(self.members) == 1:
            self.memberships = (membership,)
        else:
            self.memberships = (*(m for m in self.memberships if m[0] is not clique), membership)

    def _reopen(self) -> None:
        """After any change but that of what gangs hold: devices that would be free if no gang held any, and `free`."""
        self._open = self._healthy & ~(self.busy | self._closed) if self.node.ready else 0
        self.plain = not self.shares and len(self.members) == 1
        self.version += 1
        self.free = self._free()

    def _free(self) -> int:
        free = self._open & ~(self.held | self.busy)
        for position in self.shares:
            free &= ~(1 << position)
        return free

    # -- questions

    def granted(self, mask: int) -> tuple[Grant, ...]:
        """The grants for `mask`; one tuple for each mask ever asked for, so that `mask_of` knows it again."""
        found: tuple[Grant, ...] | None = self.known.get(mask)
        if found is None:
            grants = self.grants
            found = self.known[mask] = tuple([grants[i] for i in bits(mask)])
            # By identity, since hashing the grants would cost more than a hold; `known` keeps them alive, so that their
            # id is nobody else's; the sign tells these keys from masks.
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

    def left(self, resource: str) -> float:
        """How much of a resource is left: nothing, and not less, where others have more than the node offers."""
        total = self.node.resources.get(resource, 0.0)
        left = total - self.used.get(resource, 0.0) - self.used_by_others.get(resource, 0.0)
        return left if left > 0.0 else 0.0

    def shared_left(self) -> dict[int, int]:
        """Position -> thousandths left, of the healthy devices that are shared already and not another gang's alone."""
        if self.plain:
            return {}
        usable = self._open & ~self.held
        return {at: WHOLE - taken for at, taken in self.shares.items() if usable >> at & 1 and taken < WHOLE}

    def in_use(self, members: int) -> bool:
        """Whether somebody has one of these devices, or a share of one."""
        return bool((self.busy | self.held) & members) or any(members >> at & 1 for at in self.shares)

    def in_parts(self) -> Iterator[GpuParts]:
        """The GPUs of which parts can be given: healthy, not had whole by anybody, nor in a clique that is one gang's
        alone."""
        for gpu in self.parts:
            at = gpu.gpu.position
            if gpu.gpu.health is not Health.OK:
                continue
            if at is not None:
                if not self._healthy >> at & 1 or (self.held | self._closed) >> at & 1:
                    continue
                if self.busy >> at & 1 and not gpu.others:
                    continue  # whoever has it does not say which part
            yield gpu

    def accepted(self, mask: int, criteria: DeviceCriteria | None) -> int:
        """The devices of `mask` that will do; all of them where nothing is said of devices."""
        if criteria is None:
            return mask
        if self._accepting is None or len(self._accepting) >= MOST_CRITERIA:
            self._accepting = {}
        found = self._accepting.get(criteria)
        if found is None:
            accepts = criteria.accepts
            found = self._accepting[criteria] = sum(1 << i for i, d in enumerate(self.node.devices) if accepts(d))
        return mask & found

    def profile(self, clique_id: CliqueKey) -> tuple[str, int]:
        """(product, grade) of the devices in a clique; SEVERAL_PRODUCTS where they differ or do not say."""
        found = self._profiles.get(clique_id)
        if found is None:
            members = self.members[clique_id]
            linked = self.graph.linked or self.graph.all_linked(members)
            grade = REGULAR if linked else UNEVEN
            found = self._profiles[clique_id] = (_product(self.node, members), grade)
        return found


def members_of(node: Node) -> dict[CliqueKey, int]:
    """Key -> mask of its devices here: a clique, a clique's spare nodes, or the node's devices in no clique."""
    found: dict[CliqueKey, int] = {}
    for i, device in enumerate(node.devices):
        key: CliqueKey | None = device.clique
        if key is None or node.spare:
            key = Apart(device.clique or node.name, device.clique is None, node.spare)
        found[key] = found.get(key, 0) | 1 << i
    return found


def _healthy(node: Node) -> int:
    healthy = 0
    for i, device in enumerate(node.devices):
        if device.health is Health.OK:
            healthy |= 1 << i
    return healthy


def _product(node: Node, members: int) -> str:
    """The product that all these devices are; SEVERAL_PRODUCTS where they differ or do not say."""
    found = None
    for i, device in enumerate(node.devices):
        if members >> i & 1:
            product = device.product
            if product is None or (found is not None and product != found):
                return SEVERAL_PRODUCTS
            found = product
    return found or SEVERAL_PRODUCTS
