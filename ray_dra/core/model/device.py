"""Devices: what a node has to give, each with its identity, health and topology domains. Immutable values."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Counter = tuple[str, str]
"""(scope, name) of something shared that gangs use up, e.g. ("node/n1", "imex")."""

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


class FabricKind(enum.Enum):
    """What joins the devices of a clique.

    MULTI_NODE: a multi-node fabric; a gang over several of its nodes needs an IMEX domain.
    BOX: the NVSwitches of one node.
    """

    MULTI_NODE = "multi-node"
    BOX = "box"


class Health(enum.Enum):
    """Only those that are OK are given to anybody; `core.model.signs` says which sign makes which.

    DRAIN: whoever has it can go on, and gets notice. TAINTED: whoever has it is degraded. GONE: it is there no more.
    """

    OK = "ok"
    DRAIN = "drain"
    TAINTED = "tainted"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Device:
    """One allocatable device: a full GPU or a MIG partition.

    Attributes:
        index: NVML's index on its node; None for a device that has none (a dynamic partition).
        uuid: the stable key, unique in the cluster; of a vendor without UUIDs the node and what names the device there.
            None before a dynamic partition is prepared.
        kind: "gpu" for a whole one, the device class of any other.
        capacity: e.g. {"memory": bytes}.
        domains: innermost first; empty where the clique is unknown or there is none.
        fabric_kind: of the clique; says nothing where there is none.
    """

    id: DeviceId
    index: int | None
    uuid: str | None
    kind: str = "gpu"
    attributes: Mapping[str, Attribute] = field(default_factory=dict, hash=False)
    capacity: Mapping[str, int] = field(default_factory=dict, hash=False)
    domains: tuple[DomainId, ...] = ()
    health: Health = Health.OK
    health_reason: str = ""
    fabric_kind: FabricKind = FabricKind.MULTI_NODE

    @property
    def clique(self) -> DomainId | None:
        """The NVLink partition; None when unknown, which is never a shared placeholder."""
        return self.domains[0] if self.domains else None

    @property
    def device_class(self) -> str:
        """The class that a request may name: of whole GPUs it is called as their driver."""
        return self.id.driver if self.kind == "gpu" else self.kind

    @property
    def product(self) -> str | None:
        value = self.attributes.get("product")
        return value if isinstance(value, str) else None

    @property
    def numa(self) -> int | None:
        value = self.attributes.get("numa")
        return value if isinstance(value, int) else None
