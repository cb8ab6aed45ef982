"""What has become of a gang: what Ray says of its placement group and workers, and its nodes of its devices."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from ray_dra.coordinator.backends.base import Backend, Guarded
from ray_dra.coordinator.backends.raylets.nodes import RAYLET_LOST, Nodes
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.drains import ASKS_OF_SILENCE, FLAP_SECONDS, Drain, Drains
from ray_dra.core.gangs.gang import Gang, owner_ended
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.notice import Ending, Notice
from ray_dra.core.gangs.quota import GRACE_SECONDS
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.repair import LOST, fault_of, with_drained
from ray_dra.core.gangs.runtime_notes import RuntimeNotes
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.gangs.stages import JOINED, PLACED
from ray_dra.core.model.allocation import Allocation, Grant
from ray_dra.core.model.device import Health
from ray_dra.core.model.node import Node
from ray_dra.core.model.parts import GrantedPart
from ray_dra.core.model.signs import PASSING, SEVERITIES, Severity, Sign, severity_of
from ray_dra.errors import RayDraError
from ray_dra.ports.clock import Clock
from ray_dra.ports.ray import Ray, RayNode, RayView
from ray_dra.translate.names import SLOT_LABEL

LEAD_SECONDS = 10.0  # for a library to end its work itself; Train looks every two, and workers take some to end
ASK_SECONDS = 2.0  # for trying whether raylets can be reached; nothing else is done meanwhile
YOUNG_SECONDS = 2.0  # Ray's view may be older than a group

logger = logging.getLogger("ray_dra")


class _Amiss(NamedTuple):
    """What is not as it was planned. `place`: the node or device that shows it; "" where `said` names it."""

    severity: Severity
    place: str
    said: str
    passing: bool = False  # it may pass by itself within seconds

    def __str__(self) -> str:
        return f"{self.place}: {self.said}" if self.place else self.said


class Observer:
    """See the module. `view` is what Ray said at the last look, `joined` the slots whose raylet lived then."""

    def __init__(self, inventory: Inventory, nodes: Nodes, ray: Ray, backend: Backend, clock: Clock) -> None:
        self.inventory, self.nodes, self.ray, self.backend, self.clock = inventory, nodes, ray, backend, clock
        self.view, self.joined = RayView(), frozenset[str]()
        self.ended_actors = frozenset[str]()  # of those that keep ordinary placement groups
        self.drains, self.silence = Drains(), Drains(ASKS_OF_SILENCE)
        self._of_slots: dict[str, list[RayNode]] = {}  # label -> the raylets that live with it, or seem to
        self._ray_drains = False  # any of them
        self._draining: dict[str, tuple[Node, tuple[str, ...]]] = {}  # node -> what of it shows signs to drain

    def look(self) -> RayView:
        """Ask Ray anew. What all gangs are asked about is worked out here, once a look."""
        self.view = self.ray.view()
        self._of_slots = {}
        for raylet in self.view.nodes:
            if raylet.alive and SLOT_LABEL in raylet.labels:
                self._of_slots.setdefault(raylet.labels[SLOT_LABEL], []).append(raylet)
        self.joined = frozenset(self._of_slots)
        self._ray_drains = any(raylet.drains for raylets in self._of_slots.values() for raylet in raylets)
        return self.view

    def look_at_signs(self) -> None:
        """Which nodes and devices show signs to drain, and whether that is a wave of them."""
        before, states = self.drains.tripped, self.inventory.node_states
        self._draining = {
            name: made if made is not None and made[0] is state.node else (state.node, tuple(_to_drain(state.node)))
            for name, state in states.items()
            for made in (self._draining.get(name),)
        }
        shown = {name: places for name, (_, places) in self._draining.items() if places}
        for name, state in states.items():
            if not state.node.ready and self._amiss_node(state.node).severity is Severity.DRAIN:
                shown[name] = (_place(state.node), *shown.get(name, ()))
        nodes = sum(bool(state.node.devices) for state in states.values())
        self.drains.look(shown, nodes, self.clock())
        if self.drains.tripped and not before:
            logger.warning(self.drains.tripped)
            self.backend.tell("DrainWave", self.drains.tripped, warning=True)
        self._look_at_silence(nodes)

    def _look_at_silence(self, nodes: int) -> None:
        before, unready = (
            self.silence.tripped,
            [s.node for s in self.inventory.node_states.values() if not s.node.ready],
        )
        lost = [node for node in unready if self._amiss_node(node).severity is Severity.LOST]
        silent = {node.name: (_place(node),) for node in lost if self._is_passing(node)}
        self.silence.look(silent, nodes, self.clock())
        if self.silence.tripped and not before:
            logger.warning(self.silence.tripped)
            self.backend.tell("SilenceWave", self.silence.tripped, warning=True)

    def look_at_actors(self, records: Records) -> None:
        """Which of the actors that keep ordinary placement groups have ended."""
        keepers = records.kept_by_actors(self.view.jobs)
        self.ended_actors = frozenset(actor for actor in keepers if self.ray.actor_ended(actor))

    def starting(self, records: Records) -> frozenset[str]:
        """The slots whose workers join, or wait to, with gangs that Ray has not placed yet."""
        if not records.stages[JOINED] + records.stages[PLACED]:
            return frozenset()
        joining = [held for gang, held in records.holders() if gang.times.stage in (JOINED, PLACED)]
        return frozenset().union(*map(self.backend.slots, joining))

    def observed(self, gang: Gang, notes: RuntimeNotes) -> Observed:
        """What the life cycle goes by."""
        held_for = self.clock() - notes.since
        amiss = [] if gang.allocation is None else list(self._amiss(gang.allocation))
        gone: Mapping[str, str] = {}
        if gang.allocation is not None and self._placed_once(gang):
            gone = self.backend.lost(gang.request, gang.allocation, self.joined)
        if gang.replacing and gang.allocation is not None:  # what is just being made, its making tells
            nodes = gang.allocation.nodes
            amiss = [(rank, each) for rank, each in amiss if nodes[rank] not in gang.replacing]
            gone = {node: said for node, said in gone.items() if node not in gang.replacing}
        unplaced = self._unplaced(gang, notes, {rank for rank, _ in amiss}, gone)
        amiss += unplaced.values()
        untold, drained = self._told_of(gang)
        state = None
        if gang.group is not None:
            group = self.view.groups.get(gang.group)
            young = held_for < YOUNG_SECONDS and not gang.releasing
            state = group.state if group is not None else (None if young else "ABSENT")
        change = gang.reshape
        guarded = self.backend.guarded(gang.id, change.holds) if change is not None and change.gpus else Guarded(True)
        return Observed(
            group_state=state,
            owner_alive=not owner_ended(gang, self.view.jobs, self.ended_actors),
            busy=self.has_workers(gang) if gang.releasing else _drains(gang) and self._works(gang),
            lost=tuple(
                dict.fromkeys([*gone.values(), *(str(each) for _, each in amiss if each.severity is Severity.LOST)])
            ),
            without=frozenset({*gone, *unplaced}),
            kept_lost=self._kept_lost(gang),
            held_for=held_for,
            provisioned=notes.progress.ready,
            place_within=self.backend.place_within
            if notes.progress.joined
            else math.inf,  # until then: the workers' own
            placed_once=self._placed_once(gang),
            undone=not gang.releasing or self.backend.gone(gang.id, gang.moves),
            left_groups=tuple(old for old in gang.old_groups if old in self.view.groups),
            ending=None
            if gang.allocation is None
            else self._ending(gang, gang.allocation, notes, amiss, gone, drained),
            still=self._still(gang.notice, amiss),
            breaker=self.drains.tripped or self.silence.tripped,
            sure=self.drains.sure,
            untold=untold,
            drained=frozenset(drained),
            guarded=guarded.now,
            no_guard=guarded.never,
            at_loss=notes.at_loss is not None and notes.at_loss == gang.notice,
        )

    def _kept_lost(self, gang: Gang) -> frozenset[str]:
        """None of a gang whose workers are just made anew."""
        if gang.allocation is None or gang.releasing or (gang.reshape is not None and gang.reshape.gpus):
            return frozenset()
        return self.backend.kept_lost(gang.allocation, self.joined)

    def well(self, gang: Gang, notes: RuntimeNotes) -> bool:
        """Whether Ray has placed all of the gang, and nothing of it is lost or to be drained but what may pass."""
        group = self.view.groups.get(gang.group or "")
        if gang.allocation is None or gang.releasing or group is None or group.state != "CREATED":
            return False
        amiss = list(self._amiss(gang.allocation))
        drains = [(rank, Drain(each.place, each.said)) for rank, each in amiss if each.severity is Severity.DRAIN]
        gone = self.backend.lost(gang.request, gang.allocation, self.joined)
        losses = self._losses(gang, gang.allocation, notes, amiss, gone)
        return not losses and self.drains.ending(drains, (), gang.notice) is None

    def ask_raylets(self, nodes: Iterable[str]) -> None:
        """Try whether these nodes' raylets can be reached: Ray gives one up only after seconds. One that cannot counts
        as silent until its agent speaks again."""
        until = self.clock() + ASK_SECONDS
        for node in dict.fromkeys(nodes):
            raylet = self.nodes.raylets.get(node)
            if raylet is not None and self.clock() < until and not self.ray.answers(raylet.id):
                self.nodes.silence(raylet.id)

    def _ending(
        self,
        gang: Gang,
        allocation: Allocation,
        notes: RuntimeNotes,
        amiss: list[tuple[int, _Amiss]],
        gone: Mapping[str, str],
        drained: Mapping[int, str],
    ) -> Ending | None:
        """Why it will end: its workers' end, or, as long as these stay, its quota's; else what of it will, by its
        hardware's signs, and what is done about these."""
        workers = self.backend.ending(allocation)
        if workers is not None:
            return workers
        if notes.evicted is None:
            drains = [(rank, Drain(each.place, each.said)) for rank, each in amiss if each.severity is Severity.DRAIN]
            unseen = {rank for rank, each in amiss if each.severity is Severity.LOST}
            draining = self.drains.ending(drains, unseen, gang.notice)
            acts = gang.on_fault.acts and self._placed_once(gang)
            losses = self._losses(gang, allocation, notes, amiss, gone) if acts else []
            shown = draining is not None or bool(losses)
            draining = with_drained(draining, drained, gang.notice, shown=shown)
            if not acts:
                return draining
            return fault_of(gang.on_fault, losses, draining, allocation.nodes)
        since, why = notes.evicted
        left = max(0.0, since + GRACE_SECONDS - self.clock())
        return Ending(why, left, tuple(range(len(allocation.bundles))))

    def _still(self, notice: Notice | None, amiss: list[tuple[int, _Amiss]]) -> bool:
        """Whether what a gang has notice of as lost may be so still. What is lost in another way now has not stood yet;
        and to a coordinator that has just started nothing has, and who is silent was so to the one before."""
        if notice is None or not notice.faulty or not notice.reason.startswith(LOST):
            return False
        return not self.drains.sure or any(
            rank in notice.faulty for rank, each in amiss if each.severity is Severity.LOST
        )

    def _losses(
        self,
        gang: Gang,
        allocation: Allocation,
        notes: RuntimeNotes,
        amiss: list[tuple[int, _Amiss]],
        gone: Mapping[str, str],
    ) -> list[tuple[int, str]]:
        """What of a gang is lost and will not be back, by bundle: what may pass by itself has to stand."""
        lost, now = [(rank, each) for rank, each in amiss if each.severity is Severity.LOST], self.clock()
        notes.amiss = {str(each): notes.amiss.get(str(each), now) for _, each in lost if each.passing}
        if self.silence.tripped and (gang.notice is None or not gang.notice.faulty):
            return []
        stands = [
            (rank, str(each)) for rank, each in lost if now - notes.amiss.get(str(each), -math.inf) >= FLAP_SECONDS
        ]
        return [(rank, gone[node]) for rank, node in enumerate(allocation.nodes) if node in gone] + stands

    def _told_of(self, gang: Gang) -> tuple[frozenset[int], dict[int, str]]:
        """Of the gang's own workers: the bundles of which Ray may be told that they end, and those whose raylet Ray
        drains, with what is said of it. A raylet that a worker in its place follows may not have been seen to end."""
        if gang.allocation is None or not (self._ray_drains or gang.notice is not None) or not self._placed_once(gang):
            return frozenset(), {}
        at = {
            node: self._of_slots[slot]
            for slot, node in self.backend.slots(gang.allocation).items()
            if slot in self._of_slots
        }
        nodes = [node if node not in gang.replacing else "" for node in gang.allocation.nodes]
        drains = {node: all(raylet.drains for raylet in raylets) for node, raylets in at.items()}
        drained = {rank: f"Ray drains the worker on {node}" for rank, node in enumerate(nodes) if drains.get(node)}
        return frozenset(rank for rank, node in enumerate(nodes) if drains.get(node) is False), drained

    def raylets_of(self, allocation: Allocation, ranks: Collection[int]) -> list[str]:
        """The raylets of a gang's own workers that have these bundles."""
        nodes = {allocation.bundles[rank].node for rank in ranks}
        slots = self.backend.slots(allocation)
        return [each.id for slot, node in slots.items() if node in nodes for each in self._of_slots.get(slot, ())]

    def ends_at(self, gang: Gang) -> dict[str, float]:
        """Raylet -> the Unix time until which nothing of the gang there ends, by its notice, for Ray's libraries. Those
        that share their raylet end their work a little before: what ends with its placement group is a failure to
        them, where what ends with a raylet that Ray drains is none."""
        group, notice = self.view.groups.get(gang.group or ""), gang.notice
        if gang.allocation is None or notice is None or notice.deadline is None or group is None:
            return {}
        deadline, own = notice.deadline, set(self.raylets_of(gang.allocation, notice.ranks))
        before = deadline - min(LEAD_SECONDS, gang.on_fault.grace / 2)
        found = [group.nodes[rank] for rank in notice.ranks if rank < len(group.nodes)]
        return {raylet: deadline if raylet in own else before for raylet in found if raylet is not None}

    def placed_devices(self, records: Records) -> dict[str, float]:
        """Node -> GPUs that Ray counts as taken for our gangs. A group that has lost a node keeps its other bundles."""
        found: dict[str, float] = {}
        for gang, allocation in records.holders():
            group = self.view.groups.get(gang.group or "")
            if group is not None and group.state in ("CREATED", "RESCHEDULING"):
                for placed, raylet in zip(allocation.bundles, group.nodes, strict=False):
                    if raylet is not None:
                        found[placed.node] = found.get(placed.node, 0.0) + len(placed.grants)
        return found

    def _placed_once(self, gang: Gang) -> bool:
        """Whether Ray has placed the gang's group, though it may have lost a part since."""
        group = self.view.groups.get(gang.group or "")
        return group is not None and group.state != "PENDING"

    def slot_on(self, raylet: str, wanted: list[Allocation]) -> str | None:
        """The node of a worker that was made for a gang."""
        label = next((n.labels.get(SLOT_LABEL) for n in self.view.nodes if n.id == raylet), None)
        if label is None:
            return None
        return next((slots[label] for a in wanted if label in (slots := self.backend.slots(a))), None)

    def taken_by_others(self, allocation: Allocation, group: str | None) -> str:
        """What keeps Ray from placing a gang on its own workers that have joined: work that was queued in Ray, by its
        jobs. "" for a gang without workers of its own. `group`: its placement group, of which others may be placed."""
        slots = self.backend.slots(allocation)
        if not slots:
            return ""
        made, found = self.view.groups.get(group or ""), []
        placed = () if made is None else made.nodes
        for raylet in self.view.nodes:
            node = slots.get(raylet.labels.get(SLOT_LABEL, ""))
            if node is None or not raylet.alive or raylet.id in placed:
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

    def has_workers(self, gang: Gang) -> bool:
        """Whether workers of the gang still have GPU ids on raylets that stay when it ends."""
        nodes = dict.fromkeys(gang.holds.nodes) if gang.holds is not None else ()
        living = {raylet.id for raylet in self.view.nodes if raylet.alive}
        there = (self.nodes.raylets[node].id for node in nodes if node in self.nodes.raylets)
        return self._any_on(gang, [raylet for raylet in there if raylet in living])

    def _works(self, gang: Gang) -> bool:
        """The same on any raylet, those of the gang's own workers included."""
        slots = self.backend.slots(gang.allocation) if gang.allocation is not None else ()
        own = [raylet.id for slot in slots for raylet in self._of_slots.get(slot, ())]
        return self.has_workers(gang) or self._any_on(gang, own)

    def _any_on(self, gang: Gang, raylets: Iterable[str]) -> bool:
        groups = set(gang.groups)
        for raylet in raylets if groups else ():
            try:
                workers = self.ray.workers(raylet)
            except RayDraError:
                return True  # asked again at the next look
            if any(groups & worker.gpu_ids.keys() for worker in workers):
                return True
        return False

    def _amiss(self, allocation: Allocation) -> Iterator[tuple[int, _Amiss]]:
        """What of a gang's hardware is not as it was planned, by bundle."""
        for rank, placed in enumerate(allocation.bundles):
            node_state = self.inventory.node_states.get(placed.node)
            if node_state is None:
                yield rank, _Amiss(SEVERITIES[Sign.NODE_GONE], "", f"node {placed.node} is gone")
                continue
            found = None if node_state.node.ready else self._amiss_node(node_state.node)
            if found is not None:
                yield rank, found
            if found is None or found.severity is not Severity.LOST:
                for each in _changed(node_state.node, placed.grants):
                    yield rank, each

    def _unplaced(
        self, gang: Gang, notes: RuntimeNotes, amiss: Collection[int], gone: Collection[str]
    ) -> dict[str, tuple[int, _Amiss]]:
        """By node, a bundle that Ray had placed and does not place again, though nothing of the node is amiss: others'
        work was quicker, say. Ray places it within a second as a rule, so that nothing is said of it before it has
        stood."""
        group, found = self.view.groups.get(gang.group or ""), dict[str, int]()
        if group is not None and group.state == "RESCHEDULING" and gang.allocation is not None:
            away = {*gone, *gang.replacing}
            found = {
                node: rank
                for rank, (node, raylet) in enumerate(zip(gang.allocation.nodes, group.nodes, strict=False))
                if raylet is None and node not in away and rank not in amiss
            }
        if not found:
            notes.unplaced = None
            return {}
        notes.unplaced = self.clock() if notes.unplaced is None else notes.unplaced
        if self.clock() - notes.unplaced < FLAP_SECONDS:
            return {}
        severity, said = SEVERITIES[Sign.NOT_PLACED], "Ray does not place it again, though its raylet is there"
        return {node: (rank, _Amiss(severity, f"bundle {rank}", said)) for node, rank in found.items()}

    def _amiss_node(self, node: Node) -> _Amiss:
        """Of a node that takes nothing new."""
        seen = self.backend.sign(node.name)
        if seen is None:
            return _Amiss(SEVERITIES[Sign.NODE_SILENT], _place(node), node.reason, self._is_passing(node))
        return _Amiss(seen.severity, _place(node), node.reason, self._is_passing(node))

    def _is_passing(self, node: Node) -> bool:
        """Whether a node that is lost may be back by itself: one whose raylet Ray has given up is not."""
        seen = self.backend.sign(node.name)
        return node.reason != RAYLET_LOST if seen is None else seen.sign in PASSING


def _drains(gang: Gang) -> bool:
    """Whether its program ends the work of a shape that the gang leaves."""
    return gang.reshape is not None and gang.reshape.stage is ReshapeStage.DRAINS


def _place(node: Node) -> str:
    return f"node {node.name}"


def _to_drain(node: Node) -> Iterator[str]:
    """The devices of a node that show signs to drain, as grants name them."""
    drained = [device.health is Health.DRAIN for device in node.devices]
    yield from (str(device.id) for device, drain in zip(node.devices, drained, strict=True) if drain)
    for gpu in node.parted:
        if gpu.health is Health.DRAIN or (gpu.position is not None and drained[gpu.position]):
            yield from (str(part.id) for part in gpu.parts)


def _changed(node: Node, grants: tuple[Grant, ...]) -> Iterator[_Amiss]:
    by_id = {d.id: d for d in node.devices}
    for grant in grants:
        if grant.part is not None:
            yield from _part_changed(node, grant, grant.part)
            continue
        device = by_id.get(grant.device)
        if device is None:
            yield _Amiss(SEVERITIES[Sign.DEVICE_GONE], str(grant.device), "not there any more", passing=True)
        elif device.health is not Health.OK:
            yield _Amiss(severity_of(device.health), str(grant.device), device.health_reason)
        elif grant.clique is not None and device.clique != grant.clique:
            yield _Amiss(SEVERITIES[Sign.LEFT_CLIQUE], str(grant.device), "left its clique", passing=True)


def _part_changed(node: Node, grant: Grant, part: GrantedPart) -> Iterator[_Amiss]:
    gpu = next((gpu for gpu in node.parted if gpu.uuid == part.parent), None)
    if gpu is None:
        yield _Amiss(SEVERITIES[Sign.DEVICE_GONE], str(grant.device), "its GPU is not there any more", passing=True)
        return
    device = node.devices[gpu.position] if gpu.position is not None else None
    if gpu.health is not Health.OK:
        yield _Amiss(severity_of(gpu.health), str(grant.device), gpu.health_reason)
    elif device is not None and device.health is not Health.OK:
        yield _Amiss(severity_of(device.health), str(grant.device), device.health_reason)
    elif grant.uuid is not None and all(each.uuid != grant.uuid for each in gpu.parts):
        yield _Amiss(SEVERITIES[Sign.DEVICE_GONE], str(grant.device), "not there any more", passing=True)
