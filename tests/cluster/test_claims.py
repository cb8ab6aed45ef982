"""Claims on real nodes: what a container sees, what stays Pending, what fails in Prepare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.dra.driver import spec_of
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import SimulatedNode, load_profile
from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster
from tests.cluster.nodes import NodeSpec
from tests.cluster.world import Namespace, opaque, prepared, prepared_twice, published_uuids, request

EXAMPLE = PROJECT / "examples" / "simulated-gpus"

WHO = """
import json, os, ray
ray.init(address="auto", log_to_driver=False)
@ray.remote(num_gpus=4, num_cpus=0)
class Worker:
    def who(self):
        import pynvml
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return os.uname().nodename, [pynvml.nvmlDeviceGetUUID(gpu) for gpu in gpus]
workers = [Worker.remote() for _ in range(4)]
print("SEEN", json.dumps(dict(ray.get([w.who.remote() for w in workers], timeout=100))))
"""


def test_a_raycluster_with_claims_runs_and_each_worker_sees_its_own_gpus(
    cluster: Cluster, namespace: Namespace
) -> None:
    cluster.kubectl("apply", "-n", namespace.name, "-k", str(EXAMPLE))

    def ready() -> bool:
        found = namespace.api.get("RayCluster", "plain", namespace.name)
        return bool(found.get("status", {}).get("state") == "ready")

    cluster.wait(ready, 180, "the RayCluster to be ready")
    pods = namespace.api.items("Pod", namespace.name)
    head = next(p["metadata"]["name"] for p in pods if p["metadata"]["labels"]["ray.io/node-type"] == "head")
    printed = cluster.kubectl("exec", "-n", namespace.name, head, "-c", "ray-head", "--", "python3", "-c", WHO)
    seen = json.loads(printed.split("SEEN ")[1])
    claims = {
        pod["metadata"]["name"]: pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"]
        for pod in pods
        if pod["metadata"]["labels"]["ray.io/node-type"] == "worker"
    }
    assert len(seen) == 4
    assert {pod: set(uuids) for pod, uuids in seen.items()} == {p: namespace.uuids(c) for p, c in claims.items()}
    assert all(len(uuids) == 4 for uuids in seen.values())
    # Deletion returns the devices: no claim is left, and no node keeps one readied. Ray itself would take longer, as it
    # waits for what runs there, or for a head that is gone already.
    cluster.kubectl("delete", "-n", namespace.name, "-k", str(EXAMPLE), "--wait=false")
    cluster.kubectl("delete", "-n", namespace.name, "pods", "--all", "--grace-period=2", "--wait=false")
    cluster.wait(lambda: not namespace.api.items("ResourceClaim", namespace.name), 60, "the claims to go")
    cluster.wait(lambda: not any(prepared(cluster, node) for node in cluster.nodes), 30, "the devices to come back")


def test_a_container_sees_exactly_its_claims_devices(cluster: Cluster, namespace: Namespace) -> None:
    known = published_uuids(namespace.api)
    chosen = [known["r0-t0", f"gpu-{i}"] for i in (1, 3)]
    cel = f"device.attributes['gpu.nvidia.com'].uuid in {json.dumps(chosen)}"
    namespace.claim("two", request(count=2, cel=[cel]))
    namespace.claim("one", request(count=1))
    namespace.pod("first", "two")
    namespace.pod("second", "one", node="r0-t0")
    first, second = namespace.seen("first"), namespace.seen("second")
    assert set(first["gpus"]) == set(chosen) == namespace.uuids("two")
    assert set(second["gpus"]) == namespace.uuids("one")
    assert not set(first["gpus"]) & set(second["gpus"])
    assert first["env"] == {"NVIDIA_VISIBLE_DEVICES": "void"}
    # Two claims in one container: the union.
    namespace.claim("third", request(count=1))
    namespace.claim("fourth", request(count=1))
    namespace.pod("both", "third", "fourth", node="r1-t1")
    assert set(namespace.seen("both")["gpus"]) == namespace.uuids("third") | namespace.uuids("fourth")
    assert not prepared_twice(cluster)


def test_more_than_is_free_stays_pending_with_the_schedulers_reason(cluster: Cluster, namespace: Namespace) -> None:
    namespace.claim("nine", request(count=9))
    namespace.pod("big", "nine")

    def said() -> bool:
        return any("cannot allocate all claims" in event for event in namespace.events("big"))

    cluster.wait(said, 30, "the scheduler's reason")
    assert namespace.phase("big") == "Pending"
    condition = namespace.api.get("Pod", "big", namespace.name)["status"]["conditions"][0]
    assert (condition["type"], condition["status"], condition["reason"]) == ("PodScheduled", "False", "Unschedulable")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "GpuConfig", "sharing": {"strategy": "TimeSlicing", "timeSliceConfig": {}}}, "unknown field"),
        ({"kind": "GpuConfig", "sharing": {"strategy": "MPS"}}, "feature gate MPSSupport is not enabled"),
        ({"kind": "NoSuchConfig"}, 'no kind "NoSuchConfig" is registered'),
    ],
    ids=["unknown field", "gate off", "unknown kind"],
)
def test_a_malformed_config_fails_in_prepare_with_the_drivers_message(
    cluster: Cluster, namespace: Namespace, parameters: dict[str, object], message: str
) -> None:
    namespace.claim("wrong", request(), config=[opaque(parameters)])
    namespace.pod("wrong", "wrong")

    def said() -> bool:
        return any(e.startswith("FailedPrepareDynamicResources") and message in e for e in namespace.events("wrong"))

    cluster.wait(said, 30, "the driver's message in the pod's events")
    assert namespace.phase("wrong") == "Pending"


def test_kubectl_works_as_a_person_uses_it(cluster: Cluster, namespace: Namespace, tmp_path: Path) -> None:
    namespace.claim("one", request())
    namespace.pod("worker", "one")
    namespace.seen("worker")
    at = ("-n", namespace.name)
    assert "v1.37.2" in cluster.kubectl("version")
    assert "Running" in cluster.kubectl("get", "pods", *at)
    assert "allocated,reserved" in cluster.kubectl("get", "resourceclaims", *at)
    assert '"gpus"' in cluster.kubectl("logs", *at, "worker")
    assert cluster.kubectl("exec", *at, "worker", "--", "hostname").strip() == "worker"
    assert "Scheduled" in cluster.kubectl("describe", "pod", *at, "worker")
    (tmp_path / "hello").write_text("hello")
    cluster.kubectl("cp", *at, str(tmp_path / "hello"), "worker:/tmp/hello")
    assert cluster.kubectl("exec", *at, "worker", "--", "cat", "/tmp/hello") == "hello"


def test_dynamic_partitions_are_made_shown_and_removed(cluster: Cluster, namespace: Namespace) -> None:
    node = "mig"
    if node not in cluster.nodes:
        cluster.add_node(NodeSpec(node, profile="hgx-h100", gates="DynamicMIG"))
    machine = Machine(cluster.nodes[node].machine)
    profile = "device.attributes['gpu.nvidia.com'].profile == '{}'".format
    same_gpu = {"constraints": [{"requests": ["small", "half"], "matchAttribute": "gpu.nvidia.com/parentUUID"}]}
    small = request("mig.nvidia.com", 2, "small", [profile("1g.10gb")])
    half = request("mig.nvidia.com", 1, "half", [profile("3g.40gb")])
    thing = namespace.claim("parts", small, half)
    assert thing["spec"]["devices"]["requests"][1]["name"] == "half"
    namespace.delete("ResourceClaim", "parts")
    namespace.api.create(
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": "together"},
            "spec": {"devices": {"requests": [small, half], **same_gpu}},
        },
        namespace.name,
    )
    namespace.pod("parts", "together", node=node)
    seen = namespace.seen("parts")
    made = machine.mig_state().parts
    assert len(seen["gpus"]) == 1
    assert sorted(seen["migs"]) == sorted(part.uuid for part in made)
    assert sorted(part.profile for part in made) == [9, 19, 19]
    # A whole GPU is still to be had, and is another one: the counters of the first are used in part.
    namespace.claim("whole", request())
    namespace.pod("whole", "whole", node=node)
    assert set(namespace.seen("whole")["gpus"]).isdisjoint(seen["gpus"])
    namespace.delete("Pod", "parts")
    cluster.wait(lambda: not machine.mig_state().parts, 30, "the partitions to be removed")


def test_a_broken_gpu_is_tainted_and_nothing_is_put_on_it(cluster: Cluster, namespace: Namespace) -> None:
    node = "health"
    if node not in cluster.nodes:
        cluster.add_node(NodeSpec(node, profile="l40s-pcie", gates="NVMLDeviceHealthCheck"))
    machine = Machine(cluster.nodes[node].machine)
    for gpu in range(1, 8):
        machine.xid(gpu, 79)
    machine.xid(0, 31)  # the program's fault, not the GPU's

    def taints() -> dict[str, list[str]]:
        slices = namespace.api.items("ResourceSlice", fields=f"spec.nodeName={node}")
        devices = [d for s in slices if s["spec"]["driver"] == "gpu.nvidia.com" for d in s["spec"]["devices"]]
        return {d["name"]: [f"{t['key']}={t['value']}:{t['effect']}" for t in d.get("taints", ())] for d in devices}

    cluster.wait(lambda: sum(map(bool, taints().values())) == 8, 20, "eight taints")
    assert taints()["gpu-0"] == ["gpu.nvidia.com/xid=31:None"]
    assert taints()["gpu-5"] == ["gpu.nvidia.com/xid=79:NoSchedule"]
    namespace.claim("two", request(count=2))
    namespace.pod("two", "two", node=node)
    cluster.wait(lambda: any("cannot allocate" in e for e in namespace.events("two")), 20, "the scheduler's reason")
    machine.heal()
    assert len(namespace.seen("two")["gpus"]) == 2
    assert not any(taints().values())


def test_the_driver_runs_as_a_daemonset_too(cluster: Cluster, api: KubernetesApi, namespace: Namespace) -> None:
    node = "daemonset"
    labels = {"ray-dra.io/simulated-profile": "dgx-a100"}
    if node not in cluster.nodes:
        cluster.add_node(NodeSpec(node, driver=False, labels=labels))
    (driver,) = (t for t in cluster.built(PROJECT / "kube" / "simulated-gpus") if t["kind"] == "DaemonSet")
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(driver))
    try:
        cluster.wait(lambda: (node, "gpu-7") in published_uuids(api), 60, "the DaemonSet's driver to publish")
        namespace.claim("three", request(count=3))
        namespace.pod("three", "three", node=node)
        assert set(namespace.seen("three")["gpus"]) == namespace.uuids("three")
        namespace.delete("Pod", "three")
        namespace.delete("ResourceClaim", "three")
        cluster.wait(lambda: not prepared(cluster, node), 30, "the devices to come back")
    finally:
        cluster.kubectl("delete", "-f", "-", stdin=json.dumps(driver))


def test_the_kustomization_is_complete(cluster: Cluster) -> None:
    """What `kubectl apply -k` sends is what the API server accepts, and names every file of the folder."""
    folder = PROJECT / "kube" / "simulated-gpus"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in folder.iterdir()}
    printed = cluster.kubectl("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-k", str(folder))
    assert "daemonset.apps/simulated-gpus serverside-applied" in printed


@pytest.mark.parametrize(
    ("profile", "gates", "shares", "parted"),
    [
        ("hgx-h100", {"DynamicMIG"}, "", False),
        ("gb200-nvl72", {"DynamicMIG"}, "", False),
        ("hgx-b200", {"DynamicMIG", "ConsumableShares"}, "memory", False),
        ("dgx-a100", {"DynamicMIG"}, "", False),
        ("dgx-a100", {"DynamicMIG"}, "", True),
        ("hgx-h100", {"ConsumableShares", "FabricManagerPartitioning"}, "4", True),
        ("l40s-pcie", {"DynamicMIG", "ConsumableShares"}, "unlimited", False),
        ("hgx-h100", {"PassthroughSupport"}, "", False),
        ("hgx-h100", {"NVMLDeviceHealthCheck"}, "", True),
    ],
)
def test_what_is_published_is_what_the_api_server_keeps(
    api: KubernetesApi, tmp_path: Path, profile: str, gates: set[str], shares: str, parted: bool
) -> None:
    """Quantities, policies, counters and an empty slice in its own form: else the driver wrote them at every look."""
    machine = Machine.create(tmp_path / "m", SimulatedNode(name="nowhere", profile=load_profile(profile)))
    if parted:
        machine.mig(0, "1g.10gb", "3g.40gb")
    faults = {"xids": [[1, 1, 31], [2, 2, 79]]}
    pool = gpu_pool(machine.node, faults, frozenset(gates), machine.mig_state(), consumable_shares=shares)
    for each in slices(pool, "nowhere", 1):
        assert spec_of(api.create(each, dry_run=True)) == each["spec"]
