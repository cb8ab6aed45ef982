"""Jobs of a replay that end before they are done: for one of a higher priority, or to go elsewhere so that another has
its clique. Both are asked of core as the coordinator asks (core/gangs/victims.py, consolidation.py).

A tenth of the jobs, by name, are urgent where a discipline preempts. A job saves its work every CHECKPOINT_S, and needs
RESTART_S to work again; what it has worked since is lost. Notice takes no time. Neighbour: `replay.py`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.consolidation import gangs_to_move, places_for
from ray_dra.core.gangs.discipline import Discipline
from ray_dra.core.gangs.patience import Answer, as_preferred
from ray_dra.core.gangs.preemption import BORROWED, waits_before
from ray_dra.core.gangs.victims import Price, Victims, victims_as_preferred
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from ray_dra.core.policy.base import Policy

CHECKPOINT_S = 1800.0
RESTART_S = 600.0
URGENT_ONE_OF = 10  # jobs
_TICK_S = 1e-3  # less than this is rounding


def urgent(name: str) -> bool:
    return zlib.crc32(b"urgent" + name.encode()) % URGENT_ONE_OF == 0


@dataclass(frozen=True, slots=True)
class Run:
    """A job that runs.

    Attributes:
        began: when it got its devices.
        speed: of full speed.
        left: seconds of work at full speed that it had to do then.
        moved, preempted: how often it was.
    """

    request: GangRequest
    gpus: int
    began: float
    speed: float
    left: float
    moved: int = 0
    preempted: int = 0

    def lost(self, now: float) -> float:
        """Seconds of its time that are lost if it ends now."""
        return (now - self.began) % CHECKPOINT_S

    def stopped(self, now: float) -> Run:
        """What is left of it, with the work that it lost and the time until it works again."""
        done = (now - self.began - self.lost(now)) * self.speed
        return replace(self, left=max(0.0, self.left - done) + RESTART_S)


class Ending:
    """Who ends for the first in the queue. `runs`: the jobs that run, by name; the caller keeps it."""

    def __init__(
        self, inventory: Inventory, runs: Mapping[str, Run], discipline: Discipline, policy: Policy | None
    ) -> None:
        self._inventory, self._runs, self._policy = inventory, runs, policy
        self._preemption, self._consolidation = discipline.preemption, discipline.consolidation
        self._asked: object = None
        self.again = math.inf
        """When there may be other victims for the job that was asked for last, though nothing changes: somebody has run
        for long enough by then."""

    def victims(
        self, name: str, request: GangRequest, now: float, waited: float, borrowed: Mapping[str, int], *, hurries: bool
    ) -> Victims | None:
        """For an urgent job, where some are (`hurries`), or one that has a right to what others have `borrowed`: who
        ends. `waited`: for how long it has."""
        hurries = hurries and urgent(name)
        asked = name, self._inventory.changes
        if not (self._preemption.most and (hurries or borrowed)):
            self.again = math.inf
            return None
        if self._asked == asked and now < self.again:
            return None
        may = {
            other: run
            for other, run in self._runs.items()
            if other in borrowed or (hurries and not urgent(other) and run.preempted < self._preemption.most)
        }
        long_enough = {other: run.began + self._preemption.least_run for other, run in may.items()}
        prices = {
            other: Price(
                (BORROWED, borrowed[other]) if other in borrowed else (0,),
                int(run.gpus * (run.lost(now) + self._preemption.restart)),
                run.gpus,
            )
            for other, run in may.items()
            if now >= long_enough[other]
        }
        place = partial(_place, self._inventory, request, self._policy)
        found = victims_as_preferred(self._inventory, request, prices, place)
        self.again = min((at for at in long_enough.values() if now < at), default=math.inf)
        if found is not None:
            more = waits_before(prices, found.gangs, request.device_count, self._preemption) - waited
            if more > _TICK_S:
                self.again, found = min(self.again, now + more), None
        self._asked = None if found is not None else asked
        return found

    def moves(self, request: GangRequest, gained: float, now: float) -> tuple[Allocation, ...]:
        """The next places of jobs that are moved so that one has its clique. `gained`: GPU seconds."""
        settings = self._consolidation
        if not settings.times or request.whole_devices > self._inventory.free_devices:
            return ()
        lost = {
            other: int(run.gpus * (run.lost(now) + RESTART_S))
            for other, run in self._runs.items()
            if run.moved < settings.times and now >= run.began + settings.least_run and run.speed == 1.0
        }
        if not lost or gained <= min(lost.values()):
            return ()
        place, others = partial(_place, self._inventory, request, self._policy, True), self._place_other
        found = gangs_to_move(self._inventory, request, lost, gained, settings.gangs, place, others)
        return (places_for(self._inventory, found, place, others) if found else None) or ()

    def _place_other(self, name: str, nodes: frozenset[str]) -> Answer:
        request = self._runs[name].request
        asked = replace(request, exclude=request.exclude | nodes)
        answer = plan(self._inventory, asked, policy=self._policy, strict=True)
        if isinstance(answer, Allocation):
            assert as_preferred(answer, request.locality)
        return answer


def _place(inventory: Inventory, request: GangRequest, policy: Policy | None, strict: bool) -> Answer:
    return plan(inventory, request, policy=policy, strict=strict)
