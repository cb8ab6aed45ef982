"""The records of the store that processes besides the coordinator read or write, and the form that all records have.

A record is a JSON object whose `version` says by which rules it was written; those of 0.1.0 have none, which counts as
0. A newer version than ours is refused whole: what it added may be what keeps two gangs apart. Every kind of record has
a version of its own; the keys are in `translate.names`.

This module knows the standard library only, since every worker process reads a map when it starts. Neighbour:
`records.py`, with the records that only the coordinator reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ray_dra.errors import RayDraError

MAP_VERSION = ASIDE_VERSION = 1
SLOT_VERSION = 3
LOCALITY_VERSION = 2  # 0: without what the address says of faults; 1: without a queue

MARK = b""
"""The value of a key that says all by being there: session/, verified/, go/. So it needs no version."""

MappedDevice = tuple[int, str | None, str, str | None]
"""A device of a map: its place in the raylet's numbering, UUID, node, clique."""


@dataclass(frozen=True, slots=True)
class PlannedSlot:
    """What a gang's pod must find by NVML on its node.

    Attributes:
        parts: of GPUs, in the order in which its raylet numbers them: the GPU's UUID, the profile, and the part's own
            UUID where it was there before the gang.
        shares: the GPU's UUID of each share of one, in the same order.
        mps: it shares its GPUs by MPS, whose clients have no more of a GPU's threads (percent; 0: all) and memory
            (mebibytes; 0: all). None: not by MPS.
    """

    uuids: tuple[str, ...]
    clique: str | None
    parts: tuple[tuple[str, str, str | None], ...] = ()
    shares: tuple[str, ...] = ()
    mps: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """A record that cannot be read, with its bytes, and why."""

    reason: str
    data: bytes


# -- map/: each bundle's devices


def map_to_bytes(bundles: Iterable[Iterable[MappedDevice]]) -> bytes:
    return _written(MAP_VERSION, bundles=[[list(device) for device in bundle] for bundle in bundles])


def map_from_bytes(data: bytes) -> list[list[MappedDevice]]:
    """Raises RayDraError for what is no map from bundles to devices of a version that we know."""
    what = "map from bundles to devices"
    found = _read(data, what, MAP_VERSION)
    try:
        bundles = found if isinstance(found, list) else found["bundles"]  # 0: the list alone
        return [[_device(device) for device in _list(bundle)] for bundle in _list(bundles)]
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(what, error) from error


def _device(told: Any) -> MappedDevice:
    position, uuid, node, clique = _list(told)
    if type(position) is not int or not isinstance(node, str):
        raise TypeError("a device is a position, a UUID, a node and a clique")
    return position, _text_or_none(uuid), node, _text_or_none(clique)


# -- slot/: what a pod must find


def slot_to_bytes(slot: PlannedSlot) -> bytes:
    return _written(
        SLOT_VERSION,
        uuids=list(slot.uuids),
        clique=slot.clique,
        parts=[list(p) for p in slot.parts],
        shares=list(slot.shares),
        mps=slot.mps,
    )


def slot_from_bytes(data: bytes) -> PlannedSlot:
    """Raises RayDraError for what is no planned slot of a version that we know."""
    found = _read(data, "slot", SLOT_VERSION)
    try:
        uuids, clique = found if isinstance(found, list) else (found["uuids"], found["clique"])  # 0: the two, in a list
        parts = found.get("parts", []) if isinstance(found, dict) else []  # up to 1 there were none
        more = found if isinstance(found, dict) else {}  # up to 2 there were no shares
        shares, mps = _texts(more.get("shares", [])), more.get("mps")
        return PlannedSlot(
            _texts(uuids),
            _text_or_none(clique),
            tuple(map(_part, _list(parts))),
            shares,
            None if mps is None else _limits(mps),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable("slot", error) from error


def _limits(told: Any) -> tuple[int, int]:
    threads, memory = _list(told)
    if type(threads) is not int or type(memory) is not int:
        raise TypeError("the limits of MPS are whole numbers")
    return threads, memory


def _part(told: Any) -> tuple[str, str, str | None]:
    parent, profile, uuid = _list(told)
    if not isinstance(parent, str) or not isinstance(profile, str):
        raise TypeError("a part is the UUID of a GPU, a profile, and a UUID or nothing")
    return parent, profile, _text_or_none(uuid)


# -- locality/: the policy of a job's ordinary placement groups


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """What the address of a job says of the locality of its ordinary placement groups, the cluster's default, what the
    address says of their faults, and the queue of a team that it names for the job's gangs and groups; "" for nothing.
    """

    address: str = ""
    default: str = ""
    on_fault: str = ""
    queue: str = ""


def policy_to_bytes(policy: JobPolicy) -> bytes:
    said = {"address": policy.address, "default": policy.default, "on_fault": policy.on_fault, "queue": policy.queue}
    return _written(LOCALITY_VERSION, **said)


def policy_from_bytes(data: bytes) -> JobPolicy:
    """Raises RayDraError for what is no policy of a version that we know."""
    found = _read(data, "policy", LOCALITY_VERSION)
    try:
        later = [found.get("on_fault", ""), found.get("queue", "")]  # 0 had neither, 1 no queue
        return JobPolicy(*_texts([found["address"], found["default"], *later]))
    except (KeyError, TypeError) as error:
        raise unreadable("policy", error) from error


# -- aside/: a record that cannot be read, whatever its bytes


def aside_to_bytes(record: SetAside) -> bytes:
    return _written(ASIDE_VERSION, reason=record.reason) + b"\n" + record.data


def aside_from_bytes(data: bytes) -> SetAside:
    """Never raises: what cannot be read was set aside already, and is shown as it is."""
    head, _, rest = data.partition(b"\n")
    if not head.startswith(b'{"version":'):  # 0: the reason as text
        return SetAside(head.decode(errors="backslashreplace"), rest)
    try:
        found = _read(head, "record that was set aside", ASIDE_VERSION)
        reason = found["reason"]
        return SetAside(reason if isinstance(reason, str) else repr(reason), rest)
    except (RayDraError, KeyError, TypeError) as error:
        return SetAside(one_line(error), data)


# -- the form


def _written(version: int, **fields: Any) -> bytes:
    return json.dumps({"version": version, **fields}, separators=(",", ":")).encode()


def _read(data: bytes, what: str, newest: int) -> Any:
    """The JSON of a record. Raises RayDraError where it is none, or of a newer version."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise unreadable(what, error) from error
    version = found.get("version", 0) if isinstance(found, dict) else 0
    if type(version) is not int:
        raise unreadable(what, "its version is no whole number")
    refuse_newer(what, version, newest)
    return found


def refuse_newer(what: str, version: int, newest: int) -> None:
    """Raises RayDraError for a version that this ray-dra does not know."""
    if version > newest:
        raise RayDraError(
            f"A stored {what} is of a newer version; start the coordinator with the version that wrote it.",
            wanted=f"version {version}",
            available=f"versions up to {newest}",
        )


def unreadable(what: str, why: object) -> RayDraError:
    return RayDraError(f"A stored {what} cannot be read.", available=one_line(why))


def one_line(why: object) -> str:
    """Short, and such that it encodes."""
    return ascii(" ".join(str(why).split()))[1:-1][:500]


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is wanted")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    found: Sequence[Any] = _list(value)
    if not all(isinstance(each, str) for each in found):
        raise TypeError("texts are wanted")
    return tuple(found)


def _text_or_none(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("a text is wanted")
    return value
