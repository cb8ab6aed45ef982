"""Domains in the planner's two orders.

A `CliqueOrder` lists the domains that a request cannot tell apart by product, links or size of node:

    levels     f -> domains with a node that has exactly f free devices       for gangs on one node
    measures   how a bundle counts -> domains by how many such bundles fit     for gangs over several

Both are sorted lists of ranks, the fullest domain first and then by name, and both are kept up change
by change: the cost of a change, and of a question, does not grow with the number of domains.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import chain

from ray_dra.core.cluster.clique_state import REGULAR, BundleShape, CliqueState, counted
from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.model.imex import Limits

Run = tuple[int, int, Iterable[str]]
"""(minus the whole segments that each holds, room, ranks) of domains with as much room, in rank order."""


class Buckets:
    """Domains by how many bundles fit, each bucket in rank order. Those without room are not in it."""

    __slots__ = ("lists", "present")

    def __init__(self) -> None:
        self.lists: dict[int, list[str]] = {}
        self.present = 0  # a bit for each number that has a domain

    def add(self, room: int, rank: str) -> None:
        bucket = self.lists.get(room)
        if bucket:
            insort(bucket, rank)
        else:
            self.lists[room] = [rank]
            self.present |= 1 << room

    def remove(self, room: int, rank: str) -> None:
        bucket = self.lists[room]
        if len(bucket) == 1:
            del self.lists[room]
            self.present ^= 1 << room
        else:
            del bucket[bisect_left(bucket, rank)]

    def segments(self, size: int) -> int:
        """Whole segments that all domains hold."""
        return sum(len(ranks) * (room // size) for room, ranks in self.lists.items())

    def upwards(self, least: int) -> Iterator[tuple[int, str]]:
        """(room, rank) from `least` up, ties the fullest first."""
        present = self.present >> least << least
        while present:
            low = present & -present
            room = low.bit_length() - 1
            for rank in self.lists[room]:
                yield room, rank
            present ^= low

    def runs(self, segment: int) -> Iterator[Run]:
        """Those that hold most whole segments first, of these the least roomy.

        So as few domains as can be are used, and of those that serve as well the roomier are left to others.
        """
        present = self.present >> segment << segment
        while present:
            least = (present.bit_length() - 1) // segment * segment
            several = present >> least << least
            present ^= several
            while several:
                low = several & -several
                room = low.bit_length() - 1
                yield -(least // segment), room, self.lists[room]
                several ^= low


class Leveled:
    """The same for domains of one node each: what is free says what fits, so the levels are all that is kept up."""

    __slots__ = ("_levels", "_size", "_spread")

    def __init__(self, levels: list[list[str]], measure: BundleShape) -> None:
        self._levels = levels
        self._size = measure.size
        self._spread = measure.spread

    @property
    def lists(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for room, shelf in self._shelves():
            found.setdefault(room, []).extend(shelf)
        return found

    def segments(self, size: int) -> int:
        return sum(len(shelf) * (room // size) for room, shelf in self._shelves())

    def upwards(self, least: int) -> Iterator[tuple[int, str]]:
        for room, shelf in self._shelves():
            if room >= least:
                for rank in shelf:
                    yield room, rank

    def runs(self, segment: int) -> Iterator[Run]:
        rooms: dict[int, list[list[str]]] = {}
        for room, shelf in self._shelves():
            if room >= segment:
                rooms.setdefault(room, []).append(shelf)
        for room in sorted(rooms, key=lambda room: (-(room // segment), room)):
            yield -(room // segment), room, chain.from_iterable(rooms[room])

    def _shelves(self) -> Iterator[tuple[int, list[str]]]:
        """(room, ranks) of each level with room, the fullest first."""
        for free in range(self._size, len(self._levels)):
            if self._levels[free]:
                yield 1 if self._spread else free // self._size, self._levels[free]


MOST_MEASURES = 24
"""Measures that one catalog keeps up; the one asked for longest ago goes first."""


class CliqueOrder:
    """Domains of one kind (clique, loose or spare), product, grade and size of node, in the planner's two orders.

    `single`: they have one node each; else several.
    """

    __slots__ = (
        "_asked",
        "domains",
        "grade",
        "kind",
        "levels",
        "limits",
        "measures",
        "present",
        "product",
        "single",
        "whole",
    )

    def __init__(self, kind: str, product: str, grade: int, limits: Limits, *, single: bool) -> None:
        self.kind = kind
        self.product = product
        self.grade = grade
        self.single = single
        self.limits = limits
        self.domains: dict[str, CliqueState] = {}  # by key
        self.levels: list[list[str]] = [[]]
        self.present = 0  # a bit for each level that has a domain
        self.whole = 1  # the bit of whole nodes
        self.measures: dict[BundleShape, Buckets] = {}
        self._asked: dict[BundleShape, Buckets | Leveled] = {}

    def at(self, rank: str) -> CliqueState:
        return self.domains[rank[1:]]

    def buckets(self, measure: BundleShape) -> Buckets | Leveled:
        """Domains by room for this measure; kept up from the first call on."""
        found = self._asked.get(measure)
        if found is None:
            found = self._asked[measure] = self._begin(measure)
        elif len(self.measures) > MOST_MEASURES // 2:
            kept = self._plain(measure)
            if kept in self.measures:
                self.measures[kept] = self.measures.pop(kept)  # the order of the dict is that of use
        return found

    def _plain(self, measure: BundleShape) -> BundleShape:
        """Where all devices are linked, linked bundles count like any."""
        return measure._replace(linked=False) if self.grade == REGULAR else measure

    def _begin(self, measure: BundleShape) -> Buckets | Leveled:
        measure = self._plain(measure)
        if self.single and counted(measure, self.grade):
            return Leveled(self.levels, measure)
        if measure in self.measures:
            return self.measures[measure]
        if len(self.measures) >= MOST_MEASURES:
            oldest = next(iter(self.measures))
            gone = self.measures.pop(oldest)
            self._asked = {m: b for m, b in self._asked.items() if b is not gone}
            for domain in self.domains.values():
                domain.rooms.pop(oldest, None)
        made = self.measures[measure] = Buckets()
        for domain in self.domains.values():
            room = domain.rooms[measure] = domain.room(measure, self.limits)
            if room:
                made.lists.setdefault(room, []).append(domain.rank)
        for room, bucket in made.lists.items():
            bucket.sort()
            made.present |= 1 << room
        return made

    def add(self, domain: CliqueState) -> None:
        domain.catalog = self
        self.domains[domain.key] = domain
        while len(self.levels) < len(domain.stock):
            self.levels.append([])
        self.whole = 1 << (len(self.levels) - 1)
        domain.rank = ""
        domain.shown = 0
        domain.rooms = dict.fromkeys(self.measures, 0)
        self.refresh(domain)

    def remove(self, domain: CliqueState) -> None:
        for level in bits(domain.shown):
            shelf = self.levels[level]
            del shelf[bisect_left(shelf, domain.rank)]
            if not shelf:
                self.present ^= 1 << level
        for measure, room in domain.rooms.items():
            if room:
                self.measures[measure].remove(room, domain.rank)
        domain.shown = 0
        domain.rooms = {}
        domain.catalog = None
        del self.domains[domain.key]

    def refresh(self, domain: CliqueState) -> None:
        """Bring both orders up to date after a change in the domain."""
        old = domain.rank
        free = domain.free
        rank = domain.rank = chr(free) + domain.key
        moved = rank != old
        before = domain.shown
        if self.single:
            shown = 1 << free if free else 0
        else:
            shown = 0
            bit = 1
            for mask in domain.stock:
                if mask:
                    shown |= bit
                bit <<= 1
            shown &= ~1
        if moved or shown != before:
            levels = self.levels
            gone = before if moved else before & ~shown
            while gone:
                low = gone & -gone
                gone ^= low
                shelf = levels[low.bit_length() - 1]
                if len(shelf) == 1:
                    shelf.clear()
                    self.present ^= low
                else:
                    del shelf[bisect_left(shelf, old)]
            new = shown if moved else shown & ~before
            while new:
                low = new & -new
                new ^= low
                shelf = levels[low.bit_length() - 1]
                if shelf:
                    insort(shelf, rank)
                else:
                    shelf.append(rank)
                    self.present |= low
            domain.shown = shown
        rooms = domain.rooms
        for measure, buckets in self.measures.items():
            had = rooms[measure]
            room = domain.room(measure, self.limits) if free >= measure[0] or measure[3] else 0
            if had != room or moved:
                if had:
                    buckets.remove(had, old)
                if room:
                    buckets.add(room, rank)
                rooms[measure] = room
