"""Preemption: which running gangs the first in the queue may take, and what each of them costs. Pure.

Only a gang that is `preemptible`, and of a strictly lower priority; none that has just begun to run, and none that was
preempted often enough. So no gang takes another that could take it back, and a gang that was preempted `most` times
runs to its end once it has devices again. With queues of teams this holds within a team; of another team a gang whose
team is guaranteed its GPUs may take what is borrowed (`borrowing.py`), however often: whoever borrows takes nothing. If
far more than it needs ends with that, it waits for a while first: a large gang that ends for a small one leaves GPUs
idle, and then the cluster empties for it once more.
Neighbours: `victims.py` chooses among them, `preempting.py` asks.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.backfill import can_leave, expected_end
from ray_dra.core.gangs.borrowing import borrowed_by, is_guaranteed, may_end
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.victims import Price, Prices, Told
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import MAX_PRIORITY


@dataclass(frozen=True, slots=True)
class Preemption:
    """What an operator sets.

    Attributes:
        most: how often a gang is preempted at most; 0: no gang is.
        least_run: seconds for which a gang has its devices before it may be taken.
        restart: seconds that a gang needs to work again, which are lost with each of its GPUs. For so long a gang that
            takes back what is borrowed waits for each GPU that ends and that it does not need, by its own GPUs; 0: it
            does not wait.
    """

    most: int = 3
    least_run: float = 600.0
    restart: float = 600.0


PREEMPTION = Preemption()
NOBODY = Preemption(most=0)
MOST_TIMES = 1_000  # that a setting may have a gang preempted
LEAVES = (-MAX_PRIORITY - 2,)
"""The rank of a gang that ends in any case, or has notice already."""
LEAVES_LATER = (-MAX_PRIORITY - 2, 1)
"""The same, but later than those that have notice for the same gang: these are not taken back for it."""
BORROWED = -MAX_PRIORITY - 1
"""The rank of a gang that has borrowed begins so; its team's place is next, first the one that has borrowed most."""


def leaves(price: Price) -> bool:
    """Whether a gang ends in any case."""
    return price.rank[0] == LEAVES[0]


@dataclass(frozen=True, slots=True)
class Takeable:
    """Whom a gang may take.

    Attributes:
        prices: by gang; those that end in any case, or have notice already, are of the lowest rank.
        again: the Unix time at which there may be others, or other prices.
        told: what was told on behalf of the gang already; None: nothing was.
    """

    prices: dict[str, Price]
    again: float
    told: Told | None = None


def takeable(records: Records, first: Gang, settings: Preemption, wall: float) -> Takeable:
    """Whom a gang may take that waits. `wall`: the Unix time."""
    prices: dict[str, Price] = {}
    again = math.inf
    borrowers = borrowed_by(records, first) if is_guaranteed(records, first) else {}
    mine = [gang.eviction.deadline for gang in records.leaving() if gang.eviction and gang.eviction.by == first.id]
    told = max(mine, default=math.inf)
    by_then = set[str]()
    for gang, held in records.holders():
        if not can_leave(held) or gang.id == first.id:
            continue
        if mine and not gang.releasing and gang.eviction is None and gang.ends is not None:
            ended = expected_end(gang.ends, wall)
            if ended <= told:
                by_then.add(gang.id)
                again = min(again, ended)
        if gang.ends is not None and wall < gang.ends - gang.on_fault.grace:
            again = min(again, gang.ends - gang.on_fault.grace)
        if gang.releasing:
            prices[gang.id] = Price(LEAVES, 0, len(held.grants))
        elif gang.eviction is not None:
            if not (gang.eviction.moves or gang.eviction.repairs):  # else its devices are nobody's to take
                prices[gang.id] = price_of(gang, held, records, settings, wall)._replace(rank=LEAVES)
        elif gang.ends is not None and wall < gang.ends <= wall + gang.on_fault.grace:
            # It will have ended by then, as its program says.
            prices[gang.id] = Price(LEAVES if gang.ends <= told else LEAVES_LATER, 0, len(held.grants))
            again = min(again, gang.ends)
        elif gang.id in borrowers or (records.same_team(first, gang) and may_take(first, gang, settings)):
            since = (gang.started or 0.0) + settings.least_run
            if wall < since:
                again = min(again, since)
            else:
                price = price_of(gang, held, records, settings, wall)
                if gang.id in borrowers:
                    price = price._replace(rank=(BORROWED, borrowers[gang.id], *price.rank[1:]))
                prices[gang.id] = price
    leave = frozenset(gang for gang, price in prices.items() if price.rank == LEAVES)
    return Takeable(prices, again, Told(leave, frozenset(by_then - leave)) if mine else None)


def may_take(first: Gang, gang: Gang, settings: Preemption) -> bool:
    """Whether a gang that waits may take one that runs, once that has run long enough. Not one that is in the middle of
    something else, nor one that somebody else decides about: its program, or a queue outside."""
    return (
        gang.request.preemptible
        and gang.request.priority < first.request.priority
        and gang.preempted < settings.most
        and gang.ordinary is None
        and may_end(gang)
    )


def waits_before(prices: Prices, gangs: Collection[str], wanted: int, settings: Preemption) -> float:
    """Seconds for which a gang of so many GPUs waits before it takes these: until its waiting has cost as much GPU time
    as those lose to work again who end and have borrowed more than it needs."""
    ends = sum(prices[gang].devices for gang in gangs if prices[gang].rank[0] == BORROWED)
    return settings.restart * max(0, ends - wanted) / max(wanted, 1)


def price_of(gang: Gang, held: Allocation, records: Records, settings: Preemption, wall: float) -> Price:
    """By priority, those on spares first; then by the work that is lost, and the time until it works again."""
    rank = gang.request.priority, not _on_spares(records.inventory, held)
    lost = work_since(gang, held, records, wall) + int(len(held.grants) * settings.restart)
    return Price(rank, lost, len(held.grants))


def work_since(gang: Gang, held: Allocation, records: Records, wall: float) -> int:
    """GPU seconds that a gang has worked since its start, or since its last checkpoint."""
    started = wall if gang.started is None else gang.started
    return int(len(held.grants) * max(0.0, wall - max(started, records.notes[gang.id].checkpoint)))


def callable_back(records: Records, gang: Gang, settings: Preemption, wall: float) -> dict[str, Price]:
    """Whose devices a gang that runs may take for its repair: those whose lower priority says so, as for one that
    waits; and whoever is lent a spare node, at any time and whatever its priority. Those go first."""
    prices = {}
    for other, held in records.holders():
        if other.id == gang.id or other.ordinary is not None or not (may_end(other) and can_leave(held)):
            continue
        lent = other.request.preemptible and _on_spares(records.inventory, held)
        run = wall - (other.started or 0.0) >= settings.least_run and records.same_team(gang, other)
        if lent or (run and may_take(gang, other, settings)):
            price = price_of(other, held, records, settings, wall)
            prices[other.id] = price._replace(rank=LEAVES) if lent else price
    return prices


def _on_spares(inventory: Inventory, held: Allocation) -> bool:
    states = (inventory.node_states.get(node) for node in held.nodes)
    return any(state is not None and state.node.spare for state in states)
