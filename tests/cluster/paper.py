"""Paper nodes: what the scheduler and the operator need to see of a node, and nothing that runs.

Their pods are bound and never start; delete them with a grace period of 0. Thousands fit on a laptop. Where they are to
live longer than the control plane's grace, `python -m tests.cluster.paper KUBECONFIG` keeps their leases.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

from ray_dra.adapters.kube_answers import Object
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import KubernetesError
from ray_dra.simulated.dra.devices import domain_pool, gpu_pool, node_labels, slices
from ray_dra.simulated.profile import SimulatedNode, simulated_nodes

PAPER_LABEL = "ray-dra.io/paper"
WRITERS = 8
READY_SECONDS = 120.0
RENEW_SECONDS = 5.0  # a quarter of the grace that clusters have by default


def paper_node(node: SimulatedNode, *, cpus: int = 64, memory: str = "512Gi", pods: int = 110) -> Object:
    """A Node that is Ready."""
    size = {"cpu": str(cpus), "memory": memory, "pods": str(pods)}
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "Paper", "lastHeartbeatTime": now, "lastTransitionTime": now}
    labels = {**node_labels(node), PAPER_LABEL: "true", "kubernetes.io/hostname": node.name}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "status": {"capacity": size, "allocatable": size, "conditions": [ready]},
    }


def add_paper_nodes(api: KubernetesApi, count: int, profile: str = "gb200-nvl72") -> list[SimulatedNode]:
    """So many nodes of a profile, full racks first, each with the slices that its driver would publish."""
    nodes = simulated_nodes(profile, nodes=count)
    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(lambda node: _add(api, node), nodes))
    deadline = time.monotonic() + READY_SECONDS
    while any(n["spec"].get("taints") for n in api.items("Node", labels=PAPER_LABEL)):
        # A new node is tainted until the controller manager has seen that it is ready.
        if time.monotonic() > deadline:
            raise TimeoutError("the paper nodes are still tainted")
        time.sleep(0.2)
    return nodes


def _add(api: KubernetesApi, node: SimulatedNode) -> None:
    made = api.create(paper_node(node))
    owner = {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": made["metadata"]["uid"]}
    for each in paper_slices(node, owner):
        api.create(each)


def paper_slices(node: SimulatedNode, owner: Object) -> Iterator[Object]:
    for pool in (gpu_pool(node, {}), domain_pool(node)):
        yield from slices(pool, node.name, 1, owner)


def renew(api: KubernetesApi, names: Sequence[str]) -> None:
    """Tell the node lifecycle controller that they live, as kubelets do by their leases."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def one(name: str) -> None:
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now},
        }
        api.apply(lease, owner="paper")

    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(one, names))


def main() -> None:
    """Keep the leases of all paper nodes until this process ends."""
    api = KubernetesApi(sys.argv[1])
    while True:
        try:
            renew(api, [node["metadata"]["name"] for node in api.items("Node", labels=PAPER_LABEL)])
        except KubernetesError as error:
            print(error, flush=True)  # the next round tries again
        time.sleep(RENEW_SECONDS)


if __name__ == "__main__":
    main()
