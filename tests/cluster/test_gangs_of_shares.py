"""Gangs with shares of GPUs on KubeRay, end to end: what is planned, allocated, set by the driver and seen by each rank
is the same, Ray packs nothing itself, and nobody else gets what a gang leaves of its GPUs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from ray_dra.simulated.machine import Machine
from ray_dra.translate.names import ATTEMPT_LABEL
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, claimed, told
from tests.cluster.nodes import NodeSpec
from tests.cluster.world import WAIT, Namespace, request

NODE = "shares"

SHARES = """
LOOK = ("CUDA_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")
@ray.remote(num_gpus=1, num_cpus=0)
def share():
    return {"seen": [device.uuid for device in ray_dra.get_devices()], "ids": ray.get_gpu_ids(),
            "pipe": os.path.isdir(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "none")),
            "env": {name: os.environ.get(name) for name in LOOK}}
def look(bundles, sharing):
    with ray_dra.placement_group([{"GPU": each} for each in bundles], sharing=sharing, product="NVIDIA B200") as gang:
        gang.wait(200)
        found = []
        for first in range(0, len(bundles), 4):
            at = [Strategy(gang.placement_group, bundle) for bundle in range(first, min(first + 4, len(bundles)))]
            found += ray.get([share.options(scheduling_strategy=each).remote() for each in at], timeout=100)
        free = ray.available_resources().get("GPU", 0)
        tell(gang=gang.id, planned=[grant.uuid for grant in gang.allocation.grants], found=found, free=free)
        hold()
"""


@pytest.fixture
def machine(cluster: Cluster) -> Iterator[Machine]:
    """Of a node whose driver lets claims say how GPUs are shared; nothing is set there afterwards."""
    if NODE not in cluster.nodes:
        cluster.add_node(NodeSpec(NODE, profile="hgx-b200", gates="MPSSupport,TimeSlicingSettings"))
    made = Machine(cluster.nodes[NODE].machine)
    yield made
    cluster.wait(lambda: {made.gpu_sharing(at) for at in range(8)} == {("Default", False)}, 30, "GPUs to be set back")


def test_sixteen_quarters_of_four_gpus(cluster: Cluster, head: Head, machine: Machine, namespace: Namespace) -> None:
    process = head.start(SHARES + 'look([0.25] * 16, ray_dra.mps(memory="20Gi", threads=25))')
    told_of = told(process)
    planned, ranks = told_of["planned"], told_of["found"]
    assert sorted(Counter(planned).values()) == [4] * 4
    limits = {
        "CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=20480M",
    }
    for uuid, rank in zip(planned, ranks, strict=True):
        assert rank == {
            "seen": [uuid],
            "ids": [uuid],
            "pipe": True,
            "env": {"CUDA_VISIBLE_DEVICES": uuid, **limits},
        }
    assert told_of["free"] == 0, "Ray's other tasks get nothing of the gang's raylet"
    assert list(claimed(head, told_of["gang"]).values()) == [sorted(set(planned))]
    (daemon,) = cluster.nodes[NODE].folder.rglob("control.json")
    settings = json.loads(daemon.read_text())
    assert settings["devices"] == sorted(set(planned))
    assert (settings["threads"], settings["memory"]) == (25, dict.fromkeys(sorted(set(planned)), "20480M"))
    assert sorted(machine.gpu_sharing(at) for at in range(8)) == [("Default", False)] * 4 + [("Default", True)] * 4
    _strangers_get_none_of(set(planned), namespace, cluster)
    head.let_go()
    process.wait(60)
    head.wait_nothing_left()


def _strangers_get_none_of(gpus: set[str], namespace: Namespace, cluster: Cluster) -> None:
    """Claims that name the gang's GPUs wait, while as many others as there are get theirs."""
    named = f'device.attributes["gpu.nvidia.com"].uuid in {json.dumps(sorted(gpus))}'
    for at in range(4):
        namespace.claim(f"named-{at}", request(cel=(named,)))
        namespace.pod(f"named-{at}", f"named-{at}", node=NODE, command=WAIT)
        namespace.claim(f"any-{at}", request())
        namespace.pod(f"any-{at}", f"any-{at}", node=NODE, command=WAIT)

    def allocated() -> set[str]:
        claims = namespace.api.items("ResourceClaim", namespace.name)
        return {c["metadata"]["name"] for c in claims if (c.get("status") or {}).get("allocation")}

    cluster.wait(lambda: allocated() >= {f"any-{at}" for at in range(4)}, 30, "what is free to be given")
    time.sleep(1)
    assert allocated() == {f"any-{at}" for at in range(4)}


def test_ray_does_not_pack_shares_that_its_best_fit_cannot(cluster: Cluster, head: Head, machine: Machine) -> None:
    """0.4, 0.4, 0.6, 0.6: best fit puts the first two on one GPU, and has no room for the last."""
    process = head.start(SHARES + 'look([0.4, 0.4, 0.6, 0.6], ray_dra.time_slicing("Short"))')
    told_of = told(process)
    planned = told_of["planned"]
    assert [rank["env"]["CUDA_VISIBLE_DEVICES"] for rank in told_of["found"]] == planned
    assert {planned[0], planned[1]} == {planned[2], planned[3]}
    assert planned[0] != planned[1]
    assert sorted(machine.gpu_sharing(at) for at in range(8)).count(("Short", False)) == 2
    claims = head.api.items("ResourceClaim", head.namespace.name, labels=ATTEMPT_LABEL)
    (config,) = (config["opaque"]["parameters"]["sharing"] for c in claims for config in c["spec"]["devices"]["config"])
    assert config == {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Short"}}
    head.let_go()
    process.wait(60)
    head.wait_nothing_left()


POOLED = """
@ray.remote(num_gpus=1, num_cpus=0)
def seen():
    import pynvml
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return {"pod": os.uname().nodename, "nvml": sorted(pynvml.nvmlDeviceGetUUID(h) for h in handles),
            "env": os.environ.get("CUDA_VISIBLE_DEVICES"), "seen": [device.uuid for device in ray_dra.get_devices()]}
def of(gang):
    at = [Strategy(gang.placement_group, bundle) for bundle in range(gang.bundle_count)]
    return ray.get([seen.options(scheduling_strategy=each).remote() for each in at], timeout=100)
pool = ray_dra.pool("notebooks", gpus=2, sharing=ray_dra.time_slicing("Short"), product="NVIDIA B200")
pool.wait(200)
gangs = [ray_dra.placement_group([{"GPU": 0.5}] * 2, pool="notebooks"),
         ray_dra.placement_group([{"GPU": 0.25}], pool="notebooks")]
for gang in gangs:
    gang.wait(200)
waits = ray_dra.placement_group([{"GPU": 0.5}], pool="notebooks")
tell(pool=pool.id, gangs=[gang.id for gang in gangs],
     planned=[[grant.uuid for grant in gang.allocation.grants] for gang in (pool, *gangs)],
     found=[of(gang) for gang in (pool, *gangs)])
gangs[0].remove()
try:
    waits.wait(60)
except ray_dra.GangTimeout as late:
    raise RuntimeError(f"{late}: {pool.explain()}; {[gang.explain() for gang in gangs[1:]]}") from late
tell(later=of(waits), still=of(pool))
hold()
"""


def test_gangs_and_tasks_share_the_gpus_of_a_pool(cluster: Cluster, head: Head, machine: Machine) -> None:
    """By one claim: the pool's worker's, which the others' pods name. A gang that waits has what another leaves."""
    process = head.start(POOLED)
    told_of = told(process)
    gpus = sorted(told_of["planned"][0])
    assert len(set(gpus)) == 2
    for planned, ranks in zip(told_of["planned"], told_of["found"], strict=True):
        for uuid, rank in zip(planned, ranks, strict=True):
            assert (rank["env"], rank["seen"]) == (uuid, [uuid])
            assert rank["nvml"] == gpus, "its container has all GPUs of the pool's claim"
    pods = [{rank["pod"] for rank in ranks} for ranks in told_of["found"]]
    assert len(set.union(*pods)) == 3, "a worker for each gang"
    claims = head.api.items("ResourceClaim", head.namespace.name, labels=ATTEMPT_LABEL)
    (claim,) = claims
    assert {user["name"] for user in claim["status"]["reservedFor"]} >= set.union(*pods)
    assert sorted(machine.gpu_sharing(at) for at in range(8)).count(("Short", False)) == 2
    told_later = told(process)
    (later,) = told_later["later"]
    assert [rank["nvml"] for rank in told_later["still"]] == [gpus, gpus]
    assert later["seen"] == [later["env"]]
    assert later["env"] in gpus
    head.let_go()
    process.wait(60)
    head.wait_nothing_left()
