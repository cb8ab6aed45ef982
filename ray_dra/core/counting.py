"""Placing equal bundles: exact by counting.

Equal bundles fill a node to floor(free / size) whatever the order, so a clique holds the sum over its
nodes, and m segments of n bundles fit if and only if the cliques' floor(bundles / n) add up to m.
Largest first needs the fewest cliques; the last one is the tightest that takes the rest.
"""

from __future__ import annotations

from collections.abc import Iterator

from ray_dra.core.inventory import LOOSE, Domain, Inventory, Seat
from ray_dra.core.layout import NOTHING, Layout, Pick, Scope, exclusively, lay_out
from ray_dra.core.needs import Needs


def place_equal(inventory: Inventory, needs: Needs, scope: Scope) -> Layout:
    """Place a gang of one class of bundles."""
    total = len(needs.request.bundles)
    rooms = Rooms(inventory, needs, scope)
    if scope.anywhere:
        picks = rooms.anywhere(total)
        return Layout(lay_out(needs, [(range(total), picks)])) if picks else NOTHING
    chosen = _choose(rooms, total, scope)
    if chosen is None:
        return NOTHING
    groups = []
    at = 0
    for domain, count in sorted(chosen, key=lambda c: c[0].key):
        picks = rooms.fill(domain, count)
        groups.append((range(at, at + count), picks))
        at += count
    return Layout(lay_out(needs, groups), exclusively(scope, (d.id for d, _ in chosen)))


def _choose(rooms: Rooms, total: int, scope: Scope) -> list[tuple[Domain, int]] | None:
    """(clique, bundles) pairs that hold `total` bundles in whole segments, as few and as tight as can be."""
    chosen: list[tuple[Domain, int]] = []
    taken: set[str] = set()
    left = total
    largest = rooms.largest_first()
    while left:
        if scope.cliques is not None and len(chosen) == scope.cliques:
            return None
        last = next((d for d in rooms.tightest_first(left) if d.id not in taken), None)
        if last is not None:
            return [*chosen, (last, left)]
        for domain, room in largest:
            whole = room - room % scope.segment
            if whole and domain.id not in taken:
                chosen.append((domain, min(whole, left)))
                taken.add(domain.id)
                left -= min(whole, left)
                break
        else:
            return None
    return chosen


class Rooms:
    """How many bundles each clique, and each node in it, holds."""

    def __init__(self, inventory: Inventory, needs: Needs, scope: Scope) -> None:
        self.inventory = inventory
        self.needs = needs
        self.scope = scope
        self.size = needs.classes[0].count
        self.by_index = needs.plain and not scope.one_node
        self.index = inventory.capacity_index(self.size)
        self._seats: dict[str, list[tuple[int, Seat]]] = {}

    def tightest_first(self, count: int) -> Iterator[Domain]:
        """Cliques that hold `count` bundles."""
        for _, clique in self.index.upwards(count):
            domain = self.inventory.domains[clique]
            if self._offered(domain) and (self.by_index or self.room(domain) >= count):
                yield domain

    def largest_first(self) -> Iterator[tuple[Domain, int]]:
        if self.by_index:
            found = [(n, self.inventory.domains[c]) for n, c in self.index.downwards()]
        else:
            found = [(self.room(d), d) for d in (self.inventory.domains[c] for _, c in self.index.downwards())]
            found.sort(key=lambda f: (-f[0], f[1].key))
        return ((domain, room) for room, domain in found if room and self._offered(domain))

    def _offered(self, domain: Domain) -> bool:
        return domain.id != LOOSE and (not self.scope.exclusive or domain.empty)

    def room(self, domain: Domain) -> int:
        rooms = [room for room, _ in self._of(domain)]
        return (max(rooms, default=0)) if self.scope.one_node else sum(rooms)

    def _of(self, domain: Domain) -> list[tuple[int, Seat]]:
        found = self._seats.get(domain.id)
        if found is None:
            found = self._seats[domain.id] = [
                (room, seat)
                for seat in domain.seats.values()
                if (room := self.on(seat, seat.free & seat.domains[domain.id]))
            ]
        return found

    def on(self, seat: Seat, mask: int) -> int:
        """Bundles that fit on one seat."""
        if self.needs.plain:
            return mask.bit_count() // self.size
        kind = self.needs.kind(seat, mask)
        return self.needs.room(kind) if kind is not None else 0

    def fill(self, domain: Domain, count: int) -> list[Pick]:
        """The nodes of a clique for `count` bundles: the fewest, then the tightest."""
        if self.by_index:
            shelves = {free: [seat for _, seat in shelf] for free, shelf in domain.stock.items() if free >= self.size}
            rooms = {free: free // self.size for free in shelves}
        else:
            shelves = {}
            for room, seat in self._of(domain):
                # One shelf for each (room, free), so that of equally roomy seats the fuller goes first.
                shelves.setdefault(room << 16 | (seat.free & seat.domains[domain.id]).bit_count(), []).append(seat)
            for shelf in shelves.values():
                shelf.sort(key=lambda seat: seat.key)
            rooms = {mark: mark >> 16 for mark in shelves}
        return [Pick(seat, seat.domains[domain.id], (n,)) for seat, n in _fewest(shelves, rooms, count)]

    def anywhere(self, count: int) -> list[Pick]:
        """Nodes of the whole cluster for `count` bundles, cliques forgotten; empty if there are not enough."""
        shelves: dict[int, list[Seat]] = {}
        total = 0
        most = 0
        for seat in self.inventory.seats.values():
            room = self.on(seat, seat.free)
            if room:
                shelves.setdefault(room << 16 | seat.free.bit_count(), []).append(seat)
                total += room
                most = max(most, room)
        if (most if self.scope.one_node else total) < count:
            return []
        for shelf in shelves.values():
            shelf.sort(key=lambda seat: seat.key)
        picks = _fewest(shelves, {mark: mark >> 16 for mark in shelves}, count)
        return [Pick(seat, seat.free, (n,)) for seat, n in picks]


def _fewest(shelves: dict[int, list[Seat]], rooms: dict[int, int], count: int) -> Iterator[tuple[Seat, int]]:
    """(seat, bundles): the roomiest seats until one takes all that is left, and that one the tightest."""
    marks = sorted(shelves)
    used = dict.fromkeys(marks, 0)
    while count:
        for mark in marks:
            if rooms[mark] >= count and used[mark] < len(shelves[mark]):
                yield shelves[mark][used[mark]], count
                return
        mark = next(m for m in reversed(marks) if used[m] < len(shelves[m]))
        yield shelves[mark][used[mark]], rooms[mark]
        used[mark] += 1
        count -= rooms[mark]
