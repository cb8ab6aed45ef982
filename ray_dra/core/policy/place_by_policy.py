"""Placing equal bundles by a policy's scores instead of the index. Neighbour of `equal.py`.

What is allowed is worked out by the same code; only the choice differs.
"""

from __future__ import annotations

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import ALL_DEVICES, NodeState
from ray_dra.core.model.allocation import Placed
from ray_dra.core.planner.capacity import Capacities, NodeCounts
from ray_dra.core.planner.equal import lay_out_equal, place_bundles
from ray_dra.core.planner.fold import FoldedRequest
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


def _choose(capacities: Capacities, total: int, scope: Scope, policy: Policy) -> list[tuple[CliqueState, int]] | None:
    """(clique, bundles): one that holds all, else parts in the order of their scores, until one holds the rest."""
    found = [
        (clique, whole)
        for clique, capacity in capacities.largest_first(scope.segment)
        if (whole := capacity - capacity % scope.segment) > 0
    ]
    chosen: list[tuple[CliqueState, int]] = []
    left = total
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
