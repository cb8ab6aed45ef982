"""Brings the inventory to what there is: by a look at Ray and at the backend, and by what agents read.

Neighbours: `observer.py` keeps Ray's last view, `backends/raylets/nodes.py` and the backend write nodes,
`foreign_work.py` what work outside gangs has of them.
"""

from __future__ import annotations

from ray_dra.coordinator.backends.base import Backend
from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.coordinator.foreign_work import ForeignWork
from ray_dra.coordinator.observer import Observer
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.records import Records
from ray_dra.ports.clock import Clock
from ray_dra.ports.nvml import NodeReading


class InventorySync:
    """See the module."""

    def __init__(
        self,
        inventory: Inventory,
        known: KnownNodes,
        nodes: Nodes,
        backend: Backend,
        observer: Observer,
        foreign_work: ForeignWork,
        records: Records,
        clock: Clock,
    ) -> None:
        self._inventory, self._known, self._nodes, self._backend = inventory, known, nodes, backend
        self._observer, self._foreign, self._records, self._clock = observer, foreign_work, records, clock

    def look(self) -> None:
        """Everything, at the beginning of the coordinator's look."""
        view = self._observer.look()
        self._observer.look_at_actors(self._records)
        self._nodes.see(view)
        self._known.unread = bool(self._nodes.waiting)
        self._backend.look(self._records.wanted())
        self._observer.look_at_signs()
        placed = self._observer.placed_devices(self._records)
        self._foreign.look(view, self._nodes.names, placed, self._records.groups)

    def _look_at_others(self, raylet: str) -> None:
        placed = self._observer.placed_devices(self._records)
        self._foreign.look_at(raylet, self._observer.view, self._nodes.names, placed, self._records.groups)

    def hear(self, raylet: str, reading: NodeReading) -> bool:
        """An agent's reading of its node, or of the part of one that a gang's own worker has; True where it is news of
        a node."""
        node = self._observer.slot_on(raylet, self._records.wanted())
        if node is not None:
            self._nodes.heartbeat(raylet)
            self._backend.hear(node, reading)
            return False
        there = self._nodes.names.get(raylet, "") in self._inventory.node_states
        if not self._nodes.report(raylet, reading):
            return False
        self._known.unread = bool(self._nodes.waiting)
        name = self._nodes.names.get(raylet, "")
        if name in self._inventory.node_states:
            self._known.see(name, self._clock())
            if not there:  # what others have of it is planned around at once, not from the next look on
                self._look_at_others(raylet)
            self._foreign.keep_mapped(name)
        return True

    def end_of_look(self) -> None:
        """Forget nodes that are lost and that no gang is on; what is left is known of a while longer."""
        self._nodes.drop_unused({placed.node for _, held in self._records.holders() for placed in held.holdings})
        self._known.look(self._clock())
