"""The coordinator: the only writer of who has which GPU.

A synchronous class, one call at a time; the actor around it brings the calls, the clock and the waiting. It looks at
the world, hands what it saw and was asked to the engine as events, and lets the executor do what that decides. Every
change is in the store before it is answered, one record in one step, so that a coordinator killed anywhere comes back
to what it had said.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping
from functools import partial

from ray_dra.coordinator.aside import Aside, Unread
from ray_dra.coordinator.backends.base import Backend
from ray_dra.coordinator.backends.kubernetes.backend import KubernetesBackend
from ray_dra.coordinator.backends.kubernetes.machines import Machines
from ray_dra.coordinator.backends.raylets.backend import RayletsBackend
from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.coordinator.executor import Executor
from ray_dra.coordinator.foreign_work import ForeignWork
from ray_dra.coordinator.gang_store import GangStore
from ray_dra.coordinator.observer import Observer
from ray_dra.coordinator.orders import Order, check_order
from ray_dra.coordinator.pace import OwnTime
from ray_dra.coordinator.slot_map import Seen, SlotMap
from ray_dra.coordinator.status import Status, Statuses
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.engine import Engine
from ray_dra.core.gangs.events import (
    Committed,
    DevicesTaken,
    Event,
    GangObserved,
    JobsSeen,
    Moment,
    NextTurn,
    ReleaseAsked,
    Submitted,
    TurnTook,
    WorkersDue,
)
from ray_dra.core.gangs.lifecycle import Gang
from ray_dra.core.gangs.planning import Answer
from ray_dra.core.model.imex import IMEX_LIMITS, NO_LIMITS
from ray_dra.core.model.request import GangRequest, check_request
from ray_dra.errors import RayDraError
from ray_dra.ports.clock import Clock
from ray_dra.ports.kubernetes import Kube
from ray_dra.ports.nvml import NodeReading
from ray_dra.ports.ray import Ray
from ray_dra.ports.store import Store

BUSY_SECONDS = 0.25  # of a look for gangs' steps, and as much for the queue; what is left is the next look's


class Coordinator:
    """See the module. `ray` and `store` are ports; `clock` gives monotonic seconds, `wall` those since 1970.

    `behind`: the last look had to leave something for the next one.
    """

    def __init__(self, store: Store, ray: Ray, clock: Clock, kube: Kube | None = None, wall: Clock = time.time) -> None:
        self.ray, self.clock, self._wall = ray, OwnTime(clock), wall
        self.behind = False
        self._resume = {True: 0, False: 0}  # whether it has devices -> the gang with which the next look begins
        self.aside = Aside(store)
        self.inventory = Inventory(limits=IMEX_LIMITS if kube is not None and kube.compute_domains else NO_LIMITS)
        self.known = KnownNodes(self.inventory)
        machines = Machines(self.inventory, self.clock)
        self.nodes = Nodes(store, self.inventory, self.clock, self.aside, reserved=machines.has, best=self.known.best)
        self.known.remember(self.nodes.remembered(), self.clock())
        self.backend: Backend = (
            RayletsBackend(self.nodes)
            if kube is None
            else KubernetesBackend(kube, store, self.inventory, self.clock, machines, self.nodes)
        )
        self.engine = Engine(
            self.inventory,
            self.known,
            begins=self.backend.begins,
            own_workers=self.backend.own_workers,
            ready_made=self.backend.ready_made,
        )
        self.records = self.engine.records
        self.foreign_work = ForeignWork(store, self.inventory, ray, self.clock, self.aside)
        self.observer = Observer(self.inventory, self.nodes, ray, self.backend, self.clock)
        self.gang_store = GangStore(store, self.aside)
        self.slot_map = SlotMap(
            self.inventory, self.nodes, self.foreign_work, self.backend, self.records, self.observer
        )
        self._statuses = Statuses(self.records, self.gang_store, self.observer, self.backend)
        self.executor = Executor(
            self.engine,
            store,
            self.gang_store,
            ray,
            self.backend,
            self.observer,
            self._statuses,
            self.slot_map,
            self.foreign_work,
        )
        self._restore()
        self.executor.recover(ray.view())
        self.observe()

    def _restore(self) -> None:
        """The gangs of the store, and what they hold."""
        found = self.gang_store.load()
        self.backend.look([gang.allocation for gang in found if gang.allocation is not None])
        for gang in found:
            try:
                self.records.restore(gang, self.clock())
            except ValueError as error:  # e.g. two records that claim one clique for their gang alone
                self.gang_store.set_aside(gang.id, f"The record claims what another gang has: {error}")

    @property
    def gangs(self) -> Mapping[str, Gang]:
        """By id, in order of arrival."""
        return self.records.gangs

    @property
    def unread(self) -> tuple[Unread, ...]:
        """Records that cannot be read and lie aside."""
        return tuple(self.aside.records.values())

    @property
    def idle(self) -> bool:
        """Nothing is held, and nothing of an earlier gang is left to undo."""
        return not self.gangs and not self.foreign_work.unclaimed and self.backend.idle

    # -- what the world reports

    def report(self, raylet: str, reading: NodeReading) -> None:
        """An agent's reading of its node, or of the part of one that a gang's own worker has."""
        node = self.observer.slot_on(raylet, self.records.wanted())
        if node is not None:
            self.nodes.heartbeat(raylet)
            self.backend.hear(node, reading)
        elif self.nodes.report(raylet, reading):
            self.known.unread = bool(self.nodes.waiting)
            name = self.nodes.names.get(raylet, "")
            if name in self.inventory.node_states:
                self.known.see(name, self.clock())
                self.foreign_work.keep_mapped(name)
            self._serve()

    def observe(self) -> None:
        """Look at the world, and take every gang one step further. Called every half second, and after a release."""
        self.clock.look()
        self._look()
        self._decide(JobsSeen(self.observer.view.jobs))
        past = self.records.past_queue()
        done, fault = self._advance_some([gang for gang in past if gang.allocation is not None], BUSY_SECONDS)
        all_left, late_fault = self._advance_some([g for g in past if g.allocation is None], BUSY_SECONDS / 2)
        self.nodes.drop_unused({node for _, allocation in self.records.holders() for node in allocation.nodes})
        self.known.look(self.clock())
        served = self._serve()
        self.behind = not (done and all_left and served)
        if fault or late_fault:
            raise fault or late_fault  # type: ignore[misc]

    def _look(self) -> None:
        """What there is, into the inventory; workers that no gang wants are taken a step back."""
        view = self.observer.view = self.ray.view()
        self.nodes.see(view)
        self.known.unread = bool(self.nodes.waiting)
        wanted = self.records.wanted()
        self.backend.look(wanted)
        self.backend.undo([*wanted, *self.gang_store.spared(view)])
        placed = self.observer.placed_devices(self.records)
        self.foreign_work.look(view, self.nodes.names, placed, self.records.groups)

    def _advance_some(self, gangs: list[Gang], seconds: float) -> tuple[bool, Exception | None]:
        """One step for each, in turns over the looks where the time does not suffice: whether it did, and a fault of
        ours that one of them met."""
        if not gangs:
            return True, None
        holds = gangs[0].allocation is not None
        start = bisect_left(gangs, self._resume[holds], key=lambda g: g.sequence)
        until = self.clock() + seconds
        self._resume[holds] = 0
        fault: Exception | None = None
        for gang in gangs[start:] + gangs[:start]:
            if self.clock() > until:
                self._resume[holds] = gang.sequence
                break
            try:
                self._advance(gang.id)
            except RayDraError:
                raise  # the world does not answer, to no gang
            except Exception as error:  # a fault of ours; those behind it get on all the same
                fault = fault or error
        return not self._resume[holds], fault

    def _advance(self, gang_id: str) -> None:
        gang = self.gangs.get(gang_id)
        if gang is None:
            return
        seen = self.observer.observed(gang, self.records.notes[gang_id])
        acted = self._decide(WorkersDue(gang_id, seen))
        gang = self.gangs.get(gang_id)
        if gang is not None:
            seen = self.observer.observed(gang, self.records.notes[gang_id]) if acted else seen
            self._decide(GangObserved(gang_id, seen))

    def _serve(self) -> bool:
        """Plan the queue, in order; the first that does not fit holds up those behind it. False where the time was over
        before that."""
        until = self.clock() + BUSY_SECONDS
        while (first := self.records.first) is not None and self.clock() <= until:
            began = self.clock()
            if not self._decide(NextTurn()):
                self._decide(TurnTook(self.clock() - began))
                return True
            assert self.records.first is not first
        return first is None

    def _decide(self, event: Event) -> bool:
        """The engine decides, the executor acts; what comes of an action is decided on before the next. True where
        there was something to do."""
        now = Moment(self.clock(), self._wall())
        actions = self.engine.handle(event, now)
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
        self.backend.check()
        submitted = partial(Submitted, request, order.name, order.namespace, order.owner, order.detached, order.wait)
        self._decide(submitted())
        if request.gang not in self.gangs:
            self.observe()  # what looked taken may have ended since
            self._decide(submitted(looked=True))
        return self.status(request.gang)

    def plan(self, request: GangRequest) -> Answer:
        """What `submit` would decide now, holding nothing; after a no also what is nearest to a yes."""
        return self.engine.planning.explained(check_request(request))

    def commit(self, gang_id: str, group: str, moves: int) -> Status:
        """The driver made Ray's placement group; from here on its workers find their GPUs.

        A group made for an earlier plan (`moves` differs) is not taken, nor a second one; the status says which one is.

        Raises:
            GangGone: the gang was given back meanwhile; the driver removes its group.
        """
        self._statuses.find(gang_id)
        self._decide(Committed(gang_id, group, moves))
        return self.status(gang_id)

    def release(self, gang_id: str) -> bool:
        """Give a gang back; True when it is gone. Its devices are free once Ray has ended its workers.

        Of a gang whose record lies aside, the record and its placement group, as far as that is known; other records
        that lie aside go by their key.
        """
        unread = None if gang_id in self.gangs else self.gang_store.unread(gang_id)
        if unread is not None:
            group = self.gang_store.traces(unread).group
            if group is not None:
                self.ray.remove_group(group)
            self.aside.let_go(unread.key)
        if not self._decide(ReleaseAsked(gang_id)):
            return True
        gone = gang_id not in self.gangs
        if gone:
            self._serve()
        return gone

    def status(self, gang_id: str) -> Status:
        """Raises GangGone for a gang that is not there, UnsatisfiableError for one that was given up."""
        return self._statuses.of(self._statuses.find(gang_id))

    def statuses(self) -> list[Status]:
        """Of all gangs."""
        return [self._statuses.of(gang) for gang in self.gangs.values()]

    def devices_for(self, raylet: str, group: str, bundle: int, slots: tuple[int, ...], pid: int) -> list[Seen]:
        """The devices of a worker's GPU slots, in order; `group` is "" outside placement groups. Gangs from which work
        of others had to take one are planned again."""
        found = self.slot_map.devices(raylet, group, bundle, slots, pid)
        if self.records.of_group(group) is None:
            for gang_id, seen in list(self.slot_map.displaced(found)):
                self._decide(DevicesTaken(gang_id, seen))
        return found
