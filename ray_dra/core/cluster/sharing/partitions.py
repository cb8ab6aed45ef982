"""Devices that share counters, so that one can keep others from being given out: MIG partitions over memory slices."""

from __future__ import annotations

from collections.abc import Mapping

from ray_dra.core.cluster.device_choice import DeviceGraph, Masks, bits
from ray_dra.core.cluster.sharing.shares import SharedDevices
from ray_dra.core.model.device import Counter
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.node import Node


class Partitions(SharedDevices):
    """A node whose devices use up counters that they share. A partition can be shared, too."""

    __slots__ = ("_consumes", "_counters")

    independent = False

    def __init__(self, graph: DeviceGraph, shares: Mapping[int, int], node: Node) -> None:
        super().__init__(graph, shares)
        self._counters = node.counters
        self._consumes = tuple(device.consumes for device in node.devices)

    def free(self, open_mask: int, taken: int) -> int:
        free = super().free(open_mask, taken)
        if free:
            left = self._counters_left(taken)
            for i in bits(free):
                if any(left.get(counter, 0) < amount for counter, amount in self._consumes[i]):
                    free &= ~(1 << i)
        return free

    def how_many(self, mask: int, size: int, connect: Connect, taken: int) -> int:
        count = mask.bit_count() // size
        while count and self.split(mask, (size,) * count, connect, None, taken) is None:
            count -= 1
        return count

    def split(
        self, mask: int, sizes: tuple[int, ...], connect: Connect, allowed: Masks | None, taken: int
    ) -> Masks | None:
        left = self._counters_left(taken)
        return self.graph.split_sharing(mask, sizes, connect, allowed, self._consumes, left)

    def at_once(self, mask: int, taken: int) -> int:
        count = self.how_many(mask, 1, Connect.ANY, taken)
        return sum(self.split(mask, (1,) * count, Connect.ANY, None, taken) or ())

    def overdrawn(self, mask: int, taken: int) -> bool:
        return any(amount < 0 for amount in self._counters_left(taken | mask).values())

    def _counters_left(self, taken: int) -> dict[Counter, int]:
        """What the devices that somebody has leave of the shared counters; one that is shared is charged once."""
        left = dict(self._counters)
        for i in bits(taken | self.shared):
            for counter, amount in self._consumes[i]:
                left[counter] = left.get(counter, 0) - amount
        return left
