"""By what the programs of a gang share a GPU: MPS with its limits, or time slices. Immutable values.

A share says how much of a GPU a bundle has (`DeviceRequest.share`), this how its GPUs are set so that several have one.
One setting a GPU, and the same for all shares of a gang, whose GPUs nobody else has anything of.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from ray_dra.core.model.checked import text, whole
from ray_dra.core.model.device_selector import value_text
from ray_dra.errors import InvalidRequest, shown

MIB = 1 << 20
MAX_MEMORY = 1 << 62
INTERVALS = ("Default", "Short", "Medium", "Long")
MOST_CLIENTS = 48
"""Processes that MPS serves on one GPU at the same time."""


class SharingKind(enum.Enum):
    """The ways that there are. Their values are as claims, records and messages have them."""

    MPS = "MPS"
    TIME_SLICING = "TimeSlicing"


@dataclass(frozen=True, slots=True)
class PoolTerms:
    """That GPUs are a pool's: one share of each is the pool's own, and others have the rest, in thousandths of a GPU.

    Attributes:
        per_gang: how much a gang may have of the pool; 0: all that is left.
        per_program: how much all gangs of a program may have of it together; 0: all that is left.
    """

    per_gang: int = 0
    per_program: int = 0

    def check(self) -> None:
        whole(self.per_gang, "per_gang", least=0, most=MAX_MEMORY)
        whole(self.per_program, "per_program", least=0, most=MAX_MEMORY)


@dataclass(frozen=True, slots=True)
class GpuSharing:
    """See the module.

    Attributes:
        threads: of MPS: percent of a GPU's threads that a process may use at most; None: all.
        memory: of MPS: bytes of a GPU's memory that a process may have at most; 0: all.
        interval: of time slices: how long a process runs before another has its turn.
        pool: the GPUs are a pool's, of which other gangs have shares, too; None: they are the gang's own.
    """

    kind: SharingKind
    threads: int | None = None
    memory: int = 0
    interval: str = ""
    pool: PoolTerms | None = None

    def check(self) -> None:
        """Raises InvalidRequest for a field of another type or out of range, and for one that its kind has not."""
        if not isinstance(self.kind, SharingKind):
            raise InvalidRequest("This is no way to share a GPU.", place="sharing.kind", wanted=shown(self.kind))
        if self.threads is not None:
            whole(self.threads, "sharing.threads", least=1, most=100)
        whole(self.memory, "sharing.memory", least=0, most=MAX_MEMORY)
        text(self.interval, "sharing.interval", empty=True)
        if self.pool is not None:
            if not isinstance(self.pool, PoolTerms):
                raise InvalidRequest("These are no terms of a pool.", place="sharing.pool", wanted=shown(self.pool))
            self.pool.check()
        if 0 < self.memory < MIB:
            raise InvalidRequest(
                "MPS counts memory in mebibytes.",
                place="sharing.memory",
                wanted=value_text("memory", self.memory),
                available="1Mi or more",
            )
        if self.kind is SharingKind.MPS and self.interval:
            raise InvalidRequest("MPS has no time slices.", place="sharing.interval", wanted=shown(self.interval))
        if self.kind is SharingKind.TIME_SLICING:
            if self.threads is not None or self.memory:
                raise InvalidRequest(
                    "Time slices limit neither threads nor memory.",
                    place="sharing",
                    wanted=f"threads {self.threads}, memory {self.memory}",
                    available="mps(...)",
                )
            if self.interval not in INTERVALS:
                raise InvalidRequest(
                    "This time slice is not known.",
                    place="sharing.interval",
                    wanted=shown(self.interval),
                    available=", ".join(INTERVALS),
                )

    @property
    def mebibytes(self) -> int:
        """The limit of memory as MPS counts it; 0: none."""
        return self.memory // MIB

    def most_on(self, memory: int | None) -> int:
        """How many bundles of the gang may share a GPU of so many bytes, whatever their shares; None: it does not say.
        Of a pool one: what it leaves of each GPU is for others."""
        return min(1, self.clients_on(memory)) if self.pool is not None else self.clients_on(memory)

    def clients_on(self, memory: int | None) -> int:
        """How many bundles may share such a GPU, whosever they are."""
        if self.kind is SharingKind.TIME_SLICING:
            return MAX_MEMORY
        if not self.memory:
            return MOST_CLIENTS
        return min((memory or 0) // (self.mebibytes * MIB), MOST_CLIENTS)

    def __str__(self) -> str:
        if self.kind is SharingKind.TIME_SLICING:
            return f"time slices, {self.interval}"
        limits = [] if self.threads is None else [f"{self.threads} % of the threads"]
        if self.memory:
            limits.append(value_text("memory", self.memory))
        return f"MPS, {' and '.join(limits)} each" if limits else "MPS"


def why_not_shared(reasons: Iterable[tuple[str, str]], kind: SharingKind) -> str:
    """Why a node's GPUs cannot be shared in a way, of what `Node.unshared` says; "" where they can."""
    return next((why for name, why in reasons if name == kind.value), "")
