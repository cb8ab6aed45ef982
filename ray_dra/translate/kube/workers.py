"""The Kubernetes objects of one attempt: pods, ResourceClaims and ComputeDomains.

Pure. A gang's worker is the pod that KubeRay would make for a worker group like the user's, bound to its node and its
devices; DROPPED says what is not taken over. Neighbour: `kuberay_pod.py` makes a pod of a group as KubeRay does.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.clique import label_value
from ray_dra.errors import InvalidRequest, shown
from ray_dra.ports.kube_objects import RayCluster
from ray_dra.translate.kube.claims import (
    demands_on,
    expression_for,
    expression_for_buses,
    expression_for_kind,
    expression_for_parts_of,
    expression_for_profile,
    shared_by,
)
from ray_dra.translate.kube.gang_scheduling import gang_pod_group, put_into_group
from ray_dra.translate.kube.kai import is_kai, labels_of_claim, pod_group, put_into
from ray_dra.translate.kube.kuberay_pod import worker_pod
from ray_dra.translate.kube.raycluster import vendor_of, worker_template
from ray_dra.translate.kube.slots import Slot, SlotPart
from ray_dra.translate.names import (
    ATTEMPT_LABEL,
    CLUSTER_LABEL,
    COMPUTE_DOMAIN_API,
    GANG_LABEL,
    GATE,
    GPU_DOMAIN,
    INSTANCE_VARIABLE,
    KUBERAY_NODE_TYPE_LABEL,
    KUBERAY_REPLICA_LABEL,
    KUBERAY_SERVING_LABEL,
    KUEUE_PREFIX,
    NODE_LABEL,
    NODE_VARIABLE,
    RAY_API,
    SLOT_LABEL,
    SLOT_VARIABLE,
    START_HOOK_VARIABLE,
)
from ray_dra.translate.vendors import VENDORS

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,253}")  # of a resource: nothing in it that a shell reads
# Fields of the user's group that are about its own pods and would act on the gang's.
DROPPED = (
    "scaleStrategy",  # names pods to delete
    "suspend",  # ends all pods
    "idleTimeoutSeconds",  # ends pods in which nothing runs just now
    "resources",  # what Ray's autoscaler takes a pod to offer; a gang's offers what its bundles ask for
)
# Ray's autoscaler looks after heads and workers: one of a group that the RayCluster does not have ends each of its
# rounds in an error, and one with an instance's name is drained as one too many. So a gang's worker is neither.
NODE_TYPE = "gang"
# Labels of KubeRay's workers that a gang's has not: its place in a group, and that a RayService sends traffic there.
UNLIKE_KUBERAY = (KUBERAY_REPLICA_LABEL, KUBERAY_SERVING_LABEL)
RAYLET_CPUS, RAYLET_MEMORY = 0.25, 1 << 30  # what a raylet needs besides the bundles


class Maker:
    """Writes the objects of one attempt. A gang's workers are copies of the user's worker group of `cluster`."""

    def __init__(
        self,
        allocation: Allocation,
        attempt: str,
        cluster: RayCluster,
        toleration: Mapping[str, str] | None = None,
        queue: str = "",
        gang_scheduling: str = "",
    ) -> None:
        """`toleration`: of the taint that the devices have while the gang's claims change. `queue`: that pays.
        `gang_scheduling`: the version of Kubernetes' own PodGroups, where the pods are of one."""
        self._gang, self._priority = allocation.gang, allocation.priority
        self._queue, self._gang_scheduling = queue, gang_scheduling
        self._attempt, self._cluster, self._toleration = attempt, cluster, toleration
        self._template, self._node_type = worker_template(cluster), _node_type(cluster)
        driver = next((grant.device.driver for grant in allocation.grants), "")
        self._vendor = VENDORS.get(driver) or vendor_of(cluster)  # whose GPUs were planned
        self._labels = {
            GANG_LABEL: label_value(allocation.gang),
            ATTEMPT_LABEL: attempt,
            CLUSTER_LABEL: label_value(cluster.name),
        }

    def domain(self, name: str) -> dict[str, Any]:
        """Ready at once with 0 nodes; each node's own readiness is what its pod's Prepare waits for."""
        return {
            "apiVersion": COMPUTE_DOMAIN_API,
            "kind": "ComputeDomain",
            "metadata": self._meta(name, self._labels, self._owner()),
            "spec": {
                "numNodes": 0,
                "channel": {"resourceClaimTemplate": {"name": f"{name}-channel"}, "allocationMode": "Single"},
            },
        }

    def pod_group(self, members: int) -> dict[str, Any] | None:
        """Of an attempt that has so many workers: KAI's, where it places them, or Kubernetes' own; None for neither."""
        if is_kai(self._queue):
            if not members:
                return None
            return pod_group(self._gang, self._attempt, members, self._queue, self._cluster, self._priority)
        if not self._gang_scheduling:
            return None
        meta = self._meta(self._attempt, self._labels, self._owner())
        priority_class = self._template["template"]["spec"].get("priorityClassName")
        return gang_pod_group(self._gang_scheduling, meta, members, priority_class)

    def claim(self, slot: Slot, pod: str, name: str, parts: Sequence[SlotPart] = ()) -> dict[str, Any]:
        """For the slot's pod of this uid alone: its whole devices, or these parts of one GPU. Kubernetes deletes it
        with the pod."""
        vendor = self._vendor
        demands = demands_on(slot.criteria, vendor)
        requests: list[dict[str, Any]] = []
        if slot.buses:
            # Of a GPU that is passed through the driver knows what the bus tells; the planner has compared the rest.
            requests.append(_request("gpus", vendor.passed_class, len(slot.buses), (expression_for_buses(slot.buses),)))
        elif not parts:
            # First: others may not say who they are.
            whole = () if vendor.typed else (expression_for_kind(vendor, vendor.whole),)
            wanted = (*whole, expression_for(slot.uuids, vendor), *demands)
            requests.append(_request("gpus", vendor.device_class, len(slot.uuids), wanted))
        there = [part.uuid for part in parts if part.uuid is not None]
        if there:
            wanted = (expression_for(there, vendor), *demands)
            requests.append(_request("parts", vendor.part_class, len(there), wanted))
        kind = () if vendor.typed else (expression_for_kind(vendor, vendor.part),)
        made = Counter(part.profile for part in parts if part.uuid is None)
        for number, (profile, count) in enumerate(made.items()):
            of = expression_for_parts_of(parts[0].parent, vendor)
            wanted = (*kind, of, expression_for_profile(profile, vendor), *demands)
            requests.append(_request(f"parts-{number}", vendor.part_class, count, wanted))
        owner = {"apiVersion": "v1", "kind": "Pod", "name": slot.name, "uid": pod, "controller": True}
        meta = self._meta(name, {**self._labels_of(slot), **labels_of_claim(self._queue)}, owner)
        if slot.buses or not vendor.unique:
            meta["annotations"] = {NODE_LABEL: slot.node}
        if self._toleration is not None:
            for request in requests:
                request["exactly"]["tolerations"] = [dict(self._toleration)]
        devices: dict[str, Any] = {"requests": requests}
        if slot.sharing is not None:
            devices["config"] = [shared_by(slot.sharing, vendor)]
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": meta,
            "spec": {"devices": devices},
        }

    def pod(self, slot: Slot, domain: Mapping[str, Any] | None) -> dict[str, Any]:
        """The slot's worker. `domain`: the ComputeDomain of which it gets a channel."""
        made = worker_pod(self._cluster, self._group(slot, domain), slot.name)
        meta, ray = made["metadata"], made["spec"]["containers"][0]
        for owner in meta["ownerReferences"]:
            owner["blockOwnerDeletion"] = False  # else we would need a right to the RayCluster's finalizers
        for label in UNLIKE_KUBERAY:
            meta["labels"].pop(label, None)
        meta["labels"][KUBERAY_NODE_TYPE_LABEL] = self._node_type
        ray["env"] = [entry for entry in ray["env"] if entry["name"] != INSTANCE_VARIABLE]
        return made

    def _meta(self, name: str, labels: Mapping[str, str], owner: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": self._cluster.namespace,
            "labels": dict(labels),
            "ownerReferences": [dict(owner)],
        }

    def _owner(self) -> dict[str, Any]:
        cluster = self._cluster
        owner = {"apiVersion": RAY_API, "kind": "RayCluster", "name": cluster.name, "uid": cluster.uid}
        return {**owner, "blockOwnerDeletion": False}

    def _labels_of(self, slot: Slot) -> dict[str, str]:
        return {**self._labels, SLOT_LABEL: slot.label}

    def _group(self, slot: Slot, domain: Mapping[str, Any] | None) -> dict[str, Any]:
        """The user's worker group as it would be for this slot alone. What Kueue has written into it, when it let the
        RayCluster in, is left out: it names Kueue's pod sets, and Kueue would never open its gates of other pods. So
        are Kueue's names in the user's own labels: a queue's would make the pod Kueue's."""
        group = copy.deepcopy(dict(self._template))
        for dropped in DROPPED:
            group.pop(dropped, None)
        params = {str(k): str(v) for k, v in (group.get("rayStartParams") or {}).items()}
        labels = _without_kueue(group.get("labels"))
        if slot.clique is not None:
            labels[GPU_DOMAIN] = label_value(slot.clique)
        return {
            **group,
            "groupName": self._attempt,
            "replicas": 1,
            "minReplicas": 1,
            "maxReplicas": 1,
            "numOfHosts": 1,
            "rayStartParams": params | _offers(slot),
            "labels": labels,
            "template": self._pod_template(group["template"], slot, domain, labels),
        }

    def _pod_template(
        self, template: dict[str, Any], slot: Slot, domain: Mapping[str, Any] | None, labels: Mapping[str, str]
    ) -> dict[str, Any]:
        metadata = template.setdefault("metadata", {})
        for told in ("labels", "annotations"):
            metadata[told] = _without_kueue(metadata.get(told))
        metadata["labels"] |= self._labels_of(slot)
        if GPU_DOMAIN in labels:
            metadata["labels"][GPU_DOMAIN] = labels[GPU_DOMAIN]
        spec: dict[str, Any] = template["spec"]
        if is_kai(self._queue):
            put_into(template, self._attempt, self._queue, self._cluster)
        elif self._gang_scheduling:
            put_into_group(spec, self._attempt)
        spec["restartPolicy"] = "Never"
        theirs = [gate for gate in spec.get("schedulingGates") or () if not gate["name"].startswith(KUEUE_PREFIX)]
        spec["schedulingGates"] = [*theirs, {"name": GATE}]
        spec["affinity"] = bound_to(spec.get("affinity") or {}, slot.node)
        claims = []
        if slot.pool:
            claims.append({"name": "gpus", "resourceClaimName": slot.pool})
        for name in slot.claims:
            local = "gpus" + name.removeprefix(slot.name)
            claims.append({"name": local, "resourceClaimName": name})
        if domain is not None:
            channel = domain["spec"]["channel"]["resourceClaimTemplate"]["name"]
            claims.append({"name": "imex", "resourceClaimTemplateName": channel})
        spec["resourceClaims"] = claims
        ray = spec["containers"][0]
        ray["resources"] = resources_of(ray.get("resources") or {}, slot, [c["name"] for c in claims])
        ours = {START_HOOK_VARIABLE, NODE_VARIABLE, SLOT_VARIABLE}
        ray["env"] = [
            *(entry for entry in ray.get("env") or () if entry["name"] not in ours),
            {"name": START_HOOK_VARIABLE, "value": "ray_dra.hooks.start"},
            {"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": SLOT_VARIABLE, "value": slot.label},
        ]
        return template


def _without_kueue(named: Mapping[str, str] | None) -> dict[str, str]:
    """Labels or annotations that are not Kueue's."""
    return {name: value for name, value in (named or {}).items() if not name.startswith(KUEUE_PREFIX)}


def _request(name: str, device_class: str, count: int, expressions: Sequence[str]) -> dict[str, Any]:
    exactly = {
        "deviceClassName": device_class,
        "allocationMode": "ExactCount",
        "count": count,
        "selectors": [{"cel": {"expression": expression}} for expression in expressions],
    }
    return {"name": name, "exactly": exactly}


def _node_type(cluster: RayCluster) -> str:
    """Of a gang's worker. KubeRay's certificates have the addresses of heads and workers only, and GCS reaches a raylet
    by its address; so where it makes them, a gang's worker is a worker, and Ray's autoscaler must be off."""
    if not cluster.kuberay.tls:
        return NODE_TYPE
    if cluster.workers.autoscaled:
        raise InvalidRequest(
            "KubeRay's certificates are for workers that Ray's autoscaler would stumble over: leave out tlsOptions or"
            " enableInTreeAutoscaling.",
            place=f"RayCluster {cluster.namespace}/{cluster.name}",
        )
    return "worker"


def _offers(slot: Slot) -> dict[str, str]:
    """What the raylet is told to offer: exactly the bundles' sum, so that nothing else fits beside them.

    `ray start` takes whole CPUs and bytes only, so a fraction is rounded up: down, the bundles would not fit.
    """
    params = {"num-gpus": str(slot.devices), "num-cpus": str(_whole(slot.resources.get("CPU", 0.0)))}
    if "memory" in slot.resources:
        params["memory"] = str(_whole(slot.resources["memory"]))
    custom = {k: v for k, v in slot.resources.items() if k not in ("CPU", "GPU", "memory")}
    for name in custom:
        if not _PLAIN_NAME.fullmatch(name):
            raise InvalidRequest(
                "A worker is told of its resources in a shell, which would read this name.",
                place="bundles",
                wanted=shown(name),
                available="letters, digits and _ . : / -",
            )
    if custom:
        params["resources"] = json.dumps(json.dumps(custom, sort_keys=True))  # KubeRay passes it through a shell
    return params


def _whole(amount: float) -> int:
    """Rounded up; Ray counts in ten-thousandths, and a sum of fractions is not exact."""
    return math.ceil(round(amount, 4))


def resources_of(theirs: Mapping[str, Any], slot: Slot, claims: list[str]) -> dict[str, Any]:
    """The container's requests and limits: the bundles' and the raylet's own; theirs where the bundles say nothing."""
    requests, limits = dict(theirs.get("requests") or {}), dict(theirs.get("limits") or {})
    cpus = slot.resources.get("CPU")
    if cpus:
        requests["cpu"] = f"{round((cpus + RAYLET_CPUS) * 1000)}m"
        if "cpu" in limits:
            limits["cpu"] = requests["cpu"]
    memory = slot.resources.get("memory")
    if memory:
        requests["memory"] = limits["memory"] = str(_whole(memory) + RAYLET_MEMORY)
    made: dict[str, Any] = {"requests": requests, "limits": limits, "claims": [{"name": name} for name in claims]}
    return {key: value for key, value in made.items() if value}


def bound_to(affinity: Mapping[str, Any], node: str) -> dict[str, Any]:
    """The user's affinity, and this node: it is added to each of their terms, since terms are alternatives."""
    made = copy.deepcopy(dict(affinity))
    node_affinity = made.setdefault("nodeAffinity", {})
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    here = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = [
        {**term, "matchFields": [*(term.get("matchFields") or ()), here]}
        for term in required.get("nodeSelectorTerms") or [{}]
    ]
    node_affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    return made
