"""Signs of faults, and how severe each is: the one table that says what a sign does to planning and to gangs. Pure.

`translate` reads signs off NVML and Kubernetes, the coordinator's observer off Ray; nobody else says what they mean.
What stands for long enough to be told to a program, `core.gangs.drains` says.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ray_dra.core.model.device import Health


class Severity(enum.IntEnum):
    """What a sign does.

    INFORM: it is for people; plans are made and gangs run as without it.
    DRAIN: who has the hardware keeps it, and its program gets notice; nothing new is planned there.
    LOST: nothing is planned there, and a gang that has it is degraded.
    """

    INFORM = 1
    DRAIN = 2
    LOST = 3


class Sign(enum.Enum):
    """What was seen of a device or a node."""

    # a device's taint, by its driver or by a DeviceTaintRule
    DEVICE_TAINT_TOLD = "a device's taint of effect None"
    DEVICE_TAINT_NO_SCHEDULE = "a device's taint NoSchedule"
    DEVICE_TAINT_NO_EXECUTE = "a device's taint NoExecute"
    # what Kubernetes says of a node
    NODE_CORDONED = "a cordon"
    NODE_TAINT_PREFER = "a node's taint PreferNoSchedule"
    NODE_TAINT_NO_SCHEDULE = "a node's taint NoSchedule"
    NODE_TAINT_NO_EXECUTE = "a node's taint NoExecute"
    NODE_NOT_READY = "a node that is not ready"
    NODE_NOT_CHOSEN = "a node that the worker template does not choose any more"
    DEVICE_PLUGIN = "a node whose GPUs a device plugin offers"
    # NVSentinel
    NVSENTINEL_STATE = "NVSentinel's label, from quarantined on"
    NVSENTINEL_CONDITION = "a fatal condition of NVSentinel's"
    MAINTENANCE = "planned maintenance"
    # NVML
    XID_OF_APPLICATION = "an XID that the application brought about"
    XID_OF_HARDWARE = "an XID of the hardware"
    RECOVERY_ACTION = "a recovery action"
    REMAP_FAILED = "row remapping that failed"
    SOME_LINKS_DOWN = "some of a GPU's NVLinks down"
    ALL_LINKS_DOWN = "all of a GPU's NVLinks down"
    GPU_GONE = "a GPU that is lost"
    MIG_ON = "a GPU in MIG mode, which nobody can have whole"
    # what is not where it was
    DEVICE_GONE = "a device that is not there any more"
    LEFT_CLIQUE = "a device that left its clique"
    NODE_GONE = "a node that is gone"
    RAYLET_DRAINS = "a raylet that was there before any gang, and that Ray drains"
    NODE_SILENT = "a node of which nobody hears, or whose devices cannot be read"
    WORKER_GONE = "a worker, its pod or its raylet, that is gone"
    NOT_PLACED = "a bundle that Ray does not place again, though its raylet is there"
    ATTEMPT_FAILED = "a node on which an attempt at a gang's workers failed"


SEVERITIES: Mapping[Sign, Severity] = MappingProxyType(
    {
        Sign.DEVICE_TAINT_TOLD: Severity.INFORM,
        Sign.DEVICE_TAINT_NO_SCHEDULE: Severity.DRAIN,
        Sign.DEVICE_TAINT_NO_EXECUTE: Severity.LOST,
        Sign.NODE_CORDONED: Severity.DRAIN,
        Sign.NODE_TAINT_PREFER: Severity.INFORM,
        Sign.NODE_TAINT_NO_SCHEDULE: Severity.DRAIN,
        Sign.NODE_TAINT_NO_EXECUTE: Severity.LOST,
        Sign.NODE_NOT_READY: Severity.LOST,
        Sign.NODE_NOT_CHOSEN: Severity.INFORM,  # no fault, and no end of what runs there; its pods could not go there
        Sign.DEVICE_PLUGIN: Severity.LOST,
        Sign.NVSENTINEL_STATE: Severity.DRAIN,
        Sign.NVSENTINEL_CONDITION: Severity.DRAIN,
        Sign.MAINTENANCE: Severity.DRAIN,
        Sign.XID_OF_APPLICATION: Severity.INFORM,
        Sign.XID_OF_HARDWARE: Severity.LOST,
        Sign.RECOVERY_ACTION: Severity.DRAIN,
        Sign.REMAP_FAILED: Severity.DRAIN,  # the GPU works on; the next such error ends it
        Sign.SOME_LINKS_DOWN: Severity.INFORM,
        Sign.ALL_LINKS_DOWN: Severity.DRAIN,
        Sign.GPU_GONE: Severity.LOST,
        Sign.MIG_ON: Severity.LOST,
        Sign.DEVICE_GONE: Severity.LOST,
        Sign.LEFT_CLIQUE: Severity.LOST,
        Sign.NODE_GONE: Severity.LOST,
        Sign.RAYLET_DRAINS: Severity.DRAIN,  # nothing new runs there, for as long as it lives
        Sign.NODE_SILENT: Severity.LOST,
        Sign.WORKER_GONE: Severity.LOST,
        Sign.NOT_PLACED: Severity.LOST,
        Sign.ATTEMPT_FAILED: Severity.INFORM,  # the backend leaves it out for a while by itself
    }
)


PASSING = frozenset({Sign.NODE_NOT_READY, Sign.NODE_SILENT, Sign.DEVICE_GONE, Sign.LEFT_CLIQUE})
"""Losses that may be over by themselves within seconds: nothing is done about one before it has stood for longer."""


class Seen(NamedTuple):
    """A sign, and what was seen, for people."""

    sign: Sign
    said: str

    @property
    def severity(self) -> Severity:
        return SEVERITIES[self.sign]


def worst(seen: Iterable[Seen]) -> Seen | None:
    """The most severe, the first of equals; None where there is none."""
    return max(seen, key=lambda each: each.severity, default=None)


def health_of(seen: Seen | None) -> tuple[Health, str]:
    """A device's health and its reason, after the worst that was seen of it."""
    if seen is None or seen.severity is Severity.INFORM:
        return Health.OK, ""
    if seen.sign is Sign.GPU_GONE:
        return Health.GONE, seen.said
    return (Health.DRAIN if seen.severity is Severity.DRAIN else Health.TAINTED), seen.said


def severity_of(health: Health) -> Severity:
    """What a device's health does to a gang that has it."""
    if health is Health.OK:
        return Severity.INFORM
    return Severity.DRAIN if health is Health.DRAIN else Severity.LOST
