"""A stand-in for Kubernetes with KubeRay, for tests of the coordinator: the port `Kube` in memory.

It has the habits that matter: the worker groups are one list, which only a JSON patch whose tests hold changes; the
operator makes a pod for each replica, ends them when the group is suspended, and leaves them for good when it is
removed while they live; the scheduler allocates to a pod without gates what the CEL names and nobody has; a pod on a
lost node lingers. Time passes in `step`; what befalls the cluster is a verb (`lose_node`, `take`, `seize_lease`).
The view is made by the same translation as the real one's (`translate.kube`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ray_dra.errors import Conflict, NotFound, NotLeading
from ray_dra.ports.kube_objects import KubeNode, Pod, ResourceSlice
from ray_dra.ports.kubernetes import KubeView, Object
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.kube.pods import read_pod
from ray_dra.translate.kube.raycluster import GROUPS, read_raycluster
from ray_dra.translate.kube.shapes import read_domain, read_template
from ray_dra.translate.kube.slices import read_slice
from ray_dra.translate.names import DRIVER, GROUP_LABEL


class FakeKube:
    """See the module. `nodes` are (node, its ResourceSlices)."""

    def __init__(
        self,
        raycluster: dict[str, Any],
        nodes: Iterable[tuple[KubeNode, list[dict[str, Any]]]],
        *,
        compute_domains: bool = True,
    ) -> None:
        self.namespace = raycluster["metadata"]["namespace"]
        self.compute_domains = compute_domains
        self.told: list[tuple[str, str]] = []  # events
        self._raycluster = copy.deepcopy(raycluster)
        self._raycluster["metadata"].setdefault("resourceVersion", "1")
        self._users = copy.deepcopy(self._raycluster["spec"].get("workerGroupSpecs") or [])
        self._nodes: dict[str, KubeNode] = {}
        self._slices: dict[str, tuple[ResourceSlice, ...]] = {}  # by node
        for node, slices in nodes:
            self._nodes[node.name] = node
            versioned = [{**s, "metadata": {**s["metadata"], "resourceVersion": "1"}} for s in slices]
            self._slices[node.name] = tuple(map(read_slice, versioned))
        self._deleted: dict[str, tuple[KubeNode, tuple[ResourceSlice, ...]]] = {}  # nodes that may come back
        self._things: dict[tuple[str, str], dict[str, Any]] = {}  # (kind, name): templates, domains, pods, claims
        self._running: set[str] = set()  # pods whose start hook has been called
        self._leader = ""  # who else has the lease
        self._schedules = True
        self._lag, self._read = 0, [self._raycluster]  # of the operator: turns, and what it read in them
        self._count = 0
        self._version = 0

    # -- the port

    def view(self) -> KubeView:
        return KubeView(
            raycluster=read_raycluster(copy.deepcopy(self._raycluster)),
            nodes=dict(self._nodes),
            slices=tuple(each for slices in self._slices.values() for each in slices),
            claims=tuple(map(read_claim, self._of("ResourceClaim"))),
            pods=tuple(map(read_pod, self._of("Pod"))),
            templates=tuple(map(read_template, self._of("ResourceClaimTemplate"))),
            domains=tuple(map(read_domain, self._of("ComputeDomain"))),
            version=self._version,
        )

    def create(self, thing: Object, *, dry_run: bool = False) -> None:
        if self._leader:
            raise NotLeading(self._leader)
        if dry_run:
            return
        self._write()
        self._things.setdefault((thing["kind"], thing["metadata"]["name"]), self._stamped(thing))
        if thing["kind"] == "ComputeDomain":
            name = thing["spec"]["channel"]["resourceClaimTemplate"]["name"]
            meta = {"name": name, "namespace": self.namespace}
            template = {"kind": "ResourceClaimTemplate", "metadata": meta, "spec": {}}
            self._things.setdefault(("ResourceClaimTemplate", name), self._stamped(template))

    def patch(self, kind: str, name: str, change: list[Any] | Object) -> None:
        self._write()
        if isinstance(change, list):
            self._patch_cluster(change)
            return
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
        if found is not None and (kind == "Pod" or (found.get("status") or {}).get("allocation")):
            found["metadata"]["deletionTimestamp"] = "now"  # until the kubelet, or the claim's last pod, lets it go
            return
        gone = self._things.pop((kind, name), None)
        if kind == "ComputeDomain" and gone is not None:
            channel = gone["spec"]["channel"]["resourceClaimTemplate"]["name"]
            self._things.pop(("ResourceClaimTemplate", channel), None)

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
        """The operator, the scheduler and the kubelets each take a turn."""
        self._version += 1
        self._operate()
        for pod in self._of("Pod"):
            spec, node = pod["spec"], self._nodes.get(pod["spec"].get("nodeName", ""))
            if "nodeName" in spec and node is None:
                self._end_pod(pod)  # the collector of pods whose node has been deleted
            elif pod["metadata"].get("deletionTimestamp"):
                if "nodeName" not in spec or (node is not None and node.ready):
                    self._end_pod(pod)
            elif "nodeName" not in spec and not spec.get("schedulingGates"):
                if self._schedules:
                    self._schedule(pod)
            elif node is not None and node.ready:
                pod["status"]["phase"] = "Running"
                self._running.add(pod["metadata"]["name"])

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
        """The pods whose start hook is called, and the UUIDs of the devices in each."""
        found = []
        for name in sorted(self._running):
            pod, claim = read_pod(self._things["Pod", name]), read_claim(self._things["ResourceClaim", f"{name}-gpus"])
            if pod.node in self._nodes and self._nodes[pod.node].ready:
                published = {(pod.node, d.name): d.text("uuid") for s in self._slices[pod.node] for d in s.devices}
                found.append((pod, frozenset(published[device] or "" for device in claim.devices)))
        return found

    def worker_groups(self) -> list[dict[str, Any]]:
        """Of the RayCluster, as they stand there."""
        return copy.deepcopy(self._raycluster["spec"]["workerGroupSpecs"])

    def orphans(self) -> list[str]:
        """Pods whose group the RayCluster does not have, so that nobody will end them."""
        groups = {group["groupName"] for group in self._raycluster["spec"]["workerGroupSpecs"]}
        return [
            pod["metadata"]["name"] for pod in self._of("Pod") if pod["metadata"]["labels"][GROUP_LABEL] not in groups
        ]

    def left(self) -> list[str]:
        """What there is that the RayCluster's namespace did not begin with."""
        users = {group["groupName"] for group in self._users}
        groups = [g["groupName"] for g in self._raycluster["spec"]["workerGroupSpecs"] if g["groupName"] not in users]
        things = self._things.items()
        return groups + [name for (_, name), thing in things if thing["metadata"].get("namespace") == self.namespace]

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

    def cordon(self, name: str, closed: bool = True) -> None:
        self._change_node(name, unschedulable=closed)

    def _change_node(self, name: str, **change: Any) -> None:
        self._version += 1
        self._nodes[name] = replace(self._nodes[name], **change)

    def take(self, node: str, device: str) -> None:
        """Somebody else's claim gets a device."""
        result = {"driver": DRIVER, "pool": node, "device": device}
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

    def apply_raycluster(self, **spec: Any) -> None:
        """The user applies the RayCluster again, as it was but for these fields: gangs' groups are gone from it."""
        self._version += 1
        spec = {"workerGroupSpecs": copy.deepcopy(self._users), **spec}
        self._raycluster = {**self._raycluster, "spec": {**self._raycluster["spec"], **spec}}
        self._count_up()

    def seize_lease(self, holder: str) -> None:
        """Another coordinator leads."""
        self._leader = holder

    def free_lease(self) -> None:
        self._leader = ""

    def lag_operator(self, turns: int) -> None:
        """From now on the operator makes pods of the RayCluster as it was so many turns before: it reads a cache."""
        self._lag = turns

    def stop_scheduling(self) -> None:
        """No pod is bound any more."""
        self._schedules = False

    def _operate(self) -> None:
        self._read = [*self._read[-self._lag :], self._raycluster] if self._lag else [self._raycluster]
        groups = {group["groupName"]: group for group in self._read[0]["spec"]["workerGroupSpecs"]}
        for name, group in groups.items():
            pods = [p for p in self._of("Pod") if p["metadata"]["labels"][GROUP_LABEL] == name]
            alive = [p for p in pods if not p["metadata"].get("deletionTimestamp")]
            wanted = 0 if group.get("suspend") else group.get("replicas", 0)
            for pod in alive[wanted:]:
                pod["metadata"]["deletionTimestamp"] = "now"
            for _ in range(wanted - len(alive)):
                self._count += 1
                template = copy.deepcopy(group["template"])
                labels = {**template["metadata"]["labels"], GROUP_LABEL: name}
                meta = {"name": f"{name}-{self._count}", "namespace": self.namespace, "labels": labels}
                pod = {"kind": "Pod", "metadata": meta, "spec": template["spec"], "status": {"phase": "Pending"}}
                self._things["Pod", meta["name"]] = self._stamped(pod)
        for pod in self._of("Pod"):
            if ("ResourceClaim", f"{pod['metadata']['name']}-gpus") not in self._things:
                self._make_claim(pod)

    def _make_claim(self, pod: dict[str, Any]) -> None:
        """The controller of claims does not wait for gates."""
        wanted = pod["spec"]["resourceClaims"][0]["resourceClaimTemplateName"]
        template = self._things.get(("ResourceClaimTemplate", wanted))
        if template is None:
            return
        spec = template["spec"]
        meta = pod["metadata"]
        owner = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"], "controller": True}
        claim = {
            "kind": "ResourceClaim",
            "metadata": {
                "name": f"{pod['metadata']['name']}-gpus",
                "namespace": self.namespace,
                "labels": dict(spec["metadata"]["labels"]),
                "ownerReferences": [owner],
                "creationTimestamp": f"{self._count:09d}",
            },
            "spec": spec["spec"],
            "status": {},
        }
        self._things["ResourceClaim", claim["metadata"]["name"]] = self._stamped(claim)

    def _schedule(self, pod: dict[str, Any]) -> None:
        terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        nodes = [term["matchFields"][-1]["values"][0] for term in terms["nodeSelectorTerms"]]
        claim = self._things.get(("ResourceClaim", f"{pod['metadata']['name']}-gpus"))
        taken = set(self.claimed())
        if claim is None:
            return
        wanted = read_claim(claim)
        for node in nodes:
            free = [d for d in self._devices(node, wanted.named) if (node, d) not in taken]
            if node in self._nodes and self._nodes[node].ready and len(free) >= wanted.count:
                results = [{"driver": DRIVER, "pool": node, "device": d} for d in free[: wanted.count]]
                claim["status"] = {"allocation": {"devices": {"results": results}}}
                pod["spec"]["nodeName"] = node
                return
        condition = {"type": "PodScheduled", "status": "False", "message": "cannot allocate all claims"}
        pod["status"]["conditions"] = [condition]

    def _devices(self, node: str, uuids: Collection[str]) -> list[str]:
        devices = [device for each in self._slices.get(node, ()) for device in each.devices]
        return [device.name for device in devices if device.text("uuid") in uuids]

    def _end_pod(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        self._things.pop(("Pod", name))
        self._things.pop(("ResourceClaim", f"{name}-gpus"), None)
        self._running.discard(name)

    def _patch_cluster(self, change: list[Any]) -> None:
        """All of it or nothing, as the API server does."""
        made = copy.deepcopy(self._raycluster)
        for step in change:
            path, value = step["path"], step.get("value")
            if path == "/metadata/resourceVersion":
                if made["metadata"]["resourceVersion"] != value:
                    raise Conflict("The RayCluster changed.", place=path)
                continue
            at = path.removeprefix(GROUPS).split("/")[1]
            field = path.removeprefix(f"{GROUPS}/{at}").strip("/")
            groups = made["spec"]["workerGroupSpecs"]
            if step["op"] == "test":
                if int(at) >= len(groups) or groups[int(at)][field] != value:
                    raise Conflict("The list changed.", place=path)
            elif step["op"] == "remove":
                del groups[int(at)]
            elif at == "-":
                groups.append(copy.deepcopy(value))
            else:
                groups[int(at)][field] = value
        self._raycluster = made
        self._count_up()

    def _count_up(self) -> None:
        meta = self._raycluster["metadata"]
        version = str(int(meta["resourceVersion"]) + 1)
        self._raycluster = {**self._raycluster, "metadata": {**meta, "resourceVersion": version}}

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [thing for (k, _), thing in sorted(self._things.items()) if k == kind]

    def _stamped(self, thing: Object) -> dict[str, Any]:
        self._count += 1
        made = copy.deepcopy(dict(thing))
        made["metadata"].setdefault("uid", f"uid-{self._count}")
        return made

    def _write(self) -> None:
        if self._leader:
            raise NotLeading(self._leader)
        self._version += 1
