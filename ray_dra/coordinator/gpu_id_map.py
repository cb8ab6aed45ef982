"""Which device each GPU id of a worker means: those planned for its bundle, or one that no gang has.

Neighbours: `foreign_work.py` remembers what was given to whom; the engine plans a gang again whose device was taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ray_dra.coordinator.backends.base import Backend
from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.coordinator.foreign_work import ForeignWork, checked_ids
from ray_dra.coordinator.observer import Observer
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.events import DevicesTaken
from ray_dra.core.gangs.lifecycle import Observed, phase
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.records import Records
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.checked import text, whole
from ray_dra.core.model.request import MAX_BUNDLES
from ray_dra.translate.files.shared_records import map_to_bytes


class Seen(NamedTuple):
    """A device as a worker sees it; `position` is its place in the raylet's numbering."""

    position: int
    uuid: str | None
    node: str
    clique: str | None


class GpuIdMap:
    """See the module."""

    def __init__(
        self,
        inventory: Inventory,
        nodes: Nodes,
        others: ForeignWork,
        backend: Backend,
        records: Records,
        observer: Observer,
    ) -> None:
        self._inventory, self._nodes, self._others, self._backend = inventory, nodes, others, backend
        self._records, self._observer = records, observer

    def devices(self, raylet: str, group: str, bundle: int, gpu_ids: tuple[int, ...], pid: int) -> list[Seen]:
        """The devices of a worker's GPU ids, in order; `group` is "" outside placement groups, `bundle` -1.

        Raises:
            InvalidRequest: a value of another type, or no bundle of the gang. Nothing is noted then.
            RayDraError: more GPU ids than were planned for the bundle, or than the node has GPUs.
        """
        text(raylet, "raylet", empty=True)
        text(group, "group", empty=True)
        gpu_ids, pid = checked_ids(gpu_ids, pid)
        owner = self._records.of_group(group)
        if owner is not None and owner.allocation is not None:
            bundles = self.by_bundle(owner.allocation)
            bundle = whole(bundle, "bundle", least=0, most=len(bundles) - 1)
            return self._of_planned(bundles[bundle], raylet, group, bundle, gpu_ids)
        bundle = whole(bundle, "bundle", least=-1, most=MAX_BUNDLES)
        if group in self._others.unclaimed:
            return self._of_unclaimed(raylet, group, bundle, gpu_ids)
        return self._of_foreign(raylet, gpu_ids, pid)

    def taken(self, found: Iterable[Seen], group: str) -> list[DevicesTaken]:
        """An event for each gang that holds one of these devices, where work of others had to take it."""
        if self._records.of_group(group) is not None:
            return []
        places = {(device.node, device.position) for device in found}
        return [
            DevicesTaken(gang, seen)
            for node in {node for node, _ in places}
            for gang, allocation, seen in self._on_node(node)
            if any((g.node, g.position) in places for g in allocation.grants if g.part is None)
        ]

    def by_bundle(self, allocation: Allocation) -> list[list[Seen]]:
        """Each bundle's devices as its raylet numbers them."""
        numbers = self._backend.numbers(allocation)
        return [
            [
                Seen(numbers[g.node][g.device] if g.node in numbers else g.position, g.uuid, g.node, g.clique)
                for g in placed.grants
            ]
            for placed in allocation.bundles
        ]

    def map_of(self, allocation: Allocation) -> bytes:
        """What the worker hook reads: each bundle's GPUs in order, as (position, uuid, node, clique)."""
        return map_to_bytes([[(*device,) for device in bundle] for bundle in self.by_bundle(allocation)])

    # -- inside

    def _of_unclaimed(self, raylet: str, group: str, bundle: int, gpu_ids: tuple[int, ...]) -> list[Seen]:
        """For a worker of a gang whose record cannot be read; its map can."""
        bundles = self._others.unclaimed[group]
        devices = [Seen(*device) for device in bundles[bundle]] if 0 <= bundle < len(bundles) else []
        return self._of_planned(devices, raylet, group, bundle, gpu_ids)

    def _of_planned(
        self, devices: list[Seen], raylet: str, group: str, bundle: int, gpu_ids: tuple[int, ...]
    ) -> list[Seen]:
        planned = {device.position: device for device in devices}
        positions = self._others.of_bundle(raylet, f"{group}/{bundle}", gpu_ids, tuple(planned))
        return [planned[position] for position in positions]

    def _of_foreign(self, raylet: str, gpu_ids: tuple[int, ...], pid: int) -> list[Seen]:
        """For any other worker."""
        state = self._inventory.node_states.get(self._nodes.names.get(raylet, ""))
        if state is None:  # no agent has spoken for this node: Ray's own numbering is all there is
            return [Seen(gpu_id, None, "", None) for gpu_id in gpu_ids]
        positions = self._others.of_foreign(raylet, state, gpu_ids, pid, self._movable(state.name))
        return [Seen(p, state.grants[p].uuid, state.name, state.grants[p].clique) for p in positions]

    def _movable(self, node: str) -> int:
        """Devices of gangs whose placement group Ray has not placed yet: they can be planned again, and so may be taken
        where no others are left. Not those of a gang that changes its shape, which has no other place."""
        mask = 0
        for gang, allocation, seen in self._on_node(node):
            if self._records.gangs[gang].reshape is None and phase(self._records.gangs[gang], seen) in (
                Phase.HELD,
                Phase.PLACING,
            ):
                for grant in allocation.grants:
                    if grant.node == node and grant.part is None:
                        mask |= 1 << grant.position
        return mask

    def _on_node(self, node: str) -> Iterator[tuple[str, Allocation, Observed]]:
        """The gangs that have something on a node."""
        state = self._inventory.node_states.get(node)
        for gang_id in list(state.tenants) if state is not None else ():
            gang = self._records.gangs.get(gang_id)
            if gang is not None and gang.allocation is not None:
                yield gang_id, gang.allocation, self._observer.observed(gang, self._records.notes[gang_id])
