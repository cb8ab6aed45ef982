"""Placing bundles of several sizes: exact search, bundles into nodes and segments into cliques.

Both levels use `packing.pack`. Cliques that look alike (the same kinds of nodes, as often) are one
type, and what a clique can hold is worked out once for each content.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Sequence
from functools import cache

from ray_dra.core.cluster.clique_state import BundleShape, CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.device import Counter
from ray_dra.core.model.imex import Limits
from ray_dra.core.planner.fold import FoldedRequest, NodeClass
from ray_dra.core.planner.packing import BinType, Contents, Packing, pack
from ray_dra.core.planner.placement import Layout, NodeShare, exclusively, imex, lay_out
from ray_dra.core.planner.scope import Scope, tightest_first

CliqueClass = tuple[tuple[NodeClass, int], ...]
"""How many nodes of each kind a clique has; the type of the clique."""

SearchKey = tuple[CliqueClass, CliqueClass, bool]
"""A clique as the search sees it: all its nodes, those that a part over several nodes may use, and
whether such a part needs an IMEX domain."""


def place_unequal(inventory: Inventory, needs: FoldedRequest, scope: Scope) -> Layout:
    """Place a gang whose bundles differ."""
    search = Search(needs, scope, inventory.limits)
    if scope.anywhere:
        return _anywhere(inventory, needs, search)
    if scope.cliques == 1 or scope.one_node:
        return _one_clique(inventory, needs, scope, search)
    return _several_cliques(inventory, needs, scope, search)


def _anywhere(inventory: Inventory, needs: FoldedRequest, search: Search) -> Layout:
    spares = needs.request.preemptible
    node_states = [(seat, -1) for seat in inventory.node_states.values() if spares or not seat.node.spare]
    kinds = search.kinds(node_states)
    packing = search.nodes(kinds, needs.counts, search.most_nodes)
    if packing.bins is None:
        return Layout(None, proven=packing.proven)
    everything = range(len(needs.request.bundles))
    return Layout(lay_out(needs, [(everything, search.picks(node_states, kinds, packing))]))


def candidates(inventory: Inventory, needs: FoldedRequest, scope: Scope) -> list[CliqueState]:
    """Domains that may hold something of the gang, those with the fewest free devices first."""
    catalogs = [c for c in inventory.catalogs.values() if c.kind in scope.kinds and c.domains]
    whole = sum(b.count for b in needs.request.bundles if b.share is None)
    least = max(whole, 1) if scope.cliques == 1 or scope.one_node else 1
    found = [domain for _, domain in tightest_first(catalogs, BundleShape(1), least)] if catalogs else []
    if (least == 1 or not whole) and any(b.count == 0 or b.share for b in needs.classes):
        # Bundles without devices lie anywhere, and a clique without a free device may have parts of some.
        full = (d for c in catalogs for d in c.domains.values() if not d.free)
        found = sorted(full, key=lambda d: d.key) + found
    return [d for d in found if not scope.exclusive or d.idle]


def _one_clique(inventory: Inventory, needs: FoldedRequest, scope: Scope, search: Search) -> Layout:
    proven = True
    for domain in candidates(inventory, needs, scope):
        if needs.work.spent:
            return Layout(None, proven=False)
        look = search.look(domain)
        packing, several = search.clique(look, needs.counts)
        if packing.bins is not None:
            picks = search.picks(search.node_states(domain, several), look[1] if several else look[0], packing)
            everything = range(len(needs.request.bundles))
            counters = exclusively(scope, [domain]) + imex_of(needs, domain, picks, inventory.limits)
            return Layout(lay_out(needs, [(everything, picks)]), counters)
        proven = proven and packing.proven
    return Layout(None, proven=proven)


def _several_cliques(inventory: Inventory, needs: FoldedRequest, scope: Scope, search: Search) -> Layout:
    """Segments into cliques; without segments each bundle is a segment of its own."""
    indices = range(len(needs.request.bundles))
    segments: dict[Contents, list[Sequence[int]]] = {}
    for start in range(0, len(indices), scope.segment):
        part = indices[start : start + scope.segment]
        segments.setdefault(search.tally(part), []).append(part)
    contents = sorted(segments, key=lambda c: (-sum(n * needs.classes[i].count for i, n in enumerate(c)), c))
    together = gathering(contents)
    domains: dict[SearchKey, list[CliqueState]] = {}
    for domain in candidates(inventory, needs, scope):
        if needs.work.spent:
            return Layout(None, proven=False)
        look = search.look(domain)
        if look[0]:
            domains.setdefault(look, []).append(domain)
    looks = list(domains)
    types = [BinType(look, len(alike), (alike[0].free, i)) for i, (look, alike) in enumerate(domains.items())]
    unproven = False

    def fits(kind: int, held: Contents) -> bool:
        nonlocal unproven
        packing, _ = search.clique(looks[kind], together(held))
        unproven = unproven or not packing.proven
        return packing.bins is not None

    packing = pack(tuple(len(segments[c]) for c in contents), types, fits, needs.work, max_bins=scope.cliques)
    if packing.bins is None:
        return Layout(None, proven=packing.proven and not unproven)
    spare = {i: iter(alike) for i, alike in enumerate(domains.values())}
    chosen = [(next(spare[kind]), looks[kind], held) for kind, held in packing.bins]
    groups = []
    counters = exclusively(scope, (domain for domain, _, _ in chosen))
    waiting = {c: iter(parts) for c, parts in segments.items()}
    for domain, look, held in sorted(chosen, key=lambda c: c[0].key):
        parts = [next(waiting[c]) for c, n in zip(contents, held, strict=True) for _ in range(n)]
        found, several = search.clique(look, together(held))
        picks = search.picks(search.node_states(domain, several), look[1] if several else look[0], found)
        counters += imex_of(needs, domain, picks, inventory.limits)
        groups.append((sorted(i for part in parts for i in part), picks))
    return Layout(lay_out(needs, groups), counters)


def imex_of(
    needs: FoldedRequest, domain: CliqueState, picks: Sequence[NodeShare], limits: Limits
) -> tuple[tuple[Counter, int], ...]:
    """The IMEX domain of a part: of its nodes with devices, where there are several."""
    node_states = {
        p.seat for p in picks if any(n and b.devices for n, b in zip(p.contents, needs.classes, strict=True))
    }
    return imex(domain, sorted(node_states, key=lambda s: s.key), limits)


class Search:
    """Bundles into the nodes of one clique; remembers what it found for each type of clique."""

    def __init__(self, needs: FoldedRequest, scope: Scope, limits: Limits) -> None:
        self.needs = needs
        self.limits = limits
        self.class_of = needs.class_of
        self.most_nodes = 1 if scope.one_node else None
        self._packings: dict[tuple[CliqueClass, Contents, int | None], Packing] = {}

    def look(self, domain: CliqueState) -> SearchKey:
        bound = domain.fabric and self.limits.compute_domains
        everything = self.kinds(self.node_states(domain, False))
        if not bound:
            return (everything, everything, False)
        if self.limits.one_per_clique and domain.imex:
            return (everything, (), True)
        return (everything, self.kinds(self.node_states(domain, True)) if domain.imex else everything, True)

    def clique(self, look: SearchKey, contents: Contents) -> tuple[Packing, bool]:
        """A packing into one clique, and whether it is over nodes that may get an IMEX domain."""
        everything, several, bound = look
        if not bound or self.most_nodes == 1:
            return self.nodes(everything, contents, self.most_nodes), False
        packing = self.nodes(everything, contents, 1)
        if packing.bins is not None:
            return packing, False
        return self.nodes(several, contents, self.limits.domain_nodes), True

    def node_states(self, domain: CliqueState, several: bool) -> list[tuple[NodeState, int]]:
        """(seat, its devices here); `several`: those that a part over several nodes may use."""
        closed = domain.imex if several else 0
        return [
            (seat, seat.domains[domain.id])
            for at, seat in enumerate(domain.node_states)
            if domain.owner is None and not closed >> at & 1
        ]

    def tally(self, indices: Sequence[int]) -> Contents:
        counts = Tally(self.class_of[i] for i in indices)
        return tuple(counts.get(c, 0) for c in range(len(self.needs.classes)))

    def kinds(self, node_states: Sequence[tuple[NodeState, int]]) -> CliqueClass:
        counts: Tally[NodeClass] = Tally()
        for seat, members in node_states:
            kind = self.needs.kind(seat, members)
            if kind is not None:
                counts[kind] += 1
            if self.needs.work.spent:
                break  # no packing is looked for any more
        return tuple(sorted(counts.items(), key=repr))

    def nodes(self, kinds: CliqueClass, contents: Contents, most: int | None) -> Packing:
        """The bundles on at most so many nodes of these kinds."""
        key = (kinds, contents, most)
        found = self._packings.get(key)
        if found is None:
            found = self._packings[key] = self._pack(kinds, contents, most)
        return found

    def _pack(self, kinds: CliqueClass, contents: Contents, most: int | None) -> Packing:
        for c, n in enumerate(contents):
            room = 0
            if self.needs.work.spent:
                return Packing(None, proven=False)
            for kind, count in kinds:
                room += count * self.needs.room(kind, c) if room < n else 0
            if room < n:
                return Packing(None)  # this class alone does not fit
        types = [BinType(kind, count, (_free(kind), i)) for i, (kind, count) in enumerate(kinds)]
        return pack(contents, types, lambda t, held: self.needs.fits(kinds[t][0], held), self.needs.work, max_bins=most)

    def picks(
        self, node_states: Sequence[tuple[NodeState, int]], kinds: CliqueClass, packing: Packing
    ) -> list[NodeShare]:
        """The packing found for nodes of these kinds, on the seats themselves, in topology order."""
        assert packing.bins is not None
        alike: dict[NodeClass, list[tuple[NodeState, int]]] = {}
        for seat, members in sorted(node_states, key=lambda s: s[0].key, reverse=True):
            kind = self.needs.kind(seat, members)
            if kind is not None:
                alike.setdefault(kind, []).append((seat, members))
        picks = []
        for kind_index, held in packing.bins:
            seat, members = alike[kinds[kind_index][0]].pop()
            picks.append(NodeShare(seat, members, held))
        return picks


def _free(kind: NodeClass) -> int:
    """Free devices on a node of this kind, so that the tightest is preferred."""
    devices = kind[0]
    if isinstance(devices, int):
        return devices
    assert isinstance(devices, tuple)
    mask = devices[1]
    assert isinstance(mask, int)
    return mask.bit_count()


def gathering(contents: Sequence[Contents]) -> Callable[[Contents], Contents]:
    """A function that tells the bundles of each class in so many segments of each kind."""
    width = len(contents[0]) if contents else 0
    sparse = [[(i, n) for i, n in enumerate(content) if n] for content in contents]

    @cache  # the same few are asked for at every step of the search
    def together(held: Contents) -> Contents:
        found = [0] * width
        for many, content in zip(held, sparse, strict=True):
            if many:
                for i, n in content:
                    found[i] += many * n
        return tuple(found)

    return together
