"""Parts of a GPU: MIG partitions, those that are there and those that can be made. Immutable values.

A part is no `Device` of its node: devices are what is given out whole, and a GPU of which a part is taken cannot be.
Neighbours: `node.py` has a node's parted GPUs; `cluster/gpu_parts.py` knows which parts go together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ray_dra.core.model.checked import text, whole
from ray_dra.core.model.device import Attribute, DeviceId, Health
from ray_dra.core.model.device_selector import value_text
from ray_dra.errors import InvalidRequest

MAX_PROFILE = 64
MAX_MEMORY = 1 << 62


@dataclass(frozen=True, slots=True)
class Part:
    """A partition at one place of its GPU.

    Attributes:
        profile: e.g. 1g.10gb.
        uuid: of one that is there; None for one that is made when a claim gets it, and has another UUID each time.
        memory: bytes.
        consumes: (counter of its GPU, amount) that it uses up when it is taken.
    """

    id: DeviceId
    profile: str
    uuid: str | None = None
    memory: int = 0
    consumes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PartedGpu:
    """A GPU that is given out in parts.

    Attributes:
        uuid: the GPU's own.
        parts: in the order in which Kubernetes' allocator tries them.
        counters: (counter, amount) that its parts share; those that are there share none.
        position: of the GPU among the node's devices; None: it is not offered whole.
        attributes, health, health_reason: of a GPU that is not offered whole; the others' are their devices'.
    """

    uuid: str
    parts: tuple[Part, ...]
    counters: tuple[tuple[str, int], ...] = ()
    position: int | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict, hash=False)
    health: Health = Health.OK
    health_reason: str = ""


@dataclass(frozen=True, slots=True)
class PartCriteria:
    """Which part of a GPU will do: one of a profile, or the smallest with so many bytes."""

    profile: str = ""
    memory: int = 0

    def check(self) -> None:
        """Raises InvalidRequest for a field of another type, for both, and for neither."""
        text(self.profile, "part.profile", empty=True, most=MAX_PROFILE)
        whole(self.memory, "part.memory", least=0, most=MAX_MEMORY)
        if bool(self.profile) == bool(self.memory):
            raise InvalidRequest(
                "A part is named by its profile or by its memory.",
                place="part",
                wanted=f"{self.profile or 'no profile'} and {self.memory or 'no'} bytes",
                available="one of the two",
            )

    def __str__(self) -> str:
        return profile_text(self.profile) if self.profile else f"MIG with {value_text('memory', self.memory)}"


class GrantedPart(NamedTuple):
    """What of a GPU a grant is: a part of a profile, of the GPU with this UUID."""

    profile: str
    parent: str


ProfileOrder = tuple[int, int, str]

_PROFILE = re.compile(r"(?:[0-9]+c\.)?([0-9]+)g\.([0-9]+)gb.*")


def profile_text(profile: str) -> str:
    """For people. What is no profile of MIG is told by its own name."""
    return f"MIG {profile}" if _PROFILE.fullmatch(profile) else profile


def profile_order(profile: str) -> ProfileOrder:
    """Sorts profiles as a claim has them, the largest first."""
    found = _PROFILE.fullmatch(profile)
    return (-int(found[1]), -int(found[2]), profile) if found else (0, 0, profile)
