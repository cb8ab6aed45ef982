"""Regret: gangs that had to leave their clique although a full repack of everything that runs would have kept
them in one.

Each time a gang is placed outside its clique, all running gangs and it are packed anew: segments into cliques. First
fit decreasing shows most packings that exist, the count of GPUs most that do not; CP-SAT decides the rest, and what
it does not decide in its time counts as possible, so that the figure is a bound from above.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ortools.sat.python import cp_model
from replay import Job, Machines

from ray_dra.core.model.topology import Topology

SECONDS = 2.0


class Repack:
    """Whether sets of jobs can all be within cliques at once."""

    def __init__(self, topology: Topology) -> None:
        self.machines = Machines.of(topology)
        self.bins = sorted((c.devices for c in topology.cliques.values()), reverse=True)
        self.known: dict[tuple[int, ...], bool | None] = {}

    def segments(self, gpus: int) -> list[int]:
        """A job's parts that each want a clique, in GPUs."""
        most = self.machines.segment * self.machines.node
        return [most] * (gpus // most) + ([gpus % most] if gpus % most else [])

    def possible(self, jobs: Iterable[int]) -> bool | None:
        """None: not decided in time."""
        items = tuple(sorted((part for gpus in jobs for part in self.segments(gpus)), reverse=True))
        if items not in self.known:
            self.known[items] = self._decide(items)
        return self.known[items]

    def _decide(self, items: tuple[int, ...]) -> bool | None:
        if sum(items) > sum(self.bins):
            return False
        left = list(self.bins)
        for item in items:
            fitting = [i for i, n in enumerate(left) if n >= item]
            if not fitting:
                return self._solve(items)
            left[min(fitting, key=lambda i: left[i])] -= item
        return True

    def _solve(self, items: tuple[int, ...]) -> bool | None:
        """By counts of equal items in each clique."""
        sizes = sorted(set(items))
        model = cp_model.CpModel()
        put = {(size, i): model.new_int_var(0, room // size, "") for size in sizes for i, room in enumerate(self.bins)}
        for size in sizes:
            model.add(sum(put[size, i] for i in range(len(self.bins))) == items.count(size))
        for i, room in enumerate(self.bins):
            model.add(sum(size * put[size, i] for size in sizes) <= room)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.max_time_in_seconds = SECONDS
        status = solver.solve(model)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return True
        return False if status == cp_model.INFEASIBLE else None


class Regret:
    """Told of each job that starts (`replay(seen=...)`), it adds up what a repack would have kept."""

    def __init__(self, topology: Topology) -> None:
        self.repack = Repack(topology)
        self.asked = self.lost = self.undecided = 0

    def seen(self, job: Job, running: list[int], within: bool) -> None:
        if job.gpus < 2:
            return
        self.asked += job.gpus
        if not within:
            possible = self.repack.possible([*running, job.gpus])
            self.undecided += possible is None
            self.lost += job.gpus if possible is not False else 0

    def figures(self) -> dict[str, Any]:
        """`regret_pct`: GPUs of gangs that left although a repack would have kept them, of all GPUs asked for by
        gangs of several; `undecided`: how many of these CP-SAT did not decide."""
        share = round(100 * self.lost / self.asked, 3) if self.asked else 0.0
        return {"regret_pct": share, "undecided": self.undecided}
