"""The DaemonSet that publishes which GPUs are linked, on a box where only NVML can tell."""

from __future__ import annotations

from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head
from tests.cluster.nodes import NodeSpec

ASK = """
try:
    gang = ray_dra.placement_group([{"GPU": 4}], product="Tesla V100-SXM2-32GB",
                                   locality=ray_dra.linked_devices(), wait=False)
    gang.wait(200)
    tell(at=[grant.index for grant in gang.allocation.grants], planned=planned(gang), ranks=ranks(gang, 1))
except ray_dra.UnsatisfiableError as error:
    tell(refused=str(error))
"""


def test_linked_gpus_of_a_hybrid_mesh_are_known_before_a_worker_runs(cluster: Cluster, head: Head) -> None:
    """Eight V100 in a hybrid cube mesh: quads 0-3 and 4-7 are linked, every two of them. The agent looks at all GPUs by
    an administrator's access, which takes none of them."""
    at, node = head.namespace.name, "dgx"
    cluster.add_node(NodeSpec(node, profile="dgx-v100"))
    try:
        (before,) = head.run(ASK)
        assert "linked devices" in before["refused"]
        cluster.kubectl("label", "node", node, "nvidia.com/gpu.present=true")
        cluster.kubectl("label", "namespace", at, "resource.kubernetes.io/admin-access=true")
        cluster.kubectl("apply", "-n", at, "-k", str(PROJECT / "kube" / "topology-agent"))
        cluster.wait(lambda: bool(head.api.find("ConfigMap", f"ray-dra-topology-{node}", at)), 60, "the topology")
        (after,) = head.run(ASK)
        assert after["at"] in ([0, 1, 2, 3], [4, 5, 6, 7])
        assert [rank["seen"] for rank in after["ranks"]] == after["planned"]
        head.wait_nothing_left()
        cluster.kubectl("delete", "-n", at, "-k", str(PROJECT / "kube" / "topology-agent"))
        cluster.wait(lambda: not head.api.find("ConfigMap", f"ray-dra-topology-{node}", at), 60, "it to be gone")
        cluster.wait(lambda: not head.api.items("Pod", at, labels="app=ray-dra-topology"), 60, "its pods to be gone")
    finally:
        cluster.kubectl("label", "namespace", at, "resource.kubernetes.io/admin-access-")
        cluster.remove_node(node)
