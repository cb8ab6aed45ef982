"""Devices of which some are shared: several bundles have so many thousandths of one."""

from __future__ import annotations

from collections.abc import Mapping

from ray_dra.core.cluster.device_choice import DeviceGraph
from ray_dra.core.cluster.sharing.whole import WholeDevices
from ray_dra.core.model.request import WHOLE


class SharedDevices(WholeDevices):
    """A node some of whose devices are shared; the others are given out whole."""

    __slots__ = ("_shares",)

    def __init__(self, graph: DeviceGraph, shares: Mapping[int, int]) -> None:
        super().__init__(graph)
        self._shares = shares

    @property
    def shares(self) -> Mapping[int, int]:
        return self._shares

    def free(self, open_mask: int, taken: int) -> int:
        return open_mask & ~(taken | self.shared)

    @property
    def shared(self) -> int:
        """Mask of the devices that are shared."""
        mask = 0
        for position in self._shares:
            mask |= 1 << position
        return mask

    def left(self, usable: int) -> dict[int, int]:
        return {i: WHOLE - n for i, n in self._shares.items() if usable >> i & 1 and n < WHOLE}
