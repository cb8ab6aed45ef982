"""What a gang asks for, and the checks that need no cluster.

Built by the api (from Ray's bundles) and read by the planner. Everything that can be said to be
wrong without looking at the hardware is refused here, before anything is held.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ray_dra.errors import InvalidRequest

MAX_BUNDLES = 100_000
MAX_DEVICES_PER_BUNDLE = 1024

WHOLE = 1000
"""Shares of a device are counted in thousandths."""


class Connect(enum.Enum):
    """How the devices of one bundle must hang together inside their node.

    REQUIRED: every two of them share an NVLink (a box without one between some pair is refused).
    PREFERRED: the best-connected free devices. ANY: NUMA and fragmentation alone decide.
    """

    ANY = "any"
    PREFERRED = "preferred"
    REQUIRED = "required"


class Strategy(enum.Enum):
    """Ray's own strategies over nodes."""

    PACK = "PACK"
    SPREAD = "SPREAD"
    STRICT_PACK = "STRICT_PACK"
    STRICT_SPREAD = "STRICT_SPREAD"


@dataclass(frozen=True, slots=True)
class Locality:
    """Where the bundles of a gang lie in relation to each other. Combine two with `&`.

    Attributes:
        cliques: at most this many cliques hold the whole gang; None: no limit.
        segment: this many consecutive bundles share one clique (Slurm's `--segment`); None: no segments.
        required: False means "as near as it can be" instead of "or not at all".
        patience: seconds that a gang which could start now waits for what it prefers, before it is taken as near as
            can be (Slurm's `--switches=1@TIME`).
        exclusive: whole cliques; nobody else is planned onto them while the gang lives.
        connect: see `Connect`.
    """

    cliques: int | None = None
    segment: int | None = None
    required: bool = True
    patience: float = 0.0
    exclusive: bool = False
    connect: Connect = Connect.PREFERRED

    @property
    def within_cliques(self) -> bool:
        """Whether cliques play a role at all, required or preferred."""
        return self.cliques is not None or self.segment is not None or self.exclusive

    def __and__(self, other: Locality) -> Locality:
        """Both at once; contradictions raise InvalidRequest."""
        if self.within_cliques and other.within_cliques and self.required != other.required:
            raise _contradiction("one part is required and the other preferred", self, other)
        for name in ("cliques", "segment"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None and mine != theirs:
                raise _contradiction(f"{name} is {mine} in one and {theirs} in the other", self, other)
        if self.patience and other.patience and self.patience != other.patience:
            raise _contradiction(
                f"patience is {self.patience:g} s in one, {other.patience:g} s in the other", self, other
            )
        connects = {p.connect for p in (self, other)} - {Connect.PREFERRED}
        if len(connects) > 1:
            raise _contradiction("connect is required in one and any in the other", self, other)
        cliqueish = self if self.within_cliques else other
        return Locality(
            cliques=self.cliques if self.cliques is not None else other.cliques,
            segment=self.segment if self.segment is not None else other.segment,
            required=cliqueish.required,
            patience=self.patience or other.patience,
            exclusive=self.exclusive or other.exclusive,
            connect=connects.pop() if connects else Connect.PREFERRED,
        )

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
            parts.append(f"(preferred, waited for {self.patience:g} s)" if self.patience else "(preferred)")
        if self.connect is not Connect.PREFERRED:
            parts.append({"any": "any devices", "required": "linked devices"}[self.connect.value])
        return " ".join(parts) or "anywhere"


ANYWHERE = Locality()


def _contradiction(why: str, a: Locality, b: Locality) -> InvalidRequest:
    return InvalidRequest(f"The localities contradict each other: {why}.", place="locality", wanted=f"{a} & {b}")


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """`count` devices of a class, of one of `products` when any are named (matched whole).

    `share`: thousandths of one device, which others may share; None for whole devices.
    """

    count: int
    device_class: str = "gpu.nvidia.com"
    products: tuple[str, ...] = ()
    share: int | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """Ray's bundle: fits one node.

    Attributes:
        devices: what it asks of devices; empty for a bundle without GPUs.
        resources: everything else, e.g. {"CPU": 8.0}.
        labels: node labels it selects, equal or in Ray's forms `in(a,b)`, `!in(a,b)`, `!a`.
    """

    devices: tuple[DeviceRequest, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict, hash=False)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def count(self) -> int:
        """Devices it holds."""
        return sum(d.count for d in self.devices)

    @property
    def share(self) -> int | None:
        """Thousandths of its one device; None where it has whole ones."""
        return self.devices[0].share if self.devices else None


@dataclass(frozen=True, slots=True)
class GangRequest:
    """One all-or-nothing request.

    Attributes:
        gang: unique id of this request, chosen by the caller.
        exclude: nodes the shell does not want now (back-off after a failed attempt).
        preemptible: may be given up for others at any time; such gangs alone are lent a clique's spare nodes.
    """

    gang: str
    bundles: tuple[Bundle, ...]
    locality: Locality = ANYWHERE
    strategy: Strategy = Strategy.PACK
    priority: int = 0
    exclude: frozenset[str] = frozenset()
    preemptible: bool = False

    def __post_init__(self) -> None:
        _check(self)

    @property
    def device_count(self) -> int:
        first = self.bundles[0]
        if self.bundles.count(first) == len(self.bundles):
            return first.count * len(self.bundles)
        return sum(b.count for b in self.bundles)


def _check(request: GangRequest) -> None:
    bundles, locality = request.bundles, request.locality
    if not bundles:
        raise InvalidRequest("A gang needs at least one bundle.", place="bundles", wanted="[]")
    if len(bundles) > MAX_BUNDLES:
        raise InvalidRequest("Too many bundles.", place="bundles", wanted=str(len(bundles)), available=str(MAX_BUNDLES))
    for device in (d for b in {id(b): b for b in bundles}.values() for d in b.devices):
        if device.share is not None and not (device.count == 1 and 0 < device.share < WHOLE):
            raise InvalidRequest(
                "A share is a part of one device: count 1, and between 0 and the whole.",
                place="bundles",
                wanted=f"{device.share / WHOLE:g} of {device.count}",
            )
    for name in ("segment", "cliques"):
        value = getattr(locality, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InvalidRequest(f"{name} must be a whole number of at least 1.", place="locality", wanted=repr(value))
    _check_patience(locality)
    segment = locality.segment
    if segment is not None and len(bundles) % segment:
        raise InvalidRequest(
            f"{len(bundles)} bundles do not divide into segments of {segment}.",
            place="locality.segment",
            wanted=f"segments of {segment}",
            available=f"{len(bundles)} bundles",
        )
    if locality.exclusive and not locality.required:
        raise InvalidRequest("Whole cliques can be required, not preferred.", place="locality", wanted=str(locality))
    if request.strategy is Strategy.STRICT_PACK and locality.segment is not None and locality.segment < len(bundles):
        raise InvalidRequest(
            "STRICT_PACK puts all bundles on one node, so they cannot be split into segments.",
            place="strategy",
            wanted=f"STRICT_PACK with {locality}",
        )


def _check_patience(locality: Locality) -> None:
    patience = locality.patience
    if isinstance(patience, bool) or not isinstance(patience, (int, float)) or not 0 <= patience < math.inf:
        raise InvalidRequest("patience is seconds, 0 or more.", place="locality.patience", wanted=repr(patience))
    if patience and (locality.required or not locality.within_cliques):
        raise InvalidRequest(
            "Patience is for what is preferred of cliques; what is required is waited for anyway.",
            place="locality.patience",
            wanted=str(locality),
        )


def bundle_from_resources(
    resources: Mapping[str, float], *, index: int, products: Sequence[str] = (), labels: Mapping[str, str] | None = None
) -> Bundle:
    """A Bundle from Ray's dict, e.g. {"GPU": 4, "CPU": 8}; `index` is for the message.

    Raises:
        InvalidRequest: empty, not numbers, or a GPU count that is zero, negative or fractional.
    """
    place = f"bundles[{index}]"
    if not isinstance(resources, Mapping) or not resources:
        raise InvalidRequest("A bundle is a non-empty dict of resources.", place=place, wanted=repr(resources))
    rest: dict[str, float] = {}
    count = 0
    for name, amount in resources.items():
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not math.isfinite(amount):
            raise InvalidRequest(f"{name} must be a finite number.", place=place, wanted=repr(amount))
        if name == "GPU":
            count = _gpu_count(amount, place)
        elif amount < 0 or (amount == 0 and len(resources) == 1):
            raise InvalidRequest(f"{name} must be more than 0.", place=place, wanted=f"{name}: {amount:g}")
        elif amount > 0:
            rest[name] = float(amount)
    devices = (DeviceRequest(count, products=tuple(products)),) if count else ()
    return Bundle(devices, rest, dict(labels or {}))


def _gpu_count(amount: float, place: str) -> int:
    if amount <= 0:
        raise InvalidRequest(
            "A GPU count must be at least 1; leave GPU out of a bundle that needs none.",
            place=place,
            wanted=f"GPU: {amount:g}",
        )
    if amount != int(amount):
        raise InvalidRequest(
            "GPUs cannot be shared yet; ask for whole ones.",
            place=place,
            wanted=f"GPU: {amount:g}",
            available="whole numbers",
        )
    if amount > MAX_DEVICES_PER_BUNDLE:
        raise InvalidRequest(
            "No machine has that many GPUs.",
            place=place,
            wanted=f"GPU: {amount:g}",
            available=f"at most {MAX_DEVICES_PER_BUNDLE} in one bundle",
        )
    return int(amount)
