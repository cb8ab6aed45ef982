"""Cliques in the planner's two orders.

A `CliqueOrder` lists the cliques that a request cannot tell apart by product, links or size of node:

    levels     f -> cliques with a node that has exactly f free devices       for gangs on one node
    by_shape   how a bundle counts -> cliques by how many such bundles fit     for gangs over several

Both are sorted lists of ranks, the fullest clique first and then by name, and both are kept up change
by change: the cost of a change, and of a question, does not grow with the number of cliques.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import chain

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.clique_state import CliqueKind, CliqueState
from ray_dra.core.cluster.node_state import REGULAR
from ray_dra.core.model.imex import Limits

Run = tuple[int, int, Iterable[str]]
"""(minus the whole segments that each holds, capacity, ranks) of cliques with as much capacity, in rank order."""


class Buckets:
    """Cliques by how many bundles of one shape fit, each bucket in rank order. Those without capacity are not in it."""

    __slots__ = ("by_count", "least", "lists", "present")

    def __init__(self, *, least: int, by_count: bool) -> None:
        self.least = least  # free devices without which no such bundle fits
        self.by_count = by_count  # whether the numbers of free devices say how many fit
        self.lists: dict[int, list[str]] = {}
        self.present = 0  # a bit for each number that has a clique

    def add(self, capacity: int, rank: str) -> None:
        bucket = self.lists.get(capacity)
        if bucket:
            insort(bucket, rank)
        else:
            self.lists[capacity] = [rank]
            self.present |= 1 << capacity

    def remove(self, capacity: int, rank: str) -> None:
        bucket = self.lists[capacity]
        if len(bucket) == 1:
            del self.lists[capacity]
            self.present ^= 1 << capacity
        else:
            del bucket[bisect_left(bucket, rank)]

    def segments(self, size: int) -> int:
        """Whole segments that all cliques hold."""
        return sum(len(ranks) * (capacity // size) for capacity, ranks in self.lists.items())

    def upwards(self, least: int) -> Iterator[tuple[int, str]]:
        """(capacity, rank) from `least` up, ties the fullest first."""
        present = self.present >> least << least
        while present:
            low = present & -present
            capacity = low.bit_length() - 1
            for rank in self.lists[capacity]:
                yield capacity, rank
            present ^= low

    def runs(self, segment: int) -> Iterator[Run]:
        """Those that hold most whole segments first, of these the least roomy.

        So as few cliques as can be are used, and of those that serve as well the roomier are left to others.
        """
        present = self.present >> segment << segment
        while present:
            least = (present.bit_length() - 1) // segment * segment
            several = present >> least << least
            present ^= several
            while several:
                low = several & -several
                capacity = low.bit_length() - 1
                yield -(least // segment), capacity, self.lists[capacity]
                several ^= low


class Leveled:
    """The same for cliques of one node each: what is free says what fits, so the levels are all that is kept up."""

    __slots__ = ("_levels", "_size", "_spread")

    def __init__(self, levels: list[list[str]], shape: BundleShape) -> None:
        self._levels = levels
        self._size = shape.size
        self._spread = shape.spread

    @property
    def lists(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for capacity, level in self._capacities():
            found.setdefault(capacity, []).extend(level)
        return found

    def segments(self, size: int) -> int:
        return sum(len(level) * (capacity // size) for capacity, level in self._capacities())

    def upwards(self, least: int) -> Iterator[tuple[int, str]]:
        for capacity, level in self._capacities():
            if capacity >= least:
                for rank in level:
                    yield capacity, rank

    def runs(self, segment: int) -> Iterator[Run]:
        by_capacity: dict[int, list[list[str]]] = {}
        for capacity, level in self._capacities():
            if capacity >= segment:
                by_capacity.setdefault(capacity, []).append(level)
        for capacity in sorted(by_capacity, key=lambda capacity: (-(capacity // segment), capacity)):
            yield -(capacity // segment), capacity, chain.from_iterable(by_capacity[capacity])

    def _capacities(self) -> Iterator[tuple[int, list[str]]]:
        """(capacity, ranks) of each level with capacity, the fullest first."""
        for free in range(self._size, len(self._levels)):
            if self._levels[free]:
                yield 1 if self._spread else free // self._size, self._levels[free]


MOST_SHAPES = 24
"""Bundle shapes that one order keeps up; the one asked for longest ago goes first."""


class CliqueOrder:
    """Cliques of one kind, product, grade and size of node, in the planner's two orders.

    `single`: they have one node each; else several.
    """

    __slots__ = (
        "_asked",
        "by_shape",
        "cliques",
        "grade",
        "kind",
        "levels",
        "limits",
        "present",
        "product",
        "single",
        "whole",
    )

    def __init__(self, kind: CliqueKind, product: str, grade: int, limits: Limits, *, single: bool) -> None:
        self.kind = kind
        self.product = product
        self.grade = grade
        self.single = single
        self.limits = limits
        self.cliques: dict[str, CliqueState] = {}  # by key
        self.levels: list[list[str]] = [[]]
        self.present = 0  # a bit for each level that has a clique
        self.whole = 1  # the bit of whole nodes
        self.by_shape: dict[BundleShape, Buckets] = {}
        self._asked: dict[BundleShape, Buckets | Leveled] = {}

    def at(self, rank: str) -> CliqueState:
        return self.cliques[rank[1:]]

    def buckets(self, shape: BundleShape) -> Buckets | Leveled:
        """Cliques by capacity for this shape; kept up from the first call on."""
        found = self._asked.get(shape)
        if found is None:
            found = self._asked[shape] = self._begin(shape)
        elif len(self.by_shape) > MOST_SHAPES // 2:
            kept = self._plain(shape)
            if kept in self.by_shape:
                self.by_shape[kept] = self.by_shape.pop(kept)  # the order of the dict is that of use
        return found

    def _plain(self, shape: BundleShape) -> BundleShape:
        """Where all devices are linked, linked bundles count like any."""
        return shape._replace(linked=False) if self.grade == REGULAR else shape

    def _begin(self, shape: BundleShape) -> Buckets | Leveled:
        shape = self._plain(shape)
        if self.single and shape.decided_by_count(self.grade):
            return Leveled(self.levels, shape)
        if shape in self.by_shape:
            return self.by_shape[shape]
        if len(self.by_shape) >= MOST_SHAPES:
            oldest = next(iter(self.by_shape))
            gone = self.by_shape.pop(oldest)
            self._asked = {m: b for m, b in self._asked.items() if b is not gone}
            for clique in self.cliques.values():
                clique.forget(oldest)
        made = Buckets(least=shape.least_free(), by_count=shape.decided_by_count(self.grade))
        self.by_shape[shape] = made
        for clique in self.cliques.values():
            if capacity := clique.learn(shape, self.limits):
                made.lists.setdefault(capacity, []).append(clique.rank)
        for capacity, bucket in made.lists.items():
            bucket.sort()
            made.present |= 1 << capacity
        return made

    def add(self, clique: CliqueState) -> None:
        self.cliques[clique.key] = clique
        while len(self.levels) < len(clique.nodes_by_free):
            self.levels.append([])
        self.whole = 1 << (len(self.levels) - 1)
        clique.enter_order(self)

    def remove(self, clique: CliqueState) -> None:
        self.move(clique.rank, clique.levels, "", 0)
        for shape, capacity in clique.capacities.items():
            if capacity:
                self.by_shape[shape].remove(capacity, clique.rank)
        del self.cliques[clique.key]

    def move(self, old: str, gone: int, rank: str, new: int) -> None:
        """A clique goes from some levels, where its rank was `old`, to others; both as masks."""
        levels = self.levels
        while gone:
            low = gone & -gone
            gone ^= low
            level = levels[low.bit_length() - 1]
            if len(level) == 1:
                level.clear()
                self.present ^= low
            else:
                del level[bisect_left(level, old)]
        while new:
            low = new & -new
            new ^= low
            level = levels[low.bit_length() - 1]
            if level:
                insort(level, rank)
            else:
                level.append(rank)
                self.present |= low
