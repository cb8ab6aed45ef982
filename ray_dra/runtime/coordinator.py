"""The coordinator: the only writer of who has which GPU.

A synchronous class, one call at a time; the actor around it brings the calls, the clock and the waiting.
Every change is in the store before it is answered, one record in one step, so that a coordinator killed
anywhere comes back to what it had said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ray_dra.core.allocation import Allocation, Kind, Shortfall, Unsatisfiable
from ray_dra.core.inventory import Inventory
from ray_dra.core.lifecycle import MOST_MOVES, Gang, Phase, Step, next_step, phase
from ray_dra.core.limits import IMEX_LIMITS, NO_LIMITS
from ray_dra.core.request import GangRequest, check_request
from ray_dra.errors import GangGone, RayDraError
from ray_dra.ports import MAP, Clock, Kube, NodeReading, Ray, Store
from ray_dra.runtime.books import Books, Notes, groups_of
from ray_dra.runtime.devices import Devices, Seen
from ray_dra.runtime.making import Progress
from ray_dra.runtime.narrate import told_of
from ray_dra.runtime.nodes import Nodes
from ray_dra.runtime.orders import Order, check_order
from ray_dra.runtime.others import Others
from ray_dra.runtime.planning import Planning, not_its_turn, refusal
from ray_dra.runtime.provision import Provisioner
from ray_dra.runtime.watch import Watch

STRAY_SECONDS = 1.0  # after the workers joined; Ray places the gang at once unless others' work was quicker


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


class Coordinator:
    """See the module. `ray` and `store` are ports; `clock` gives monotonic seconds."""

    def __init__(self, store: Store, ray: Ray, clock: Clock, kube: Kube | None = None) -> None:
        self.store = store
        self.ray = ray
        self.clock = clock
        self.inventory = Inventory(limits=IMEX_LIMITS if kube is not None and kube.compute_domains else NO_LIMITS)
        self.workers = (
            None
            if kube is None
            else Provisioner(kube, store, self.inventory, clock, lambda node: self.nodes.knows(node))
        )
        self.nodes = Nodes(store, self.inventory, clock, reserved=self._is_machine)
        self.others = Others(store, self.inventory, ray, clock)
        self.devices = Devices(self.inventory, self.nodes, self.others, self._has_own_workers)
        self.planning = Planning(self.inventory, self.nodes, self.workers)
        self.watch = Watch(self.inventory, self.nodes, ray, self.workers, clock)
        self.books = Books(store, clock)
        if self.workers is not None:
            self.workers.look(self.books.wanted())
        for allocation in self.books.wanted():
            self.inventory.hold(allocation)
        self.books.sweep(ray)
        self.observe()

    @property
    def gangs(self) -> Mapping[str, Gang]:
        """By id."""
        return self.books.gangs

    @property
    def idle(self) -> bool:
        """Nothing is held, and nothing of an earlier gang is left to undo."""
        return not self.gangs and (self.workers is None or self.workers.idle)

    # -- what the world reports

    def report(self, raylet: str, reading: NodeReading) -> None:
        """An agent's reading of its node, or of the part of one that a gang's own worker has."""
        node = self.watch.slot_on(raylet, self.books.wanted())
        if self.workers is not None and node is not None:
            self.nodes.heartbeat(raylet)
            self.workers.machines.hear(node, reading)
        elif self.nodes.report(raylet, reading):
            self._serve()

    def observe(self) -> None:
        """Look at Ray, and take every gang one step further. Called every half second, and after a release."""
        view = self.watch.view = self.ray.view()
        self.nodes.see(view)
        if self.workers is not None:
            self.workers.look(self.books.wanted())
            self.workers.undo(self.books.wanted())
        self.others.look(view, self.nodes.names, self.books.placed_devices(view), self.books.groups())
        fault: Exception | None = None
        for gang in self.books.in_order():
            try:
                self._advance(gang)
            except RayDraError:
                raise  # the world does not answer, to no gang
            except Exception as error:  # a fault of ours; those behind it get on all the same
                fault = fault or error
        self.nodes.drop_unused(self.books.held_nodes())
        self._serve()
        if fault is not None:
            raise fault

    def _is_machine(self, node: str) -> bool:
        """Whether Kubernetes has a node of this name, on which gangs get workers of their own."""
        return self.workers is not None and self.workers.serves(node)

    def _has_own_workers(self, node: str) -> bool:
        return self.workers is not None and self.workers.has_own(node)

    def _advance(self, gang: Gang) -> None:
        self._provision(gang)
        if gang.id not in self.gangs:
            return
        gang = self.gangs[gang.id]
        progress = self.books.notes[gang.id].progress
        step = next_step(gang, self.watch.observed(gang, self.books.notes[gang.id]))
        if step is Step.GIVE_BACK:
            self.release(gang.id)
        elif step is Step.FORGET:
            self._forget(gang)
        elif step is Step.PLAN_AGAIN and self.workers is None:
            self._plan_again(gang)
        elif step is Step.PLAN_AGAIN:
            self._plan_elsewhere(gang, "Ray", "the gang's workers", progress.said)
        elif step is Step.GIVE_UP:
            self._give_up(gang, progress.said)
        self._tell(gang.id)

    def _provision(self, gang: Gang) -> None:
        """One step further with a gang's workers; planned again elsewhere where they cannot be had.

        Until Ray has placed the gang for the first time; from then on what is missing of it is lost.
        """
        if self.workers is None or gang.allocation is None or gang.releasing or self.watch.placed_once(gang):
            return
        notes = self.books.notes[gang.id]
        before = notes.progress
        grouped = gang.group is not None
        progress = self.workers.advance(gang.allocation, self.watch.joined(), grouped=grouped)
        if progress.joined and grouped and self.clock() - notes.since > STRAY_SECONDS:
            progress = replace(progress, said=self.watch.taken_by_others(gang.allocation))
        notes.progress = progress
        if (progress.ready, progress.joined) != (before.ready, before.joined):
            self.books.touch(gang.id)
        if progress.failed and (progress.final or (gang.moves >= MOST_MOVES and not progress.gave_way)):
            self._give_up(gang, progress.failed)
        elif progress.failed:
            self._plan_elsewhere(gang, "Kubernetes", "workers", progress.failed)

    def _plan_elsewhere(self, gang: Gang, place: str, wanted: str, available: str) -> None:
        """For want of workers: planned again, also where no other place is free now."""
        self.books.notes[gang.id].refused = (Shortfall(Kind.WORKERS, place, wanted, available),)
        self._plan_again(gang, stay=False)

    def _give_up(self, gang: Gang, why: str) -> None:
        """Nothing more is tried for it; whoever waits hears why."""
        self.books.save(replace(gang, releasing=True, failed=why))
        self.release(gang.id)

    def _tell(self, gang_id: str) -> None:
        """A Kubernetes event when a gang has come to something new."""
        if self.workers is None or gang_id not in self.gangs:
            return
        notes = self.books.notes[gang_id]
        told = told_of(self.status(gang_id), notes.progress.stage, notes.progress.joined)
        key = (told.reason, self.gangs[gang_id].moves)
        if notes.told != key:
            notes.told = key
            self.workers.kube.tell(told.reason, told.message, warning=told.warning)

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
        if self.workers is not None:
            self.workers.check()
        if request.gang in self.gangs:  # asked again after a restart swallowed the answer
            return self.status(request.gang)
        self.books.refuse_taken(order.name, order.namespace)
        sequence = self.books.next_sequence()
        gang = Gang(request, sequence, order.name, order.namespace, order.owner, order.detached)
        ahead = self.books.ahead(gang)
        notes = Notes(self.clock())
        answer: Allocation | Unsatisfiable
        if ahead:
            answer = not_its_turn(gang, ahead)
        elif order.wait:
            answer = self.planning.in_turn(gang, notes, self.clock())
        else:
            answer = self.planning.plan(request)
        if isinstance(answer, Unsatisfiable):
            self.planning.refuse_never(request, wait=order.wait)
            if not order.wait:
                self.observe()  # what looked taken may have ended since
                answer = answer if self.books.ahead(gang) else self.planning.plan(request)
                if isinstance(answer, Unsatisfiable):
                    raise refusal("The gang does not fit now.", answer)
        if isinstance(answer, Allocation):
            self.books.save(replace(gang, allocation=answer))
            self.inventory.hold(answer)
        else:
            self.books.save(gang)
            self.books.notes[gang.id] = notes
            notes.refused = answer.shortfalls
        return self.status(gang.id)

    def plan(self, request: GangRequest) -> Allocation | Unsatisfiable:
        """What `submit` would decide now, holding nothing; after a no also what is nearest to a yes."""
        return self.planning.explained(check_request(request))

    def commit(self, gang_id: str, group: str, moves: int) -> Status:
        """The driver made Ray's placement group; from here on its workers find their GPUs.

        A group made for an earlier plan (`moves` differs) is not taken; the status says which one is.

        Raises:
            GangGone: the gang was given back meanwhile; the driver removes its group.
        """
        gang = self.books.get(gang_id)
        if gang.releasing:
            raise GangGone("The gang is being given back.", place=gang_id)
        if gang.allocation is None:
            return self.status(gang_id)
        if gang.group != group and gang.moves == moves:
            self.store.put(MAP + group, self.devices.map_of(gang.allocation))
            self.books.save(replace(gang, group=group, old_groups=groups_of(gang)))
            self.books.touch(gang_id)
        return self.status(gang_id)

    def release(self, gang_id: str) -> bool:
        """Give a gang back; True when it is gone. Its devices are free once Ray has ended its workers."""
        gang = self.gangs.get(gang_id)
        if gang is None:
            return True
        if not gang.releasing:
            gang = replace(gang, releasing=True)
            self.books.save(gang)
        if gang.group is None:
            self._forget(gang)
            return gang.id not in self.gangs
        self.ray.remove_group(gang.group)
        return False

    def status(self, gang_id: str) -> Status:
        """Raises GangGone for a gang that is not there, UnsatisfiableError for one that was given up."""
        gang = self.books.get(gang_id)
        notes = self.books.notes[gang_id]
        allocation = gang.allocation
        selectors = () if allocation is None else tuple(self._selector(allocation, n) for n in allocation.nodes)
        seen = self.watch.observed(gang, notes)
        return Status(
            gang=gang.id,
            phase=phase(gang, seen),
            name=gang.name,
            allocation=allocation,
            selectors=selectors,
            group=gang.group,
            moves=gang.moves,
            lost=seen.lost,
            waits_for=notes.refused,
            said=notes.progress.said,
            failed=gang.failed,
        )

    def _selector(self, allocation: Allocation, node: str) -> Mapping[str, str]:
        if self.workers is not None and self.workers.has_own(node):
            return self.workers.selector(allocation, node)
        return self.nodes.selector(node)

    def devices_for(self, raylet: str, group: str, bundle: int, slots: tuple[int, ...], pid: int) -> list[Seen]:
        """The devices of a worker's GPU slots, in order; `group` is "" outside placement groups."""
        owner = next((g for g in self.gangs.values() if g.group == group), None) if group else None
        if owner is not None and owner.allocation is not None:
            return self.devices.of_bundle(owner.allocation, raylet, group, bundle, slots)
        found = self.devices.of_stranger(raylet, slots, pid, self._movable)
        self._settle_conflicts(found)
        return found

    def _movable(self, node: str) -> int:
        """Devices of gangs whose placement group Ray has not placed yet: they can be planned again."""
        mask = 0
        for gang in self.gangs.values():
            seen = self.watch.observed(gang, self.books.notes[gang.id])
            if gang.allocation is not None and phase(gang, seen) in (Phase.HELD, Phase.PLACING):
                for grant in gang.allocation.grants:
                    if grant.node == node:
                        mask |= 1 << grant.position
        return mask

    def _settle_conflicts(self, taken: list[Seen]) -> None:
        """Work of others had to take a held device: the gang that had it is planned again."""
        places = {(device.node, device.index) for device in taken}
        for gang in list(self.gangs.values()):
            if gang.allocation is not None and any((g.node, g.position) in places for g in gang.allocation.grants):
                self._plan_again(gang, stay=False)

    # -- inside

    def _serve(self) -> None:
        """Plan the queue, in order; the first that does not fit holds up those behind it."""
        for gang in self.books.waiting():
            notes = self.books.notes[gang.id]
            answer = self.planning.in_turn(gang, notes, self.clock())
            if isinstance(answer, Unsatisfiable):
                notes.refused = answer.shortfalls
                return
            self.books.save(replace(gang, allocation=answer))
            self.inventory.hold(answer)
            self.books.touch(gang.id)
            notes.refused, notes.progress = (), Progress()

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
        notes.progress = Progress()
        allocation = answer if isinstance(answer, Allocation) else None
        gang = replace(gang, allocation=allocation, group=None, moves=gang.moves + 1, old_groups=groups_of(gang))
        self.books.save(gang)
        if left is not None:
            self.ray.remove_group(left)
            self.store.delete(MAP + left)
        if allocation is not None:
            self.inventory.hold(allocation)
        elif isinstance(answer, Unsatisfiable):
            notes.refused = answer.shortfalls

    def _forget(self, gang: Gang) -> None:
        """The end of a gang, once its workers are given back, look by look."""
        notes = self.books.notes[gang.id]
        if self.workers is not None:
            notes.ending = True
            if not self.workers.gone(gang.id, gang.moves):
                return
        for group in groups_of(gang):
            self.others.forget(group)
        self.books.drop(gang)
        self.inventory.release(gang.id)
        self._serve()
