"""The cluster that a waiting gang may hope for: each node of the last minutes, at its best, with nobody on it.

Silence, a drain or a fault takes a node out of planning at once, and most come back. "Never" is final for the program
that asks, so it is judged on these. Neighbours: `gangs/planning.py` asks; the backends write the inventory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.device import Health
from ray_dra.core.model.node import Node

REMEMBER_SECONDS = 600.0  # how long a node that is gone still counts for what could ever be placed


@dataclass(slots=True)
class _Known:
    """`node`: the last form seen; `healthy`: devices of the form that counts; `at`: when a form was last that good."""

    node: Node
    healthy: int
    at: float
    good: bool = True


class KnownNodes:
    """See the module. `cluster` has the nodes, all ready and all free. `unread`: some nodes that are there have not
    been read yet, so no gang can be told "never"."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self.unread = False
        self.cluster = Inventory(limits=inventory.limits, level_labels=inventory.level_labels)
        self._nodes: dict[str, _Known] = {}

    def best(self, name: str) -> Node | None:
        """A node as it was when it was last whole."""
        state = self.cluster.node_states.get(name)
        return state.node if state is not None else None

    def remember(self, nodes: Iterable[Node], now: float) -> None:
        """Nodes as they were before this coordinator; before its first look."""
        for node in nodes:
            self._adopt(node, now)

    def look(self, now: float) -> bool:
        """Take over what the inventory has; True where that changes what the cluster could have."""
        changed = False
        for name in self._inventory.node_states:
            changed |= self.see(name, now)
        for name in self._nodes.keys() - self._inventory.node_states.keys():
            if now - self._nodes[name].at >= REMEMBER_SECONDS:
                del self._nodes[name]
                self.cluster.drop_node(name)
                changed = True
        return changed

    def see(self, name: str, now: float) -> bool:
        """The same for one node of the inventory."""
        node, known = self._inventory.node_states[name].node, self._nodes.get(name)
        if known is not None:
            if known.node is not node:
                known.node, known.good = node, _healthy(node) >= known.healthy
            elif known.good:
                known.at = now
                return False
            if not known.good and now - known.at < REMEMBER_SECONDS:
                return False
        self._adopt(node, now)
        return True

    def _adopt(self, node: Node, now: float) -> None:
        self._nodes[node.name] = _Known(node, _healthy(node), now)
        self.cluster.put_node(node if node.ready else replace(node, ready=True, reason=""))


def _healthy(node: Node) -> int:
    """Devices that are well, and GPUs that are given out in parts alone: an administrator has made them so."""
    parted = sum(gpu.position is None and gpu.health is Health.OK for gpu in node.parted)
    return parted + sum(device.health is Health.OK for device in node.devices)
