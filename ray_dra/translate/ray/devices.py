"""`ray_dra.gpu(...)`: what users write of devices, as core's criteria.

A demand is a comparison with a value: ">=80Gi", "< 9.0", "==580.95.05"; a value alone is ==. Capacities are Kubernetes'
quantities (80G is 80 x 10^9 bytes, 80Gi is 80 x 2^30), versions one to three numbers.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Sequence

from ray_dra.core.model.checked import MAX_NAME, many, text, whole
from ray_dra.core.model.device_selector import (
    COMPUTE_CAPABILITY,
    DRIVER_VERSION,
    MAX_SELECTORS,
    MAX_VALUE,
    MEMORY,
    DeviceCriteria,
    Operator,
    Selector,
    Value,
    version_of,
)
from ray_dra.core.model.gpu_sharing import INTERVALS, GpuSharing, SharingKind
from ray_dra.core.model.parts import PartCriteria
from ray_dra.core.model.request import WHOLE, DeviceRequest
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.quantity import quantity
from ray_dra.translate.vendors import AMD, CLASSES, NVIDIA, VENDORS, Vendor

_DEMAND = re.compile(r"\s*(>=|<=|==|!=|>|<)?\s*(\S+)\s*")


def gpu(
    *,
    memory: str | int | Sequence[str] | None = None,
    compute_capability: str | Sequence[str] | None = None,
    driver_version: str | Sequence[str] | None = None,
    product: str | Sequence[str] | None = None,
    device_class: str | None = None,
) -> DeviceCriteria:
    """Which GPUs will do, for `placement_group(..., devices=...)`. All that is named must hold.

    A text without a comparison means ==, and a version's missing numbers are 0: "80G" is no GPU with more, "580" is
    580.0.0 alone.

    Args:
        memory: of the whole GPU, e.g. ">=80G", or a number of bytes that it must have at least; several demands as a
            list: [">=40G", "<100G"]. An "80 GB" GPU has a little less than 80Gi: ask for 80G.
        compute_capability: e.g. ">=9.0".
        driver_version: of the NVIDIA driver, e.g. ">=580".
        product: name or names that will do, matched whole.
        device_class: "gpu.nvidia.com", "mig.nvidia.com", "gpu.amd.com" or "gpu.intel.com"; whatever there is where none
            is named.
            docs/kubernetes.md says why no other and what to ask for instead.

    Raises:
        InvalidRequest: no demand that can be read.
    """
    selectors = [
        *_selectors(MEMORY, memory, "memory"),
        *_selectors(COMPUTE_CAPABILITY, compute_capability, "compute_capability"),
        *_selectors(DRIVER_VERSION, driver_version, "driver_version"),
    ]
    if len(selectors) > MAX_SELECTORS:
        raise InvalidRequest(
            "There are too many demands.", place="gpu", wanted=str(len(selectors)), available=f"at most {MAX_SELECTORS}"
        )
    if device_class is not None and not (isinstance(device_class, str) and device_class in CLASSES):
        raise InvalidRequest(
            "This device class is not planned, as its CEL is not evaluated; name what it selects, e.g. a product.",
            place="device_class",
            wanted=shown(device_class),
            available=", ".join(CLASSES),
        )
    criteria = DeviceCriteria(
        device_class or "",
        product_names(product),
        tuple(selectors),
    )
    criteria.check()
    return criteria


def mig(profile: str | None = None, *, memory: str | int | None = None) -> PartCriteria:
    """Which part of a GPU each bundle has, for `placement_group(..., part=...)`: a MIG partition.

    Args:
        profile: as NVIDIA names it, e.g. "1g.10gb".
        memory: in place of a profile: the smallest part that has so much, e.g. "20Gi" or a number of bytes. A part of
            "20gb" has a little less than 20Gi: ask for "19Gi".

    Raises:
        InvalidRequest: no profile and no memory, both, or one that can be none.
    """
    return _part(profile, memory, "mig", NVIDIA, "1g.10gb")


def partition(profile: str | None = None, *, memory: str | int | None = None) -> PartCriteria:
    """Which part of a GPU each bundle has, for `placement_group(..., part=...)`: a partition of one of AMD's GPUs that
    an administrator has made.

    Args:
        profile: as AMD's driver names it, e.g. "cpx_nps4".
        memory: in place of a profile: the smallest part that has so much, e.g. "20Gi" or a number of bytes.

    Raises:
        InvalidRequest: no profile and no memory, both, or one that can be none.
    """
    return _part(profile, memory, "partition", AMD, "cpx_nps4")


def part_named(profile: object) -> PartCriteria:
    """A part by its profile, whosever it is."""
    amds = isinstance(profile, str) and AMD.profiles.fullmatch(profile)
    return partition(profile) if amds else mig(profile)  # type: ignore[arg-type]


def _part(profile: object, memory: object, call: str, vendor: Vendor, example: str) -> PartCriteria:
    """What `mig` and `partition` say."""
    if (profile is None) == (memory is None):
        raise InvalidRequest(
            "A part is named by its profile or by its memory.",
            place=call,
            wanted="both" if profile is not None else "neither",
            available=f'{call}("{example}") or {call}(memory="20Gi")',
        )
    if profile is not None:
        if not isinstance(profile, str) or not vendor.profiles.fullmatch(profile):
            said = "This is no profile of MIG." if call == "mig" else "This is no profile of AMD's partitions."
            raise InvalidRequest(said, place="profile", wanted=shown(profile), available=f"{example} and its like")
        return PartCriteria(str(profile))
    wanted = _bytes(memory)
    if wanted is None:
        raise InvalidRequest(
            "The memory of a part is a quantity.", place="memory", wanted=shown(memory), available='"20Gi", "10G"'
        )
    return PartCriteria(memory=wanted)


def check_part(part: object) -> PartCriteria | None:
    """What `part=` says."""
    if part is not None and not isinstance(part, PartCriteria):
        raise InvalidRequest(
            "part is what ray_dra.mig(...) or ray_dra.partition(...) returns.",
            place="part",
            wanted=shown(part),
            available="mig(...)",
        )
    if part is not None:
        part.check()
    return part


def mps(*, memory: str | int | None = None, threads: int | None = None) -> GpuSharing:
    """Shares of GPUs by NVIDIA's MPS, for `placement_group(..., sharing=...)`: processes run at the same time, and have
    no more memory and threads than is said here, each process for itself.

    Args:
        memory: the most that a process may have of its GPU's memory, e.g. "20Gi" or a number of bytes; None: all. Only
            so many shares lie on a GPU as have this memory there.
        threads: the most that it may use of its GPU's threads, in percent, from 1 to 100; None: all.

    Raises:
        InvalidRequest: a limit that can be none.
    """
    found = 0 if memory is None else _bytes(memory)
    if found is None:
        raise InvalidRequest(
            "The memory of a share is a quantity.", place="memory", wanted=shown(memory), available='"20Gi", "10G"'
        )
    sharing = GpuSharing(
        SharingKind.MPS, None if threads is None else whole(threads, "threads", least=1, most=100), found
    )
    sharing.check()
    return sharing


def time_slicing(interval: str = INTERVALS[0]) -> GpuSharing:
    """Shares of GPUs by time slices, for `placement_group(..., sharing=...)`: processes take turns. Nothing keeps a
    process from the memory of the others, nor their work from its faults.

    Args:
        interval: how long a turn is: "Default", "Short", "Medium" or "Long".

    Raises:
        InvalidRequest: no such interval.
    """
    sharing = GpuSharing(SharingKind.TIME_SLICING, interval=interval)
    sharing.check()
    return sharing


def check_sharing(sharing: object) -> GpuSharing | None:
    """What `sharing=` says."""
    if sharing is not None and not isinstance(sharing, GpuSharing):
        raise InvalidRequest(
            "sharing is what ray_dra.mps(...) or ray_dra.time_slicing(...) returns.",
            place="sharing",
            wanted=shown(sharing),
            available="mps(...) or time_slicing(...)",
        )
    if sharing is not None:
        sharing.check()
    return sharing


def _bytes(memory: object) -> int | None:
    """A quantity, or a number of bytes; None for anything else."""
    wanted: float | None = None
    if isinstance(memory, numbers.Integral) and not isinstance(memory, bool):
        wanted = int(memory)
    elif isinstance(memory, str):
        try:
            wanted = quantity(memory)
        except ValueError:
            wanted = None
    return None if wanted is None or not 1 <= wanted <= MAX_VALUE else int(wanted)


def product_names(product: object) -> tuple[str, ...]:
    """The products of a request: one name, several, or none."""
    if product is None:
        return ()
    names = (product,) if isinstance(product, str) else many(product, "product", most=64)
    return tuple(text(name, "product") for name in names)


def criteria_from(devices: object, product: object) -> DeviceCriteria:
    """What `devices=` and its shorthand `product=` say together."""
    names = product_names(product)
    if devices is None:
        return DeviceCriteria(products=names)
    if not isinstance(devices, DeviceCriteria):
        raise InvalidRequest(
            "devices is what ray_dra.gpu(...) returns.", place="devices", wanted=shown(devices), available="gpu(...)"
        )
    devices.check()
    if names and devices.products:
        raise InvalidRequest("The product is given twice.", place="product", wanted=shown(product), available="once")
    return DeviceCriteria(devices.device_class, names or tuple(devices.products), tuple(devices.selectors))


def request_for(
    amount: int | float,
    criteria: DeviceCriteria,
    part: PartCriteria | None = None,
    sharing: GpuSharing | None = None,
) -> DeviceRequest:
    """So many devices; a share of one, where the amount is less than 1."""
    device_class = criteria.device_class
    if part is not None and device_class in VENDORS:
        device_class = ""  # a part is of such a GPU, whatever class it has itself
    share = round(amount * WHOLE) if amount < 1 else None
    count = 1 if amount < 1 else int(amount)
    return DeviceRequest(count, device_class, criteria.products, share, criteria.selectors, part, sharing)


def _selectors(name: str, demands: object, place: str) -> list[Selector]:
    if demands is None:
        return []
    if name == MEMORY and isinstance(demands, numbers.Integral) and not isinstance(demands, bool):
        return [Selector(name, Operator.AT_LEAST, whole(demands, place, least=0, most=MAX_VALUE))]
    if isinstance(demands, str) or not isinstance(demands, Sequence):  # YAML reads 9.0 as a number
        return [_selector(name, demands, place)]
    return [_selector(name, demand, place) for demand in many(demands, place, most=MAX_SELECTORS)]


def _selector(name: str, demand: object, place: str) -> Selector:
    found = _DEMAND.fullmatch(text(demand, place, most=MAX_NAME)) if isinstance(demand, str) else None
    value = None if found is None else _value(name, found[2])
    if found is None or value is None:
        raise InvalidRequest(
            f"{place} is a comparison.",
            place=place,
            wanted=shown(demand),
            available='">=80G", "<80Gi"' if name == MEMORY else '">=9.0", "==580.95.05"',
        )
    return Selector(name, Operator(found[1] or "=="), value)


def _value(name: str, said: str) -> Value | None:
    if name != MEMORY:
        return version_of(said)
    try:
        found = quantity(said)
    except ValueError:
        return None
    part = 0 < found < 1  # of a byte: 80m are 80 thousandths, and would be met by every GPU
    return int(found) if found <= MAX_VALUE and not part else None
