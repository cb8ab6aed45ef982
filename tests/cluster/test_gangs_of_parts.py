"""A gang of parts of GPUs on KubeRay, end to end: what is planned, allocated, made by the driver, shown by NVML and
seen by each rank are the same parts."""

from __future__ import annotations

from collections import Counter

from ray_dra.simulated.machine import Machine
from ray_dra.translate.names import ATTEMPT_LABEL
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, told
from tests.cluster.nodes import NodeSpec

PARTS = """
import os
@ray.remote(num_gpus=1, num_cpus=0)
class Rank:
    def look(self):
        import pynvml
        pynvml.nvmlInit()
        visible = os.environ["CUDA_VISIBLE_DEVICES"]
        handle = pynvml.nvmlDeviceGetHandleByUUID(visible)
        parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        return {"visible": visible, "gpu": pynvml.nvmlDeviceGetUUID(parent),
                "slices": pynvml.nvmlDeviceGetAttributes(handle).gpuInstanceSliceCount,
                "seen": [device.uuid for device in ray_dra.get_devices()], "ids": ray.get_gpu_ids()}
with ray_dra.placement_group([{"GPU": 1}] * 9, part=ray_dra.mig("1g.10gb")) as gang:
    gang.wait(200)
    at = [Strategy(gang.placement_group, bundle) for bundle in range(9)]
    ranks = [Rank.options(scheduling_strategy=each).remote() for each in at]
    tell(planned=[grant.part.parent for grant in gang.allocation.grants],
         ranks=ray.get([rank.look.remote() for rank in ranks], timeout=100))
    hold()
"""


def test_each_rank_has_its_part(cluster: Cluster, head: Head) -> None:
    node = "mig"
    if node not in cluster.nodes:
        cluster.add_node(NodeSpec(node, profile="hgx-h100", gates="DynamicMIG"))
    machine = Machine(cluster.nodes[node].machine)
    process = head.start(PARTS)
    found = told(process)
    made = {part.uuid: part for part in machine.mig_state().parts}
    assert len(made) == 9
    assert Counter(found["planned"]) == Counter({gpu: n for gpu, n in Counter(found["planned"]).items() if n in (2, 7)})
    claims = head.api.items("ResourceClaim", head.namespace.name, labels=ATTEMPT_LABEL)
    assert sorted(len(claim["status"]["allocation"]["devices"]["results"]) for claim in claims) == [2, 7]
    for gpu, rank in zip(found["planned"], found["ranks"], strict=True):
        assert rank["gpu"] == gpu
        assert rank["slices"] == 1
        assert [rank["visible"]] == rank["seen"] == rank["ids"]
    assert {rank["visible"] for rank in found["ranks"]} == made.keys()
    head.let_go()
    process.wait(60)
    head.wait_nothing_left()
    cluster.wait(lambda: not machine.mig_state().parts, 30, "the parts to be destroyed")
