"""What the planner answers: an Allocation, or Unsatisfiable with its shortfalls."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from ray_dra.core.topology import Counter, DeviceId, DomainId

NO_RESOURCES: Mapping[str, float] = MappingProxyType({})

make = tuple.__new__
"""A NamedTuple without the call through its own __new__, which is half of the time where every microsecond counts."""


class Grant(NamedTuple):
    """One device, given whole (`amount` None) or in part (later).

    `position` is the device's place on its node (the bit in the planner's masks), `index` NVML's
    number, `uuid` the stable key.
    """

    node: str
    position: int
    device: DeviceId
    uuid: str | None
    index: int | None  # type: ignore[assignment]  # tuple.index is never called on a Grant
    clique: DomainId | None
    amount: int | None = None


class Placed(NamedTuple):
    """Where one bundle lies: its node, its devices in the order its program sees them, the rest it uses."""

    node: str
    grants: tuple[Grant, ...]
    resources: Mapping[str, float] = NO_RESOURCES

    @property
    def clique(self) -> DomainId | None:
        """The clique all its devices share; None where they share none."""
        cliques = {g.clique for g in self.grants}
        return cliques.pop() if len(cliques) == 1 else None


class Allocation(NamedTuple):
    """The decision for a whole gang.

    Attributes:
        bundles: one Placed a bundle, by bundle index.
        epoch: counts the attempts and moves of a gang; the difference of two epochs is a move.
        counters: what the gang uses besides devices, e.g. a clique exclusively.
    """

    gang: str
    bundles: tuple[Placed, ...]
    epoch: int = 0
    priority: int = 0
    counters: tuple[tuple[Counter, int], ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Node of each bundle, by bundle index."""
        return tuple(p.node for p in self.bundles)

    @property
    def cliques(self) -> tuple[DomainId | None, ...]:
        """Clique of each bundle, by bundle index; None for a bundle in none, or without devices."""
        return tuple(p.clique for p in self.bundles)

    @property
    def grants(self) -> tuple[Grant, ...]:
        """All devices, by bundle, then in the order seen."""
        return tuple(g for p in self.bundles for g in p.grants)


class Kind(enum.Enum):
    """What was short."""

    DEVICES = "devices"
    NODE_SIZE = "devices on one node"
    PRODUCT = "product"
    LABELS = "node labels"
    RESOURCES = "resources"
    CLIQUE = "room in one clique"
    CLIQUE_UNKNOWN = "known clique"
    SEGMENT = "room for segments"
    CLIQUES = "room in so few cliques"
    EXCLUSIVE = "empty cliques"
    CONNECTED = "linked devices"
    NODES = "nodes"
    PACKING = "packing"
    BOUND = "search bound"
    QUEUE = "turn"
    PATIENCE = "patience"
    WORKERS = "workers"


class Shortfall(NamedTuple):
    """One typed reason for a no: what, where, wanted, available."""

    kind: Kind
    place: str
    wanted: str
    available: str

    def __str__(self) -> str:
        return f"{self.kind.value} in {self.place}: wanted {self.wanted}, available {self.available}"


class Instead(NamedTuple):
    """Something like the request that would fit now: in what it differs, and where it would lie."""

    change: str
    allocation: Allocation


class Leaving(NamedTuple):
    """Gangs without which the request would fit.

    Attributes:
        devices: that they have together; the cost of the set.
        priority: the highest among them.
        smallest: proven that no other set costs less (among gangs of at most this priority, by devices; for sets of
            one gang only: among sets of one).
        allocation: where the request would lie then.
    """

    gangs: tuple[str, ...]
    devices: int
    priority: int
    smallest: bool
    allocation: Allocation

    def __str__(self) -> str:
        which = "the smallest set" if self.smallest else "a small set"
        return f"{', '.join(self.gangs)} ({self.devices} GPUs; {which})"


class Counterfactual(NamedTuple):
    """What is nearest to a yes."""

    instead: tuple[Instead, ...]
    leaving: Leaving | None

    def __str__(self) -> str:
        lines = [f"would fit now: {each.change}" for each in self.instead]
        if self.leaving is not None:
            lines.append(f"would fit without: {self.leaving}")
        return "\n".join(lines) or "nothing near it would fit"


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """A no. `proven` is False only where the search reached its stated bound.

    `counterfactual`: what is nearest to a yes, where it was asked for.
    """

    gang: str
    shortfalls: tuple[Shortfall, ...]
    proven: bool = True
    counterfactual: Counterfactual | None = None

    def __str__(self) -> str:
        return "; ".join(str(s) for s in self.shortfalls)
