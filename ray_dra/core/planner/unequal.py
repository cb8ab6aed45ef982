"""Placing bundles of several sizes: exact search, bundles into nodes and segments into cliques.

Both levels use `packing.pack`. Cliques with as many nodes of each class (`CliqueClass`) are one type, and what
a clique of a type can hold is worked out once for each content.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations, islice
from operator import attrgetter, itemgetter

from ray_dra.core.cluster.bundle_shape import BundleShape
from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import ALL_DEVICES, NodeState
from ray_dra.core.model.device import Counter
from ray_dra.core.model.imex import Limits
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.levels import LevelDomains, limit_of, rounds
from ray_dra.core.planner.node_class import NodeClass
from ray_dra.core.planner.packing import BinType, Contents, Packing, pack
from ray_dra.core.planner.placement import Layout, NodeShare, exclusively, imex_counters, lay_out
from ray_dra.core.planner.scope import Scope, tightest_first

CliqueClass = tuple[tuple[NodeClass, int], ...]
"""How many nodes of each class a clique has; the type of the clique."""

MOST_CHOICES = 1_000
"""Choices of several domains of a level that are looked at for one place."""

SearchKey = tuple[CliqueClass, CliqueClass, bool]
"""A clique as the search sees it: all its nodes, those that a part over several nodes may use, and
whether such a part needs an IMEX domain."""


def place_unequal(inventory: Inventory, folded: FoldedRequest, scope: Scope) -> Layout:
    """Place a gang whose bundles differ."""
    search = Search(folded, scope, inventory.limits)
    if scope.anywhere:
        return _anywhere(inventory, folded, search)
    if scope.cliques == 1 or scope.one_node:
        return _one_clique(inventory, folded, scope, search)
    return _several_cliques(inventory, folded, scope, search)


def _anywhere(inventory: Inventory, folded: FoldedRequest, search: Search) -> Layout:
    spares = folded.request.preemptible
    node_states = [(state, ALL_DEVICES) for state in inventory.node_states.values() if spares or not state.node.spare]
    node_classes = search.clique_class(node_states)
    packing = search.nodes(node_classes, folded.counts, search.most_nodes)
    if packing.bins is None:
        return Layout(None, proven=packing.proven)
    everything = range(len(folded.request.bundles))
    return Layout(lay_out(folded, [(everything, search.node_shares(node_states, node_classes, packing))]))


def candidates(inventory: Inventory, folded: FoldedRequest, scope: Scope) -> list[CliqueState]:
    """Cliques that may hold something of the gang, those with the fewest free devices first."""
    orders = [c for c in inventory.orders.values() if c.kind in scope.kinds and c.cliques]
    whole = sum(b.whole_devices * n for b, n in zip(folded.classes, folded.counts, strict=True))
    least = max(whole, 1) if scope.cliques == 1 or scope.one_node else 1
    found = [clique for _, clique in tightest_first(orders, BundleShape(1), least)] if orders else []
    if (least == 1 or not whole) and any(not b.whole_devices for b in folded.classes):
        # Bundles without devices lie anywhere, and a clique without a free device may have parts of some.
        full = (clique for order in orders for clique in order.cliques.values() if not clique.free)
        found = sorted(full, key=attrgetter("key")) + found
    return [clique for clique in found if clique.idle] if scope.exclusive else found


def _one_clique(inventory: Inventory, folded: FoldedRequest, scope: Scope, search: Search) -> Layout:
    proven = True
    for clique in candidates(inventory, folded, scope):
        if folded.work.spent:
            return Layout(None, proven=False)
        key = search.key(clique)
        packing, several = search.clique(key, folded.counts)
        if packing.bins is not None:
            node_shares = search.node_shares(
                search.node_states(clique, several), key[1] if several else key[0], packing
            )
            everything = range(len(folded.request.bundles))
            counters = exclusively(scope, [clique]) + imex_counters_of(folded, clique, node_shares, inventory.limits)
            return Layout(lay_out(folded, [(everything, node_shares)]), counters)
        proven = proven and packing.proven
    return Layout(None, proven=proven)


def _several_cliques(inventory: Inventory, folded: FoldedRequest, scope: Scope, search: Search) -> Layout:
    """Segments into cliques; without segments each bundle is a segment of its own. What fits at all is looked for in a
    domain of the lowest level that holds it, too, with half of the work that is left."""
    found = candidates(inventory, folded, scope)
    layout = _into_cliques(inventory, folded, scope, search, found)
    if layout.bundles is None or inventory.split or not inventory.leveled:
        return layout
    wanted = sum(b.whole_devices * n for b, n in zip(folded.classes, folded.counts, strict=True))
    enough = folded.work.left // 2
    limit = limit_of(inventory, folded.request.locality)
    for most, choices in rounds(inventory, found, lambda clique: clique, limit):
        for there in _by_free(choices, most, wanted):
            if folded.work.left <= enough:
                return layout
            near = _into_cliques(inventory, folded, scope, search, there)
            if near.bundles is not None:
                return near
    return layout


def _by_free(
    choices: Sequence[tuple[str, LevelDomains[CliqueState]]], most: int, wanted: int
) -> Iterator[list[CliqueState]]:
    """The cliques of so many domains at most that have so many free devices: the fewest domains first, of as many the
    least room. One domain after the other is looked at, of more of them the first `MOST_CHOICES` choices."""
    for count in range(1, most + 1):
        found = []
        for name, there in choices:
            for chosen in islice(combinations(there, count), None if count == 1 else MOST_CHOICES):
                cliques = [clique for _, some in chosen for clique in some]
                if (total := sum(clique.free for clique in cliques)) >= wanted:
                    found.append((total, name, cliques))
        found.sort(key=itemgetter(0, 1))
        for _, _, cliques in found:
            yield cliques


def _into_cliques(
    inventory: Inventory, folded: FoldedRequest, scope: Scope, search: Search, among: Sequence[CliqueState]
) -> Layout:
    """Segments into these cliques."""
    indices = range(len(folded.request.bundles))
    segments: dict[Contents, list[Sequence[int]]] = {}
    for start in range(0, len(indices), scope.segment):
        part = indices[start : start + scope.segment]
        segments.setdefault(search.tally(part), []).append(part)
    sizes = [(b.share or 0) if folded.sharing is not None else b.count for b in folded.classes]
    contents = sorted(segments, key=lambda c: (-sum(n * sizes[i] for i, n in enumerate(c)), c))
    together = gathering(contents)
    cliques: dict[SearchKey, list[CliqueState]] = {}
    for clique in among:
        if folded.work.spent:
            return Layout(None, proven=False)
        key = search.key(clique)
        if key[0]:
            cliques.setdefault(key, []).append(clique)
    keys = list(cliques)
    types = [BinType(key, len(alike), (alike[0].free, i)) for i, (key, alike) in enumerate(cliques.items())]
    unproven = False

    def fits(bin_type: int, held: Contents) -> bool:
        nonlocal unproven
        packing, _ = search.clique(keys[bin_type], together(held))
        unproven = unproven or not packing.proven
        return packing.bins is not None

    packing = pack(tuple(len(segments[c]) for c in contents), types, fits, folded.work, max_bins=scope.cliques)
    if packing.bins is None:
        return Layout(None, proven=packing.proven and not unproven)
    unused = {i: iter(alike) for i, alike in enumerate(cliques.values())}
    chosen = [(next(unused[bin_type]), keys[bin_type], held) for bin_type, held in packing.bins]
    groups = []
    counters = exclusively(scope, (clique for clique, _, _ in chosen))
    waiting = {c: iter(parts) for c, parts in segments.items()}
    for clique, key, held in sorted(chosen, key=lambda c: c[0].key):
        parts = [next(waiting[c]) for c, n in zip(contents, held, strict=True) for _ in range(n)]
        found, several = search.clique(key, together(held))
        node_shares = search.node_shares(search.node_states(clique, several), key[1] if several else key[0], found)
        counters += imex_counters_of(folded, clique, node_shares, inventory.limits)
        groups.append((sorted(i for part in parts for i in part), node_shares))
    return Layout(lay_out(folded, groups), counters)


def imex_counters_of(
    folded: FoldedRequest, clique: CliqueState, node_shares: Sequence[NodeShare], limits: Limits
) -> tuple[tuple[Counter, int], ...]:
    """The IMEX domain of a part: of its nodes with devices, where there are several. Shares say nothing of NVLink."""
    if folded.sharing is not None:
        return ()
    node_states = {
        p.state for p in node_shares if any(n and b.devices for n, b in zip(p.contents, folded.classes, strict=True))
    }
    return imex_counters(clique, sorted(node_states, key=lambda s: s.key), limits)


class Search:
    """Bundles into the nodes of one clique; remembers what it found for each type of clique."""

    def __init__(self, folded: FoldedRequest, scope: Scope, limits: Limits) -> None:
        self.folded = folded
        self.limits = limits
        self.class_of = folded.class_of
        self.classes = folded.node_classes
        self.most_nodes = 1 if scope.one_node else None
        self._packings: dict[tuple[CliqueClass, Contents, int | None], Packing] = {}

    def key(self, clique: CliqueState) -> SearchKey:
        bound = clique.fabric and self.limits.compute_domains
        everything = self.clique_class(self.node_states(clique, False))
        if not bound:
            return (everything, everything, False)
        if self.limits.one_per_clique and clique.imex_nodes:
            return (everything, (), True)
        return (
            everything,
            self.clique_class(self.node_states(clique, True)) if clique.imex_nodes else everything,
            True,
        )

    def clique(self, key: SearchKey, contents: Contents) -> tuple[Packing, bool]:
        """A packing into one clique, and whether it is over nodes that may get an IMEX domain."""
        everything, several, bound = key
        if not bound or self.most_nodes == 1:
            return self.nodes(everything, contents, self.most_nodes), False
        packing = self.nodes(everything, contents, 1)
        if packing.bins is not None:
            return packing, False
        return self.nodes(several, contents, self.limits.domain_nodes), True

    def node_states(self, clique: CliqueState, several: bool) -> list[tuple[NodeState, int]]:
        """(node, its devices here); `several`: those that a part over several nodes may use."""
        closed = clique.imex_nodes if several else 0
        return [
            (state, state.members[clique.id])
            for at, state in enumerate(clique.node_states)
            if clique.owner is None and not closed >> at & 1
        ]

    def tally(self, indices: Sequence[int]) -> Contents:
        counts = Tally(self.class_of[i] for i in indices)
        return tuple(counts.get(c, 0) for c in range(len(self.folded.classes)))

    def clique_class(self, node_states: Sequence[tuple[NodeState, int]]) -> CliqueClass:
        counts: Tally[NodeClass] = Tally()
        for state, members in node_states:
            node_class = self.classes.of(state, members)
            if node_class is not None:
                counts[node_class] += 1
            if self.folded.work.spent:
                break  # no packing is looked for any more
        return tuple(sorted(counts.items(), key=repr))

    def nodes(self, node_classes: CliqueClass, contents: Contents, most: int | None) -> Packing:
        """The bundles on at most so many nodes of these classes."""
        key = (node_classes, contents, most)
        found = self._packings.get(key)
        if found is None:
            found = self._packings[key] = self._pack(node_classes, contents, most)
        return found

    def _pack(self, node_classes: CliqueClass, contents: Contents, most: int | None) -> Packing:
        for c, n in enumerate(contents):
            capacity = 0
            if self.folded.work.spent:
                return Packing(None, proven=False)
            for node_class, count in node_classes:
                capacity += count * self.classes.capacity(node_class, c) if capacity < n else 0
            if capacity < n:
                return Packing(None)  # this class alone does not fit
        types = [
            BinType(node_class, count, (_free(node_class), i)) for i, (node_class, count) in enumerate(node_classes)
        ]
        return pack(
            contents,
            types,
            lambda t, held: self.classes.fits(node_classes[t][0], held),
            self.folded.work,
            max_bins=most,
        )

    def node_shares(
        self, node_states: Sequence[tuple[NodeState, int]], node_classes: CliqueClass, packing: Packing
    ) -> list[NodeShare]:
        """The packing found for nodes of these classes, on the nodes themselves, in topology order."""
        assert packing.bins is not None
        alike: dict[NodeClass, list[tuple[NodeState, int]]] = {}
        for state, members in sorted(node_states, key=lambda s: s[0].key, reverse=True):
            node_class = self.classes.of(state, members)
            if node_class is not None:
                alike.setdefault(node_class, []).append((state, members))
        node_shares = []
        for bin_type, held in packing.bins:
            state, members = alike[node_classes[bin_type][0]].pop()
            node_shares.append(NodeShare(state, members, held))
        return node_shares


def _free(node_class: NodeClass) -> int:
    """Free devices on a node of this class, so that the tightest is preferred."""
    devices = node_class[0]
    if isinstance(devices, int):
        return devices
    assert isinstance(devices, tuple)
    mask = devices[1]
    assert isinstance(mask, int)
    return mask.bit_count()


def gathering(contents: Sequence[Contents]) -> Callable[[Contents], Contents]:
    """A function that tells the bundles of each class in so many segments of each content."""
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
