"""Cliques looked at together: where bundles of one node meet, though the cliques they are in are looked at one by one.

The other ways of placing take clique after clique, and what a node has besides devices (CPUs, its place in an IMEX
domain, that STRICT_SPREAD gives it one bundle) is counted in each. That is exact unless a node is in two of the
cliques, or bundles without devices, which lie anywhere, want the same nodes. `overdrawn` sees the first after the fact,
which is rare; `place_jointly` decides both:

    segments into cliques     as in `unequal.py`: each clique for itself, which is necessary
    then, for each way found  all bundles onto all nodes at once, every node counted once
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple, cast

from ray_dra.core.cluster.clique_state import CliqueKind, CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import EPSILON, CliqueKey, NodeState
from ray_dra.core.model.allocation import Placed
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.node_class import NodeClass
from ray_dra.core.planner.packing import Bins, BinType, Contents, Packing, pack
from ray_dra.core.planner.placement import Layout, NodeShare, exclusively, lay_out
from ray_dra.core.planner.scope import Scope
from ray_dra.core.planner.unequal import Search, SearchKey, candidates, gathering, imex_counters_of

Part = tuple[CliqueState, Contents]
"""A clique and the bundles with devices that lie in it."""

Item = tuple[int, int]
"""A class, and which part it is in; -1 for a class without devices."""


def torn(inventory: Inventory, kinds: tuple[CliqueKind, ...]) -> set[CliqueKey]:
    """Cliques of these kinds that have a node in common with another such clique."""
    found: set[CliqueKey] = set()
    for state in inventory.split.values():
        here = [i for i in state.members if inventory.clique_states[i].kind in kinds]
        if len(here) > 1:
            found.update(here)
    return found


def overdrawn(inventory: Inventory, folded: FoldedRequest, layout: Layout) -> bool:
    """Whether a node that is in several cliques has been given more than it has, a part in each."""
    assert layout.bundles is not None
    if len(set(layout.counters)) < len(layout.counters):
        return True  # in two IMEX domains
    by_node: dict[str, list[Placed]] = {}
    for each in layout.bundles:
        if each.node in inventory.split:
            by_node.setdefault(each.node, []).append(each)
    for name, placed in by_node.items():
        if len(placed) < 2:
            continue
        state = inventory.split[name]
        if folded.spread:
            return True
        for resource in folded.resources:
            if sum(p.resources.get(resource, 0.0) for p in placed) > state.left(resource) + EPSILON:
                return True
    return False


def place_jointly(inventory: Inventory, folded: FoldedRequest, scope: Scope) -> Layout:
    """Place a gang that requires cliques, its bundles without devices wherever there is room."""
    return _Joint(inventory, folded, scope).place()


class _Node(NamedTuple):
    """What nodes that are alike have: the class of their devices in each part, of all else, and whether in IMEX."""

    parts: tuple[tuple[int, NodeClass | None], ...]
    rest: NodeClass | None
    in_imex: bool


class _Joint:
    def __init__(self, inventory: Inventory, folded: FoldedRequest, scope: Scope) -> None:
        self.inventory, self.folded, self.scope = inventory, folded, scope
        self.search = Search(folded, scope, inventory.limits)
        self.bare = tuple(
            n if not bundle.devices else 0 for bundle, n in zip(folded.classes, folded.counts, strict=True)
        )
        self.node_states = [s for s in inventory.node_states.values() if folded.request.preemptible or not s.node.spare]
        self.rest = {s: self.search.classes.of(s, 0) for s in self.node_states} if folded.bare else {}
        self.proven = True

    def place(self) -> Layout:
        if not self._enough():
            return Layout(None)
        folded, scope, search = self.folded, self.scope, self.search
        step = len(folded.request.bundles) if scope.cliques == 1 else scope.segment
        segments: dict[Contents, list[Sequence[int]]] = {}
        for start in range(0, len(folded.request.bundles), step):
            part = [i for i in range(start, start + step) if folded.request.bundles[i].devices]
            if part:
                segments.setdefault(search.tally(part), []).append(part)
        contents = sorted(segments, key=lambda c: (-sum(n * folded.classes[i].count for i, n in enumerate(c)), c))
        together = gathering(contents)
        apart = torn(self.inventory, scope.kinds)
        cliques: dict[tuple[SearchKey, CliqueKey], list[CliqueState]] = {}
        for clique in candidates(self.inventory, folded, scope._replace(one_node=False)):  # one may hold a part
            if folded.work.spent:
                return Layout(None, proven=False)
            key = search.key(clique)
            if key[0]:
                cliques.setdefault((key, clique.id if clique.id in apart else ""), []).append(clique)
        keys = [key for key, _ in cliques]
        types = [BinType(key, len(alike), (alike[0].free, i)) for i, (key, alike) in enumerate(cliques.items())]
        kept: list[tuple[CliqueState, Contents]] = []
        node_shares: list[list[NodeShare]] = []

        def fits(bin_type: int, held: Contents) -> bool:
            packing, _ = search.clique(keys[bin_type], together(held))
            self.proven = self.proven and packing.proven
            return packing.bins is not None

        def accept(bins: Bins) -> bool:
            unused = [iter(alike) for alike in cliques.values()]
            used = [(bin_type, held) for (bin_type, held), n in sorted(bins.items()) for _ in range(n) if any(held)]
            kept[:] = [(next(unused[bin_type]), held) for bin_type, held in used]
            found = self._onto_nodes([(clique, together(held)) for clique, held in kept])
            node_shares[:] = found or ()
            return found is not None

        counts = tuple(len(segments[c]) for c in contents)
        packing = pack(counts, types, fits, folded.work, max_bins=scope.cliques, accept=accept)
        if packing.bins is None:
            return Layout(None, proven=packing.proven and self.proven)
        waiting = {c: iter(parts) for c, parts in segments.items()}
        groups: list[tuple[Sequence[int], Sequence[NodeShare]]] = []
        counters = exclusively(scope, (clique for clique, _ in kept))
        for (clique, held), here in zip(kept, node_shares, strict=False):
            parts = [next(waiting[c]) for c, n in zip(contents, held, strict=True) for _ in range(n)]
            groups.append((sorted(i for part in parts for i in part), here))
            counters += imex_counters_of(folded, clique, here, self.inventory.limits)
        if any(self.bare):
            without = [i for i, bundle in enumerate(folded.request.bundles) if not bundle.devices]
            groups.append((without, node_shares[-1]))
        groups.sort(key=lambda group: group[1][0].state.key)
        return Layout(lay_out(folded, groups), counters)

    def _enough(self) -> bool:
        """Whether all nodes together have what is wanted besides devices, and hold the bundles without devices."""
        folded = self.folded
        open_nodes = [s for s in self.node_states if s.node.ready and s.name not in folded.request.exclude]
        for resource in folded.resources:
            wanted = sum(n * b.resources.get(resource, 0.0) for b, n in zip(folded.classes, folded.counts, strict=True))
            if sum(s.left(resource) for s in open_nodes) + EPSILON < wanted:
                return False
        if not any(self.bare):
            return True
        packing = self.search.nodes(self.search.clique_class([(s, 0) for s in self.node_states]), self.bare, None)
        return packing.bins is not None or not packing.proven

    # -- bundles onto nodes

    def _onto_nodes(self, parts: Sequence[Part]) -> list[list[NodeShare]] | None:
        """Nodes for the bundles of every part, and at last for those without devices; None where they do not fit."""
        apart = torn(self.inventory, self.scope.kinds)
        if not any(clique.id in apart for clique, _ in parts) and not self.scope.one_node:
            found = self._one_by_one(parts)
            if found is not None:
                return found
        options: list[tuple[int, ...]] = []  # most nodes that a part may have: one; many, in an IMEX domain; any
        for clique, contents in parts:
            key = self.search.key(clique)
            if not key[2]:
                options.append((0,))
                continue
            one = self.search.nodes(key[0], contents, 1).bins is not None
            options.append((*((1,) if one else ()), *((self.inventory.limits.domain_nodes,) if key[1] else ())))
        for most in product(*options):
            found = self._pack(parts, most)
            if found is not None:
                return found
        return None

    def _one_by_one(self, parts: Sequence[Part]) -> list[list[NodeShare]] | None:
        """Each part where it lies best, then what has no devices beside them: quick, and most often enough."""
        folded, search = self.folded, self.search
        node_shares: list[list[NodeShare]] = []
        for clique, contents in parts:
            key = search.key(clique)
            packing, several = search.clique(key, contents)
            if packing.bins is None:
                return None
            node_shares.append(
                search.node_shares(search.node_states(clique, several), key[1] if several else key[0], packing)
            )
        if not any(self.bare):
            return node_shares
        used: dict[NodeState, Contents] = {p.state: p.contents for part in node_shares for p in part}
        nodes: dict[tuple[NodeClass, Contents], list[NodeState]] = {}
        nothing = (0,) * len(folded.classes)
        for state in sorted(self.rest, key=lambda s: s.key):
            node_class = self.rest[state]
            if node_class is not None:
                nodes.setdefault((node_class, used.get(state, nothing)), []).append(state)
        node_classes = list(nodes)
        types = [BinType(k, len(alike), (not any(k[1]), i)) for i, (k, alike) in enumerate(nodes.items())]

        def fits(bin_type: int, held: Contents) -> bool:
            rest, taken = node_classes[bin_type]
            if folded.spread and sum(held) + sum(taken) > 1:
                return False
            left = cast("tuple[float, ...]", rest[2])
            for at, resource in enumerate(folded.resources):
                amounts = (
                    b.resources.get(resource, 0.0) * (n + m)
                    for b, n, m in zip(folded.classes, held, taken, strict=True)
                )
                if sum(amounts) > left[at] + EPSILON:
                    return False
            return self.search.classes.fits(rest, held)

        packing = pack(self.bare, types, fits, folded.work)
        if packing.bins is None:
            return None
        free = [iter(alike) for alike in nodes.values()]
        node_shares.append([NodeShare(next(free[bin_type]), 0, held) for bin_type, held in packing.bins])
        return node_shares

    def _pack(self, parts: Sequence[Part], most: tuple[int, ...]) -> list[list[NodeShare]] | None:
        folded = self.folded
        items: list[Item] = []
        counts: list[int] = []
        for c, bare in enumerate(self.bare):
            here = [(-1, bare)] if bare else [(p, contents[c]) for p, (_, contents) in enumerate(parts)]
            for p, n in here:
                if n:
                    items.append((c, p))
                    counts.append(n)
        nodes = self._nodes(parts)
        types = [
            BinType(node_class, len(alike), (not node_class.parts, i))
            for i, (node_class, alike) in enumerate(nodes.items())
        ]
        firsts = [alike[0] for alike in nodes.values()]
        known: dict[tuple[int, Contents], bool] = {}

        def fits(bin_type: int, held: Contents) -> bool:
            key = (bin_type, held)
            if key not in known:
                state = firsts[bin_type]
                wide = {p for (_, p), n in zip(items, held, strict=True) if n and p >= 0 and most[p] > 1}
                known[key] = (not wide or (len(wide) == 1 and state.imex_gang is None)) and (
                    self._masks(state, parts, items, held) is not None
                )
            return known[key]

        def few_enough(bins: Bins) -> bool:
            used = [0] * len(parts)
            for (_, held), n in bins.items():
                for p in {p for (_, p), many in zip(items, held, strict=True) if many and p >= 0}:
                    used[p] += n
            return all(not limit or n <= limit for n, limit in zip(used, most, strict=True))

        packing: Packing = pack(
            tuple(counts),
            types,
            fits,
            folded.work,
            max_bins=1 if self.scope.one_node else None,
            allowed=few_enough if any(most) else None,
        )
        self.proven = self.proven and packing.proven
        if packing.bins is None:
            return None
        node_shares: list[list[NodeShare]] = [[] for _ in range(len(parts) + any(self.bare))]
        free = [iter(alike) for alike in nodes.values()]
        for bin_type, held in packing.bins:
            state = next(free[bin_type])
            masks = self._masks(state, parts, items, held)
            assert masks is not None
            for p, chosen in masks.items():
                contents = _of_part(p, items, held, len(folded.classes))
                members = state.members[parts[p][0].id] if p >= 0 else 0
                node_shares[p].append(NodeShare(state, members, contents, chosen))
        return node_shares

    def _nodes(self, parts: Sequence[Part]) -> dict[_Node, list[NodeState]]:
        """Nodes that the bundles may have, those that are alike together, in topology order."""
        mine: dict[NodeState, list[tuple[int, NodeClass | None]]] = {}
        for p, (clique, _) in enumerate(parts):
            for state in clique.node_states:
                mine.setdefault(state, []).append((p, self.search.classes.of(state, state.members[clique.id])))
        found: dict[_Node, list[NodeState]] = {}
        for state in sorted({**dict.fromkeys(mine), **dict.fromkeys(self.rest)}, key=lambda s: s.key):
            node_class = _Node(tuple(mine.get(state, ())), self.rest.get(state), state.imex_gang is not None)
            if node_class.rest is not None or any(k is not None for _, k in node_class.parts):
                found.setdefault(node_class, []).append(state)
        return found

    def _masks(
        self, state: NodeState, parts: Sequence[Part], items: Sequence[Item], held: Contents
    ) -> dict[int, tuple[int, ...]] | None:
        """Devices of each part's bundles on a node, class by class; None where the node does not hold them all."""
        folded = self.folded
        if folded.spread and sum(held) > 1:
            return None
        for resource in folded.resources:
            wanted = sum(
                n * folded.classes[c].resources.get(resource, 0.0) for (c, _), n in zip(items, held, strict=True)
            )
            if wanted > state.left(resource) + EPSILON:
                return None
        found: dict[int, tuple[int, ...]] = {}
        for p in sorted({p for (_, p), n in zip(items, held, strict=True) if n}):
            contents = _of_part(p, items, held, len(folded.classes))
            members = state.members.get(parts[p][0].id, 0) if p >= 0 else 0
            node_class = self.search.classes.of(state, members)
            if node_class is None or not self.search.classes.fits(node_class, contents):
                return None
            masks = self.search.classes.split(state, members, contents)
            if masks is None:
                return None
            found[p] = masks
        return found


def _of_part(part: int, items: Sequence[Item], held: Contents, classes: int) -> Contents:
    """Bundles of each class that a node holds of one part."""
    contents = [0] * classes
    for (c, p), n in zip(items, held, strict=True):
        if p == part:
            contents[c] = n
    return tuple(contents)
