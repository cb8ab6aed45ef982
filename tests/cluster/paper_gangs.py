"""Gangs on paper nodes: the coordinator's own code over its real adapter and a real control plane; Ray is a fake."""

from __future__ import annotations

import time
from typing import Any

from ray_dra.adapters.kube_watch import KubeAdapter
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.locality import Locality
from ray_dra.simulated.fakes import FakeRay, MemoryStore
from ray_dra.translate.names import CLUSTER_LABEL
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.cluster.cluster import Cluster


class Gangs:
    """The coordinator of a RayCluster on paper: its own code over its real adapter, Ray alone is a fake."""

    def __init__(self, cluster: Cluster, namespace: str, raycluster: str, account: KubernetesApi | None = None) -> None:
        """`account`: as whom it asks the API server; None: the administrator."""
        self.cluster, self.api, self.namespace, self.raycluster = cluster, cluster.api, namespace, raycluster
        self.kube = KubeAdapter(account or cluster.api, namespace, raycluster, holder="the test")
        self.kube.compute_domains = False  # the channels would need kubelets
        self.ray = FakeRay()
        self.ray.jobs.add("job")
        self.store = MemoryStore()
        self.cluster.wait(lambda: not self.kube.lead(), 30, "the lease")
        self.coordinator = Coordinator(self.store, self.ray, time.monotonic, self.kube)

    def submit(self, workers: int, priority: int = 0) -> str:
        bundles = [{"GPU": 4.0, "CPU": 2.0}] * workers
        request = request_from_bundles(bundles, locality=Locality(cliques=1), priority=priority)
        return self.coordinator.submit(Order(request, owner="job")).gang

    def pods(self) -> list[dict[str, Any]]:
        return self.api.items("Pod", self.namespace, labels=f"{CLUSTER_LABEL}={self.raycluster}")

    def bound(self) -> int:
        self.turn()
        return sum(bool(pod["spec"].get("nodeName")) for pod in self.pods())

    def turn(self) -> None:
        """The coordinator looks; pods that are to end do, as no kubelet does it for them."""
        self.coordinator.observe()
        for pod in self.api.items("Pod", self.namespace):
            if pod["metadata"].get("deletionTimestamp"):
                self.api.delete("Pod", pod["metadata"]["name"], self.namespace, grace=0)

    def until(self, condition: Any, seconds: float = 30) -> float:
        began = time.monotonic()

        def holds() -> bool:
            self.turn()
            return bool(condition())

        self.cluster.wait(holds, seconds, f"{condition}: {self.coordinator.statuses()}")
        return time.monotonic() - began

    def nothing_left(self) -> bool:
        claims = self.api.items("ResourceClaim", self.namespace, labels=f"{CLUSTER_LABEL}={self.raycluster}")
        return not self.pods() and not claims and not self.coordinator.gangs

    def phase(self, gang: str) -> Phase:
        return self.coordinator.status(gang).phase

    def close(self) -> None:
        self.kube.close()


def raycluster(
    name: str, namespace: str, queue: str = "", group_labels: dict[str, str] | None = None
) -> dict[str, Any]:
    small = {"requests": {"cpu": "1", "memory": "1Gi"}}
    worker = {"containers": [{"name": "ray-worker", "image": "none", "resources": small}]}
    head = {"containers": [{"name": "ray-head", "image": "none", "resources": small}], "serviceAccountName": "ray-dra"}
    group = {"groupName": "ray-dra", "replicas": 0, "minReplicas": 0, "maxReplicas": 0, "rayStartParams": {}}
    if group_labels:
        group["labels"] = group_labels
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": {"rayStartParams": {}, "template": {"spec": head}},
            "workerGroupSpecs": [{**group, "template": {"metadata": {"labels": {"team": "a"}}, "spec": worker}}],
        },
    }
