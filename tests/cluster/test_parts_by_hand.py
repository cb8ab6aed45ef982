"""All parts of a node on real kubelets and KubeRay: a gang's 56 bundles, and the same claims in a worker group that a
person adds, whose raylet offers its parts by the start hook alone. Each task sees a part of its own; times are told.
By hand: it takes minutes."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ray_dra.simulated.machine import Machine
from ray_dra.translate.vendors import NVIDIA
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import missing_for_nodes
from tests.cluster.head import Head, install, told
from tests.cluster.nodes import NodeSpec
from tests.cluster.world import Namespace

pytestmark = [pytest.mark.by_hand, pytest.mark.timeout(1800)]
NODE, GPUS, EACH = "mig", 8, 7
ROUNDS = int(os.environ.get("RAY_DRA_ROUNDS", "2"))

LOOK = """
@ray.remote(num_gpus=1, num_cpus=0)
def look():
    import pynvml
    pynvml.nvmlInit()
    visible = os.environ["CUDA_VISIBLE_DEVICES"]
    handle = pynvml.nvmlDeviceGetHandleByUUID(visible)
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    return {"visible": visible, "gpu": pynvml.nvmlDeviceGetUUID(parent), "ids": ray.get_gpu_ids(),
            "seen": [device.uuid for device in ray_dra.get_devices()]}
def looks(group):
    "A few at a time, in the same few processes; each bundle keeps its part."
    found = []
    for first in range(0, 56, 4):
        at = [Strategy(group, bundle) for bundle in range(first, first + 4)]
        found += ray.get([look.options(scheduling_strategy=each).remote() for each in at], timeout=100)
    return found
"""
GANG = (
    LOOK
    + """
began = time.time()
with ray_dra.placement_group([{"GPU": 1}] * 56, part=ray_dra.mig("1g.10gb")) as gang:
    gang.wait(300)
    took = time.time() - began
    tell(took=took, planned=[grant.part.parent for grant in gang.allocation.grants], looks=looks(gang.placement_group))
"""
)
BY_HAND = (
    LOOK
    + """
from ray.util.placement_group import placement_group, remove_placement_group
tell(begin=True)
def offered():
    return [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("GPU")]
while not offered():
    time.sleep(0.05)
group = placement_group([{"GPU": 1, "MIG-1g.10gb": 1}] * 56)
ray.get(group.ready(), timeout=100)
there = time.time()
(node,) = offered()
tell(there=there, resources=node["Resources"], labels=node["Labels"], looks=looks(group))
remove_placement_group(group)
"""
)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    if missing_for_nodes():
        pytest.skip(missing_for_nodes())
    cluster = Cluster.up(f"parts-{os.getpid()}", nodes=(NodeSpec(NODE, profile="hgx-h100", gates="DynamicMIG"),))
    try:
        yield install(Namespace(cluster, "parts"))
    finally:
        cluster.down(keep_logs="RAY_DRA_KEEP_LOGS" in os.environ)


def machine_of(head: Head) -> Machine:
    return Machine(head.cluster.nodes[NODE].machine)


def template(machine: Machine, gpu: int) -> dict[str, Any]:
    says = (("parentUUID", machine.node.uuid(gpu)), ("profile", "1g.10gb"))
    selectors = [{"cel": {"expression": f'device.attributes["{NVIDIA.driver}"].{k} == "{v}"'}} for k, v in says]
    exactly = {"deviceClassName": NVIDIA.part_class, "count": EACH, "selectors": selectors}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": f"parts-{gpu}"},
        "spec": {"spec": {"devices": {"requests": [{"name": "parts", "exactly": exactly}]}}},
    }


def group_of_parts(head: Head) -> dict[str, Any]:
    """A worker group as a person would add it: one worker, a claim for each GPU, the start hook, no count of GPUs."""
    group = head.group_by_hand("theirs", "", workers=1)
    spec = group["template"]["spec"]
    names = [f"parts-{gpu}" for gpu in range(GPUS)]
    spec["resourceClaims"] = [{"name": name, "resourceClaimTemplateName": name} for name in names]
    (container,) = spec["containers"]
    container["resources"]["claims"] = [{"name": name} for name in names]
    container.setdefault("env", []).append({"name": "RAY_START_HOOK", "value": "ray_dra.hooks.start"})
    return {**group, "rayStartParams": {}}


def check_looks(machine: Machine, looks: list[dict[str, Any]]) -> None:
    made = {part.uuid: machine.node.uuid(part.gpu) for part in machine.mig_state().parts}
    assert len(made) == len(looks) == GPUS * EACH
    assert {look["visible"]: look["gpu"] for look in looks} == made, "each has a part of its own, and all are had"
    assert all([look["visible"]] == look["seen"] == look["ids"] for look in looks)


def gang(head: Head) -> float:
    machine = machine_of(head)
    process = head.start(GANG)
    found = told(process)
    check_looks(machine, found["looks"])
    assert [look["gpu"] for look in found["looks"]] == found["planned"]
    process.wait(60)
    head.wait_nothing_left()
    head.cluster.wait(lambda: not machine.mig_state().parts, 60, "the parts to be destroyed")
    return float(found["took"])


def by_hand(head: Head) -> float:
    machine, at, path = machine_of(head), head.namespace.name, "/spec/workerGroupSpecs"
    process = head.start(BY_HAND)
    assert told(process)["begin"]
    began = time.time()
    head.api.patch("RayCluster", "gangs", [{"op": "add", "path": f"{path}/-", "value": group_of_parts(head)}], at)
    found = told(process)
    assert found["resources"]["GPU"] == found["resources"]["MIG-1g.10gb"] == GPUS * EACH
    assert "ray.io/gpu-domain" not in found["labels"]
    assert found["labels"]["ray.io/accelerator-type"] == "H100"
    process.wait(120)
    check_looks(machine, found["looks"])
    none = [{"op": "replace", "path": f"{path}/1/{name}", "value": 0} for name in ("minReplicas", "replicas")]
    head.api.patch("RayCluster", "gangs", none, at)
    theirs = "ray.io/group=theirs"
    head.cluster.wait(lambda: not head.api.items("Pod", at, labels=theirs), 60, "the user's workers to go")
    head.api.patch("RayCluster", "gangs", [{"op": "remove", "path": f"{path}/1"}], at)
    head.cluster.wait(lambda: not machine.mig_state().parts, 60, "the parts to be destroyed")
    return float(found["there"]) - began


def test_all_parts_of_a_node_for_a_gang_and_by_hand(head: Head) -> None:
    for gpu in range(GPUS):
        head.api.create(template(machine_of(head), gpu), head.namespace.name)
    took: dict[str, list[float]] = {"gang": [], "by hand": []}
    for _ in range(ROUNDS):
        took["gang"].append(gang(head))
        took["by hand"].append(by_hand(head))
    medians = {name: statistics.median(each) for name, each in took.items()}
    print({name: [round(each, 1) for each in found] for name, found in took.items()})
    print(f"gang / by hand: {medians['gang'] / medians['by hand']:.2f}")
