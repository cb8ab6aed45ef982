"""A replay's jobs as those of four teams, each with its queue (docs/queue.md#queues-of-teams).

A job's team is drawn by its name, the same for every policy. Whose turn it is is asked of core, as the coordinator asks
(core/gangs/team_order.py), and whose devices are borrowed (core/gangs/borrowing.py). Neighbours: `replay.py`, and
`ending.py`, which takes them back.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from typing import Generic

from overtaking import J, Waiting

from ray_dra.core.gangs.borrowing import borrowed_from
from ray_dra.core.gangs.team_order import TeamOrder
from ray_dra.core.gangs.team_queues import Amounts, Entitlement, TeamQueue, TeamQueues
from ray_dra.core.gangs.turn import Turn
from ray_dra.core.model.request import WHOLE

SHARES: dict[str, tuple[float, float, float | None]] = {
    "a": (0.25, 1.0, None),
    "b": (0.25, 2.0, None),
    "c": (0.25, 1.0, None),
    "d": (0.0, 1.0, None),
}
"""Team -> guarantee and limit as shares of the cluster, with the weight between."""
ASKING = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 1.0}
"""How many of the jobs are a team's, in proportion."""


def declared(gpus: int) -> TeamQueues:
    """The teams' queues on a cluster of so many GPUs."""
    return TeamQueues.of(
        TeamQueue(
            name,
            round(guarantee * gpus) * WHOLE,
            weight,
            None if limit is None else round(limit * gpus) * WHOLE,
        )
        for name, (guarantee, weight, limit) in SHARES.items()
    )


def team_of(name: str) -> str:
    """Of a job."""
    dice = random.Random(zlib.crc32(f"team of {name}".encode()))
    return dice.choices([*ASKING], [*ASKING.values()])[0]


_FRONT = 2**60


class Line(Generic[J]):
    """Jobs that wait, in the order of the queue; without `gpus`, of the cluster, those of all teams are in one."""

    def __init__(self, gpus: int = 0) -> None:
        self._order, self._waiting = TeamOrder(), dict[str, Waiting[J]]()
        self._sequences: dict[str, int] = {}  # of all jobs that have come: who waits again keeps its own
        self._front: set[str] = set()  # of these, who was preempted
        self._turns: dict[str, Turn] = {}
        self._running: dict[str, dict[str, tuple[Turn, int]]] = {}  # by team, by job
        if gpus:
            self._order.resize(Amounts(gpus * WHOLE))
            self._order.declare(declared(gpus))

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting[J]]:
        """All of them, in no order."""
        return iter(self._waiting.values())

    def never(self, name: str, gpus: int) -> bool:
        """Whether a job is over its team's limit by itself."""
        queue = self._order.queue(team_of(name))
        return queue is not None and queue.limit is not None and gpus * WHOLE > queue.limit

    def append(self, waiting: Waiting[J], *, priority: int = 0, front: bool = False) -> None:
        """`front`: before all others of its priority that were not put there, from now on."""
        name = waiting.request.gang
        sequence = self._sequences.setdefault(name, len(self._sequences) + 1)
        if front:
            self._front.add(name)
        turn = (-priority, sequence - (_FRONT if name in self._front else 0), name)
        self._waiting[name], self._turns[name] = waiting, turn
        self._order.wait(team_of(name), turn, _amounts(waiting))

    def first(self, most: int) -> list[Waiting[J]]:
        """Whose turn it is, and at most so many of those that follow and may pass it; none where all who are first in
        their teams are over their limits."""
        first = self._order.first
        if first is None:
            return []
        behind = [self._waiting[name] for _, _, name in self._order.after_first(most)]
        may = [each for each in behind if self._order.may_pass_first(team_of(each.request.gang), _amounts(each))]
        return [self._waiting[first[2]], *may]

    def may_pass(self, waiting: Waiting[J]) -> bool:
        """Whether a job may start before the first, now that others have."""
        return self._order.may_pass_first(team_of(waiting.request.gang), _amounts(waiting))

    def start(self, waiting: Waiting[J]) -> None:
        name = waiting.request.gang
        turn = self._turns.pop(name)
        self._order.leave(turn)
        del self._waiting[name]
        self._running.setdefault(team_of(name), {})[name] = turn, _amounts(waiting).gpus
        self._order.hold(name, team_of(name), _amounts(waiting))

    def end(self, name: str) -> None:
        """A job that ran has ended."""
        self._order.let_go(name)
        self._running.get(team_of(name), {}).pop(name, None)

    def borrowed(self, waiting: Waiting[J]) -> dict[str, int]:
        """The jobs whose devices one that waits may take, as they are borrowed and it is guaranteed; each with its
        team's place."""
        team = team_of(waiting.request.gang)
        if not self._order.declared or self._order.entitlement(team, _amounts(waiting)) is not Entitlement.GUARANTEED:
            return {}
        return borrowed_from(self._order, team, {each: list(jobs.values()) for each, jobs in self._running.items()})


def _amounts(waiting: Waiting[J]) -> Amounts:
    return Amounts(waiting.job.gpus * WHOLE)
