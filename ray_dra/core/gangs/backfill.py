"""Who may start before its turn: what the first in the queue is promised, and whether a gang behind it keeps that.

    1. Running gangs end when their programs guess. The first in the queue is planned on the cluster without those that
       have ended by then, ever more of them, until it fits: the earliest such time and its devices there are reserved.
    2. A gang behind it may start now if it will have ended by that time, or has nothing that is reserved.

A gang that has run longer than was guessed is expected to run as long again as it has overrun. One without a guess
never ends: a first in the queue that needs its devices has no reservation, and nobody overtakes. Pure; the caller has
the clock, and `ends` and `now` are by the same one. Neighbours: `overtaking.py` asks for the coordinator,
`benchmarks/overtaking.py` for the replay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import exclusive_key
from ray_dra.core.gangs.patience import Answer, Patience, patience_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import imex_counter
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan

Ends = Sequence[tuple[float, str]]
"""When gangs that hold devices will have ended, and their ids; the earliest first."""

ABOUT_TO = -math.inf  # the end of a gang that is being given back


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far is looked, so that a look stays cheap.

    Attributes:
        waiting: gangs behind the first in the queue; 0: nobody overtakes.
        ends: of running gangs, the earliest first. What fits only after more of them have ended has no reservation.
    """

    waiting: int = 100
    ends: int = 256


BOUNDS = Bounds()
OFF = Bounds(waiting=0)
MOST_WAITING = 10_000  # that a setting may have looked at


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the first in the queue is promised.

    Attributes:
        at: when it can start at the latest, if all guesses hold.
        allocation: where.
        after: the gangs that have some of these nodes until then, or of a clique that it has to itself.
    """

    at: float
    allocation: Allocation
    after: tuple[str, ...] = ()


def expected_end(guess: float, now: float) -> float:
    """When a gang that runs has ended, after `now`: as guessed, or once it has overrun twice as long. In steps, so that
    it is the same at most looks: 2, 4, 8, ... seconds after what was guessed."""
    if guess > now:
        return guess
    return guess + float(2 ** math.frexp(max(1.0, now - guess))[1])


def reservations(
    inventory: Inventory,
    request: GangRequest,
    ends: Ends,
    now: float,
    waited: float | None,
    place: Callable[[bool], Answer],
    patience: Patience | None = None,
) -> tuple[Reservation, ...]:
    """What the first in the queue is promised; all of it is to be kept. Empty: nobody can tell when it starts.

    With patience there may be two: when its patience begins (it could start somewhere), and when it starts.

    Args:
        waited: for how long it has waited for what it prefers; None: it could not have started yet.
        place: `plan` for it on the inventory as it is at that moment, strictly or not; as for `patience.in_turn`.
        patience: as for `patience.in_turn`.
    """
    nearest = earliest(inventory, request, ends, now, lambda: place(False))
    patience = patience if patience is not None else patience_of(request.locality)
    if nearest is None or not patience.most:
        return () if nearest is None else (nearest,)
    preferred = earliest(inventory, request, ends, now, lambda: place(True))
    if waited is not None:
        since = now - waited
    else:
        ever = isinstance(plan(inventory.emptied(), request, strict=True), Allocation)
        since = nearest.at - (0.0 if ever else patience.most)
    over = patience.until(since, preferred.at if preferred is not None else None)
    starts = replace(nearest, at=max(over, nearest.at, now))
    if preferred is not None and preferred.at <= starts.at:
        starts = preferred
    return (starts,) if waited is not None or starts == nearest else (nearest, starts)


def before_its_turn(
    inventory: Inventory,
    promised: Sequence[Reservation],
    until: float,
    place: Callable[[frozenset[str]], Answer],
) -> Allocation | None:
    """Devices for a gang that will have ended at `until`, if it may start now; None: not before its turn.

    Its tightest place is tried, and then the tightest on nodes of which nothing is reserved for longer.

    Args:
        place: `plan` for it without these nodes.
    """
    answer = place(frozenset())
    if not isinstance(answer, Allocation):
        return None
    longer = [each.allocation for each in promised if each.at < until]
    if all(apart(inventory, each, answer) for each in longer):
        return answer
    answer = place(frozenset(node for each in longer for node in each.nodes))
    if isinstance(answer, Allocation) and all(apart(inventory, each, answer) for each in longer):
        return answer
    return None


def passed(promised: Sequence[Reservation], allocation: Allocation) -> tuple[Reservation, ...]:
    """What is promised, once a gang has started that keeps it: who has something of it that it has to end for is waited
    for, too."""
    gang = (allocation.gang,)
    return tuple(
        replace(each, after=each.after + gang) if _meet(each.allocation, allocation) else each for each in promised
    )


def apart(inventory: Inventory, one: Allocation, other: Allocation) -> bool:
    """Whether two allocations can be held at the same time, for certain."""
    if _own_clique_of_either(one, other):
        return False
    if inventory.limits.one_per_clique and _imex_cliques(one) & _imex_cliques(other):
        return False
    shared = set(one.nodes) & set(other.nodes)
    if not shared:
        return True
    if {counter for counter, _ in one.counters} & {counter for counter, _ in other.counters}:
        return False
    if not shared <= inventory.node_states.keys():
        return False
    placed = [p for each in (one, other) for p in each.bundles if p.node in shared]
    grants = [grant for p in placed for grant in p.grants]
    if any(p.resources for p in placed) or any(g.amount is not None or g.part is not None for g in grants):
        return False
    return not {g.device for g in one.grants} & {g.device for g in other.grants}


def _meet(one: Allocation, other: Allocation) -> bool:
    """Whether they have a node in common, or one of them has a clique to itself in which the other is."""
    return not set(one.nodes).isdisjoint(other.nodes) or _own_clique_of_either(one, other)


def _own_clique_of_either(one: Allocation, other: Allocation) -> bool:
    return bool(_own_cliques(one) & _cliques(other) or _own_cliques(other) & _cliques(one))


def _own_cliques(allocation: Allocation) -> set[object]:
    """The cliques that it has to itself. A clique's spare nodes are one of their own, and count as all of it."""
    return {counter[0] for counter, _ in allocation.counters if exclusive_key(counter) is not None}


def _cliques(allocation: Allocation) -> set[object]:
    return {grant.clique for grant in allocation.grants}


def _imex_cliques(allocation: Allocation) -> set[object]:
    used = {counter for counter, _ in allocation.counters}
    return {grant.clique for grant in allocation.grants if imex_counter(grant.node) in used}


# -- the cluster as it will be


def can_leave(allocation: Allocation) -> bool:
    """Whether what a gang holds can be taken from the inventory and put back, with nothing forgotten. What the cluster
    says of parts of GPUs would be, and who has shares of a pool is there for as long as that."""
    return not allocation.pool and not any(
        placed.grants and placed.grants[0].part is not None for placed in allocation.bundles
    )


def earliest(
    inventory: Inventory, request: GangRequest, ends: Ends, now: float, place: Callable[[], Answer]
) -> Reservation | None:
    """When it fits first, by halving: who fits still does so where more have ended."""
    low, high = _enough_devices(inventory, request, ends), len(ends)
    if low is None:
        return None
    later = _Later(inventory, ends)
    best: Allocation | None = None
    try:
        later.have_ended(high)
        answer = place()
        if not isinstance(answer, Allocation):
            return None
        best = answer
        while low < high:
            middle = (low + high) // 2
            later.have_ended(middle)
            answer = place()
            if isinstance(answer, Allocation):
                best, high = answer, middle
            else:
                low = middle + 1
        later.have_ended(high)
        after = tuple(held.gang for held in later.gone if _meet(best, held))
    finally:
        later.all_back()
    return Reservation(max(now, ends[high - 1][0]) if high else now, best, after)


def _enough_devices(inventory: Inventory, request: GangRequest, ends: Ends) -> int | None:
    """How many have to have ended at least, by the numbers of devices alone; None: all of them are not enough."""
    wanted, free = request.whole_devices, inventory.free_devices
    for count, (_, gang) in enumerate(ends):
        if free >= wanted:
            return count
        held = inventory.allocation(gang)
        if held is not None and any(exclusive_key(counter) is not None for counter, _ in held.counters):
            return count  # all of its cliques is free then
        free += len(held.held_grants) if held is not None else 0
    return len(ends) if free >= wanted else None


class _Later:
    """The inventory when the first so many of `ends` have ended. It is as it was once all are back."""

    def __init__(self, inventory: Inventory, ends: Ends) -> None:
        self._inventory, self._ends = inventory, ends
        self._changes = inventory.changes
        self.gone: list[Allocation] = []

    def have_ended(self, count: int) -> None:
        while len(self.gone) > count:
            self._inventory.hold(self.gone[-1])
            self.gone.pop()
        while len(self.gone) < count:
            held = self._inventory.allocation(self._ends[len(self.gone)][1])
            assert held is not None
            self.gone.append(held)
            self._inventory.release(held.gang)

    def all_back(self) -> None:
        self.have_ended(0)
        self._inventory.changes = self._changes  # nothing has, for those who remember what they found
