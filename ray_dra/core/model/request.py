"""What a gang asks for, and the checks that need no cluster.

Built by the api (from Ray's bundles) and read by the planner. Everything that can be said to be
wrong without looking at the hardware is refused here, before anything is held: each value checks
its own types where it is made, and `check_request` all of a request that another process made, and its size.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ray_dra.core.model.checked import MAX_NAME, flag, many, number, one_of, table, text, whole
from ray_dra.core.model.device_selector import MEMORY, DeviceCriteria, Selector
from ray_dra.core.model.gpu_sharing import GpuSharing
from ray_dra.core.model.locality import ANYWHERE, Connect, Gpus, Locality, no_locality
from ray_dra.core.model.parts import PartCriteria
from ray_dra.errors import InvalidRequest, shown

MAX_BUNDLES = 100_000

MAX_DEVICES_PER_BUNDLE = 1024

MAX_PRIORITY = 1_000_000_000
"""Priorities go from minus this to this, as those of Kubernetes' users do."""

MAX_AMOUNT = 9e14
"""Ray counts a resource in ten-thousandths, in 64 bits."""

MIN_AMOUNT = 1e-4

MAX_ENTRIES = 64
"""Most resources in a bundle, labels in a selector, and products."""

MAX_SELECTOR = 1024
"""Most characters of one label's term, e.g. in(a,b)."""

MAX_TEXT = 65536
"""Most characters of all resources, labels and products of a request; bundles that are equal count once."""

WHOLE = 1000
"""Shares of a device are counted in thousandths."""


class Strategy(enum.Enum):
    """Ray's own strategies over nodes."""

    PACK = "PACK"
    SPREAD = "SPREAD"
    STRICT_PACK = "STRICT_PACK"
    STRICT_SPREAD = "STRICT_SPREAD"


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """`count` devices of a class ("": of any) that `selectors` accept, of one of `products` when any are named (matched
    whole).

    `share`: thousandths of one device, which others may share; None for whole devices. `sharing`: the others are of the
    same gang, and share the device so. `part`: one part of a GPU that `products` and `selectors` accept; None for whole
    devices.
    """

    count: int
    device_class: str = ""
    products: tuple[str, ...] = ()
    share: int | None = None
    selectors: tuple[Selector, ...] = ()
    part: PartCriteria | None = None
    sharing: GpuSharing | None = None

    def check(self) -> int:
        """The characters of its products. Raises InvalidRequest for a field of another type or out of range."""
        whole(self.count, "bundles.devices.count", least=1, most=MAX_DEVICES_PER_BUNDLE)
        text(self.device_class, "device_class", empty=True)
        if self.share is not None:
            whole(self.share, "bundles.devices.share", least=1, most=WHOLE - 1)
        if self.part is not None:
            if not isinstance(self.part, PartCriteria):
                raise InvalidRequest("A part is what mig(...) returns.", place="part", wanted=shown(self.part))
            self.part.check()
        if self.sharing is not None:
            if not isinstance(self.sharing, GpuSharing):
                raise InvalidRequest(
                    "sharing is what mps(...) or time_slicing(...) returns.",
                    place="sharing",
                    wanted=shown(self.sharing),
                )
            self.sharing.check()
        return DeviceCriteria(self.device_class, self.products, self.selectors).check()

    @property
    def criteria(self) -> DeviceCriteria | None:
        """Which devices will do; None for any."""
        if not self.device_class and not self.products and not self.selectors:
            return None
        return DeviceCriteria(self.device_class, self.products, self.selectors)


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
            length += device.check()
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
    def whole_devices(self) -> int:
        """Devices it must have to itself; a share may lie on a device that is shared already."""
        return self.count if not self.devices or (self.share is None and self.part is None) else 0

    @property
    def criteria(self) -> DeviceCriteria | None:
        """Which devices will do; None for any. Of several requests for devices, the products of one of them will do,
        and all selectors hold."""
        if len(self.devices) == 1:
            return self.devices[0].criteria
        each = [c for d in self.devices if (c := d.criteria) is not None]
        if not each:
            return None
        return DeviceCriteria(
            max(c.device_class for c in each),
            tuple(p for c in each for p in c.products),
            tuple(dict.fromkeys(s for c in each for s in c.selectors)),
        )

    @property
    def part(self) -> PartCriteria | None:
        """Which part of a GPU it has; None where it has whole ones, or none."""
        return self.devices[0].part if self.devices else None

    @property
    def share(self) -> int | None:
        """Thousandths of its one device; None where it has whole ones."""
        return self.devices[0].share if self.devices else None

    @property
    def sharing(self) -> GpuSharing | None:
        """By what the bundles of its gang share the device of which it has a share."""
        return self.devices[0].sharing if self.devices else None


@dataclass(frozen=True, slots=True)
class GangRequest:
    """One all-or-nothing request.

    Attributes:
        gang: unique id of this request, chosen by the caller.
        exclude: nodes that must not be used, e.g. for a while after an attempt failed there.
        preemptible: may be given up for others at any time; such gangs alone are lent a clique's spare nodes.
        pool: the pool of GPUs of which its bundles have shares; of a request that says by what they are shared, the
            pool that it makes.
    """

    gang: str
    bundles: tuple[Bundle, ...]
    locality: Locality = ANYWHERE
    strategy: Strategy = Strategy.PACK
    priority: int = 0
    exclude: frozenset[str] = frozenset()
    preemptible: bool = False
    pool: str = ""

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
        """Devices that its bundles must have to themselves."""
        first = self.bundles[0]
        if self.bundles.count(first) == len(self.bundles):
            return first.whole_devices * len(self.bundles)
        return sum(b.whole_devices for b in self.bundles)

    @property
    def in_pool(self) -> bool:
        """Whether it asks for shares of a pool that is there."""
        return bool(self.pool) and self.sharing is None

    @property
    def sharing(self) -> GpuSharing | None:
        """By what its bundles share their devices; None where each has its own, and where a pool says it."""
        return next((bundle.sharing for bundle in _distinct(self.bundles) if bundle.devices), None)


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
        if (
            request.sharing is None
            and not request.pool
            and any(bundle.share is not None for bundle in _distinct(request.bundles))
        ):
            raise InvalidRequest(
                "Whoever has a share of a GPU says by what it is shared.",
                place="sharing",
                available="ray_dra.mps(...) or ray_dra.time_slicing(...)",
            )
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
    text(request.pool, "pool", empty=True)
    if not isinstance(request.exclude, frozenset) or not all(isinstance(name, str) for name in request.exclude):
        raise InvalidRequest(
            "exclude is a frozenset of names of nodes.", place="exclude", wanted=shown(request.exclude)
        )


def _check_whole(request: GangRequest) -> None:
    """What its parts say together."""
    bundles, locality = request.bundles, request.locality
    if not bundles:
        raise InvalidRequest("A gang needs at least one bundle.", place="bundles", wanted="[]")
    distinct = _distinct(bundles)
    for device in (d for b in distinct for d in b.devices):
        if device.share is not None and not (device.count == 1 and 0 < device.share < WHOLE):
            raise InvalidRequest(
                "A share is a part of one device: count 1, and between 0 and the whole.",
                place="bundles",
                wanted=f"{shown(device.share)} thousandths of {shown(device.count)}",
            )
    _check_shares(distinct, locality)
    _check_pool(request, distinct)
    _check_parts(distinct, locality)
    segment = locality.segment
    if segment is not None and len(bundles) % segment:
        raise InvalidRequest(
            f"The bundles do not divide into segments of {segment}.",
            place="locality.segment",
            wanted=f"segments of {segment}",
            available=f"{len(bundles)} bundles",
        )
    if locality.exclusive and not locality.required:
        raise InvalidRequest("Whole cliques can be required, not preferred.", place="locality", wanted=str(locality))
    if (locality.patience or locality.outside_speed is not None) and (locality.required or not locality.within_cliques):
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


def _check_shares(bundles: Sequence[Bundle], locality: Locality) -> None:
    """What shares of a gang's own GPUs cannot be: beside whole GPUs, shared in two ways, near each other by NVLink."""
    devices = [device for bundle in bundles for device in bundle.devices]
    sharing = next((device.sharing for device in devices if device.sharing is not None), None)
    if sharing is None:
        return
    if any(device.part is not None for device in devices):
        raise InvalidRequest(
            "A gang has parts of GPUs or shares of GPUs.",
            place="sharing",
            wanted=f"parts that are shared ({sharing})",
            available="part=ray_dra.mig(...) without `sharing`, or shares of GPUs without `part`",
        )
    if any(device.share is None for device in devices) or any(len(bundle.devices) > 1 for bundle in bundles):
        raise InvalidRequest(
            "With `sharing` a bundle has a share of one GPU, or none.",
            place="bundles",
            wanted=f"whole GPUs in a gang that shares its GPUs ({sharing})",
            available='a share such as {"GPU": 0.5}; whole GPUs without `sharing`, in a gang of their own',
        )
    if len({device.sharing for device in devices}) > 1:
        raise InvalidRequest(
            "A GPU is shared in one way, and so are all of a gang.",
            place="sharing",
            wanted=" and ".join(sorted({str(device.sharing) for device in devices})),
            available="a gang for each of them",
        )
    if locality.within_cliques or locality.connect is Connect.REQUIRED:
        raise InvalidRequest(
            "Shares of GPUs are placed on as few GPUs as can be, whatever NVLink joins.",
            place="locality",
            wanted=str(locality),
            available="no locality, or whole GPUs",
        )


def _check_pool(request: GangRequest, bundles: Sequence[Bundle]) -> None:
    """What a pool cannot be, nor a gang that has shares of one."""
    sharing = next((bundle.sharing for bundle in bundles if bundle.devices), None)
    in_pool = bool(request.pool) and sharing is None
    terms = sharing.pool if sharing is not None else None
    if (terms is None) != (not request.pool or in_pool):
        raise InvalidRequest(
            "A pool is made by its name and by what its GPUs are shared; who has shares of it says its name alone.",
            place="pool",
            wanted=shown(request.pool),
            available="ray_dra.pool(name, ...), or placement_group(..., pool=name) without sharing",
        )
    if not request.pool:
        return
    if request.preemptible:
        said = "Neither a pool nor a gang that has shares of one can be preempted."
        raise InvalidRequest(said, place="preemptible", wanted=shown(request.pool), available="preemptible=False")
    if not in_pool:
        return
    devices = [device for bundle in bundles for device in bundle.devices]
    if any(device.share is None for device in devices) or any(len(b.devices) > 1 for b in bundles):
        raise InvalidRequest(
            "In a pool a bundle has a share of one GPU, or none.",
            place="bundles",
            wanted="whole GPUs, or parts",
            available='a share such as {"GPU": 0.25}; whole GPUs in a gang of their own, without pool=',
        )
    locality = request.locality
    if locality.within_cliques or locality.exclusive or locality.connect is Connect.REQUIRED:
        raise InvalidRequest(
            "Shares of a pool lie on its GPUs, whatever NVLink joins.",
            place="locality",
            wanted=str(locality),
            available="no locality, or whole GPUs",
        )


def _check_parts(bundles: Sequence[Bundle], locality: Locality) -> None:
    """What parts of GPUs cannot be: several in a bundle, beside whole GPUs, linked. Each no says what is nearest."""
    devices = [device for bundle in bundles for device in bundle.devices]
    parts = [device for device in devices if device.part is not None]
    if not parts:
        if locality.gpus is not Gpus.ANY:
            raise InvalidRequest(
                "same_gpu() and spread_gpus() are for parts of GPUs.",
                place="locality",
                wanted=str(locality),
                available="part=ray_dra.mig(...), or strategy STRICT_PACK or STRICT_SPREAD for whole GPUs",
            )
        return
    if len(parts) < len(devices):
        raise InvalidRequest(
            "A gang has whole GPUs or parts of GPUs.", place="part", available="a gang for each of the two"
        )
    if not all(bundle.devices for bundle in bundles):
        raise InvalidRequest(
            "Each bundle of a gang of parts has one.",
            place="bundles",
            available='{"GPU": 1} in each; what needs no GPU in a gang of its own, or beside the GPU of a bundle',
        )
    if any(device.count != 1 for device in parts) or any(len(bundle.devices) > 1 for bundle in bundles):
        raise InvalidRequest(
            "A bundle has one part of a GPU: a process sees one.",
            place="bundles",
            wanted=f"{max(bundle.count for bundle in bundles)} parts",
            available='{"GPU": 1}, and as many bundles as parts are wanted',
        )
    for device in parts:
        if device.share is not None or device.device_class:
            raise InvalidRequest(
                "A part is no share and of no other class.", place="part", wanted=device.device_class or "a share"
            )
        if any(selector.name == MEMORY for selector in device.selectors):
            raise InvalidRequest(
                "The memory of a part is asked for by the part.",
                place="devices",
                wanted=", ".join(map(str, device.selectors)),
                available='part=ray_dra.mig(memory="20Gi")',
            )
    if locality.within_cliques or locality.connect is Connect.REQUIRED:
        raise InvalidRequest(
            "Parts of GPUs have no NVLink, so no clique and no linked devices.",
            place="locality",
            wanted=str(locality),
            available="same_gpu(), spread_gpus(), or no locality",
        )
