"""A pod that does nothing, and that admission takes for one of a RayCluster's worker group all the same. Pure.

It is a copy of a worker in all by which an image is had, and in which the admission policy holds it to the worker
group; its containers end at once. It has no claims, and nothing by which Ray or KubeRay would count it. Neighbours:
`warm.py` has nodes pull images by such pods, `gang_scheduling.py` asks by one that is never made.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ray_dra.core.model.clique import label_value
from ray_dra.ports.kube_objects import RayCluster
from ray_dra.translate.kube.shapes import Raw
from ray_dra.translate.names import CLUSTER_LABEL, KAI_SCHEDULER, RAY_API, WARM_LABEL

# Of a worker's pod what has nothing to do with its images, or would keep it from being placed.
_DROPPED = (
    "affinity",
    "dnsConfig",
    "ephemeralContainers",
    "hostname",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "schedulingGates",
    "setHostnameAsFQDN",
    "subdomain",
    "topologySpreadConstraints",
    "volumes",
)
_CONTAINER = ("name", "image", "imagePullPolicy", "securityContext", "envFrom")
_AMOUNTS = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}


def idle_pod(cluster: RayCluster, template: Mapping[str, Any], key: str, place: str) -> dict[str, Any]:
    """A copy of a pod template of the RayCluster's.

    Args:
        key, place: twelve hexadecimal digits each, which name it: what it is there for, and where.
    """
    template = copy.deepcopy(dict(template))
    spec = template["spec"]
    for dropped in _DROPPED:
        spec.pop(dropped, None)
    for kind in ("initContainers", "containers"):
        if spec.get(kind):
            spec[kind] = [_ends_at_once(each) for each in spec[kind]]
    spec |= {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    if spec.get("schedulerName") == KAI_SCHEDULER:  # of which it is in no PodGroup
        del spec["schedulerName"]
    owner = {"apiVersion": RAY_API, "kind": "RayCluster", "name": cluster.name, "uid": cluster.uid}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"rd-warm-{key}-{place}",
            "namespace": cluster.namespace,
            "labels": {CLUSTER_LABEL: label_value(cluster.name), WARM_LABEL: key},
            "annotations": dict((template.get("metadata") or {}).get("annotations") or {}),
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": False}],
        },
        "spec": spec,
    }


def _ends_at_once(container: Raw) -> dict[str, Any]:
    kept = {key: copy.deepcopy(container[key]) for key in _CONTAINER if key in container}
    return {**kept, "command": ["true"], "resources": copy.deepcopy(_AMOUNTS)}
