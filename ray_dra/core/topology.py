"""What the hardware is: devices, nodes, cliques.

Immutable values. What is free or held is the inventory's (`inventory.py`); how the values are read
off NVML or Kubernetes is the translators'.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

Counter = tuple[str, str]
"""(scope, name) of something shared that devices or gangs use up, e.g. ("node/n1", "imex")."""

DomainId = str
"""A topology domain; the innermost is the clique."""

Attribute = str | int | bool


class DeviceId(NamedTuple):
    """DRA's triple, unique in a cluster."""

    driver: str
    pool: str
    device: str

    def __str__(self) -> str:
        return f"{self.pool}/{self.device}"


class Health(enum.Enum):
    """`TAINTED` devices stay with the gang that has them and are given to nobody else."""

    OK = "ok"
    TAINTED = "tainted"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Device:
    """One allocatable device: a full GPU or a MIG partition.

    Attributes:
        index: NVML's index on its node; None for a device that has none (a dynamic partition).
        uuid: the stable key; None before a dynamic partition is prepared.
        capacity: e.g. {"memory": bytes}.
        consumes: shared counters (`Node.counters`) the device uses up when it is held: two MIG partitions
            over the same memory slice cannot both be had.
        domains: innermost first; empty where the clique is unknown or there is none.
    """

    id: DeviceId
    index: int | None
    uuid: str | None
    kind: str = "gpu"
    attributes: Mapping[str, Attribute] = field(default_factory=dict, hash=False)
    capacity: Mapping[str, int] = field(default_factory=dict, hash=False)
    consumes: tuple[tuple[Counter, int], ...] = ()
    domains: tuple[DomainId, ...] = ()
    health: Health = Health.OK
    health_reason: str = ""

    @property
    def clique(self) -> DomainId | None:
        """The NVLink partition; None when unknown, which is never a shared placeholder."""
        return self.domains[0] if self.domains else None

    @property
    def product(self) -> str | None:
        value = self.attributes.get("product")
        return value if isinstance(value, str) else None

    @property
    def numa(self) -> int | None:
        value = self.attributes.get("numa")
        return value if isinstance(value, int) else None


Links = tuple[tuple[int, ...], ...]
"""Symmetric matrix over a node's devices, by position: active NVLinks between two (0: none)."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine (a compute tray, a box, a virtual machine).

    Attributes:
        name: stable over restarts of the raylet; the Kubernetes node or the physical host.
        ray_node_id: Ray's id of the raylet that runs there now; None when none does.
        devices: in NVML's order; positions in this tuple are the bits of the planner's masks.
        links: see `Links`; empty means no two devices are linked.
        ancestors: like `links`, NVML's topology level between two (0 internal .. 50 system); empty: unknown.
        resources: what the raylet offers besides devices, e.g. {"CPU": 64.0, "memory": bytes}.
        order: position in the rack (the tray), None when unknown; ties break by name.
        counters: what the node's devices share, e.g. (("gpu/GPU-a", "memory-slice-3"), 1); see `Device.consumes`.
        spare: kept for repairs, and lent to small preemptible gangs only.
        ready: False while the node is lost, silent or being drained; `reason` says why.
    """

    name: str
    devices: tuple[Device, ...] = ()
    ray_node_id: str | None = None
    links: Links = ()
    ancestors: Links = ()
    resources: Mapping[str, float] = field(default_factory=dict, hash=False)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    order: int | None = None
    ready: bool = True
    reason: str = ""
    counters: tuple[tuple[Counter, int], ...] = ()
    spare: bool = False

    @property
    def clique(self) -> DomainId | None:
        """The clique of the node's devices; None when no device has one."""
        for device in self.devices:
            if device.clique is not None:
                return device.clique
        return None

    @property
    def products(self) -> tuple[str, ...]:
        return tuple(sorted({d.product for d in self.devices if d.product is not None}))


@dataclass(frozen=True, slots=True)
class Clique:
    """An NVLink partition: devices of one box, or of many nodes of a rack."""

    id: DomainId
    nodes: tuple[str, ...]
    devices: int

    @property
    def multi_node(self) -> bool:
        return not self.id.startswith(BOX_PREFIX)


@dataclass(frozen=True)
class Topology:
    """All nodes of a cluster, by name. Equal whatever the order the nodes came in."""

    nodes: Mapping[str, Node]

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> Topology:
        return cls(MappingProxyType({n.name: n for n in sorted(nodes, key=node_order)}))

    @cached_property
    def cliques(self) -> Mapping[DomainId, Clique]:
        members: dict[DomainId, dict[str, int]] = {}
        for node in self.nodes.values():
            for device in node.devices:
                if device.clique is not None:
                    count = members.setdefault(device.clique, {})
                    count[node.name] = count.get(node.name, 0) + 1
        return MappingProxyType(
            {clique: Clique(clique, tuple(counts), sum(counts.values())) for clique, counts in sorted(members.items())}
        )

    @property
    def device_count(self) -> int:
        return sum(len(node.devices) for node in self.nodes.values())


def natural(text: str) -> str:
    """Sort key in which n2 comes before n10; two texts that differ have keys that differ."""
    return _NUMBER.sub(_padded, text) + "\x00" + text


_NUMBER = re.compile(r"[0-9]+")


def _padded(number: re.Match[str]) -> str:
    return number[0].zfill(12)


def node_order(node: Node) -> str:
    """Topology order as a sort key: clique, tray, node; so that neighbouring ranks are neighbours in hardware."""
    tray = node.order if node.order is not None else 1 << 30
    return f"{natural(node.clique or '~')}\x00{tray:012d}\x00{natural(node.name)}"


BOX_PREFIX = "box."
LABEL_LIMIT = 63  # Kubernetes' and Ray's limit for a label value


def box_clique(node: str) -> DomainId:
    """The clique of a single NVSwitch box, known by its node."""
    return BOX_PREFIX + node


def fabric_clique(cluster_uuid: str, clique_id: int) -> DomainId:
    """The multi-node clique as NVIDIA writes it in `nvidia.com/gpu.clique`."""
    return f"{cluster_uuid}.{clique_id}"


def label_value(text: str) -> str:
    """`text` as a label value: at most 63 of [A-Za-z0-9._-], alphanumeric at both ends.

    Text that fits is kept as it is; other text is cut and gets a digest, so that two texts that
    differ never share a label.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", text)
    if safe == text and len(text) <= LABEL_LIMIT and re.fullmatch(r"[A-Za-z0-9].*[A-Za-z0-9]|[A-Za-z0-9]", text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    head = safe.strip("-._")[: LABEL_LIMIT - 9].rstrip("-._")
    return f"{head}-{digest}" if head else digest
