"""The coordinator's actor: a thin layer around `coordinator.coordinator`.

It starts the agents, replaces those that fall silent, and retires with everything it made when no program that uses
ray-dra is left. Neighbours: `node_agent.py` has the actor of each node, `start_coordinator.py` starts the coordinator,
`calls.py` asks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import time
from collections.abc import Callable

import ray

from ray_dra.adapters.ray import KvStore, RayAdapter, cluster_id
from ray_dra.coordinator.backends.raylets.nodes import only_visible
from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.coordinator.jobs import Jobs
from ray_dra.coordinator.orders import Order
from ray_dra.coordinator.pace import LOOK_SECONDS, pause
from ray_dra.coordinator.status import Status
from ray_dra.coordinator.waits import Waits, why_gone
from ray_dra.core.gangs.lifecycle import Phase
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.model.topology import Topology
from ray_dra.errors import GangGone, RayDraError, UnsatisfiableError
from ray_dra.ports.kubernetes import Kube
from ray_dra.processes.address import Kubernetes
from ray_dra.processes.node_agent import HEARTBEAT_SECONDS, ask_again, start_agent, stop_agent
from ray_dra.translate.files.records import reading_from_bytes
from ray_dra.translate.files.snapshot import Snapshot, snapshot_of

AGENT_SECONDS = 15.0  # an agent that was started and has not spoken for so long is started again
SETTLE_SECONDS = 60.0
MOST_RELEASED = 50_000
logger = logging.getLogger("ray_dra")


class CoordinatorActor:
    """The coordinator behind Ray's calls. Calls change state only on the event loop: one at a time."""

    def __init__(self, kubernetes: Kubernetes | None = None) -> None:
        self._store = KvStore()
        self._woken = asyncio.Event()  # Kubernetes or a gang has changed: look at once
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._woken.set)

        kube = _kube(kubernetes, wake)
        self._core = Coordinator(self._store, RayAdapter(), time.monotonic, kube)
        self._retired = False
        self._jobs = Jobs(self._store, ray.get_runtime_context().get_job_id())
        self._waits = Waits(self._core.status)
        self._released: dict[str, None] = {}  # the latest; see submit
        self._ending = 0  # calls that wait for the end of a gang's workers
        self._agents: dict[str, float] = {}
        self._settled = time.monotonic()
        gc.disable()  # see _collect
        self._loop = asyncio.get_running_loop().create_task(self._look_for_ever())

    # -- from agents

    async def report(self, raylet: str, reading: bytes | None, visible: str | None) -> None:
        """A reading as the probe wrote it, or None for a sign of life; `visible`: the raylet's CUDA_VISIBLE_DEVICES."""
        if self._retired:
            return  # it would leave a key
        if reading is None:
            self._core.nodes.heartbeat(raylet)
            if self._core.nodes.lacks(raylet):  # its record could not be read, or the report never came
                ask_again(raylet)
        else:
            self._core.report(raylet, only_visible(reading_from_bytes(reading), visible))
            self._tell()

    # -- from drivers

    async def hello(self, job: str) -> bool:
        """A program starts to use ray-dra; False: this coordinator is retiring, or Ray does not list
        the job yet; call again."""
        if self._retired:
            return False
        self._look()
        return self._jobs.enter(job, self._core.observer.view)

    async def ready(self) -> tuple[str, ...]:
        """Raylets whose GPUs have not been read yet."""
        return self._core.nodes.waiting

    async def submit(self, order: Order) -> Status:
        """A caller that gives up releases its gang; where that overtook its submit, nothing is held any more.

        Raises:
            GangGone: so it was.
        """
        await _still_wanted()
        if order.request.gang in self._released:
            raise GangGone("The gang was given back before it was there.", place=order.request.gang)
        status = self._core.submit(order)
        self._wake()
        self._tell()
        return status

    async def commit(self, gang: str, group: str, moves: int) -> Status:
        status = self._core.commit(gang, group, moves)
        self._wake()
        self._tell()
        return status

    async def release(self, gang: str, timeout: float) -> bool:
        """Give back, and wait until Ray has ended the gang's workers; False if that takes too long."""
        self._released[gang] = None
        if len(self._released) > MOST_RELEASED:
            del self._released[next(iter(self._released))]
        gone = self._core.release(gang)
        self._tell()
        if gone:
            return True
        self._ending += 1
        self._woken.set()
        try:
            await self._waits.until(gang, (), timeout)
        except (GangGone, UnsatisfiableError):
            return True
        finally:
            self._ending -= 1
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
        return await self._waits.until(gang, tuple(map(Phase, phases)), timeout)

    async def await_ready(self, gang: str, job: str) -> str:
        """Resolves once the gang is ready; `job` waits for it. GangGone or UnsatisfiableError if it never will be."""
        status = await self._waits.until(gang, (Phase.READY, Phase.RELEASING), None, job)
        if status.phase is Phase.RELEASING:
            raise why_gone(status)
        return gang

    async def look(self) -> None:
        """Look at Ray soon rather than at the next turn."""
        self._woken.set()

    async def plan(self, request: GangRequest) -> Allocation | Unsatisfiable:
        await _still_wanted()
        return self._core.plan(request)

    async def snapshot(self) -> Snapshot:
        await _still_wanted()
        return snapshot_of(self._core.inventory)

    async def topology(self) -> Topology:
        await _still_wanted()
        return Topology.of(node_state.node for node_state in self._core.inventory.node_states.values())

    async def gangs(self) -> list[Status]:
        await _still_wanted()
        return self._core.statuses()

    async def unread(self) -> list[tuple[str, str]]:
        """(key, why) of each record that cannot be read and lies aside."""
        return [(record.key, record.reason) for record in self._core.unread]

    async def unseen(self) -> tuple[str, ...]:
        """Why the coordinator may see Kubernetes otherwise than it is, and whom it does not give way to."""
        return self._core.backend.problems()

    async def pid(self) -> int:
        return os.getpid()

    # -- from workers

    async def devices_for(
        self, raylet: str, group: str, bundle: int, slots: tuple[int, ...], pid: int
    ) -> list[tuple[int, str | None, str, str | None]]:
        """(position, uuid, node, clique) for a worker's GPU slots, in order."""
        found = self._core.devices_for(raylet, group, bundle, slots, pid)
        return [(seen.index, seen.uuid, seen.node, seen.clique) for seen in found]

    async def ended(self, raylet: str, slots: tuple[int, ...], pid: int) -> None:
        """A task outside our gangs has ended."""
        self._core.foreign_work.ended(raylet, slots, pid)

    # -- inside

    async def _look_for_ever(self) -> None:
        while not self._retired:
            self._woken.clear()
            began, worked = time.monotonic(), time.thread_time()
            try:
                self._look()
                self._keep_agents()
                if self._core.behind:
                    self._woken.set()
                if self._core.idle and self._jobs.all_ended(self._core.observer.view):
                    self._retire()
            except Exception:  # a fault of ours must not end the looking: the next look begins anew from what is there
                logger.exception("a look failed")
            least = pause(time.monotonic() - began, time.thread_time() - worked)
            self._collect()
            await self._rest(least)

    async def _rest(self, least: float) -> None:
        """Until the next turn, or, after `least` seconds, until something changes."""
        await asyncio.sleep(least)
        if self._ending:
            return  # Ray does not tell when workers have ended
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._woken.wait(), LOOK_SECONDS - least)

    def _collect(self) -> None:
        """The cyclic collector's work, between calls instead of in the middle of one: with 100,000 GPUs a full round
        takes a tenth of a second. What is alive is set aside."""
        if time.monotonic() - self._settled > SETTLE_SECONDS:
            self._settled = time.monotonic()
            self._waits.forget(self._core.observer.view.jobs)
            gc.collect()
            gc.freeze()
        else:
            gc.collect(1)

    def _look(self) -> None:
        try:
            self._core.observe()
        except RayDraError as error:
            logger.warning("the coordinator cannot see Ray just now: %s", error)
        # What Ray does with a gang changes its phase, not its record.
        changed = [id for id in self._waits.gangs if (gang := self._core.gangs.get(id)) is None or gang.allocation]
        self._core.records.changed.update(changed)
        self._tell()

    def _wake(self) -> None:
        """Workers are made from look to look; where there are none to make, the next turn is early enough."""
        if self._core.backend.own_workers:
            self._woken.set()

    def _tell(self) -> None:
        """Those who wait for gangs that have changed."""
        changed = self._core.records.changed
        while changed:
            self._waits.tell(changed.pop())

    def _keep_agents(self) -> None:
        now = self._core.clock()  # in which nobody was silent while we were stopped
        nodes = self._core.nodes
        for gone in self._agents.keys() - {n.id for n in self._core.observer.view.nodes if n.alive}:
            del self._agents[gone]
            nodes.heard.pop(gone, None)
        for raylet in self._core.observer.view.nodes:
            if not raylet.alive or raylet.total.get("GPU", 0) < 1:
                continue
            spoke = max(nodes.heard.get(raylet.id, 0.0), self._agents.get(raylet.id, 0.0) + AGENT_SECONDS)
            if raylet.id in self._agents and now - spoke < HEARTBEAT_SECONDS * 3:
                continue
            self._agents[raylet.id] = now
            start_agent(raylet.id)

    def _retire(self) -> None:
        """Nobody uses ray-dra any more: leave no actor and no key behind.

        Ended by its own hand: `exit_actor` only takes effect with the next call, which would be the next program's.
        """
        self._retired = True
        try:
            for raylet in self._agents:
                stop_agent(raylet)
            for key in self._store.keys(""):
                self._store.delete(key)
        finally:
            ray.kill(ray.get_runtime_context().current_actor)


async def _still_wanted() -> None:
    """Before work of any length: Ray cancels the calls of those who gave up, here where they came to wait in the loop
    behind others."""
    await asyncio.sleep(0)


def _kube(target: Kubernetes | None, changed: Callable[[], None]) -> Kube | None:
    """The Kubernetes adapter, or None without Kubernetes; imported only when needed."""
    if target is None:
        return None
    from ray_dra.adapters.kube_watch import SYNC_SECONDS, KubeAdapter
    from ray_dra.adapters.kubernetes import KubernetesApi

    holder = f"ray-{cluster_id()}"  # the same when Ray starts the coordinator again
    # Ray gives up an actor whose start fails. The first program is told why; a restarted coordinator has gangs.
    again = ray.get_runtime_context().was_current_actor_reconstructed
    patience = math.inf if again else SYNC_SECONDS
    api = KubernetesApi()
    return KubeAdapter(api, target.namespace, target.raycluster, holder=holder, changed=changed, patience=patience)
