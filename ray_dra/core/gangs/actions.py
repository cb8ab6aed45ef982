"""What is to be done: the actions that `engine.Engine.handle` returns, in this order, and that the executor does.

Each may be done again after a kill, with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_dra.core.gangs.gang import Change, Gang
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.stages import StageEnded
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import Shortfall
from ray_dra.errors import RayDraError


@dataclass(frozen=True, slots=True)
class Save:
    """A record as it is from here on: into the store, then into memory.

    Attributes:
        waits_for: why the gang waits, or why it was planned again.
        could_start: since when it waits only for what it prefers, by this coordinator's time.
        keep_until: until when (monotonic seconds) the place that it leaves is kept for its program; None: it is not.
    """

    gang: Gang
    waits_for: tuple[Shortfall, ...] | None = None
    could_start: float | None = None
    keep_until: float | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """The end of a gang: the maps of its placement groups, then its record. `why`: for the log. `keep_until`: until
    when (monotonic seconds) its place is kept for its program; None: it is not."""

    gang: str
    why: str
    keep_until: float | None = None


@dataclass(frozen=True, slots=True)
class WriteMap:
    """The map from a placement group's bundles to devices, for the workers."""

    group: str
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class DeleteMap:
    group: str


@dataclass(frozen=True, slots=True)
class MakeGroup:
    """Ray's record of a placement group that is made here, under the gang's id; GroupMade follows. `again`: Ray may
    have it, or may have removed it, already."""

    gang: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class BuryGroup:
    """Tell Ray of an ordinary placement group and have it removed: whoever waits for it hears so, in Ray's words."""

    gang: str


@dataclass(frozen=True, slots=True)
class RemoveGroup:
    """Ray's placement group."""

    group: str


@dataclass(frozen=True, slots=True)
class MakeWorkers:
    """Make a gang's workers one step further; WorkersProgressed follows."""

    gang: str


@dataclass(frozen=True, slots=True)
class EndWorkers:
    """See what is left of the workers of a gang that ends; WorkersLeft follows. `why`: the reason for its end."""

    gang: str
    why: str


@dataclass(frozen=True, slots=True)
class DrainRaylets:
    """Ray's own notice, for the libraries that listen to it: the raylets of a gang's own workers end at the deadline.

    Attributes:
        ranks: the bundles whose raylets end, all at once.
        deadline: Unix time.
        why: the notice's reason.
    """

    gang: str
    ranks: tuple[int, ...]
    deadline: float
    why: str


@dataclass(frozen=True, slots=True)
class AskQuota:
    """Make the present request for a gang's quota. What the queue outside makes of it is seen at the next look."""

    gang: str


@dataclass(frozen=True, slots=True)
class Note:
    """A line in the log: what was decided or seen of a gang."""

    gang: str
    name: str
    change: Change


@dataclass(frozen=True, slots=True)
class Timed:
    """For the metrics: a stage of a gang's way to readiness has ended, or (READY) all of it has."""

    gang: str
    ended: StageEnded


@dataclass(frozen=True, slots=True)
class Tell:
    """Say what a gang has come to, where people look at the cluster. `seen`: what was observed just now."""

    gang: str
    seen: Observed | None = None


@dataclass(frozen=True, slots=True)
class TellNotice:
    """Say that a gang, or a part of it, will end, where people look at the cluster."""

    gang: str
    notice: Notice


@dataclass(frozen=True, slots=True)
class TellRepair:
    """Say what is done about a gang's fault, where people look at the cluster. `why`: what, and for which fault."""

    gang: str
    why: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """What was asked is refused, and nothing is held for it."""

    error: RayDraError


Action = (
    Save
    | Drop
    | WriteMap
    | DeleteMap
    | MakeGroup
    | BuryGroup
    | RemoveGroup
    | MakeWorkers
    | EndWorkers
    | DrainRaylets
    | AskQuota
    | Note
    | Timed
    | Tell
    | TellNotice
    | TellRepair
    | Refuse
)
