"""The Kubernetes objects of one attempt: claim templates, ComputeDomains, and KubeRay worker groups with their pods.

Pure. A worker group is a copy of the user's, bound to its nodes and devices; DROPPED says what is not copied.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.clique import label_value
from ray_dra.core.model.device_selector import GPU_CLASS
from ray_dra.errors import InvalidRequest, shown
from ray_dra.ports.kube_objects import RayCluster
from ray_dra.translate.kube.claims import demands_on, expression_for
from ray_dra.translate.kube.raycluster import worker_template
from ray_dra.translate.kube.slots import Slot, uuids_of
from ray_dra.translate.names import (
    ATTEMPT_LABEL,
    ATTEMPT_VARIABLE,
    CLUSTER_LABEL,
    COMPUTE_DOMAIN_API,
    GANG_LABEL,
    GATE,
    GPU_DOMAIN,
    NODE_VARIABLE,
    RAY_API,
    START_HOOK_VARIABLE,
)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,253}")  # of a resource: nothing in it that a shell reads
# Fields of the user's group that are about its own pods and would act on the gang's.
DROPPED = (
    "scaleStrategy",  # names pods to delete
    "suspend",  # ends all pods
    "idleTimeoutSeconds",  # ends pods in which nothing runs just now
    "resources",  # what Ray's autoscaler takes a pod to offer; a gang's offers what its bundles ask for
)
RAYLET_CPUS, RAYLET_MEMORY = 0.25, 1 << 30  # what a raylet needs besides the bundles


class Maker:
    """Writes the objects of one attempt. A gang's groups are copies of the user's worker group of `cluster`."""

    def __init__(self, allocation: Allocation, attempt: str, cluster: RayCluster) -> None:
        self._attempt = attempt
        self._namespace = cluster.namespace
        self._template = worker_template(cluster)
        self._labels = {
            GANG_LABEL: label_value(allocation.gang),
            ATTEMPT_LABEL: attempt,
            CLUSTER_LABEL: label_value(cluster.name),
        }
        self._owner = {
            "apiVersion": RAY_API,
            "kind": "RayCluster",
            "name": cluster.name,
            "uid": cluster.uid,
            "blockOwnerDeletion": False,
        }

    def _meta(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": self._namespace,
            "labels": dict(self._labels),
            "ownerReferences": [self._owner],
        }

    def claim_template(self, name: str, members: Sequence[Slot]) -> dict[str, Any]:
        criteria = members[0].criteria
        expressions = (expression_for(uuids_of(members)), *demands_on(criteria))
        exactly = {
            "deviceClassName": criteria.device_class or GPU_CLASS,
            "allocationMode": "ExactCount",
            "count": len(members[0].uuids),
            "selectors": [{"cel": {"expression": expression}} for expression in expressions],
        }
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": self._meta(name),
            "spec": {
                "metadata": {"labels": dict(self._labels)},
                "spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}},
            },
        }

    def domain(self, name: str) -> dict[str, Any]:
        """Ready at once with 0 nodes; each node's own readiness is what its pod's Prepare waits for."""
        return {
            "apiVersion": COMPUTE_DOMAIN_API,
            "kind": "ComputeDomain",
            "metadata": self._meta(name),
            "spec": {
                "numNodes": 0,
                "channel": {"resourceClaimTemplate": {"name": f"{name}-channel"}, "allocationMode": "Single"},
            },
        }

    def group(self, name: str, members: Sequence[Slot], channel: str | None) -> dict[str, Any]:
        """A copy of the user's worker group, bound to these nodes and devices."""
        group = copy.deepcopy(dict(self._template))
        slot = members[0]
        for dropped in DROPPED:
            group.pop(dropped, None)
        count = len(members)
        params = {str(k): str(v) for k, v in (group.get("rayStartParams") or {}).items()}
        params |= _offers(slot)
        labels = dict(group.get("labels") or {})
        if slot.clique is not None:
            labels[GPU_DOMAIN] = label_value(slot.clique)
        group |= {
            "groupName": name,
            "replicas": count,
            "minReplicas": count,
            "maxReplicas": count,
            "numOfHosts": 1,
            "rayStartParams": params,
            "labels": labels,
            "template": self._pod_template(name, members, channel, labels),
        }
        return group

    def pod(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """A pod of the group, to see whether the API server takes it: one invalid group stops the operator."""
        template = copy.deepcopy(group["template"])
        metadata = {**template["metadata"], "namespace": self._namespace, "generateName": f"{group['groupName']}-"}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}

    def _pod_template(
        self, name: str, members: Sequence[Slot], channel: str | None, labels: Mapping[str, str]
    ) -> dict[str, Any]:
        template: dict[str, Any] = copy.deepcopy(self._template["template"])
        metadata = template.setdefault("metadata", {})
        metadata["labels"] = {**(metadata.get("labels") or {}), **self._labels}
        if GPU_DOMAIN in labels:
            metadata["labels"][GPU_DOMAIN] = labels[GPU_DOMAIN]
        spec = template["spec"]
        spec["restartPolicy"] = "Never"
        spec["schedulingGates"] = [*(spec.get("schedulingGates") or ()), {"name": GATE}]
        spec["affinity"] = _bound_to(spec.get("affinity") or {}, [slot.node for slot in members])
        claims = []
        if members[0].uuids:
            claims.append({"name": "gpus", "resourceClaimTemplateName": name})
        if channel is not None:
            claims.append({"name": "imex", "resourceClaimTemplateName": f"{channel}-channel"})
        spec["resourceClaims"] = claims
        ray = spec["containers"][0]
        ray["resources"] = _resources(ray.get("resources") or {}, members[0], [c["name"] for c in claims])
        ours = {START_HOOK_VARIABLE, NODE_VARIABLE, ATTEMPT_VARIABLE}
        ray["env"] = [
            *(entry for entry in ray.get("env") or () if entry["name"] not in ours),
            {"name": START_HOOK_VARIABLE, "value": "ray_dra.hooks.start"},
            {"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": ATTEMPT_VARIABLE, "value": self._attempt},
        ]
        return template


def _offers(slot: Slot) -> dict[str, str]:
    """What the raylet is told to offer: exactly the bundles' sum, so that nothing else fits beside them.

    `ray start` takes whole CPUs and bytes only, so a fraction is rounded up: down, the bundles would not fit.
    """
    params = {"num-gpus": str(len(slot.uuids)), "num-cpus": str(_whole(slot.resources.get("CPU", 0.0)))}
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


def _resources(theirs: Mapping[str, Any], slot: Slot, claims: Sequence[str]) -> dict[str, Any]:
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


def _bound_to(affinity: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """The user's affinity, and one of these nodes: each of their terms with each node, since terms are alternatives."""
    made = copy.deepcopy(dict(affinity))
    node_affinity = made.setdefault("nodeAffinity", {})
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or [{}]
    bound = []
    for term in terms:
        for node in nodes:
            field_ = {"key": "metadata.name", "operator": "In", "values": [node]}
            bound.append({**term, "matchFields": [*(term.get("matchFields") or ()), field_]})
    node_affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": bound}
    return made
