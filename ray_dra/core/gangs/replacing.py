"""Where the lost slots of a gang are replaced while the others run on. Pure.

A slot is a gang's place for one worker. Its label stays, so that Ray, which pinned the bundles to the label, places
them again on the new worker: the same placement group, and the other workers live on. So each lost slot moves whole to
one node on which the gang has none yet, or stays where it is if only its worker is lost. It stays in its clique, of
which the spares (`core.cluster.spares`) are for this and are taken where no other node is free; where it was alone
there, or the gang asks for no clique, it may leave it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.quota import paid
from ray_dra.core.gangs.shapes import kept_off
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.imex import imex_counter
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest, Strategy
from ray_dra.core.plan import plan


def place_again(planning: Planning, gang: Gang, faulty: Collection[int]) -> Allocation | None:
    """The gang's allocation with the slots of these bundles elsewhere, all others as they are; None where that cannot
    be. It is of the same epoch: the same attempt has the new workers."""
    held = gang.allocation
    if held is None or any(bundle.part is not None for bundle in gang.request.bundles):
        return None
    lost = list(dict.fromkeys(held.bundles[rank].node for rank in faulty))
    if any(node in planning.ready_made for node in lost):  # whose raylet is not ours to make anew
        return None
    inventory = planning.inventory
    changes = inventory.changes
    inventory.release(held.gang)
    try:
        return _replaced(planning, gang, held, lost)
    finally:
        inventory.hold(held)
        inventory.changes = changes  # who was tried out of the way is back


def _replaced(planning: Planning, gang: Gang, held: Allocation, lost: list[str]) -> Allocation | None:
    request, bundles, numbered = paid(gang.request, gang.quota), list(held.bundles), held.numbered
    used, counters = {placed.node for placed in held.holdings}, dict(held.counters)
    renewed = {node: moves for node, moves in held.renewed if node not in lost}
    for node in lost:
        ranks = [rank for rank, placed in enumerate(held.bundles) if placed.node == node]
        counter = imex_counter(node)
        locality = request.locality
        within = locality.within_cliques and locality.required
        part = replace(
            request,
            bundles=tuple(request.bundles[rank] for rank in ranks),
            locality=Locality(cliques=1 if within else None, connect=locality.connect),
            strategy=Strategy.STRICT_PACK,
            preemptible=True,  # as such gangs alone are planned on spares
        )
        others, leaves = used - {node}, _may_leave(locality, held, ranks) and counter not in counters
        placed = _worker_at(planning, part, held, ranks, others, joined=counter in counters, leaves=leaves)
        if placed is None:
            return None
        for rank, found in zip(ranks, placed, strict=True):
            bundles[rank] = found
        to = placed[0].node
        used = others | {to}
        renewed[to] = gang.moves + 1
        # A gang that has shrunk may come to a node where it had another slot: the two change their numbers.
        numbered = tuple({node: to, to: node}.get(each, each) for each in numbered)
        counters = {imex_counter(to) if each == counter else each: n for each, n in counters.items()}
    return held._replace(
        kept=kept_off(held.kept, lost),
        bundles=tuple(bundles),
        counters=tuple(counters.items()),
        renewed=tuple(renewed.items()),
        numbered=numbered,
    )


def _worker_at(
    planning: Planning,
    part: GangRequest,
    held: Allocation,
    ranks: list[int],
    others: Collection[str],
    *,
    joined: bool,
    leaves: bool,
) -> tuple[Placed, ...] | None:
    """Where one slot goes: the first of the places to look in that has room.

    Args:
        part: what its bundles ask for.
        others: nodes that the gang has besides.
        joined: the slot's node is in an IMEX domain.
        leaves: it may go to another clique.
    """
    clique = _clique_of(held, ranks)
    for names in _places(planning.inventory, held.bundles[ranks[0]].node, clique, joined=joined, leaves=leaves):
        there = [name for name in names if name not in others and name not in planning.ready_made]
        answer = plan(planning.inventory.part(there), part) if there else None
        if not isinstance(answer, Allocation):
            continue
        if leaves or all(placed.clique == clique for placed in answer.bundles if placed.grants):
            return answer.bundles
    return None


def _places(
    inventory: Inventory, own: str, clique: DomainId | None, *, joined: bool, leaves: bool
) -> Iterator[list[str]]:
    """Where to look for a slot, place by place: its own node (only its worker is lost, or some of its devices are), its
    clique, the clique's spares, anywhere."""
    states = {
        name: state
        for name, state in inventory.node_states.items()
        if state.node.ready and not (joined and state.imex_gang is not None)
    }
    if own in states:
        yield [own]
    members = [each for each in inventory.clique_states.values() if each.name == clique]
    names = dict.fromkeys(state.name for each in members for state in each.node_states if state.name in states)
    yield [name for name in names if not states[name].node.spare]
    yield [name for name in names if states[name].node.spare]
    if leaves:
        owned = {state.name for each in inventory.clique_states.values() if each.owner for state in each.node_states}
        yield [name for name, state in states.items() if name not in owned and not state.node.spare]


def _clique_of(held: Allocation, ranks: list[int]) -> DomainId | None:
    """The clique in which all devices of these bundles lie."""
    here = {held.bundles[rank].clique for rank in ranks if held.bundles[rank].grants}
    return here.pop() if len(here) == 1 else None


def _may_leave(locality: Locality, held: Allocation, ranks: list[int]) -> bool:
    """Whether a slot may go to another clique: it was alone in its own, as on a box that is one, or the gang asks for
    none."""
    clique = _clique_of(held, ranks)
    alone = all(placed.clique != clique for rank, placed in enumerate(held.bundles) if rank not in ranks)
    asked = locality.within_cliques and locality.required
    return not locality.exclusive and (clique is None or alone or not asked)
