"""The making of a gang's workers: one attempt at it, from its objects to raylets that have exactly its devices.

    claim templates and ComputeDomains -> worker groups -> all pods there, gated -> gates opened, all at once
    -> allocated and bound -> verified by NVML in each pod -> placement group waits in Ray -> barrier opened
    -> raylets joined

Level-triggered, as `backend.py` says, which calls it; the way back is `teardown.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ray_dra.coordinator.backends.kubernetes.machines import Machines
from ray_dra.coordinator.backends.kubernetes.objects import Found, lives, raycluster
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.progress import Progress
from ray_dra.errors import RayDraError
from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import Pod
from ray_dra.ports.kubernetes import Kube, KubeView, Object
from ray_dra.ports.store import Store
from ray_dra.translate.files.shared_records import MARK, PlannedSlot, open_from_bytes, open_to_bytes, slot_to_bytes
from ray_dra.translate.kube.attempts import Attempt
from ray_dra.translate.kube.pods import gate_opened, imex_readiness, signs
from ray_dra.translate.kube.raycluster import groups_added, refuse_unfit
from ray_dra.translate.kube.slots import slot_label
from ray_dra.translate.names import GO_KEY, OPEN_KEY, SLOT_KEY, VERIFIED_KEY

OPEN_AGAIN_SECONDS = 10.0  # a gate that is still closed so long after it was opened

# Seconds without progress in a stage before the attempt is given up. `prepared`: a pod's network, volumes and claims,
# its IMEX channel included; pulling an image is part of `started`, and `image` is where it cannot be had.
PATIENCE = {
    "applied": 30.0,
    "pods": 60.0,
    "bound": 20.0,
    "prepared": 300.0,
    "started": 300.0,
    "image": 30.0,
    "verified": 120.0,
    "joined": 60.0,
}


class _Failed(Exception):
    """This attempt cannot go on; another may."""


class _GiveWay(_Failed):
    """It could, but another RayCluster's gang was first."""


class Provisioning:
    """See the module. What it remembers between two steps is for patience and thrift only: a new one goes on."""

    def __init__(
        self,
        attempt: Attempt,
        epoch: int,
        kube: Kube,
        store: Store,
        inventory: Inventory,
        machines: Machines,
        clock: Clock,
    ) -> None:
        self.attempt, self._epoch = attempt, epoch
        self.kube, self.store, self.inventory, self.machines, self.clock = kube, store, inventory, machines, clock
        self.view = KubeView()
        self._labels = {slot_label(attempt.name, node) for node in attempt.slots}
        self._checked = False  # the API server would take its pods
        self._opened: dict[str, float] = {}  # uid of a pod -> when its gate was opened
        self._seen: tuple[Any, ...] = ()  # what progress is measured by
        self._since = clock()  # when that last changed

    def step(self, view: KubeView, there: Found, joined: Collection[str], *, grouped: bool) -> Progress:
        """One step further.

        Args:
            there: what the cluster has of this attempt.
            joined: slot labels of the raylets that live.
            grouped: the gang's placement group waits in Ray. Raylets are let in only then: Ray places it the moment
                they are there, before work of others that is queued finds them.

        Raises:
            KubernetesError: a write was refused, or not answered.
        """
        self.view = view
        try:
            return self._step(there, joined, grouped)
        except _GiveWay as error:
            return Progress(failed=str(error), gave_way=True)
        except _Failed as error:
            return Progress(failed=str(error))

    def _step(self, there: Found, joined: Collection[str], grouped: bool) -> Progress:
        if not self._checked:
            self.kube.together([partial(self.kube.create, pod, dry_run=True) for pod in self.attempt.pods])
            self._checked = True
        if self._labels.issubset(joined):
            return Progress(ready=True, joined=True)
        stage, said = self._make(there)
        go = GO_KEY + self.attempt.name
        if stage == "joined" and grouped and self.store.get(go) is None:
            self.store.put(go, MARK)
        progress = self._judge(there, stage, said, len(self._labels.intersection(joined)))
        if stage == "joined" and not progress.failed:
            return replace(progress, ready=True)
        return progress

    def _make(self, there: Found) -> tuple[str, str]:
        """Do what can be done now; the stage it is in, and what is being waited for."""
        attempt, count = self.attempt, len(self._labels)
        missing = attempt.missing({thing.name for thing in (*there.domains, *there.templates)})
        if missing:
            self.kube.together([partial(self.kube.create, thing) for thing in missing])
        names = {template.name for template in self.view.templates}
        absent = [name for name in attempt.channel_templates if name not in names]
        if absent:
            return "applied", f"the claim template of the ComputeDomain: {', '.join(absent)}"
        lacking = attempt.missing_groups({group.name for group in there.groups})
        if lacking:
            self._add_groups(lacking)
            return "applied", "the worker groups"
        pods = [pod for pod in there.pods if not pod.deleting]
        if len(pods) < count:
            return "pods", f"{count - len(pods)} of {count} pods"
        closed = [pod for pod in pods if pod.gated]
        unbound = [pod for pod in pods if pod.node is None]
        if unbound:
            self._give_way(there)
            self._refuse_stolen()
        _refuse_doubled(there)
        if closed:
            self._open(pods, closed)
            return "bound", "the gates to open"
        if unbound:
            return "bound", unbound[0].pending
        verified = set(self.store.keys(f"{VERIFIED_KEY}{attempt.name}."))
        if len(verified) < count:
            waiting = min((pod for pod in pods if pod.waiting), key=lambda pod: pod.prepared, default=None)
            if waiting is not None:
                said = f"{waiting.name}: {waiting.waiting}{imex_readiness(there.domains)}"
                stage = "started" if waiting.prepared else "prepared"
                return ("image" if waiting.no_image else stage), said
            return "verified", f"NVML in {count - len(verified)} of {count} pods"
        return "joined", "the raylets to join"

    def _give_way(self, there: Found) -> None:
        """Step back where another RayCluster's gang wants some of our devices and came first.

        Claims are what every coordinator can see of the others', they name the devices they are for, and they are made
        while pods are still gated. So of two gangs that want a device each sees the other's claims, sooner or later,
        and the one whose oldest claim is younger gives everything back; nobody needs a place where both may write.
        A gang that has all its devices need not look any more.

        What is believed of their claims, and for how long: `neighbours.py`.

        Raises:
            _GiveWay: ours is the younger.
        """
        ours = {uuid for slot in self.attempt.slots.values() for uuid in slot.uuids}
        neighbours = self.machines.neighbours
        first = neighbours.before(ours, min((claim.age for claim in there.claims), default=None))
        if first is not None:
            neighbours.gave_way(first)
            whose = f"of RayCluster {first.raycluster} in namespace {first.namespace}"
            raise _GiveWay(f"a gang {whose} wants the same devices, and came first")

    def _refuse_stolen(self) -> None:
        """Raises _Failed where a claim that is no gang's has one of our devices: the scheduler would try for ever."""
        for claim in self.view.claims:
            if claim.attempt is not None:
                continue  # of an earlier attempt of ours, or of a gang that gives way: it may be ending
            for node, published in claim.devices:
                slot, state = self.attempt.slots.get(node), self.inventory.node_states.get(node)
                gpus = self.machines.gpus_with(node, published) or ()
                for device in state.node.devices if slot is not None and state is not None else ():
                    if device.id.device in gpus and slot is not None and device.uuid in slot.uuids:
                        raise _Failed(f"{published} on {node} was taken by the claim {claim.namespace}/{claim.name}")

    def _open(self, pods: Sequence[Pod], closed: Sequence[Pod]) -> None:
        """Say what each slot must find by NVML, then let all pods be scheduled.

        A gate that was just opened is left alone while the watch has not shown it yet: hundreds at once keep the API
        server busy for seconds, and to open them all again would double that.

        Raises:
            _Failed: some were let in before, and one of these came after them: it replaces one that was lost; or which
                they were cannot be read.
        """
        attempt, now = self.attempt, self.clock()
        key = OPEN_KEY + attempt.name
        noted = self.store.get(key)
        if noted is None:
            for node, slot in attempt.slots.items():
                expected = slot_to_bytes(PlannedSlot(slot.uuids, slot.clique))
                self.store.put(SLOT_KEY + slot_label(attempt.name, node), expected)
            noted = open_to_bytes(pod.uid for pod in pods)
            self.store.put(key, noted)
        try:
            known = open_from_bytes(noted)
        except RayDraError as error:
            raise _Failed(f"the record of the pods that were let in cannot be read: {error.available}") from error
        late = [pod.name for pod in closed if pod.uid not in known]
        if late:
            raise _Failed(f"a worker was lost in the making; its replacement {', '.join(late)} is not let in")
        late_ones = [pod for pod in closed if now - self._opened.get(pod.uid, -math.inf) >= OPEN_AGAIN_SECONDS]
        self.kube.together([partial(self._open_one, pod) for pod in late_ones])

    def _open_one(self, pod: Pod) -> None:
        self.kube.patch("Pod", pod.name, gate_opened(pod))
        self._opened[pod.uid] = self.clock()

    def _add_groups(self, groups: Sequence[Object]) -> None:
        cluster = raycluster(self.view, self.kube.namespace)
        refuse_unfit(cluster)
        self.kube.patch("RayCluster", cluster.name, groups_added(cluster, groups))

    def _judge(self, there: Found, stage: str, said: str, joined: int) -> Progress:
        """Whether it still gets on: each sign of progress starts the stage's patience anew."""
        now = self.clock()
        seen = (stage, len(there.groups), *signs(there.pods), joined)
        if seen != self._seen:
            self._seen, self._since = seen, now
        failed = [pod for pod in there.pods if pod.failed]
        if failed:
            self.machines.avoid([node for node in (failed[0].node,) if node], said)
            return Progress(failed=f"{failed[0].name} failed: {failed[0].failed}")
        lost = [node for node in self.attempt.slots if not lives(self.view, node)]
        if lost:
            return Progress(failed=f"node {', '.join(lost)} is lost")
        if now - self._since > PATIENCE[stage]:
            bound = {pod.node for pod in there.pods if not pod.waiting}
            self.machines.avoid([node for node in self.attempt.slots if node not in bound], said)
            said = f"{PATIENCE[stage]:.0f} s without progress: waited for {said}"
            return Progress(failed=said, final=stage == "image" and self._epoch > 0)  # two sets of nodes could not
        return Progress(stage=stage, said=f"{stage}: {said}")


def _refuse_doubled(there: Found) -> None:
    """Raises _Failed where two of the gang's claims have one device.

    Kubernetes' scheduler can lose sight of an allocation while the API server dies and comes back (seen with 1.37.2),
    and gives the devices out again. The driver readies them for one claim; the other's pod would wait for ever.
    """
    owners: dict[tuple[str, str], str] = {}
    for claim in there.claims:
        for node, device in claim.devices:
            other = owners.setdefault((node, device), claim.name)
            if other != claim.name:
                raise _Failed(f"{device} on {node} was allocated twice, to {other} and to {claim.name}")
