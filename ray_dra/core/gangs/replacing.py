"""Where the lost slots of a gang are replaced while the others run on. Pure.

A slot is a gang's place for one worker. Its label stays, so that Ray, which pinned the bundles to the label, places
them again on the new worker: the same placement group, and the other workers live on. So each lost slot moves whole to
one node on which the gang has none yet, or stays where it is if only its worker is lost. It stays in its clique; one of
a gang that asks for no clique may leave it where there is no other room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.lifecycle import Gang
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.quota import paid
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.imex import imex_counter
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest, Strategy
from ray_dra.core.model.shortfall import Unsatisfiable
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
    inventory.release(held.gang)
    try:
        return _replaced(planning, gang, held, lost)
    finally:
        inventory.hold(held)


def _replaced(planning: Planning, gang: Gang, held: Allocation, lost: list[str]) -> Allocation | None:
    request, bundles, numbered = paid(gang.request, gang.quota), list(held.bundles), held.numbered
    used, counters = set(held.nodes), dict(held.counters)
    renewed = {node: moves for node, moves in held.renewed if node not in lost}
    for node in lost:
        ranks = [rank for rank, placed in enumerate(held.bundles) if placed.node == node]
        counter = imex_counter(node)
        part = replace(
            request,
            bundles=tuple(request.bundles[rank] for rank in ranks),
            locality=Locality(connect=request.locality.connect),
            strategy=Strategy.STRICT_PACK,
        )
        others = used - {node}
        placed = _worker_at(planning, part, held, ranks, others, joined=counter in counters)
        if placed is None:
            return None
        for rank, found in zip(ranks, placed, strict=True):
            bundles[rank] = found
        to = placed[0].node
        used = others | {to}
        renewed[to] = gang.moves + 1
        numbered = tuple(to if each == node else each for each in numbered)
        counters = {imex_counter(to) if each == counter else each: n for each, n in counters.items()}
    return held._replace(
        bundles=tuple(bundles), counters=tuple(counters.items()), renewed=tuple(renewed.items()), numbered=numbered
    )


def _worker_at(
    planning: Planning, part: GangRequest, held: Allocation, ranks: list[int], others: Collection[str], *, joined: bool
) -> tuple[Placed, ...] | None:
    """Where one slot goes: the first of the places to look in that has room."""
    here = {held.bundles[rank].clique for rank in ranks if held.bundles[rank].grants}
    clique = here.pop() if len(here) == 1 else None
    for names in _places(planning, held, ranks, clique, others, joined=joined):
        answer = plan(planning.inventory.part(names), part) if names else None
        if answer is None or isinstance(answer, Unsatisfiable):
            continue
        if clique is None or all(placed.clique == clique for placed in answer.bundles if placed.grants):
            return answer.bundles
    return None


def _places(
    planning: Planning,
    held: Allocation,
    ranks: list[int],
    clique: DomainId | None,
    others: Collection[str],
    *,
    joined: bool,
) -> Iterator[list[str]]:
    inventory, own = planning.inventory, held.bundles[ranks[0]].node

    def usable(name: str) -> bool:
        state = inventory.node_states.get(name)
        if state is None or name in others or name in planning.ready_made or not state.node.ready:
            return False
        return not joined or state.imex_gang is None

    if usable(own):  # only its worker is lost, or some of its devices are
        yield [own]
    if clique is not None:
        states = inventory.clique_states.get(clique)
        yield [state.name for state in states.node_states if usable(state.name)] if states is not None else []
        return
    owned = _owned(inventory)
    yield [name for name in inventory.node_states if usable(name) and name not in owned]


def _owned(inventory: Inventory) -> set[str]:
    """Nodes of cliques that gangs have to themselves."""
    return {state.name for each in inventory.clique_states.values() if each.owner for state in each.node_states}
