"""Which device each GPU slot of a worker means: those planned for its bundle, or one that no gang has.

Neighbours: `foreign_work.py` remembers what was given to whom; `coordinator.py` plans a gang again whose device
was taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ray_dra.coordinator.backends.base import Backend
from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.coordinator.foreign_work import ForeignWork
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.translate.files.shared_records import map_to_bytes


class Seen(NamedTuple):
    """A device as a worker sees it; `index` is its place in the raylet's numbering."""

    index: int  # type: ignore[assignment]  # tuple.index is never called on it
    uuid: str | None
    node: str
    clique: str | None


class SlotMap:
    """See the module."""

    def __init__(self, inventory: Inventory, nodes: Nodes, others: ForeignWork, backend: Backend) -> None:
        self._inventory, self._nodes, self._others, self._backend = inventory, nodes, others, backend

    def by_bundle(self, allocation: Allocation) -> list[list[Seen]]:
        """Each bundle's devices as its raylet numbers them."""
        numbers = self._backend.numbers(allocation)
        return [
            [
                Seen(numbers[g.node][g.position] if g.node in numbers else g.position, g.uuid, g.node, g.clique)
                for g in placed.grants
            ]
            for placed in allocation.bundles
        ]

    def map_of(self, allocation: Allocation) -> bytes:
        """What the worker hook reads: each bundle's GPUs in order, as (position, uuid, node, clique)."""
        return map_to_bytes([[(*device,) for device in bundle] for bundle in self.by_bundle(allocation)])

    def of_bundle(
        self, allocation: Allocation, raylet: str, group: str, bundle: int, slots: tuple[int, ...]
    ) -> list[Seen]:
        """For a worker in a gang's bundle."""
        return self._of_planned(self.by_bundle(allocation)[bundle], raylet, group, bundle, slots)

    def of_unclaimed(self, raylet: str, group: str, bundle: int, slots: tuple[int, ...]) -> list[Seen]:
        """For a worker of a gang whose record cannot be read; its map can."""
        bundles = self._others.unclaimed[group]
        devices = [Seen(*device) for device in bundles[bundle]] if 0 <= bundle < len(bundles) else []
        return self._of_planned(devices, raylet, group, bundle, slots)

    def _of_planned(
        self, devices: list[Seen], raylet: str, group: str, bundle: int, slots: tuple[int, ...]
    ) -> list[Seen]:
        planned = {device.index: device for device in devices}
        positions = self._others.of_bundle(raylet, f"{group}/{bundle}", slots, tuple(planned))
        return [planned[position] for position in positions]

    def of_foreign(self, raylet: str, slots: tuple[int, ...], pid: int, movable: Callable[[str], int]) -> list[Seen]:
        """For any other worker. `movable`: node -> devices that may be taken where no others are left."""
        state = self._inventory.node_states.get(self._nodes.names.get(raylet, ""))
        if state is None:  # no agent has spoken for this node: Ray's own numbering is all there is
            return [Seen(slot, None, "", None) for slot in slots]
        positions = self._others.of_foreign(raylet, state, slots, pid, movable(state.name))
        return [Seen(p, state.grants[p].uuid, state.name, state.grants[p].clique) for p in positions]
