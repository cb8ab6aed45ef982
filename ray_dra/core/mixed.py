"""Placing bundles of several sizes: exact search, bundles into nodes and segments into cliques.

Both levels use `packing.pack`. Cliques that look alike (the same kinds of nodes, as often) are one
type, and what a clique can hold is worked out once for each content.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence

from ray_dra.core.inventory import LOOSE, Domain, Inventory, Seat
from ray_dra.core.layout import NOTHING, Layout, Pick, Scope, candidates, exclusively, lay_out
from ray_dra.core.needs import Needs, SeatKind
from ray_dra.core.packing import BinType, Contents, Packing, pack

Kinds = tuple[tuple[SeatKind, int], ...]
"""How many nodes of each kind a clique has; the type of the clique."""


def place_mixed(inventory: Inventory, needs: Needs, scope: Scope) -> Layout:
    """Place a gang whose bundles differ."""
    search = _Search(needs, scope)
    if scope.anywhere:
        seats = [(seat, seat.free) for seat in inventory.seats.values()]
        packing = search.nodes(search.kinds(seats), needs.counts)
        if packing.bins is None:
            return Layout(None, proven=packing.proven)
        picks = search.picks(seats, needs.counts)
        return Layout(lay_out(needs, [(range(len(needs.request.bundles)), picks)]))
    if scope.cliques == 1:
        return _one_clique(inventory, needs, scope, search)
    return _several_cliques(inventory, needs, scope, search)


def _one_clique(inventory: Inventory, needs: Needs, scope: Scope, search: _Search) -> Layout:
    proven = True
    for domain in candidates(inventory, scope, needs.request.device_count):
        seats = _seats(domain)
        packing = search.nodes(search.kinds(seats), needs.counts)
        if packing.bins is not None:
            picks = search.picks(seats, needs.counts)
            everything = range(len(needs.request.bundles))
            return Layout(lay_out(needs, [(everything, picks)]), exclusively(scope, [domain.id]))
        proven = proven and packing.proven
    return Layout(None, proven=proven)


def _several_cliques(inventory: Inventory, needs: Needs, scope: Scope, search: _Search) -> Layout:
    """Segments into cliques; without segments each bundle is a segment of its own."""
    indices = range(len(needs.request.bundles))
    segments: dict[Contents, list[Sequence[int]]] = {}
    for start in range(0, len(indices), scope.segment):
        part = indices[start : start + scope.segment]
        segments.setdefault(search.tally(part), []).append(part)
    contents = sorted(segments, key=lambda c: (-sum(n * needs.classes[i].count for i, n in enumerate(c)), c))
    if not inventory.domains.keys() - {LOOSE}:
        return NOTHING
    domains: dict[Kinds, list[Domain]] = {}
    for domain in candidates(inventory, scope, 0):
        kinds = search.kinds(_seats(domain))
        if kinds:
            domains.setdefault(kinds, []).append(domain)
    types = [BinType(kinds, len(alike), (alike[0].free, i)) for i, (kinds, alike) in enumerate(domains.items())]
    unproven = False

    def fits(kind: int, held: Contents) -> bool:
        nonlocal unproven
        packing = search.nodes(list(domains)[kind], _together(contents, held))
        unproven = unproven or not packing.proven
        return packing.bins is not None

    packing = pack(tuple(len(segments[c]) for c in contents), types, fits, max_bins=scope.cliques)
    if packing.bins is None:
        return Layout(None, proven=packing.proven and not unproven)
    chosen = []
    spare = {i: iter(alike) for i, alike in enumerate(domains.values())}
    for kind, held in packing.bins:
        chosen.append((next(spare[kind]), held))
    groups = []
    waiting = {c: iter(parts) for c, parts in segments.items()}
    for domain, held in sorted(chosen, key=lambda c: c[0].key):
        parts = [next(waiting[c]) for c, n in zip(contents, held, strict=True) for _ in range(n)]
        picks = search.picks(_seats(domain), _together(contents, held))
        groups.append((sorted(i for part in parts for i in part), picks))
    return Layout(lay_out(needs, groups), exclusively(scope, (d.id for d, _ in chosen)))


class _Search:
    """Bundles into the nodes of one clique; remembers what it found for each type of clique."""

    def __init__(self, needs: Needs, scope: Scope) -> None:
        self.needs = needs
        self.most_nodes = 1 if scope.one_node else None
        self._packings: dict[tuple[Kinds, Contents], Packing] = {}

    def tally(self, indices: Sequence[int]) -> Contents:
        counts = Tally(self.needs.class_of[i] for i in indices)
        return tuple(counts.get(c, 0) for c in range(len(self.needs.classes)))

    def kinds(self, seats: Sequence[tuple[Seat, int]]) -> Kinds:
        counts = Tally(kind for seat, mask in seats if (kind := self.needs.kind(seat, mask)) is not None)
        return tuple(sorted(counts.items(), key=repr))

    def nodes(self, kinds: Kinds, contents: Contents) -> Packing:
        key = (kinds, contents)
        found = self._packings.get(key)
        if found is None:
            found = self._packings[key] = self._pack(kinds, contents)
        return found

    def _pack(self, kinds: Kinds, contents: Contents) -> Packing:
        rooms = [[count * self.needs.room(kind, c) for kind, count in kinds] for c in range(len(contents))]
        if any(sum(rooms[c]) < n for c, n in enumerate(contents)):
            return Packing(None)  # one class alone does not fit
        types = [BinType(kind, count, (_free(kind), i)) for i, (kind, count) in enumerate(kinds)]
        return pack(contents, types, lambda t, held: self.needs.fits(kinds[t][0], held), max_bins=self.most_nodes)

    def picks(self, seats: Sequence[tuple[Seat, int]], contents: Contents) -> list[Pick]:
        """The packing found for these seats, on the seats themselves, in topology order."""
        kinds = self.kinds(seats)
        packing = self.nodes(kinds, contents)
        assert packing.bins is not None
        alike: dict[SeatKind, list[tuple[Seat, int]]] = {}
        for seat, mask in sorted(seats, key=lambda s: s[0].key, reverse=True):
            kind = self.needs.kind(seat, mask)
            if kind is not None:
                alike.setdefault(kind, []).append((seat, mask))
        picks = []
        for kind_index, held in packing.bins:
            seat, mask = alike[kinds[kind_index][0]].pop()
            picks.append(Pick(seat, mask, held))
        return picks


def _seats(domain: Domain) -> list[tuple[Seat, int]]:
    return [(seat, seat.free & seat.domains[domain.id]) for seat in domain.seats.values()]


def _free(kind: SeatKind) -> int:
    """Free devices on a node of this kind, so that the tightest is preferred."""
    devices = kind[0]
    if isinstance(devices, int):
        return devices
    assert isinstance(devices, tuple)
    mask = devices[1]
    assert isinstance(mask, int)
    return mask.bit_count()


def _together(contents: Sequence[Contents], held: Contents) -> Contents:
    """Bundles of each class in so many segments of each kind."""
    width = len(contents[0])
    return tuple(sum(n * c[i] for c, n in zip(contents, held, strict=True)) for i in range(width))
