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

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import EPSILON, NodeState
from ray_dra.core.model.allocation import Placed
from ray_dra.core.planner.fold import FoldedRequest, NodeClass
from ray_dra.core.planner.packing import Bins, BinType, Contents, Packing, pack
from ray_dra.core.planner.placement import Layout, NodeShare, exclusively, lay_out
from ray_dra.core.planner.scope import Scope
from ray_dra.core.planner.unequal import Search, SearchKey, candidates, gathering, imex_of

Part = tuple[CliqueState, Contents]
"""A clique and the bundles with devices that lie in it."""

Item = tuple[int, int]
"""A class, and which part it is in; -1 for a class without devices."""


def torn(inventory: Inventory, kinds: tuple[str, ...]) -> set[str]:
    """Domains of these kinds that have a node in common with another such domain."""
    found: set[str] = set()
    for seat in inventory.split.values():
        here = [d.id for d, _, _ in seat.parts if d.catalog is not None and d.catalog.kind in kinds]
        if len(here) > 1:
            found.update(here)
    return found


def overdrawn(inventory: Inventory, needs: FoldedRequest, layout: Layout) -> bool:
    """Whether a node that is in several domains has been given more than it has, a part in each."""
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
        seat = inventory.split[name]
        if needs.spread:
            return True
        for resource in needs.resources:
            if sum(p.resources.get(resource, 0.0) for p in placed) > seat.spare(resource) + EPSILON:
                return True
        if seat.counters:
            left = seat.counters_left()
            for grant in (g for p in placed for g in p.grants if g.amount is None):
                for counter, amount in seat.node.devices[grant.position].consumes:
                    left[counter] = left.get(counter, 0) - amount
            if any(amount < 0 for amount in left.values()):
                return True
    return False


def place_jointly(inventory: Inventory, needs: FoldedRequest, scope: Scope) -> Layout:
    """Place a gang that requires cliques, its bundles without devices wherever there is room."""
    return _Joint(inventory, needs, scope).place()


class _Node(NamedTuple):
    """What nodes that are alike have: the kind of their devices in each part, of all else, and whether in IMEX."""

    parts: tuple[tuple[int, NodeClass | None], ...]
    rest: NodeClass | None
    imex: bool


class _Joint:
    def __init__(self, inventory: Inventory, needs: FoldedRequest, scope: Scope) -> None:
        self.inventory, self.needs, self.scope = inventory, needs, scope
        self.search = Search(needs, scope, inventory.limits)
        self.bare = tuple(n if not bundle.devices else 0 for bundle, n in zip(needs.classes, needs.counts, strict=True))
        self.node_states = [s for s in inventory.node_states.values() if needs.request.preemptible or not s.node.spare]
        self.rest = {s: needs.kind(s, 0) for s in self.node_states} if needs.bare else {}
        self.proven = True

    def place(self) -> Layout:
        if not self._enough():
            return Layout(None)
        needs, scope, search = self.needs, self.scope, self.search
        step = len(needs.request.bundles) if scope.cliques == 1 else scope.segment
        segments: dict[Contents, list[Sequence[int]]] = {}
        for start in range(0, len(needs.request.bundles), step):
            part = [i for i in range(start, start + step) if needs.request.bundles[i].devices]
            if part:
                segments.setdefault(search.tally(part), []).append(part)
        contents = sorted(segments, key=lambda c: (-sum(n * needs.classes[i].count for i, n in enumerate(c)), c))
        together = gathering(contents)
        apart = torn(self.inventory, scope.kinds)
        domains: dict[tuple[SearchKey, str], list[CliqueState]] = {}
        for domain in candidates(self.inventory, needs, scope._replace(one_node=False)):  # one may hold a part
            if needs.work.spent:
                return Layout(None, proven=False)
            look = search.look(domain)
            if look[0]:
                domains.setdefault((look, domain.id if domain.id in apart else ""), []).append(domain)
        looks = [look for look, _ in domains]
        types = [BinType(look, len(alike), (alike[0].free, i)) for i, (look, alike) in enumerate(domains.items())]
        kept: list[tuple[CliqueState, Contents]] = []
        picks: list[list[NodeShare]] = []

        def fits(kind: int, held: Contents) -> bool:
            packing, _ = search.clique(looks[kind], together(held))
            self.proven = self.proven and packing.proven
            return packing.bins is not None

        def accept(bins: Bins) -> bool:
            spare = [iter(alike) for alike in domains.values()]
            used = [(kind, held) for (kind, held), n in sorted(bins.items()) for _ in range(n) if any(held)]
            kept[:] = [(next(spare[kind]), held) for kind, held in used]
            found = self._onto_nodes([(domain, together(held)) for domain, held in kept])
            picks[:] = found or ()
            return found is not None

        counts = tuple(len(segments[c]) for c in contents)
        packing = pack(counts, types, fits, needs.work, max_bins=scope.cliques, accept=accept)
        if packing.bins is None:
            return Layout(None, proven=packing.proven and self.proven)
        waiting = {c: iter(parts) for c, parts in segments.items()}
        groups: list[tuple[Sequence[int], Sequence[NodeShare]]] = []
        counters = exclusively(scope, (domain for domain, _ in kept))
        for (domain, held), here in zip(kept, picks, strict=False):
            parts = [next(waiting[c]) for c, n in zip(contents, held, strict=True) for _ in range(n)]
            groups.append((sorted(i for part in parts for i in part), here))
            counters += imex_of(needs, domain, here, self.inventory.limits)
        if any(self.bare):
            without = [i for i, bundle in enumerate(needs.request.bundles) if not bundle.devices]
            groups.append((without, picks[-1]))
        groups.sort(key=lambda group: group[1][0].seat.key)
        return Layout(lay_out(needs, groups), counters)

    def _enough(self) -> bool:
        """Whether all nodes together have what is wanted besides devices, and hold the bundles without devices."""
        needs = self.needs
        open_seats = [s for s in self.node_states if s.node.ready and s.name not in needs.request.exclude]
        for resource in needs.resources:
            wanted = sum(n * b.resources.get(resource, 0.0) for b, n in zip(needs.classes, needs.counts, strict=True))
            if sum(s.spare(resource) for s in open_seats) + EPSILON < wanted:
                return False
        if not any(self.bare):
            return True
        packing = self.search.nodes(self.search.kinds([(s, 0) for s in self.node_states]), self.bare, None)
        return packing.bins is not None or not packing.proven

    # -- bundles onto nodes

    def _onto_nodes(self, parts: Sequence[Part]) -> list[list[NodeShare]] | None:
        """Nodes for the bundles of every part, and at last for those without devices; None where they do not fit."""
        apart = torn(self.inventory, self.scope.kinds)
        if not any(domain.id in apart for domain, _ in parts) and not self.scope.one_node:
            found = self._one_by_one(parts)
            if found is not None:
                return found
        options: list[tuple[int, ...]] = []  # most nodes that a part may have: one; many, in an IMEX domain; any
        for domain, contents in parts:
            look = self.search.look(domain)
            if not look[2]:
                options.append((0,))
                continue
            one = self.search.nodes(look[0], contents, 1).bins is not None
            several = bool(look[1]) and self.inventory.limits.domain_nodes > 1
            options.append((*((1,) if one else ()), *((self.inventory.limits.domain_nodes,) if several else ())))
        for most in product(*options):
            found = self._pack(parts, most)
            if found is not None:
                return found
        return None

    def _one_by_one(self, parts: Sequence[Part]) -> list[list[NodeShare]] | None:
        """Each part where it lies best, then what has no devices beside them: quick, and most often enough."""
        needs, search = self.needs, self.search
        picks: list[list[NodeShare]] = []
        for domain, contents in parts:
            look = search.look(domain)
            packing, several = search.clique(look, contents)
            if packing.bins is None:
                return None
            picks.append(search.picks(search.node_states(domain, several), look[1] if several else look[0], packing))
        if not any(self.bare):
            return picks
        used: dict[NodeState, Contents] = {p.seat: p.contents for part in picks for p in part}
        nodes: dict[tuple[NodeClass, Contents], list[NodeState]] = {}
        nothing = (0,) * len(needs.classes)
        for seat in sorted(self.rest, key=lambda s: s.key):
            kind = self.rest[seat]
            if kind is not None:
                nodes.setdefault((kind, used.get(seat, nothing)), []).append(seat)
        kinds = list(nodes)
        types = [BinType(k, len(alike), (not any(k[1]), i)) for i, (k, alike) in enumerate(nodes.items())]

        def fits(kind: int, held: Contents) -> bool:
            rest, taken = kinds[kind]
            if needs.spread and sum(held) + sum(taken) > 1:
                return False
            spare = cast("tuple[float, ...]", rest[2])
            for at, resource in enumerate(needs.resources):
                amounts = (
                    b.resources.get(resource, 0.0) * (n + m) for b, n, m in zip(needs.classes, held, taken, strict=True)
                )
                if sum(amounts) > spare[at] + EPSILON:
                    return False
            return needs.fits(rest, held)

        packing = pack(self.bare, types, fits, needs.work)
        if packing.bins is None:
            return None
        free = [iter(alike) for alike in nodes.values()]
        picks.append([NodeShare(next(free[kind]), 0, held) for kind, held in packing.bins])
        return picks

    def _pack(self, parts: Sequence[Part], most: tuple[int, ...]) -> list[list[NodeShare]] | None:
        needs = self.needs
        items: list[Item] = []
        counts: list[int] = []
        for c, bare in enumerate(self.bare):
            here = [(-1, bare)] if bare else [(p, contents[c]) for p, (_, contents) in enumerate(parts)]
            for p, n in here:
                if n:
                    items.append((c, p))
                    counts.append(n)
        nodes = self._nodes(parts)
        types = [BinType(kind, len(alike), (not kind.parts, i)) for i, (kind, alike) in enumerate(nodes.items())]
        firsts = [alike[0] for alike in nodes.values()]
        known: dict[tuple[int, Contents], bool] = {}

        def fits(kind: int, held: Contents) -> bool:
            key = (kind, held)
            if key not in known:
                seat = firsts[kind]
                wide = {p for (_, p), n in zip(items, held, strict=True) if n and p >= 0 and most[p] > 1}
                known[key] = (not wide or (len(wide) == 1 and seat.imex is None)) and (
                    self._masks(seat, parts, items, held) is not None
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
            needs.work,
            max_bins=1 if self.scope.one_node else None,
            allowed=few_enough if any(most) else None,
        )
        self.proven = self.proven and packing.proven
        if packing.bins is None:
            return None
        picks: list[list[NodeShare]] = [[] for _ in range(len(parts) + any(self.bare))]
        free = [iter(alike) for alike in nodes.values()]
        for kind, held in packing.bins:
            seat = next(free[kind])
            masks = self._masks(seat, parts, items, held)
            assert masks is not None
            for p, chosen in masks.items():
                contents = _of_part(p, items, held, len(needs.classes))
                members = seat.domains[parts[p][0].id] if p >= 0 else 0
                picks[p].append(NodeShare(seat, members, contents, chosen))
        return picks

    def _nodes(self, parts: Sequence[Part]) -> dict[_Node, list[NodeState]]:
        """Nodes that the bundles may have, those that are alike together, in topology order."""
        mine: dict[NodeState, list[tuple[int, NodeClass | None]]] = {}
        for p, (domain, _) in enumerate(parts):
            for seat in domain.node_states:
                mine.setdefault(seat, []).append((p, self.needs.kind(seat, seat.domains[domain.id])))
        found: dict[_Node, list[NodeState]] = {}
        for seat in sorted({**dict.fromkeys(mine), **dict.fromkeys(self.rest)}, key=lambda s: s.key):
            kind = _Node(tuple(mine.get(seat, ())), self.rest.get(seat), seat.imex is not None)
            if kind.rest is not None or any(k is not None for _, k in kind.parts):
                found.setdefault(kind, []).append(seat)
        return found

    def _masks(
        self, seat: NodeState, parts: Sequence[Part], items: Sequence[Item], held: Contents
    ) -> dict[int, tuple[int, ...]] | None:
        """Devices of each part's bundles on a node, class by class; None where the node does not hold them all."""
        needs = self.needs
        if needs.spread and sum(held) > 1:
            return None
        for resource in needs.resources:
            wanted = sum(
                n * needs.classes[c].resources.get(resource, 0.0) for (c, _), n in zip(items, held, strict=True)
            )
            if wanted > seat.spare(resource) + EPSILON:
                return None
        found: dict[int, tuple[int, ...]] = {}
        for p in sorted({p for (_, p), n in zip(items, held, strict=True) if n}):
            contents = _of_part(p, items, held, len(needs.classes))
            members = seat.domains.get(parts[p][0].id, 0) if p >= 0 else 0
            kind = needs.kind(seat, members)
            if kind is None or not needs.fits(kind, contents):
                return None
            masks = needs.split(seat, members, contents)
            if masks is None:
                return None
            found[p] = masks
        return self._sharing(seat, parts, items, held) if seat.counters and len(found) > 1 else found

    def _sharing(
        self, seat: NodeState, parts: Sequence[Part], items: Sequence[Item], held: Contents
    ) -> dict[int, tuple[int, ...]] | None:
        """The same where devices of several parts use up the same counters: all of them chosen at once."""
        needs = self.needs
        order = [
            (p, c) for (c, p), n in sorted(zip(items, held, strict=True), key=lambda i: i[0][::-1]) for _ in range(n)
        ]
        of = [
            needs.usable(seat, seat.free & seat.domains[parts[p][0].id], c) if p >= 0 else seat.free for p, c in order
        ]
        chosen = seat.split(seat.free, tuple(needs.classes[c].count for _, c in order), needs.connect, tuple(of))
        if chosen is None:
            return None
        found: dict[int, tuple[int, ...]] = {}
        for (p, _), mask in zip(order, chosen, strict=True):
            found[p] = (*found.get(p, ()), mask)
        return found


def _of_part(part: int, items: Sequence[Item], held: Contents, classes: int) -> Contents:
    """Bundles of each class that a node holds of one part."""
    contents = [0] * classes
    for (c, p), n in zip(items, held, strict=True):
        if p == part:
            contents[c] = n
    return tuple(contents)
