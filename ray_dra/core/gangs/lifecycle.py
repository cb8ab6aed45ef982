"""What the world says of a gang, the phase read off that and the record, and the next step.

No phase is stored. A coordinator that starts again reads the records and looks at Ray, and `phase` and
`next_step` say the same as before: level-triggered, never edge-triggered.

Neighbours: `gang.py` is the record, `phases.py` has the table of phases, `changes.py` says how a record may change.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ray_dra.core.gangs.drains import to_drain
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.notice import Ending
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.gangs.repair import for_fault
from ray_dra.core.gangs.stages import APPLIED, GROUPED, JOINED, PLACED, QUEUED, QUOTA, READY

HOLD_SECONDS = 30.0  # from planned to a placement group: three calls of the driver
PLACE_SECONDS = 3.0  # from a placement group to its bundles placed, before looking elsewhere
WORKERS_SECONDS = 20.0  # the same for a gang that brought its own workers: elsewhere costs new ones
MOST_MOVES = 5  # besides those to give way to another RayCluster's gang; see `may_move`


@dataclass(frozen=True, slots=True)
class Observed:
    """What the world says of a gang.

    Attributes:
        group_state: Ray's state of its placement group; None while Ray has not been asked.
        owner_alive: whether the job that owns it runs.
        busy: whether workers of its groups still have GPU ids; seen only of one that is given back, or that leaves its
            shape.
        lost: what of it is missing, e.g. "node n1 is lost".
        held_for: seconds since it was planned, or since its workers were there.
        provisioned: its workers are there; always so where nobody makes workers.
        place_within: seconds for Ray to place the bundles before looking elsewhere.
        placed_once: Ray has placed its group, though it may have lost a part since.
        undone: nothing is left of workers made for it.
        left_groups: placement groups that it has left, and that Ray has all the same.
        ending: what of it will end, though nothing is lost yet, or for what is; None: nothing.
        still: what it has notice of as lost may be so still, though nobody has seen that for long enough.
        breaker: why nothing is done about any fault just now: a wave of signs. "" while all is well.
        sure: a wave would have been seen; a coordinator that has just started cannot tell.
        untold: bundles whose raylet is the gang's own, lives, and does not drain: Ray may be told that it ends.
        drained: bundles whose raylet is the gang's own, lives, and drains, which Ray cannot take back.
        guarded: nobody else's claim gets a GPU of it, also while none of its own has it.
        no_guard: why that cannot be had; "" where it can.
        without: nodes on which its worker is gone, or its bundles are not placed again.
        kept_lost: nodes on which the worker is gone that had only what the gang keeps for another shape.
        at_loss: nothing that was declared can be done just now about what it has notice of.
    """

    group_state: str | None = None
    owner_alive: bool = True
    busy: bool = False
    lost: tuple[str, ...] = ()
    held_for: float = 0.0
    provisioned: bool = True
    place_within: float = PLACE_SECONDS
    placed_once: bool = False
    undone: bool = True
    left_groups: tuple[str, ...] = ()
    ending: Ending | None = None
    still: bool = False
    breaker: str = ""
    sure: bool = True
    untold: frozenset[int] = frozenset()
    drained: frozenset[int] = frozenset()
    guarded: bool = True
    no_guard: str = ""
    without: frozenset[str] = frozenset()
    kept_lost: frozenset[str] = frozenset()
    at_loss: bool = False


def phase(gang: Gang | None, seen: Observed) -> Phase:
    """The phase, from the record and the world alone."""
    if gang is None:
        return Phase.GONE
    if gang.releasing:
        return Phase.RELEASING
    if gang.allocation is None:
        return Phase.QUEUED if gang.quota is None or gang.quota.granted is not None else Phase.QUOTA
    if gang.group is None and not seen.provisioned:
        return Phase.PROVISIONING
    if gang.replacing:
        return Phase.REPAIRING
    will_act = gang.notice is not None and gang.notice.faulty and not (seen.at_loss and seen.lost)
    if gang.group is not None and seen.placed_once and will_act:
        return Phase.DRAINING
    if seen.lost:
        return Phase.DEGRADED
    if gang.group is None:
        return Phase.HELD
    return Phase.READY if seen.group_state == "CREATED" else Phase.PLACING


def stage_of(gang: Gang, seen: Observed, progress: Progress) -> str | None:
    """What a gang waits for on its way to readiness; None: it is on none."""
    match phase(gang, seen):
        case Phase.QUOTA:
            return QUOTA
        case Phase.QUEUED:
            return QUEUED
        case Phase.PROVISIONING:
            return progress.stage or APPLIED
        case Phase.HELD:
            return GROUPED
        case Phase.PLACING:
            return PLACED if progress.joined else JOINED
        case Phase.READY:
            return READY
    return None


class Step(enum.Enum):
    """What to do next for a gang."""

    WAIT = "wait"
    GIVE_BACK = "give back"  # mark as releasing, and remove its placement group
    FORGET = "forget"  # Ray is done with it: free the devices
    PLAN_AGAIN = "plan again"
    OTHER_DEVICES = "other devices"  # of the same nodes, where others' work took some
    GIVE_UP = "give up"  # it was planned again often enough


def may_move(gang: Gang) -> bool:
    """Whether it has a try left."""
    return gang.moves - gang.gave_way < MOST_MOVES


def next_step(gang: Gang, seen: Observed, *, own_workers: bool = False) -> tuple[Step, str]:
    """The step that brings the gang nearer to where it should be, and why. `own_workers`: workers are made for each
    gang, so that another try gets it new ones."""
    removed = gang.group is None or seen.group_state == "ABSENT"
    if gang.releasing:
        if not removed and seen.group_state is not None:  # to remove it was interrupted
            return Step.GIVE_BACK, ""
        return (Step.FORGET if removed and not seen.busy else Step.WAIT), ""
    if not seen.owner_alive and not gang.detached:
        return Step.GIVE_BACK, "its program has ended"
    if gang.allocation is None:
        return Step.WAIT, ""
    if gang.group is None:
        late = seen.provisioned and seen.held_for > HOLD_SECONDS and gang.ordinary is None
        return (Step.GIVE_BACK if late else Step.WAIT), f"no placement group within {HOLD_SECONDS:.0f} s"
    if removed and seen.group_state is not None:
        return Step.GIVE_BACK, "its placement group was removed"
    if seen.group_state == "PENDING" and seen.held_for > seen.place_within:
        why = f"Ray did not place it within {seen.place_within:.0f} s"
        if gang.ordinary is not None:  # Ray places it once it can, on these nodes
            return Step.OTHER_DEVICES, why
        if may_move(gang):
            return Step.PLAN_AGAIN, why
        return (Step.GIVE_UP if own_workers else Step.WAIT), why
    return Step.WAIT, ""


def fault_is_due(gang: Gang, seen: Observed, wall: float) -> bool:
    """Whether it is time to do about a fault what the gang has declared: its notice is over, and a sign still shows."""
    if gang.releasing or gang.allocation is None or gang.group is None or gang.replacing:
        return False
    if not (seen.placed_once and gang.on_fault.acts):
        return False
    if seen.breaker or not for_fault(seen.ending) or gang.notice is None or not gang.notice.faulty:
        return False
    if to_drain(seen.ending) and not seen.sure:
        return False
    return gang.notice.deadline is not None and gang.notice.deadline <= wall
