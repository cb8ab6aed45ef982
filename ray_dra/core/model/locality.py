"""A Locality: how the bundles of a gang lie in relation to NVLink cliques."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from ray_dra.core.model.checked import flag, number, one_of, text, whole
from ray_dra.errors import InvalidRequest, shown

MAX_CLIQUES = 1_000_000
"""Most cliques in `at_most_cliques`, and most bundles in a segment."""

MAX_PATIENCE = 365 * 86400.0
MAX_LEVEL = 317
"""Characters of a label's name, which a level is."""
LEAST_SPEED = 0.001


class Connect(enum.Enum):
    """How the devices of one bundle must hang together inside their node.

    REQUIRED: every two of them share an NVLink (a box without one between some pair is refused).
    PREFERRED: the best-connected free devices. ANY: NUMA and fragmentation alone decide.
    """

    ANY = "any"
    PREFERRED = "preferred"
    REQUIRED = "required"


class Gpus(enum.Enum):
    """How parts of GPUs lie in relation to each other: SAME: on one GPU; SPREAD: each on another; ANY: as few GPUs are
    broken for them as can be."""

    ANY = "any"
    SAME = "same"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Locality:
    """Where the bundles of a gang lie in relation to each other. Combine two with `&`.

    Attributes:
        cliques: at most this many cliques hold the whole gang; None: no limit.
        segment: this many consecutive bundles share one clique (Slurm's `--segment`); None: no segments.
        required: False means "as near as it can be" instead of "or not at all".
        patience: seconds that a gang which could start now waits for what it prefers, before it is taken as near as
            can be (Slurm's `--switches=1@TIME`); None: as long as it is worth it, if the gang says how long it runs.
        outside_speed: the gang's speed outside of what it prefers, where it is 1 inside; None: as the cluster is set.
        exclusive: whole cliques; nobody else is planned onto them while the gang lives.
        connect: see `Connect`. gpus: see `Gpus`; for parts alone.
        level, domains: at most so many domains of this level above cliques, where that can be (`planner/levels.py`);
            never required. The level is the label of nodes that names it, or what follows the label's last slash.
    """

    cliques: int | None = None
    segment: int | None = None
    required: bool = True
    patience: float | None = None
    exclusive: bool = False
    connect: Connect = Connect.PREFERRED
    gpus: Gpus = Gpus.ANY
    outside_speed: float | None = None
    level: str = ""
    domains: int | None = None

    def __post_init__(self) -> None:
        self.check()
        for name, kind in (
            ("cliques", int),
            ("segment", int),
            ("domains", int),
            ("patience", float),
            ("outside_speed", float),
        ):  # numpy's as Python's own
            if (value := getattr(self, name)) is not None and type(value) is not kind:
                object.__setattr__(self, name, kind(value))

    def check(self) -> None:
        """Raises InvalidRequest for a field of another type or out of range."""
        for name in ("cliques", "segment", "domains"):
            if getattr(self, name) is not None:
                whole(getattr(self, name), f"locality.{name}", least=1, most=MAX_CLIQUES)
        if self.patience is not None:
            number(self.patience, "locality.patience", least=0.0, most=MAX_PATIENCE)
        if self.outside_speed is not None:
            number(self.outside_speed, "locality.outside_speed", least=LEAST_SPEED, most=1.0)
        text(self.level, "locality.level", most=MAX_LEVEL, empty=True)
        if bool(self.level) is (self.domains is None):
            raise InvalidRequest(
                "A limit of domains is of one level, and a level has a limit.",
                place="locality.level",
                wanted=f"{shown(self.domains)} of {shown(self.level)}",
                available="at_most(level, count)",
            )
        flag(self.required, "locality.required")
        flag(self.exclusive, "locality.exclusive")
        one_of(Connect, self.connect, "locality.connect")
        one_of(Gpus, self.gpus, "locality.gpus")

    @property
    def within_cliques(self) -> bool:
        """Whether cliques play a role at all, required or preferred."""
        return self.cliques is not None or self.segment is not None or self.exclusive

    def __and__(self, other: Locality) -> Locality:
        """Both at once; contradictions raise InvalidRequest, and what is no locality."""
        if not isinstance(other, Locality):
            raise no_locality(other)
        if self.within_cliques and other.within_cliques and self.required != other.required:
            raise _contradiction("one part is required and the other preferred", self, other)
        for name in ("cliques", "segment"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None and mine != theirs:
                raise _contradiction(f"{name} is {mine} in one and {theirs} in the other", self, other)
        if self.level and other.level and (self.level, self.domains) != (other.level, other.domains):
            limits = f"{self._domains()} in one and {other._domains()} in the other"
            raise _contradiction(f"the limit is {limits}", self, other)
        for name in ("patience", "outside_speed"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None and mine != theirs:
                raise _contradiction(f"{name} is {mine:g} in one and {theirs:g} in the other", self, other)
        connects = {p.connect for p in (self, other)} - {Connect.PREFERRED}
        if len(connects) > 1:
            raise _contradiction("connect is required in one and any in the other", self, other)
        gpus = {p.gpus for p in (self, other)} - {Gpus.ANY}
        if len(gpus) > 1:
            raise _contradiction("the parts are on one GPU in one and on different ones in the other", self, other)
        cliqueish = self if self.within_cliques else other
        return Locality(
            cliques=self.cliques if self.cliques is not None else other.cliques,
            segment=self.segment if self.segment is not None else other.segment,
            required=cliqueish.required,
            patience=self.patience if self.patience is not None else other.patience,
            exclusive=self.exclusive or other.exclusive,
            connect=connects.pop() if connects else Connect.PREFERRED,
            gpus=gpus.pop() if gpus else Gpus.ANY,
            outside_speed=self.outside_speed if self.outside_speed is not None else other.outside_speed,
            level=self.level or other.level,
            domains=self.domains if self.domains is not None else other.domains,
        )

    def __rand__(self, other: object) -> Locality:
        raise no_locality(other)

    def __str__(self) -> str:
        parts = []
        if self.segment is not None:
            parts.append(f"segments of {self.segment} bundles in one clique each")
        if self.cliques == 1:
            parts.append("one clique")
        elif self.cliques is not None:
            parts.append(f"at most {self.cliques} cliques")
        if self.exclusive:
            parts.append("whole cliques exclusively")
        if parts and not self.required:
            parts[-1] += f" (preferred, waited for {self.patience:g} s)" if self.patience else " (preferred)"
        if self.connect is not Connect.PREFERRED:
            parts.append({"any": "any devices", "required": "linked devices"}[self.connect.value])
        if self.gpus is not Gpus.ANY:
            parts.append({"same": "all parts on one GPU", "spread": "each part on another GPU"}[self.gpus.value])
        if self.level:
            parts.append(f"at most {self._domains()} (preferred)")
        return ", ".join(parts) or "anywhere"

    def _domains(self) -> str:
        return f"{self.domains} {'domain' if self.domains == 1 else 'domains'} of {self.level}"


ANYWHERE = Locality()


def fitted(locality: Locality, bundles: int, *, one_node: bool) -> Locality:
    """A locality for gangs of many sizes as it holds for one of so many bundles: a gang smaller than a segment is one
    segment, and one that lies on one node anyway has none."""
    if locality.segment is None or (bundles > locality.segment and not one_node):
        return locality
    return replace(locality, segment=None, cliques=1)


def _contradiction(why: str, a: Locality, b: Locality) -> InvalidRequest:
    return InvalidRequest(f"The localities contradict each other: {why}.", place="locality", wanted=f"{a} & {b}")


def no_locality(value: object) -> InvalidRequest:
    """The error for what stands where a Locality should."""
    return InvalidRequest(
        "locality is made by same_clique() and its like.",
        place="locality",
        wanted=shown(value),
        available="same_clique, at_most_cliques, at_most, linked_devices, best_connected, and two of them by &",
    )
