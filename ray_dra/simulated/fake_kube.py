"""A stand-in for Kubernetes with KubeRay, for tests of the coordinator: the port `Kube` in memory.

It has the habits that matter: the worker groups are one list, which only a JSON patch whose tests hold changes; the
operator makes a pod for each replica, ends them when the group is suspended, and leaves them for good when it is
removed while they live; the scheduler allocates to a pod without gates what the CEL names and nobody has; a pod on a
lost node lingers. Time passes in `step`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ray_dra.errors import Conflict, NotFound, NotLeading
from ray_dra.ports.kubernetes import KubeNode, KubeView, Object
from ray_dra.translate.kube.workers import named_uuids
from ray_dra.translate.names import DRIVER, GROUP_LABEL

GROUPS = "/spec/workerGroupSpecs"


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
        self.raycluster = copy.deepcopy(raycluster)
        self.raycluster["metadata"].setdefault("resourceVersion", "1")
        self.nodes: dict[str, KubeNode] = {}
        self.slices: list[dict[str, Any]] = []
        for node, slices in nodes:
            self.nodes[node.name] = node
            self.slices += [{**s, "metadata": {**s["metadata"], "resourceVersion": "1"}} for s in slices]
        self.things: dict[tuple[str, str], dict[str, Any]] = {}  # (kind, name): templates, domains, pods, claims
        self.running: set[str] = set()  # pods whose start hook has been called
        self.leader = ""  # who else has the lease
        self.told: list[tuple[str, str]] = []  # events
        self.unseen: tuple[str, ...] = ()  # what the view lacks, and why
        self._count = 0
        self._version = 0

    # -- the port

    def view(self) -> KubeView:
        def of(kind: str) -> tuple[Object, ...]:
            return tuple(copy.deepcopy(t) for (k, _), t in sorted(self.things.items()) if k == kind)

        return KubeView(
            raycluster=copy.deepcopy(self.raycluster),
            nodes=dict(self.nodes),
            slices=tuple(self.slices),
            claims=of("ResourceClaim"),
            pods=of("Pod"),
            templates=of("ResourceClaimTemplate"),
            domains=of("ComputeDomain"),
            version=self._version,
        )

    def create(self, thing: Object, *, dry_run: bool = False) -> None:
        if self.leader:
            raise NotLeading(self.leader)
        if dry_run:
            return
        self._write()
        self.things.setdefault((thing["kind"], thing["metadata"]["name"]), self._stamped(thing))
        if thing["kind"] == "ComputeDomain":
            name = thing["spec"]["channel"]["resourceClaimTemplate"]["name"]
            meta = {"name": name, "namespace": self.namespace}
            template = {"kind": "ResourceClaimTemplate", "metadata": meta, "spec": {}}
            self.things.setdefault(("ResourceClaimTemplate", name), self._stamped(template))

    def patch(self, kind: str, name: str, change: list[Any] | Object) -> None:
        self._write()
        if isinstance(change, list):
            self._patch_cluster(change)
            return
        pod = self.things.get((kind, name))
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
        found = self.things.get((kind, name))
        if found is not None and (kind == "Pod" or (found.get("status") or {}).get("allocation")):
            found["metadata"]["deletionTimestamp"] = "now"  # until the kubelet, or the claim's last pod, lets it go
            return
        gone = self.things.pop((kind, name), None)
        if kind == "ComputeDomain" and gone is not None:
            channel = gone["spec"]["channel"]["resourceClaimTemplate"]["name"]
            self.things.pop(("ResourceClaimTemplate", channel), None)

    def lead(self) -> str:
        return self.leader

    def problems(self) -> tuple[str, ...]:
        return self.unseen

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
            spec, node = pod["spec"], self.nodes.get(pod["spec"].get("nodeName", ""))
            if "nodeName" in spec and node is None:
                self._end_pod(pod)  # the collector of pods whose node has been deleted
            elif pod["metadata"].get("deletionTimestamp"):
                if "nodeName" not in spec or (node is not None and node.ready):
                    self._end_pod(pod)
            elif "nodeName" not in spec and not spec.get("schedulingGates"):
                self._schedule(pod)
            elif node is not None and node.ready:
                pod["status"]["phase"] = "Running"
                self.running.add(pod["metadata"]["name"])

    def claimed(self) -> list[tuple[str, str]]:
        """(node, device) of every allocation; the invariant is that there are no two alike."""
        found = []
        for claim in self._of("ResourceClaim"):
            results = claim["status"].get("allocation", {"devices": {"results": ()}})["devices"]["results"]
            found += [(result["pool"], result["device"]) for result in results]
        return found

    def take(self, node: str, device: str) -> None:
        """Somebody else's claim gets a device."""
        self._version += 1
        result = {"driver": DRIVER, "pool": node, "device": device}
        claim: dict[str, Any] = {
            "kind": "ResourceClaim",
            "metadata": {"name": f"other-{node}-{device}", "namespace": "other"},
            "status": {"allocation": {"devices": {"results": [result]}}},
        }
        self.things["ResourceClaim", claim["metadata"]["name"]] = self._stamped(claim)

    def _operate(self) -> None:
        groups = {group["groupName"]: group for group in self.raycluster["spec"]["workerGroupSpecs"]}
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
                self.things["Pod", meta["name"]] = self._stamped(pod)
        for pod in self._of("Pod"):
            if ("ResourceClaim", f"{pod['metadata']['name']}-gpus") not in self.things:
                self._make_claim(pod)

    def _make_claim(self, pod: dict[str, Any]) -> None:
        """The controller of claims does not wait for gates."""
        wanted = pod["spec"]["resourceClaims"][0]["resourceClaimTemplateName"]
        template = self.things.get(("ResourceClaimTemplate", wanted))
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
        self.things["ResourceClaim", claim["metadata"]["name"]] = self._stamped(claim)

    def _schedule(self, pod: dict[str, Any]) -> None:
        terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        nodes = [term["matchFields"][-1]["values"][0] for term in terms["nodeSelectorTerms"]]
        claim = self.things.get(("ResourceClaim", f"{pod['metadata']['name']}-gpus"))
        taken = set(self.claimed())
        if claim is None:
            return
        count, uuids = claim["spec"]["devices"]["requests"][0]["exactly"]["count"], named_uuids(claim)
        for node in nodes:
            free = [d for d in self._devices(node, uuids) if (node, d) not in taken]
            if node in self.nodes and self.nodes[node].ready and len(free) >= count:
                results = [{"driver": DRIVER, "pool": node, "device": d} for d in free[:count]]
                claim["status"] = {"allocation": {"devices": {"results": results}}}
                pod["spec"]["nodeName"] = node
                return
        condition = {"type": "PodScheduled", "status": "False", "message": "cannot allocate all claims"}
        pod["status"]["conditions"] = [condition]

    def _devices(self, node: str, uuids: Sequence[str]) -> list[str]:
        return [
            device["name"]
            for s in self.slices
            if s["spec"]["nodeName"] == node
            for device in s["spec"]["devices"]
            if device["attributes"]["uuid"]["string"] in uuids
        ]

    def _end_pod(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        self.things.pop(("Pod", name))
        self.things.pop(("ResourceClaim", f"{name}-gpus"), None)
        self.running.discard(name)

    def _patch_cluster(self, change: list[Any]) -> None:
        """All of it or nothing, as the API server does."""
        made = copy.deepcopy(self.raycluster)
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
        made["metadata"]["resourceVersion"] = str(int(made["metadata"]["resourceVersion"]) + 1)
        self.raycluster = made

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [thing for (k, _), thing in sorted(self.things.items()) if k == kind]

    def _stamped(self, thing: Object) -> dict[str, Any]:
        self._count += 1
        made = copy.deepcopy(dict(thing))
        made["metadata"].setdefault("uid", f"uid-{self._count}")
        return made

    def _write(self) -> None:
        if self.leader:
            raise NotLeading(self.leader)
        self._version += 1
