"""The coordinator's actor: the calls of agents, drivers and workers, passed on to `coordinator.coordinator`.

It retires with everything it made when no program that uses ray-dra is left. Neighbours: `wiring.py` puts together what
it is made of, `look_loop.py` calls its looks, `agents.py` keeps the agents; `start_coordinator.py` starts the actor,
`calls.py` asks it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import uuid
from dataclasses import replace
from typing import Any, TypeVar

import ray

from ray_dra.coordinator.backends.raylets.nodes import only_visible
from ray_dra.coordinator.jobs import Jobs
from ray_dra.coordinator.status import MAX_KEY, Status
from ray_dra.coordinator.waits import Waits, why_gone
from ray_dra.core.gangs.elastic import ElasticRun
from ray_dra.core.gangs.forecast import Expected
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.gangs.standing import PoolStanding, TeamStanding
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.checked import many, number, text, whole
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.model.topology import Topology
from ray_dra.errors import GangGone, InvalidRequest, RayDraError, UnsatisfiableError, shown
from ray_dra.processes.address import Kubernetes
from ray_dra.processes.agents import Agents
from ray_dra.processes.look_loop import LookLoop
from ray_dra.processes.node_agent import ask_again
from ray_dra.processes.wiring import coordinator_on, log_decisions, store_here
from ray_dra.translate.clique_names import clique_names
from ray_dra.translate.files.readings import reading_from_bytes
from ray_dra.translate.files.shared_records import JobPolicy, policy_to_bytes
from ray_dra.translate.files.snapshot import Snapshot, snapshot_of
from ray_dra.translate.map.view import Cursor, View, plain_pools, plain_teams
from ray_dra.translate.names import DEFAULT_LOCALITY_VARIABLE, EVERY_JOB, LOCALITY_KEY
from ray_dra.translate.ray.policy import MAX_RULES, parse_rules
from ray_dra.translate.schedule import Schedule

MOST_RELEASED = 50_000
Asked = TypeVar("Asked", Order, ElasticRun)
MAX_COUNT = 2**63 - 1
DEFAULT_PLACE = "the cluster's default policy"
logger = logging.getLogger("ray_dra")


class CoordinatorActor:
    """The coordinator behind Ray's calls. Calls change state only on the event loop: one at a time."""

    def __init__(self, kubernetes: Kubernetes | None = None) -> None:
        log_decisions()
        self._store = store_here()
        loop = asyncio.get_running_loop()
        # From any thread, and at the earliest when this is done, as it runs in the loop.
        self._core = coordinator_on(self._store, kubernetes, lambda: loop.call_soon_threadsafe(self._look_soon))
        self._retired = False
        self._jobs = Jobs(self._store, ray.get_runtime_context().get_job_id())
        self._waits = Waits(self._core.status)
        self._default: str | None = None  # the cluster's default policy, as the store has it; None: not looked at
        self._released: dict[str, None] = {}  # the latest; see submit
        self._agents = Agents(self._core.nodes)
        self._views = self._core.views(uuid.uuid4().hex, self._facts)
        self._loop = LookLoop(self._turn, lambda: self._waits.forget(self._core.observer.view.jobs))

    # -- from agents

    async def report(self, raylet: str, reading: bytes | None, visible: str | None, count: int) -> None:
        """A reading as the probe wrote it, or None for a sign of life.

        `visible`: the raylet's CUDA_VISIBLE_DEVICES; `count`: another for each reading, of a sign of life the last's.
        """
        text(raylet, "raylet")
        whole(count, "count", least=0, most=MAX_COUNT)
        if not isinstance(reading, bytes | None) or not isinstance(visible, str | None):
            raise InvalidRequest("A reading is bytes, and what a raylet sees is text.", place="reading")
        if self._retired:
            return  # it would leave a key
        if reading is None:
            self._core.nodes.heartbeat(raylet)
            if self._agents.missed(raylet, count):
                ask_again(raylet)
        else:
            self._core.report(raylet, only_visible(reading_from_bytes(reading), visible))
            self._agents.came(raylet, count)
            self._tell()

    # -- from drivers

    async def hello(self, job: str, locality: str = "", default: str = "", on_fault: str = "", queue: str = "") -> bool:
        """A program starts to use ray-dra; False: this coordinator is retiring, or Ray does not list
        the job yet; call again. `locality`: the policy of its ordinary placement groups; "" leaves what it has.
        `default`: the policy where nobody says one, the cluster neither. `on_fault`: what is done about their faults;
        "" leaves what was said. `queue`: of its gangs and groups that name none; "" leaves what was said.

        Raises:
            InvalidRequest: the cluster's default, which is to hold for it, is no policy; or there is no such queue.
        """
        text(job, "job")
        text(locality, "locality", most=MAX_RULES, empty=True)
        text(default, "default", most=MAX_RULES, empty=True)
        text(on_fault, "on_fault", most=MAX_RULES, empty=True)
        self._core.check_team(text(queue, "queue", empty=True))
        if self._retired:
            return False
        self._look()
        if not self._jobs.enter(job, self._core.observer.view):
            return False
        before = self._jobs.policy(job)
        policy = before or JobPolicy()
        if locality or before is None:
            policy = replace(policy, address=locality, default=self._default_policy() or default)
            if policy.default and not locality:
                parse_rules(policy.default, DEFAULT_PLACE)
        policy = replace(policy, on_fault=on_fault or policy.on_fault, queue=queue or policy.queue)
        if policy != before:
            self._jobs.set_policy(job, policy)
        return True

    async def ready(self) -> tuple[str, ...]:
        """Raylets whose GPUs have not been read yet."""
        return self._core.nodes.waiting

    async def submit(self, order: Order) -> Status:
        """A caller that gives up releases its gang; where that overtook its submit, nothing is held any more.

        Raises:
            GangGone: so it was.
        """
        await _still_wanted()
        gang = getattr(getattr(order, "request", None), "gang", None)  # the core refuses what is no order
        if isinstance(gang, str) and gang in self._released:
            if getattr(order, "ordinary", None) is not None:  # whoever waits for it is to hear that it is removed
                self._core.submit(order)
                self._core.release(gang)
            raise GangGone("The gang was given back before it was there.", place=gang)
        status = self._core.submit(self._in_queue(order))
        self._wake()
        self._tell()
        return status

    async def workers_that_fit(self, run: ElasticRun) -> int:
        """`Coordinator.workers_that_fit`, as Ray is just now: whoever asks may have heard of a loss before."""
        await _still_wanted()
        self._look()
        return self._core.workers_that_fit(self._in_queue(run))

    async def commit(self, gang: str, group: str, moves: int) -> Status:
        status = self._core.commit(gang, group, moves)
        self._wake()
        self._tell()
        return status

    async def reshape(
        self, gang: str, request: GangRequest, timeout: float, grace: float, keep: bool = False
    ) -> Status:
        """Begin to change a gang's shape; `Coordinator.reshape` has the arguments and errors."""
        status = self._core.reshape(gang, request, timeout, grace, keep=keep)
        self._wake()
        self._tell()
        return status

    async def check_shape(self, gang: str, request: GangRequest, keep: bool = False) -> None:
        """Whether `reshape` would begin now; `Coordinator.check_shape` has the errors."""
        self._core.check_shape(text(gang, "gang", most=MAX_KEY), request, keep=keep)

    async def schedule(self) -> Schedule | None:
        """When gangs have which of their named shapes, as it is said now."""
        return self._core.schedule

    async def await_reshape(self, gang: str, stage: ReshapeStage | None, timeout: float) -> Status:
        """The gang's status once its change of shape is in another stage than this, or when the time is over."""
        if stage is not None and not isinstance(stage, ReshapeStage):
            raise InvalidRequest("This is no stage.", place="stage", wanted=shown(stage))
        return await self._waits.once(gang, lambda status: status.reshape is not stage, _seconds(timeout))

    async def release(self, gang: str, timeout: float) -> bool:
        """Give back, and wait until Ray has ended the gang's workers; False if that takes too long."""
        timeout = _seconds(timeout)
        self._released[text(gang, "gang", most=MAX_KEY, empty=True)] = None
        if len(self._released) > MOST_RELEASED:
            del self._released[next(iter(self._released))]
        gone = self._core.release(gang)
        self._tell()
        if gone:
            return True
        self._loop.polled += 1
        self._loop.wake()
        try:
            await self._waits.until(gang, (), timeout)
        except (GangGone, UnsatisfiableError):
            return True
        finally:
            self._loop.polled -= 1
        return False

    async def status(self, gang: str) -> Status:
        """The gang as it is now; Ray is asked again where the last look is what keeps it from being ready."""
        status = self._core.status(gang)
        if status.phase is Phase.PLACING:
            self._look()
            status = self._core.status(gang)
        return status

    async def await_phase(self, gang: str, phases: tuple[str, ...], timeout: float) -> Status:
        """The gang's status as soon as it is in one of these phases, or when the time is over."""
        wanted = many(phases, "phases", most=len(Phase))
        known = {phase.value: phase for phase in Phase}
        for phase in wanted:
            if not isinstance(phase, str) or phase not in known:
                raise InvalidRequest(
                    "This is no phase.", place="phases", wanted=shown(phase), available=", ".join(known)
                )
        return await self._waits.until(gang, tuple(known[phase] for phase in wanted), _seconds(timeout))

    async def await_ready(self, gang: str, job: str) -> str:
        """Resolves once the gang is ready; `job` waits for it. GangGone or UnsatisfiableError if it never will be."""
        text(job, "job", empty=True)
        status = await self._waits.until(gang, (Phase.READY, Phase.RELEASING), None, job)
        if status.phase is Phase.RELEASING:
            raise why_gone(status)
        return gang

    async def notice(self, gang: str, timeout: float) -> Notice | None:
        """The notice of a gang, named by its id or its placement group's; waits so long for one. GangGone or
        UnsatisfiableError where there is no such gang, or none any more."""
        gang = self._gang_of(gang)
        return (await self._waits.once(gang, lambda status: status.notice is not None, _seconds(timeout))).notice

    async def ends_at(self, gang: str, timeout: float) -> dict[str, float]:
        """Raylet -> the Unix time until which nothing of the gang there ends, once Ray's libraries are to hear of its
        notice; {} when the time is over. GangGone or UnsatisfiableError as for `notice`."""
        gang = self._gang_of(gang)
        await self._waits.once(gang, lambda status: status.ends, _seconds(timeout))
        return self._core.ends_at(gang)

    def _gang_of(self, gang: str) -> str:
        """A gang's id, by that or its placement group's."""
        return self._core.records.groups.get(text(gang, "gang", most=MAX_KEY, empty=True), gang)

    async def checkpointed(self, gang: str) -> None:
        """A gang's work, by its id or its placement group's, is saved as of now. GangGone or UnsatisfiableError as for
        `notice`."""
        self._core.checkpointed(self._gang_of(gang))

    async def look(self) -> None:
        """Look at Ray soon rather than at the next turn."""
        self._loop.wake()

    async def plan(self, request: GangRequest) -> Allocation | Unsatisfiable:
        await _still_wanted()
        return self._core.plan(request)

    async def when(self, request: GangRequest, runs_for: float | None, queue: str = "") -> Expected:
        await _still_wanted()
        return self._core.when(request, runs_for, queue)

    async def expected(self, gang: str) -> Expected | None:
        return self._core.expected(gang)

    async def snapshot(self) -> Snapshot:
        await _still_wanted()
        return snapshot_of(self._core.inventory)

    async def view(self, cursor: Cursor) -> View:
        """What has changed of the cluster since; for the map."""
        await _still_wanted()
        return self._views.since(cursor)

    async def topology(self) -> Topology:
        await _still_wanted()
        return Topology.of(node_state.node for node_state in self._core.inventory.node_states.values())

    async def clique_names(self) -> dict[str, str]:
        """What people call each clique, by its id."""
        return clique_names(await self.topology())

    async def ordinary(
        self, group: str, name: str, namespace: str
    ) -> list[tuple[str, str, list[dict[str, float]], str]]:
        """(id, name, bundles, strategy) of ordinary placement groups of which Ray has not been told: one, one by its
        name in a namespace, or all."""
        await _still_wanted()
        for said, what in ((group, "group"), (name, "name"), (namespace, "namespace")):
            text(said, what, empty=True)
        return self._core.pending_groups(group, name, namespace)

    async def gangs(self) -> list[Status]:
        await _still_wanted()
        return self._core.statuses()

    async def unplanned(self) -> list[tuple[str, str, float]]:
        """(name or id, job, GPUs) of each placement group that waits in Ray without a plan of ours."""
        return self._unplanned()

    def _unplanned(self) -> list[tuple[str, str, float]]:
        waiting = self._core.foreign_work.waiting
        return [(g.name or g.id, g.job, sum(bundle.get("GPU", 0.0) for bundle in g.bundles)) for g in waiting]

    async def unread(self) -> list[tuple[str, str]]:
        """(key, why) of each record that cannot be read and lies aside."""
        return self._unread()

    def _unread(self) -> list[tuple[str, str]]:
        return [(record.key, record.reason) for record in self._core.aside.records.values()]

    async def unseen(self) -> tuple[str, ...]:
        """Why the coordinator may see Kubernetes otherwise than it is, and whom it does not give way to."""
        return self._core.backend.problems()

    async def asks(self) -> tuple[str, ...]:
        """What a person is to look at, for the coordinator does not decide it."""
        return self._asks()

    def _asks(self) -> tuple[str, ...]:
        observer = self._core.observer
        queues = self._core.problem_of_queues()
        return tuple(filter(None, [observer.drains.tripped, observer.silence.tripped, queues]))

    def _facts(self) -> dict[str, Any]:
        """What the map is told besides nodes and gangs."""
        return {
            "teams": plain_teams(self._core.teams()),
            "pools": plain_pools(self._core.pools()),
            "problems": [*(f"Kubernetes: {each}" for each in self._core.backend.problems()), *self._asks()],
            "unplanned": [list(each) for each in self._unplanned()],
            "aside": [list(each) for each in self._unread()],
        }

    async def pools(self) -> tuple[PoolStanding, ...]:
        """The pools of GPUs, and what gangs have of them."""
        await _still_wanted()
        return self._core.pools()

    async def teams(self) -> tuple[TeamStanding, ...]:
        """The queues of teams, and what each team has."""
        await _still_wanted()
        return self._core.teams()

    async def pid(self) -> int:
        return os.getpid()

    # -- from workers

    async def devices_for(
        self, raylet: str, group: str, bundle: int, gpu_ids: tuple[int, ...], pid: int
    ) -> list[tuple[int, str | None, str, str | None]]:
        """(position, uuid, node, clique) for a worker's GPU ids, in order."""
        found = self._core.devices_for(raylet, group, bundle, gpu_ids, pid)
        return [(seen.position, seen.uuid, seen.node, seen.clique) for seen in found]

    async def ended(self, raylet: str, gpu_ids: tuple[int, ...], pid: int) -> None:
        """A task outside our gangs has ended."""
        self._core.foreign_work.ended(raylet, gpu_ids, pid)

    # -- inside

    def _in_queue(self, asked: Asked) -> Asked:
        """The same, in the queue that its program's address names where it names none."""
        known = isinstance(asked, (Order, ElasticRun)) and not asked.team  # the core refuses what is neither
        policy = self._jobs.policy(asked.owner) if known else None
        return replace(asked, team=policy.queue) if policy is not None else asked

    def _turn(self) -> None:
        """One turn of the loop."""
        self._look()
        self._agents.keep(
            self._core.observer.view, self._core.clock(), later=self._core.observer.starting(self._core.records)
        )
        self._loop.expects = self._core.records.expects_proofs
        if self._core.behind:
            self._loop.wake()
        self._tell_policy()
        self._tidy()
        # Where the cluster has a policy, a program that knows nothing of ray-dra may make a group at any time.
        if self._core.idle and self._jobs.all_ended(self._core.observer.view) and not self._default:
            self._retire()

    def _default_policy(self) -> str:
        """Of the cluster, as somebody set it, which may be no policy; "" for none."""
        return self._core.backend.default_policy or os.environ.get(DEFAULT_LOCALITY_VARIABLE, "")

    def _tell_policy(self) -> None:
        """The cluster's default goes to the store, for processes of jobs that have said no hello.

        One that is no policy does, too: it is an error of whoever makes a group. But what held before goes on to.
        """
        said = self._default_policy()
        if said == self._default:
            return
        if said and self._default:
            try:
                parse_rules(said, DEFAULT_PLACE)
            except InvalidRequest:  # told by the backend
                return
        if said:
            self._store.put(LOCALITY_KEY + EVERY_JOB, policy_to_bytes(JobPolicy(default=said)))
            logger.info("ordinary placement groups for which nobody says a policy have the cluster's: %s", said)
        else:
            self._store.delete(LOCALITY_KEY + EVERY_JOB)
        self._default = said

    def _tidy(self) -> None:
        try:
            self._jobs.tidy(self._core.observer.view, self._core.observer.ray, self._core.clock())
        except RayDraError as error:
            logger.warning("the coordinator cannot see Ray just now: %s", error)

    def _look(self) -> None:
        try:
            self._core.observe()
        except RayDraError as error:
            logger.warning("the coordinator cannot see Ray just now: %s", error)
        # What Ray does with a gang changes its phase, not its record.
        changed = [id for id in self._waits.gangs if (gang := self._core.gangs.get(id)) is None or gang.allocation]
        self._core.records.changed.update(changed)
        self._tell()

    def _look_soon(self) -> None:
        self._loop.wake()

    def _wake(self) -> None:
        """Workers are made from look to look; where there are none to make, the next turn is early enough."""
        if self._core.backend.own_workers:
            self._loop.wake()

    def _tell(self) -> None:
        """Those who wait for gangs that have changed."""
        changed = self._core.records.changed
        while changed:
            self._waits.tell(changed.pop())

    def _retire(self) -> None:
        """Nobody uses ray-dra any more: leave no actor and no key behind.

        Ended by its own hand: `exit_actor` only takes effect with the next call, which would be the next program's.
        """
        self._retired = True
        self._loop.end()
        try:
            self._agents.stop()
            for key in self._store.keys(""):
                self._store.delete(key)
        finally:
            ray.kill(ray.get_runtime_context().current_actor)


def _seconds(timeout: object) -> float:
    """How long a caller waits; what is negative is no time."""
    return number(timeout, "timeout", least=-math.inf, most=math.inf)


async def _still_wanted() -> None:
    """Before work of any length: Ray cancels the calls of those who gave up, here where they came to wait in the loop
    behind others."""
    await asyncio.sleep(0)
