"""The coordinator: the only writer of who has which GPU.

A synchronous class, one call at a time; the actor around it brings the calls, the clock and the waiting. It looks at
the world, hands what it saw and was asked to the engine as events, and lets the executor do what that decides. Every
change is in the store before it is answered, one record in one step, so that a coordinator killed anywhere comes back
to what it had said.

Neighbours: `parts.py` puts together what it is made of, `inventory_sync.py` brings the inventory to what there is,
`turns.py` takes gangs on within the time of a look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray_dra.coordinator.declared_queues import DeclaredQueues
from ray_dra.coordinator.gpu_id_map import Seen
from ray_dra.coordinator.meters import Meters
from ray_dra.coordinator.parts import Parts
from ray_dra.coordinator.status import MAX_KEY, Status
from ray_dra.coordinator.turns import Turns
from ray_dra.coordinator.view import Views
from ray_dra.core.gangs.actions import Action, Refuse, Save
from ray_dra.core.gangs.discipline import DISCIPLINE, Discipline
from ray_dra.core.gangs.elastic import ElasticRun, check_run
from ray_dra.core.gangs.events import (
    Checkpointed,
    Committed,
    Event,
    GangObserved,
    JobsSeen,
    Moment,
    NextTurn,
    QueuesDeclared,
    ReleaseAsked,
    ReshapeAsked,
    Submitted,
    TurnFailed,
)
from ray_dra.core.gangs.forecast import Expected
from ray_dra.core.gangs.gang import Gang, nodes_of
from ray_dra.core.gangs.order import LEAST_SECONDS, Order, check_order
from ray_dra.core.gangs.planning import Answer
from ray_dra.core.gangs.record_sense import LAST_MOVE, MOST_SECONDS
from ray_dra.core.gangs.refusals import no_queue
from ray_dra.core.gangs.repair import DEGRADE, FaultRule, OnFault, Way, declared_for, without
from ray_dra.core.gangs.standing import PoolStanding, TeamStanding, pool_standings, team_standings
from ray_dra.core.model.checked import flag, number, text, whole
from ray_dra.core.model.request import GangRequest, check_request
from ray_dra.core.planner.levels import check_level
from ray_dra.errors import InvalidRequest, RayDraError
from ray_dra.ports.clock import Clock
from ray_dra.ports.kubernetes import Kube
from ray_dra.ports.metrics import NO_METRICS, PLAN_SECONDS, Metrics
from ray_dra.ports.nvml import NodeReading
from ray_dra.ports.ray import Ray
from ray_dra.ports.store import Store
from ray_dra.ports.traces import NO_TRACES, Traces
from ray_dra.translate.lines import on_one_line
from ray_dra.translate.queue_table import too_much_guaranteed
from ray_dra.translate.schedule import Schedule

logger = logging.getLogger("ray_dra")


class Coordinator:
    """See the module. `store`, `ray`, `kube`, `metrics`, `traces` are ports; `clock` gives monotonic seconds, `wall`
    Unix time; `on_fault` says what is done about faults of gangs whose programs do not; `queues` reads the text
    that declares the queues of teams, None: there are none; `schedule`: when gangs have which shape, where the
    RayCluster does not say; `levels`: the labels of nodes that name the levels above their cliques, the lowest first.

    `behind`: the last look had to leave something for the next one.
    """

    def __init__(
        self,
        store: Store,
        ray: Ray,
        clock: Clock,
        kube: Kube | None = None,
        wall: Clock = time.time,
        metrics: Metrics = NO_METRICS,
        discipline: Discipline = DISCIPLINE,
        on_fault: Sequence[FaultRule] = (),
        queues: Callable[[], str] | None = None,
        schedule: Schedule | None = None,
        levels: tuple[str, ...] = (),
        traces: Traces = NO_TRACES,
    ) -> None:
        parts = Parts(store, ray, clock, kube, metrics, discipline, levels, traces)
        self._wall, self._on_fault, self._schedule = wall, on_fault, schedule
        self.clock, self.aside, self.inventory, self.nodes = parts.clock, parts.aside, parts.inventory, parts.nodes
        self.engine, self.records, self.executor = parts.engine, parts.engine.records, parts.executor
        self.backend, self.observer, self._sync = parts.backend, parts.observer, parts.sync
        self._quotas, self._metrics = parts.quotas, metrics
        self._meters = Meters(metrics, self.records, self.inventory, self.nodes, self.clock, wall)
        self.foreign_work, self.gpu_id_map, self._statuses = parts.foreign_work, parts.gpu_id_map, parts.statuses
        self.pending_groups = self._statuses.pending_groups
        self._turns = Turns(self.records, self.observer, parts.quotas, self.clock, self._decide)
        self.declared_queues = DeclaredQueues(store, queues)
        self.behind = False
        self._decide(QueuesDeclared(self.declared_queues.queues))
        parts.restore()
        self.executor.recover(ray.view())
        try:
            self.observe()
        except Exception:  # of one gang, say: the others are to be served, and the next look comes as after any other
            logger.exception("the first look failed")

    @property
    def gangs(self) -> Mapping[str, Gang]:
        """By id, in order of arrival."""
        return self.records.gangs

    @property
    def idle(self) -> bool:
        """Nothing is held, and nothing of an earlier gang is left to undo."""
        return not self.gangs and not self.foreign_work.unclaimed and self.backend.idle and self._quotas.idle

    # -- what the world reports

    def report(self, raylet: str, reading: NodeReading) -> None:
        """An agent's reading of its node, or of the part of one that a gang's own worker has."""
        if self._sync.hear(raylet, reading):
            self._turns.serve()

    def observe(self) -> None:
        """Look at the world, and take every gang one step further. Called every half second, and after a release."""
        self.clock.look()
        if self.declared_queues.look():
            self._decide(QueuesDeclared(self.declared_queues.queues))
        self._sync.look()
        self.executor.catch_up(self.observer.view)
        self._decide(JobsSeen(self.observer.view.jobs, self.observer.ended_actors))
        unheard = self._turns.hear_queues()
        done, fault = self._turns.advance()
        self._sync.end_of_look()
        served = self._turns.serve()
        self.behind = not (done and served)
        self._meters.look()
        for each in (unheard, fault):
            if each is not None:
                raise each

    def _decide(self, event: Event) -> bool:
        """The engine decides, the executor acts; what comes of an action is decided on before the next. True where
        there was something to do."""
        now = Moment(self.clock(), self._wall())
        try:
            actions = self.engine.handle(event, now)
        except Exception as fault:
            if not isinstance(event, NextTurn):
                raise
            # A fault of ours, and the same at each look; what the store raises below is not.
            logger.exception("a gang's turn failed")
            actions = self.engine.handle(TurnFailed(f"{type(fault).__name__}: {fault}"), now)
        if actions and isinstance(event, Submitted | NextTurn):
            self._metrics.observe(PLAN_SECONDS, self.clock() - now.lived, _result_of(actions))
        for action in actions:
            follows = self.executor.do(action, now)
            if follows is not None:
                self._decide(follows)
        return bool(actions)

    # -- what drivers ask

    def submit(self, order: Order) -> Status:
        """Hold devices for a gang, or queue it.

        Raises:
            InvalidRequest: a field of the order has another type, or is too large.
            NameTaken: a live gang of the namespace has the name.
            UnsatisfiableError: it would not fit even if nobody else were here; or it does not fit now and
                `wait` is False. Nothing is held then.
        """
        request = check_order(order).request
        if order.ordinary is None:
            check_level(self.inventory, request.locality)
        if order.on_fault is None:
            usual = self._usual_on_fault(order)
            usual = usual if order.grace is None else replace(usual, grace=float(order.grace))
            order = replace(order, on_fault=usual)
        self.backend.check(request)
        queue = self._quotas.queue_for(request)
        self._decide(Submitted(order, queue=queue))
        if request.gang not in self.gangs and order.ordinary is None:
            self.observe()  # what looked taken may have ended since
            self._decide(Submitted(order, looked=True, queue=queue))
        if order.ordinary is not None and order.ordinary.part_of is not None:
            self._turns.serve()  # it may be the last of its set
        return self.status(request.gang)

    def _usual_on_fault(self, order: Order) -> OnFault:
        """What is done about faults of a gang whose program does not say it. An ordinary placement group is not ended
        by anybody else's word than its program's."""
        found = declared_for(order.name, [*self.backend.default_on_fault, *self._on_fault]) or DEGRADE
        return found if order.ordinary is None else without(found, Way.RESTART)

    def plan(self, request: GangRequest) -> Answer:
        """What `submit` would decide now, holding nothing; after a no also what is nearest to a yes."""
        return self.engine.planning.explained(self._checked(request))

    def when(self, request: GangRequest, runs_for: float | None, team: str = "") -> Expected:
        """When a gang should start that would come now, in a team's queue. Raises InvalidRequest for one that is not
        declared."""
        if runs_for is not None:
            number(runs_for, "runs_for", least=LEAST_SECONDS, most=MOST_SECONDS)
        self.check_team(text(team, "queue", empty=True))
        now = Moment(self.clock(), self._wall())
        return self.engine.expecting.of_request(self._checked(request), runs_for, now, team)

    def expected(self, gang_id: str) -> Expected | None:
        """When a gang of the queue should start; None for one that is not in it. Raises as `status`."""
        gang = self._statuses.find(gang_id)
        return self.engine.expecting.of(gang, Moment(self.clock(), self._wall())) if gang.waits else None

    def workers_that_fit(self, run: ElasticRun) -> int:
        """How many workers an elastic run can have now, with what it has; 0 where these are fewer than its least. What
        it is to get is kept for it for a while."""
        elastic, notes = self.engine.elastic, self.records.notes
        groups = elastic.groups_of(check_run(run))
        if run.starts:  # it may have lost workers with a node that Ray does not give up for seconds yet
            self.observer.ask_raylets([node for gang in groups for node in nodes_of(gang)])
        well = [gang.id for gang in groups if self.observer.well(gang, notes[gang.id])]
        return elastic.workers(run, well, self.clock())

    def commit(self, gang_id: str, group: str, moves: int) -> Status:
        """The driver made Ray's placement group; from here on its workers find their GPUs.

        A group made for an earlier plan (`moves` differs) is not taken, nor a second one; the status says which one is.

        Raises:
            GangGone: the gang was given back meanwhile; the driver removes its group.
            InvalidRequest: this is no placement group's id or no number of moves, or another gang has the group.
        """
        self._statuses.find(gang_id)
        moves = whole(moves, "moves", least=0, most=LAST_MOVE)
        self._decide(Committed(gang_id, group, moves))
        return self.status(gang_id)

    def release(self, gang_id: str) -> bool:
        """Give a gang back; True when it is gone. Its devices are free once Ray has ended its workers.

        Of a gang whose record lies aside, the record and its placement group, as far as that is known; other records
        that lie aside go by their key. Raises InvalidRequest for what is neither an id nor a key.
        """
        text(gang_id, "gang", most=MAX_KEY, empty=True)
        if gang_id not in self.gangs:
            self.executor.let_go(gang_id)
        if not self._decide(ReleaseAsked(gang_id)):
            return True
        if gang_id in self.gangs:
            return False
        self._turns.serve()
        return True

    def reshape(self, gang_id: str, request: GangRequest, timeout: float, grace: float, keep: bool = False) -> Status:
        """Begin to give a gang another shape on the GPUs that it has; the looks that follow go on with it. `grace`:
        seconds after which what still runs in the old shape is ended; `timeout`: seconds for Ray to place the next;
        `keep`: what that does not use stays the gang's.

        Raises:
            GangGone: the gang is not there, or is being given back.
            InvalidRequest: this gang cannot change its shape (now), or not to this one.
            UnsatisfiableError: its GPUs do not have the shape. Nothing is changed in any of these cases.
        """
        self._statuses.find(gang_id)
        timeout = number(timeout, "timeout", least=LEAST_SECONDS, most=MOST_SECONDS)
        grace = number(grace, "grace", least=0.0, most=MOST_SECONDS)
        keep = flag(keep, "keep")
        request = self._next_shape(gang_id, request)
        self.observe()  # Ray may have placed it since the last look
        gang = self._statuses.find(gang_id)
        seen = self.observer.observed(gang, self.records.notes[gang_id])
        self._decide(ReshapeAsked(gang_id, request, timeout, grace, seen, keep))
        gang = self._statuses.find(gang_id)
        try:
            self._decide(GangObserved(gang_id, self.observer.observed(gang, self.records.notes[gang_id])))
        except RayDraError as error:  # of Ray, say: it has begun, and the next look goes on with it
            logger.warning("gang %s: %s", on_one_line(gang.name or gang.id), on_one_line(str(error)))
        return self.status(gang_id)

    def ends_at(self, gang_id: str) -> dict[str, float]:
        """Raylet -> the Unix time until which nothing of the gang there ends; {} where nothing does, as far as Ray's
        libraries are told."""
        gang = self._statuses.find(gang_id)
        return self.observer.ends_at(gang) if self.status(gang_id).ends else {}

    def checkpointed(self, gang_id: str) -> None:
        """A gang's work is saved as of now. Raises GangGone and UnsatisfiableError as `status` does."""
        self._decide(Checkpointed(self._statuses.find(gang_id).id))

    def check_shape(self, gang_id: str, request: GangRequest, keep: bool = False) -> None:
        """Whether `reshape` would begin now; nothing changes. Raises as it does."""
        gang = self._statuses.find(gang_id)
        keep = flag(keep, "keep")
        request = self._next_shape(gang_id, request)
        seen = self.observer.observed(gang, self.records.notes[gang_id])
        self.engine.reshaping.check(gang, request, seen, keep=keep)

    @property
    def schedule(self) -> Schedule | None:
        """When gangs have which of their named shapes: as the RayCluster says, else as it is set."""
        return self.backend.schedule or self._schedule

    def _checked(self, request: GangRequest) -> GangRequest:
        check_level(self.inventory, check_request(request).locality)
        return request

    def _next_shape(self, gang_id: str, request: GangRequest) -> GangRequest:
        request = self._checked(request)
        if request.gang != gang_id:
            raise InvalidRequest("The next shape is for another gang.", place=gang_id, wanted=request.gang)
        self.backend.check(request)
        return request

    def status(self, gang_id: str) -> Status:
        """Raises GangGone for a gang that is not there, UnsatisfiableError for one that was given up."""
        return self._statuses.of(self._statuses.find(gang_id))

    def statuses(self) -> list[Status]:
        """Of all gangs."""
        return [self._statuses.of(gang) for gang in self.gangs.values()]

    def check_team(self, name: str) -> None:
        """Raises InvalidRequest for the name of a queue that is not declared; "" names none."""
        queues = self.records.team_order.queues
        if name and not queues.declared(name):
            raise no_queue(name, queues)

    def pools(self) -> tuple[PoolStanding, ...]:
        """The pools of GPUs, and what gangs have of them."""
        return pool_standings(self.records)

    def teams(self) -> tuple[TeamStanding, ...]:
        """The queues of teams, and what each team has."""
        return team_standings(self.records)

    def problem_of_queues(self) -> str:
        """What a person is to know of the queues of teams: that what is declared cannot be read, or that more is
        guaranteed than there is; "" where all is well."""
        order = self.records.team_order
        return self.declared_queues.problem or too_much_guaranteed(order.queues, order.total.gpus)

    def views(self, epoch: str, facts: Callable[[], Mapping[str, Any]]) -> Views:
        """Who tells the map of this coordinator; the arguments are those of `Views`."""
        return Views(epoch, self.inventory, self.records, self._statuses, facts, self.clock)

    def devices_for(self, raylet: str, group: str, bundle: int, gpu_ids: tuple[int, ...], pid: int) -> list[Seen]:
        """The devices of a worker's GPU ids, in order; `group` is "" outside placement groups. Gangs from which work
        of others had to take one are planned again."""
        found = self.gpu_id_map.devices(raylet, group, bundle, gpu_ids, pid)
        for taken in self.gpu_id_map.taken(found, group):
            self._decide(taken)
        return found


def _result_of(actions: Sequence[Action]) -> str:
    """What was decided on a gang that asked for devices, for the metrics."""
    for action in actions:
        if isinstance(action, Refuse):
            return "refused"
        if isinstance(action, Save) and action.gang.allocation is not None:
            return "placed"
    return "waits"
