"""Where bundles of one class have room: on single nodes, in cliques, anywhere.

The questions of `equal.py`, answered from the index where the number of free devices tells all, and
by looking at the candidates in the same order where more is asked of a node (CPUs, labels, products).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import heappop, heappush, merge
from itertools import islice

from ray_dra.core.cluster.clique_order import CliqueOrder
from ray_dra.core.cluster.clique_state import CliqueState, counted, most_of
from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.cluster.index import LOOSE_NODE
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.scope import Scope, roomiest_first, tightest_first

NodeCounts = list[tuple[NodeState, int, int]]
"""(seat, devices it may use, bundles), in topology order."""


class Capacity:
    """How many bundles each clique, and each node in it, holds.

    Attributes:
        counted: catalogs where the number of free devices of a node says what fits.
        measured: the rooms that the index keeps are the gang's own.
    """

    def __init__(self, inventory: Inventory, needs: FoldedRequest, scope: Scope) -> None:
        self.inventory = inventory
        self.needs = needs
        self.scope = scope
        self.catalogs, whole, self.regular, self.others = inventory.listed(scope.kinds, needs.products)
        if needs.simple:
            self.counted = self.regular if needs.linked and needs.size > 1 else whole
            self.measured = True
        else:
            measured = [c for c in self.catalogs if needs.told_by_measure(c)]
            self.counted = [c for c in measured if counted(needs.measure, c.grade)]
            self.measured = len(measured) == len(self.catalogs)
        self._seats: dict[CliqueState, list[tuple[int, NodeState, int]]] = {}

    # -- one node

    def one_node(self, count: int) -> tuple[CliqueState, NodeState] | None:
        """The node that takes all bundles and is left with least, in the fullest clique; None where there is none."""
        needs = self.needs
        if needs.spread and count > 1:
            return None
        if needs.share:
            return self._one_shared(count)
        wanted = needs.size * count
        # Where some devices of a node have no link, its number of free ones says little: the measure knows more.
        uneven, even = (self.others, self.regular) if needs.linked and needs.size > 1 else ([], self.catalogs)
        if len(self.counted) == len(even) and not self.scope.exclusive:
            best = self.one_counted(even, wanted)
        else:
            best = self._one_looked_at(even, count)
        return self._one_linked(uneven, count, best) if uneven else best

    def _one_looked_at(self, catalogs: Sequence[CliqueOrder], count: int) -> tuple[CliqueState, NodeState] | None:
        """The first of `levels` that has what is asked for besides devices."""
        needs = self.needs
        looked = 0
        try:
            for domain, free in self.levels(catalogs, needs.size * count):
                if self.offers(domain):
                    mask = domain.stock[free]
                    for at in (*bits(mask & domain.imex), *bits(mask & ~domain.imex)):
                        seat = domain.node_states[at]
                        looked += 1
                        if needs.on(seat, seat.domains[domain.id]) >= count:
                            return domain, seat
            return None
        finally:
            needs.looked_at(looked)

    def levels(self, catalogs: Sequence[CliqueOrder], least: int) -> Iterator[tuple[CliqueState, int]]:
        """(clique, free devices of some of its nodes), in the order in which single nodes are taken.

        Nodes in use first, the least free, in the fullest clique; then whole ones, of the smallest clique: a rack is
        not broken into where a box will do, nor a box where there is a node without a clique.
        """
        present = 0
        for catalog in catalogs:
            present |= catalog.present & ~catalog.whole
        present = present >> least << least
        while present:
            low = present & -present
            present ^= low
            free = low.bit_length() - 1
            for domain in _by_rank([c for c in catalogs if c.present & low and free < len(c.levels) - 1], free):
                yield domain, free
        whole = [c for c in catalogs if c.present & c.whole and least < len(c.levels)]
        if len(whole) > 1:
            whole.sort(key=_breaking)
        for catalog in whole:
            for rank in catalog.levels[-1]:
                yield catalog.at(rank), len(catalog.levels) - 1

    def one_counted(self, catalogs: Sequence[CliqueOrder], wanted: int) -> tuple[CliqueState, NodeState] | None:
        """The same, among cliques where free devices tell all: the first of `levels`."""
        least, best, at = 0, "", None
        for catalog in catalogs:
            present = (catalog.present & ~catalog.whole) >> wanted
            if present:
                free = wanted + (present & -present).bit_length() - 1
                head = catalog.levels[free][0]
                if at is None or free < least or (free == least and head < best):
                    least, best, at = free, head, catalog
        if at is None:
            whole = [c for c in catalogs if c.present & c.whole and wanted < len(c.levels)]
            if not whole:
                return None
            at = whole[0] if len(whole) == 1 else min(whole, key=_breaking)
            least = len(at.levels) - 1
            best = at.levels[least][0]
        domain = at.domains[best[1:]]
        mask = domain.stock[least]
        if domain.imex:  # a node in another gang's IMEX domain can take no part of a larger gang: use it up first
            mask = mask & domain.imex or mask
        return domain, domain.node_states[(mask & -mask).bit_length() - 1]

    def _one_linked(
        self, catalogs: Sequence[CliqueOrder], count: int, best: tuple[CliqueState, NodeState] | None
    ) -> tuple[CliqueState, NodeState] | None:
        """A node of partly connected ones, by the linked bundles that the measure knows, where it beats `best`."""
        for catalog in catalogs:
            for _, rank in catalog.buckets(self.needs.measure).upwards(count):
                domain = catalog.at(rank)
                if not self.offers(domain):
                    continue
                if catalog.single and self.measured:
                    seat: NodeState | None = domain.node_states[0]
                else:
                    seat = next(
                        (s for s in domain.node_states if self.needs.on(s, s.domains[domain.id]) >= count), None
                    )
                if seat is not None:
                    if best is None or _worth(domain, seat) < _worth(*best):
                        best = (domain, seat)
                    break
        return best

    def _one_shared(self, count: int) -> tuple[CliqueState, NodeState] | None:
        """For shares: first a device that is shared already and is left with least, then a free one."""
        needs, inventory = self.needs, self.inventory
        if count == 1:
            shared = inventory.shared
            for at in range(bisect_left(shared, (needs.share,)), len(shared)):
                _, _, position, name = shared[at]
                seat = inventory.node_states[name]
                domain = next(domain for domain, members, _ in seat.parts if members >> position & 1)
                if domain.catalog in self.catalogs and self.offers(domain) and needs.on(seat, 1 << position):
                    return domain, seat
        for domain, free in self.levels(self.catalogs, 1):
            for at in bits(domain.stock[free]):
                seat = domain.node_states[at]
                if self.offers(domain) and needs.on(seat, seat.domains[domain.id]) >= count:
                    return domain, seat
        for domain in (d for c in self.catalogs for d in c.domains.values()) if count > 1 else ():
            for seat in domain.node_states:
                if self.offers(domain) and needs.on(seat, seat.domains[domain.id]) >= count:
                    return domain, seat
        return None

    def offers(self, domain: CliqueState) -> bool:
        """Whether the gang may be there at all."""
        return not self.scope.exclusive or domain.idle

    # -- cliques

    def tightest(self, count: int, taken: Iterable[CliqueState]) -> CliqueState | None:
        """The least roomy clique that holds `count` bundles."""
        if not self.measured or self.scope.exclusive:
            for _, domain in tightest_first(self.catalogs, self.needs.measure, count):
                if domain not in taken and self.offers(domain) and self.room(domain) >= count:
                    return domain
            return None
        best: tuple[int, str] | None = None
        found = None
        for catalog in self.catalogs:
            for bound, rank in catalog.buckets(self.needs.measure).upwards(count):
                domain = catalog.at(rank)
                if domain not in taken:
                    if best is None or (bound, rank) < best:
                        best, found = (bound, rank), domain
                    break
        return found

    def largest_first(self, segment: int) -> Iterator[tuple[CliqueState, int]]:
        """(clique, bundles it holds): most whole segments first, of these the least roomy. See `Buckets.runs`."""
        stream = roomiest_first(self.catalogs, self.needs.measure, segment)
        if self.scope.exclusive:
            stream = ((domain, room) for domain, room in stream if domain.idle)
        if self.measured:
            yield from stream
            return
        waiting: list[tuple[int, int, str, CliqueState]] = []  # rooms worked out, until no bound is above them
        for domain, bound in stream:
            while waiting and -waiting[0][0] >= bound // segment:
                _, room, _, roomiest = heappop(waiting)
                yield roomiest, room
            if (room := self.room(domain)) >= segment:
                if room // segment == bound // segment:  # nothing that follows holds more
                    yield domain, room
                else:
                    heappush(waiting, (-(room // segment), room, domain.rank, domain))
        while waiting:
            _, room, _, roomiest = heappop(waiting)
            yield roomiest, room

    def most_nodes(self, domain: CliqueState) -> int:
        """Most nodes of a clique that one gang may use."""
        bound = domain.fabric and self.inventory.limits.compute_domains
        return self.inventory.limits.domain_nodes if bound else len(domain.node_states)

    def most(self, segment: int) -> int:
        """Whole segments that all cliques hold, as far as devices tell: no more fit."""
        return sum(c.buckets(self.needs.measure).segments(segment) for c in self.catalogs)

    def sum_of_largest(self, segment: int, cliques: int | None) -> int:
        """Whole segments that so many of the roomiest cliques hold (None: all of them)."""
        if cliques is None and self.measured and not self.scope.exclusive:
            return self.most(segment)
        rooms = (room for _, room in self.largest_first(segment))
        return sum(room // segment for room in islice(rooms, cliques))

    def room(self, domain: CliqueState) -> int:
        return most_of(domain, self._of(domain), self.inventory.limits)

    def _of(self, domain: CliqueState) -> list[tuple[int, NodeState, int]]:
        """(room, seat, bit) of the seats with room, where counting is not enough."""
        found = self._seats.get(domain)
        if found is None:
            self.needs.looked_at(len(domain.node_states))
            found = self._seats[domain] = [
                (room, seat, 1 << at)
                for at, seat in enumerate(domain.node_states)
                if (room := self.needs.on(seat, seat.domains[domain.id]))
            ]
        return found

    def fill(self, domain: CliqueState, count: int) -> NodeCounts:
        """The nodes of a clique for `count` bundles: one if one will do, else the fewest, the last the tightest."""
        if self.measured and len(domain.node_states) == 1:
            seat = domain.node_states[0]
            return [(seat, seat.domains[domain.id] if seat.odd else -1, count)]
        bound = domain.fabric and self.inventory.limits.compute_domains
        shelves: dict[tuple[int, int], int] = {}  # (room, free) -> seats
        if domain.catalog in self.counted:
            size = self.needs.size
            for free in range(size, len(domain.stock)):
                if domain.stock[free]:
                    shelves[1 if self.needs.spread else free // size, free] = domain.stock[free]
        else:
            for room, seat, bit in self._of(domain):
                mark = (room, (seat.free & seat.domains[domain.id]).bit_count())
                shelves[mark] = shelves.get(mark, 0) | bit
        chosen: list[tuple[int, int]] = []
        marks = sorted(shelves)
        one = next((mark for mark in marks if mark[0] >= count), None)
        if one is not None:
            mask = shelves[one]
            if bound:  # a node in another gang's IMEX domain can take no part of a larger gang: use it up first
                mask = mask & domain.imex or mask
            chosen.append(((mask & -mask).bit_length() - 1, count))
            count = 0
        elif bound and domain.imex:
            shelves = {mark: mask for mark in marks if (mask := shelves[mark] & ~domain.imex)}
            marks = sorted(shelves)
        while count:
            mark = marks[-1]
            room = mark[0]
            if count <= room:
                mark = next(m for m in marks if m[0] >= count)
                chosen.append((bits(shelves[mark])[0], count))
                break
            seats_here = bits(shelves[mark])[: (count - 1) // room]
            chosen += [(at, room) for at in seats_here]
            count -= room * len(seats_here)
            left = shelves[mark] & -(2 << seats_here[-1])  # those after the last one taken
            if left:
                shelves[mark] = left
            else:
                marks.pop()
        chosen.sort()
        node_states = domain.node_states
        domain_id = domain.id
        # All devices of a seat that is in one domain are the domain's: nothing else of it need be looked at.
        return [((seat := node_states[at]), seat.domains[domain_id] if seat.odd else -1, n) for at, n in chosen]

    def _most_anywhere(self) -> int:
        """A bound on the bundles that fit: by the free devices of each node, or by linked ones where it is known."""
        needs, inventory = self.needs, self.inventory
        size = needs.size
        most = sum(n * (free // size) for free, n in enumerate(inventory.by_free))
        if needs.measure.linked and not inventory.split:
            for catalog in inventory.catalogs.values():
                if catalog.single and not counted(needs.measure, catalog.grade):
                    by_count = sum(len(shelf) * (free // size) for free, shelf in enumerate(catalog.levels))
                    most -= by_count - catalog.buckets(needs.measure).segments(1)
        return most

    def anywhere(self, count: int) -> NodeCounts:
        """Nodes of the whole cluster for `count` bundles, cliques forgotten; empty if there are not enough."""
        inventory, needs, scope = self.inventory, self.needs, self.scope
        if not needs.size:
            node_states: Collection[NodeState] = inventory.node_states.values()
        elif scope.one_node or count == 1:  # whole domains have been tried; what is left is to mix devices of several
            node_states = inventory.split.values()
        elif not inventory.split and not inventory.limits.compute_domains:
            return []
        else:
            node_states = inventory.node_states.values()
            if not needs.share and self._most_anywhere() < count:
                return []
        shelves: dict[tuple[int, int], list[NodeState]] = {}
        total = most = 0
        needs.looked_at(len(node_states))
        for seat in node_states:
            if (not seat.free and needs.size and not needs.share) or (
                seat.node.spare and not needs.request.preemptible
            ):
                continue
            room = needs.on(seat, -1)
            if room:
                shelves.setdefault((room, seat.free.bit_count()), []).append(seat)
                total += room
                most = max(most, room)
        if (most if scope.one_node else total) < count:
            return []
        for shelf in shelves.values():
            shelf.sort(key=lambda seat: seat.key)
        filled = [(seat, -1, n) for seat, n in _fewest(shelves, count)]
        filled.sort(key=lambda f: f[0].key)
        return filled


def _worth(domain: CliqueState, seat: NodeState) -> tuple[bool, int, int, str]:
    """Order of nodes as in `Capacity.levels`."""
    free = seat.free.bit_count()
    whole = free == seat.size
    return whole, (0 if domain.loose else domain.size) if whole else 0, free, domain.rank


def _breaking(catalog: CliqueOrder) -> tuple[int, int, str]:
    """Order of catalogs by what a whole node of them is worth to larger gangs."""
    rank = catalog.levels[-1][0]
    return (0 if catalog.kind == LOOSE_NODE else catalog.at(rank).size, len(catalog.levels), rank)


def _by_rank(catalogs: Sequence[CliqueOrder], free: int) -> Iterator[CliqueState]:
    """Domains with a node that has exactly so many free devices, the fullest first."""
    if len(catalogs) == 1:
        catalog = catalogs[0]
        return map(catalog.at, catalog.levels[free])
    return (at(rank) for rank, _, at in merge(*(_level(c, free, i) for i, c in enumerate(catalogs))))


def _level(catalog: CliqueOrder, free: int, tie: int) -> Iterator[tuple[str, int, Callable[[str], CliqueState]]]:
    return ((rank, tie, catalog.at) for rank in catalog.levels[free])


def _fewest(shelves: dict[tuple[int, int], list[NodeState]], count: int) -> Iterator[tuple[NodeState, int]]:
    """(seat, bundles): the roomiest seats until one takes all that is left, and that one the tightest."""
    marks = sorted(shelves)
    used = dict.fromkeys(marks, 0)
    while count:
        for mark in marks:
            if mark[0] >= count and used[mark] < len(shelves[mark]):
                yield shelves[mark][used[mark]], count
                return
        mark = next(m for m in reversed(marks) if used[m] < len(shelves[m]))
        yield shelves[mark][used[mark]], mark[0]
        used[mark] += 1
        count -= mark[0]
