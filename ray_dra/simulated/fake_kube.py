"""A stand-in for Kubernetes, for tests of the coordinator: the port `Kube` in memory.

It has the habits that matter: a name is taken until its object is gone; a pod that is deleted ends in its own time, and
the collector takes its claim after it; the scheduler allocates to a pod without gates what its claim's CEL names and
nobody has; a pod on a lost node lingers. Time passes in `step`; what befalls the cluster is a verb (`lose_node`,
`take`, `seize_lease`). The view is made by the same translation as the real one's (`translate.kube`).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ray_dra.adapters.kube_kinds import kind_of_object
from ray_dra.errors import Conflict, NotFound, NotLeading
from ray_dra.ports.kube_objects import (
    DeviceTaintRule,
    KubeNode,
    Pod,
    PublishedDevice,
    RayCluster,
    RayService,
    ResourceFlavor,
    ResourceSlice,
)
from ray_dra.ports.kubernetes import KubeView, Object
from ray_dra.simulated.fake_gang_scheduling import FakeGangScheduling, group_of
from ray_dra.simulated.fake_kai import FakeKai, is_placed_by_kai
from ray_dra.simulated.fake_kueue import FakeKueue
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.kube.ending import read_rayservice
from ray_dra.translate.kube.gang_scheduling import read_gang_pod_group
from ray_dra.translate.kube.images import images_on
from ray_dra.translate.kube.kai import read_pod_group
from ray_dra.translate.kube.kueue import read_workload
from ray_dra.translate.kube.pods import read_pod
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.kube.shapes import kind_in, read_domain, read_template
from ray_dra.translate.kube.slices import read_slice
from ray_dra.translate.kube.taint_rules import read_taint_rule, with_rules
from ray_dra.translate.names import KUBERAY_ORIGIN_LABEL, KUBERAY_ORIGIN_NAME_LABEL, POD_GROUP_APIS, WARM_LABEL
from ray_dra.translate.vendors import BUS_ATTRIBUTE, VENDORS

NO_IMAGE = {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}


class FakeKube:
    """See the module. `nodes` are (node, its ResourceSlices); `queues`: Kueue, where it runs beside;
    `pod_groups`: KAI Scheduler; `gangs`: gang scheduling of Kubernetes' own."""

    def __init__(
        self,
        raycluster: dict[str, Any],
        nodes: Iterable[tuple[KubeNode, list[dict[str, Any]]]],
        *,
        compute_domains: bool = True,
        queues: FakeKueue | None = None,
        pod_groups: FakeKai | None = None,
        gangs: FakeGangScheduling | None = None,
    ) -> None:
        self.namespace, self.raycluster = raycluster["metadata"]["namespace"], raycluster["metadata"]["name"]
        self.compute_domains, self.kueue, self.queues = compute_domains, queues is not None, queues
        self.kai, self.pod_groups = pod_groups is not None, pod_groups
        self.gangs = gangs
        self._watches_gangs = False
        self.taint_rules = True
        self._watches_pod_groups = False
        self._watches_queues = False
        self.told: list[tuple[str, str]] = []  # events
        self._raycluster = copy.deepcopy(raycluster)
        self._read: tuple[dict[str, Any], RayCluster] | None = None  # it as it was, and what was read of it
        self._rayservice: RayService | None = None
        self._nodes: dict[str, KubeNode] = {}
        self._slices: dict[str, tuple[ResourceSlice, ...]] = {}  # by node
        for node, slices in nodes:
            self._nodes[node.name] = node
            versioned = [{**s, "metadata": {**s["metadata"], "resourceVersion": "1"}} for s in slices]
            self._slices[node.name] = tuple(map(read_slice, versioned))
        self._silent: set[str] = set()  # nodes whose driver publishes nothing
        self._deleted: dict[str, tuple[KubeNode, tuple[ResourceSlice, ...]]] = {}  # nodes that may come back
        self._things: dict[tuple[str, str], dict[str, Any]] = {}  # (kind, name): templates, domains, pods, claims
        self.pulled: list[str] = []  # nodes that have pulled images for a pod
        self._without_images: set[str] = set()  # nodes that can pull none
        self._lists_images = True
        self._running: set[str] = set()  # pods whose start hook has been called
        self._leader = ""  # who else has the lease
        self._schedules = True
        self._count = 0
        self._version = 0

    # -- the port

    def view(self) -> KubeView:
        return KubeView(
            raycluster=self._read_raycluster() if self._raycluster else None,
            raycluster_gone=not self._raycluster,
            rayservice=self._rayservice,
            nodes=dict(self._nodes),
            slices=tuple(each for node in self._slices if node not in self._silent for each in self._slices[node]),
            taint_rules=self._taint_rules(),
            claims=tuple(map(read_claim, self._of("ResourceClaim"))),
            pods=tuple(map(read_pod, self._of("Pod"))),
            templates=tuple(map(read_template, self._of("ResourceClaimTemplate"))),
            domains=tuple(map(read_domain, self._of("ComputeDomain"))),
            workloads=tuple(map(read_workload, self._of("Workload"))) if self._watches_queues else None,
            flavors={
                name: ResourceFlavor(name, labels)
                for name, labels in (self.queues.flavors if self.queues is not None else {}).items()
            },
            pod_groups=tuple(map(read_pod_group, self._of("PodGroup"))) if self._watches_pod_groups else None,
            gang_pod_groups=tuple(map(read_gang_pod_group, self._gang_pod_groups())) if self._watches_gangs else (),
            version=self._version,
        )

    def _read_raycluster(self) -> RayCluster:
        """Read once for each change, as by the real adapter's mirror."""
        if self._read is None or self._read[0] != self._raycluster:
            as_it_is = copy.deepcopy(self._raycluster)
            self._read = as_it_is, read_raycluster(copy.deepcopy(as_it_is))
        return self._read[1]

    def gang_scheduling(self, probe: Object) -> str:
        served = self.gangs is not None and self.gangs.gate and group_of(probe)
        self._watches_gangs = self._watches_gangs or bool(served)
        return self.gangs.api if self.gangs is not None and served else ""

    def create(self, thing: Object) -> str:
        self._write()
        key = kind_of_object(thing), thing["metadata"]["name"]
        if key in self._things:
            return ""
        made = self._things[key] = self._stamped(thing)
        if self.gangs is None or not self.gangs.gate:
            made.get("spec", {}).pop("schedulingGroup", None)
        made.setdefault("status", {"phase": "Pending"} if thing["kind"] == "Pod" else {})
        if thing["kind"] == "ComputeDomain":
            self._make_channel(made)
        return str(made["metadata"]["uid"])

    def patch(self, kind: str, name: str, change: Object) -> None:
        self._write()
        pod = self._things.get((kind, name))
        if pod is None:
            raise NotFound("There is no such object.", place=name)
        if change["metadata"]["uid"] != pod["metadata"]["uid"]:
            raise Conflict("Another pod.", place=name)
        gates = change["spec"]["schedulingGates"]
        pod["spec"].pop("schedulingGates", None)
        if gates:
            pod["spec"]["schedulingGates"] = gates

    def delete(self, kind: str, name: str) -> None:
        self._write()
        found = self._things.get((kind, name))
        named = found in self._gang_pod_groups() and any(group_of(pod) == name for pod in self._of("Pod"))
        if found is not None and (kind == "Pod" or named or (found.get("status") or {}).get("allocation")):
            found["metadata"]["deletionTimestamp"] = "now"  # until the kubelet, or the last pod that has it, lets it go
            return
        gone = self._things.pop((kind, name), None)
        if kind == "ComputeDomain" and gone is not None:
            channel = gone["spec"]["channel"]["resourceClaimTemplate"]["name"]
            self._things.pop(("ResourceClaimTemplate", channel), None)

    @property
    def requests_left(self) -> bool:
        return any(each.raycluster == self.raycluster for each in map(read_workload, self._of("Workload")))

    def watch_queues(self) -> None:
        self._watches_queues = True

    def watch_pod_groups(self) -> None:
        self._watches_pod_groups = True

    def lead(self) -> str:
        return self._leader

    def problems(self) -> tuple[str, ...]:
        return ()

    def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        self.told.append((reason, message))

    def together(self, calls: Sequence[Callable[[], object]]) -> None:
        for call in calls:
            call()

    # -- what the others do

    def step(self) -> None:
        """The collector, the scheduler and the kubelets each take a turn."""
        self._version += 1
        self._collect()
        if self.queues is not None:
            self.queues.step(self._of("Workload"))
        if self.pod_groups is not None and self._schedules:
            pods = [pod for pod in self._of("Pod") if is_placed_by_kai(pod)]
            self.pod_groups.step(self._of("PodGroup"), pods, self._claims_of, self._schedule)
        if self.gangs is not None and self._schedules:
            self.gangs.step(self._gang_pod_groups(), self._of("Pod"), self._claims_of, self._schedule)
        for pod in self._of("Pod"):
            spec, node = pod["spec"], self._nodes.get(pod["spec"].get("nodeName", ""))
            if "nodeName" in spec and node is None:
                self._end_pod(pod)  # the collector of pods whose node has been deleted
            elif pod["metadata"].get("deletionTimestamp"):
                if "nodeName" not in spec or (node is not None and node.ready):
                    self._end_pod(pod)
            elif "nodeName" not in spec and not spec.get("schedulingGates"):
                if self._schedules and not is_placed_by_kai(pod) and not group_of(pod):
                    self._schedule(pod)
            elif node is not None and node.ready and WARM_LABEL in pod["metadata"]["labels"]:
                self._pull(pod, node)
            elif node is not None and node.ready and node.name in self._without_images:
                pod["status"]["containerStatuses"] = [{"imageID": "", "state": NO_IMAGE} for _ in spec["containers"]]
            elif node is not None and node.ready and pod["status"]["phase"] != "Succeeded":
                pod["status"].pop("containerStatuses", None)
                pod["status"]["phase"] = "Running"
                self._running.add(pod["metadata"]["name"])

    def _pull(self, pod: dict[str, Any], node: KubeNode) -> None:
        containers = pod["spec"]["containers"]
        if node.name in self._without_images:
            pod["status"]["containerStatuses"] = [{"imageID": "", "state": NO_IMAGE} for _ in containers]
            return
        self.pulled.append(node.name)
        pod["status"] = {"phase": "Succeeded", "containerStatuses": [{"imageID": each["image"]} for each in containers]}
        if self._lists_images:
            images = images_on([{"names": [each["image"] for each in containers]}])
            self._nodes[node.name] = replace(node, images=tuple(sorted({*node.images, *images})))

    def claimed(self) -> list[tuple[str, str]]:
        """(node, device) of every allocation; the invariant is that there are no two alike."""
        found = []
        for claim in self._of("ResourceClaim"):
            results = claim["status"].get("allocation", {"devices": {"results": ()}})["devices"]["results"]
            found += [(result["pool"], result["device"]) for result in results]
        return found

    @property
    def nodes(self) -> Mapping[str, KubeNode]:
        return MappingProxyType(self._nodes)

    def running(self) -> list[tuple[Pod, frozenset[str]]]:
        """The pods whose start hook is called, and the UUIDs of the devices in each; of a part that has none before
        its claim has it GPU|profile|device."""
        found = []
        for name in sorted(self._running):
            pod = read_pod(self._things["Pod", name])
            claims = [read_claim(claim) for claim in self._claims_of(self._things["Pod", name]) if claim is not None]
            if pod.node in self._nodes and self._nodes[pod.node].ready:
                published = {(pod.node, d.name): _uuid_of(s, d) for s in self._slices[pod.node] for d in s.devices}
                published |= self._passed_through(pod.node)
                found.append((pod, frozenset(published[device] for claim in claims for device in claim.devices)))
        return found

    def _passed_through(self, node: str) -> dict[tuple[str, str], str]:
        """The devices for virtual machines, which see the UUID of the GPU that each is."""
        devices = [(VENDORS[s.driver], s, d) for s in self._slices[node] for d in s.devices]
        gpus = {d.text(BUS_ATTRIBUTE): _uuid_of(s, d) for vendor, s, d in devices if d.text("type") == vendor.whole}
        passed = [d for vendor, _, d in devices if vendor.passed and d.text("type") == vendor.passed]
        return {(node, d.name): gpus[d.text(BUS_ATTRIBUTE)] for d in passed if d.text(BUS_ATTRIBUTE) in gpus}

    def _claims_of(self, pod: Object) -> list[dict[str, Any] | None]:
        """Those that a pod names; None for one that is not there."""
        names = [c["resourceClaimName"] for c in pod["spec"].get("resourceClaims") or () if "resourceClaimName" in c]
        return [self._things.get(("ResourceClaim", name)) for name in names]

    def left(self) -> list[str]:
        """What there is that the RayCluster's namespace did not begin with."""
        things = self._things.items()
        found = [name for (_, name), thing in things if thing["metadata"].get("namespace") == self.namespace]
        return found + [rule.name for rule in self._taint_rules() if rule.guard]

    # -- what befalls the cluster: verbs for tests

    def lose_node(self, name: str) -> None:
        """Its kubelet is silent."""
        self._change_node(name, ready=False)

    def delete_node(self, name: str) -> None:
        """The Node is deleted, and what its driver published."""
        self._version += 1
        self._deleted[name] = self._nodes.pop(name), self._slices.pop(name)

    def regain_node(self, name: str) -> None:
        """A lost or deleted node is back."""
        if name in self._deleted:
            self._nodes[name], self._slices[name] = self._deleted.pop(name)
        self._change_node(name, ready=True)

    def stop_driver(self, name: str, stopped: bool = True) -> None:
        """A node's driver has withdrawn what it published; what runs there has its devices. Or it is back."""
        self._version += 1
        (self._silent.add if stopped else self._silent.discard)(name)

    def cordon(self, name: str, closed: bool = True) -> None:
        self._change_node(name, unschedulable=closed)

    def taint(self, name: str, effect: str) -> None:
        """The node gets a taint that nobody tolerates, in place of those it had; "" takes it away. Pods stay: whoever
        evicts them is late."""
        self._change_node(name, taints=(("maintenance", "soon", effect),) if effect else ())

    def taint_device(self, node: str, device: str, effect: str) -> None:
        """The driver gives a device a taint, in place of those it had; "" takes it away."""
        self._version += 1
        taints = (("example.com/ill=yes", effect),) if effect else ()
        self._slices[node] = tuple(
            replace(
                each,
                version=str(int(each.version) + 1),
                devices=tuple(replace(d, taints=taints) if d.name == device else d for d in each.devices),
            )
            for each in self._slices[node]
        )

    def put_taint_rule(self, name: str, effect: str, **selector: str) -> None:
        """An administrator gives all devices that the selector chooses a taint."""
        taint = {"key": "example.com/repair", "value": "soon", "effect": effect}
        spec = {"deviceSelector": selector, "taint": taint}
        self.put({"kind": "DeviceTaintRule", "metadata": {"name": name}, "spec": spec})

    def condition(self, name: str, *conditions: str) -> None:
        """These conditions of the node are true, besides Ready, and no others."""
        self._change_node(name, conditions=tuple(sorted(conditions)))

    def label(self, name: str, **labels: str) -> None:
        """The node has these labels besides its own."""
        self._change_node(name, labels={**self._nodes[name].labels, **labels})

    def end_well(self, name: str) -> None:
        """The containers of a pod end, without an error."""
        self._version += 1
        self._things["Pod", name]["status"] = {"phase": "Succeeded"}
        self._running.discard(name)

    def _change_node(self, name: str, **change: Any) -> None:
        self._version += 1
        self._nodes[name] = replace(self._nodes[name], **change)

    def _driver_of(self, node: str) -> str:
        return self._slices[node][0].driver

    def take(self, node: str, device: str) -> None:
        """Somebody else's claim gets a device."""
        result = {"driver": self._driver_of(node), "pool": node, "device": device}
        self.put(
            {
                "kind": "ResourceClaim",
                "metadata": {"name": f"other-{node}-{device}", "namespace": "other"},
                "status": {"allocation": {"devices": {"results": [result]}}},
            }
        )

    def give_back(self, node: str, device: str) -> None:
        """The claim of `take` is deleted."""
        self.drop("ResourceClaim", f"other-{node}-{device}")

    def put(self, thing: Object) -> None:
        """Somebody else writes an object, whoever leads; also one that is there."""
        self._version += 1
        self._things[thing["kind"], thing["metadata"]["name"]] = self._stamped(thing)

    def drop(self, kind: str, name: str = "") -> None:
        """Somebody else deletes an object at once, the first of its kind where none is named; nothing where there is
        none."""
        self._version += 1
        found = name or next((known for k, known in sorted(self._things) if k == kind), "")
        self._things.pop((kind, found), None)
        if kind == "Pod":
            self._running.discard(found)
        if kind == "ComputeDomain":
            self._things.pop(("ResourceClaimTemplate", f"{found}-channel"), None)

    def apply_raycluster(self, **spec: Any) -> None:
        """The user applies the RayCluster again, as it was but for these fields."""
        self._version += 1
        self._raycluster = {**self._raycluster, "spec": {**self._raycluster["spec"], **spec}}

    def delete_raycluster(self) -> None:
        """The user deletes the RayCluster, of which a finalizer keeps what there is for a while."""
        self._version += 1
        self._raycluster["metadata"] = {**self._raycluster["metadata"], "deletionTimestamp": "now"}

    def say_rayservice(self, *, active: str, pending: str = "", delay: int | None = None) -> None:
        """A RayService `serve` has made the RayCluster, and says which of its RayClusters is which."""
        self._version += 1
        labels = {KUBERAY_ORIGIN_LABEL: "RayService", KUBERAY_ORIGIN_NAME_LABEL: "serve"}
        self._raycluster["metadata"] = {**self._raycluster["metadata"], "labels": labels}
        named = {"activeServiceStatus": active, "pendingServiceStatus": pending}
        status = {which: {"rayClusterName": name} for which, name in named.items() if name}
        spec = {} if delay is None else {"rayClusterDeletionDelaySeconds": delay}
        self._rayservice = read_rayservice({"metadata": {"name": "serve"}, "spec": spec, "status": status})

    def annotate_raycluster(self, annotations: Mapping[str, str]) -> None:
        """The user sets the RayCluster's annotations."""
        self._version += 1
        self._raycluster = {
            **self._raycluster,
            "metadata": {**self._raycluster["metadata"], "annotations": annotations},
        }

    def break_registry(self, *nodes: str) -> None:
        """These nodes, and no others, can pull no images."""
        self._without_images = set(nodes)

    def list_images(self, images: Mapping[str, Collection[str]] | None) -> None:
        """Nodes list these images, by node; None: whatever they pull, they list nothing."""
        self._version += 1
        self._lists_images = images is not None
        for name, listed in (images or {}).items():
            self._nodes[name] = replace(self._nodes[name], images=tuple(sorted(listed)))

    def drop_raycluster(self) -> None:
        """The user deletes the RayCluster; its head lives on for a while."""
        self._version += 1
        self._raycluster = {}

    def seize_lease(self, holder: str) -> None:
        """Another coordinator leads."""
        self._leader = holder

    def free_lease(self) -> None:
        self._leader = ""

    def evict_by_kai(self, name: str, when: str = "2026-11-28T12:00:00Z") -> None:
        """KAI ends all pods of a PodGroup for others."""
        self._version += 1
        assert self.pod_groups is not None
        self.pod_groups.evict(self._things["PodGroup", name], self._of("Pod"), when)

    def stop_scheduling(self) -> None:
        """No pod is bound any more."""
        self._schedules = False

    def _make_channel(self, domain: dict[str, Any]) -> None:
        name = domain["spec"]["channel"]["resourceClaimTemplate"]["name"]
        if ("ResourceClaimTemplate", name) not in self._things:
            meta = {"name": name, "namespace": self.namespace}
            template = {"kind": "ResourceClaimTemplate", "metadata": meta, "spec": {}}
            self._things["ResourceClaimTemplate", name] = self._stamped(template)

    def _collect(self) -> None:
        """Claims whose pod is gone go, too, once no other pod that runs has them; and the ComputeDomains' controller
        makes their channels' templates."""
        for domain in self._of("ComputeDomain"):
            self._make_channel(domain)
        for owned in [*self._of("Workload"), *self._of("PodGroup"), *self._gang_pod_groups()]:
            if not self._raycluster:
                self._things.pop((kind_of_object(owned), owned["metadata"]["name"]))
        for group in self._gang_pod_groups():
            name = group["metadata"]["name"]
            if group["metadata"].get("deletionTimestamp") and not any(group_of(pod) == name for pod in self._of("Pod")):
                self._things.pop((kind_of_object(group), name))
        pods = {pod["metadata"]["uid"] for pod in self._of("Pod")}
        for claim in self._of("ResourceClaim"):
            owners = claim["metadata"].get("ownerReferences") or ()
            ours = claim["metadata"].get("namespace") == self.namespace
            if ours and owners and not any(owner["uid"] in pods for owner in owners):
                name = claim["metadata"]["name"]
                if any(claim in self._claims_of(self._things["Pod", pod]) for pod in self._running):
                    claim["metadata"]["deletionTimestamp"] = "2026-11-28T00:00:00Z"
                else:
                    self._things.pop(("ResourceClaim", name))

    def _schedule(self, pod: dict[str, Any]) -> None:
        required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (node,) = required["nodeSelectorTerms"][0]["matchFields"][-1]["values"]
        claims = self._claims_of(pod)
        fits = node in self._nodes and self._nodes[node].ready
        for claim in claims:
            if claim is None or claim["metadata"].get("deletionTimestamp"):
                return
            if read_claim(claim).allocated:
                continue
            got = self._allocate(node, claim) if fits else None
            if got is None:
                fits = False
                break
            asked = [
                request["name"]
                for request in claim["spec"]["devices"]["requests"]
                for _ in range(request["exactly"]["count"])
            ]
            results = [
                {"request": request, "driver": self._driver_of(node), "pool": node, "device": device}
                for request, device in zip(asked, got, strict=True)
            ]
            claim["status"] = {"allocation": {"devices": {"results": results}}}
        if fits:
            pod["spec"]["nodeName"] = node
            return
        condition = {"type": "PodScheduled", "status": "False", "message": "cannot allocate all claims"}
        pod["status"]["conditions"] = [condition]

    def _allocate(self, node: str, claim: Object) -> list[str] | None:
        """As Kubernetes' allocator: for each device that is wanted the first that will do, going back within the claim;
        None where there are none."""
        published = () if node in self._silent else self._slices.get(node, ())
        slices = with_rules(published, self._taint_rules())
        devices = [device for each in slices for device in each.devices]
        taken = {device for pool, device in self.claimed() if pool == node}
        left = {(s.name, counter): n for each in slices for s in each.counters for counter, n in s.counters}

        def use(device: PublishedDevice, sign: int) -> bool:
            used = [(each.name, counter, n) for each in device.consumes for counter, n in each.counters]
            for name, counter, n in used:
                left[name, counter] = left.get((name, counter), 0) - sign * n
            return all(left[name, counter] >= 0 for name, counter, _ in used)

        for device in devices:
            if device.name in taken:
                use(device, +1)
        wanted = [
            (
                request["exactly"]["deviceClassName"],
                [each["cel"]["expression"] for each in request["exactly"]["selectors"]],
                [f"{each['key']}={each['value']} " for each in request["exactly"].get("tolerations") or ()],
            )
            for request in claim["spec"]["devices"]["requests"]
            for _ in range(request["exactly"]["count"])
        ]

        def fit(at: int) -> list[str] | None:
            if at == len(wanted):
                return []
            kind, expressions, tolerated = wanted[at]
            for device in devices:
                taints = [(said, effect) for said, effect in device.taints if not said.startswith(tuple(tolerated))]
                kept_off = {"NoSchedule", "NoExecute"} & {effect for _, effect in taints}
                if device.name in taken or kept_off or not all(_selects(each, kind, device) for each in expressions):
                    continue
                taken.add(device.name)
                rest = fit(at + 1) if use(device, +1) else None
                if rest is not None:
                    return [device.name, *rest]
                taken.discard(device.name)
                use(device, -1)
            return None

        return fit(0)

    def _taint_rules(self) -> tuple[DeviceTaintRule, ...]:
        return tuple(map(read_taint_rule, self._of("DeviceTaintRule")))

    def _end_pod(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        self._things.pop(("Pod", name))
        self._running.discard(name)

    def _gang_pod_groups(self) -> list[dict[str, Any]]:
        return [each for api in POD_GROUP_APIS for each in self._of(kind_in(api, "PodGroup"))]

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [thing for (k, _), thing in sorted(self._things.items()) if k == kind]

    def _stamped(self, thing: Object) -> dict[str, Any]:
        self._count += 1
        made = copy.deepcopy(dict(thing))
        made["metadata"].setdefault("uid", f"uid-{self._count}")
        made["metadata"].setdefault("creationTimestamp", f"{self._count:09d}")
        return made

    def _write(self) -> None:
        if self._leader:
            raise NotLeading(self._leader)
        self._version += 1


_NAMES = re.compile(r'device\.attributes\["([^"]+)"\]\.(\w+) (in|==) (.+)')


def _selects(expression: str, device_class: str, device: PublishedDevice) -> bool:
    """CEL as far as gangs' claims have it: names and profiles; what is compared besides, the planner has compared."""
    vendor = next(each for each in VENDORS.values() if device_class in (*each.classes, each.passed_class))
    kinds = {vendor.part_class: vendor.part, vendor.passed_class: vendor.passed}
    kind = kinds.get(device_class, vendor.whole)
    if vendor.typed and device.text("type") != kind:
        return False
    found = _NAMES.fullmatch(expression)
    if found is None:
        return True
    prefix, name, operator, told = found.groups()
    has = device.text(name if prefix in VENDORS else f"{prefix}/{name}")
    return has in json.loads(told) if operator == "in" else has == json.loads(told)


def _uuid_of(published: ResourceSlice, device: PublishedDevice) -> str:
    vendor = VENDORS[published.driver]
    named = vendor.key(published.node, device.text(vendor.identity))
    if named is not None and not (vendor.nameless and device.text("type") == vendor.part):
        return named
    return f"{vendor.key(published.node, device.text(vendor.parent))}|{device.text(vendor.profile)}|{device.name}"
