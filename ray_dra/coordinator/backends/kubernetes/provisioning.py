"""The making of a gang's workers: one attempt at it, from its objects to raylets that have exactly its devices.

    [a PodGroup ->] ComputeDomains -> all pods and their claims there, gated -> gates opened, all at once
    -> allocated and bound -> verified by NVML in each pod -> placement group waits in Ray -> barrier opened
    -> raylets joined

Where lost workers of a gang that runs are replaced, or it shrinks, the pods that it has no more are deleted first, and
the rest of the attempt is left as it is.

A pod that is lost on the way is made anew in its slot while the others stay, LOST_MOST times; then all is given back.

Level-triggered, as `backend.py` says, which calls it; the way back is `teardown.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ray_dra.coordinator.backends.kubernetes.machines import Machines
from ray_dra.coordinator.backends.kubernetes.objects import Found, lives
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.progress import Progress
from ray_dra.errors import Rejected
from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import Pod
from ray_dra.ports.kubernetes import Kube, KubeView
from ray_dra.ports.store import Store
from ray_dra.translate.files.shared_records import MARK, PlannedSlot, slot_to_bytes
from ray_dra.translate.kube.attempts import Attempt
from ray_dra.translate.kube.kai import waits_in_turn
from ray_dra.translate.kube.pods import gate_opened, imex_readiness, signs
from ray_dra.translate.kube.slots import Slot
from ray_dra.translate.names import GO_KEY, SLOT_KEY, VERIFIED_KEY

AGAIN_SECONDS = 10.0  # after which what was written is written again, where no watch has shown it
FEW = 32  # pods that are made at once without one that is tried first: twice as many as go side by side
LOST_MOST = 3  # pods of an attempt that are made anew: what deletes more of them will not stop

# Seconds without progress in a stage before the attempt is given up. `prepared`: a pod's network, volumes and claims,
# its IMEX channel included; pulling an image is part of `started`, and `image` is where it cannot be had.
STAGE_SECONDS = {
    "applied": 30.0,
    "pods": 60.0,
    "bound": 20.0,
    "prepared": 300.0,
    "started": 300.0,
    "image": 30.0,
    "verified": 120.0,
    "joined": 60.0,
}
FIRST_STAGES = ("applied", "pods")  # the stages in which objects are made


class _Failed(Exception):
    """This attempt cannot go on; another may."""


class _GiveWay(_Failed):
    """It could, but another RayCluster's gang was first."""


class Provisioning:
    """See the module. What it remembers between two steps is for deadlines and thrift only: a new one goes on."""

    def __init__(
        self,
        attempt: Attempt,
        kube: Kube,
        store: Store,
        inventory: Inventory,
        machines: Machines,
        clock: Clock,
        workers: tuple[object, ...] = (),
        *,
        anew: bool = False,
        stays: bool = False,
    ) -> None:
        """`workers`: for which of an attempt's allocations it is (`slots.workers_of`); `anew`: some workers take the
        place of lost ones, or were made when the gang ran already."""
        self.attempt, self.workers, self._anew = attempt, workers, anew
        self._stays = stays
        self.no_image = False  # it was given up for an image that could not be had
        self.kube, self.store, self.inventory, self.machines, self.clock = kube, store, inventory, machines, clock
        self.view = KubeView()
        self._labels = {slot.label for slot in attempt.slots.values()}
        self._taken = False  # the API server has taken a pod of each kind
        self._told = False  # the store has what each slot must find
        self._there: set[str] | None = None  # uids of the pods that were seen; None: none were looked for
        self._lost = 0  # pods that were seen and are gone
        self._ending: set[str] = set()  # nodes on which pods end in whose place others come
        self._written: dict[tuple[str, str], float] = {}  # verb and object -> when it was last done
        self.made = -math.inf  # when an object was last made
        self._refused: set[str] = set()  # pods, with their gates, of which our gate could not be opened
        self._seen: tuple[Any, ...] = ()  # what progress is measured by
        self._since = self._judged = clock()  # when that last changed, and when it was last looked at
        self._held_up = False  # nothing could be done since

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

    def hold_up(self) -> None:
        """Nothing can be done now, for no fault of this attempt's: this time does not count."""
        self._held_up = True

    def _step(self, there: Found, joined: Collection[str], grouped: bool) -> Progress:
        there = self._without_lost(there)
        if self._anew:
            joined = self._joined_anew(there, joined)
        if self._labels.issubset(joined):
            return Progress(ready=True, joined=True)
        stage, said = self._make(there)
        go = GO_KEY + self.attempt.name
        if self._anew and not grouped and self.store.get(go) is not None:  # of the workers that it had before
            self.store.delete(go)
        if stage == "joined" and grouped and self.store.get(go) is None:
            self.store.put(go, MARK)
        progress = self._judge(there, stage, said, self._labels.intersection(joined))
        if stage == "joined" and not progress.failed:
            return replace(progress, ready=True)
        return progress

    def _without_lost(self, there: Found) -> Found:
        """What there is without the pods in whose place others come, or that a gang has shrunk by; these are
        deleted."""
        names = {slot.name for slot in self.attempt.slots.values()}
        lost = [pod for pod in there.pods if pod.name not in names]
        self._ending = {pod.node for pod in lost if pod.node is not None}
        self.kube.together([partial(self._drop, "Pod", pod.name, pod.uid) for pod in lost if not pod.deleting])
        return replace(there, pods=[pod for pod in there.pods if pod.name in names])

    def _joined_anew(self, there: Found, joined: Collection[str]) -> Collection[str]:
        """The slots whose raylet lives, and is that of their present pod: one that is gone may still be listed, with
        the label of the one in its place."""
        pods, proved = {pod.name for pod in there.pods if not pod.deleting}, self._proved()
        slots = self.attempt.slots.values()
        return {s.label for s in slots if s.label in joined and s.name in pods and VERIFIED_KEY + s.label in proved}

    def _make(self, there: Found) -> tuple[str, str]:
        """Do what can be done now; the stage it is in, and what is being waited for."""
        attempt, count = self.attempt, len(self._labels)
        for domain in there.domains:  # one that goes is made again at once
            self._written.pop(("join", domain.name), None)
        ending = [domain.name for domain in there.domains if domain.deleting]
        if ending:
            return "applied", f"the ComputeDomain that was deleted to end: {', '.join(ending)}"
        if self._add_group(there):
            return "applied", "its PodGroup"
        missing = attempt.missing_domains({domain.name for domain in there.domains})
        self.kube.together([partial(self._add_domain, name, domain) for name, domain in missing.items()])
        names = {template.name for template in self.view.templates}
        absent = [name for name in attempt.channel_templates if name not in names]
        if missing or absent:
            return "applied", f"the ComputeDomain and its claim template: {', '.join(attempt.channel_templates)}"
        lacking = self._add(there)
        if lacking:
            return "pods", f"{lacking} of {count} pods and their claims"
        pods = there.pods
        closed = [pod for pod in pods if pod.gated]
        unbound = [pod for pod in pods if pod.node is None]
        if unbound:
            self._give_way(there)
        self._refuse_taken(there, bound=not unbound)
        if closed:
            self._open(closed)
            return "bound", "the gates to open"
        if unbound:
            if waits_in_turn(there.groups):
                self.hold_up()
            return "bound", next((group.said for group in there.groups if group.said), unbound[0].pending)
        verified = self._proved()
        if len(verified) < count:
            waiting = min((pod for pod in pods if pod.waiting), key=lambda pod: pod.prepared, default=None)
            if waiting is not None:
                said = f"{waiting.name}: {waiting.waiting}{imex_readiness(there.domains)}"
                if not waiting.prepared:
                    said += attempt.gate_hint
                stage = "started" if waiting.prepared else "prepared"
                return ("image" if waiting.no_image else stage), said
            return "verified", f"NVML in {count - len(verified)} of {count} pods"
        return "joined", "the raylets to join"

    def _add(self, there: Found) -> int:
        """Make what slots lack: pods, and for each the claim that it owns. Returns how many slots still lack one.

        Of many pods that are alike one is made before all others, so that a no costs one request and not a thousand.

        Raises:
            _Failed: too many were lost.
        """
        pods = {pod.name: pod for pod in there.pods}
        claims = {claim.name: claim for claim in there.claims}
        slots = self.attempt.slots.values()
        self._note_lost(pods.values())
        without = [slot for slot in slots if slot.name not in pods]
        bare = [slot for slot in without if slot.node not in self._ending]  # of one node, one after the other
        if not self._taken and len(bare) > FEW:
            self.kube.together([partial(self._add_one, slot) for slot in self.attempt.unlike(bare)])
        self._taken = True
        calls = [partial(self._add_one, slot) for slot in bare]
        lacking = len(without)
        for slot in slots:
            pod = pods.get(slot.name)
            if pod is None:
                continue
            missing = [name for name in slot.claims if name not in claims]
            foreign = [claims[name] for name in slot.claims if name in claims and claims[name].pod != pod.uid]
            if not (pod.deleting or missing or foreign):
                continue
            lacking += 1
            if pod.deleting:
                continue
            if missing:
                calls.append(partial(self._add_claims, slot, pod.uid, missing))
            calls += [
                partial(self._drop, "ResourceClaim", claim.name, claim.uid) for claim in foreign if not claim.deleting
            ]  # of a pod that is gone
        self.kube.together(calls)
        return lacking

    def _note_lost(self, pods: Iterable[Pod]) -> None:
        """Of pods that are gone, also those that are made anew, what they have proved counts no more."""
        there, before = {pod.uid for pod in pods}, self._there
        self._there = there
        gone = before - there if before is not None else set()
        if before is not None and not gone:
            return
        self._lost += len(gone)
        if self._lost > LOST_MOST:
            raise _Failed(f"{self._lost} workers were lost in the making")
        live = {pod.name for pod in pods}
        proved = self._proved()  # also to a coordinator before this one
        for slot in self.attempt.slots.values():
            if slot.name not in live:
                self._written.pop(("make", slot.name), None)
                if VERIFIED_KEY + slot.label in proved:
                    self.store.delete(VERIFIED_KEY + slot.label)

    def _proved(self) -> set[str]:
        """The keys under which pods have said that they have what was planned."""
        return set(self.store.keys(f"{VERIFIED_KEY}{self.attempt.name}."))

    def _add_group(self, there: Found) -> bool:
        """Make the PodGroup. Returns whether it is missing: a pod that names one that is not there is nobody's. One
        that somebody deletes stays while pods name it, or is made again at the next look. KAI's is of as many workers
        as ever: a gang that a queue pays for keeps its size."""
        missing = self.attempt.missing_pod_group({group.name for group in there.groups})
        for name, made in missing.items():
            if self._due("join", name):
                self.kube.create(made)
                self._done("join", name)
        return bool(missing)

    def _add_domain(self, name: str, domain: dict[str, Any]) -> None:
        if self._due("join", name):
            self.kube.create(domain)
            self._done("join", name)

    def _add_one(self, slot: Slot) -> None:
        """Its pod, and at once its claims."""
        if self._due("make", slot.name):
            pod = self.kube.create(self.attempt.pod(slot))
            self._done("make", slot.name)
            if pod:
                self._add_claims(slot, pod, slot.claims)

    def _add_claims(self, slot: Slot, pod: str, names: Collection[str]) -> None:
        for name, claim in self.attempt.claims(slot, pod).items():
            if name in names and self._due("claim", f"{pod} {name}"):
                self.kube.create(claim)
                self._done("claim", f"{pod} {name}")

    def _drop(self, kind: str, name: str, uid: str) -> None:
        if self._due("drop", uid):
            self.kube.delete(kind, name)
            self._done("drop", uid)

    def _due(self, verb: str, thing: str) -> bool:
        """Whether it was not just done: watches are late, and hundreds of needless writes keep the server busy for
        seconds more."""
        return self.clock() - self._written.get((verb, thing), -math.inf) >= AGAIN_SECONDS

    def _done(self, verb: str, thing: str) -> None:
        self._written[verb, thing] = self.clock()
        if verb in ("join", "make", "claim"):
            self.made = self._written[verb, thing]

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
        slots = [slot for slot in self.attempt.slots.values() if not slot.pool]  # a pool's are allocated
        ours = {uuid for slot in slots for uuid in (*slot.uuids, *(part.uuid or part.parent for part in slot.parts))}
        neighbours = self.machines.neighbours
        first = neighbours.before(ours, min((claim.age for claim in there.claims), default=None))
        if first is not None:
            neighbours.gave_way(first)
            whose = f"of RayCluster {first.raycluster} in namespace {first.namespace}"
            raise _GiveWay(f"a gang {whose} wants the same devices, and came first")

    def _refuse_taken(self, there: Found, *, bound: bool) -> None:
        """Of two claims with one device one waits for ever: for the scheduler, or, where that has given it out twice
        (1.37.2 was seen to lose sight of allocations while the API server died and came back), for the driver.

        Raises:
            _Failed: another's claim has one of our devices.
        """
        own = {claim.uid for claim in there.claims}
        for claim in self.view.claims:
            if claim.uid in own or (claim.attempt is not None and (not bound or claim.deleting)):
                continue  # what an earlier attempt of ours has, or a gang that gives way, may be ending
            for node, published in claim.devices:
                slot, state = self.attempt.slots.get(node), self.inventory.node_states.get(node)
                if slot is None or state is None or slot.pool:
                    continue  # of most claims of the cluster
                gpus = self.machines.gpus_with(node, published) or ()
                for device in state.node.devices:
                    if device.id.device in gpus and device.uuid in slot.uuids:
                        twice = ", though it was ours" if bound else ""
                        raise _Failed(
                            f"{published} on {node} was taken by the claim {claim.namespace}/{claim.name}{twice}"
                        )

    def _open(self, closed: Sequence[Pod]) -> None:
        """Say what each slot must find by NVML, then let all pods be scheduled."""
        if not self._told:
            for slot in self.attempt.slots.values():
                planned = PlannedSlot(slot.uuids, slot.clique, slot.parts, slot.shares, slot.mps)
                self.store.put(SLOT_KEY + slot.label, slot_to_bytes(planned))
            self._told = True
        self.kube.together([partial(self._open_one, pod) for pod in closed])

    def _open_one(self, pod: Pod) -> None:
        """Its other gates are others' to open: where one was, since we looked, the patch would close it again, which
        is refused, and another may be sent once that is seen."""
        seen = " ".join([pod.uid, *pod.gates])
        if not self._due("open", seen):
            return
        try:
            self.kube.patch("Pod", pod.name, gate_opened(pod))
        except Rejected:
            if not pod.gates or seen in self._refused:
                raise
            self._refused.add(seen)
        self._done("open", seen)

    def _judge(self, there: Found, stage: str, said: str, joined: Collection[str]) -> Progress:
        """Whether it still gets on: each sign of progress starts the stage's time anew."""
        now = self.clock()
        if self._held_up:
            self._since += now - self._judged
        self._judged, self._held_up = now, False
        seen = (stage, len(there.claims), *signs(there.pods), len(joined))
        if seen != self._seen:
            self._seen, self._since = seen, now
        ended = next((pod for pod in there.pods if pod.ended and not pod.deleting), None)  # a deleted one ends, too
        if ended is not None:
            why = (
                f"{ended.name} failed: {ended.failed or 'its containers ended without an error, and a worker runs on'}"
            )
            self._avoid([node for node in (ended.node,) if node], why)
            return Progress(failed=why)
        unjoined = [node for node, slot in self.attempt.slots.items() if not self._anew or slot.label not in joined]
        lost = [node for node in unjoined if not lives(self.view, node)]
        if lost:
            return Progress(failed=f"node {', '.join(lost)} is lost")
        closed = [node for node in unjoined if self.view.nodes[node].unschedulable]
        if closed and stage in ("pods", "bound"):
            return Progress(failed=f"node {', '.join(closed)} takes no pods any more")
        if now - self._since > STAGE_SECONDS[stage]:
            self._avoid(self._behind(there, stage, joined), said)
            self.no_image = stage == "image"
            return Progress(failed=f"{STAGE_SECONDS[stage]:.0f} s without progress: waited for {said}")
        return Progress(stage=stage, said=f"{stage}: {said}")

    def _avoid(self, nodes: Sequence[str], why: str) -> None:
        """For the next try, which is elsewhere. Not of a gang that changes its shape: it has these nodes alone, next
        for its old shape, and who has other GPUs there may well have what it could not."""
        if not self._stays:
            self.machines.avoid(nodes, why)

    def _behind(self, there: Found, stage: str, joined: Collection[str]) -> list[str]:
        """The nodes for whose workers the others wait in this stage."""
        pods = {pod.name: pod for pod in there.pods}
        verified = self._proved()

        def late(slot: Slot) -> bool:
            pod = pods.get(slot.name)
            if stage == "joined":
                return slot.label not in joined
            if stage == "verified":
                return VERIFIED_KEY + slot.label not in verified
            return pod is None or (pod.node is None if stage == "bound" else bool(pod.waiting))

        return [node for node, slot in self.attempt.slots.items() if late(slot)]
