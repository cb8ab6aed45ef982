"""Which running gangs are moved elsewhere so that one that waits has its clique: GPUs are enough, but scattered. Pure.

    all that are moved leave: the gang that waits has a place H
    then, one after the other, each gets another place as good as it asks for, not on H's nodes
    then the gang that waits still fits

Only `movable` gangs, few at a time, and only where more work is gained than lost. KAI Scheduler has the rule.
Neighbours: `consolidating.py` asks and acts; `victims.py` chooses who ends without another place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from ray_dra.core.cluster.clique_state import CLIQUE
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.backfill import can_leave
from ray_dra.core.gangs.borrowing import may_end
from ray_dra.core.gangs.preemption import work_since
from ray_dra.core.gangs.records import Records
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable

Answer = Allocation | Unsatisfiable

MOST_TRIED = 12  # movable gangs of one clique, and of all, those with the least to lose
MOST_MOVED = 5  # that a setting may have moved for one
MOST_PLANS = 600  # in one search


@dataclass(frozen=True, slots=True)
class Consolidation:
    """What an operator sets.

    Attributes:
        times: how often a gang is moved for others in its life; 0: no gang is.
        gangs: so many are moved at most for one that waits.
        restart: seconds that a gang needs to work again after a move, from its last checkpoint on.
        least_run: seconds for which a gang has its devices before it is moved.
    """

    times: int = 2
    gangs: int = 3
    restart: float = 600.0
    least_run: float = 600.0


CONSOLIDATION = Consolidation()
NO_CONSOLIDATION = Consolidation(times=0)


def losses(records: Records, settings: Consolidation, wall: float) -> dict[str, int]:
    """Who may be moved, and the work in GPU seconds that is lost with it. None that keeps GPUs for another shape, which
    it would not have elsewhere."""
    found = {}
    for gang, held in records.holders():
        free_to_move = (
            gang.movable and gang.ordinary is None and not gang.releasing and gang.consolidated < settings.times
        )
        begun = gang.started is None or wall >= gang.started + settings.least_run
        if free_to_move and begun and held.kept is None and may_end(gang) and can_leave(held):
            found[gang.id] = work_since(gang, held, records, wall) + int(len(held.grants) * settings.restart)
    return found


def gangs_to_move(
    inventory: Inventory,
    request: GangRequest,
    lost: Mapping[str, int],
    gained: float,
    most: int,
    place: Callable[[], Answer],
    place_other: Callable[[str, frozenset[str]], Answer],
) -> tuple[str, ...]:
    """The gangs with the least to lose whose move lets the request fit; none where there are none, or more would be
    lost than gained. The inventory is as it was afterwards.

    Args:
        request: of the gang that waits; it is for cliques.
        lost: those who may be moved.
        gained: GPU seconds.
        place: `plan` for the request, strictly.
        place_other: `plan` for one of the others without these nodes, as good as it asks for.
    """
    left, free = MOST_PLANS, inventory.free_devices
    if not lost or free < request.whole_devices:
        return ()
    tried = set[tuple[str, ...]]()
    sets = sorted(chain.from_iterable(_sets(inventory, request, lost, most)), key=lambda s: (_sum(lost, s), len(s), s))
    for gangs in sets:
        if _sum(lost, gangs) >= gained or left <= 0:
            return ()
        if gangs not in tried:
            tried.add(gangs)
            left -= 2 + len(gangs)
            if places_for(inventory, gangs, place, place_other) is not None:
                return gangs
    return ()


def places_for(
    inventory: Inventory,
    gangs: Sequence[str],
    place: Callable[[], Answer],
    place_other: Callable[[str, frozenset[str]], Answer],
) -> tuple[Allocation, ...] | None:
    """The next places of gangs that are moved, in the order in which they can take them; None: there are none, or the
    gang that waits does not fit then. The inventory is as it was afterwards."""
    changes = inventory.changes
    before = [held for gang in gangs if (held := inventory.allocation(gang)) is not None]
    try:
        for held in before:
            inventory.release(held.gang)
        first = place()
        for held in before:
            inventory.hold(held)
        if not isinstance(first, Allocation):
            return None
        found = []
        for held in before:
            inventory.release(held.gang)
            other = place_other(held.gang, frozenset(first.nodes))
            if not isinstance(other, Allocation):
                inventory.hold(held)
                return None
            inventory.hold(other)
            found.append(other)
        return tuple(found) if isinstance(place(), Allocation) else None
    finally:
        for held in reversed(before):
            if inventory.allocation(held.gang) is not held:
                inventory.release(held.gang)
        for held in before:
            if inventory.allocation(held.gang) is None:
                inventory.hold(held)
        inventory.changes = changes


def _sets(
    inventory: Inventory, request: GangRequest, lost: Mapping[str, int], most: int
) -> Iterator[Iterable[tuple[str, ...]]]:
    """The sets of gangs that could make room: of one clique, where the request is for one, and others into whose places
    those may go; else of all."""
    wanted, one_clique = request.whole_devices, request.locality.cliques == 1 and request.locality.segment is None
    cliques = [c for c in inventory.clique_states.values() if c.kind == CLIQUE and c.size >= wanted]
    cheapest = _cheapest(lost, lost)
    scopes = [(c.free, {g for s in c.node_states for g in s.tenants}) for c in cliques] if one_clique else []
    for free, gangs in scopes or [(wanted, set(lost))]:
        there = _cheapest(gangs, lost)
        others = [gang for gang in cheapest if gang not in gangs]
        for count in range(1, most + 1):
            for each in combinations(there, count):
                if free + sum(_devices(inventory, gang) for gang in each) >= wanted:
                    for more in range(most - count + 1):
                        yield (tuple(sorted((*each, *besides))) for besides in combinations(others, more))


def _cheapest(gangs: Iterable[str], lost: Mapping[str, int]) -> list[str]:
    return sorted((gang for gang in gangs if gang in lost), key=lambda gang: (lost[gang], gang))[:MOST_TRIED]


def _devices(inventory: Inventory, gang: str) -> int:
    held = inventory.allocation(gang)
    return len(held.grants) if held is not None else 0


def _sum(lost: Mapping[str, int], gangs: Iterable[str]) -> int:
    return sum(lost[gang] for gang in gangs)
