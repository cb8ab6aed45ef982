"""A node's links as a ConfigMap, and back: what `processes.topology_daemon` writes and the coordinator reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ray_dra.core.model.node import Links, Node
from ray_dra.ports.kube_objects import NodeLinks
from ray_dra.ports.nvml import NodeReading
from ray_dra.translate.kube.shapes import Raw, text
from ray_dra.translate.names import TOPOLOGY_LABEL


def topology_map(node: str, namespace: str, reading: NodeReading, owner: Mapping[str, Any]) -> dict[str, Any] | None:
    """The ConfigMap for a reading; None for one that failed."""
    from ray_dra.translate.nvml.reading import node_from_reading

    if reading.error is not None:
        return None
    made = node_from_reading(node, reading)
    told = {"uuids": [d.uuid for d in made.devices], "links": made.links, "ancestors": made.ancestors}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"ray-dra-topology-{node}",
            "namespace": namespace,
            "labels": {TOPOLOGY_LABEL: "true"},
            "annotations": {TOPOLOGY_LABEL: node},
            "ownerReferences": [dict(owner)],
        },
        "data": {"topology": json.dumps(told)},
    }


def read_topology(thing: Raw) -> NodeLinks:
    """What an agent has published. Raises one of `shapes.UNREADABLE`."""
    told = json.loads(thing["data"]["topology"])
    links, ancestors = (tuple(tuple(int(n) for n in row) for row in told[key]) for key in ("links", "ancestors"))
    node, uuids = text(thing["metadata"]["annotations"][TOPOLOGY_LABEL]), tuple(told["uuids"])
    if not all(_square(matrix, len(uuids)) for matrix in (links, ancestors)) or len({*uuids}) != len(uuids):
        raise ValueError("its matrices have other sizes than its list of GPUs, or a GPU is named twice")
    return NodeLinks(node, uuids, links, ancestors)


def _square(matrix: Links, size: int) -> bool:
    return not matrix or (len(matrix) == size and all(len(row) == size for row in matrix))


def with_links(node: Node, published: NodeLinks | None) -> Node:
    """The node with the links that NVML shows, brought into the order of its devices; as it was where they differ."""
    from dataclasses import replace

    if published is None or not published.links:
        return node
    at = {uuid: place for place, uuid in enumerate(published.uuids)}
    if any(device.uuid not in at for device in node.devices):
        return node
    order = [at[device.uuid] for device in node.devices]

    def ordered(matrix: Links) -> Links:
        return tuple(tuple(matrix[i][j] for j in order) for i in order) if matrix else ()

    return replace(node, links=ordered(published.links), ancestors=ordered(published.ancestors))
