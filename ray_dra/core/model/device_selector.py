"""What a request says of devices besides their number: a class, products, and selectors of attributes and capacities.

Names are core's own; `translate.vendors` says what each vendor's driver calls them. Immutable values; `request.py` has
them in a DeviceRequest.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from ray_dra.core.model.checked import MAX_NAME, many, one_of, text
from ray_dra.core.model.device import Device
from ray_dra.errors import InvalidRequest, shown

Version = tuple[int, int, int]
"""As DRA has it: major, minor, patch."""

Value = int | Version
"""A capacity is a number, an attribute a version."""

MEMORY, COMPUTE_CAPABILITY, DRIVER_VERSION = "memory", "computeCapability", "driverVersion"
CAPACITIES = (MEMORY,)
VERSIONS = (COMPUTE_CAPABILITY, DRIVER_VERSION)

MAX_SELECTORS = 8
MAX_VALUE = 1 << 62
MAX_PART = 1_000_000_000
"""Each number of a version is under it."""

_VERSION = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:\.([0-9]{1,9}))?")


class Operator(enum.Enum):
    AT_LEAST = ">="
    AT_MOST = "<="
    MORE = ">"
    LESS = "<"
    EQUAL = "=="
    OTHER = "!="


_COMPARE: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.AT_LEAST: ge,
    Operator.AT_MOST: le,
    Operator.MORE: gt,
    Operator.LESS: lt,
    Operator.EQUAL: eq,
    Operator.OTHER: ne,
}


@dataclass(frozen=True, slots=True)
class Selector:
    """One demand on a device: a capacity or a version, compared with a value."""

    name: str
    operator: Operator
    value: Value

    def accepts(self, device: Device) -> bool:
        """A device that does not say what it has is not accepted."""
        has = value_of(device, self.name)
        return has is not None and _COMPARE[self.operator](has, self.value)

    def check(self, place: str) -> None:
        """Raises InvalidRequest for a field of another type, an unknown name, or a value that is not its kind's."""
        text(self.name, f"{place}.name")
        one_of(Operator, self.operator, f"{place}.operator")
        value: object = self.value
        if self.name in CAPACITIES:
            good = type(value) is int and 0 <= value <= MAX_VALUE
        elif self.name in VERSIONS:
            good = isinstance(value, tuple) and len(value) == 3
            good = good and all(type(part) is int and 0 <= part < MAX_PART for part in self.value)  # type: ignore[union-attr]
        else:
            raise InvalidRequest(
                "This attribute of devices is not known.",
                place=place,
                wanted=shown(self.name),
                available=", ".join((*CAPACITIES, *VERSIONS)),
            )
        if not good:
            raise InvalidRequest(
                f"{self.name} is compared with a {'number' if self.name in CAPACITIES else 'version'}.",
                place=place,
                wanted=shown(value),
                available=f"0 to {MAX_VALUE}" if self.name in CAPACITIES else "(major, minor, patch)",
            )

    def __str__(self) -> str:
        return f"{self.name} {self.operator.value} {value_text(self.name, self.value)}"


@dataclass(frozen=True, slots=True)
class DeviceCriteria:
    """Which devices will do. What is left empty says nothing.

    Attributes:
        device_class: see `Device.device_class`; any for "".
        products: one of them, matched whole.
        selectors: all of them.
    """

    device_class: str = ""
    products: tuple[str, ...] = ()
    selectors: tuple[Selector, ...] = ()

    def accepts(self, device: Device) -> bool:
        return (
            (not self.device_class or self.device_class == device.device_class)
            and (not self.products or device.product in self.products)
            and all(selector.accepts(device) for selector in self.selectors)
        )

    def check(self) -> int:
        """The characters of its products. Raises InvalidRequest for a field of another type or out of range."""
        text(self.device_class, "device_class", empty=True)
        length = 0
        for product in many(self.products, "product", most=64):
            length += len(text(product, "product", most=MAX_NAME))
        for at, selector in enumerate(many(self.selectors, "selectors", most=MAX_SELECTORS)):
            if not isinstance(selector, Selector):
                raise InvalidRequest("A selector is a Selector.", place=f"selectors[{at}]", wanted=shown(selector))
            selector.check(f"selectors[{at}]")
        return length

    def __str__(self) -> str:
        said = [self.device_class] * bool(self.device_class)
        said += [" or ".join(self.products)] * bool(self.products)
        return ", ".join([*said, *map(str, self.selectors)])


ANY_DEVICE = DeviceCriteria()


def value_of(device: Device, name: str) -> Value | None:
    """What a device has of a capacity or version; None where it does not say."""
    if name in CAPACITIES:
        return device.capacity.get(name)
    has = device.attributes.get(name)
    return version_of(has) if isinstance(has, str) else None


@lru_cache(maxsize=1024)
def version_of(said: str) -> Version | None:
    """A version of one to three numbers, 580.95.05 and 580.95.5 alike; None for what is none."""
    found = _VERSION.fullmatch(said)
    return None if found is None else (int(found[1]), int(found[2] or 0), int(found[3] or 0))


def value_text(name: str, value: Value | None) -> str:
    """For people: bytes in the largest unit that divides them, versions with dots."""
    if value is None:
        return "unknown"
    if isinstance(value, tuple):
        return ".".join(map(str, value))
    for unit, factor in (("Gi", 1 << 30), ("G", 10**9), ("Mi", 1 << 20)):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)
