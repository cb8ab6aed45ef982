"""Which machines Kubernetes has: nodes with published GPUs into the inventory, and what of them is taken.

The counterpart of `nodes.py`, which does the same for raylets. Neighbour: `provision.py` looks and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ray_dra.core.inventory import Inventory
from ray_dra.core.topology import Node
from ray_dra.ports import Clock, KubeView, Object
from ray_dra.translate.labels import DRIVER
from ray_dra.translate.slices import node_from_slices
from ray_dra.translate.workers import RAYLET_CPUS, RAYLET_MEMORY

AVOID_SECONDS = 60.0  # how long nodes on which an attempt failed are left out

Tolerations = tuple[tuple[tuple[str, Any], ...], ...]


class Machines:
    """Kubernetes' nodes in `inventory`; those that changed are written again, and no others."""

    def __init__(self, inventory: Inventory, clock: Clock) -> None:
        self._inventory, self._clock = inventory, clock
        self.names: set[str] = set()
        self._avoided: dict[str, tuple[float, str]] = {}  # node -> until when, and why
        self._translated: dict[str, Any] = {}  # node -> what it was made from
        self._taken: dict[str, int] = {}

    def avoid(self, nodes: Iterable[str], why: str) -> None:
        """Leave nodes out for a while."""
        until = self._clock() + AVOID_SECONDS
        self._avoided |= dict.fromkeys(nodes, (until, f"left out for a while: {why}"))

    @property
    def avoided(self) -> Mapping[str, str]:
        """Nodes that are left out now, and why."""
        now = self._clock()
        self._avoided = {node: (until, why) for node, (until, why) in self._avoided.items() if until > now}
        return {node: why for node, (_, why) in self._avoided.items()}

    def put(self, view: KubeView, tolerations: Tolerations) -> None:
        """The nodes that publish GPUs; `tolerations` are those of the pods to be placed."""
        by_node: dict[str, list[Object]] = {}
        for each in view.slices:
            if each["spec"]["driver"] == DRIVER and "nodeName" in each["spec"]:
                by_node.setdefault(each["spec"]["nodeName"], []).append(each)
        avoided = self.avoided
        seen = by_node.keys() & view.nodes.keys()
        for name in seen:
            node = view.nodes[name]
            versions = tuple(s["metadata"]["resourceVersion"] for s in by_node[name])
            made_from = (node, versions, avoided.get(name), tolerations)
            if self._translated.get(name) == made_from:
                continue
            self._translated[name] = made_from
            self._taken.pop(name, None)
            made = node_from_slices(node, by_node[name], [dict(t) for t in tolerations])
            self._inventory.put_node(_for_bundles(made, avoided.get(name)))
        for gone in self.names - seen:
            self._inventory.drop_node(gone)
            self._translated.pop(gone, None)
            self._taken.pop(gone, None)
        self.names = set(seen)

    def mark_taken(self, claims: Iterable[Object], wanted: Callable[[Object], bool]) -> None:
        """Devices in allocated claims are taken, but for claims of gangs that are `wanted`: the inventory has those."""
        taken: dict[str, int] = {}
        for claim in claims:
            if wanted(claim):
                continue
            allocation = (claim.get("status") or {}).get("allocation") or {}
            for result in (allocation.get("devices") or {}).get("results") or ():
                seat = self._inventory.seats.get(result["pool"])
                if result["driver"] != DRIVER or seat is None:
                    continue
                for position, device in enumerate(seat.node.devices):
                    if device.id.device == result["device"]:
                        taken[seat.name] = taken.get(seat.name, 0) | 1 << position
        for name in self.names:
            if self._taken.get(name) != taken.get(name, 0):
                self._taken[name] = taken.get(name, 0)
                self._inventory.set_others(name, self._taken[name], {})


def _for_bundles(node: Node, avoided: str | None) -> Node:
    """What bundles can have of a node, its raylet's own part aside."""
    resources = {
        "CPU": max(0.0, node.resources.get("CPU", 0.0) - RAYLET_CPUS),
        "memory": max(0.0, node.resources.get("memory", 0.0) - RAYLET_MEMORY),
    }
    made = replace(node, resources=resources)
    return replace(made, ready=False, reason=avoided) if avoided and made.ready else made
