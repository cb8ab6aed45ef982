"""Workers for gangs on Kubernetes: from a held allocation to raylets that have exactly its devices, and back.

Level-triggered: every look reads what is there and takes each attempt one step further, or, where no gang wants it any
more, one step back. No phase is stored; it is read off the labelled objects, so a coordinator that was killed anywhere
goes on where it was. Only Kubernetes' scheduler allocates. Neighbours: `translate.workers` makes the objects,
`translate.slices` reads the nodes, `coordinator.py` decides which allocation is wanted.

    making   claim templates and ComputeDomains -> worker groups -> all pods there, gated -> gates opened, all at once
             -> allocated and bound -> verified by NVML in each pod -> placement group waits in Ray -> barrier opened
             -> raylets joined
    undoing  `undoing.py`
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ray_dra.core.allocation import Allocation
from ray_dra.core.inventory import Inventory
from ray_dra.errors import Conflict, InvalidRequest, KubernetesError, NotFound, Rejected
from ray_dra.ports import Clock, Kube, KubeView, Object, Store
from ray_dra.runtime.machines import Machines, Tolerations
from ray_dra.runtime.objects import Found, by_attempt, is_for, is_ours, lives, raycluster
from ray_dra.runtime.undoing import Undoing
from ray_dra.translate.labels import SLOT
from ray_dra.translate.pods import (
    gated,
    imex_readiness,
    no_image,
    signs,
    why_failed,
    why_not_started,
    why_pending,
)
from ray_dra.translate.slices import devices_of
from ray_dra.translate.workers import (
    ATTEMPT_LABEL,
    GATE,
    Attempt,
    attempt_name,
    attempt_of,
    claim_age,
    named_uuids,
    refuse_unfit,
    slot_label,
    worker_template,
)

# In the store. The start hook in each pod reads what it must find by NVML, says that it did, and waits for the barrier.
SLOT_KEY, VERIFIED_KEY, GO_KEY = "slot/", "verified/", "go/"
OPEN_KEY = "open/"  # the pods that were let in, so that one that replaces a lost one is told from them

OPEN_AGAIN_SECONDS = 10.0  # a gate that is still closed so long after it was opened

# Seconds without progress in a stage before the attempt is given up. Pulling an image is part of `started`.
PATIENCE = {
    "applied": 30.0,
    "pods": 60.0,
    "bound": 20.0,
    "started": 300.0,
    "image": 30.0,
    "verified": 120.0,
    "joined": 60.0,
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the workers of a gang are.

    Attributes:
        ready: all are there and have what was planned; they join when they are let. joined: all have.
        failed: why this attempt will not get there; final: nor will any other.
        gave_way: to another RayCluster's gang, which costs no try.
        said: what is being waited for, in this stage.
    """

    ready: bool = False
    joined: bool = False
    failed: str = ""
    final: bool = False
    gave_way: bool = False
    stage: str = ""
    said: str = ""


class _Failed(Exception):
    """This attempt cannot go on; another may."""


class _GiveWay(_Failed):
    """It could, but another RayCluster's gang was first."""


@dataclass
class _Try:
    """One attempt in the making, as this coordinator has seen it."""

    attempt: Attempt
    labels: Mapping[str, str]  # that its workers carry -> node
    epoch: int = 0
    checked: bool = False  # the API server would take its pods
    opened: dict[str, float] = field(default_factory=dict)  # uid of a pod -> when its gate was opened
    seen: tuple[Any, ...] = ()  # what progress is measured by
    since: float = 0.0  # when that last changed


class Provisioner:
    """See the module. Writes the cluster's nodes into `inventory`, and others' claims as taken."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        inventory: Inventory,
        clock: Clock,
        on_raylet: Callable[[str], bool] = lambda node: False,
    ) -> None:
        """`on_raylet`: whether a node of an allocation is a raylet that was there; all others are Kubernetes' nodes,
        also those that it has lost since."""
        self._on_raylet = on_raylet
        self.kube, self.store, self.inventory, self.clock = kube, store, inventory, clock
        self.view = KubeView()
        self.machines = Machines(inventory, clock)
        self.found: dict[str, Found] = {}
        self._tries: dict[str, _Try] = {}
        self._undoing = Undoing(kube, clock)
        self._tidied: set[str] | None = None  # the attempts that were wanted when the store was last tidied
        self._seen: tuple[Any, ...] = ()  # what the last look was made from

    # -- what there is

    def look(self, wanted: Iterable[Allocation]) -> None:
        """Read the cluster, and write it into the inventory. `wanted`: the allocations that gangs hold now."""
        self.view = self.kube.view()
        names = frozenset(attempt_name(a.gang, a.epoch) for a in wanted)
        key = (self.view.version, names, frozenset(self.machines.avoided), self.machines.faults)
        if key == self._seen:
            return
        self.found = by_attempt(self.view, self.kube.namespace)
        self.machines.put(self.view, self._tolerations())
        self.machines.mark_taken(self.view.claims, lambda claim: self._ours(claim) and is_for(claim, names))
        self._seen = key

    def check(self) -> None:
        """What would keep any gang from getting workers. Raises InvalidRequest, or NotFound for no RayCluster."""
        refuse_unfit(self._raycluster())
        worker_template(self._raycluster())

    def serves(self, node: str) -> bool:
        """Whether Kubernetes has a node of this name, on which gangs get workers of their own."""
        return node in self.machines.names

    def has_own(self, node: str) -> bool:
        """Whether a gang on the node has workers of its own there; also where Kubernetes has lost the node since."""
        return self.serves(node) or not self._on_raylet(node)

    def _raycluster(self) -> Object:
        return raycluster(self.view, self.kube.namespace)

    def _ours(self, thing: Object) -> bool:
        return is_ours(self.view, self.kube.namespace, thing)

    def _tolerations(self) -> Tolerations:
        try:
            spec = worker_template(self._raycluster())["template"]["spec"]
        except (InvalidRequest, NotFound):
            return ()
        return tuple(tuple(sorted(t.items())) for t in spec.get("tolerations") or ())

    # -- making

    def advance(self, allocation: Allocation, joined: set[str], *, grouped: bool = True) -> Progress:
        """One step further for a gang's workers.

        Args:
            joined: slot labels of the raylets that live.
            grouped: the gang's placement group waits in Ray. Raylets are let in only then: Ray places it the moment
                they are there, before work of others that is queued finds them.
        """
        name = attempt_name(allocation.gang, allocation.epoch)
        other = self.kube.lead()
        if other:
            return Progress(said=other)
        try:
            made = self._tries.get(name)
            if made is None:
                attempt = attempt_of(
                    self._provisioned(allocation), self._raycluster(), imex=self.inventory.limits.compute_domains
                )
                labels = {slot_label(name, node): node for node in attempt.slots}
                made = self._tries[name] = _Try(attempt, labels, allocation.epoch, since=self.clock())
            return self._step(made, self.found.get(name, Found()), joined, grouped)
        except _GiveWay as error:
            return Progress(failed=str(error), gave_way=True)
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
        kept = tuple(placed for placed in allocation.bundles if self.has_own(placed.node))
        return Allocation(allocation.gang, kept, allocation.epoch, allocation.priority, allocation.counters)

    def _step(self, made: _Try, there: Found, joined: set[str], grouped: bool) -> Progress:
        attempt = made.attempt
        if not made.checked:
            self.kube.together([lambda pod=pod: self.kube.create(pod, dry_run=True) for pod in attempt.pods])  # type: ignore[misc]
            made.checked = True
        labels = made.labels
        if labels.keys() <= joined:
            return Progress(ready=True, joined=True)
        stage, said = self._make(made, there, labels)
        if stage == "joined" and grouped and self.store.get(GO_KEY + attempt.name) is None:
            self.store.put(GO_KEY + attempt.name, b"")
        progress = self._judge(made, there, stage, said, len(labels.keys() & joined))
        if stage == "joined" and not progress.failed:
            return replace(progress, ready=True)
        return progress

    def _make(self, made: _Try, there: Found, labels: Mapping[str, str]) -> tuple[str, str]:
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
        closed = [pod for pod in pods if gated(pod)]
        unbound = [pod for pod in pods if not pod["spec"].get("nodeName")]
        if unbound:
            self._give_way(attempt, there)
            self._refuse_stolen(attempt)
        if closed:
            self._open(made, pods, closed)
            return "bound", "the gates to open"
        if unbound:
            return "bound", why_pending(unbound[0])
        verified = set(self.store.keys(f"{VERIFIED_KEY}{attempt.name}."))
        if len(verified) < len(labels):
            waiting = next((pod for pod in pods if why_not_started(pod)), None)
            if waiting is not None:
                said = f"{waiting['metadata']['name']}: {why_not_started(waiting)}{imex_readiness(there.domains)}"
                return ("image" if no_image(waiting) else "started"), said
            return "verified", f"NVML in {len(labels) - len(verified)} of {len(labels)} pods"
        return "joined", "the raylets to join"

    def _give_way(self, attempt: Attempt, there: Found) -> None:
        """Step back where another RayCluster's gang wants some of our devices and came first.

        Claims are what every coordinator can see of the others', they name the devices they are for, and they are made
        while pods are still gated. So of two gangs that want a device each sees the other's claims, sooner or later,
        and the one whose oldest claim is younger gives everything back; nobody needs a place where both may write.
        A gang that has all its devices need not look any more.

        Raises:
            _GiveWay: ours is the younger.
        """
        ours = {uuid for slot in attempt.slots.values() for uuid in slot.uuids}
        rivals: dict[tuple[str, str], tuple[str, str]] = {}  # (namespace, attempt) -> its oldest claim
        for claim in self.view.claims:
            if not self._ours(claim) and ours.intersection(named_uuids(claim)):
                meta = claim["metadata"]
                who = (meta["namespace"], meta["labels"][ATTEMPT_LABEL])
                rivals[who] = min(rivals.get(who, claim_age(claim)), claim_age(claim))
        age = min(map(claim_age, there.claims), default=None)
        for (namespace, _), other in sorted(rivals.items()):
            if age is None or other < age:
                raise _GiveWay(f"a gang of {namespace} wants the same devices, and came first")

    def _refuse_stolen(self, attempt: Attempt) -> None:
        """Raises _Failed where a claim that is no gang's has one of our devices: the scheduler would try for ever."""
        for claim in self.view.claims:
            if ATTEMPT_LABEL in (claim["metadata"].get("labels") or {}):
                continue  # of an earlier attempt of ours, or of a gang that gives way: it may be ending
            for node, published in devices_of(claim):
                slot, seat = attempt.slots.get(node), self.inventory.seats.get(node)
                for device in seat.node.devices if slot is not None and seat is not None else ():
                    if device.id.device == published and slot is not None and device.uuid in slot.uuids:
                        meta = claim["metadata"]
                        raise _Failed(
                            f"{published} on {node} was taken by the claim {meta['namespace']}/{meta['name']}"
                        )

    def _open(self, made: _Try, pods: Sequence[Object], closed: Sequence[Object]) -> None:
        """Say what each slot must find by NVML, then let all pods be scheduled.

        A gate that was just opened is left alone while the watch has not shown it yet: hundreds at once keep the API
        server busy for seconds, and to open them all again would double that.

        Raises:
            _Failed: some were let in before, and one of these came after them: it replaces one that was lost.
        """
        attempt, now = made.attempt, self.clock()
        key = OPEN_KEY + attempt.name
        noted = self.store.get(key)
        if noted is None:
            for node, slot in attempt.slots.items():
                expected = json.dumps([list(slot.uuids), slot.clique]).encode()
                self.store.put(SLOT_KEY + slot_label(attempt.name, node), expected)
            noted = json.dumps(sorted(pod["metadata"]["uid"] for pod in pods)).encode()
            self.store.put(key, noted)
        known = set(json.loads(noted))
        late = [pod["metadata"]["name"] for pod in closed if pod["metadata"]["uid"] not in known]
        if late:
            raise _Failed(f"a worker was lost in the making; its replacement {', '.join(late)} is not let in")
        calls = []
        for pod in closed:
            uid = pod["metadata"]["uid"]
            if now - made.opened.get(uid, -math.inf) < OPEN_AGAIN_SECONDS:
                continue
            left = [gate for gate in pod["spec"]["schedulingGates"] if gate["name"] != GATE]
            change = {"metadata": {"uid": uid}, "spec": {"schedulingGates": left or None}}
            calls.append(partial(self._open_one, made, uid, pod["metadata"]["name"], change))
        self.kube.together(calls)

    def _open_one(self, made: _Try, uid: str, name: str, change: Object) -> None:
        self.kube.patch("Pod", name, change)
        made.opened[uid] = self.clock()

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

    def _judge(self, made: _Try, there: Found, stage: str, said: str, joined: int) -> Progress:
        """Whether it still gets on: each sign of progress starts the stage's patience anew."""
        now = self.clock()
        seen = (stage, len(there.groups), *signs(there.pods), joined)
        if seen != made.seen:
            made.seen, made.since = seen, now
        failed = [pod for pod in there.pods if (pod.get("status") or {}).get("phase") == "Failed"]
        if failed:
            self.machines.avoid([node for node in (failed[0]["spec"].get("nodeName"),) if node], said)
            return Progress(failed=f"{failed[0]['metadata']['name']} failed: {why_failed(failed[0])}")
        lost = [node for node in made.attempt.slots if not lives(self.view, node)]
        if lost:
            return Progress(failed=f"node {', '.join(lost)} is lost")
        if now - made.since > PATIENCE[stage]:
            bound = {pod["spec"].get("nodeName") for pod in there.pods if not why_not_started(pod)}
            self.machines.avoid([node for node in made.attempt.slots if node not in bound], said)
            said = f"{PATIENCE[stage]:.0f} s without progress: waited for {said}"
            return Progress(failed=said, final=stage == "image" and made.epoch > 0)  # two sets of nodes could not
        return Progress(stage=stage, said=f"{stage}: {said}")

    # -- what the coordinator and the workers ask

    def selector(self, allocation: Allocation, node: str) -> dict[str, str]:
        return {SLOT: slot_label(attempt_name(allocation.gang, allocation.epoch), node)}

    def lost(self, allocation: Allocation, joined: set[str]) -> tuple[str, ...]:
        """Slots whose raylet is not there (any more)."""
        slots = self.slots(allocation)
        return tuple(f"the worker on {node} is gone" for label, node in slots.items() if label not in joined)

    def slots(self, allocation: Allocation) -> dict[str, str]:
        """The label that each worker of the gang's own carries -> its node."""
        name = attempt_name(allocation.gang, allocation.epoch)
        return {slot_label(name, node): node for node in allocation.nodes if self.has_own(node)}

    # -- undoing

    def undo(self, wanted: Iterable[Allocation]) -> None:
        """One step back for every attempt that no gang wants, and what the store has of it forgotten."""
        names = {attempt_name(a.gang, a.epoch) for a in wanted}
        if not self.kube.lead():
            self._undoing.step(self.view, self.found, names)
        for name in [name for name in self._tries if name not in names]:
            del self._tries[name]
        if names == self._tidied and self.idle:
            return  # the store is asked over the network, and this is every look
        self._tidied = names
        for key in [key for kind in (SLOT_KEY, VERIFIED_KEY, GO_KEY, OPEN_KEY) for key in self.store.keys(kind)]:
            if key.partition("/")[2].partition(".")[0] not in names:
                self.store.delete(key)

    def gone(self, gang: str, moves: int) -> bool:
        """Whether nothing is left of any attempt at a gang."""
        names = {attempt_name(gang, epoch) for epoch in range(moves + 1)}
        return all(there.nothing for name, there in self.found.items() if name in names)

    @property
    def idle(self) -> bool:
        """Whether nothing of any attempt is left."""
        return all(there.nothing for there in self.found.values())


def _missing(wanted: Iterable[Object], there: Iterable[Object]) -> list[Object]:
    names = {thing["metadata"]["name"] for thing in there}
    return [thing for thing in wanted if thing["metadata"]["name"] not in names]
