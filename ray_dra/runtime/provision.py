"""Workers for gangs on Kubernetes: from a held allocation to raylets that have exactly its devices, and back.

Level-triggered: every look reads what is there and takes each attempt one step further, or, where no gang wants it any
more, one step back. No phase is stored; it is read off the labelled objects, so a coordinator that was killed anywhere
goes on where it was. Only Kubernetes' scheduler allocates. Neighbours: `translate.workers` makes the objects,
`translate.slices` reads the nodes, `coordinator.py` decides which allocation is wanted.

    making   claim templates and ComputeDomains -> worker groups -> all pods there, gated -> gates opened, all at once
             -> allocated and bound -> verified by NVML in each pod -> barrier opened -> raylets joined
    undoing  groups suspended -> no pods -> groups removed -> pods, templates, ComputeDomains deleted
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ray_dra.core.allocation import Allocation
from ray_dra.core.inventory import Inventory
from ray_dra.core.topology import Node
from ray_dra.errors import Conflict, InvalidRequest, KubernetesError, NotFound, Rejected
from ray_dra.ports import Clock, Kube, KubeView, Object, Store
from ray_dra.translate.labels import SLOT
from ray_dra.translate.slices import DRIVER, node_from_slices
from ray_dra.translate.workers import (
    ATTEMPT_LABEL,
    CLUSTER_LABEL,
    GATE,
    RAYLET_CPUS,
    RAYLET_MEMORY,
    Attempt,
    attempt_name,
    attempt_of,
    refuse_unfit,
    slot_label,
    worker_template,
)

# In the store. The start hook in each pod reads what it must find by NVML, says that it did, and waits for the barrier.
SLOT_KEY, VERIFIED_KEY, GO_KEY = "slot/", "verified/", "go/"
OPEN_KEY = "open/"  # the pods that were let in, so that one that replaces a lost one is told from them

# Seconds without progress in a stage before the attempt is given up. Pulling an image is part of the last two.
PATIENCE = {"applied": 30.0, "pods": 60.0, "bound": 20.0, "started": 300.0, "verified": 120.0, "joined": 60.0}
AVOID_SECONDS = 60.0  # how long nodes on which an attempt failed are left out
QUIET_SECONDS = 1.0  # without pods, before a group is removed


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the workers of a gang are. `failed`: why this attempt will not get there; `final`: nor will any other;
    `said`: what is being waited for."""

    ready: bool = False
    failed: str = ""
    final: bool = False
    said: str = ""


class _Failed(Exception):
    """This attempt cannot go on; another may."""


@dataclass
class _Try:
    """One attempt in the making, as this coordinator has seen it."""

    attempt: Attempt
    checked: bool = False  # the API server would take its pods
    seen: tuple[Any, ...] = ()  # what progress is measured by
    since: float = 0.0  # when that last changed


@dataclass
class _Found:
    """What there is of an attempt, whoever made it."""

    groups: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    templates: list[Object] = field(default_factory=list)
    domains: list[Object] = field(default_factory=list)
    claims: list[Object] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        return not (self.groups or self.pods or self.templates or self.domains)


class Provisioner:
    """See the module. Writes the cluster's nodes into `inventory`, and others' claims as taken."""

    def __init__(self, kube: Kube, store: Store, inventory: Inventory, clock: Clock) -> None:
        self.kube, self.store, self.inventory, self.clock = kube, store, inventory, clock
        self.view = KubeView()
        self.nodes: set[str] = set()  # of Kubernetes, in the inventory
        self.found: dict[str, _Found] = {}
        self._tries: dict[str, _Try] = {}
        self._avoid: dict[str, tuple[float, str]] = {}
        self._quiet: dict[str, float] = {}  # attempt being undone -> since when it has no pods
        self._translated: dict[str, tuple[Any, Node]] = {}
        self._busy: dict[str, int] = {}
        self._seen: tuple[Any, ...] = ()  # what the last look was made from

    # -- what there is

    def look(self, wanted: Iterable[Allocation]) -> None:
        """Read the cluster, and write it into the inventory. `wanted`: the allocations that gangs hold now."""
        self.view = self.kube.view()
        names = frozenset(attempt_name(a.gang, a.epoch) for a in wanted)
        now = self.clock()
        self._avoid = {node: (until, why) for node, (until, why) in self._avoid.items() if until > now}
        key = (self.view.version, names, frozenset(self._avoid))
        if key == self._seen:
            return
        self._sort()
        self._put_nodes()
        self._mark_taken(names)
        self._seen = key

    def check(self) -> None:
        """What would keep any gang from getting workers. Raises InvalidRequest, or NotFound for no RayCluster."""
        refuse_unfit(self._raycluster())
        worker_template(self._raycluster())

    def serves(self, node: str) -> bool:
        """Whether gangs get workers of their own on this node."""
        return node in self.nodes

    def _raycluster(self) -> Object:
        if self.view.raycluster is None:
            raise NotFound("The RayCluster is not there.", place=f"namespace {self.kube.namespace}")
        return self.view.raycluster

    def _sort(self) -> None:
        """Every object under the attempt that it is for."""
        self.found = {}
        groups = self.view.raycluster["spec"].get("workerGroupSpecs") or [] if self.view.raycluster else []
        for group in groups:
            labels = (group["template"].get("metadata") or {}).get("labels") or {}
            if ATTEMPT_LABEL in labels:
                self._of(labels[ATTEMPT_LABEL]).groups.append(group)
        for kind, things in (
            ("pods", self.view.pods),
            ("templates", self.view.templates),
            ("domains", self.view.domains),
            ("claims", self.view.claims),
        ):
            for thing in things:
                labels = thing["metadata"].get("labels") or {}
                if kind == "pods" and self._lingers(thing):
                    continue
                if ATTEMPT_LABEL in labels and self._ours(thing):
                    getattr(self._of(labels[ATTEMPT_LABEL]), kind).append(thing)

    def _lives(self, node: str) -> bool:
        found = self.view.nodes.get(node)
        return found is not None and found.ready

    def _lingers(self, pod: Object) -> bool:
        """Deleted on a node that is lost: its kubelet will end it when it comes back, and till then nobody can. Its
        claim stays allocated, so that its devices are taken meanwhile."""
        node = pod["spec"].get("nodeName")
        return bool(pod["metadata"].get("deletionTimestamp")) and node is not None and not self._lives(node)

    def _ours(self, thing: Object) -> bool:
        meta = thing["metadata"]
        cluster = self.view.raycluster
        label = (meta.get("labels") or {}).get(CLUSTER_LABEL)
        return meta.get("namespace") == self.kube.namespace and (
            cluster is None or label == cluster["metadata"]["name"]
        )

    def _of(self, attempt: str) -> _Found:
        return self.found.setdefault(attempt, _Found())

    def _put_nodes(self) -> None:
        """Nodes into the inventory, those that changed."""
        tolerations = self._tolerations()
        by_node: dict[str, list[Object]] = {}
        for each in self.view.slices:
            if each["spec"]["driver"] == DRIVER and "nodeName" in each["spec"]:
                by_node.setdefault(each["spec"]["nodeName"], []).append(each)
        seen = set()
        for name, node in self.view.nodes.items():
            if name not in by_node:
                continue  # no GPUs of ours
            seen.add(name)
            versions = tuple(s["metadata"]["resourceVersion"] for s in by_node[name])
            avoided = self._avoid.get(name, (0.0, ""))[1]
            key = (node, versions, avoided, tolerations)
            before = self._translated.get(name)
            if before is not None and before[0] == key:
                continue
            made = node_from_slices(node, by_node[name], [dict(t) for t in tolerations])
            made = _without_the_raylets_part(made, avoided)
            self._translated[name] = (key, made)
            self.inventory.put_node(made)
        for gone in self.nodes - seen:
            self.inventory.drop_node(gone)
            self._translated.pop(gone, None)
            self._busy.pop(gone, None)
        self.nodes = seen

    def _tolerations(self) -> tuple[tuple[tuple[str, Any], ...], ...]:
        try:
            spec = worker_template(self._raycluster())["template"]["spec"]
        except (InvalidRequest, NotFound):
            return ()
        return tuple(tuple(sorted(t.items())) for t in spec.get("tolerations") or ())

    def _mark_taken(self, wanted: frozenset[str]) -> None:
        """Devices in claims that no living gang wants, by node: others', and those of attempts being undone."""
        busy: dict[str, int] = {}
        for claim in self.view.claims:
            labels = claim["metadata"].get("labels") or {}
            if labels.get(ATTEMPT_LABEL) in wanted and self._ours(claim):
                continue
            allocation = (claim.get("status") or {}).get("allocation") or {}
            for result in (allocation.get("devices") or {}).get("results") or ():
                seat = self.inventory.seats.get(result["pool"])
                if result["driver"] != DRIVER or seat is None:
                    continue
                for position, device in enumerate(seat.node.devices):
                    if device.id.device == result["device"]:
                        busy[result["pool"]] = busy.get(result["pool"], 0) | 1 << position
        for name in self.nodes:
            mask = busy.get(name, 0)
            if self._busy.get(name, 0) != mask:
                self._busy[name] = mask
                self.inventory.set_others(name, mask, {})

    # -- making

    def advance(self, allocation: Allocation, joined: set[str]) -> Progress:
        """One step further for a gang's workers.

        Args:
            joined: slot labels of the raylets that live.
        """
        name = attempt_name(allocation.gang, allocation.epoch)
        try:
            made = self._tries.get(name)
            if made is None:
                attempt = attempt_of(self._provisioned(allocation), self._raycluster(), imex=self._imex())
                made = self._tries[name] = _Try(attempt, since=self.clock())
            return self._step(made, self.found.get(name, _Found()), joined)
        except _Failed as error:
            return Progress(failed=str(error))
        except InvalidRequest as error:
            return Progress(failed=str(error), final=True)
        except Rejected as error:
            return Progress(failed=f"Kubernetes refuses the workers: {error.available}", final=True)
        except (Conflict, NotFound):
            return Progress(said="the RayCluster changed in between")
        except KubernetesError as error:
            return Progress(said=str(error).splitlines()[0])

    def _provisioned(self, allocation: Allocation) -> Allocation:
        """The part of an allocation that lies on Kubernetes' nodes; the rest is on raylets that are there."""
        bundles = tuple(p if p.node in self.nodes else p._replace(grants=(), node="") for p in allocation.bundles)
        kept = tuple(p for p in bundles if p.node)
        return Allocation(allocation.gang, kept, allocation.epoch, allocation.priority, allocation.counters)

    def _imex(self) -> bool:
        return self.inventory.limits.compute_domains

    def _step(self, made: _Try, there: _Found, joined: set[str]) -> Progress:
        attempt = made.attempt
        if not made.checked:
            self.kube.together([lambda pod=pod: self.kube.create(pod, dry_run=True) for pod in attempt.pods])  # type: ignore[misc]
            made.checked = True
        labels = {slot_label(attempt.name, node): node for node in attempt.slots}
        if labels.keys() <= joined:
            return Progress(ready=True)
        stage, said = self._make(made, there, labels)
        return self._judge(made, there, stage, said, len(labels.keys() & joined))

    def _make(self, made: _Try, there: _Found, labels: Mapping[str, str]) -> tuple[str, str]:
        """Do what can be done now; the stage it is in, and what is being waited for."""
        attempt = made.attempt
        missing = _missing(attempt.domains, there.domains) + _missing(attempt.templates, there.templates)
        if missing:
            self.kube.together([lambda thing=thing: self.kube.create(thing) for thing in missing])  # type: ignore[misc]
        names = {t["metadata"]["name"] for t in self.view.templates}
        absent = [name for name in attempt.channel_templates if name not in names]
        if absent:
            return "applied", f"the claim template of the ComputeDomain: {', '.join(absent)}"
        have = {group["groupName"] for group in there.groups}
        lacking = [group for group in attempt.groups if group["groupName"] not in have]
        if lacking:
            self._add_groups(lacking)
            return "applied", "the worker groups"
        pods = [pod for pod in there.pods if not pod["metadata"].get("deletionTimestamp")]
        if len(pods) < len(labels):
            return "pods", f"{len(labels) - len(pods)} of {len(labels)} pods"
        gated = [pod for pod in pods if _gated(pod)]
        if gated:
            self._open(attempt, pods, gated)
            return "bound", "the gates to open"
        unbound = [pod for pod in pods if not pod["spec"].get("nodeName")]
        if unbound:
            return "bound", _why_pending(unbound[0])
        verified = set(self.store.keys(f"{VERIFIED_KEY}{attempt.name}."))
        if len(verified) < len(labels):
            waiting = next((pod for pod in pods if _why_not_started(pod)), None)
            if waiting is not None:
                return "started", f"{waiting['metadata']['name']}: {_why_not_started(waiting)}"
            return "verified", f"NVML in {len(labels) - len(verified)} of {len(labels)} pods"
        if self.store.get(GO_KEY + attempt.name) is None:
            self.store.put(GO_KEY + attempt.name, b"")
        return "joined", "the raylets to join"

    def _open(self, attempt: Attempt, pods: Sequence[Object], gated: Sequence[Object]) -> None:
        """Say what each slot must find by NVML, then let all pods be scheduled.

        Raises:
            _Failed: some were let in before, and one of these came after them: it replaces one that was lost.
        """
        key = OPEN_KEY + attempt.name
        noted = self.store.get(key)
        if noted is None:
            for node, slot in attempt.slots.items():
                expected = json.dumps([list(slot.uuids), slot.clique]).encode()
                self.store.put(SLOT_KEY + slot_label(attempt.name, node), expected)
            noted = json.dumps(sorted(pod["metadata"]["uid"] for pod in pods)).encode()
            self.store.put(key, noted)
        known = set(json.loads(noted))
        late = [pod["metadata"]["name"] for pod in gated if pod["metadata"]["uid"] not in known]
        if late:
            raise _Failed(f"a worker was lost in the making; its replacement {', '.join(late)} is not let in")
        calls = []
        for pod in gated:
            left = [gate for gate in pod["spec"]["schedulingGates"] if gate["name"] != GATE]
            change = {"metadata": {"uid": pod["metadata"]["uid"]}, "spec": {"schedulingGates": left or None}}
            calls.append(lambda name=pod["metadata"]["name"], change=change: self.kube.patch("Pod", name, change))
        self.kube.together(calls)

    def _add_groups(self, groups: Sequence[Object]) -> None:
        """Append to the list, never apply or merge it: it is one value to the API server."""
        cluster = self._raycluster()
        refuse_unfit(cluster)
        meta = cluster["metadata"]
        change: list[Any] = [{"op": "test", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]}]
        if cluster["spec"].get("workerGroupSpecs"):
            change += [{"op": "add", "path": "/spec/workerGroupSpecs/-", "value": group} for group in groups]
        else:
            change.append({"op": "add", "path": "/spec/workerGroupSpecs", "value": list(groups)})
        self.kube.patch("RayCluster", meta["name"], change)

    def _judge(self, made: _Try, there: _Found, stage: str, said: str, joined: int) -> Progress:
        """Whether it still gets on: each sign of progress starts the stage's patience anew."""
        now = self.clock()
        seen = (stage, len(there.groups), *_signs(there.pods), joined)
        if seen != made.seen:
            made.seen, made.since = seen, now
        failed = [pod for pod in there.pods if (pod.get("status") or {}).get("phase") == "Failed"]
        if failed:
            self._avoid_nodes(made.attempt, [failed[0]["spec"].get("nodeName")], said)
            return Progress(failed=f"{failed[0]['metadata']['name']} failed: {_why_failed(failed[0])}")
        lost = [node for node in made.attempt.slots if not self._lives(node)]
        if lost:
            return Progress(failed=f"node {', '.join(lost)} is lost")
        if now - made.since > PATIENCE[stage]:
            bound = {pod["spec"].get("nodeName") for pod in there.pods if not _why_not_started(pod)}
            self._avoid_nodes(made.attempt, [node for node in made.attempt.slots if node not in bound], said)
            return Progress(failed=f"{PATIENCE[stage]:.0f} s without progress: waited for {said}")
        return Progress(said=f"{stage}: {said}")

    def _avoid_nodes(self, attempt: Attempt, nodes: Iterable[str | None], why: str) -> None:
        until = self.clock() + AVOID_SECONDS
        for node in nodes:
            if node is not None and node in attempt.slots:
                self._avoid[node] = (until, f"left out for a while: {why}")

    # -- what the coordinator and the workers ask

    def selector(self, allocation: Allocation, node: str) -> dict[str, str]:
        return {SLOT: slot_label(attempt_name(allocation.gang, allocation.epoch), node)}

    def lost(self, allocation: Allocation, joined: set[str]) -> tuple[str, ...]:
        """Slots whose raylet is not there (any more)."""
        name = attempt_name(allocation.gang, allocation.epoch)
        nodes = dict.fromkeys(p.node for p in allocation.bundles if p.node in self.nodes)
        return tuple(f"the worker on {node} is gone" for node in nodes if slot_label(name, node) not in joined)

    # -- undoing

    def undo(self, wanted: Iterable[Allocation]) -> None:
        """One step back for every attempt that no gang wants. Errors are met again at the next look."""
        names = {attempt_name(a.gang, a.epoch) for a in wanted}
        for name, there in list(self.found.items()):
            if name not in names:
                try:
                    self._undo(name, there)
                except KubernetesError:
                    continue
        for name in [name for name in self._tries if name not in names]:
            del self._tries[name]
        for key in [key for kind in (SLOT_KEY, VERIFIED_KEY, GO_KEY, OPEN_KEY) for key in self.store.keys(kind)]:
            if key.partition("/")[2].partition(".")[0] not in names:
                self.store.delete(key)

    def gone(self, gang: str, moves: int) -> bool:
        """Whether nothing is left of any attempt at a gang."""
        return all(attempt_name(gang, epoch) not in self.found for epoch in range(moves + 1))

    def _undo(self, name: str, there: _Found) -> None:
        if there.groups:
            stopped = [group for group in there.groups if group.get("suspend") or group.get("replicas") == 0]
            if len(stopped) < len(there.groups):
                self._quiet.pop(name, None)
                self._stop_groups(there)
                return
            if there.pods:
                self._quiet.pop(name, None)
                return
            since = self._quiet.setdefault(name, self.clock())
            if self.clock() - since >= QUIET_SECONDS:
                self._remove_groups({group["groupName"] for group in there.groups})
            return
        self._quiet.pop(name, None)
        calls = [
            lambda kind=kind, thing=thing: self.kube.delete(kind, thing["metadata"]["name"])
            for kind, things in (
                ("Pod", there.pods),
                ("ResourceClaimTemplate", there.templates),
                ("ComputeDomain", there.domains),
            )
            for thing in things
            if not thing["metadata"].get("deletionTimestamp")
        ]
        self.kube.together(calls)

    def _stop_groups(self, there: _Found) -> None:
        """Their pods end and are not made anew. Removing a group at once would orphan its pods for good; with Ray's
        autoscaler on, the operator refuses a suspended group, and takes one of no replicas."""
        cluster = self._raycluster()
        change: list[Any] = []
        names = {group["groupName"] for group in there.groups}
        scaled = bool(cluster["spec"].get("enableInTreeAutoscaling"))
        for at, group in enumerate(cluster["spec"]["workerGroupSpecs"]):
            if group["groupName"] not in names:
                continue
            path = f"/spec/workerGroupSpecs/{at}"
            change.append({"op": "test", "path": f"{path}/groupName", "value": group["groupName"]})
            if not scaled:
                change.append({"op": "add", "path": f"{path}/suspend", "value": True})
                continue
            doomed = [p["metadata"]["name"] for p in there.pods if _group_of(p) == group["groupName"]]
            for field_, value in (
                ("minReplicas", 0),
                ("replicas", 0),
                ("maxReplicas", 0),
                ("scaleStrategy", {"workersToDelete": doomed}),
            ):
                change.append({"op": "add", "path": f"{path}/{field_}", "value": value})
        self.kube.patch("RayCluster", cluster["metadata"]["name"], change)

    def _remove_groups(self, names: set[str]) -> None:
        """From the last to the first, so that the earlier indices stay right within the one patch."""
        cluster = self._raycluster()
        change: list[Any] = []
        groups = cluster["spec"]["workerGroupSpecs"]
        for at in reversed(range(len(groups))):
            if groups[at]["groupName"] in names:
                path = f"/spec/workerGroupSpecs/{at}"
                change.append({"op": "test", "path": f"{path}/groupName", "value": groups[at]["groupName"]})
                change.append({"op": "remove", "path": path})
        self.kube.patch("RayCluster", cluster["metadata"]["name"], change)


def _without_the_raylets_part(node: Node, avoided: str) -> Node:
    """What bundles can have of a node, and whether it is left out for a while."""
    resources = {
        "CPU": max(0.0, node.resources.get("CPU", 0.0) - RAYLET_CPUS),
        "memory": max(0.0, node.resources.get("memory", 0.0) - RAYLET_MEMORY),
    }
    made = replace(node, resources=resources)
    return replace(made, ready=False, reason=avoided) if avoided and made.ready else made


def _missing(wanted: Iterable[Object], there: Iterable[Object]) -> list[Object]:
    names = {thing["metadata"]["name"] for thing in there}
    return [thing for thing in wanted if thing["metadata"]["name"] not in names]


def _gated(pod: Object) -> bool:
    return any(gate["name"] == GATE for gate in pod["spec"].get("schedulingGates") or ())


def _group_of(pod: Object) -> str | None:
    label = (pod["metadata"].get("labels") or {}).get("ray.io/group")
    return None if label is None else str(label)


def _signs(pods: Iterable[Object]) -> tuple[int, int, int, int]:
    """Pods, let in, bound, started: what grows while there is progress."""
    counts = [0, 0, 0, 0]
    for pod in pods:
        counts[0] += 1
        counts[1] += not _gated(pod)
        counts[2] += bool(pod["spec"].get("nodeName"))
        counts[3] += not _why_not_started(pod)
    return counts[0], counts[1], counts[2], counts[3]


def _why_pending(pod: Object) -> str:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{pod['metadata']['name']}: {condition.get('message') or condition.get('reason')}"
    return f"{pod['metadata']['name']} to be scheduled"


def _why_not_started(pod: Object) -> str:
    status = pod.get("status") or {}
    for entry in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (entry.get("state") or {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    return "" if status.get("phase") in ("Running", "Succeeded") else "its containers to start"


def _why_failed(pod: Object) -> str:
    status = pod.get("status") or {}
    for entry in status.get("containerStatuses") or ():
        ended = (entry.get("state") or {}).get("terminated")
        if ended:
            return str(ended.get("message") or f"{ended.get('reason', '')}, exit code {ended.get('exitCode')}").strip()
    return str(status.get("message") or status.get("reason") or "no reason given")
