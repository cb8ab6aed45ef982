"""Which machines Kubernetes has: nodes with published GPUs into the inventory, and what of them is taken.

The counterpart of `backends/raylets/nodes.py`, which does the same for raylets. Neighbour: `backend.py` looks and
decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray_dra.coordinator.backends.kubernetes.neighbours import Neighbours
from ray_dra.core.cluster.gpu_parts import GpuParts
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.cluster.spares import chosen_spares
from ray_dra.core.model.clique import box_clique
from ray_dra.core.model.device import Health
from ray_dra.core.model.node import Node
from ray_dra.core.model.signs import Seen, Sign, severity_of
from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import Claim, DeviceTaintRule, Placing, ResourceSlice
from ray_dra.ports.kubernetes import KubeView
from ray_dra.ports.nvml import NodeReading
from ray_dra.translate.kube.parts import Parts, parts_of
from ray_dra.translate.kube.published_links import with_links
from ray_dra.translate.kube.raycluster import driver_of
from ray_dra.translate.kube.schedulable import obstacle
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.kube.taint_rules import rules_for, with_rules
from ray_dra.translate.kube.workers import RAYLET_CPUS, RAYLET_MEMORY
from ray_dra.translate.names import SPARE_LABEL
from ray_dra.translate.nvml.reading import MIG_IS_ON, node_from_reading

logger = logging.getLogger(__name__)

FAULT_SECONDS = 600.0  # how long a GPU that NVML found faulty is left out, unless NVML takes it back
AVOID_SECONDS = 60.0  # how long nodes on which an attempt failed are left out


@dataclass
class _Taken:
    """What claims have of a node: GPUs of which others than gangs have something, the parts that they have (UUID of a
    GPU -> mask), and those that gangs have got."""

    busy: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    placed: dict[str, dict[str, int]] = field(default_factory=dict)

    def take_parts(self, state: NodeState, device: str, gpus: frozenset[str] | None) -> None:
        """Others have this device, which is something of these GPUs; None: it may be of any."""
        for gpu in state.parts:
            mask = gpu.names.get(device, 0)
            at = gpu.gpu.position
            if not mask and (gpus is None or (at is not None and state.node.devices[at].id.device in gpus)):
                mask = gpu.table.everything  # the whole GPU, or something that is no part that we know
            if mask:
                self.leave_parts(gpu.gpu.uuid, mask)

    def leave_parts(self, gpu: str, mask: int) -> None:
        """These parts of a GPU are others'."""
        self.parts[gpu] = self.parts.get(gpu, 0) | mask

    def place_parts(self, state: NodeState, device: str, gang: str) -> None:
        """A gang's claim has got this device."""
        for gpu in state.parts:
            if mask := gpu.names.get(device, 0):
                got = self.placed.setdefault(gang, {})
                got[gpu.gpu.uuid] = got.get(gpu.gpu.uuid, 0) | mask


_NOTHING = _Taken()


class Machines:
    """Kubernetes' nodes in `inventory`; those that changed are written again, and no others."""

    def __init__(self, inventory: Inventory, clock: Clock) -> None:
        self._inventory, self._clock = inventory, clock
        self._driver: str | None = None  # whose GPUs gangs have; None: not known yet
        self.names: set[str] = set()
        self._avoided: dict[str, tuple[float, str]] = {}  # node -> until when, and why
        self._made_of: tuple[Any, ...] = ()  # what all nodes were made from
        self._translated: dict[str, Any] = {}  # node -> what it was made from
        self._faults: dict[str, dict[str, tuple[float, Health, str]]] = {}  # node -> UUID -> until when, what and why
        self._signs: dict[str, Seen] = {}  # what keeps new pods from a node
        self._spares: frozenset[str] = frozenset()  # kept for repairs, besides those that are labelled so
        self._labelled: set[str] = set()  # spares by their label
        self._chosen_by = (-1, 0)  # the inventory's changes and the number of spares by which these were chosen
        self._parts: dict[str, Parts] = {}  # node -> the devices of its pool
        self._unknown: dict[tuple[str, str], str] = {}  # (node, device) that is no known part of any GPU -> the claim
        self._taken: dict[str, _Taken] = {}
        self.neighbours = Neighbours(clock)

    def has(self, node: str) -> bool:
        """Whether Kubernetes has a node of this name, on which gangs get workers of their own."""
        return node in self.names

    def usable(self) -> list[str]:
        """The nodes with GPUs on which pods may run now, by name."""
        found = ((name, self._inventory.node_states.get(name)) for name in sorted(self.names))
        return [name for name, state in found if state is not None and state.node.ready and state.node.devices]

    def avoid(self, nodes: Iterable[str], why: str) -> None:
        """Leave nodes out for a while, and at once: whoever failed on them is planned again before the next look."""
        until, why = self._clock() + AVOID_SECONDS, f"left out for a while: {why}"
        for name in nodes:
            self._avoided[name] = until, why
            state = self._inventory.node_states.get(name)
            if state is not None and state.node.ready and self.has(name):
                self._inventory.put_node(replace(state.node, ready=False, reason=why))

    def sign(self, node: str) -> Seen | None:
        """What keeps plans from a node, if that is a sign of Kubernetes' or that an attempt failed there."""
        seen, (_, why) = self._signs.get(node), self._avoided.get(node, (0.0, ""))
        state = self._inventory.node_states.get(node)
        if seen is None and why and state is not None and state.node.reason == why:
            return Seen(Sign.ATTEMPT_FAILED, why)
        return seen

    @property
    def avoided(self) -> Mapping[str, str]:
        """Nodes that are left out now, and why."""
        now = self._clock()
        self._avoided = {node: (until, why) for node, (until, why) in self._avoided.items() if until > now}
        return {node: why for node, (_, why) in self._avoided.items()}

    def hear(self, node: str, reading: NodeReading) -> None:
        """What NVML says in a gang's worker of the GPUs that it has; Kubernetes may hear of a fault late or never."""
        state = self._inventory.node_states.get(node)
        if state is None or reading.error is not None:
            return
        planned = {device.uuid: device for device in state.node.devices}
        faults = dict(self._faults.get(node, {}))
        for device in node_from_reading(node, reading).devices:
            faults.pop(device.uuid or "", None)
            known = planned.get(device.uuid)
            if device.health_reason == MIG_IS_ON:
                continue  # whoever has parts of it sees it so; it has no NVLinks either
            if device.health is not Health.OK:
                faults[device.uuid or ""] = (self._clock() + FAULT_SECONDS, device.health, device.health_reason)
            elif known is not None and known.clique is not None and device.clique != known.clique:
                if len(reading.gpus) == 1 and known.clique == box_clique(node):
                    continue  # that it is in a box is seen by another GPU on the same switches
                said = f"NVML says clique {device.clique}"
                faults[device.uuid or ""] = (self._clock() + FAULT_SECONDS, Health.TAINTED, said)
        self._faults[node] = faults

    @property
    def faults(self) -> frozenset[tuple[str, str, Health, str]]:
        """(node, UUID, what, why) of each GPU that NVML found faulty, in the last minutes or now."""
        now = self._clock()
        self._faults = {
            node: kept
            for node, found in self._faults.items()
            if (kept := {uuid: fault for uuid, fault in found.items() if fault[0] > now})
        }
        return frozenset(
            (node, uuid, health, why)
            for node, found in self._faults.items()
            for uuid, (_, health, why) in found.items()
        )

    def put(self, view: KubeView, placing: Placing) -> None:
        """The nodes that publish GPUs; `placing`: of the pods to be placed."""
        if self._driver is None and view.raycluster is not None:  # as its slices are watched: from a start to the next
            self._driver = driver_of(view.raycluster)
        driver = self._driver or driver_of(None)
        made_of = (
            driver,
            view.slices,
            view.taint_rules,
            view.nodes,
            view.topologies,
            self.avoided,
            self.faults,
            placing,
        )
        if made_of == self._made_of:
            return  # what has not changed is the same object, so that to compare is quick
        by_node: dict[str, list[ResourceSlice]] = {}
        for each in view.slices:
            if each.driver == driver and each.node:
                by_node.setdefault(each.node, []).append(each)
        avoided = self.avoided
        faults: dict[str, dict[str, tuple[Health, str]]] = {}
        for node_name, uuid, health, why in self.faults:
            faults.setdefault(node_name, {})[uuid] = health, why
        links = {published.node: published for published in view.topologies}
        seen = by_node.keys() & view.nodes.keys()
        for name in seen:
            node = view.nodes[name]
            versions = tuple(s.version for s in by_node[name])
            rules = rules_for(name, [rule for rule in view.taint_rules if not rule.guard])
            made_from = (node, versions, rules, avoided.get(name), faults.get(name), links.get(name), placing)
            if self._translated.get(name) == made_from:
                continue
            self._translated[name] = made_from
            self._taken.pop(name, None)
            self._parts[name] = parts_of(by_node[name])
            seen_there = obstacle(node, placing)
            self._signs.pop(name, None)
            if seen_there is not None:
                self._signs[name] = seen_there
            made = node_from_slices(node, with_rules(by_node[name], rules), placing)
            made = with_links(made, links.get(name))
            labelled = node.labels.get(SPARE_LABEL) == "true"
            (self._labelled.add if labelled else self._labelled.discard)(name)
            made = replace(made, spare=labelled or name in self._spares)
            self._inventory.put_node(_for_bundles(_with_faults(made, faults.get(name, {})), avoided.get(name)))
        for gone in self.names - seen:
            self._inventory.drop_node(gone)
            self._translated.pop(gone, None)
            self._taken.pop(gone, None)
            self._parts.pop(gone, None)
            self._signs.pop(gone, None)
            self._labelled.discard(gone)
        self.names = set(seen)
        self._made_of = made_of  # at the end: what raised is met again

    def keep_spares(self, count: int) -> None:
        """So many nodes of each clique, besides those that are labelled so, are spares."""
        if self._chosen_by == (self._inventory.changes, count):
            return
        self._inventory.keeps_spares = count, frozenset(self._labelled)
        states = self._inventory.node_states
        others = [states[name] for name in self.names if name in states and name not in self._labelled]
        self._spares = chosen_spares(others, count) if count else frozenset()
        for state in others:
            if state.node.spare is not (state.name in self._spares):
                self._inventory.put_node(replace(state.node, spare=not state.node.spare))
        self._chosen_by = self._inventory.changes, count

    def mark_taken(
        self,
        claims: Iterable[Claim],
        wanted: Callable[[Claim], bool],
        gang_of: Callable[[Claim], str] = lambda claim: claim.attempt or "",
        guards: Iterable[DeviceTaintRule] = (),
    ) -> None:
        """Devices in allocated claims are taken, but for claims of gangs that are `wanted`: the inventory has those.
        Of a gang's parts of GPUs it learns which the claim has got.

        A GPU is taken with any part of it, and where nothing tells which GPU a device is a part of, all of its node
        are. So are those that claims of other RayClusters' gangs name and do not have yet, as long as that is believed,
        and those that their `guards` keep for them.
        """
        taken: dict[str, _Taken] = {}
        named = self.neighbours.named
        unknown: dict[tuple[str, str], str] = {}
        for claim in claims:
            ours = wanted(claim)
            for name, published in claim.devices:
                state = self._inventory.node_states.get(name)
                if ours:
                    if state is not None and state.parts:
                        taken.setdefault(name, _Taken()).place_parts(state, published, gang_of(claim))
                    continue
                gpus = self.gpus_with(name, published)
                if gpus is None:
                    unknown[name, published] = f"{claim.namespace}/{claim.name}"
                if state is None:
                    continue
                here = taken.setdefault(name, _Taken())
                here.take_parts(state, published, gpus)
                for position, device in enumerate(state.node.devices):
                    if gpus is None or device.id.device in gpus:
                        here.busy |= 1 << position
        self._tell_unknown(unknown)
        for rule in guards:
            state, gpus = self._inventory.node_states.get(rule.pool), self.gpus_with(rule.pool, rule.device)
            for position, device in enumerate(state.node.devices if state is not None else ()):
                if not rule.device or device.id.device in (gpus or ()):
                    taken.setdefault(rule.pool, _Taken()).busy |= 1 << position
        if named:
            for name in self.names:
                state = self._inventory.node_states[name]
                mask = sum(1 << at for at, device in enumerate(state.node.devices) if device.uuid in named)
                if mask:
                    taken.setdefault(name, _Taken()).busy |= mask
                for gpu in state.parts:
                    if parts := _named_parts(gpu, named):
                        taken.setdefault(name, _Taken()).leave_parts(gpu.gpu.uuid, parts)
        for name in self.names:
            now = taken.get(name, _NOTHING)
            if self._taken.get(name) != now:
                self._taken[name] = now
                self._inventory.set_others(name, now.busy, {})
                if self._inventory.node_states[name].parts:
                    self._inventory.set_parts(name, now.parts, now.placed)

    def mark_domains(self, claims: Iterable[Claim], ours: Callable[[Claim], bool]) -> None:
        """Nodes that are in ComputeDomains of others (Dynamo's and Grove's, other RayClusters', one of a gang that is
        being undone), as their pods' claims tell; `ours`: whether a claim that has a channel is of a gang. A node is in
        one at a time. A domain is called after the oldest pod that joins it: nobody but its own namespace may read
        it."""
        theirs = [claim for claim in claims if claim.domain_nodes and not ours(claim)]
        by_domain: dict[str, str] = {}
        called: dict[str, str] = {}  # by node
        for claim in sorted(theirs, key=lambda each: (not each.domain_pod, each.age, each.namespace, each.name)):
            pod = f"{claim.namespace}/{claim.domain_pod}" if claim.domain_pod else ""
            whose = by_domain.setdefault(claim.domain, pod) if claim.domain else pod
            for node in claim.domain_nodes:
                called.setdefault(node, whose)
        self._inventory.set_others_domains(frozenset(called.keys() & self.names), called)

    def gpus_with(self, node: str, device: str) -> frozenset[str] | None:
        """GPUs of a node that whoever has a device of its pool has all or a part of; None: it may be any of them."""
        parts = self._parts.get(node)
        return frozenset() if parts is None else parts.taken_with(device)

    def pool(self, node: str) -> Parts | None:
        """The devices of a node's pool; None where it publishes none just now."""
        return self._parts.get(node)

    def problems(self) -> tuple[str, ...]:
        """Why GPUs count as taken of which nobody can tell whether they are."""
        return tuple(
            f"the claim {claim} has the device {device} of node {node}, which is no published GPU nor part of one: "
            f"all GPUs of {node} count as taken"
            for (node, device), claim in sorted(self._unknown.items())
        )

    def _tell_unknown(self, unknown: dict[tuple[str, str], str]) -> None:
        before = set(self.problems())
        self._unknown = unknown
        for problem in self.problems():
            if problem not in before:
                logger.warning(problem)


def _named_parts(gpu: GpuParts, named: Collection[str]) -> int:
    """The parts that claims name: by their UUIDs, or all of a GPU by its own."""
    if gpu.gpu.uuid in named:
        return gpu.table.everything
    return sum(1 << at for at, part in enumerate(gpu.gpu.parts) if part.uuid is not None and part.uuid in named)


def _with_faults(node: Node, faults: Mapping[str, tuple[Health, str]]) -> Node:
    """The worse of what NVML and Kubernetes say of each device; of equals what NVML says, which is nearer."""
    if not faults:
        return node
    devices = tuple(
        replace(d, health=faults[d.uuid][0], health_reason=faults[d.uuid][1])
        if d.uuid and d.uuid in faults and severity_of(faults[d.uuid][0]) >= severity_of(d.health)
        else d
        for d in node.devices
    )
    return replace(node, devices=devices)


def _for_bundles(node: Node, avoided: str | None) -> Node:
    """What bundles can have of a node, its raylet's own part aside."""
    resources = {
        "CPU": max(0.0, node.resources.get("CPU", 0.0) - RAYLET_CPUS),
        "memory": max(0.0, node.resources.get("memory", 0.0) - RAYLET_MEMORY),
    }
    made = replace(node, resources=resources)
    return replace(made, ready=False, reason=avoided) if avoided and made.ready else made
