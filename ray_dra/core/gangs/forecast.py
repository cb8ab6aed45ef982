"""When a gang that waits, or would come now, should start: the queue played forward, nobody before its turn. Pure.

Each gang in its turn starts when it fits, as its reservation says once those before it hold theirs, and ends by its
program's guess. Whose turn it is among teams is asked anew whenever a gang has ended or started, so no team is over its
limit, and a team that has less comes first. So the time is the latest by which the gang starts, if guesses hold, nobody
else comes, and nobody ends or is moved for another (`Unreckoned`); who goes before its turn starts sooner. Nobody can
tell when a gang starts that comes after one of which that is so, or that needs what a gang has which did not say how
long it runs.

Neighbours: `backfill.py` finds the reservations; `expecting.py` asks for gangs of the queue, and those to come.
"""

from __future__ import annotations

import enum
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.backfill import Ends, Reservation, can_leave, reservations
from ray_dra.core.gangs.patience import Answer, Patience
from ray_dra.core.gangs.team_order import TeamOrder
from ray_dra.core.gangs.team_queues import NOTHING, Amounts
from ray_dra.core.gangs.turn import Turn
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Shortfall

MOST_AHEAD = 50
"""Gangs in the queue of which it is reckoned when they start. Whoever comes after them is not told a time."""
MOST_TURNS = 2 * MOST_AHEAD
"""So often a gang is looked at whose turn it is. Among teams turns change without a start; without them they do not."""
MOST_NAMED = 5  # gangs that are ahead


@dataclass(frozen=True, slots=True)
class Next:
    """A gang in its turn.

    Attributes:
        team: the queue that it names; `amounts`: what it counts there.
        place: `plan` for it, strictly or not, on the inventory as it is then.
        waited: for how long it has waited for what it prefers; None: it could not have started yet.
        runs: how long it runs with what it gets; None: nobody has said.
    """

    request: GangRequest
    place: Callable[[bool], Answer]
    patience: Patience
    waited: float | None
    runs: Callable[[Allocation], float | None]
    team: str = ""
    amounts: Amounts = NOTHING


def starts(
    inventory: Inventory, ends: Ends, order: TeamOrder, waiting: Mapping[str, Next], gang: str, now: float
) -> Reservation | None:
    """When and where a gang starts; None: nobody can tell. The inventory is afterwards as it was.

    Args:
        order: those who wait, and what the teams have; it is played forward, so it is the caller's no more.
        waiting: all of them, by name.
    """
    changes, gone, held = inventory.changes, list[Allocation](), list[str]()
    try:
        return _Forward(inventory, list(ends), order, gone, held).until(gang, waiting, now)
    finally:
        for other in held:
            inventory.release(other)
        for allocation in gone:
            inventory.hold(allocation)
        inventory.changes = changes


@dataclass(slots=True)
class _Forward:
    """The cluster and the queue as they will be.

    Attributes:
        gone: what was released on the way, and was there before.
        held: the gangs that have started and not ended on the way.
    """

    inventory: Inventory
    ends: list[tuple[float, str]]
    order: TeamOrder
    gone: list[Allocation]
    held: list[str]

    def until(self, gang: str, waiting: Mapping[str, Next], now: float) -> Reservation | None:
        """All that comes before a gang in its turn, and that it starts."""
        at = now
        for _ in range(MOST_TURNS):
            turn = self.order.first
            if turn is None:  # all who are first in their teams are over their limits
                if not self.ends:
                    return None
                at = max(at, self._next_ends())
                continue
            each = waiting[turn[2]]
            waited = each.waited + at - now if each.waited is not None else None
            found = reservations(self.inventory, each.request, self.ends, at, waited, each.place, each.patience)
            if not found:
                return None
            starts_at = max(at, found[-1].at)
            while self.ends and self.ends[0][0] <= starts_at and self.order.first == turn:
                at = max(at, self._next_ends())
            if self.order.first != turn:
                continue  # its team has more than another by then
            at = starts_at
            answer = each.place(True) if each.patience.most else each.place(False)
            answer = answer if isinstance(answer, Allocation) else each.place(False)
            start = found[-1].allocation if not isinstance(answer, Allocation) else answer  # more have ended meanwhile
            if turn[2] == gang:
                return Reservation(at, start, found[-1].after)
            if not can_leave(start):
                return None  # the cluster would forget what it says of parts of GPUs
            self._start(turn, each, start, at)
        return None

    def _next_ends(self) -> float:
        """The next gangs have ended, all of one time: when."""
        at = self.ends[0][0]
        while self.ends and self.ends[0][0] <= at:
            _, gang = self.ends.pop(0)
            left = self.inventory.allocation(gang)
            assert left is not None
            self.inventory.release(gang)
            self.order.let_go(gang)
            if gang in self.held:
                self.held.remove(gang)
            else:
                self.gone.append(left)
        return at

    def _start(self, turn: Turn, each: Next, start: Allocation, at: float) -> None:
        self.inventory.hold(start)
        self.held.append(start.gang)
        self.order.leave(turn)
        self.order.hold(turn[2], each.team, each.amounts)
        runs = each.runs(start)
        if runs is not None:
            insort(self.ends, (at + runs, start.gang))


class Unreckoned(enum.Enum):
    """What may come about otherwise than a forecast says, because it does not play it forward."""

    PREEMPTION = "gangs that end for others, which wait again before others of their priority"
    MOVES = "gangs that are moved for others"


@dataclass(frozen=True, slots=True)
class Expected:
    """When a gang should start, and why then.

    Attributes:
        ahead: how many gangs have their turn before it.
        first: the next of them: name and GPUs.
        starts: when it starts at the latest if all guesses hold, nobody comes with a higher priority, and nothing comes
            about that is `unreckoned`, in seconds since 1970; None: nobody can tell.
        after: names of gangs that have ended by then and have something that it needs.
        silent: names of gangs that hold devices, or have their turn before it, and did not say how long they run.
        guessed: its program has said how long it runs.
        now: what `plan` says to it now, with what would fit instead, and whose leaving would help.
        limit: that it waits for its team's limit as it is now; None: it does not.
        takes: names of gangs that end for it after notice, as it is its turn and it may take their devices; `starts` is
            when the notice would be over if it began now.
        unreckoned: what else could change `starts`.
    """

    ahead: int
    first: tuple[tuple[str, int], ...]
    starts: float | None
    after: tuple[str, ...]
    silent: tuple[str, ...]
    guessed: bool
    now: Answer
    limit: Shortfall | None = None
    takes: tuple[str, ...] = ()
    unreckoned: tuple[Unreckoned, ...] = ()
