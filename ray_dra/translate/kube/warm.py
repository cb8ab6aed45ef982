"""Pods that do nothing but have a node pull the images of gangs' workers, before a gang waits for them. Pure.

Neighbours: `idle_pod.py` says what such a pod has of a worker's; `coordinator.backends.kubernetes.warm` makes and
deletes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import KubeNode, RayCluster
from ray_dra.translate.kube.idle_pod import idle_pod
from ray_dra.translate.kube.images import full_name
from ray_dra.translate.kube.raycluster import worker_template
from ray_dra.translate.kube.shapes import Raw
from ray_dra.translate.kube.workers import bound_to
from ray_dra.translate.names import WARM_ANNOTATION

MOST_SECONDS = 1_800  # for a pull; then the kubelet ends the pod, also where no coordinator is left


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
        made = idle_pod(self._cluster, self._template, self.key, _short(node))
        bound = bound_to(self._template["spec"].get("affinity") or {}, node)
        made["spec"] |= {"affinity": {"nodeAffinity": bound["nodeAffinity"]}, "activeDeadlineSeconds": MOST_SECONDS}
        return made


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
