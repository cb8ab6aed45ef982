"""Where a gang that a fault has shrunk grows back: bundles that it lacks beside those that it has. Pure.

What it has stays where it is. The segments that it lacks come into its cliques, of which the spares are taken where
nothing else is free; into others where the gang may have more of them. Where not all of them find room, as many come as
do: of equal ones the first, and of others each kind that still has room beside those before it.

Neighbours: `shrinking.py` is the way here; `reshaping.py` begins the change, which is one of shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ray_dra.core.cluster.clique_state import CliqueState
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.repair import segment_of
from ray_dra.core.gangs.shapes import Reshape, Shape, Shrunk, by_node
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.device import Counter, DomainId, Health
from ray_dra.core.model.imex import imex_counter
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, GangRequest, Strategy
from ray_dra.core.plan import plan

MOST_TRIES = 64  # plans for one gang at one look, where bundles that it lacks are of many kinds


def grown(planning: Planning, gang: Gang, *, own_workers: bool, may: Callable[[GangRequest], bool]) -> Shape | None:
    """The gang with as much of what it lacks as there is room for; None where there is none.

    Args:
        own_workers: workers are made for it, so that none that it has gets more to do.
        may: whether it may become this, wherever there is room.
    """
    shrunk, held = gang.shrunk, gang.allocation
    if shrunk is None or held is None:
        return None
    with planning.own_spares.lent(gang.id):
        scopes = tuple(_scopes(planning, gang, held, own_workers=own_workers))
    found = _Search(planning, gang, shrunk, held, scopes, may).most()
    return _with_workers(found, held, gang.moves + 1) if found is not None and own_workers else found


def still_there(planning: Planning, change: Reshape) -> bool:
    """Whether all that a gang is about to grow by is well, and no work of others has it."""
    states, before = planning.inventory.node_states, set(change.leaves.allocation.grants)
    for grant in change.comes.allocation.grants:
        if grant in before:
            continue
        state = states.get(grant.node)
        if state is None or not state.node.ready or state.busy >> grant.position & 1:
            return False
        if all(device.id != grant.device or device.health is not Health.OK for device in state.node.devices):
            return False
    return True


class _Search:
    """Which of the segments that a gang lacks find room together."""

    def __init__(
        self,
        planning: Planning,
        gang: Gang,
        shrunk: Shrunk,
        held: Allocation,
        scopes: tuple[_Scope, ...],
        may: Callable[[GangRequest], bool],
    ) -> None:
        self.planning, self.gang, self.shrunk, self.held, self.scopes = planning, gang, shrunk, held, scopes
        self.may = may
        self.size = segment_of(gang.request)
        there = set(shrunk.ranks)
        self.lacking = [rank for rank in range(0, len(shrunk.whole.bundles), self.size) if rank not in there]
        self.tries = 0

    def most(self) -> Shape | None:
        """All of them; else of each kind as many as there is room for beside the kinds before."""
        found = self._with(self.lacking)
        if found is not None:
            return found
        kinds: dict[tuple[Bundle, ...], list[int]] = {}
        for first in self.lacking:
            kinds.setdefault(tuple(self.shrunk.whole.bundles[first : first + self.size]), []).append(first)
        come: list[int] = []
        for equal in kinds.values():
            there, none = 0, len(equal) + (len(kinds) > 1)  # so many find room; so many do not
            count = len(equal) if len(kinds) > 1 else len(equal) // 2
            while there < count < none and self.tries < MOST_TRIES:
                more = self._with([*come, *equal[:count]])
                if more is None:
                    none = count
                else:
                    found, there = more, count
                count = (there + none) // 2
            come += equal[:there]
        return found

    def _with(self, segments: list[int]) -> Shape | None:
        """The gang with these segments besides, in the first place where they find room."""
        self.tries += 1
        ranks = sorted(rank for first in segments for rank in range(first, first + self.size))
        asked = replace(self.gang.request, bundles=tuple(self.shrunk.whole.bundles[rank] for rank in ranks))
        if not self.may(replace(asked, bundles=(*self.gang.request.bundles, *asked.bundles))):
            return None
        for scope in self.scopes:
            placed = scope.place(asked)
            more = None if placed is None else dict(zip(ranks, placed, strict=True))
            found = None if more is None else _together(self.planning, self.gang, self.shrunk, self.held, more)
            if found is not None:
                return found
        return None


@dataclass(frozen=True, slots=True)
class _Scope:
    """Nodes to look on, as they are with what the gang has there, and what is asked of cliques there. `cliques`: those
    that its devices may be of; None: any."""

    part: Inventory
    locality: Locality
    cliques: frozenset[DomainId] | None

    def place(self, request: GangRequest) -> tuple[Placed, ...] | None:
        """With spares where there is no room besides."""
        asked = replace(request, locality=self.locality)
        placed = self._placed(asked)
        spares = [state.node for state in self.part.node_states.values() if state.node.spare]
        if placed is None and spares:
            for node in spares:
                self.part.put_node(replace(node, spare=False))
            placed = self._placed(asked)
            for node in spares:
                self.part.put_node(node)
        return placed

    def _placed(self, asked: GangRequest) -> tuple[Placed, ...] | None:
        answer = plan(self.part, asked)
        if not isinstance(answer, Allocation):
            return None
        found = {placed.clique for placed in answer.bundles if placed.grants}
        return answer.bundles if self.cliques is None or found <= self.cliques else None


def _scopes(planning: Planning, gang: Gang, held: Allocation, *, own_workers: bool) -> Iterator[_Scope]:
    """Where to look, one after the other: in its cliques; in others where it may have some."""
    request, states = gang.request, planning.inventory.clique_states.values()
    own, most = frozenset(g.clique for g in held.grants if g.clique is not None), request.locality.cliques
    locality = replace(request.locality, exclusive=False)
    names = dict.fromkeys(planning.inventory.node_states)
    if request.locality.exclusive:
        owned = {each.name for each in states if each.owner == gang.id}
        within = [each for each in states if each.name in owned and each.owner in (None, gang.id)]
        yield _Scope(_beside(planning, gang, held, _nodes_of(within), own_workers=own_workers), locality, None)
        return
    if locality.required and locality.within_cliques and (most is not None or locality.segment is None):
        within = [each for each in states if each.name in own]
        yield _Scope(_beside(planning, gang, held, _nodes_of(within), own_workers=own_workers), locality, own)
        if most is None or len(own) >= most:
            return
        locality = replace(locality, cliques=most - len(own))
    yield _Scope(_beside(planning, gang, held, names, own_workers=own_workers), locality, None)


def _nodes_of(cliques: Iterable[CliqueState]) -> dict[str, None]:
    return dict.fromkeys(state.name for clique in cliques for state in clique.node_states)


def _beside(planning: Planning, gang: Gang, held: Allocation, names: Iterable[str], *, own_workers: bool) -> Inventory:
    """These nodes, as far as the gang may have more there, with what it has."""
    inventory, strategy, own = planning.inventory, gang.request.strategy, set(held.nodes)
    states = inventory.node_states
    if own_workers:
        own |= {placed.node for placed in held.in_workers}
        closed = _without_domain(planning, held)
        names = [name for name in names if states[name].node.clique not in closed]
        names = [n for n in names if n not in own and n not in planning.ready_made and states[n].imex_gang is None]
    elif strategy is Strategy.STRICT_SPREAD:
        names = [name for name in names if name not in own]
    elif strategy is Strategy.STRICT_PACK:
        names = [name for name in names if name in own]
    else:
        names = list(names)
    if not gang.request.locality.exclusive:
        return inventory.part(names)
    inventory.release(gang.id)  # whose cliques are closed to everybody
    try:
        part = inventory.part(names)
    finally:
        inventory.hold(held)
    amounts, has = by_node(held.holdings), {placed.node for placed in held.holdings}
    for name in has.intersection(names):
        state = part.node_states[name]
        used = dict(state.used_by_others)
        for resource, amount in amounts.get(name, {}).items():
            used[resource] = used.get(resource, 0.0) + amount
        mine = state.mask_of(tuple(grant for grant in held.held_grants if grant.node == name))
        part.set_others(name, state.busy | mine, used)
    return part


def _without_domain(planning: Planning, held: Allocation) -> frozenset[DomainId]:
    """The cliques in which a worker of the gang is alone, and so in no IMEX domain, nor can join one while it runs:
    another one beside it could not reach it."""
    if not planning.inventory.limits.compute_domains:
        return frozenset()
    fabric = {each.name for each in planning.inventory.clique_states.values() if each.fabric}
    joined = {counter for counter, _ in held.counters}
    own = {(grant.clique, grant.node) for grant in held.grants if grant.clique in fabric}
    return frozenset(clique for clique, node in own if clique is not None and imex_counter(node) not in joined)


def _together(
    planning: Planning, gang: Gang, shrunk: Shrunk, held: Allocation, more: dict[int, Placed]
) -> Shape | None:
    """The gang with more bundles, by their ranks; None where they cannot be in one IMEX domain with what it has."""
    by_rank = dict(zip(shrunk.ranks, held.bundles, strict=True)) | more
    ranks = tuple(sorted(by_rank))
    bundles = tuple(by_rank[rank] for rank in ranks)
    joined = {counter for counter, _ in held.counters}
    counters = list[tuple[Counter, int]]()
    for before, nodes in _by_clique(planning, held, bundles):
        if before and not all(imex_counter(node) in joined for node in before):
            return None  # its worker there is in none, and cannot join one while it runs
        if len(nodes) + len(before) > planning.inventory.limits.domain_nodes:
            return None
        counters += [(imex_counter(node), 1) for node in nodes]
    request = shrunk.whole if len(ranks) == len(shrunk.whole.bundles) else Shrunk(shrunk.whole, ranks).request
    again = Shrunk(shrunk.whole, ranks) if request is not shrunk.whole else None
    return Shape(request, held._replace(bundles=bundles, counters=(*held.counters, *counters)), again)


def _by_clique(
    planning: Planning, held: Allocation, bundles: Sequence[Placed]
) -> Iterator[tuple[list[str], list[str]]]:
    """Of each clique in which the gang needs an IMEX domain and gets new nodes: those that it has, and the new ones."""
    if not planning.inventory.limits.compute_domains:
        return
    fabric = {each.name for each in planning.inventory.clique_states.values() if each.fabric}
    own, found = set(held.nodes), dict[DomainId, dict[str, None]]()
    for placed in bundles:
        if placed.clique is not None and placed.clique in fabric:
            found.setdefault(placed.clique, {})[placed.node] = None
    for nodes in found.values():
        new = [node for node in nodes if node not in own]
        if new and len(nodes) > 1:
            yield [node for node in nodes if node in own], new


def _with_workers(found: Shape, held: Allocation, moves: int) -> Shape:
    """The same with workers for the new nodes, beside those that are there."""
    new = [node for node in dict.fromkeys(found.allocation.nodes) if node not in set(held.nodes)]
    before = held.numbered or tuple(dict.fromkeys(held.nodes))
    numbered = (*before, *(node for node in new if node not in before))
    renewed = (*held.renewed, *((node, moves) for node in new))
    return replace(found, allocation=found.allocation._replace(renewed=renewed, numbered=numbered))
