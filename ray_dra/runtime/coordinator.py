"""The coordinator: the only writer of who has which GPU.

A synchronous class, one call at a time; the actor around it brings the calls, the clock and the waiting.
Every change is in the store before it is answered, one record in one step, so that a coordinator killed
anywhere comes back to what it had said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ray_dra.core.allocation import Allocation, Kind, Shortfall, Unsatisfiable
from ray_dra.core.inventory import Inventory
from ray_dra.core.lifecycle import (
    MOST_MOVES,
    PLACE_SECONDS,
    WORKERS_SECONDS,
    Gang,
    Observed,
    Phase,
    Step,
    next_step,
    phase,
)
from ray_dra.core.limits import IMEX_LIMITS, NO_LIMITS
from ray_dra.core.plan import plan
from ray_dra.core.request import GangRequest
from ray_dra.core.topology import Health
from ray_dra.core.whatif import plan_and_explain
from ray_dra.errors import GangGone, NameTaken, RayDraError, UnsatisfiableError
from ray_dra.ports import MAP, Clock, Kube, NodeReading, Ray, RayView, Store
from ray_dra.runtime.devices import Devices, Seen
from ray_dra.runtime.narrate import told_of
from ray_dra.runtime.nodes import Nodes
from ray_dra.runtime.others import Others
from ray_dra.runtime.provision import Progress, Provisioner
from ray_dra.translate.labels import SLOT
from ray_dra.translate.records import gang_from_bytes, gang_to_bytes

GANG = "gang/"
STRAY_SECONDS = 1.0  # after the workers joined; Ray places the gang at once unless others' work was quicker


@dataclass(frozen=True, slots=True)
class Order:
    """A request with who asks. `wait` False: refuse at once what cannot be met now."""

    request: GangRequest
    name: str = ""
    namespace: str = ""
    owner: str = ""
    detached: bool = False
    wait: bool = True


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
        self.workers = None if kube is None else Provisioner(kube, store, self.inventory, clock)
        self.progress: dict[str, Progress] = {}  # gang -> how far its workers are
        self.ending: set[str] = set()  # gangs whose workers are being given back
        self.told: dict[str, tuple[str, int]] = {}  # gang -> the last event about it
        self.failures: dict[str, str] = {}  # gangs that were given up, until whoever waits has heard of it
        self.nodes = Nodes(store, self.inventory, clock, reserved=self._is_machine)
        self.others = Others(store, self.inventory, ray)
        self.devices = Devices(self.inventory, self.nodes, self.others, self._is_machine)
        self.gangs: dict[str, Gang] = {}
        self.since: dict[str, float] = {}  # gang -> when it was last planned, or seen after a restart
        self.refused: dict[str, tuple[Shortfall, ...]] = {}  # queued gang -> why it waits
        self.view = RayView()
        for key in store.keys(GANG):
            data = store.get(key)
            if data is not None:
                gang = gang_from_bytes(data)
                self.gangs[gang.id] = gang
                self.since[gang.id] = clock()
        if self.workers is not None:
            self.workers.look(self._wanted())
        for gang in self.gangs.values():
            if gang.allocation is not None:
                self.inventory.hold(gang.allocation)
        self._sweep()
        self.observe()

    def _sweep(self) -> None:
        """Undo what a kill left half done: maps that no gang has, groups that a gang has left."""
        current = {g.group for g in self.gangs.values()}
        for key in self.store.keys(MAP):
            if key.removeprefix(MAP) not in current:
                self.store.delete(key)
        for gang in self.gangs.values():
            for group in gang.old_groups:
                self.ray.remove_group(group)

    # -- what the world reports

    def report(self, raylet: str, reading: NodeReading) -> None:
        """An agent's reading of its node, or of the part of one that a gang's own worker has."""
        node = self._slot_on(raylet)
        if self.workers is not None and node is not None:
            self.nodes.heartbeat(raylet)
            self.workers.machines.hear(node, reading)
        elif self.nodes.report(raylet, reading):
            self._serve()

    def _slot_on(self, raylet: str) -> str | None:
        """The node of a worker that was made for a gang."""
        label = next((n.labels.get(SLOT) for n in self.view.nodes if n.id == raylet), None)
        if label is None or self.workers is None:
            return None
        return next((slots[label] for a in self._wanted() if label in (slots := self.workers.slots(a))), None)

    def observe(self) -> None:
        """Look at Ray, and take every gang one step further. Called every half second, and after a release."""
        self.view = self.ray.view()
        self.nodes.see(self.view)
        if self.workers is not None:
            self.workers.look(self._wanted())
            self.workers.undo(self._wanted())
        ours = self._groups()
        self.others.look(self.view, self.nodes.names, self._placed_devices(), ours)
        for gang in sorted(self.gangs.values(), key=lambda g: g.sequence):
            self._advance(gang)
            self._tell(gang.id)
        held = {placed.node for g in self.gangs.values() if g.allocation for placed in g.allocation.bundles}
        self.nodes.drop_unused(held)
        self._serve()

    def _is_machine(self, node: str) -> bool:
        """Whether it is a node of Kubernetes' on which gangs get workers of their own."""
        return self.workers is not None and self.workers.serves(node)

    def _wanted(self) -> list[Allocation]:
        """The allocations for which workers are to be there."""
        return [g.allocation for g in self.gangs.values() if g.allocation is not None and g.id not in self.ending]

    @property
    def idle(self) -> bool:
        """Nothing is held, and nothing of an earlier gang is left to undo."""
        return not self.gangs and (self.workers is None or self.workers.idle)

    def _joined(self) -> set[str]:
        """The slots whose raylet lives."""
        return {n.labels[SLOT] for n in self.view.nodes if n.alive and SLOT in n.labels}

    def _provision(self, gang: Gang) -> None:
        """One step further with a gang's workers; planned again elsewhere where they cannot be had.

        Until Ray has placed the gang for the first time; from then on what is missing of it is lost.
        """
        if self.workers is None or gang.allocation is None or gang.releasing or self._placed_once(gang):
            return
        before = self.progress.get(gang.id, Progress())
        grouped = gang.group is not None
        progress = self.workers.advance(gang.allocation, self._joined(), grouped=grouped)
        if progress.joined and grouped and self.clock() - self.since[gang.id] > STRAY_SECONDS:
            progress = replace(progress, said=self._taken_by_others(gang.allocation))
        self.progress[gang.id] = progress
        if (progress.ready, progress.joined) != (before.ready, before.joined):
            self.since[gang.id] = self.clock()
        if progress.failed and (progress.final or (gang.moves >= MOST_MOVES and not progress.gave_way)):
            self._give_up(gang, progress.failed)
        elif progress.failed:
            self.refused[gang.id] = (Shortfall(Kind.WORKERS, "Kubernetes", "workers", progress.failed),)
            self._plan_again(gang, stay=False)

    def _taken_by_others(self, allocation: Allocation) -> str:
        """What keeps Ray from placing a gang on workers that have joined: work that was queued in Ray, by its jobs."""
        assert self.workers is not None
        slots = self.workers.slots(allocation)
        found = []
        for raylet in self.view.nodes:
            node = slots.get(raylet.labels.get(SLOT, ""))
            if node is None or not raylet.alive:
                continue
            taken = {r: n - raylet.available.get(r, 0.0) for r, n in raylet.total.items() if r in ("GPU", "CPU")}
            amounts = ", ".join(f"{amount:g} {r}" for r, amount in taken.items() if amount > 0)
            try:
                jobs = ", ".join(sorted({worker.job for worker in self.ray.workers(raylet.id) if worker.job}))
            except RayDraError:
                jobs = ""
            if amounts:
                found.append(f"{amounts} on {node} taken by work of job {jobs or 'unknown'}")
        return "; ".join(found) or "Ray does not place the bundles"

    def _tell(self, gang_id: str) -> None:
        """A Kubernetes event when a gang has come to something new."""
        if self.workers is None or gang_id not in self.gangs:
            return
        progress = self.progress.get(gang_id, Progress())
        told = told_of(self.status(gang_id), progress.stage, progress.joined)
        key = (told.reason, self.gangs[gang_id].moves)
        if self.told.get(gang_id) != key:
            self.told[gang_id] = key
            self.workers.kube.tell(told.reason, told.message, warning=told.warning)

    def _give_up(self, gang: Gang, why: str) -> None:
        """Nothing more is tried for it; whoever waits hears why."""
        self._save(replace(gang, releasing=True, failed=why))
        self.release(gang.id)

    def _placed_once(self, gang: Gang) -> bool:
        """Whether Ray has placed the gang's group, though it may have lost a part since."""
        group = self.view.groups.get(gang.group or "")
        return group is not None and group.state != "PENDING"

    def _advance(self, gang: Gang) -> None:
        self._provision(gang)
        if gang.id not in self.gangs:
            return
        gang = self.gangs[gang.id]
        step = next_step(gang, self._observed(gang))
        if step is Step.GIVE_BACK:
            self.release(gang.id)
        elif step is Step.FORGET:
            self._forget(gang)
        elif step is Step.PLAN_AGAIN and self.workers is None:
            self._plan_again(gang)
        elif step is Step.PLAN_AGAIN:
            said = self.progress[gang.id].said
            self.refused[gang.id] = (Shortfall(Kind.WORKERS, "Ray", "the gang's workers", said),)
            self._plan_again(gang, stay=False)
        elif step is Step.GIVE_UP:
            self._give_up(gang, self.progress[gang.id].said)

    def _observed(self, gang: Gang) -> Observed:
        state = None
        if gang.group is not None:
            group = self.view.groups.get(gang.group)
            young = self.clock() - self.since[gang.id] < 2.0  # the view may be older than the group
            state = group.state if group is not None else (None if young and not gang.releasing else "ABSENT")
        busy = gang.releasing and bool(self._workers(gang))
        progress = self.progress.get(gang.id, Progress())
        patience = PLACE_SECONDS
        if self.workers is not None:  # the raylets' own patience comes before
            patience = WORKERS_SECONDS if progress.joined else math.inf
        return Observed(
            group_state=state,
            owner_alive=not gang.owner or gang.owner in self.view.jobs,
            busy=busy,
            lost=self._lost(gang),
            held_for=self.clock() - self.since[gang.id],
            provisioned=self.workers is None or progress.ready,
            patience=patience,
            own_workers=self.workers is not None,
        )

    def _workers(self, gang: Gang) -> list[str]:
        """Nodes on which workers of the gang still have GPU slots."""
        groups = {g for g in (gang.group, *gang.old_groups) if g}
        if gang.allocation is None or not groups:
            return []
        found = []
        for node in dict.fromkeys(gang.allocation.nodes):
            raylet = self.nodes.raylets.get(node)
            if raylet is None or not any(n.id == raylet.id and n.alive for n in self.view.nodes):
                continue
            try:
                workers = self.ray.workers(raylet.id)
            except RayDraError:
                found.append(node)  # asked again at the next look
                continue
            if any(groups & worker.slots.keys() for worker in workers):
                found.append(node)
        return found

    def _lost(self, gang: Gang) -> tuple[str, ...]:
        """What of a gang's hardware is not as it was planned."""
        if gang.allocation is None:
            return ()
        found: dict[str, None] = {}
        if self.workers is not None and self._placed_once(gang):
            found = dict.fromkeys(self.workers.lost(gang.allocation, self._joined()))
        for placed in gang.allocation.bundles:
            seat = self.inventory.seats.get(placed.node)
            if seat is None:
                found[f"node {placed.node} is gone"] = None
            elif not seat.node.ready:
                found[f"node {placed.node}: {seat.node.reason}"] = None
            else:
                by_id = {d.id: d for d in seat.node.devices}
                for grant in placed.grants:
                    device = by_id.get(grant.device)
                    if device is None:
                        found[f"{grant.device}: not there any more"] = None
                    elif device.health is not Health.OK:
                        found[f"{grant.device}: {device.health_reason}"] = None
                    elif grant.clique is not None and device.clique != grant.clique:
                        found[f"{grant.device}: left its clique"] = None
        return tuple(found)

    # -- what drivers ask

    def submit(self, order: Order) -> Status:
        """Hold devices for a gang, or queue it.

        Raises:
            NameTaken: a live gang of the namespace has the name.
            UnsatisfiableError: it would not fit even if nobody else were here; or it does not fit now and
                `wait` is False. Nothing is held then.
        """
        if self.workers is not None:
            self.workers.check()
        known = self.gangs.get(order.request.gang)
        if known is not None:  # asked again after a restart swallowed the answer
            return self.status(known.id)
        self._check_name(order)
        sequence = 1 + max((g.sequence for g in self.gangs.values()), default=0)
        gang = Gang(order.request, sequence, order.name, order.namespace, order.owner, order.detached)
        ahead = self._ahead(gang)
        answer = self._plan(order.request) if not ahead else self._turn(order, ahead)
        if isinstance(answer, Unsatisfiable):
            self._refuse_never(order)
            if not order.wait:
                self.observe()  # what looked taken may have ended since
                answer = self._plan(order.request) if not self._ahead(gang) else answer
                if isinstance(answer, Unsatisfiable):
                    raise _refusal("The gang does not fit now.", answer)
        if isinstance(answer, Allocation):
            gang = replace(gang, allocation=answer)
            self._save(gang)
            self.inventory.hold(answer)
        else:
            self._save(gang)
            self.refused[gang.id] = answer.shortfalls
        self.since[gang.id] = self.clock()
        return self.status(gang.id)

    def plan(self, request: GangRequest) -> Allocation | Unsatisfiable:
        """What `submit` would decide now, holding nothing; after a no also what is nearest to a yes."""
        there = self._plan_on_raylets(request, 0)
        return there if there is not None else plan_and_explain(self.inventory, request)

    def commit(self, gang_id: str, group: str, moves: int) -> Status:
        """The driver made Ray's placement group; from here on its workers find their GPUs.

        A group made for an earlier plan (`moves` differs) is not taken; the status says which one is.

        Raises:
            GangGone: the gang was given back meanwhile; the driver removes its group.
        """
        gang = self._gang(gang_id)
        if gang.releasing:
            raise GangGone("The gang is being given back.", place=gang_id)
        if gang.allocation is None:
            return self.status(gang_id)
        if gang.group != group and gang.moves == moves:
            self.store.put(MAP + group, self.devices.map_of(gang.allocation))
            self._save(replace(gang, group=group, old_groups=_groups_of(gang)))
            self.since[gang_id] = self.clock()
        return self.status(gang_id)

    def release(self, gang_id: str) -> bool:
        """Give a gang back; True when it is gone. Its devices are free once Ray has ended its workers."""
        gang = self.gangs.get(gang_id)
        if gang is None:
            return True
        if not gang.releasing:
            gang = replace(gang, releasing=True)
            self._save(gang)
        if gang.group is None:
            self._forget(gang)
            return gang.id not in self.gangs
        self.ray.remove_group(gang.group)
        return False

    def status(self, gang_id: str) -> Status:
        """Raises GangGone for a gang that is not there."""
        gang = self._gang(gang_id)
        allocation = gang.allocation
        selectors = () if allocation is None else tuple(self._selector(allocation, n) for n in allocation.nodes)
        seen = self._observed(gang)
        return Status(
            gang=gang.id,
            phase=phase(gang, seen),
            name=gang.name,
            allocation=allocation,
            selectors=selectors,
            group=gang.group,
            moves=gang.moves,
            lost=seen.lost,
            waits_for=self.refused.get(gang.id, ()),
            said=self.progress.get(gang.id, Progress()).said,
            failed=gang.failed,
        )

    def _selector(self, allocation: Allocation, node: str) -> Mapping[str, str]:
        if self.workers is not None and self._is_machine(node):
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
            if gang.allocation is not None and phase(gang, self._observed(gang)) in (Phase.HELD, Phase.PLACING):
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

    def _gang(self, gang_id: str) -> Gang:
        gang = self.gangs.get(gang_id)
        if gang is None and gang_id in self.failures:
            raise UnsatisfiableError(f"The gang was given up: {self.failures[gang_id]}", place=gang_id)
        if gang is None:
            raise GangGone(
                "The gang is not there any more: it was removed, its program ended, or its wait was over.",
                place=gang_id,
            )
        return gang

    def _check_name(self, order: Order) -> None:
        if order.name and any(
            g.name == order.name and g.namespace == order.namespace and not g.releasing for g in self.gangs.values()
        ):
            raise NameTaken(
                f"A gang named {order.name!r} exists already; choose another name or remove that one.",
                place=f"namespace {order.namespace}",
                wanted=order.name,
            )

    def _ahead(self, gang: Gang) -> list[Gang]:
        """The gangs that wait before this one: a higher priority, or as high and earlier."""
        return [
            g
            for g in self.gangs.values()
            if g.allocation is None and not g.releasing and g.id != gang.id and _turn_key(g) < _turn_key(gang)
        ]

    def _plan(self, request: GangRequest, epoch: int = 0) -> Allocation | Unsatisfiable:
        """Where the gang goes: on workers that are there, if they will do, before new ones are made."""
        there = self._plan_on_raylets(request, epoch)
        return there if there is not None else plan(self.inventory, request, epoch=epoch)

    def _plan_on_raylets(self, request: GangRequest, epoch: int) -> Allocation | None:
        """On GPU workers that the RayCluster has besides gangs' own. Whole cliques are not theirs to give."""
        if self.workers is None or request.locality.exclusive:
            return None
        names = [name for name in self.nodes.raylets if name in self.inventory.seats]
        answer = plan(self.inventory.part(names), request, epoch=epoch) if names else None
        return answer if isinstance(answer, Allocation) else None

    def _turn(self, order: Order, ahead: list[Gang]) -> Unsatisfiable:
        first = min(ahead, key=_turn_key)
        return Unsatisfiable(
            order.request.gang,
            (
                Shortfall(
                    Kind.QUEUE, "the queue", "the first place", f"{len(ahead)} ahead, first {first.name or first.id}"
                ),
            ),
        )

    def _refuse_never(self, order: Order) -> None:
        """Waiting cannot help a gang that would not fit an empty cluster as it is now."""
        if self.nodes.waiting and order.wait:
            return  # some nodes have not been read yet
        machines = None if self.workers is None else self.workers.machines
        if machines is not None and (machines.avoided or machines.faults) and order.wait:
            return  # some nodes or GPUs are left out for a while alone
        answer = plan(self.inventory.emptied(), order.request)
        if isinstance(answer, Unsatisfiable):
            raise _refusal("The gang would not fit even if nobody else were here.", answer)

    def _serve(self) -> None:
        """Plan the queue, in order; the first that does not fit holds up those behind it."""
        waiting = [g for g in self.gangs.values() if g.allocation is None and not g.releasing]
        for gang in sorted(waiting, key=_turn_key):
            answer = self._plan(gang.request, gang.moves)
            if isinstance(answer, Unsatisfiable):
                self.refused[gang.id] = answer.shortfalls
                return
            self._save(replace(gang, allocation=answer))
            self.inventory.hold(answer)
            self.since[gang.id] = self.clock()
            self.refused.pop(gang.id, None)
            self.progress.pop(gang.id, None)

    def _plan_again(self, gang: Gang, *, stay: bool = True) -> None:
        """Look for another place for a gang that Ray does not place; `stay` where there is none."""
        assert gang.allocation is not None
        self.inventory.release(gang.id)
        answer = self._plan(gang.request, gang.moves + 1)
        same = isinstance(answer, Allocation) and answer.grants == gang.allocation.grants
        if stay and (same or isinstance(answer, Unsatisfiable)):
            self.inventory.hold(gang.allocation)
            self.since[gang.id] = self.clock()
            return
        left = gang.group
        self.progress.pop(gang.id, None)
        allocation = answer if isinstance(answer, Allocation) else None
        gang = replace(gang, allocation=allocation, group=None, moves=gang.moves + 1, old_groups=_groups_of(gang))
        self._save(gang)
        self.since[gang.id] = self.clock()
        if left is not None:
            self.ray.remove_group(left)
            self.store.delete(MAP + left)
        if allocation is not None:
            self.inventory.hold(allocation)
        elif isinstance(answer, Unsatisfiable):
            self.refused[gang.id] = answer.shortfalls

    def _groups(self) -> set[str]:
        return {group for g in self.gangs.values() for group in (g.group, *g.old_groups) if group}

    def _placed_devices(self) -> dict[str, float]:
        """Node -> GPUs that Ray counts as taken for our gangs."""
        found: dict[str, float] = {}
        for gang in self.gangs.values():
            group = self.view.groups.get(gang.group or "")
            if gang.allocation is not None and group is not None and group.state == "CREATED":
                for placed in gang.allocation.bundles:
                    found[placed.node] = found.get(placed.node, 0.0) + len(placed.grants)
        return found

    def _save(self, gang: Gang) -> None:
        self.store.put(GANG + gang.id, gang_to_bytes(gang))
        self.gangs[gang.id] = gang

    def _forget(self, gang: Gang) -> None:
        """The end of a gang: the record goes last, so that a kill before it only repeats the rest."""
        if self.workers is not None:
            self.ending.add(gang.id)
            if not self.workers.gone(gang.id, gang.moves):
                return  # its workers are being given back, look by look
            self.ending.discard(gang.id)
        if gang.failed:
            self.failures[gang.id] = gang.failed
        for group in (gang.group, *gang.old_groups):
            if group:
                self.others.forget(group)
                self.store.delete(MAP + group)
        self.store.delete(GANG + gang.id)
        self.inventory.release(gang.id)
        self.gangs.pop(gang.id, None)
        self.since.pop(gang.id, None)
        self.refused.pop(gang.id, None)
        self.progress.pop(gang.id, None)
        self.told.pop(gang.id, None)
        self._serve()


def _groups_of(gang: Gang) -> tuple[str, ...]:
    """The placement groups that a gang has left behind, its present one included."""
    return gang.old_groups + ((gang.group,) if gang.group else ())


def _turn_key(gang: Gang) -> tuple[int, int]:
    return (-gang.request.priority, gang.sequence)


def _refusal(reason: str, answer: Unsatisfiable) -> RayDraError:
    first = answer.shortfalls[0]
    more = f"{reason} {'; '.join(str(s) for s in answer.shortfalls)}"
    return UnsatisfiableError(
        more, shortfalls=answer.shortfalls, place=first.place, wanted=first.wanted, available=first.available
    )
