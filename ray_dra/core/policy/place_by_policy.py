"""Placing equal bundles by a policy's scores instead of the index. Neighbour of `equal.py`.

What is allowed is worked out by the same code; only the choice differs.
"""

from __future__ import annotations

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.model.allocation import Placed
from ray_dra.core.planner.capacity import Capacity, NodeCounts
from ray_dra.core.planner.equal import laid_out, place_bundles
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.placement import NOTHING, Layout, granted
from ray_dra.core.planner.scope import Scope
from ray_dra.core.policy.base import Policy, Score


def place_by_policy(inventory: Inventory, needs: FoldedRequest, scope: Scope, policy: Policy) -> Layout:
    """Place a gang of one class of bundles where the policy scores lowest."""
    total = needs.counts[0]
    if scope.anywhere:
        return _one_by_one(inventory, needs, policy, total)
    if not policy.by_clique or (scope.one_node and total > 1):
        return NOTHING  # the next scope is more to the point
    rooms = Capacity(inventory, needs, scope)
    if total == 1:
        return _single(rooms, needs, policy)
    parts = _choose(rooms, total, scope, policy)
    if parts is None:
        return NOTHING
    parts.sort(key=lambda part: part[0].key)
    return laid_out(rooms, [(domain, _fill(rooms, domain, count, policy)) for domain, count in parts])


def _single(rooms: Capacity, needs: FoldedRequest, policy: Policy) -> Layout:
    best: tuple[Score, str, CliqueState, NodeState] | None = None
    for catalog in rooms.catalogs:
        for domain in catalog.domains.values():
            for seat in domain.node_states if rooms.offers(domain) else ():
                if needs.on(seat, seat.domains[domain.id]):
                    found = (policy.clique(domain, 1, 1) + policy.seat(seat, needs, 0)[0], seat.key, domain, seat)
                    if best is None or found[:2] < best[:2]:
                        best = found
    if best is None:
        return NOTHING
    _, _, domain, seat = best
    return laid_out(rooms, [(domain, [(seat, seat.domains[domain.id], 1)])])


def _choose(rooms: Capacity, total: int, scope: Scope, policy: Policy) -> list[tuple[CliqueState, int]] | None:
    """(clique, bundles): one that holds all, else parts in the order of their scores, until one holds the rest."""
    found = [
        (domain, whole)
        for domain, room in rooms.largest_first(scope.segment)
        if (whole := room - room % scope.segment) > 0
    ]
    chosen: list[tuple[CliqueState, int]] = []
    left = total
    while left and (scope.cliques is None or len(chosen) < scope.cliques):
        enough = [(policy.clique(d, room, left), d.key, d) for d, room in found if room >= left]
        if enough:
            return [*chosen, (min(enough)[2], left)]
        if not found or scope.cliques == 1:
            return None
        _, _, room, domain = min((policy.part(d, room, left), d.key, room, d) for d, room in found)
        chosen.append((domain, room))
        found.remove((domain, room))
        left -= room
    return chosen if not left else None


def _fill(rooms: Capacity, domain: CliqueState, count: int, policy: Policy) -> NodeCounts:
    """Bundles onto the nodes of a clique, one after another where the score is lowest."""
    needs = rooms.needs
    usable = [s for at, s in enumerate(domain.node_states) if not domain.imex >> at & 1 or count == 1]
    room = {s: n for s in usable if (n := needs.on(s, s.domains[domain.id]))}
    if sum(room.values()) < count:  # only a node in another gang's IMEX domain holds them all
        return rooms.fill(domain, count)
    used: dict[NodeState, int] = {}
    for _ in range(count):
        seat = min(
            (s for s in room if used.get(s, 0) < room[s]),
            key=lambda s: (policy.seat(s, needs, used.get(s, 0))[0], s.key),
        )
        used[seat] = used.get(seat, 0) + 1
    if len(used) > rooms.most_nodes(domain):
        return rooms.fill(domain, count)
    return sorted(((s, s.domains[domain.id], n) for s, n in used.items()), key=lambda f: f[0].key)


def _one_by_one(inventory: Inventory, needs: FoldedRequest, policy: Policy, total: int) -> Layout:
    """Cliques forgotten: every bundle where a node's score is lowest just then."""
    memory = {} if needs.request.exclude else policy.remembered.setdefault(needs.classes[0], {})
    used: dict[NodeState, int] = {}
    devices: dict[NodeState, list[int | None]] = {}
    for _ in range(total):
        best: tuple[Score, str, NodeState, int | None] | None = None
        for seat in inventory.node_states.values():
            taken = used.get(seat, 0)
            known = memory.get(seat) if not taken else None
            if known is None or known[0] != seat.version:
                room = needs.on(seat, -1) - taken
                scored = policy.seat(seat, needs, taken) if room > 0 else None
                known = (seat.version, scored)
                if not taken:
                    memory[seat] = known
            if known[1] is not None and (best is None or (known[1][0], seat.key) < best[:2]):
                best = (known[1][0], seat.key, seat, known[1][1])
        if best is None:
            return NOTHING
        _, _, seat, device = best
        used[seat] = used.get(seat, 0) + 1
        devices.setdefault(seat, []).append(device)
    placed: list[Placed] = []
    for seat in sorted(used, key=lambda s: s.key):
        if needs.share and devices[seat][0] is not None and total == 1:
            chosen = devices[seat][0]
            assert chosen is not None
            grants = granted(seat, 1 << chosen, needs.share)
            placed.append(Placed(seat.name, grants, needs.classes[0].resources))
        else:
            place_bundles(needs, [(seat, -1, used[seat])], placed, {})
    return Layout(tuple(placed))
