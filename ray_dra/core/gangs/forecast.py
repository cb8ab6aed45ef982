"""When a gang that waits, or would come now, should start: the queue played forward, nobody before its turn. Pure.

Each gang in its turn starts when it fits, as its reservation says once those before it hold theirs, and ends by its
program's guess. So the time is the latest by which it starts, if guesses hold and nobody comes with a higher priority;
who goes before its turn starts sooner. Nobody can tell when a gang starts that comes after one of which that is so, or
that needs what a gang has which did not say how long it runs.

Neighbours: `backfill.py` finds the reservations; `expecting.py` asks for gangs of the queue, and those to come.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.backfill import Ends, Reservation, can_leave, reservations
from ray_dra.core.gangs.patience import Answer, Patience
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest

MOST_AHEAD = 50
"""Gangs in the queue of which it is reckoned when they start. Whoever comes after them is not told a time."""
MOST_NAMED = 5  # gangs that are ahead


@dataclass(frozen=True, slots=True)
class Next:
    """A gang in its turn.

    Attributes:
        place: `plan` for it, strictly or not, on the inventory as it is then.
        waited: for how long it has waited for what it prefers; None: it could not have started yet.
        runs: how long it runs with what it gets; None: nobody has said.
    """

    request: GangRequest
    place: Callable[[bool], Answer]
    patience: Patience
    waited: float | None
    runs: Callable[[Allocation], float | None]


def starts(inventory: Inventory, ends: Ends, queue: Iterable[Next], now: float) -> list[Reservation]:
    """When and where each gang starts, in their order, for as many from the front on as that can be told. The inventory
    is afterwards as it was."""
    changes, gone, held = inventory.changes, list[Allocation](), list[str]()
    try:
        return list(_starts(inventory, list(ends), queue, now, gone, held))
    finally:
        for gang in held:
            inventory.release(gang)
        for allocation in gone:
            inventory.hold(allocation)
        inventory.changes = changes


def _starts(
    inventory: Inventory,
    ends: list[tuple[float, str]],
    queue: Iterable[Next],
    now: float,
    gone: list[Allocation],
    held: list[str],
) -> Iterator[Reservation]:
    """`gone`: what was released on the way; `held`: the gangs that have started and not ended on the way."""
    at = now
    for each in queue:
        found = reservations(inventory, each.request, ends, at, each.waited, each.place, each.patience)
        if not found:
            return
        at = max(at, found[-1].at)
        while ends and ends[0][0] <= at:
            _, gang = ends.pop(0)
            left = inventory.allocation(gang)
            assert left is not None
            inventory.release(gang)
            if gang in held:
                held.remove(gang)
            else:
                gone.append(left)
        answer = each.place(True) if each.patience.most else each.place(False)
        answer = answer if isinstance(answer, Allocation) else each.place(False)
        start = found[-1].allocation if not isinstance(answer, Allocation) else answer  # more have ended meanwhile
        yield Reservation(at, start, found[-1].after)
        if not can_leave(start):
            return  # the cluster would forget what it says of parts of GPUs
        inventory.hold(start)
        held.append(start.gang)
        runs = each.runs(start)
        if runs is not None:
            insort(ends, (at + runs, start.gang))


@dataclass(frozen=True, slots=True)
class Expected:
    """When a gang should start, and why then.

    Attributes:
        ahead: how many gangs have their turn before it.
        first: the next of them: name and GPUs.
        starts: when it starts at the latest if all guesses hold and nobody comes with a higher priority, in seconds
            since 1970; None: nobody can tell.
        after: names of gangs that have ended by then and have something that it needs.
        silent: names of gangs that hold devices, or have their turn before it, and did not say how long they run.
        guessed: its program has said how long it runs.
        now: what `plan` says to it now, with what would fit instead, and whose leaving would help.
    """

    ahead: int
    first: tuple[tuple[str, int], ...]
    starts: float | None
    after: tuple[str, ...]
    silent: tuple[str, ...]
    guessed: bool
    now: Answer
