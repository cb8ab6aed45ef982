"""A cluster as a file: what the planner knows of it, so that a decision can be repeated elsewhere.

JSON or YAML; fields with their usual values are left out. `inventory_of(snapshot_of(inventory))` gives the
same answers as the inventory did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ray_dra.core.allocation import Allocation
from ray_dra.core.devices import bits
from ray_dra.core.inventory import Inventory
from ray_dra.core.limits import NO_LIMITS, Limits
from ray_dra.core.request import GangRequest, Locality, Strategy
from ray_dra.core.topology import Node
from ray_dra.errors import InvalidSnapshot
from ray_dra.translate.bundles import request_from_bundles

VERSION = 1


@dataclass(frozen=True, slots=True)
class Others:
    """What work outside the gangs has on a node: GPUs by position, and amounts of other resources."""

    devices: tuple[int, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """See the module. `gangs` are the allocations that are held; `others` is by node."""

    nodes: tuple[Node, ...]
    gangs: tuple[Allocation, ...] = ()
    others: Mapping[str, Others] = field(default_factory=dict)
    limits: Limits = NO_LIMITS
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class RequestFile:
    """A gang as a file says it; see the fields of GangRequest and Locality."""

    bundles: tuple[Mapping[str, float], ...]
    count: int = 1  # the bundles, so many times over
    strategy: Strategy = Strategy.PACK
    locality: Locality = field(default_factory=Locality)
    product: tuple[str, ...] = ()
    priority: int = 0
    preemptible: bool = False


_SNAPSHOT = TypeAdapter(Snapshot)
_REQUEST = TypeAdapter(RequestFile)


def snapshot_of(inventory: Inventory) -> Snapshot:
    """The inventory as plain values."""
    gangs = (inventory.allocation(gang) for gang in inventory.gangs)
    return Snapshot(
        nodes=tuple(seat.node for seat in sorted(inventory.seats.values(), key=lambda s: s.key)),
        gangs=tuple(a for a in gangs if a is not None),
        others={
            seat.name: Others(bits(seat.busy), dict(seat.used_by_others))
            for seat in inventory.seats.values()
            if seat.busy or any(seat.used_by_others.values())
        },
        limits=inventory.limits,
    )


def inventory_of(snapshot: Snapshot) -> Inventory:
    """An inventory that answers as the one in the snapshot.

    Raises:
        InvalidSnapshot: two gangs hold one device, or the like.
    """
    inventory = Inventory(snapshot.nodes, snapshot.limits)
    for name, others in snapshot.others.items():
        inventory.set_others(name, sum(1 << at for at in others.devices), others.resources)
    for allocation in snapshot.gangs:
        try:
            inventory.hold(allocation)
        except ValueError as error:
            raise InvalidSnapshot("The snapshot contradicts itself.", place=allocation.gang) from error
    return inventory


def dump_snapshot(snapshot: Snapshot) -> str:
    """YAML, for people and for `load_snapshot`."""
    plain = _SNAPSHOT.dump_python(snapshot, mode="json", exclude_defaults=True)
    plain["version"] = VERSION
    return yaml.dump(plain, Dumper=_DUMPER, sort_keys=False, default_flow_style=None, width=120)


def load_snapshot(text: str) -> Snapshot:
    """From JSON or YAML. Raises InvalidSnapshot for what is neither, or not a snapshot."""
    found: Snapshot = _checked(_SNAPSHOT, text, "a cluster snapshot")
    if found.version != VERSION:
        raise InvalidSnapshot(
            "The snapshot was written by another version.", wanted=str(VERSION), available=str(found.version)
        )
    return found


def load_request(text: str) -> GangRequest:
    """A gang from JSON or YAML: `bundles` as Ray has them, `count`, `strategy`, `locality`, `product`, `priority`.

    Raises:
        InvalidSnapshot: no such file.
        InvalidRequest: a gang that can never be right.
    """
    found: RequestFile = _checked(_REQUEST, text, "a gang request")
    request = request_from_bundles(
        list(found.bundles) * found.count,
        strategy=found.strategy.value,
        locality=found.locality,
        product=found.product,
        priority=found.priority,
    )
    return replace(request, preemptible=found.preemptible)


def read_snapshot(path: Path | str) -> Snapshot:
    """Raises InvalidSnapshot where the file cannot be read, or is none."""
    return load_snapshot(_text(path))


def read_request(path: Path | str) -> GangRequest:
    """See `load_request`; raises InvalidSnapshot where the file cannot be read, too."""
    return load_request(_text(path))


def _text(path: Path | str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise InvalidSnapshot("The file cannot be read.", place=str(path)) from error


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _checked(adapter: TypeAdapter[Any], text: str, what: str) -> Any:
    try:
        return adapter.validate_python(yaml.load(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        raise InvalidSnapshot(f"This is neither JSON nor YAML; {what} was expected.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidSnapshot(f"This is not {what}: {first['msg']}.", place=place) from error
