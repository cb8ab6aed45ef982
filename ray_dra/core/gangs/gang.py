"""What is recorded of a gang.

Neighbours: `lifecycle.py` reads the phase and the next step off the record, `changes.py` says how a record may change,
`record_sense.py` what no record may say, `records.py` has all records in memory.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from ray_dra.core.gangs.eviction import Eviction
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.promise import Promise
from ray_dra.core.gangs.quota import Quota
from ray_dra.core.gangs.repair import DEGRADE, OnFault, group_after
from ray_dra.core.gangs.shapes import Reshape, Shape, Shrunk
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest

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
        could_start: since when it waits only for what it prefers, in seconds since 1970; None: it does not.
        promised: by when it starts, as it was told when it was first in the queue; None where it was not.
        on_fault: what is done about a fault once Ray has placed it.
        restarts: how often it was started again after one, or after an eviction.
        replacing: the nodes on which workers are made in place of lost ones just now.
        reshape: the change of its shape that is under way; None: there is none.
        shape_failed: why the last change of its shape was undone; "" where none was.
        reshaped: its request is, or has been, another one than its program first asked for.
        beside: the gang that it goes with; None: it is for itself.
        team: the queue of its team that it names; "": none.
        started: when it got the devices that it has, in seconds since 1970; None where it holds nothing, or nobody
            knows.
        eviction: that it gives them back for another gang, after notice; None: it does not.
        preempted: how often it has; then it waits at the front of its priority.
        movable: it may be moved to other devices for others. consolidated: how often it was.
        shrunk: what it was before a fault took segments of it; None: it is whole.
        spares: so many free nodes of each of its cliques are held for its repairs.
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
    could_start: float | None = None
    promised: Promise | None = None
    on_fault: OnFault = DEGRADE
    restarts: int = 0
    first_by_program: bool = False
    replacing: tuple[str, ...] = ()
    reshape: Reshape | None = None
    shape_failed: str = ""
    reshaped: bool = False
    beside: Beside | None = None
    team: str = ""
    started: float | None = None
    eviction: Eviction | None = None
    preempted: int = 0
    movable: bool = False
    consolidated: int = 0
    shrunk: Shrunk | None = None
    spares: int = 0

    @property
    def id(self) -> str:
        return self.request.gang

    @property
    def shape(self) -> Shape | None:
        """None where it holds nothing."""
        return Shape(self.request, self.allocation, self.shrunk) if self.allocation is not None else None

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


def owner_ended(gang: Gang, jobs: Collection[str], ended_actors: Collection[str]) -> bool:
    """Whether those whom a gang ends with are gone; `jobs` run, and of these actors it is known that they have ended.
    Of an ordinary placement group that Ray has taken, too: who ended just before that is no news to Ray."""
    job_ended = bool(gang.owner) and gang.owner not in jobs
    if gang.ordinary is None:
        return job_ended
    if not (job_ended or gang.ordinary.outlives_job):
        return False
    return not gang.ordinary.actor or gang.ordinary.actor in ended_actors


def nodes_of(gang: Gang) -> list[str]:
    """The node of each of its bundles; none where it holds nothing."""
    return [placed.node for placed in gang.allocation.bundles] if gang.allocation is not None else []
