"""Nodes as Kubernetes publishes them, a RayCluster, and gangs on them."""

from __future__ import annotations

from typing import Any

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import IMEX_LIMITS, NO_LIMITS
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from ray_dra.ports.kube_objects import KubeNode, ResourceSlice
from ray_dra.simulated.dra.devices import gpu_pool, node_labels, slices
from ray_dra.simulated.profile import SimulatedNode, simulated_nodes
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.kube.slices import node_from_slices, read_slice
from ray_dra.translate.ray.bundles import request_from_bundles


def node(simulated: SimulatedNode, **more: Any) -> Node:
    """A node as Kubernetes publishes it, by the simulated driver."""
    made = KubeNode(simulated.name, labels=node_labels(simulated), cpus=64, memory=512 << 30, **more)
    return node_from_slices(made, read(slices(gpu_pool(simulated, {}), simulated.name, 1)))


def read(published: list[dict[str, Any]]) -> list[ResourceSlice]:
    return [read_slice({**each, "metadata": {**each["metadata"], "resourceVersion": "1"}}) for each in published]


def cluster(**spec: Any) -> dict[str, Any]:
    container = {"name": "ray-worker", "image": "mine:1", "resources": {"limits": {"cpu": "1", "memory": "2Gi"}}}
    template = {"spec": {"containers": [container], "tolerations": [{"key": "gpu", "operator": "Exists"}]}}
    group = {"groupName": "ray-dra", "replicas": 0, "minReplicas": 0, "maxReplicas": 9, "template": template}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "c", "namespace": "team", "uid": "u-1", "resourceVersion": "1"},
        "spec": {"workerGroupSpecs": [group], **spec},
    }


CLUSTER = read_raycluster(cluster())


def gang(bundles: list[dict[str, float]], **more: Any) -> GangRequest:
    request = request_from_bundles(bundles, **more)
    return GangRequest(**{**{f: getattr(request, f) for f in request.__dataclass_fields__}, "gang": "g"})


def allocate(nodes: list[Node], request: GangRequest, *, compute_domains: bool = True) -> Allocation:
    answer = plan(Inventory(nodes, limits=IMEX_LIMITS if compute_domains else NO_LIMITS), request)
    assert isinstance(answer, Allocation), answer
    return answer


RACKS = [node(each) for each in simulated_nodes("gb200-nvl72", nodes=6, cliques=2)]

BOXES = [node(each) for each in simulated_nodes("hgx-h100", nodes=2)]
