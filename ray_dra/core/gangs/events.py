"""What may happen to gangs: the events that `engine.Engine.handle` takes. Each is what somebody said or saw."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.model.request import GangRequest


class Moment(NamedTuple):
    """When an event happens. `lived`: seconds that the coordinator has lived through, by which it is patient;
    `wall`: seconds since 1970, for people."""

    lived: float
    wall: float


@dataclass(frozen=True, slots=True)
class Submitted:
    """A program asks for a gang.

    Attributes:
        wait: False: refuse at once what cannot be met now.
        looked: the world was looked at again after a first no, which is now an answer.
    """

    request: GangRequest
    name: str = ""
    namespace: str = ""
    owner: str = ""
    detached: bool = False
    wait: bool = True
    looked: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """The program has made Ray's placement group for a plan; `moves` tells which."""

    gang: str
    group: str
    moves: int


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    """Somebody gives a gang back."""

    gang: str


@dataclass(frozen=True, slots=True)
class JobsSeen:
    """The jobs that Ray lists."""

    jobs: Collection[str]


@dataclass(frozen=True, slots=True)
class WorkersDue:
    """A look has come to a gang: its workers are made a step further, where it has any to make."""

    gang: str
    seen: Observed


@dataclass(frozen=True, slots=True)
class WorkersProgressed:
    """What has come of it. Follows the action MakeWorkers."""

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
        busy: workers of its placement groups still have GPU slots.
        undone: nothing is left of workers made for it.
        why: it is given back.
    """

    gang: str
    busy: bool
    undone: bool
    why: str


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
    """How many seconds the last answer to the first gang took to find, where that was a no."""

    seconds: float


Event = (
    Submitted
    | Committed
    | ReleaseAsked
    | JobsSeen
    | WorkersDue
    | WorkersProgressed
    | GangObserved
    | WorkersLeft
    | DevicesTaken
    | NextTurn
    | TurnTook
)
