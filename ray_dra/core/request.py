"""What a gang asks for, and the checks that need no cluster.

Built by the api (from Ray's bundles) and read by the planner. Everything that can be said to be
wrong without looking at the hardware is refused here, before anything is held: each value checks
its own types where it is made, and `check_request` all of a request that another process made, and its size.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ray_dra.core.checked import MAX_NAME, flag, many, number, one_of, table, text, whole
from ray_dra.errors import InvalidRequest, shown

MAX_BUNDLES = 100_000
MAX_DEVICES_PER_BUNDLE = 1024
MAX_CLIQUES = 1_000_000
"""Of `at_most_cliques`, and of bundles in a segment."""
MAX_PRIORITY = 1_000_000_000
"""Priorities go from minus this to this, as those of Kubernetes' users do."""
MAX_PATIENCE = 365 * 86400.0
MAX_AMOUNT = 9e14
"""Ray counts a resource in ten-thousandths, in 64 bits."""
MIN_AMOUNT = 1e-4
MAX_ENTRIES = 64
"""Of resources in a bundle, of labels in a selector, and of products."""
MAX_SELECTOR = 1024
"""Characters of one label's term, e.g. in(a,b)."""
MAX_TEXT = 65536
"""Characters of all resources, labels and products of a request; bundles that are equal count once."""

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

    def __post_init__(self) -> None:
        self.check()
        for name, kind in (("cliques", int), ("segment", int), ("patience", float)):  # numpy's as Python's own
            if (value := getattr(self, name)) is not None and type(value) is not kind:
                object.__setattr__(self, name, kind(value))

    def check(self) -> None:
        """Raises InvalidRequest for a field of another type or out of range."""
        for name in ("cliques", "segment"):
            if getattr(self, name) is not None:
                whole(getattr(self, name), f"locality.{name}", least=1, most=MAX_CLIQUES)
        number(self.patience, "locality.patience", least=0.0, most=MAX_PATIENCE)
        flag(self.required, "locality.required")
        flag(self.exclusive, "locality.exclusive")
        one_of(Connect, self.connect, "locality.connect")

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
            parts.append(f"(preferred, waited for {self.patience:g} s)" if self.patience else "(preferred)")
        if self.connect is not Connect.PREFERRED:
            parts.append({"any": "any devices", "required": "linked devices"}[self.connect.value])
        return " ".join(parts) or "anywhere"


ANYWHERE = Locality()


def _contradiction(why: str, a: Locality, b: Locality) -> InvalidRequest:
    return InvalidRequest(f"The localities contradict each other: {why}.", place="locality", wanted=f"{a} & {b}")


def no_locality(value: object) -> InvalidRequest:
    """The error for what stands where a Locality should."""
    return InvalidRequest(
        "locality is made by same_clique() and its like.",
        place="locality",
        wanted=shown(value),
        available="same_clique, at_most_cliques, linked_devices, best_connected, and two of them by &",
    )


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """`count` devices of a class, of one of `products` when any are named (matched whole).

    `share`: thousandths of one device, which others may share; None for whole devices.
    """

    count: int
    device_class: str = "gpu.nvidia.com"
    products: tuple[str, ...] = ()
    share: int | None = None

    def check(self) -> None:
        """Raises InvalidRequest for a field of another type or out of range."""
        whole(self.count, "bundles.devices.count", least=1, most=MAX_DEVICES_PER_BUNDLE)
        text(self.device_class, "bundles.devices.device_class")
        for product in many(self.products, "product", most=MAX_ENTRIES):
            text(product, "product")
        if self.share is not None:
            whole(self.share, "bundles.devices.share", least=1, most=WHOLE - 1)


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

    def __hash__(self) -> int:
        """Of all that makes two bundles differ: thousands that differ in their CPUs alone must not collide."""
        return hash((self.devices, frozenset(self.resources.items()), frozenset(self.labels.items())))

    def check(self) -> int:
        """The characters of its texts. Raises InvalidRequest for a field of another type or out of range."""
        length = 0
        for device in many(self.devices, "bundles.devices", most=MAX_ENTRIES):
            if not isinstance(device, DeviceRequest):
                raise InvalidRequest("A bundle's devices are DeviceRequests.", place="bundles", wanted=shown(device))
            device.check()
            length += sum(map(len, device.products))
        for name, amount in table(self.resources, "bundles.resources", most=MAX_ENTRIES).items():
            length += len(text(name, "bundles.resources"))
            number(amount, f"bundles.resources[{shown(name)}]", least=0.0, most=MAX_AMOUNT)
        for name, term in table(self.labels, "bundles.labels", most=MAX_ENTRIES).items():
            length += len(text(name, "bundles.labels", most=MAX_NAME + 64))
            length += len(text(term, f"bundles.labels[{shown(name)}]", most=MAX_SELECTOR, empty=True))
        return length

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
        _check_fields(self)
        if type(self.priority) is not int:  # numpy's
            object.__setattr__(self, "priority", int(self.priority))
        _check_whole(self)

    @property
    def device_count(self) -> int:
        first = self.bundles[0]
        if self.bundles.count(first) == len(self.bundles):
            return first.count * len(self.bundles)
        return sum(b.count for b in self.bundles)

    @property
    def whole_devices(self) -> int:
        """Devices that it must have to itself; shares may lie on devices that are shared already."""
        first = self.bundles[0]
        if self.bundles.count(first) == len(self.bundles):
            return first.count * len(self.bundles) if first.share is None else 0
        return sum(b.count for b in self.bundles if b.share is None)


def check_request(request: object) -> GangRequest:
    """The same request, if it keeps every rule of the model: types, ranges, sizes.

    For what comes out of another process: unpickling checks nothing.

    Raises:
        InvalidRequest: it does not; names the field.
    """
    if not isinstance(request, GangRequest):
        raise InvalidRequest("This is no GangRequest.", place="request", wanted=shown(request))
    try:
        _check_fields(request)
        many(request.bundles, "bundles", most=MAX_BUNDLES)
        request.locality.check()
        length = 0
        known = set()
        for bundle in _distinct(request.bundles):
            size = bundle.check()
            key = (bundle.devices, tuple(bundle.resources.items()), tuple(bundle.labels.items()))
            if key not in known:
                known.add(key)
                check_text_length(length := length + size)
        _check_whole(request)
        if request.device_count == 0:
            raise InvalidRequest(
                "No bundle asks for a GPU; use ray.util.placement_group for gangs without GPUs.", place="bundles"
            )
    except (AttributeError, TypeError) as error:  # a field that is not even there
        raise InvalidRequest("This is no whole GangRequest.", place="request") from error
    return request


def check_text_length(length: int) -> None:
    """Raises InvalidRequest where the texts of a request are too long together."""
    if length > MAX_TEXT:
        raise InvalidRequest(
            "The names of resources, labels and products are too long together.",
            place="bundles",
            wanted=f"more than {MAX_TEXT} characters in different bundles",
            available=f"{MAX_TEXT} characters",
        )


def _distinct(bundles: Sequence[Bundle]) -> list[Bundle]:
    """Equal bundles are mostly one object."""
    return list({id(b): b for b in bundles}.values())


def _check_fields(request: GangRequest) -> None:
    """The types of the request's own fields, of which everything else depends."""
    text(request.gang, "gang")
    if not isinstance(request.bundles, tuple) or not all(isinstance(b, Bundle) for b in _distinct(request.bundles)):
        raise InvalidRequest("bundles are a tuple of Bundle.", place="bundles", wanted=shown(request.bundles))
    if not isinstance(request.locality, Locality):
        raise no_locality(request.locality)
    one_of(Strategy, request.strategy, "strategy")
    whole(request.priority, "priority", least=-MAX_PRIORITY, most=MAX_PRIORITY)
    flag(request.preemptible, "preemptible")
    if not isinstance(request.exclude, frozenset) or not all(isinstance(name, str) for name in request.exclude):
        raise InvalidRequest(
            "exclude is a frozenset of names of nodes.", place="exclude", wanted=shown(request.exclude)
        )


def _check_whole(request: GangRequest) -> None:
    """What its parts say together."""
    bundles, locality = request.bundles, request.locality
    if not bundles:
        raise InvalidRequest("A gang needs at least one bundle.", place="bundles", wanted="[]")
    for device in (d for b in _distinct(bundles) for d in b.devices):
        if device.share is not None and not (device.count == 1 and 0 < device.share < WHOLE):
            raise InvalidRequest(
                "A share is a part of one device: count 1, and between 0 and the whole.",
                place="bundles",
                wanted=f"{device.share / WHOLE:g} of {device.count}",
            )
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
    if locality.patience and (locality.required or not locality.within_cliques):
        raise InvalidRequest(
            "Patience is for what is preferred of cliques; what is required is waited for anyway.",
            place="locality.patience",
            wanted=str(locality),
        )
    if request.strategy is Strategy.STRICT_PACK and locality.segment is not None and locality.segment < len(bundles):
        raise InvalidRequest(
            "STRICT_PACK puts all bundles on one node, so they cannot be split into segments.",
            place="strategy",
            wanted=f"STRICT_PACK with {locality}",
        )


def bundle_from_resources(
    resources: Mapping[str, float], *, index: int, products: Sequence[str] = (), labels: Mapping[str, str] | None = None
) -> Bundle:
    """A Bundle from Ray's dict, e.g. {"GPU": 4, "CPU": 8}; `index` is for the message.

    Raises:
        InvalidRequest: empty, not numbers, less than Ray counts or more, or a GPU count that is zero, negative or
            fractional.
    """
    place = f"bundles[{index}]"
    if not table(resources, place, most=MAX_ENTRIES):
        raise InvalidRequest("A bundle is a non-empty dict of resources.", place=place, wanted=shown(resources))
    rest: dict[str, float] = {}
    count = 0
    for name, value in resources.items():
        at = f"{place}[{shown(name)}]"
        name = text(name, f"a resource of {place}")
        amount = number(value, at, least=-MAX_AMOUNT, most=MAX_AMOUNT)
        if name == "GPU":
            count = _gpu_count(amount, place)
        elif amount < 0 or (amount == 0 and len(resources) == 1):
            raise InvalidRequest(f"{name} must be more than 0.", place=place, wanted=f"{name}: {amount:g}")
        elif 0 < amount < MIN_AMOUNT:
            raise InvalidRequest(
                f"{at} is less than Ray counts.", place=at, wanted=f"{amount:g}", available=f"at least {MIN_AMOUNT:g}"
            )
        elif amount > 0:
            rest[name] = amount
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
