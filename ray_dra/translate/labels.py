"""Ray node labels: the one place that names them."""

from __future__ import annotations

from ray_dra.core.topology import Node, label_value

DRIVER = "gpu.nvidia.com"  # NVIDIA's DRA driver of GPUs
GPU_DOMAIN = "ray.io/gpu-domain"  # Ray's; its value is the clique
ACCELERATOR_TYPE = "ray.io/accelerator-type"  # Ray's
RAY_NODE_ID = "ray.io/node-id"  # Ray's, and new for every raylet
NODE = "ray-dra.io/node"  # ours: the node's name, which a restarted raylet keeps
SLOT = "ray-dra.io/slot"  # ours, on Kubernetes: one attempt of a gang on one node
TOPOLOGY = "ray-dra.io/topology"  # ours, of ConfigMaps with a node's links
PROBLEMS = "ray-dra.io/problems"  # ours, an annotation of the lease: what its holder cannot see as it should
TRAY = "ray-dra.io/tray"  # ours: the tray in the rack


def node_labels(node: Node, *, accelerator_type: str | None = None) -> dict[str, str]:
    """The labels of the raylet on this node; `accelerator_type` as Ray spells it."""
    labels = {NODE: label_value(node.name)}
    if node.clique is not None:
        labels[GPU_DOMAIN] = label_value(node.clique)
    if node.order is not None:
        labels[TRAY] = str(node.order)
    if accelerator_type:
        labels[ACCELERATOR_TYPE] = label_value(accelerator_type)
    return labels
