"""Which devices inside one node: connectivity, NUMA, PCIe.

A `DeviceGraph` is what a node's devices look like to each other; nodes that look alike share one, and so
share its cache. Masks are integers with one bit a device, by position in `Node.devices`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from math import comb

from ray_dra.core.model.locality import Connect
from ray_dra.core.model.node import Links, Node

Masks = tuple[int, ...]


@lru_cache(maxsize=1 << 15)
def bits(mask: int) -> tuple[int, ...]:
    """Positions set in `mask`, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return tuple(found)


class DeviceGraph:
    """How `size` devices hang together.

    Attributes:
        uniform: every pair has the same number of links (an NVSwitch box or tray, or none at all), so
            that only NUMA distinguishes the devices.
        linked: uniform, and that number is not zero.
        digest: the same for graphs that are alike, in every process.
    """

    def __init__(self, links: Links, ancestors: Links, numa: tuple[int | None, ...]) -> None:
        self.size = len(numa)
        self.numa = numa
        self.links = links or tuple((0,) * self.size for _ in numa)
        self.ancestors = ancestors or tuple((0,) * self.size for _ in numa)
        weights = {self.links[i][j] for i, j in combinations(range(self.size), 2)}
        self.uniform = len(weights) <= 1
        self.linked = self.uniform and weights != {0}
        alike = repr((self.links, self.ancestors, numa)).encode()
        self.digest = hashlib.blake2b(alike, digest_size=8).hexdigest()
        self._neighbours = tuple(
            sum(1 << j for j in range(self.size) if j != i and self.links[i][j]) for i in range(self.size)
        )
        self._splits: dict[tuple[int, Masks, Connect, Masks | None], Masks | None] = {}
        self._counts: dict[tuple[int, int], int] = {}
        self._pieces: dict[tuple[int, int, int, str], Masks | None] = {}

    def split(self, mask: int, sizes: tuple[int, ...], connect: Connect, allowed: Masks | None = None) -> Masks | None:
        """Disjoint subsets of `mask` with these sizes, in order, the best-connected; None if there are none.

        None is exact: no such subsets exist. With Connect.REQUIRED every pair inside a subset is
        linked. `allowed` narrows the devices of each subset (by product); None: any.
        """
        key = (mask, sizes, connect, allowed)
        if key not in self._splits:
            if len(self._splits) > 50_000:
                self._splits.clear()
            self._splits[key] = self._split(mask, sizes, connect, allowed)
        return self._splits[key]

    def pieces(self, mask: int, size: int, count: int, connect: Connect) -> Masks | None:
        """`split` into `count` subsets of one size: what most gangs need, under a key that hashes fast."""
        key = (mask, size, count, connect._value_)
        found = self._pieces.get(key)
        if found is None:
            if len(self._pieces) > 50_000:
                self._pieces.clear()
            found = self._pieces[key] = self.split(mask, (size,) * count, connect)
        return found

    def how_many(self, mask: int, size: int, connect: Connect) -> int:
        """Most disjoint subsets of `size` that `mask` holds (linked ones with Connect.REQUIRED)."""
        count = mask.bit_count() // size
        if connect is not Connect.REQUIRED or size == 1 or self.linked:
            return count
        key = (mask, size)
        if key not in self._counts:
            apart = self._apart(mask)
            if len(apart) > 1:
                count = sum(self.how_many(each, size, connect) for each in apart)
            else:
                while count and self.split(mask, (size,) * count, connect) is None:
                    count -= 1
            self._counts[key] = count
        return self._counts[key]

    def weight(self, mask: int) -> int:
        """Sum of the links between the devices of `mask` (go-gpuallocator and Gaia score alike)."""
        return sum(self.links[i][j] for i, j in combinations(bits(mask), 2))

    def all_linked(self, mask: int) -> bool:
        return all(mask & ~(1 << i) & ~self._neighbours[i] == 0 for i in bits(mask))

    def _split(self, mask: int, sizes: tuple[int, ...], connect: Connect, allowed: Masks | None) -> Masks | None:
        if sum(sizes) > mask.bit_count():
            return None
        linked = connect is Connect.REQUIRED and not self.linked and any(s > 1 for s in sizes)
        narrow = allowed or (mask,) * len(sizes)
        order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], narrow[i], i))
        items = tuple((sizes[i], narrow[i]) for i in order)
        apart = self._apart(mask) if linked and len(set(items)) == 1 else []
        # Each subset lies within one of them, so that most noes are told without going back and forth between them.
        if len(apart) > 1 and sum(self.how_many(each, sizes[0], connect) for each in apart) < len(sizes):
            return None
        if linked or any(mask & ~a for a in narrow):
            found = self._search(mask, items, linked, set())
        else:
            found = self._greedy(mask, tuple(size for size, _ in items), connect)
        if found is None:
            return None
        result = [0] * len(sizes)
        for place, subset in zip(order, found, strict=True):
            result[place] = subset
        # Equal bundles take their subsets in hardware order, so that neighbouring ranks are neighbours.
        for item in set(items):
            places = [i for i in range(len(sizes)) if (sizes[i], narrow[i]) == item]
            for place, subset in zip(places, sorted((result[i] for i in places), key=lambda m: m & -m), strict=True):
                result[place] = subset
        return tuple(result)

    def _greedy(self, mask: int, sizes: tuple[int, ...], connect: Connect) -> Masks:
        found = []
        for size in sizes:
            simple = self.uniform or connect is Connect.ANY or comb(mask.bit_count(), size) > MOST_RANKED
            subset = self._by_numa(mask, size) if simple else _ranked(self, mask, size)[0]
            found.append(subset)
            mask &= ~subset
        return tuple(found)

    def _search(
        self, mask: int, items: tuple[tuple[int, int], ...], linked: bool, failed: set[tuple[int, int]]
    ) -> Masks | None:
        """Subsets for (size, allowed devices) by backtracking; `failed` holds (mask, items left) known to fail."""
        if not items:
            return ()
        if (mask, len(items)) in failed:
            return None
        size, allowed = items[0]
        for subset in _ranked(self, mask & allowed, size, linked):
            rest = self._search(mask & ~subset, items[1:], linked, failed)
            if rest is not None:
                return (subset, *rest)
        failed.add((mask, len(items)))
        return None

    def _apart(self, mask: int) -> list[int]:
        """The devices of `mask` in parts between which there are no links."""
        found = []
        while mask:
            part, reached = 0, mask & -mask
            while reached != part:
                part = reached
                for i in bits(part):
                    reached |= self._neighbours[i] & mask
            found.append(part)
            mask &= ~part
        return found

    def linked_subsets(self, mask: int, size: int) -> Iterator[int]:
        """All subsets of `mask` of that size in which every pair is linked."""
        if not size:
            yield 0
        while size and mask.bit_count() >= size:
            first = mask & -mask
            mask ^= first
            for rest in self.linked_subsets(mask & self._neighbours[first.bit_length() - 1], size - 1):
                yield first | rest

    def _by_numa(self, mask: int, size: int) -> int:
        """`size` devices on as few NUMA nodes as can be, from the fullest that suffices."""
        groups: dict[int, int] = {}
        for i in bits(mask):
            numa = self.numa[i]
            group = -1 if numa is None else numa
            groups[group] = groups.get(group, 0) | 1 << i
        subset = 0
        while size:
            fitting = [g for g in groups.values() if g.bit_count() >= size]
            if fitting:
                group = min(fitting, key=lambda g: (g.bit_count(), g & -g))
                for i in bits(group)[:size]:
                    subset |= 1 << i
                return subset
            largest = max(groups, key=lambda n: (groups[n].bit_count(), -n))
            group = groups.pop(largest)
            subset |= group
            size -= group.bit_count()
        return subset


MOST_RANKED_BY_REST = 10
"""With more devices than this, a choice is not ranked by what it leaves to others: that takes too long."""


MOST_RANKED = 13_000
"""Linked devices are preferred where there are no more ways to choose them than these: 8 of 16 in 12,870."""


@lru_cache(maxsize=4096)
def _ranked(graph: DeviceGraph, mask: int, size: int, linked_alone: bool = False) -> tuple[int, ...]:
    """All subsets of `size`, or those that are all linked, the best first.

    First those that are all linked; of these the ones that leave most linked sets of that size to others, then the most
    links, fewest NUMA nodes, nearest by PCIe, best rest.
    """
    looks_ahead = 1 < size < mask.bit_count() <= MOST_RANKED_BY_REST

    def score(subset: int) -> tuple[bool, int, int, int, int, int, int]:
        chosen = bits(subset)
        near = sum(graph.ancestors[i][j] for i, j in combinations(chosen, 2))
        linked = graph.all_linked(subset)
        return (
            not linked,
            -graph.how_many(mask & ~subset, size, Connect.REQUIRED) if linked and looks_ahead else 0,
            -graph.weight(subset),
            len({graph.numa[i] for i in chosen}),
            near,
            -graph.weight(mask & ~subset),
            subset,
        )

    every = (sum(1 << i for i in chosen) for chosen in combinations(bits(mask), size))
    return tuple(sorted(graph.linked_subsets(mask, size) if linked_alone else every, key=score))


@lru_cache(maxsize=1024)
def _graph(links: Links, ancestors: Links, numa: tuple[int | None, ...]) -> DeviceGraph:
    return DeviceGraph(links, ancestors, numa)


def graph_of(node: Node) -> DeviceGraph:
    """The node's graph, one object for all nodes that look alike."""
    return _graph(node.links, node.ancestors, tuple(d.numa for d in node.devices))
