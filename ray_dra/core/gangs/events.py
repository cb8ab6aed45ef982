"""What may happen to gangs: the events that `engine.Engine.handle` takes. Each is what somebody said or saw."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.gangs.quota import Answer
from ray_dra.core.gangs.team_queues import TeamQueues
from ray_dra.core.model.request import GangRequest


class Moment(NamedTuple):
    """When an event happens. `lived`: seconds that the coordinator has lived through, by which it is patient;
    `wall`: seconds since 1970, for people."""

    lived: float
    wall: float


@dataclass(frozen=True, slots=True)
class Submitted:
    """A program asks for a gang. `looked`: the world was looked at again after a first no, which is now an answer;
    `queue`: the queue outside that it is to be paid from, "" for none."""

    order: Order
    looked: bool = False
    queue: str = ""


@dataclass(frozen=True, slots=True)
class QueuesDeclared:
    """An operator has declared these queues of teams, in place of those before."""

    queues: TeamQueues


@dataclass(frozen=True, slots=True)
class Committed:
    """The program has made Ray's placement group for a plan; `moves` tells which."""

    gang: str
    group: str
    moves: int


@dataclass(frozen=True, slots=True)
class GroupMade:
    """What Ray said to a placement group that was made here. Follows the action MakeGroup.

    Attributes:
        removed: Ray had it already, and has removed it.
        refused: why Ray did not take it; "" where it did.
    """

    gang: str
    removed: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    """Somebody gives a gang back."""

    gang: str


@dataclass(frozen=True, slots=True)
class ReshapeAsked:
    """A program wants another shape of its gang.

    Attributes:
        request: the next shape, under the gang's id.
        timeout: seconds for Ray to place it.
        grace: seconds after which what still runs in the old shape is ended.
        keep: what the next shape does not use stays the gang's.
    """

    gang: str
    request: GangRequest
    timeout: float
    grace: float
    seen: Observed
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A program says that a gang's work is saved as of now."""

    gang: str


@dataclass(frozen=True, slots=True)
class JobsSeen:
    """The jobs that Ray lists, and of the actors that keep ordinary placement groups those that have ended."""

    jobs: Collection[str]
    ended_actors: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class WorkersDue:
    """It is a gang's turn within a look: if workers are made for it, they are made one step further."""

    gang: str
    seen: Observed


@dataclass(frozen=True, slots=True)
class WorkersProgressed:
    """How far a gang's workers have come. Follows the action MakeWorkers."""

    gang: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class GangObserved:
    """What the world says of a gang, after its workers' step."""

    gang: str
    seen: Observed


@dataclass(frozen=True, slots=True)
class WorkersLeft:
    """What is left of a gang that is given back. Follows the action EndWorkers.

    Attributes:
        busy: workers of its placement groups still have GPU ids.
        undone: nothing is left of workers made for it.
        why: the reason for giving it back.
    """

    gang: str
    busy: bool
    undone: bool
    why: str


@dataclass(frozen=True, slots=True)
class QuotaAnswered:
    """What the queue that a gang is paid from says of its request now."""

    gang: str
    answer: Answer
    seen: Observed


@dataclass(frozen=True, slots=True)
class DevicesTaken:
    """Work of others had to take a device that a gang holds."""

    gang: str
    seen: Observed


@dataclass(frozen=True, slots=True)
class NextTurn:
    """There is time for the first gang in the queue."""


@dataclass(frozen=True, slots=True)
class TurnTook:
    """The last answer to the first gang was a no, and took so many seconds to find."""

    seconds: float


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """To plan the gang whose turn it was met a fault of ours."""

    fault: str


Event = (
    Submitted
    | QueuesDeclared
    | Committed
    | GroupMade
    | ReleaseAsked
    | ReshapeAsked
    | Checkpointed
    | JobsSeen
    | WorkersDue
    | WorkersProgressed
    | GangObserved
    | WorkersLeft
    | QuotaAnswered
    | DevicesTaken
    | NextTurn
    | TurnTook
    | TurnFailed
)
