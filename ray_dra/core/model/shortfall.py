"""Unsatisfiable: the reasons for a no, each a typed shortfall, and what is nearest to a yes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from ray_dra.core.model.allocation import Allocation


class ShortfallKind(enum.Enum):
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

    kind: ShortfallKind
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
