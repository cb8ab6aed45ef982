"""A gang's life: what is recorded of it, the phase read off that, and what to do next.

No phase is stored. A coordinator that starts again reads the records and looks at Ray, and `phase` and
`next_step` say the same as before: level-triggered, never edge-triggered.

    queued -> [provisioning ->] held -> placing -> ready <-> degraded
       ^            |            |         |         |          |
       '------------+------------+---------'         '----------+--> releasing -> gone
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest


class Phase(enum.Enum):
    QUEUED = "queued"  # waits for its turn, or for room
    PROVISIONING = "provisioning"  # devices held; on Kubernetes, workers with them are being made
    HELD = "held"  # devices held, no placement group yet
    PLACING = "placing"  # the placement group exists and waits for Ray
    READY = "ready"
    DEGRADED = "degraded"  # a node or device of it is lost; its other devices stay its own
    RELEASING = "releasing"  # asked to go; Ray still ends its workers
    GONE = "gone"


ALLOWED: dict[Phase, frozenset[Phase]] = {
    Phase.QUEUED: frozenset({Phase.PROVISIONING, Phase.HELD, Phase.RELEASING, Phase.GONE}),
    Phase.PROVISIONING: frozenset({Phase.HELD, Phase.QUEUED, Phase.DEGRADED, Phase.RELEASING, Phase.GONE}),
    Phase.HELD: frozenset(
        {
            Phase.PLACING,
            Phase.READY,
            Phase.QUEUED,
            Phase.PROVISIONING,
            Phase.DEGRADED,
            Phase.RELEASING,
            Phase.GONE,
        }
    ),
    Phase.PLACING: frozenset(
        {Phase.READY, Phase.QUEUED, Phase.PROVISIONING, Phase.DEGRADED, Phase.RELEASING, Phase.GONE}
    ),
    Phase.READY: frozenset({Phase.DEGRADED, Phase.PLACING, Phase.RELEASING, Phase.GONE}),
    Phase.DEGRADED: frozenset({Phase.READY, Phase.PLACING, Phase.QUEUED, Phase.RELEASING, Phase.GONE}),
    Phase.RELEASING: frozenset({Phase.GONE}),
    Phase.GONE: frozenset(),
}
"""Every change of phase that may happen."""


HOLD_SECONDS = 30.0  # from planned to a placement group: three calls of the driver
PLACE_SECONDS = 3.0  # from a placement group to its bundles placed, before looking elsewhere
WORKERS_SECONDS = 20.0  # the same patience for a gang that brought its own workers: elsewhere costs new ones
MOST_MOVES = 5


@dataclass(frozen=True, slots=True)
class Gang:
    """What is recorded of a gang; one key in the store, replaced in one step.

    Attributes:
        sequence: order of arrival.
        owner: Ray's job id; the gang is given back when the job ends, unless `detached`.
        moves: how often it was planned again elsewhere.
        group: Ray's placement group id, once it exists; `attempt` tells the groups of one gang apart.
        releasing: asked to go; final.
        failed: why it was given up, for whoever waits for it; empty where it was not.
    """

    request: GangRequest
    sequence: int
    name: str = ""
    namespace: str = ""
    owner: str = ""
    detached: bool = False
    moves: int = 0
    allocation: Allocation | None = None
    group: str | None = None
    releasing: bool = False
    old_groups: tuple[str, ...] = field(default=())
    failed: str = ""

    @property
    def id(self) -> str:
        return self.request.gang


@dataclass(frozen=True, slots=True)
class Observed:
    """What the world says of a gang.

    Attributes:
        group_state: Ray's state of its placement group; None while Ray has not been asked.
        owner_alive: whether the job that owns it runs.
        busy: whether workers of its groups still have GPU slots.
        lost: what of it is missing, e.g. "node n1 is lost".
        held_for: seconds since it was planned, or since its workers were there.
        provisioned: its workers are there; always so where nobody makes workers.
        patience: seconds for Ray to place the bundles before looking elsewhere.
        own_workers: the gang's workers were made for it, so that where others' work took them it has new ones made.
    """

    group_state: str | None = None
    owner_alive: bool = True
    busy: bool = False
    lost: tuple[str, ...] = ()
    held_for: float = 0.0
    provisioned: bool = True
    patience: float = PLACE_SECONDS
    own_workers: bool = False


def phase(gang: Gang | None, seen: Observed) -> Phase:
    """The phase, from the record and the world alone."""
    if gang is None:
        return Phase.GONE
    if gang.releasing:
        return Phase.RELEASING
    if gang.allocation is None:
        return Phase.QUEUED
    if gang.group is None and not seen.provisioned:
        return Phase.PROVISIONING
    if seen.lost:
        return Phase.DEGRADED
    if gang.group is None:
        return Phase.HELD
    return Phase.READY if seen.group_state == "CREATED" else Phase.PLACING


class Step(enum.Enum):
    """What to do next for a gang."""

    WAIT = "wait"
    GIVE_BACK = "give back"  # mark as releasing, and remove its placement group
    FORGET = "forget"  # Ray is done with it: free the devices
    PLAN_AGAIN = "plan again"
    GIVE_UP = "give up"  # it was planned again often enough


def next_step(gang: Gang, seen: Observed) -> Step:
    """The step that brings the gang nearer to where it should be."""
    removed = gang.group is None or seen.group_state in ("REMOVED", "ABSENT")
    if gang.releasing:
        return Step.FORGET if removed and not seen.busy else Step.WAIT
    if not seen.owner_alive and not gang.detached:
        return Step.GIVE_BACK
    if gang.allocation is None:
        return Step.WAIT
    if gang.group is None:
        return Step.GIVE_BACK if seen.provisioned and seen.held_for > HOLD_SECONDS else Step.WAIT
    if removed and seen.group_state is not None:
        return Step.GIVE_BACK
    if seen.group_state == "PENDING" and seen.held_for > seen.patience:
        if gang.moves < MOST_MOVES:
            return Step.PLAN_AGAIN
        return Step.GIVE_UP if seen.own_workers else Step.WAIT
    return Step.WAIT
