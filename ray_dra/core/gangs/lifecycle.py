"""A gang's life: what is recorded of it, which changes of that are allowed, the phase read off it, and the next step.

No phase is stored. A coordinator that starts again reads the records and looks at Ray, and `phase` and
`next_step` say the same as before: level-triggered, never edge-triggered.

    [quota ->] queued -> [provisioning ->] held -> placing -> ready <-> degraded
                  ^            |            |         |         |          |
                  '------------+------------+---------'         '----------+--> releasing -> gone

What a queue outside takes back of a gang that is not ready yet leads to `quota` from everywhere. A gang that has
declared what is done about faults is `draining` from its notice on, then `repairing` or on its way again (`repair.py`).
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ray_dra.core.gangs.notice import Ending, Notice
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.gangs.quota import Quota, kinds
from ray_dra.core.gangs.repair import DEGRADE, OnFault, for_fault, group_after
from ray_dra.core.gangs.shapes import Reshape, Shape, forbidden, sense_of_reshape
from ray_dra.core.gangs.stages import APPLIED, GROUPED, JOINED, PLACED, QUEUED, QUOTA, READY, StageTimes
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest


class Phase(enum.Enum):
    QUOTA = "quota"  # waits for somebody else's queue to admit it; not in our own yet
    QUEUED = "queued"  # waits for its turn, or for room
    PROVISIONING = "provisioning"  # devices held; on Kubernetes, workers with them are being made
    HELD = "held"  # devices held, no placement group yet
    PLACING = "placing"  # the placement group exists and waits for Ray
    READY = "ready"
    DEGRADED = "degraded"  # a node or device of it is lost; its other devices stay its own
    DRAINING = "draining"  # it will be ended for a fault, and has notice of it
    REPAIRING = "repairing"  # workers of it are replaced; the others run on
    RELEASING = "releasing"  # asked to go; Ray still ends its workers
    GONE = "gone"


ARROWS: Mapping[tuple[Phase, Phase], str] = {
    (Phase.QUOTA, Phase.QUOTA): "its quota was taken back before it was used; asked again",
    (Phase.QUOTA, Phase.QUEUED): "admitted by the queue that it is paid from",
    (Phase.QUOTA, Phase.RELEASING): "released, given up, or its program has ended",
    (Phase.QUOTA, Phase.GONE): "the same, with nothing made for it to undo",
    (Phase.QUEUED, Phase.QUOTA): "its quota was taken back; asked again",
    (Phase.PROVISIONING, Phase.QUOTA): "its quota was taken back, and all that was made is given back; asked again",
    (Phase.HELD, Phase.QUOTA): "the same",
    (Phase.PLACING, Phase.QUOTA): "the same",
    (Phase.DEGRADED, Phase.QUOTA): "the same",
    (Phase.QUEUED, Phase.PROVISIONING): "its turn: devices are held, its workers are made",
    (Phase.QUEUED, Phase.HELD): "its turn: devices are held",
    (Phase.QUEUED, Phase.PLACING): "its turn: devices are held, and Ray is told of its ordinary placement group",
    (Phase.QUEUED, Phase.RELEASING): "released, or its program has ended",
    (Phase.QUEUED, Phase.GONE): "the same, with nothing made for it to undo",
    (Phase.PROVISIONING, Phase.PROVISIONING): "planned again: its workers could not be made",
    (Phase.PROVISIONING, Phase.HELD): "its workers are there",
    (Phase.PROVISIONING, Phase.PLACING): "its placement group exists, which a coordinator before this one waited for",
    (Phase.PROVISIONING, Phase.QUEUED): "planned again: its workers could not be made, and nothing else is free",
    (Phase.PROVISIONING, Phase.DEGRADED): "its workers are there, and a part of it is lost",
    (Phase.PROVISIONING, Phase.RELEASING): "released, given up, or its program has ended",
    (Phase.PROVISIONING, Phase.GONE): "the same, before anything was made",
    (Phase.HELD, Phase.HELD): "planned again: other work took a device",
    (Phase.HELD, Phase.PROVISIONING): "its workers are made again, elsewhere or after a restart of the coordinator",
    (Phase.HELD, Phase.PLACING): "its placement group exists",
    (Phase.HELD, Phase.QUEUED): "planned again: other work took a device, and nothing else is free",
    (Phase.HELD, Phase.DEGRADED): "a part of it is lost",
    (Phase.HELD, Phase.RELEASING): "released, its program has ended, or nobody made its placement group in time",
    (Phase.HELD, Phase.GONE): "the same, with nothing to end",
    (Phase.PLACING, Phase.READY): "Ray has placed all its bundles",
    (Phase.PLACING, Phase.HELD): "planned again: Ray did not place it in time",
    (Phase.PLACING, Phase.PLACING): "other devices of the same nodes: other work took one",
    (Phase.PLACING, Phase.PROVISIONING): "planned again: Ray did not place it in time, or its workers failed",
    (Phase.PLACING, Phase.QUEUED): "planned again, and nothing else is free",
    (Phase.PLACING, Phase.DEGRADED): "a part of it is lost",
    (Phase.PLACING, Phase.RELEASING): "released, given up, its program has ended, or its placement group was removed",
    (Phase.PLACING, Phase.GONE): "the same, with no workers to end",
    (Phase.READY, Phase.PLACING): "Ray places a part of it again",
    (Phase.READY, Phase.HELD): "its program changes its shape: it has the next one",
    (Phase.READY, Phase.PROVISIONING): "the same; its workers stay",
    (Phase.READY, Phase.DEGRADED): "a part of it is lost",
    (Phase.READY, Phase.RELEASING): "released, its program has ended, or its placement group was removed",
    (Phase.READY, Phase.GONE): "the same, with no workers to end",
    (Phase.DEGRADED, Phase.PROVISIONING): "planned again, or its workers are made again after a restart",
    (Phase.DEGRADED, Phase.HELD): "what was lost is back, or planned again: Ray did not place it",
    (Phase.DEGRADED, Phase.PLACING): "what was lost is back, or its placement group exists",
    (Phase.DEGRADED, Phase.READY): "what was lost is back",
    (Phase.DEGRADED, Phase.QUEUED): "planned again, and nothing else is free",
    (Phase.DEGRADED, Phase.RELEASING): "released, given up, its program has ended, or its placement group was removed",
    (Phase.DEGRADED, Phase.GONE): "the same, with no workers to end",
    (Phase.PLACING, Phase.DRAINING): "Ray places a part of it again, and it has notice of a fault",
    (Phase.READY, Phase.DRAINING): "it has notice of a fault",
    (Phase.DEGRADED, Phase.DRAINING): "the same",
    (
        Phase.DRAINING,
        Phase.PLACING,
    ): "started again elsewhere, or the notice is taken back while Ray places a part of it",
    (Phase.DRAINING, Phase.READY): "the notice is taken back",
    (Phase.DRAINING, Phase.REPAIRING): "lost workers are replaced",
    (Phase.REPAIRING, Phase.READY): "the lost workers are replaced, and Ray has placed their bundles again",
    (Phase.REPAIRING, Phase.PLACING): "the same, or started again elsewhere",
    (Phase.REPAIRING, Phase.DRAINING): "the lost workers are replaced or cannot be, and it has notice of a fault",
    (Phase.REPAIRING, Phase.DEGRADED): "the lost workers cannot be replaced",
    (Phase.REPAIRING, Phase.PROVISIONING): "started again: its workers are made anew",
    (Phase.REPAIRING, Phase.HELD): "started again elsewhere",
    (Phase.REPAIRING, Phase.QUEUED): "started again, and nothing else is free",
    (Phase.REPAIRING, Phase.QUOTA): "its quota was taken back; asked again",
    (Phase.REPAIRING, Phase.RELEASING): "released, given up, its program has ended, or its placement group was removed",
    (Phase.REPAIRING, Phase.GONE): "the same, with no workers to end",
    (Phase.DRAINING, Phase.DEGRADED): "the notice is taken back, and a part of it is lost",
    (Phase.DRAINING, Phase.PROVISIONING): "started again: its workers are made anew",
    (Phase.DRAINING, Phase.HELD): "started again elsewhere",
    (Phase.DRAINING, Phase.QUEUED): "started again, and nothing else is free",
    (Phase.DRAINING, Phase.QUOTA): "its quota was taken back; asked again",
    (Phase.DRAINING, Phase.RELEASING): "released, given up, its program has ended, or its placement group was removed",
    (Phase.DRAINING, Phase.GONE): "the same, with no workers to end",
    (Phase.RELEASING, Phase.GONE): "Ray has ended its workers, and nothing made for it is left",
}
"""Every change of phase that may happen, and why it does. Those that change a record are enforced by `check_change`."""


HOLD_SECONDS = 30.0  # from planned to a placement group: three calls of the driver
PLACE_SECONDS = 3.0  # from a placement group to its bundles placed, before looking elsewhere
WORKERS_SECONDS = 20.0  # the same for a gang that brought its own workers: elsewhere costs new ones
MOST_MOVES = 5  # besides those to give way to another RayCluster's gang; see `may_move`
LAST_MOVE = 1_000_000  # no gang comes so far; of one that is given back, each attempt is looked for
MOST_COUNTED = 2**53  # of gangs: the next one's number is one more, and has to be written
MOST_SECONDS = 365 * 86400.0  # that a program may guess for a gang
MOST_CHANGES = 20  # of a gang's history, the last ones
MOST_WHY = 300  # characters


@dataclass(frozen=True, slots=True)
class Change:
    """A change of phase in a gang's history. `at`: seconds since 1970; `was`: None for the first."""

    at: float
    was: Phase | None
    to: Phase
    why: str


@dataclass(frozen=True, slots=True)
class GroupSet:
    """A set of ordinary placement groups that are to be near each other.

    Attributes:
        id: the same for all groups of the set.
        size: so many of them are one gang, planned whole before Ray is told of the first; 0: each is placed when it
            comes, in a clique where the set is, if that can be.
    """

    id: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class OrdinaryGroup:
    """A placement group that a program made by Ray's own call: its id was minted there, and Ray hears of it when its
    place is certain. It ends as in Ray: with its job and with the actor that made it, once both are gone.

    Attributes:
        id: Ray's, 36 hex digits; the gang's id, too.
        actor: the actor that made it, in hex; "" where the program itself or a task did.
        outlives_job: that actor is detached, so the end of the job does not matter.
        part_of: the set that it is of; None where it is for itself.
    """

    id: str
    actor: str = ""
    outlives_job: bool = False
    part_of: GroupSet | None = None


@dataclass(frozen=True, slots=True)
class Maker:
    """In whose name the coordinator makes Ray's placement group, with the plan and under the gang's id: so the program
    need not come back for it. It ends with them, as one that the program makes itself.

    Attributes:
        actor: the actor that asked for the gang, in hex; "" where the program itself or a task did.
        outlives_job: that actor is detached.
    """

    actor: str = ""
    outlives_job: bool = False


@dataclass(frozen=True, slots=True)
class Beside:
    """Another gang that one goes with.

    Attributes:
        gang: its id.
        near: the gang is planned in that one's cliques, if that can be.
        ends: the gang is given back when that one is.
    """

    gang: str
    near: bool = True
    ends: bool = True


@dataclass(frozen=True, slots=True)
class Gang:
    """What is recorded of a gang; one key in the store, replaced in one step.

    Attributes:
        sequence: order of arrival.
        owner: Ray's job id; the gang is given back when the job ends, unless `detached`.
        moves: how often it was planned again elsewhere.
        gave_way: how many of these moves cost no try: those to give way, to another RayCluster's gang or to those who
            took its quota back, those to change its shape, and all up to the last restart after a fault.
        group: Ray's placement group id, once it exists; `attempt` tells the groups of one gang apart.
        releasing: asked to go; final.
        failed: why it was given up, for whoever waits for it; empty where it was not.
        history: its last changes of phase, for people: nothing is decided by them. What was only observed is stored
            with the next change of the rest.
        times: how long it was in each stage on its way to readiness; for people, and stored as the history is.
        ordinary: the placement group that the program has in its hands already; None where the driver makes it. Its
            `group` is that one's id from the moment on that the coordinator may register it with Ray; then it stays
            where it is, as a program does not expect its placement group to be removed.
        maker: the coordinator makes the placement group of the first plan, and of any that follows a restart; None: the
            program does, as that of any other plan. `first_by_program`: that of the first plan, too: it did not start
            when it was asked for, or has workers of its own.
        notice: what its program is told of its end, as long as the world shows that; None: nothing.
        quota: the queue outside that it is paid from; None where it needs none.
        batch: of an ordinary placement group of a set that is a gang, with which others it started: the `sequence` that
            the first of them had. Says nothing while it waits.
        runs_for: seconds for which its program guesses that it runs; None: it does not say.
        ends: when it has ended by that guess, in seconds since 1970; None where it holds nothing, or there is no guess.
        on_fault: what is done about a fault once Ray has placed it.
        restarts: how often it was started again after one.
        replacing: the nodes on which workers are made in place of lost ones just now.
        reshape: the change of its shape that is under way; None: there is none.
        shape_failed: why the last change of its shape was undone; "" where none was.
        reshaped: its request is, or has been, another one than its program first asked for.
        beside: the gang that it goes with; None: it is for itself.
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
    history: tuple[Change, ...] = ()
    times: StageTimes = field(default=StageTimes())
    ordinary: OrdinaryGroup | None = None
    gave_way: int = 0
    maker: Maker | None = None
    notice: Notice | None = None
    quota: Quota | None = None
    batch: int = 0
    runs_for: float | None = None
    ends: float | None = None
    on_fault: OnFault = DEGRADE
    restarts: int = 0
    first_by_program: bool = False
    replacing: tuple[str, ...] = ()
    reshape: Reshape | None = None
    shape_failed: str = ""
    reshaped: bool = False
    beside: Beside | None = None

    @property
    def id(self) -> str:
        return self.request.gang

    @property
    def shape(self) -> Shape | None:
        """None where it holds nothing."""
        return Shape(self.request, self.allocation) if self.allocation is not None else None

    @property
    def holds(self) -> Allocation | None:
        """What is held for it; while it changes its shape, of both shapes."""
        return self.reshape.holds if self.reshape is not None else self.allocation

    @property
    def groups(self) -> tuple[str, ...]:
        """Its placement groups: those that it has left behind, and its present one."""
        return self.old_groups + ((self.group,) if self.group else ())

    @property
    def unpaid(self) -> bool:
        """Whether it waits for a queue outside to admit it."""
        return self.quota is not None and self.quota.granted is None and not self.releasing

    @property
    def waits(self) -> bool:
        """Whether it is in the queue."""
        paid = self.quota is None or self.quota.granted is not None
        return paid and self.allocation is None and not self.releasing


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
        breaker: why nothing is done about any fault just now: a wave of signs. "" while all is well.
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
    breaker: str = ""


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
    if gang.group is not None and seen.placed_once and gang.notice is not None and gang.notice.faulty:
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


def made_here(gang: Gang) -> bool:
    """Whether the coordinator makes the placement group of the gang's present plan."""
    if gang.ordinary is not None:
        return True
    again = gang.restarts > 0 or gang.reshaped
    return gang.maker is not None and (again or not (gang.moves or gang.first_by_program))


def group_made_here(gang: Gang) -> str:
    """Its id: the gang's own, until the gang is started again, or has another shape. Ray takes up nothing under an id
    that it has removed."""
    return group_after(gang.id, gang.moves) if gang.restarts or gang.reshaped else gang.id


def is_group(text: object) -> bool:
    """Whether it can be the id of one of Ray's placement groups: 18 bytes in hex."""
    return isinstance(text, str) and _GROUP.fullmatch(text) is not None


def is_actor(text: object) -> bool:
    """Whether it can be the id of one of Ray's actors, 16 bytes in hex; "" is none."""
    return isinstance(text, str) and _ACTOR.fullmatch(text) is not None


def sense_of(gang: Gang) -> str:
    """What of a record that reads well can be no gang's; "" where nothing is. Such a gang could not be given back: its
    group cannot be removed, or its next record not be written."""
    if not all(map(is_group, gang.old_groups)) or not (gang.group is None or is_group(gang.group)):
        return "it names a placement group that Ray cannot have"
    if len(set(gang.groups)) < len(gang.groups):
        return "it names a placement group twice"
    if gang.ordinary is not None:
        if gang.ordinary.id != gang.id or gang.group not in (None, gang.id) or not is_group(gang.id) or gang.old_groups:
            return "its ordinary placement group is another one"
        if not is_actor(gang.ordinary.actor):
            return "it names an actor that Ray cannot have"
    if gang.maker is not None and not (is_group(gang.id) and is_actor(gang.maker.actor)):
        return "it was made in the name of an actor that Ray cannot have"
    if not all(_FIRST_TIME <= change.at <= _LAST_TIME for change in gang.history):
        return "its history has a time that is none"
    if not (_FIRST_TIME <= gang.times.since <= _LAST_TIME and 0 <= gang.times.total <= _LAST_TIME):
        return "its stages have a time that is none"
    if gang.waits and gang.group is not None:
        return "it has a placement group and no devices"
    if gang.runs_for is not None and not 0 < gang.runs_for <= MOST_SECONDS:
        return "it runs for a time that is none"
    if gang.ends is not None and not (gang.runs_for and gang.allocation and _FIRST_TIME <= gang.ends <= _LAST_TIME):
        return "it ends at a time that is none"
    if gang.notice is not None:
        if not all(_FIRST_TIME <= at <= _LAST_TIME for at in (gang.notice.since, gang.notice.deadline or 0.0)):
            return "its notice has a time that is none"
        if not all(0 <= rank < len(gang.request.bundles) for rank in gang.notice.ranks):
            return "its notice names a bundle that it does not have"
    if not 0 <= gang.gave_way <= gang.moves:
        return "it gave way more often than it moved"
    if not 0 <= gang.restarts <= gang.moves:
        return "it was started again more often than it moved"
    if not (gang.on_fault.ways and 0 <= gang.on_fault.grace < math.inf) or (gang.ordinary and gang.restarts):
        return "it says nothing that can be done about a fault"
    if gang.replacing and (gang.group is None or gang.allocation is None or not {*gang.replacing} <= {*_nodes(gang)}):
        return "workers are replaced that it does not have"
    if not (0 <= gang.sequence <= MOST_COUNTED and gang.moves <= LAST_MOVE and 0 <= gang.batch <= MOST_COUNTED):
        return "it has counted further than anybody can"
    amounts = [bundle.resources for bundle in gang.request.bundles]
    amounts += [placed.resources for placed in (gang.allocation.bundles if gang.allocation is not None else ())]
    if not all(0 <= amount < math.inf for resources in amounts for amount in resources.values()):
        return "it has an amount that is no number"
    if gang.quota is not None and not _is_quota(gang.quota, gang):
        return "its quota is for another gang"
    if gang.reshape is not None:
        if gang.ordinary is not None:
            return "it changes a shape that cannot change"
        return sense_of_reshape(gang.reshape, gang.shape, gang.id, gang.moves)
    return ""


def _is_quota(quota: Quota, gang: Gang) -> bool:
    if not (quota.queue and 0 <= quota.asks <= LAST_MOVE):
        return False
    if quota.granted is None:
        return gang.allocation is None and gang.group is None
    return len(quota.granted) == len(kinds(gang.request))


_GROUP = re.compile("[0-9a-f]{36}")
_ACTOR = re.compile("([0-9a-f]{32})?")
_FIRST_TIME, _LAST_TIME = -62_135_596_800.0, 253_402_300_799.0  # the years 1 to 9999


def owner_ended(gang: Gang, jobs: Collection[str], ended_actors: Collection[str]) -> bool:
    """Whether those whom a gang ends with are gone; `jobs` run, and of these actors it is known that they have ended.
    Of an ordinary placement group that Ray has taken, too: who ended just before that is no news to Ray."""
    job_ended = bool(gang.owner) and gang.owner not in jobs
    if gang.ordinary is None:
        return job_ended
    if not (job_ended or gang.ordinary.outlives_job):
        return False
    return not gang.ordinary.actor or gang.ordinary.actor in ended_actors


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
    return gang.notice.deadline is not None and gang.notice.deadline <= wall


# -- where a record changes


class ForbiddenChange(RuntimeError):
    """A record was to change as no record may: a fault of ours."""


_MAY_BE: Mapping[Phase, frozenset[Phase]] = {
    Phase.HELD: frozenset({Phase.PROVISIONING, Phase.HELD, Phase.DEGRADED}),
    Phase.PLACING: frozenset({Phase.PLACING, Phase.READY, Phase.DEGRADED, Phase.DRAINING}),
}
"""By the phase of a record alone: the phases that it may be in, as the world says."""


def check_change(before: Gang | None, after: Gang | None) -> None:
    """Raises ForbiddenChange where one record may not follow the other. None: there is no record."""
    _check_arrow(before, after)
    if before is None or after is None:
        return
    _check(_who(before) == _who(after), "it is another gang's", before, after)
    _check(after.releasing or not before.releasing, "what is given back stays so", before, after)
    over = before.reshape is not None and after.reshape is None and after.group == before.group
    _check(over or set(before.groups) <= set(after.groups), "a placement group was forgotten", before, after)
    moved = after.moves > before.moves
    if before.reshape is None and after.reshape is None:
        _check(before.request == after.request, "it asks for something else", before, after)
    wrong = forbidden(before.shape, before.reshape, after.shape, after.reshape, moved)
    _check(not wrong, wrong, before, after)
    _check(moved or after.moves == before.moves, "moves were taken back", before, after)
    kept = after.ordinary is not None and before.group is not None
    replaced = moved and after.reshape is None and _same_attempt(before, after)
    if kept:
        _check(after.releasing or after.group == before.group, "its placement group is the program's", before, after)
        _check(replaced or _nodes(after) == _nodes(before), "Ray has pinned it to its nodes", before, after)
    if before.quota is not None and after.quota is not None:
        _check_quota(before.quota, after.quota, before, after)
    new = after.moves - before.moves
    again = after.restarts - before.restarts
    _check(0 <= again <= min(new, 1), "it was started again without a move", before, after)
    free = after.gave_way - before.gave_way
    anew = after.gave_way in (before.moves, after.moves)  # a repair begins: it has all its tries
    _check(0 <= free <= new or (moved and anew), "it gave way without a move", before, after)
    if not moved and before.allocation is not None:
        _check(after.allocation == before.allocation, "its devices changed without a move", before, after)
        _check(before.group in (None, after.group), "its placement group changed without a move", before, after)
    if replaced:
        _check(
            after.group == before.group, "its placement group changed though its workers are replaced", before, after
        )
    elif moved and not kept:
        made = again > 0 or after.reshape is not None  # here, with the next record
        _check(after.group is None or made, "its placement group outlived a move", before, after)
        _check(after.group not in before.groups or after.group is None, "a placement group came back", before, after)


def _same_attempt(before: Gang, after: Gang) -> bool:
    """Whether some of its workers are replaced, in the same attempt."""
    held, holds = before.allocation, after.allocation
    return before.group is not None and held is not None and holds is not None and held.epoch == holds.epoch


def _check_quota(was: Quota, now: Quota, before: Gang, after: Gang) -> None:
    again = now.asks - was.asks
    _check(again in (0, 1), "a request for its quota was forgotten", before, after)
    _check(again == 0 or now.granted is None, "a request was admitted before it was made", before, after)
    _check(again == 1 or was.granted in (None, now.granted), "its quota changed without a request", before, after)
    _check(now.granted is not None or after.allocation is None, "it holds what nobody pays for", before, after)


def _check_arrow(before: Gang | None, after: Gang | None) -> None:
    was, to = phase(before, Observed()), phase(after, Observed())
    if before is None:
        begins = {Phase.QUOTA, Phase.QUEUED, Phase.HELD} | ({Phase.PLACING} if after and made_here(after) else set())
        _check(to in begins, "a gang begins unpaid, queued or held", before, after)
        return
    if after is not None and not made_here(after):
        _check((was, to) != (Phase.QUEUED, Phase.PLACING), "no arrow leads from queued to placing", before, after)
    pairs = [(a, b) for a in _MAY_BE.get(was, {was}) for b in _MAY_BE.get(to, {to})]
    _check(was is to or any(pair in ARROWS for pair in pairs), f"no arrow leads from {was.value} to {to.value}", before)


def _check(holds: bool, otherwise: str, before: Gang | None, after: Gang | None = None) -> None:
    if not holds:
        gang = before or after
        raise ForbiddenChange(f"gang {gang.id if gang is not None else ''}: {otherwise}")


def _who(gang: Gang) -> tuple[object, ...]:
    queue = gang.quota.queue if gang.quota is not None else None
    return (
        gang.id,
        gang.beside,
        gang.sequence,
        gang.name,
        gang.namespace,
        gang.owner,
        gang.detached,
        gang.ordinary,
        gang.maker,
        queue,
        gang.runs_for,
        gang.on_fault,
        gang.first_by_program,
    )


def _nodes(gang: Gang) -> list[str]:
    return [placed.node for placed in gang.allocation.bundles] if gang.allocation is not None else []
