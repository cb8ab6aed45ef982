"""Beside the real Kueue: a RayCluster that it has admitted gets gangs, and Kueue notices nothing of them; and gangs
that a queue of it pays for.

Where Kueue has been built: `python -m tests.cluster build --kueue`. On paper nodes.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from ray_dra.adapters.kube_watch import KubeAdapter
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.coordinator.backends.kubernetes.kueue import Kueue
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.quota import Quota
from ray_dra.errors import KubernetesError, UnsatisfiableError
from ray_dra.operate.check import QUEUE_RIGHTS, may_not
from ray_dra.ports.kubernetes import KubeView
from ray_dra.translate.kube.kueue import workload
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.names import GANG_LABEL, KUEUE_PREFIX, QUEUE_ANNOTATION
from tests.cluster import kueue
from tests.cluster.binaries import Say
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import Options
from tests.cluster.head import installation_in
from tests.cluster.paper import add_paper_nodes
from tests.cluster.paper_gangs import Gangs, raycluster
from tests.ports.quota_contract import CONTRACT, Quotas, Side, gang

pytestmark = pytest.mark.skipif(bool(kueue.missing()), reason=kueue.missing())
QUIET: Say = lambda text: None  # noqa: E731
NAMESPACE, NODES = "kueued", 8


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Cluster]:
    """Eight paper nodes of four GPUs, KubeRay and Kueue."""
    made = Cluster.up(f"kueue-{os.getpid()}", nodes=(), real=False, options=Options(grace=3600), say=QUIET)
    try:
        add_paper_nodes(made.api, NODES)
        made.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        made.wait(lambda: made.api.find("ServiceAccount", "default", NAMESPACE) is not None, 30, "the account")
        made.kubectl("apply", "-k", str(installation_in(made, NAMESPACE, "kueue")))
        kueue.install(made)
        yield made
    finally:
        made.down(keep_logs="RAY_DRA_KEEP_LOGS" in os.environ)


def annotated(name: str, queue: str, label: str = "") -> dict[str, Any]:
    """A RayCluster whose gangs are paid from a queue; itself queued where `label` names one."""
    made = raycluster(name, NAMESPACE, label)
    made["metadata"]["annotations"] = {QUEUE_ANNOTATION: f"kueue/{queue}"}
    return made


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
    made = raycluster(name, NAMESPACE, "team", theirs)
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
    gangs = Gangs(cluster, NAMESPACE, name)
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


PREEMPTS = {"withinClusterQueue": "LowerPriority", "reclaimWithinCohort": "Any"}
FULL: dict[str, int | str] = {"nvidia.com/gpu": 8, "cpu": 100, "memory": "1Ti"}


class RealSide:
    """The port over the real Kueue."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.kube = KubeAdapter(cluster.api, NAMESPACE, "contract", holder="the test")
        cluster.wait(lambda: not self.kube.lead(), 30, "the lease")
        self.view = KubeView()
        self.kueue = Kueue(self.kube, lambda: self.view, time.monotonic)
        self.kube.watch_queues()
        cluster.wait(lambda: self.kube.view().workloads is not None, 30, "Kueue's objects")
        self.turn()

    def queue(self, name: str, quotas: Quotas, labels: Mapping[str, Mapping[str, str]]) -> None:
        kueue.queue(self.cluster, name, quotas, namespaces=(NAMESPACE,), labels=labels, preemption=PREEMPTS)

    def turn(self) -> None:
        time.sleep(0.1)
        self.view = self.kube.view()

    def deactivate(self, request: str) -> None:
        change = json.dumps({"spec": {"active": False}})
        self.cluster.kubectl("patch", "workload", request, "-n", NAMESPACE, "--type=merge", "-p", change)

    def until(self, condition: Callable[[], bool]) -> None:
        def holds() -> bool:
            self.turn()
            return condition()

        self.cluster.wait(holds, 30, "Kueue's answer")


@pytest.fixture(scope="module")
def side(control_plane: Cluster) -> Iterator[RealSide]:
    control_plane.api.create(annotated("contract", "any"), NAMESPACE)
    made = RealSide(control_plane)
    yield made
    made.kube.close()
    control_plane.api.delete("RayCluster", "contract", NAMESPACE)


@pytest.mark.parametrize("rule", CONTRACT, ids=lambda rule: rule.__name__)
def test_the_real_one_keeps_the_contract(side: RealSide, rule: Callable[[Side], None]) -> None:
    rule(side)


def test_gangs_are_paid_in_their_racks_wait_over_quota_and_are_preempted_whole(control_plane: Cluster) -> None:
    """A RayCluster that Kueue does not queue itself."""
    cluster, name = control_plane, "paid"
    nodes = sorted(cluster.api.items("Node"), key=lambda node: str(node["metadata"]["name"]))
    rack = [node["metadata"]["name"] for node in nodes[4:]]
    for node in rack:
        cluster.kubectl("label", "node", node, "pool=paid")
    quotas = {"paid-racks": FULL}
    labels = {"paid-racks": {"pool": "paid"}}
    kueue.queue(cluster, "paid", quotas, namespaces=(NAMESPACE,), labels=labels, preemption=PREEMPTS)
    cluster.api.create(annotated(name, "paid"), NAMESPACE)
    cluster.wait(lambda: bool(heads(cluster, name)), 30, "its head")
    head = heads(cluster, name)[0]["metadata"]["uid"]
    gangs = Gangs(cluster, NAMESPACE, name)
    try:
        low = gangs.submit(2)
        assert gangs.phase(low) is Phase.QUOTA
        took = gangs.until(lambda: gangs.bound() == 2)
        print(f"asked, admitted, planned and bound in {took:.1f} s")
        assert {pod["spec"]["nodeName"] for pod in gangs.pods()} <= {*rack}
        second = gangs.submit(2)
        gangs.until(lambda: "8 more needed" in "".join(map(str, gangs.coordinator.status(second).waits_for)))
        gangs.coordinator.release(second)
        high = gangs.submit(1, priority=5)
        gangs.until(lambda: gangs.phase(low) is Phase.QUOTA)
        gangs.until(lambda: gangs.phase(high) is not Phase.QUOTA)
        assert not gangs.pods() or {p["metadata"]["labels"][GANG_LABEL] for p in gangs.pods()} == {high}
        gangs.until(lambda: gangs.bound() == 1)
        gangs.coordinator.release(high)
        gangs.until(lambda: gangs.bound() == 2, 60)
        assert [pod["metadata"]["uid"] for pod in heads(cluster, name)] == [head]
        # A coordinator that starts again finds what there is; one whose gangs are gone gives their requests up.
        gangs.kube.close()
        again = Gangs(cluster, NAMESPACE, name)
        again.until(lambda: again.nothing_left() and not kueue.of(cluster, NAMESPACE, name))
        again.close()
    finally:
        gangs.kube.close()
        cluster.api.delete("RayCluster", name, NAMESPACE)


def test_what_is_borrowed_is_reclaimed_and_a_gang_that_waits_for_ray_asks_again(control_plane: Cluster) -> None:
    cluster, name = control_plane, "borrower"
    for queue in ("lender", "borrower"):
        quotas = {"shared-racks": {**FULL, "nvidia.com/gpu": 4}}
        kueue.queue(cluster, queue, quotas, namespaces=(NAMESPACE,), cohortName="both", preemption=PREEMPTS)
    cluster.api.create(annotated(name, "borrower"), NAMESPACE)
    cluster.api.create(annotated("lender", "lender"), NAMESPACE)
    cluster.wait(lambda: bool(heads(cluster, name)), 30, "its head")
    gangs, lender = Gangs(cluster, NAMESPACE, name), Gangs(cluster, NAMESPACE, "lender")
    try:
        borrowed = gangs.submit(2)
        gangs.until(lambda: gangs.bound() == 2)
        theirs = lender.submit(1)

        def reclaimed() -> bool:
            lender.turn()
            return lender.phase(theirs) is not Phase.QUOTA and gangs.phase(borrowed) is Phase.QUOTA

        gangs.until(reclaimed)
        gangs.until(lambda: "more needed" in "".join(map(str, gangs.coordinator.status(borrowed).waits_for)))
        lender.coordinator.release(theirs)
        lender.until(lender.nothing_left)
        gangs.until(lambda: gangs.bound() == 2)
        (workload,) = kueue.of(cluster, NAMESPACE, name)
        change = json.dumps({"spec": {"active": False}})
        cluster.kubectl("patch", "workload", workload, "-n", NAMESPACE, "--type=merge", "-p", change)
        gangs.until(lambda: borrowed not in gangs.coordinator.gangs)
        with pytest.raises(UnsatisfiableError, match="Deactivated"):
            gangs.coordinator.status(borrowed)
    finally:
        gangs.close()
        lender.close()
        cluster.api.delete("RayCluster", name, NAMESPACE)
        cluster.api.delete("RayCluster", "lender", NAMESPACE)


def test_a_queued_raycluster_whose_gangs_are_paid_besides_is_left_alone_and_takes_its_requests_along(
    control_plane: Cluster,
) -> None:
    """Kueue deletes every Workload of a queued RayCluster but its own, by the owner's API version."""
    cluster, name = control_plane, "both"
    kueue.queue(cluster, "heads", {"heads": {"cpu": 40, "memory": "40Gi"}}, namespaces=(NAMESPACE,))
    kueue.queue(cluster, "gangs", {"gangs": FULL}, namespaces=(NAMESPACE,))
    cluster.api.create(annotated(name, "gangs", "heads"), NAMESPACE)
    cluster.wait(lambda: bool(heads(cluster, name)), 60, "Kueue to admit it")
    head = heads(cluster, name)[0]["metadata"]["uid"]
    gangs = Gangs(cluster, NAMESPACE, name)
    try:
        gangs.submit(2)
        gangs.until(lambda: gangs.bound() == 2)
        time.sleep(5)
        gangs.turn()
        assert gangs.bound() == 2
        assert [pod["metadata"]["uid"] for pod in heads(cluster, name)] == [head]
        assert kueue.of(cluster, NAMESPACE, name)
    finally:
        gangs.close()
        cluster.api.delete("RayCluster", name, NAMESPACE)
    cluster.wait(lambda: not kueue.of(cluster, NAMESPACE, name), 60, "its gangs' requests to go with it")


def test_the_account_makes_and_deletes_its_own_requests_and_no_others(control_plane: Cluster) -> None:
    """By the component kube/kueue, and by the admission policies of kube/base."""
    cluster, name = control_plane, "rights"
    cluster.api.create(annotated(name, "nobodys"), NAMESPACE)
    cluster.wait(lambda: bool(heads(cluster, name)), 30, "its head")
    (head,) = heads(cluster, name)
    read = read_raycluster(cluster.api.get("RayCluster", name, NAMESPACE))
    ours = KubernetesApi(str(cluster.account_kubeconfig("ray-dra", NAMESPACE, head["metadata"]["name"])))
    made = workload(gang("rights-gang", 1), Quota("kueue/nobodys"), read)
    theirs: dict[str, Any] = copy.deepcopy(made)
    theirs["metadata"] = {"name": "theirs", "namespace": NAMESPACE}
    try:
        assert [may_not(ours, right, NAMESPACE, name) for right in QUEUE_RIGHTS] == [[]] * len(QUEUE_RIGHTS)
        cluster.api.create(theirs, NAMESPACE)
        ours.create(made, NAMESPACE)
        attempts: tuple[Callable[[], object], ...] = (
            lambda: ours.create({**theirs, "metadata": {**theirs["metadata"], "name": "more"}}, NAMESPACE),
            lambda: ours.delete("Workload", "theirs", NAMESPACE),
        )
        for forbidden in attempts:
            with pytest.raises(KubernetesError, match=r"gangs' ComputeDomains, Workloads"):
                forbidden()
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": "theirs",
            "uid": "u",
        }  # which Kueue may take it to be of
        for owners in ([], [job], [*made["metadata"]["ownerReferences"], job]):
            another = copy.deepcopy(made)
            another["metadata"].update(name="another", ownerReferences=owners)
            with pytest.raises(KubernetesError, match="a gang's Workload or PodGroup is its RayCluster's"):
                ours.create(another, NAMESPACE)
        ours.delete("Workload", made["metadata"]["name"], NAMESPACE)
        assert cluster.api.find("Workload", made["metadata"]["name"], NAMESPACE) is None
    finally:
        ours.close()
        cluster.api.delete("Workload", "theirs", NAMESPACE)
        cluster.api.delete("RayCluster", name, NAMESPACE)
