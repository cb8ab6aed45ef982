"""Pods that do nothing but have a node pull the images of gangs' workers, before a gang waits for them. Pure.

Such a pod is a copy of a worker's in all by which an image is had, and in which the admission policy holds it to the
worker group; its containers end at once. It has no claims, and nothing by which Ray or KubeRay would count it.
Neighbour: `coordinator.backends.kubernetes.warm` makes and deletes them.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ray_dra.core.model.clique import label_value
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import KubeNode, RayCluster
from ray_dra.translate.kube.images import full_name
from ray_dra.translate.kube.raycluster import worker_template
from ray_dra.translate.kube.shapes import Raw
from ray_dra.translate.kube.workers import bound_to
from ray_dra.translate.names import CLUSTER_LABEL, KAI_SCHEDULER, RAY_API, WARM_ANNOTATION, WARM_LABEL

MOST_SECONDS = 1_800  # for a pull; then the kubelet ends the pod, also where no coordinator is left
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


class WarmImages:
    """What is to be pulled for a RayCluster. `key` tells it from what was before; "" where nothing is."""

    def __init__(self, cluster: RayCluster | None) -> None:
        self._cluster = cluster
        self._template: Mapping[str, Any] = {}
        if cluster is not None and cluster.settings.get(WARM_ANNOTATION) == "true":
            with suppress(InvalidRequest):  # said to whoever asks for a gang
                self._template = worker_template(cluster)["template"]
        containers = [each for each in self._containers if each.get("imagePullPolicy") != "Never"]
        self.images = frozenset(full_name(each["image"]) for each in containers if each.get("image"))
        self.key = _short(json.dumps(self._template, sort_keys=True)) if self.images else ""

    @property
    def _containers(self) -> list[Raw]:
        spec = self._template.get("spec") or {}
        return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]

    def there(self, node: KubeNode) -> bool:
        """Whether the node lists all images. It lists fifty, so one that does not may have them all the same."""
        return self.images.issubset(node.images)

    def name(self, node: str) -> str:
        """Of the pod for a node: the same whoever makes it."""
        return f"rd-warm-{self.key}-{_short(node)}"

    def pod(self, node: str) -> dict[str, Any]:
        assert self._cluster is not None
        cluster, template = self._cluster, copy.deepcopy(dict(self._template))
        spec = template["spec"]
        affinity = spec.get("affinity") or {}
        for dropped in _DROPPED:
            spec.pop(dropped, None)
        for kind in ("initContainers", "containers"):
            if spec.get(kind):
                spec[kind] = [_ends_at_once(each) for each in spec[kind]]
        spec |= {
            "affinity": {"nodeAffinity": bound_to(affinity, node)["nodeAffinity"]},
            "restartPolicy": "Never",
            "activeDeadlineSeconds": MOST_SECONDS,
            "terminationGracePeriodSeconds": 0,
        }
        if spec.get("schedulerName") == KAI_SCHEDULER:  # of which it is in no PodGroup
            del spec["schedulerName"]
        owner = {"apiVersion": RAY_API, "kind": "RayCluster", "name": cluster.name, "uid": cluster.uid}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name(node),
                "namespace": cluster.namespace,
                "labels": {CLUSTER_LABEL: label_value(cluster.name), WARM_LABEL: self.key},
                "annotations": dict((template.get("metadata") or {}).get("annotations") or {}),
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": False}],
            },
            "spec": spec,
        }


def _ends_at_once(container: Raw) -> dict[str, Any]:
    kept = {key: copy.deepcopy(container[key]) for key in _CONTAINER if key in container}
    return {**kept, "command": ["true"], "resources": copy.deepcopy(_AMOUNTS)}


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
