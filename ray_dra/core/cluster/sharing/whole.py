"""Devices that are given out whole, each independent of the others: nearly every node."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from ray_dra.core.cluster.device_choice import DeviceGraph, Masks
from ray_dra.core.model.locality import Connect

NO_SHARES: Mapping[int, int] = {}


class WholeDevices:
    """The strategy of most nodes, and the base of the others; nodes that look alike have one in common.

    Attributes:
        independent: no device keeps another one from being given out.
        shares: position -> thousandths of the device that are taken.

    Of the arguments, `taken` is the mask of devices that somebody has, whole.
    """

    __slots__ = ("graph",)

    independent = True

    def __init__(self, graph: DeviceGraph) -> None:
        self.graph = graph

    @property
    def shares(self) -> Mapping[int, int]:
        return NO_SHARES

    def free(self, open_mask: int, taken: int) -> int:
        """Devices among the open ones that can be held whole now."""
        return open_mask & ~taken

    def left(self, usable: int) -> dict[int, int]:
        """Position -> thousandths left, of the usable devices that are shared already."""
        return {}

    def how_many(self, mask: int, size: int, connect: Connect, taken: int) -> int:
        """Most bundles of `size` devices that `mask` holds at once."""
        return self.graph.how_many(mask, size, connect)

    def split(
        self, mask: int, sizes: tuple[int, ...], connect: Connect, allowed: Masks | None, taken: int
    ) -> Masks | None:
        """`DeviceGraph.split`, of devices that can be given out at once."""
        return self.graph.split(mask, sizes, connect, allowed)

    def at_once(self, mask: int, taken: int) -> int:
        """As many devices of `mask` as can be given out beside each other."""
        return mask

    def overdrawn(self, mask: int, taken: int) -> bool:
        """Whether the devices of `mask` cannot all be given out at once."""
        return False


@lru_cache(maxsize=1024)
def whole_devices(graph: DeviceGraph) -> WholeDevices:
    """One for all nodes that look alike."""
    return WholeDevices(graph)
