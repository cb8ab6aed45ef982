"""How a node's devices are given out: whole (`whole.py`), in shares (`shares.py`), as partitions (`partitions.py`).

A `NodeState` has one strategy and asks it; nobody else looks whether a node has shares or counters.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_dra.core.cluster.device_choice import DeviceGraph
from ray_dra.core.cluster.sharing.partitions import Partitions
from ray_dra.core.cluster.sharing.shares import SharedDevices
from ray_dra.core.cluster.sharing.whole import NO_SHARES, WholeDevices, whole_devices
from ray_dra.core.model.node import Node


def sharing_of(node: Node, graph: DeviceGraph, shares: Mapping[int, int] = NO_SHARES) -> WholeDevices:
    """The strategy for a node of which these shares (position -> thousandths) are taken."""
    if node.counters:
        return Partitions(graph, shares, node)
    return SharedDevices(graph, shares) if shares else whole_devices(graph)
