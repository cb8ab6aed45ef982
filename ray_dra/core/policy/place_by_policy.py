"""Placing equal bundles by a policy's scores instead of the index. Neighbour of `equal.py`.

What is allowed is worked out by the same code; only the choice differs. So the domains of levels above cliques are
tried in the order of `planner/levels.py`, and the policy chooses among those that hold the gang.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import ALL_DEVICES, NodeState
from ray_dra.core.model.allocation import Placed
from ray_dra.core.planner.capacity import Capacities, NodeCounts
from ray_dra.core.planner.equal import lay_out_equal, place_bundles
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.levels import LevelDomains, Share, limit_of, rounds
from ray_dra.core.planner.placement import NOTHING, Layout
from ray_dra.core.planner.scope import Scope
from ray_dra.core.policy.base import Policy, Score


def place_by_policy(inventory: Inventory, folded: FoldedRequest, scope: Scope, policy: Policy) -> Layout:
    """Place a gang of one class of bundles where the policy scores lowest."""
    total = folded.counts[0]
    if scope.anywhere:
        return _one_by_one(inventory, folded, policy, total)
    if not policy.by_clique or (scope.one_node and total > 1):
        return NOTHING  # the next scope is more to the point
    capacities = Capacities(inventory, folded, scope)
    if total == 1:
        return _single(capacities, folded, policy)
    parts = _choose(capacities, total, scope, policy)
    if parts is None:
        return NOTHING
    parts.sort(key=lambda part: part[0].key)
    return lay_out_equal(capacities, [(clique, _fill(capacities, clique, count, policy)) for clique, count in parts])


def _single(capacities: Capacities, folded: FoldedRequest, policy: Policy) -> Layout:
    best: tuple[Score, str, CliqueState, NodeState] | None = None
    for order in capacities.orders:
        for clique in order.cliques.values():
            for state in clique.node_states if capacities.offers(clique) else ():
                if folded.capacity(state, state.members[clique.id]):
                    found = (policy.clique(clique, 1, 1) + policy.node(state, folded, 0)[0], state.key, clique, state)
                    if best is None or found[:2] < best[:2]:
                        best = found
    if best is None:
        return NOTHING
    _, _, clique, state = best
    return lay_out_equal(capacities, [(clique, [(state, state.members[clique.id], 1)])])


def _choose(capacities: Capacities, total: int, scope: Scope, policy: Policy) -> list[Share] | None:
    """(clique, bundles): one that holds all, else parts in a domain of the lowest level that holds it, or anywhere."""
    found = [
        (clique, whole)
        for clique, capacity in capacities.largest_first(scope.segment)
        if (whole := capacity - capacity % scope.segment) > 0
    ]
    inventory = capacities.inventory
    several = scope.cliques != 1 and all(capacity < total for _, capacity in found)
    if policy.by_level and several and inventory.leveled and not inventory.split:
        limit = limit_of(inventory, capacities.folded.request.locality)
        for most, choices in rounds(inventory, found, lambda share: share[0], limit):
            for _, there in sorted(choices, key=lambda each: _ranked(policy, each, total)):
                domains = _domains(there, total, most, policy)
                shares = [share for _, some in domains for share in some] if domains is not None else []
                if (parts := _within(inventory, shares, total, scope, policy)) is not None:
                    return parts
        return _within(inventory, found, total, scope, policy)
    return _parts(found, total, scope, policy)


def _within(
    inventory: Inventory, shares: Sequence[Share], total: int, scope: Scope, policy: Policy
) -> list[Share] | None:
    """Parts in these cliques, in few domains of each level where the policy narrows."""
    narrow = _narrowed(inventory, shares, total, policy) if policy.narrows else shares
    return _parts(narrow, total, scope, policy) or _parts(shares, total, scope, policy)


def _ranked(policy: Policy, choice: tuple[str, LevelDomains[Share]], total: int) -> tuple[Score, str]:
    """The order in which domains of one level are tried."""
    name, there = choice
    shares = [share for _, some in there for share in some]
    return policy.domain([clique for clique, _ in shares], _held(shares), total), name


def _domains(there: LevelDomains[Share], total: int, most: int, policy: Policy) -> LevelDomains[Share] | None:
    """One that holds all, else those with the best scores, until one holds the rest; None for more than `most`."""
    left, rest = total, list(there)
    chosen: LevelDomains[Share] = []
    while left and len(chosen) < most:
        holding = [(name, some, [clique for clique, _ in some], _held(some)) for name, some in rest]
        enough = [(policy.domain(cliques, n, left), name, some) for name, some, cliques, n in holding if n >= left]
        if enough:
            _, name, some = min(enough, key=lambda each: each[:2])
            return [*chosen, (name, some)]
        if not holding:
            return None
        _, name, capacity, some = min(
            ((policy.domain_part(cliques, n, left), name, n, some) for name, some, cliques, n in holding),
            key=lambda each: each[:2],
        )
        chosen.append((name, some))
        rest.remove((name, some))
        left -= capacity
    return None


def _narrowed(inventory: Inventory, shares: Sequence[Share], total: int, policy: Policy) -> Sequence[Share]:
    """The cliques of few domains of each level, from the highest down; a clique in no domain is one of its own."""
    for level in reversed(range(len(inventory.level_labels))):
        below: dict[str, list[Share]] = {}
        for share in shares:
            name = inventory.above(share[0])[level]
            below.setdefault(f"/{share[0].key}" if name is None else name, []).append(share)
        if all(name.startswith("/") for name in below):
            continue  # nothing has the level's label
        chosen = _domains(sorted(below.items()), total, len(below), policy)
        shares = [share for _, some in chosen for share in some] if chosen is not None else shares
    return shares


def _held(shares: Sequence[Share]) -> int:
    return sum(capacity for _, capacity in shares)


def _parts(shares: Sequence[Share], total: int, scope: Scope, policy: Policy) -> list[Share] | None:
    """One of these cliques that holds all, else parts in the order of their scores, until one holds the rest."""
    found, left = list(shares), total
    chosen: list[Share] = []
    while left and (scope.cliques is None or len(chosen) < scope.cliques):
        enough = [(policy.clique(d, capacity, left), d.key, d) for d, capacity in found if capacity >= left]
        if enough:
            return [*chosen, (min(enough)[2], left)]
        if not found or scope.cliques == 1:
            return None
        _, _, capacity, clique = min((policy.part(d, capacity, left), d.key, capacity, d) for d, capacity in found)
        chosen.append((clique, capacity))
        found.remove((clique, capacity))
        left -= capacity
    return chosen if not left else None


def _fill(capacities: Capacities, clique: CliqueState, count: int, policy: Policy) -> NodeCounts:
    """Bundles onto the nodes of a clique, one after another where the score is lowest."""
    folded = capacities.folded
    usable = [s for at, s in enumerate(clique.node_states) if not clique.imex_nodes >> at & 1 or count == 1]
    capacity = {s: n for s in usable if (n := folded.capacity(s, s.members[clique.id]))}
    if sum(capacity.values()) < count:  # only a node in another gang's IMEX domain holds them all
        return capacities.fill(clique, count)
    used: dict[NodeState, int] = {}
    for _ in range(count):
        state = min(
            (s for s in capacity if used.get(s, 0) < capacity[s]),
            key=lambda s: (policy.node(s, folded, used.get(s, 0))[0], s.key),
        )
        used[state] = used.get(state, 0) + 1
    if len(used) > capacities.most_nodes(clique):
        return capacities.fill(clique, count)
    return sorted(((s, s.members[clique.id], n) for s, n in used.items()), key=lambda f: f[0].key)


def _one_by_one(inventory: Inventory, folded: FoldedRequest, policy: Policy, total: int) -> Layout:
    """Cliques forgotten: every bundle where a node's score is lowest just then."""
    memory = {} if folded.request.exclude else policy.remembered.setdefault(folded.classes[0], {})
    used: dict[NodeState, int] = {}
    devices: dict[NodeState, list[int | None]] = {}
    for _ in range(total):
        best: tuple[Score, str, NodeState, int | None] | None = None
        for state in inventory.node_states.values():
            taken = used.get(state, 0)
            known = memory.get(state) if not taken else None
            if known is None or known[0] != state.version:
                capacity = folded.capacity(state, ALL_DEVICES) - taken
                score = policy.node(state, folded, taken) if capacity > 0 else None
                known = (state.version, score)
                if not taken:
                    memory[state] = known
            if known[1] is not None and (best is None or (known[1][0], state.key) < best[:2]):
                best = (known[1][0], state.key, state, known[1][1])
        if best is None:
            return NOTHING
        _, _, state, device = best
        used[state] = used.get(state, 0) + 1
        devices.setdefault(state, []).append(device)
    placed: list[Placed] = []
    for state in sorted(used, key=lambda s: s.key):
        if devices[state][0] is not None and total == 1:
            chosen = devices[state][0]
            assert chosen is not None
            grants = folded.devices.granted(state, 1 << chosen)
            placed.append(Placed(state.name, grants, folded.classes[0].resources))
        else:
            place_bundles(folded, [(state, ALL_DEVICES, used[state])], placed, {})
    return Layout(tuple(placed))
