"""What the coordinator tells those who collect metrics of how it is now: gauges, at most every few seconds.

What happens is counted where it is done (`executor.py`), and timed where it is decided (`coordinator.py`).
"""

from __future__ import annotations

from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.core.cluster.figures import figures_of
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.stages import QUEUED
from ray_dra.core.gangs.standing import TeamStanding, team_standings
from ray_dra.ports.clock import Clock
from ray_dra.ports.metrics import (
    CLIQUES,
    FRAGMENTATION,
    GANGS,
    GPUS,
    LARGEST,
    QUEUE_GANGS,
    QUEUE_GPUS,
    QUEUE_WAIT,
    SILENT,
    TEAM_GANGS,
    TEAM_GPUS,
    Metrics,
)

EVERY_SECONDS = 5.0  # a look at 100,000 GPUs takes some ms


class Meters:
    """See the module."""

    def __init__(
        self, metrics: Metrics, records: Records, inventory: Inventory, nodes: Nodes, clock: Clock, wall: Clock
    ) -> None:
        self._metrics, self._records, self._inventory, self._nodes = metrics, records, inventory, nodes
        self._clock, self._wall = clock, wall
        self._next = 0.0
        self._told: set[str] = set()  # the teams' queues of which something else than zeros was told last

    def look(self) -> None:
        for phase in Phase:
            if phase is not Phase.GONE:
                self._metrics.put(GANGS, self._records.phases[phase], phase.value)
        now = self._clock()
        if now >= self._next:
            self._next = now + EVERY_SECONDS
            self._queue()
            self._teams()
            self._gpus()
            self._metrics.put(SILENT, self._nodes.silent)
        self._metrics.alive()

    def _queue(self) -> None:
        waiting = [gang for gang in self._records.gangs.values() if gang.waits]
        wall = self._wall()
        waits = [wall - gang.times.since for gang in waiting if gang.times.stage == QUEUED]
        self._metrics.put(QUEUE_GANGS, len(waiting))
        self._metrics.put(QUEUE_GPUS, sum(gang.request.device_count for gang in waiting))
        self._metrics.put(QUEUE_WAIT, max(0.0, *waits) if waits else 0.0)

    def _teams(self) -> None:
        there = {team.name: team for team in team_standings(self._records)}
        for name in sorted(self._told - there.keys()):
            self._team(TeamStanding(name, False, 0.0, 0.0, None, 0.0, 0.0, 0, 0.0, False))
        for team in there.values():
            self._team(team)
        self._told = set(there)

    def _team(self, team: TeamStanding) -> None:
        states = {"guaranteed": team.guarantee, "used": team.used, "borrowed": team.borrowed, "wanted": team.wanted}
        for state, gpus in states.items():
            self._metrics.put(TEAM_GPUS, gpus, team.name, state)
        self._metrics.put(TEAM_GANGS, team.waiting, team.name)

    def _gpus(self) -> None:
        figures = figures_of(self._inventory)
        for state, count in figures.gpus.items():
            self._metrics.put(GPUS, count, state)
        for state, count in figures.cliques.items():
            self._metrics.put(CLIQUES, count, state)
        self._metrics.put(LARGEST, figures.largest)
        self._metrics.put(FRAGMENTATION, figures.fragmentation)
