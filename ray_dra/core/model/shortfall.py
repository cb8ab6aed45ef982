"""Unsatisfiable: the reasons for a no, each a typed shortfall, and what is nearest to a yes.

A shortfall is numbers and ids, for quotas, metrics and maps; `wording.py` makes sentences of them, for `str()` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from ray_dra.core.model import wording
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.reason import Choice as Choice
from ray_dra.core.model.reason import PlaceKind as PlaceKind
from ray_dra.core.model.reason import ShortfallKind as ShortfallKind


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was short.

    Attributes:
        id: of a node, a clique (of the clique of a roomiest node: `of`), a queue outside or a team's, a pool; the index
            of a bundle; how many cliques.
        choice: why this one is named.
        of: among how many; or the clique that the node is the roomiest of.
    """

    kind: PlaceKind
    id: str | int | None = None
    choice: Choice | None = None
    of: str | int | None = None

    def __str__(self) -> str:
        return wording.place(self.kind, self.id, self.choice, self.of)


CLUSTER = Place(PlaceKind.CLUSTER)
QUEUE = Place(PlaceKind.QUEUE)

Value = Any
"""int, float, str, None, a Locality, a Selector, a DeviceCriteria, or a tuple of such."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One typed reason for a no: what, where, wanted, available. Values; `str()` makes the sentence.

    Attributes:
        wanted, available: two numbers of the same unit, available the smaller (but for a Selector that asks for less);
            or ids, or tuples of both, where a number says nothing.
        detail: named facts beside them; see `facts`.
    """

    kind: ShortfallKind
    place: Place
    wanted: Value
    available: Value
    detail: tuple[tuple[str, Value], ...] = ()

    @property
    def facts(self) -> Mapping[str, Value]:
        """`detail` by name."""
        return MappingProxyType(dict(self.detail))

    @property
    def wanted_text(self) -> str:
        return self._texts()[0]

    @property
    def available_text(self) -> str:
        return self._texts()[1]

    def __str__(self) -> str:
        wanted, available = self._texts()
        return f"{self.kind.value} in {self.place}: wanted {wanted}, available {available}"

    def _texts(self) -> tuple[str, str]:
        return wording.texts(self.kind, self.place.kind, self.wanted, self.available, self.facts)


def short(kind: ShortfallKind, place: Place, wanted: Value, available: Value, **facts: Value) -> Shortfall:
    """A Shortfall with its facts by name."""
    return Shortfall(kind, place, wanted, available, tuple(facts.items()))


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
