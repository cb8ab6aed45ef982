"""The coordinator's own records to bytes and back.

Neighbour: `shared_records.py`, which says what form all records have, and has those that other processes read. No other
file knows a stored form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.record_sense import LAST_MOVE, MOST_COUNTED, is_group, sense_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import MAX_DEVICES_PER_BUNDLE, WHOLE, GangRequest
from ray_dra.errors import InvalidRequest, RayDraError
from ray_dra.ports.nvml import NodeReading
from ray_dra.translate.files.sense import check_nodes, name_attributes, name_boxes, name_classes
from ray_dra.translate.files.shared_records import one_line, refuse_newer, unreadable

GANG_VERSION, NODE_VERSION = 29, 8
GPU_IDS_VERSION = 3
FAILURE_VERSION = 1
DECLARED_VERSION = 0


@dataclass(frozen=True, slots=True)
class KnownNode:
    """What is stored of a raylet's node.

    Attributes:
        node: the reading, translated, with what the raylet offers; None where there is no translation yet.
        best: the node as it was when it was last whole, where that is not `node`.
    """

    name: str
    reading: NodeReading
    node: Node | None = None
    best: Node | None = None


@dataclass(frozen=True, slots=True)
class GpuIds:
    """What is stored of a raylet's GPU ids: "<group>/<bundle>" -> GPU id -> position, and GPU id -> (position,
    pids)."""

    bundles: dict[str, dict[int, int]] = field(default_factory=dict)
    foreign: dict[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a gang was given up. `number` counts them, so that the last ones are known after a start, too; 0 did not."""

    why: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class _Declared:
    """The text that declares the queues of teams."""

    text: str


@dataclass(frozen=True, slots=True)
class _Head:
    version: int = 0


@dataclass(frozen=True, slots=True)
class Traces:
    """What can be told of a gang whose record cannot be read, as far as it is JSON at all."""

    owner: str | None = None
    group: str | None = None
    moves: int | None = None
    asks: int | None = None  # how many requests for its quota there were before the present one


_HEAD = TypeAdapter(_Head)
_GANG = TypeAdapter(Gang)
_KNOWN = TypeAdapter(KnownNode)
_GPU_IDS = TypeAdapter(GpuIds)
_FAILURE = TypeAdapter(Failure)
_DECLARED = TypeAdapter(_Declared)
_UNREADABLE = (ValidationError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)


def gang_to_bytes(gang: Gang) -> bytes:
    """Raises InvalidRequest for a gang that could not be read back: its record would be lost with the coordinator."""
    try:
        data = _versioned(GANG_VERSION, _GANG.dump_json(gang, warnings="error"))
        same = gang_from_bytes(data) == gang
    except (PydanticSerializationError, RayDraError, RecursionError) as error:
        raise _unwritable(gang, error) from error
    if not same:
        raise _unwritable(gang, "it reads back as another")
    return data


def gang_from_bytes(data: bytes) -> Gang:
    """Raises RayDraError for a record that this version cannot read."""
    gang: Gang = _gang_from_bytes(data)
    try:  # the planner would compare what cannot be, and the claim would say it
        shapes = (gang.reshape.leaves, gang.reshape.comes) if gang.reshape is not None else ()
        whole = [each.shrunk.whole for each in (gang, *shapes) if each.shrunk is not None]
        requests = (gang.request, *(shape.request for shape in shapes), *whole)
        for device in {device for request in requests for bundle in request.bundles for device in bundle.devices}:
            device.check()
    except RayDraError as error:
        raise unreadable("gang", one_line(error)) from error
    if gang.allocation is not None and not _is_for(gang.allocation, gang.request):
        raise RayDraError(
            "A stored gang's allocation is not for this gang.", wanted=gang.id, available=gang.allocation.gang
        )
    if not all(_is_for(shape.allocation, shape.request) for shape in shapes):
        raise RayDraError("A stored gang's change of shape is not for this gang.", wanted=gang.id)
    wrong = sense_of(gang)
    if wrong:
        raise RayDraError("A stored gang makes no sense.", wanted=gang.id, available=wrong)
    return gang


def _gang_from_bytes(data: bytes) -> Gang:
    if not _is_of(GANG_VERSION, data):
        try:
            told = from_json(data)
            version = told.get("version", 0) if isinstance(told, dict) else None
            if type(version) is int and 0 <= version < 13:  # not True, which is 1
                name_classes(told.get("request"))
                return _GANG.validate_json(to_json(told), strict=True)
        except _UNREADABLE as error:
            raise unreadable("gang", _said(error)) from error
    gang: Gang = _read(_GANG, data, "gang", GANG_VERSION)
    return gang


def _is_for(held: Allocation, request: GangRequest) -> bool:
    """Whether an allocation gives each bundle as many devices as it asks for, of its node and no other bundle's."""
    if held.gang != request.gang or len(held.bundles) != len(request.bundles):
        return False
    if bool(held.pool) is not request.in_pool:
        return False
    whole = set()
    shared: Counter[object] = Counter()
    for placed, bundle in zip(held.bundles, request.bundles, strict=True):
        if len(placed.grants) != bundle.count:
            return False
        for grant in placed.grants:
            if grant.node != placed.node or not 0 <= grant.position < MAX_DEVICES_PER_BUNDLE:
                return False
            if (grant.part is None) != (bundle.part is None):
                return False
            if grant.amount != bundle.share or (grant.amount is None and grant.device in whole):
                return False
            if grant.own != (bundle.sharing is not None):
                return False
            whole.add(grant.device)
            shared[grant.device] += grant.amount or 0
            if shared[grant.device] > WHOLE:
                return False
    return True


def traces_of(data: bytes) -> Traces:
    """Whatever can be told of an unreadable gang. `owner`: None where the gang may be detached."""
    try:
        found = from_json(data)
    except (ValueError, RecursionError):
        return Traces()
    if not isinstance(found, Mapping):
        return Traces()
    owner, group, moves = (found.get(name) for name in ("owner", "group", "moves"))
    quota = found.get("quota")
    asks = quota.get("asks") if isinstance(quota, Mapping) else None
    return Traces(
        owner if isinstance(owner, str) and found.get("detached") is False else None,
        group if is_group(group) else None,
        moves if type(moves) is int and 0 <= moves < 10_000 else None,
        asks if type(asks) is int and 0 <= asks <= LAST_MOVE else None,
    )


def failure_to_bytes(failure: Failure) -> bytes:
    return _versioned(FAILURE_VERSION, _FAILURE.dump_json(failure))


def failure_from_bytes(data: bytes) -> Failure:
    """Raises RayDraError for what is no reason of a version that we know."""
    what = "reason why a gang was given up"
    found: Failure = _read(_FAILURE, data, what, FAILURE_VERSION)
    if not 0 <= found.number <= MOST_COUNTED:
        raise unreadable(what, "its number is none")
    return found


def declared_to_bytes(text: str) -> bytes:
    """Of the text that declares the queues of teams."""
    return _versioned(DECLARED_VERSION, _DECLARED.dump_json(_Declared(text)))


def declared_from_bytes(data: bytes) -> str:
    """Raises RayDraError for what no version stored as declared queues."""
    found: _Declared = _read(_DECLARED, data, "declaration of queues", DECLARED_VERSION)
    return found.text


def known_to_bytes(known: KnownNode) -> bytes:
    return _versioned(NODE_VERSION, _KNOWN.dump_json(known))


def known_from_bytes(data: bytes) -> KnownNode:
    """Raises RayDraError for what is no stored node of a version that we know, and for one that cannot be."""
    known = _known_from_bytes(data)
    for node in (known.node, known.best):
        if node is not None:
            check_nodes((node,))
    return known


def _known_from_bytes(data: bytes) -> KnownNode:
    if not _is_of(NODE_VERSION, data):  # asked first: a coordinator that starts reads thousands
        try:
            if b"\n" in data:  # 0: name, reading and node, a line each
                name, reading, node = map(from_json, (line or b"null" for line in data.split(b"\n")))
                told = {"version": 0, "name": name, "reading": reading, "node": node}
            else:
                told = from_json(data)
            version = _version_of(told) if isinstance(told, dict) else None
            if version is not None and version < 6:
                nodes = told.get("node"), told.get("best")
                if version < 2:  # which kind of clique it is was not said
                    name_boxes(nodes)
                name_attributes(nodes)
                return _KNOWN.validate_json(to_json(told), strict=True)
        except _UNREADABLE as error:
            raise unreadable("node", _said(error)) from error
    known: KnownNode = _read(_KNOWN, data, "node", NODE_VERSION)
    return known


def gpu_ids_to_bytes(gpu_ids: GpuIds) -> bytes:
    return _versioned(GPU_IDS_VERSION, _GPU_IDS.dump_json(gpu_ids))


def gpu_ids_from_bytes(data: bytes) -> GpuIds:
    """Raises RayDraError for what no version stored as GPU ids, and for positions that no node can have."""
    found = _gpu_ids_from_bytes(data)
    positions = [at for given in found.bundles.values() for at in given.values()]
    if not all(len(given) > 1 for given in found.foreign.values()):
        raise unreadable("raylet's GPU ids", "a position without a process")
    positions += [at for at, *_ in found.foreign.values()]
    if any(not 0 <= at < MAX_DEVICES_PER_BUNDLE for at in positions):
        raise RayDraError(
            "A stored raylet's GPU ids name a GPU that no node has.",
            available=f"positions under {MAX_DEVICES_PER_BUNDLE}",
        )
    return found


def _gpu_ids_from_bytes(data: bytes) -> GpuIds:
    if not _is_of(GPU_IDS_VERSION, data):
        try:
            told = from_json(data)
            if isinstance(told, list):  # 0: the two, in a list
                bundles, foreign = told
                return _GPU_IDS.validate_json(to_json({"bundles": bundles, "foreign": foreign}), strict=True)
            if isinstance(told, dict) and _version_of(told) == 1:  # another name
                now = {"bundles": told["bundles"], "foreign": told["strangers"]}
                return _GPU_IDS.validate_json(to_json(now), strict=True)
        except _UNREADABLE as error:
            raise unreadable("raylet's GPU ids", _said(error)) from error
    found: GpuIds = _read(_GPU_IDS, data, "raylet's GPU ids", GPU_IDS_VERSION)
    return found


def _version_of(told: Mapping[str, Any]) -> int | None:
    version = told.get("version")
    return version if type(version) is int else None  # not True, which is 1


def _head_of(version: int) -> bytes:
    return b'{"version":%d,' % version


def _is_of(version: int, data: bytes) -> bool:
    """Whether we wrote it by this version. One that says so in other bytes is read all the same."""
    return data.startswith(_head_of(version))


def _versioned(version: int, data: bytes) -> bytes:
    return _head_of(version) + data[1:]


def _read(form: TypeAdapter[Any], data: bytes, what: str, newest: int) -> Any:
    try:
        refuse_newer(what, _HEAD.validate_json(data, strict=True).version, newest)
        return form.validate_json(data, strict=True)
    except _UNREADABLE as error:
        raise unreadable(what, _said(error)) from error


def _unwritable(gang: Gang, why: object) -> InvalidRequest:
    return InvalidRequest(
        "The gang cannot be recorded: a part of it has the wrong type, or is no text or number that can be written.",
        place=ascii(getattr(gang.request, "gang", ""))[:200],
        wanted=one_line(_said(why)),
    )


def _said(why: object) -> object:
    """Of pydantic's errors the first one, in short."""
    if not isinstance(why, ValidationError):
        return why
    first = why.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first["loc"] else first["msg"]
