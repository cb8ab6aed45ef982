"""Domains in the planner's two orders.

A `Catalog` lists the domains that a request cannot tell apart by product, links or size of node:

    levels     f -> domains with a node that has exactly f free devices       for gangs on one node
    measures   how a bundle counts -> domains by how many such bundles fit     for gangs over several

Both are sorted lists of ranks, the fullest domain first and then by name, and both are kept up change
by change: the cost of a change, and of a question, does not grow with the number of domains.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from ray_dra.core.devices import bits
from ray_dra.core.domain import REGULAR, Domain, Measure
from ray_dra.core.limits import Limits


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

    def upwards(self, least: int) -> Iterator[tuple[int, str]]:
        """(room, rank) from `least` up, ties the fullest first."""
        present = self.present >> least << least
        while present:
            low = present & -present
            room = low.bit_length() - 1
            for rank in self.lists[room]:
                yield room, rank
            present ^= low

    def downwards(self, segment: int) -> Iterator[tuple[int, str]]:
        """(room, rank), those that hold most whole segments first, of these the least roomy, ties the fullest.

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
                for rank in self.lists[room]:
                    yield room, rank
                several ^= low


MOST_MEASURES = 24
"""Measures that one catalog keeps up; the one asked for longest ago goes first."""


class Catalog:
    """Domains of one kind (clique, loose or spare), product, grade and size of node, in the planner's two orders."""

    __slots__ = ("_unlinked", "domains", "grade", "kind", "levels", "limits", "measures", "present", "product", "whole")

    def __init__(self, kind: str, product: str, grade: int, limits: Limits) -> None:
        self.kind = kind
        self.product = product
        self.grade = grade
        self.limits = limits
        self.domains: dict[str, Domain] = {}  # by key
        self.levels: list[list[str]] = [[]]
        self.present = 0  # a bit for each level that has a domain
        self.whole = 1  # the bit of whole nodes
        self.measures: dict[Measure, Buckets] = {}
        self._unlinked: dict[Measure, Measure] = {}  # where all are linked, linked bundles count like any

    def at(self, rank: str) -> Domain:
        return self.domains[rank[1:]]

    def buckets(self, measure: Measure) -> Buckets:
        """Domains by room for this measure; kept up from the first call on."""
        if measure.linked and self.grade == REGULAR:
            measure = self._unlinked.get(measure) or self._unlinked.setdefault(measure, measure._replace(linked=False))
        found = self.measures.get(measure)
        if found is None:
            if len(self.measures) >= MOST_MEASURES:
                oldest = next(iter(self.measures))
                del self.measures[oldest]
                for domain in self.domains.values():
                    domain.rooms.pop(oldest, None)
            found = self.measures[measure] = Buckets()
            for domain in self.domains.values():
                room = domain.rooms[measure] = domain.room(measure, self.limits)
                if room:
                    found.lists.setdefault(room, []).append(domain.rank)
            for room, bucket in found.lists.items():
                bucket.sort()
                found.present |= 1 << room
        elif len(self.measures) > MOST_MEASURES // 2:
            self.measures[measure] = self.measures.pop(measure)  # the order of the dict is that of use
        return found

    def add(self, domain: Domain) -> None:
        domain.catalog = self
        self.domains[domain.key] = domain
        while len(self.levels) < len(domain.stock):
            self.levels.append([])
        self.whole = 1 << (len(self.levels) - 1)
        domain.rank = ""
        domain.shown = 0
        domain.rooms = dict.fromkeys(self.measures, 0)
        self.refresh(domain)

    def remove(self, domain: Domain) -> None:
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

    def refresh(self, domain: Domain) -> None:
        """Bring both orders up to date after a change in the domain."""
        old = domain.rank
        free = domain.free
        rank = domain.rank = chr(free) + domain.key
        moved = rank != old
        before = domain.shown
        if len(domain.seats) == 1:
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
