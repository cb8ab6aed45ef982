"""What has become of a gang: what Ray says of its placement group and workers, and its nodes of its devices."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ray_dra.coordinator.backends.base import Backend
from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.lifecycle import Gang, Observed, owner_ended
from ray_dra.core.gangs.notice import Ending
from ray_dra.core.gangs.quota import GRACE_SECONDS
from ray_dra.core.gangs.records import Records, RuntimeNotes
from ray_dra.core.gangs.stages import JOINED, PLACED
from ray_dra.core.model.allocation import Allocation, Grant
from ray_dra.core.model.device import Health
from ray_dra.core.model.node import Node
from ray_dra.core.model.parts import GrantedPart
from ray_dra.errors import RayDraError
from ray_dra.ports.clock import Clock
from ray_dra.ports.ray import Ray, RayView
from ray_dra.translate.names import SLOT_LABEL

YOUNG_SECONDS = 2.0  # Ray's view may be older than a group


class Observer:
    """See the module. `view` is what Ray said at the last look, `joined` the slots whose raylet lived then."""

    def __init__(self, inventory: Inventory, nodes: Nodes, ray: Ray, backend: Backend, clock: Clock) -> None:
        self.inventory, self.nodes, self.ray, self.backend, self.clock = inventory, nodes, ray, backend, clock
        self.view, self.joined = RayView(), frozenset[str]()
        self.ended_actors = frozenset[str]()  # of those that keep ordinary placement groups

    def look(self) -> RayView:
        """Ask Ray anew. What all gangs are asked about is worked out here, once a look."""
        self.view = self.ray.view()
        self.joined = frozenset(n.labels[SLOT_LABEL] for n in self.view.nodes if n.alive and SLOT_LABEL in n.labels)
        return self.view

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
        state = None
        if gang.group is not None:
            group = self.view.groups.get(gang.group)
            young = held_for < YOUNG_SECONDS and not gang.releasing
            state = group.state if group is not None else (None if young else "ABSENT")
        return Observed(
            group_state=state,
            owner_alive=not owner_ended(gang, self.view.jobs, self.ended_actors),
            busy=gang.releasing and self.has_workers(gang),
            lost=tuple(dict.fromkeys(self._lost(gang))),
            held_for=held_for,
            provisioned=notes.progress.ready,
            place_within=self.backend.place_within
            if notes.progress.joined
            else math.inf,  # until then: the workers' own
            placed_once=self._placed_once(gang),
            undone=not gang.releasing or self.backend.gone(gang.id, gang.moves),
            left_groups=tuple(old for old in gang.old_groups if old in self.view.groups),
            ending=None if gang.allocation is None else self._ending(gang.allocation, notes),
        )

    def _ending(self, allocation: Allocation, notes: RuntimeNotes) -> Ending | None:
        """Why it will end: its workers' end, or, as long as these stay, its quota's."""
        workers = self.backend.ending(allocation)
        if workers is not None or notes.evicted is None:
            return workers
        since, why = notes.evicted
        left = max(0.0, since + GRACE_SECONDS - self.clock())
        return Ending(why, left, tuple(range(len(allocation.bundles))))

    def placed_devices(self, records: Records) -> dict[str, float]:
        """Node -> GPUs that Ray counts as taken for our gangs."""
        found: dict[str, float] = {}
        for gang, allocation in records.holders():
            group = self.view.groups.get(gang.group or "")
            if group is not None and group.state == "CREATED":
                for placed in allocation.bundles:
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

    def taken_by_others(self, allocation: Allocation) -> str:
        """What keeps Ray from placing a gang on its own workers that have joined: work that was queued in Ray, by its
        jobs. "" for a gang without workers of its own."""
        slots = self.backend.slots(allocation)
        if not slots:
            return ""
        found = []
        for raylet in self.view.nodes:
            node = slots.get(raylet.labels.get(SLOT_LABEL, ""))
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

    def has_workers(self, gang: Gang) -> bool:
        """Whether workers of the gang still have GPU ids anywhere."""
        groups = set(gang.groups)
        if gang.allocation is None or not groups:
            return False
        for node in dict.fromkeys(gang.allocation.nodes):
            raylet = self.nodes.raylets.get(node)
            if raylet is None or not any(n.id == raylet.id and n.alive for n in self.view.nodes):
                continue
            try:
                workers = self.ray.workers(raylet.id)
            except RayDraError:
                return True  # asked again at the next look
            if any(groups & worker.gpu_ids.keys() for worker in workers):
                return True
        return False

    def _lost(self, gang: Gang) -> Iterator[str]:
        """What of a gang's hardware is not as it was planned."""
        if gang.allocation is None:
            return
        if self._placed_once(gang):
            yield from self.backend.lost(gang.allocation, self.joined)
        for placed in gang.allocation.bundles:
            node_state = self.inventory.node_states.get(placed.node)
            if node_state is None:
                yield f"node {placed.node} is gone"
            elif not node_state.node.ready and not self.backend.left_out(placed.node):
                yield f"node {placed.node}: {node_state.node.reason}"
            else:
                yield from _changed(node_state.node, placed.grants)


def _changed(node: Node, grants: tuple[Grant, ...]) -> Iterator[str]:
    by_id = {d.id: d for d in node.devices}
    for grant in grants:
        if grant.part is not None:
            yield from _part_changed(node, grant, grant.part)
            continue
        device = by_id.get(grant.device)
        if device is None:
            yield f"{grant.device}: not there any more"
        elif device.health is not Health.OK:
            yield f"{grant.device}: {device.health_reason}"
        elif grant.clique is not None and device.clique != grant.clique:
            yield f"{grant.device}: left its clique"


def _part_changed(node: Node, grant: Grant, part: GrantedPart) -> Iterator[str]:
    gpu = next((gpu for gpu in node.parted if gpu.uuid == part.parent), None)
    if gpu is None:
        yield f"{grant.device}: its GPU is not there any more"
        return
    device = node.devices[gpu.position] if gpu.position is not None else None
    if gpu.health is not Health.OK:
        yield f"{grant.device}: {gpu.health_reason}"
    elif device is not None and device.health is not Health.OK:
        yield f"{grant.device}: {device.health_reason}"
    elif grant.uuid is not None and all(each.uuid != grant.uuid for each in gpu.parts):
        yield f"{grant.device}: not there any more"
