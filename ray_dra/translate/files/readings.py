"""Agents' readings from the bytes that the probe writes. Apart from `records.py`, so that a node that starts reads one
without what the coordinator's records need.
"""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from ray_dra.errors import RayDraError
from ray_dra.ports.nvml import NodeReading

_READING = TypeAdapter(NodeReading)


def reading_from_bytes(data: bytes) -> NodeReading:
    """Raises RayDraError for what is no reading."""
    try:
        return _READING.validate_json(data)
    except ValidationError as error:
        raise RayDraError("What the probe said is no reading.", available=repr(data[:200])) from error
