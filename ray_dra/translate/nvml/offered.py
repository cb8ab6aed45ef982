"""Which parts of GPUs a raylet offers as its GPUs: those of its node that it may see, in the order of its GPU ids.

For raylets that were made for no gang; those of gangs are told what was planned (`processes/join_gang.py`). Ray counts
a GPU in parts as one, so the start hook tells it the parts. A task has one of them for each GPU that Ray gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ray_dra.core.model.node import Node


class OfferedPart(NamedTuple):
    """A part that a raylet offers: its UUID, or what it was planned by, and its profile."""

    uuid: str
    profile: str


def offered_parts(node: Node | None, visible: str | None) -> tuple[OfferedPart, ...] | None:
    """The parts of GPUs that a raylet may see; none where it has whole GPUs alone, None where it has both.

    Args:
        visible: its CUDA_VISIBLE_DEVICES: indices and UUIDs of GPUs, UUIDs of parts, or how these begin; None for all.
    """
    parted = {gpu.uuid: gpu for gpu in (node.parted if node is not None else ())}
    names: dict[str, list[OfferedPart] | None] = {}  # None: a whole GPU
    for device in node.devices if node is not None else ():
        gpu = parted.get(device.uuid or "")
        parts = [OfferedPart(part.uuid or "", part.profile) for part in gpu.parts] if gpu is not None else None
        names[str(device.index)] = names[device.uuid or ""] = parts
        names |= {part.uuid: [part] for part in parts or ()}
    found: dict[OfferedPart, None] = {}
    wholes = False
    for name in names if visible is None else filter(None, visible.split(",")):
        known = name if name in names else next((full for full in names if name and full.startswith(name)), None)
        if known is None:
            break  # as CUDA does: what comes after a name that nobody has is not seen
        wholes = wholes or names[known] is None
        found |= dict.fromkeys(names[known] or ())
    if wholes and found:
        return None
    return tuple(found)


def numbers_of_parts(profiles: Sequence[str], named: Sequence[tuple[str, int]]) -> list[int]:
    """The GPU ids of parts by what a task has of Ray's resources of parts.

    Args:
        profiles: of the raylet's parts, by GPU id.
        named: profile, and which of those of the profile it is, from 0.
    """
    return [[at for at, each in enumerate(profiles) if each == profile][number] for profile, number in named]
