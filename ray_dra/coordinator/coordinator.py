"""The coordinator: the only writer of who has which GPU.

A synchronous class, one call at a time; the actor around it brings the calls, the clock and the waiting.
Every change is in the store before it is answered, one record in one step, so that a coordinator killed
anywhere comes back to what it had said.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ray_dra.coordinator.aside import Aside, Unread
from ray_dra.coordinator.backends.base import Backend
from ray_dra.coordinator.backends.kubernetes.backend import KubernetesBackend
from ray_dra.coordinator.backends.kubernetes.machines import Machines
from ray_dra.coordinator.backends.raylets.backend import RayletsBackend
from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.coordinator.events import told_of
from ray_dra.coordinator.foreign_work import ForeignWork
from ray_dra.coordinator.gang_store import GangStore, groups_of
from ray_dra.coordinator.known_nodes import KnownNodes
from ray_dra.coordinator.observer import Observer
from ray_dra.coordinator.orders import Order, check_order
from ray_dra.coordinator.pace import OwnTime
from ray_dra.coordinator.planning import Planning, not_its_turn, refusal
from ray_dra.coordinator.slot_map import Seen, SlotMap
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.lifecycle import MOST_MOVES, Gang, Observed, Phase, Step, next_step, phase
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import IMEX_LIMITS, NO_LIMITS
from ray_dra.core.model.request import GangRequest, check_request
from ray_dra.core.model.shortfall import Place, PlaceKind, Shortfall, ShortfallKind, Unsatisfiable, short
from ray_dra.errors import GangGone, RayDraError
from ray_dra.ports.clock import Clock
from ray_dra.ports.kubernetes import Kube
from ray_dra.ports.nvml import NodeReading
from ray_dra.ports.ray import Ray
from ray_dra.ports.store import Store
from ray_dra.translate.names import GANG_KEY, MAP_KEY

STRAY_SECONDS = 1.0  # after the workers joined; Ray places the gang at once unless others' work was quicker
SPARED = 10  # times as long as a no took to find, the first in the queue is not planned again
BUSY_SECONDS = 0.25  # of a look for gangs' steps, and as much for the queue; what is left is the next look's


@dataclass(frozen=True, slots=True)
class Status:
    """What the outside may know of a gang. `selectors` pin each bundle; `waits_for` says why it is queued."""

    gang: str
    phase: Phase
    name: str
    allocation: Allocation | None
    selectors: tuple[Mapping[str, str], ...]
    group: str | None
    moves: int
    lost: tuple[str, ...]
    waits_for: tuple[Shortfall, ...]
    said: str = ""  # what the making of its workers waits for
    failed: str = ""  # why it was given up


WAITS = Observed()  # of a gang without devices there is nothing to observe


class Coordinator:
    """See the module. `ray` and `store` are ports; `clock` gives monotonic seconds.

    `behind`: the last look had to leave something for the next one.
    """

    def __init__(self, store: Store, ray: Ray, clock: Clock, kube: Kube | None = None) -> None:
        self.store = store
        self.ray = ray
        self.clock = clock = OwnTime(clock)
        self.behind = False
        self._resume = {True: 0, False: 0}  # whether it has devices -> the gang with which the next look begins
        self._no: tuple[str, int, int] | None = None  # the first gang, its moves and the inventory, that were a no
        self._not_before = 0.0  # when that gang is planned again at the earliest
        self.aside = Aside(store)
        self.inventory = Inventory(limits=IMEX_LIMITS if kube is not None and kube.compute_domains else NO_LIMITS)
        self.known = KnownNodes(self.inventory, clock)
        machines = Machines(self.inventory, clock)
        self.nodes = Nodes(store, self.inventory, clock, self.aside, reserved=machines.has, best=self.known.best)
        self.backend: Backend = (
            RayletsBackend(self.nodes)
            if kube is None
            else KubernetesBackend(kube, store, self.inventory, clock, machines, self.nodes)
        )
        self.known.remember(self.nodes.remembered())
        self.others = ForeignWork(store, self.inventory, ray, clock, self.aside)
        self.devices = SlotMap(self.inventory, self.nodes, self.others, self.backend)
        self.planning = Planning(self.inventory, self.nodes, self.known, self.backend)
        self.watch = Observer(self.inventory, self.nodes, ray, self.backend, clock)
        self.books = GangStore(store, clock, self.aside, self.backend.begins)
        self.backend.look(self.books.wanted())
        for allocation in self.books.wanted():
            try:
                self.inventory.hold(allocation)
            except ValueError as error:  # e.g. two records that claim one clique for their gang alone
                self.books.set_aside(allocation.gang, f"The record claims what another gang has: {error}")
        self.books.sweep(ray)
        self._mend_maps()
        self.observe()

    @property
    def gangs(self) -> Mapping[str, Gang]:
        """By id, in order of arrival."""
        return self.books.gangs

    @property
    def unread(self) -> tuple[Unread, ...]:
        """Records that cannot be read and lie aside."""
        return tuple(self.aside.records.values())

    @property
    def idle(self) -> bool:
        """Nothing is held, and nothing of an earlier gang is left to undo."""
        return not self.gangs and not self.others.unclaimed and self.backend.idle

    # -- what the world reports

    def report(self, raylet: str, reading: NodeReading) -> None:
        """An agent's reading of its node, or of the part of one that a gang's own worker has."""
        node = self.watch.slot_on(raylet, self.books.wanted())
        if node is not None:
            self.nodes.heartbeat(raylet)
            self.backend.hear(node, reading)
        elif self.nodes.report(raylet, reading):
            name = self.nodes.names.get(raylet, "")
            if name in self.inventory.node_states:
                self.known.see(name)
                self.others.keep_mapped(name)
            self._serve()

    def observe(self) -> None:
        """Look at Ray, and take every gang one step further. Called every half second, and after a release."""
        self.clock.look()
        view = self.watch.view = self.ray.view()
        self.nodes.see(view)
        wanted = self.books.wanted()
        self.backend.look(wanted)
        self.backend.undo([*wanted, *self.books.spared(view)])
        self.others.look(view, self.nodes.names, self.books.placed_devices(view), self.books.groups)
        self.books.give_back_queued(view.jobs)
        past = self.books.past_queue()
        done, fault = self._advance_some([gang for gang in past if gang.allocation is not None], BUSY_SECONDS)
        all_left, late_fault = self._advance_some([g for g in past if g.allocation is None], BUSY_SECONDS / 2)
        self.nodes.drop_unused(self.books.held_nodes())
        self.known.look()
        served = self._serve()
        self.behind = not (done and all_left and served)
        if fault or late_fault:
            raise fault or late_fault  # type: ignore[misc]

    def _advance_some(self, gangs: list[Gang], seconds: float) -> tuple[bool, Exception | None]:
        """One step for each, in turns over the looks where the time does not suffice: whether it did, and a fault of
        ours that one of them met."""
        if not gangs:
            return True, None
        kind = gangs[0].allocation is not None
        start = bisect_left(gangs, self._resume[kind], key=lambda g: g.sequence)
        until = self.clock() + seconds
        self._resume[kind] = 0
        fault: Exception | None = None
        for gang in gangs[start:] + gangs[:start]:
            if self.clock() > until:
                self._resume[kind] = gang.sequence
                break
            try:
                self._advance(gang)
            except RayDraError:
                raise  # the world does not answer, to no gang
            except Exception as error:  # a fault of ours; those behind it get on all the same
                fault = fault or error
        return not self._resume[kind], fault

    def _mend_maps(self) -> None:
        """After a start: a map that is not there, or does not say what its gang's record says, is written again."""
        mapped = self.others.read_maps(self.ray.view(), self.books.groups)
        for gang in self.gangs.values():
            if gang.group is not None and gang.allocation is not None:
                planned = [[grant.uuid for grant in placed.grants] for placed in gang.allocation.bundles]
                if [[uuid for _, uuid, _, _ in bundle] for bundle in mapped.get(gang.group, ())] != planned:
                    self.store.put(MAP_KEY + gang.group, self.devices.map_of(gang.allocation))

    def _advance(self, gang: Gang) -> None:
        self._provision(gang)
        if gang.id not in self.gangs:
            return
        gang = self.gangs[gang.id]
        progress = self.books.notes[gang.id].progress
        seen = self.watch.observed(gang, self.books.notes[gang.id])
        step = next_step(gang, seen)
        if step is Step.GIVE_BACK:
            self._release(gang)
        elif step is Step.FORGET:
            self._forget(gang)
        elif step is Step.PLAN_AGAIN and self.backend.own_workers:
            self._plan_elsewhere(gang, PlaceKind.RAY, progress.said)
        elif step is Step.PLAN_AGAIN:
            self._plan_again(gang)
        elif step is Step.GIVE_UP:
            self._give_up(gang, progress.said)
        self._tell(gang.id, seen if self.gangs.get(gang.id) is gang else None)

    def _provision(self, gang: Gang) -> None:
        """One step further with a gang's workers; planned again elsewhere where they cannot be had.

        Until Ray has placed the gang for the first time; from then on what is missing of it is lost.
        """
        if gang.allocation is None or gang.releasing or self.watch.placed_once(gang):
            return
        notes = self.books.notes[gang.id]
        before = notes.progress
        grouped = gang.group is not None
        progress = self.backend.make(gang.allocation, self.watch.joined(), grouped=grouped)
        if progress.joined and grouped and self.clock() - notes.since > STRAY_SECONDS:
            progress = replace(progress, said=self.watch.taken_by_others(gang.allocation))
        notes.progress = progress
        if (progress.ready, progress.joined) != (before.ready, before.joined):
            self.books.touch(gang.id)
        notes.gave_way += progress.gave_way
        tries = gang.moves - notes.gave_way
        if progress.failed and (progress.final or (tries >= MOST_MOVES and not progress.gave_way)):
            self._give_up(gang, progress.failed)
        elif progress.failed:
            self._plan_elsewhere(gang, PlaceKind.KUBERNETES, progress.failed)

    def _plan_elsewhere(self, gang: Gang, place: PlaceKind, reason: str) -> None:
        """For want of workers: planned again, also where no other place is free now."""
        workers = len(set(gang.allocation.nodes)) if gang.allocation is not None else 0
        lacking = short(ShortfallKind.WORKERS, Place(place), workers, None, reason=reason)
        self.books.notes[gang.id].refused = (lacking,)
        self._plan_again(gang, stay=False)

    def _give_up(self, gang: Gang, why: str) -> None:
        """Nothing more is tried for it; whoever waits hears why."""
        gang = replace(gang, releasing=True, failed=why)
        self.books.save(gang)
        self._release(gang)

    def _tell(self, gang_id: str, seen: Observed | None = None) -> None:
        """A Kubernetes event when a gang has come to something new. `seen`: what was observed of it just now."""
        if not self.backend.own_workers or gang_id not in self.gangs:
            return
        notes = self.books.notes[gang_id]
        told = told_of(self._status(self.gangs[gang_id], seen), notes.progress.stage, notes.progress.joined)
        key = (told.reason, self.gangs[gang_id].moves)
        if notes.told != key:
            notes.told = key
            self.backend.tell(told.reason, told.message, warning=told.warning)

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
        gang = Gang(request, self.books.next_sequence(), order.name, order.namespace, order.owner, order.detached)
        if request.gang in self.gangs:  # asked again after a restart swallowed the answer
            return self.status(request.gang)
        self.books.refuse_taken(order.name, order.namespace)
        notes = self.books.new_notes()
        answer: Allocation | Unsatisfiable | None = self._turn_of(gang)
        if answer is None:
            answer = self.planning.in_turn(gang, notes, self.clock()) if order.wait else self.planning.plan(request)
        if isinstance(answer, Unsatisfiable):
            if order.wait:
                self.books.refuse_crowd(order.owner)
            self.planning.refuse_never(request)
            if not order.wait:
                self.observe()  # what looked taken may have ended since
                answer = self._turn_of(gang) or self.planning.plan(request)
                if isinstance(answer, Unsatisfiable):
                    raise refusal("The gang does not fit now.", answer)
        if isinstance(answer, Allocation):
            self.books.save(replace(gang, allocation=answer))
            self.inventory.hold(answer)
        else:
            self.books.save(gang)
            self.books.notes[gang.id] = notes
            notes.refused = answer.shortfalls
            self._tell(gang.id)
        return self.status(gang.id)

    def _turn_of(self, gang: Gang) -> Unsatisfiable | None:
        """A no where others wait before the gang."""
        ahead, first = self.books.ahead(gang), self.books.first
        return not_its_turn(gang, ahead, first) if ahead and first is not None else None

    def plan(self, request: GangRequest) -> Allocation | Unsatisfiable:
        """What `submit` would decide now, holding nothing; after a no also what is nearest to a yes."""
        return self.planning.explained(check_request(request))

    def commit(self, gang_id: str, group: str, moves: int) -> Status:
        """The driver made Ray's placement group; from here on its workers find their GPUs.

        A group made for an earlier plan (`moves` differs) is not taken, nor a second one; the status says which one is.

        Raises:
            GangGone: the gang was given back meanwhile; the driver removes its group.
        """
        gang = self.books.get(gang_id)
        if gang.releasing:
            raise GangGone("The gang is being given back.", place=gang_id)
        if gang.allocation is None:
            return self.status(gang_id)
        if gang.group is None and gang.moves == moves:
            self.store.put(MAP_KEY + group, self.devices.map_of(gang.allocation))
            self.books.save(replace(gang, group=group, old_groups=groups_of(gang)))
            self.books.touch(gang_id)
        return self.status(gang_id)

    def release(self, gang_id: str) -> bool:
        """Give a gang back; True when it is gone. Its devices are free once Ray has ended its workers.

        Of a gang whose record lies aside, the record and its placement group, as far as that is known; other records
        that lie aside go by their key.
        """
        gang = self.gangs.get(gang_id)
        if gang is None:
            unread = self.aside.records.get(GANG_KEY + gang_id) or self.aside.records.get(gang_id)
            if unread is not None:
                group = self.books.traces(unread).group
                if group is not None:
                    self.ray.remove_group(group)
                self.aside.let_go(unread.key)
            return True
        gone = self._release(gang)
        if gone:
            self._serve()
        return gone

    def _release(self, gang: Gang) -> bool:
        if not gang.releasing and (gang.group is None or self.backend.own_workers):
            gang = self.books.give_back(gang)
        if gang.group is None:
            return self._forget(gang)
        # Without workers to undo, this is record enough: a coordinator that starts again finds the group removed.
        self.ray.remove_group(gang.group)
        if not self.watch.has_workers(gang):  # Ray tells the raylets before it answers us, and they say how it is now
            return self._forget(gang)
        if not gang.releasing:
            self.books.give_back(gang)
        return False

    def status(self, gang_id: str) -> Status:
        """Raises GangGone for a gang that is not there, UnsatisfiableError for one that was given up."""
        return self._status(self.books.get(gang_id))

    def statuses(self) -> list[Status]:
        """Of all gangs."""
        return [self._status(gang) for gang in self.gangs.values()]

    def _status(self, gang: Gang, seen: Observed | None = None) -> Status:
        notes = self.books.notes[gang.id]
        allocation = gang.allocation
        if seen is None:
            seen = WAITS if allocation is None else self.watch.observed(gang, notes)
        return Status(
            gang=gang.id,
            phase=phase(gang, seen),
            name=gang.name,
            allocation=allocation,
            selectors=()
            if allocation is None
            else tuple(self.backend.selector(allocation, n) for n in allocation.nodes),
            group=gang.group,
            moves=gang.moves,
            lost=seen.lost,
            waits_for=notes.refused,
            said=notes.progress.said or self._left_to_others(gang),
            failed=gang.failed,
        )

    def _left_to_others(self, gang: Gang) -> str:
        return self.backend.left_to_others if gang.allocation is None else ""

    def devices_for(self, raylet: str, group: str, bundle: int, slots: tuple[int, ...], pid: int) -> list[Seen]:
        """The devices of a worker's GPU slots, in order; `group` is "" outside placement groups."""
        owner = self.books.of_group(group)
        if owner is not None and owner.allocation is not None:
            return self.devices.of_bundle(owner.allocation, raylet, group, bundle, slots)
        if group in self.others.unclaimed:
            return self.devices.of_unclaimed(raylet, group, bundle, slots)
        found = self.devices.of_foreign(raylet, slots, pid, self._movable)
        self._settle_conflicts(found)
        return found

    def _on_node(self, node: str) -> list[Gang]:
        """The gangs that have something on a node."""
        state = self.inventory.node_states.get(node)
        return [self.gangs[gang] for gang in state.tenants if gang in self.gangs] if state is not None else []

    def _movable(self, node: str) -> int:
        """Devices of gangs whose placement group Ray has not placed yet: they can be planned again."""
        mask = 0
        for gang in self._on_node(node):
            seen = self.watch.observed(gang, self.books.notes[gang.id])
            if gang.allocation is not None and phase(gang, seen) in (Phase.HELD, Phase.PLACING):
                for grant in gang.allocation.grants:
                    if grant.node == node:
                        mask |= 1 << grant.position
        return mask

    def _settle_conflicts(self, taken: list[Seen]) -> None:
        """Work of others had to take a held device: the gang that had it is planned again."""
        places = {(device.node, device.index) for device in taken}
        for node in {device.node for device in taken}:
            for gang in self._on_node(node):
                if gang.allocation is not None and any((g.node, g.position) in places for g in gang.allocation.grants):
                    self._plan_again(gang, stay=False)

    # -- inside

    def _serve(self) -> bool:
        """Plan the queue, in order; the first that does not fit holds up those behind it.

        False where the time was over before that. What was a no is none again until the inventory changes, nor sooner
        than a no that took long to find may cost: a gang that is hard to place takes a small share of the time.
        """
        until = self.clock() + BUSY_SECONDS
        while (gang := self.books.first) is not None and self.clock() <= until:
            notes = self.books.notes[gang.id]
            asked = (gang.id, gang.moves, self.inventory.changes)
            if asked == self._no and not gang.request.locality.patience:
                return True
            began = self.clock()
            if self._no is not None and asked[:2] == self._no[:2] and began < self._not_before:
                return True
            answer = self.planning.in_turn(gang, notes, began)
            if isinstance(answer, Unsatisfiable):
                self._no = asked
                self._not_before = self.clock() + SPARED * (self.clock() - began)
                notes.refused = answer.shortfalls
                return True
            self.books.save(replace(gang, allocation=answer))
            self.inventory.hold(answer)
            self.books.touch(gang.id)
            notes.refused, notes.progress = (), self.backend.begins
        return gang is None

    def _plan_again(self, gang: Gang, *, stay: bool = True) -> None:
        """Look for another place for a gang that Ray does not place; `stay` where there is none."""
        assert gang.allocation is not None
        self.inventory.release(gang.id)
        answer = self.planning.plan(gang.request, gang.moves + 1)
        same = isinstance(answer, Allocation) and answer.grants == gang.allocation.grants
        self.books.touch(gang.id)
        if stay and (same or isinstance(answer, Unsatisfiable)):
            self.inventory.hold(gang.allocation)
            return
        left = gang.group
        notes = self.books.notes[gang.id]
        notes.progress = self.backend.begins
        allocation = answer if isinstance(answer, Allocation) else None
        gang = replace(gang, allocation=allocation, group=None, moves=gang.moves + 1, old_groups=groups_of(gang))
        self.books.save(gang)
        if left is not None:
            self.ray.remove_group(left)
            self.store.delete(MAP_KEY + left)
        if allocation is not None:
            self.inventory.hold(allocation)
        elif isinstance(answer, Unsatisfiable):
            notes.refused = answer.shortfalls
            self._tell(gang.id)

    def _forget(self, gang: Gang) -> bool:
        """The end of a gang, once its workers are given back, look by look; True when it has come."""
        self.books.notes[gang.id].ending = True
        if (gang.moves or gang.allocation is not None) and not self.backend.gone(gang.id, gang.moves):
            return False
        for group in groups_of(gang):
            self.others.forget(group)
        self.books.drop(gang)
        self.inventory.release(gang.id)
        return True
