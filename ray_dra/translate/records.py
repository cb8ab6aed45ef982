"""Records and readings to bytes and back; the one place that knows the stored form."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from ray_dra.core.lifecycle import Gang
from ray_dra.core.topology import Node
from ray_dra.errors import RayDraError
from ray_dra.ports import NodeReading

_GANG = TypeAdapter(Gang)
_READING = TypeAdapter(NodeReading)
_NODE = TypeAdapter(Node)


def gang_to_bytes(gang: Gang) -> bytes:
    return _GANG.dump_json(gang)


def gang_from_bytes(data: bytes) -> Gang:
    """Raises RayDraError for a record that this version cannot read."""
    try:
        return _GANG.validate_json(data)
    except ValidationError as error:
        raise RayDraError("A stored gang cannot be read; was it written by another version?") from error


def reading_to_bytes(reading: NodeReading) -> bytes:
    return _READING.dump_json(reading)


def reading_from_bytes(data: bytes) -> NodeReading:
    """Raises RayDraError for what is no reading."""
    try:
        return _READING.validate_json(data)
    except ValidationError as error:
        raise RayDraError("What the probe said is no reading.", available=repr(data[:200])) from error


def node_to_bytes(node: Node) -> bytes:
    return _NODE.dump_json(node)


def node_from_bytes(data: bytes) -> Node:
    """Raises RayDraError for what is no node."""
    try:
        return _NODE.validate_json(data)
    except ValidationError as error:
        raise RayDraError("A stored node cannot be read; was it written by another version?") from error
