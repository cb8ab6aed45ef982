"""What holds of the port `Kube`: asked of the fake, and of the adapter on a real control plane with KubeRay."""

from __future__ import annotations

import copy
import os
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from ray_dra.adapters.kube_watch import KubeAdapter
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.plan import plan
from ray_dra.errors import NotLeading
from ray_dra.ports.kube_objects import Pod, RayCluster, RayService, ResourceSlice
from ray_dra.ports.kubernetes import Kube
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.simulated.profile import SimulatedNode, simulated_nodes
from ray_dra.translate.kube.attempts import Attempt, attempt_of
from ray_dra.translate.kube.claims import claim_of
from ray_dra.translate.kube.gang_scheduling import grouped_probe
from ray_dra.translate.kube.pods import gate_opened
from ray_dra.translate.kube.slices import node_from_slices, read_node, read_slice
from ray_dra.translate.kube.slots import Slot
from ray_dra.translate.names import PROBLEMS_ANNOTATION
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import gpu
from tests.cluster.binaries import Say
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import Options
from tests.cluster.paper import add_paper_nodes, paper_node

MACHINES = simulated_nodes("gb200-nvl72", nodes=2)
NAMESPACE, NAME = "contract", "gangs"
LABELS = {"ray.io/originated-from-crd": "RayService", "ray.io/originated-from-cr-name": "serve"}
QUIET: Say = lambda text: None  # noqa: E731


def raycluster() -> dict[str, Any]:
    small = {"requests": {"cpu": "1", "memory": "1Gi"}}
    worker = {"containers": [{"name": "ray-worker", "image": "none", "resources": small}]}
    head = {"containers": [{"name": "ray-head", "image": "none"}], "nodeSelector": {"no": "where"}}
    group = {"groupName": "ray-dra", "replicas": 0, "minReplicas": 0, "maxReplicas": 0, "rayStartParams": {}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "uid": "u-1", "labels": LABELS},
        "spec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": {"rayStartParams": {}, "template": {"spec": head}},
            "workerGroupSpecs": [{**group, "template": {"metadata": {"labels": {"team": "a"}}, "spec": worker}}],
        },
    }


def read(machine: SimulatedNode) -> list[ResourceSlice]:
    published = slices(gpu_pool(machine, {}), machine.name, 1)
    return [read_slice({**each, "metadata": {**each["metadata"], "resourceVersion": "1"}}) for each in published]


class Side:
    """The port, and what makes time pass behind it."""

    def __init__(
        self, kube: Kube, turn: Callable[[], None], told: Callable[[], set[str]], serve: Callable[[str, str], None]
    ) -> None:
        """`serve`: the RayService that made the RayCluster says which one is active, and which is pending."""
        self.kube, self.turn, self.told, self.serve = kube, turn, told, serve

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "it did not come about"
            self.turn()

    def attempt(self, gang: str) -> Attempt:
        nodes = [node_from_slices(read_node(paper_node(m)), read(m)) for m in MACHINES]
        asked = gpu(
            memory=">=80G", compute_capability=">=10.0", driver_version=[">=580", "<1000"], product="NVIDIA GB200"
        )
        request = request_from_bundles([{"GPU": 4}] * 2, locality=Locality(cliques=1), devices=asked)
        answer = plan(Inventory(nodes), request)
        assert isinstance(answer, Allocation)
        named = Allocation(gang, answer.bundles, answer.epoch, answer.priority, answer.counters)
        return attempt_of(named, self.cluster(), compute_domains=False, asked=request.bundles)

    def cluster(self) -> RayCluster:
        found = self.kube.view().raycluster
        assert found is not None
        return found


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Cluster]:
    made = Cluster.up(f"contract-{os.getpid()}", nodes=(), real=False, options=Options(grace=600), say=QUIET)
    add_paper_nodes(made.api, 2)
    made.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    made.wait(lambda: made.api.find("ServiceAccount", "default", NAMESPACE) is not None, 30, "the account")
    made.api.create(copy.deepcopy(raycluster()), NAMESPACE)
    yield made
    made.down()


@pytest.fixture(params=["fake", "real"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    if request.param == "fake":
        nodes = [(read_node(paper_node(m)), slices(gpu_pool(m, {}), m.name, 1)) for m in MACHINES]
        fake = FakeKube(raycluster(), nodes)
        yield Side(
            fake,
            fake.step,
            lambda: {reason for reason, _ in fake.told},
            lambda active, pending: fake.say_rayservice(active=active, pending=pending, delay=7),
        )
        return
    cluster: Cluster = request.getfixturevalue("control_plane")
    adapter = KubeAdapter(cluster.api, NAMESPACE, NAME, holder="the test")

    def turn() -> None:
        time.sleep(0.05)
        for pod in cluster.api.items("Pod", NAMESPACE):  # paper nodes have no kubelet to end them
            if pod["metadata"].get("deletionTimestamp"):
                cluster.api.delete("Pod", pod["metadata"]["name"], NAMESPACE, grace=0)

    def told() -> set[str]:
        return {e["reason"] for e in cluster.api.items("Event", NAMESPACE) if e["source"].get("component") == "ray-dra"}

    def serve(active: str, pending: str) -> None:
        found = cluster.api.find("RayService", "serve", NAMESPACE)
        if found is None:
            spec: dict[str, Any] = {
                "managedBy": "kueue.x-k8s.io/multikueue",
                "rayClusterDeletionDelaySeconds": 7,
            }  # the operator's not
            spec["rayClusterConfig"] = raycluster()["spec"]
            meta = {"name": "serve", "namespace": NAMESPACE}
            found = {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": meta, "spec": spec}
            cluster.api.create(found, NAMESPACE)
        named = {"activeServiceStatus": active, "pendingServiceStatus": pending}
        status = {"status": {which: {"rayClusterName": name} for which, name in named.items()}}
        cluster.api.patch("RayService", "serve", status, NAMESPACE, subresource="status")

    yield Side(adapter, turn, told, serve)
    adapter.close()


def test_the_view_has_the_nodes_and_what_they_publish(side: Side) -> None:
    side.until(lambda: side.kube.view().raycluster is not None)
    view = side.kube.view()
    assert view.nodes.keys() == {machine.name for machine in MACHINES}
    assert all(node.ready and not node.device_plugin and node.cpus == 64 for node in view.nodes.values())
    published = {s.node: len(s.devices) for s in view.slices}
    assert published == {machine.name: 4 for machine in MACHINES}
    assert side.kube.problems() == ()


def test_whoever_has_the_lease_leads_and_events_are_told(side: Side) -> None:
    assert side.kube.lead() == ""
    side.kube.tell("GangReady", "a gang is ready")
    side.kube.tell("GangFailed", "\u00e9" * 5000, warning=True)
    side.until(lambda: side.told() == {"GangReady", "GangFailed"})


def test_what_the_rayservice_says_of_its_rayclusters_is_seen(side: Side) -> None:
    for active, pending in ((NAME, ""), (NAME, "next"), ("next", "")):
        side.serve(active, pending)
        seen = RayService("serve", active=active, pending=pending, delay=7)
        side.until(partial(lambda seen: side.kube.view().rayservice == seen, seen))
    assert side.cluster().service == "serve"
    assert not side.kube.view().raycluster_gone
    assert side.kube.problems() == ()


def test_objects_may_be_made_and_deleted_twice(side: Side) -> None:
    attempt = side.attempt("g-objects")
    slot = next(iter(attempt.slots.values()))

    def there() -> bool:
        return slot.name in {pod.name for pod in side.kube.view().pods}

    made: list[str] = []
    side.kube.together([lambda: made.append(side.kube.create(attempt.pod(slot)))] * 2)
    side.until(there)
    (pod,) = (pod for pod in side.kube.view().pods if pod.name == slot.name)
    assert sorted(made) == ["", pod.uid]
    before = side.kube.view().version
    side.kube.delete("Pod", slot.name)
    side.kube.delete("Pod", slot.name)
    side.until(lambda: not there())
    assert side.kube.view().version > before


def test_a_gangs_pods_come_gated_get_what_was_planned_and_go(side: Side) -> None:
    attempt = side.attempt("g-flow")
    slots = {slot.name: slot for slot in attempt.slots.values()}

    def make(slot: Slot) -> None:
        pod = side.kube.create(attempt.pod(slot))
        for claim in attempt.claims(slot, pod).values():
            side.kube.create(claim)

    side.kube.together([partial(make, slot) for slot in slots.values()])

    def pods() -> list[Pod]:
        return [pod for pod in side.kube.view().pods if pod.name in slots and not pod.deleting]

    side.until(lambda: len(pods()) == 2)
    for _ in range(3):
        side.turn()
    assert all(pod.gated and pod.node is None for pod in pods())
    # Others see, before anything is let in, what these pods are for.
    side.until(lambda: len(side.kube.view().claims) == 2)
    uids = {pod.name: pod.uid for pod in pods()}
    for claim in side.kube.view().claims:
        assert (claim.named, claim.count) == (slots[claim.name].uuids, 4)
        assert claim.pod == uids[claim.name]
        assert claim_of(claim) == (NAMESPACE, NAME, attempt.name)
        assert not claim.allocated
        assert all(claim.age)
    for pod in pods():
        side.kube.patch("Pod", pod.name, gate_opened(pod))
    side.until(lambda: all(pod.node for pod in pods()))
    assert {pod.name: pod.node for pod in pods()} == {name: slot.node for name, slot in slots.items()}
    gpus = {(machine.name, f"gpu-{gpu}") for machine in MACHINES for gpu in range(4)}
    # Claims are watched apart from pods, and may be seen later.
    side.until(lambda: {device for claim in side.kube.view().claims for device in claim.devices} == gpus)
    assert all(claim.allocated for claim in side.kube.view().claims)
    # One of the two is made anew in its slot, as soon as its name is free, with a claim of its own.
    first, other = pods()
    side.kube.delete("Pod", first.name)
    side.until(lambda: first.name not in {thing.name for thing in (*side.kube.view().pods, *side.kube.view().claims)})
    make(slots[first.name])
    side.until(lambda: len(pods()) == len(side.kube.view().claims) == 2)
    (anew,) = (pod for pod in pods() if pod.uid != other.uid)
    assert (anew.name, anew.gated) == (first.name, True)
    side.kube.patch("Pod", anew.name, gate_opened(anew))
    side.until(lambda: all(pod.node == slots[pod.name].node for pod in pods()))
    # Deleted together: a claim stays until its pod has ended.
    side.kube.together([partial(side.kube.delete, kind, name) for name in slots for kind in ("Pod", "ResourceClaim")])
    side.until(lambda: not side.kube.view().pods and not side.kube.view().claims)


def test_without_its_gate_gang_scheduling_of_kubernetes_own_is_not_there(side: Side) -> None:
    """With it: test_gang_scheduling.py."""
    side.until(lambda: side.kube.view().raycluster is not None)
    assert side.kube.gang_scheduling(grouped_probe(side.cluster())) == ""
    assert side.kube.view().gang_pod_groups == ()


def test_a_claim_whose_owner_is_made_up_does_not_stay(control_plane: Cluster) -> None:
    """Why `neighbours.py` may believe claims that a Pod owns: the garbage collector looks for the Pod."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "nobody", "uid": str(uuid.uuid4()), "controller": True}
    exactly = {"deviceClassName": "gpu.nvidia.com", "count": 1}
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "made-up", "ownerReferences": [owner]},
        "spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}},
    }
    control_plane.api.create(claim, "default")
    control_plane.wait(lambda: control_plane.api.find("ResourceClaim", "made-up", "default") is None, 60, "its end")


def test_without_the_lease_no_write_is_made(control_plane: Cluster) -> None:
    """Another coordinator has it; what the holder cannot see stands on it, for `ray-dra check`."""
    first = KubeAdapter(control_plane.api, NAMESPACE, NAME, holder="the test")
    second = KubeAdapter(control_plane.api, NAMESPACE, NAME, holder="another")
    try:
        assert first.lead() == ""
        assert "another coordinator (the test) has the lease" in second.lead()
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late", "namespace": NAMESPACE}}
        with pytest.raises(NotLeading, match="another coordinator"):
            second.create(made)
        with pytest.raises(NotLeading, match="another coordinator"):
            second.patch("RayCluster", NAME, {})
        with pytest.raises(NotLeading, match="another coordinator"):
            second.delete("ConfigMap", "late")
        assert control_plane.api.find("ConfigMap", "late", NAMESPACE) is None
        lease = control_plane.api.get("Lease", f"ray-dra-{NAME}", NAMESPACE)
        assert lease["metadata"]["annotations"] == {PROBLEMS_ANNOTATION: ""}
    finally:
        first.close()
        second.close()
