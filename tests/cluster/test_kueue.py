"""Beside the real Kueue: a RayCluster that it has admitted gets gangs, and Kueue notices nothing of them.

By hand: `python -m pytest tests/cluster/test_kueue.py -m by_hand`, with Kueue built. On paper nodes.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ray_dra.adapters.kube_watch import KubeAdapter
from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.core.gangs.lifecycle import Phase
from ray_dra.core.gangs.order import Order
from ray_dra.core.model.locality import Locality
from ray_dra.simulated.fakes import FakeRay, MemoryStore
from ray_dra.translate.names import ATTEMPT_LABEL, KUEUE_PREFIX
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.cluster import kueue
from tests.cluster.binaries import Say
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import Options
from tests.cluster.paper import add_paper_nodes

pytestmark = pytest.mark.by_hand
QUIET: Say = lambda text: None  # noqa: E731
NAMESPACE, NODES = "kueued", 8


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Cluster]:
    """Eight paper nodes of four GPUs, KubeRay and Kueue."""
    if kueue.missing():
        pytest.skip(kueue.missing())
    made = Cluster.up(f"kueue-{os.getpid()}", nodes=(), real=False, options=Options(grace=3600), say=QUIET)
    try:
        add_paper_nodes(made.api, NODES)
        made.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        made.wait(lambda: made.api.find("ServiceAccount", "default", NAMESPACE) is not None, 30, "the account")
        kueue.install(made)
        yield made
    finally:
        made.down(keep_logs="RAY_DRA_KEEP_LOGS" in os.environ)


class Gangs:
    """The coordinator of a RayCluster on paper: its own code over its real adapter, Ray alone is a fake."""

    def __init__(self, cluster: Cluster, raycluster: str) -> None:
        self.cluster, self.api, self.raycluster = cluster, cluster.api, raycluster
        self.kube = KubeAdapter(cluster.api, NAMESPACE, raycluster, holder="the test")
        self.kube.compute_domains = False  # the channels would need kubelets
        self.ray = FakeRay()
        self.ray.jobs.add("job")
        self.store = MemoryStore()
        self.cluster.wait(lambda: not self.kube.lead(), 30, "the lease")
        self.coordinator = Coordinator(self.store, self.ray, time.monotonic, self.kube)

    def submit(self, workers: int, **more: Any) -> str:
        bundles = [{"GPU": 4.0, "CPU": 2.0}] * workers
        request = request_from_bundles(bundles, locality=Locality(cliques=1), **more)
        return self.coordinator.submit(Order(request, owner="job")).gang

    def pods(self) -> list[dict[str, Any]]:
        return self.api.items("Pod", NAMESPACE, labels=ATTEMPT_LABEL)

    def bound(self) -> int:
        self.turn()
        return sum(bool(pod["spec"].get("nodeName")) for pod in self.pods())

    def turn(self) -> None:
        """The coordinator looks; pods that are to end do, as no kubelet does it for them."""
        self.coordinator.observe()
        for pod in self.api.items("Pod", NAMESPACE):
            if pod["metadata"].get("deletionTimestamp"):
                self.api.delete("Pod", pod["metadata"]["name"], NAMESPACE, grace=0)

    def until(self, condition: Any, seconds: float = 30) -> float:
        began = time.monotonic()

        def holds() -> bool:
            self.turn()
            return bool(condition())

        self.cluster.wait(holds, seconds, f"{condition}: {self.coordinator.statuses()}")
        return time.monotonic() - began

    def nothing_left(self) -> bool:
        claims = self.api.items("ResourceClaim", NAMESPACE, labels=ATTEMPT_LABEL)
        return not self.pods() and not claims and not self.coordinator.gangs

    def phase(self, gang: str) -> Phase:
        return self.coordinator.status(gang).phase

    def close(self) -> None:
        self.kube.close()


def raycluster(name: str, queue: str = "", group_labels: dict[str, str] | None = None) -> dict[str, Any]:
    small = {"requests": {"cpu": "1", "memory": "1Gi"}}
    worker = {"containers": [{"name": "ray-worker", "image": "none", "resources": small}]}
    head = {"containers": [{"name": "ray-head", "image": "none", "resources": small}]}
    group = {"groupName": "ray-dra", "replicas": 0, "minReplicas": 0, "maxReplicas": 0, "rayStartParams": {}}
    if group_labels:
        group["labels"] = group_labels
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": {"rayStartParams": {}, "template": {"spec": head}},
            "workerGroupSpecs": [{**group, "template": {"metadata": {"labels": {"team": "a"}}, "spec": worker}}],
        },
    }


def heads(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    return cluster.api.items("Pod", NAMESPACE, labels=f"ray.io/cluster={name},ray.io/node-type=head")


def test_a_queued_raycluster_keeps_its_admission_while_gangs_come_and_go(control_plane: Cluster) -> None:
    """Its Workload pays for head and groups as they are in the spec. A gang's pods are in no list of its own, have no
    finalizer of Kueue's and none of its names, not even where the group's own labels have them."""
    cluster, name = control_plane, "queued"
    kueue.queue(
        cluster,
        "team",
        {"racks": {"cpu": 40, "memory": "40Gi"}},
        namespaces=(NAMESPACE,),
        labels={"racks": {"ray-dra.io/paper": "true"}},
    )
    theirs = {"kueue.x-k8s.io/queue-name": "team", "kueue.x-k8s.io/pod-group-name": "mine", "mine": "yes"}
    made = raycluster(name, "team", theirs)
    metadata = made["spec"]["workerGroupSpecs"][0]["template"]["metadata"]
    metadata["labels"] |= {"kueue.x-k8s.io/queue-name": "team"}
    metadata["annotations"] = {"kueue.x-k8s.io/pod-group-total-count": "2"}
    cluster.api.create(made, NAMESPACE)

    def admitted() -> list[dict[str, Any]]:
        found = kueue.get(cluster, "workloads", NAMESPACE)
        return [w for w in found if kueue.conditions(w).get("Admitted", ("", ""))[0] == "True"]

    cluster.wait(lambda: len(admitted()) == 1 and bool(heads(cluster, name)), 60, "Kueue to admit it")
    written = cluster.api.get("RayCluster", name, NAMESPACE)["spec"]["workerGroupSpecs"][0]
    assert "kueue" in json.dumps(written["template"]), "Kueue writes into the template, which is why it is left out"
    before = [copy.deepcopy(w) for w in admitted()]
    head = heads(cluster, name)[0]["metadata"]["uid"]
    gangs = Gangs(cluster, name)
    try:
        for _ in range(2):
            gang = gangs.submit(2)
            gangs.until(lambda: gangs.bound() == 2)
            for pod in gangs.pods():
                assert KUEUE_PREFIX not in json.dumps({k: v for k, v in pod.items() if k != "status"}), pod
                assert pod["metadata"]["labels"]["mine"] == "yes"
                assert not pod["metadata"].get("finalizers")
            unchanged(cluster, name, before, head)
            gangs.coordinator.release(gang)
            gangs.until(gangs.nothing_left)
            unchanged(cluster, name, before, head)
        time.sleep(3)  # it was suspended within a second where a gang was a group in its spec
        unchanged(cluster, name, before, head)
    finally:
        gangs.close()
        cluster.api.delete("RayCluster", name, NAMESPACE)


def unchanged(cluster: Cluster, name: str, before: list[dict[str, Any]], head: str) -> None:
    found = kueue.get(cluster, "workloads", NAMESPACE)
    assert [w["metadata"]["uid"] for w in found] == [w["metadata"]["uid"] for w in before]
    for was, now in zip(before, found, strict=True):
        assert now["spec"] == was["spec"]
        assert now["status"]["admission"] == was["status"]["admission"]
        assert kueue.conditions(now) == kueue.conditions(was)
    assert not cluster.api.get("RayCluster", name, NAMESPACE)["spec"].get("suspend")
    assert [pod["metadata"]["uid"] for pod in heads(cluster, name)] == [head]
