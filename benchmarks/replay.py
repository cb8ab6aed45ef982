"""Gangs on a cluster over time: jobs arrive, wait in one queue, run as long as they ran, and leave.

First come, first served; the first that does not fit holds up those behind it, unless the discipline lets them overtake
(core/gangs/discipline.py, overtaking.py), with guesses of how long they run that are wrong by up to ASTRAY. The same
for every policy. A job asks for a bundle for each GPU, as Ray Train does for its workers, in one
clique where a clique is large enough and in segments of a power of two nodes where not, preferred, not
required: it starts as soon as there are devices, or once its patience is over, where it has any.

One that had to leave its clique runs at 1/2.4 of its speed (NCCL bus bandwidth inside and outside of the
clique on two GB300 nodes): it takes 2.4 times as long for its work, or (`same_time`) it ends when it ended
in the trace, with less done.
"""

from __future__ import annotations

import csv
import gzip
import heapq
import math
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ending import RESTART_S, Ending, Run, urgent
from figures import percentile
from foresight import Foresight
from nearness import inside, together
from overtaking import Overtaking, Waiting
from shapes import LEVELS
from teams import Line, team_of

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.backfill import earliest
from ray_dra.core.gangs.discipline import FIRST_COME, Discipline
from ray_dra.core.gangs.patience import Answer, as_preferred, in_turn, patience_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.model.shortfall import ShortfallKind
from ray_dra.core.model.topology import Topology
from ray_dra.core.plan import plan
from ray_dra.core.policy.base import Policy

OUTSIDE = 1 / 2.4  # speed of a gang that had to leave its clique
JITTER_S = 6 * 3600.0  # a seed shifts each arrival by up to so much
ASTRAY = 3.0  # by such a factor, either way, users misjudge how long their jobs will run


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    arrival: float  # seconds
    duration: float  # seconds
    gpus: int

    @property
    def expected(self) -> float:
        """How long its user thinks that it will run, in seconds: wrong by up to ASTRAY, the same for every policy."""
        dice = random.Random(zlib.crc32(self.name.encode()))
        return float(self.duration * ASTRAY ** dice.uniform(-1, 1))


def read_jobs(path: Path, scale: int = 1) -> list[Job]:
    """A job list with the columns job_id, submission_time, duration, num_gpu; sizes times `scale`."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = list(csv.DictReader(file))
    return [
        Job(r["job_id"], float(r["submission_time"]), float(r["duration"]), int(r["num_gpu"]) * scale) for r in rows
    ]


def synthetic_jobs(count: int, gpus: int, scale: int = 1, load: float = 0.9) -> list[Job]:
    """Seeded jobs with sizes and durations spread as in real traces, for those who do not have one."""
    dice = random.Random(7)
    sizes = dice.choices((1, 2, 4, 8, 16, 32, 64), (60, 6, 8, 18, 4, 3, 1), k=count)
    durations = [min(dice.lognormvariate(9.0, 1.3), 400_000.0) for _ in sizes]
    work = sum(s * d for s, d in zip(sizes, durations, strict=True)) * scale
    span = work / (gpus * load)
    times = sorted(dice.uniform(0, span) for _ in sizes)
    return [Job(f"job-{i}", t, d, s * scale) for i, (t, d, s) in enumerate(zip(times, durations, sizes, strict=True))]


def shuffled(jobs: list[Job], seed: int) -> list[Job]:
    """The jobs with arrivals shifted by up to JITTER_S either way; seed 0 is the trace itself."""
    if seed == 0:
        return sorted(jobs, key=lambda j: (j.arrival, j.name))
    dice = random.Random(seed)
    moved = [Job(j.name, j.arrival + dice.uniform(-JITTER_S, JITTER_S), j.duration, j.gpus) for j in jobs]
    return sorted(moved, key=lambda j: (j.arrival, j.name))


@dataclass(frozen=True, slots=True)
class Machines:
    """What a job can count on: GPUs of a node, and the largest segment of nodes in one clique."""

    node: int
    segment: int

    @classmethod
    def of(cls, topology: Topology) -> Machines:
        """By the smallest node, and the largest clique in whole powers of two of it."""
        node = min(len(n.devices) for n in topology.nodes.values())
        largest = max((c.devices for c in topology.cliques.values()), default=node)
        segment = 1
        while segment * 2 * node <= largest:
            segment *= 2
        return cls(node, segment)

    def request(self, name: str, gpus: int, patience: float | None = 0.0) -> GangRequest:
        segment = self.segment * self.node
        whole = gpus <= segment or gpus % segment
        parts = Locality(cliques=1) if whole else Locality(segment=segment)
        locality = replace(parts, required=False, patience=patience)
        return GangRequest(name, (Bundle((DeviceRequest(1),)),) * gpus, locality)


class Tally:
    """Integrals over the window from the first to the last arrival."""

    def __init__(self, start: float, end: float, gpus: int, nodes: int) -> None:
        self.now, self.end = start, end
        self.gpus, self.nodes = gpus, nodes
        self.allocated = self.good = self.waiting = self.while_waiting = self.fragmented = 0.0
        self.window = end - start

    def advance(self, to: float, inventory: Inventory, good: float, waits: bool) -> None:
        to = min(to, self.end)
        span = to - self.now
        if span <= 0:
            return
        self.now = to
        held = inventory.held_devices
        self.allocated += span * held
        self.good += span * good
        idle = sum(n for free, n in enumerate(inventory.by_free) if free)
        empty = sum(1 for s in inventory.node_states.values() if not s.held) if span else 0
        self.fragmented += span * (idle - empty)
        if waits:
            self.waiting += span
            self.while_waiting += span * held


def _place(inventory: Inventory, request: GangRequest, policy: Policy | None, strict: bool) -> Answer:
    return plan(inventory, request, policy=policy, strict=strict)


def _expected(
    inventory: Inventory, request: GangRequest, overtaking: Overtaking[Job], now: float, place: Callable[[bool], Answer]
) -> float | None:
    """When a job could have what it prefers, if running ones end as their users guess."""
    found = earliest(inventory, request, overtaking.known(now), now, lambda: place(True))
    return found.at if found is not None else None


def replay(
    topology: Topology,
    jobs: Iterable[Job],
    policy: Policy | None,
    seen: Callable[[Job, list[int], bool], None] | None = None,
    *,
    patience: float = 0.0,
    same_time: bool = False,
    foresight: bool = False,
    discipline: Discipline = FIRST_COME,
    teams: bool = False,
    hurries: bool = False,
) -> tuple[dict[str, Any], list[float]]:
    """Run the jobs; the figures of the run, and each job's wait in seconds.

    Args:
        seen: is told of each job that starts, the sizes of those that run beside it, whether it is within its clique.
        patience: of each job, as a share of the time that its user thinks it will run.
        same_time: a job outside its clique ends when it ended in the trace, with less done.
        foresight: the future is known; see foresight.py.
        discipline: who may go when. Where it says what a clique is worth, that is in place of `patience`.
        teams: jobs are of four teams with queues of their own; see teams.py. Where the discipline preempts, what is
            borrowed is taken back.
        hurries: a tenth of the jobs is urgent, comes first, and takes others' devices where the discipline preempts.

    Figures, in percent of all GPUs unless said otherwise: `occupancy_pct` GPU time allocated over the window
    (scheduled occupancy); `goodput_pct` the same with gangs outside their clique at 1/2.4; `allocation_pct` GPUs
    allocated while something waits (GPU allocation rate); `fragmented_nodes_pct` nodes that are neither empty nor
    full, over time (GPU node fragmentation ratio; all three as Kant names them, arXiv 2510.01256);
    `left_pct` gangs of several GPUs that had to leave their clique, by GPU time; `in_one_leaf_pct` and the like, of
    gangs over several cliques those that lie in one leaf, by GPU time, where the cluster has such levels; `gpu_hours`
    that all jobs held devices, to the last one's end; `lost_gpu_hours` of work that was lost, and of restarts, by
    `moved` and `preempted` jobs; `urgent_mean_wait_s` of the urgent ones.

    Raises ValueError where all jobs arrive at once.
    """
    inventory = Inventory(topology, level_labels=LEVELS)
    machines = Machines.of(topology)
    arrivals = deque(jobs)
    queue: Line[Job] = Line(inventory.devices if teams else 0)
    by_team: dict[str, list[float]] = {}
    running: list[tuple[float, str, int, float]] = []  # (end, name, gpus, speed)
    waits: list[float] = []
    ends: dict[str, float] = {}  # when running gangs have ended, as their users guess
    overtaking: Overtaking[Job] = Overtaking(inventory, ends, discipline.backfill, policy)
    overtook = moved = preempted = 0
    lost = 0.0  # GPU seconds of work and of restarts
    runs_of: dict[str, Run] = {}
    stopped: dict[str, Run] = {}  # jobs that wait again
    ending = Ending(inventory, runs_of, discipline, policy)
    urgent_waits: list[float] = []
    since: float | None = None  # when the first in the queue could have started
    could_start: dict[str, float] = {}  # the same of each that was first: with teams it may be so again
    over = math.inf  # when its patience is, or somebody has run long enough to end for it
    if arrivals[0].arrival == arrivals[-1].arrival:
        raise ValueError("all jobs arrive at once: there is no window to measure over")
    tally = Tally(arrivals[0].arrival, arrivals[-1].arrival, inventory.devices, len(inventory.node_states))
    seer = Foresight(inventory) if foresight else None
    by_name: dict[str, Job] = {}
    asked_at = -1  # of the inventory, when the first was asked for last
    good = held = 0.0
    left = several = dropped = 0.0
    apart = [0.0] * (len(LEVELS) + 1)  # of gangs over several cliques, by the lowest level that has them together
    lies: dict[str, int] = {}

    def wanting(job: Job) -> Waiting[Job]:
        share = None if discipline.worth is not None else patience * job.expected
        request = machines.request(job.name, job.gpus, share)
        return Waiting(job, request, patience_of(request.locality, job.expected, discipline.worth))

    def start(waiting: Waiting[Job], answer: Allocation) -> None:
        nonlocal good, held, left, several
        job, request = waiting.job, waiting.request
        inventory.hold(answer)
        queue.start(waiting)
        before = stopped.pop(job.name, None)
        could_start.pop(job.name, None)
        if before is None:
            waits.append(now - job.arrival)
            by_team.setdefault(team_of(job.name), []).append(now - job.arrival)
            if urgent(job.name):
                urgent_waits.append(now - job.arrival)
        within = inside(inventory, answer, request.locality.segment or len(request.bundles))
        speed = 1.0 if within else OUTSIDE
        if seen is not None:
            seen(job, [gpus for _, _, gpus, _ in running], within)
        work = job.duration if before is None else before.left
        runs = work if same_time else work / speed
        run = Run(request, job.gpus, now, speed, work)
        runs_of[job.name] = run if before is None else replace(before, began=now, speed=speed)
        held += job.gpus * runs
        if job.gpus > 1:
            several += job.gpus * runs
            left += 0.0 if within else job.gpus * runs
        if (level := together(inventory, answer)) is not None:
            lies[job.name] = level
            apart[level] += job.gpus * runs
        good += job.gpus * speed
        heapq.heappush(running, (now + runs, job.name, job.gpus, speed))
        slower = (
            1.0 if discipline.worth is None or as_preferred(answer, request.locality) else 1 / discipline.worth.speed
        )
        ends[job.name] = now + job.expected * slower

    def stop(name: str) -> Run:
        """A job ends before it is done, and what it had not saved is lost."""
        nonlocal good, held, lost, left, several
        at = next(at for at, each in enumerate(running) if each[1] == name)
        end, _, gpus, speed = running.pop(at)
        heapq.heapify(running)
        inventory.release(name)
        queue.end(name)
        ends.pop(name, None)
        good -= gpus * speed
        held -= gpus * (end - now)
        if gpus > 1:
            several -= gpus * (end - now)
            left -= 0.0 if speed == 1.0 else gpus * (end - now)
        if (level := lies.pop(name, None)) is not None:
            apart[level] -= gpus * (end - now)
        run = runs_of.pop(name)
        wasted = gpus * (run.lost(now) * speed + RESTART_S)
        lost += wasted
        if now <= tally.end:
            tally.good -= wasted
        return run.stopped(now)

    def make_room(first: Waiting[Job], *, waits_for_clique: bool) -> bool:
        """Whether others have ended or gone elsewhere for the first in the queue, which could start
        (`waits_for_clique`) or not."""
        nonlocal moved, preempted
        job, request = first.job, first.request
        slower = discipline.worth.speed if discipline.worth is not None else OUTSIDE
        gained = job.gpus * (job.expected * (1 / slower - 1.0) if waits_for_clique else now - job.arrival)
        for place in ending.moves(request, gained, now) if request.locality.within_cliques else ():
            run = stop(place.gang)
            stopped[place.gang] = replace(run, moved=run.moved + 1)
            again = wanting(by_name[place.gang])
            queue.append(again)
            start(again, place)
            moved += 1
            waits_for_clique = True
        if waits_for_clique:
            return inventory.changes != asked_at
        victims = ending.victims(job.name, request, now, now - job.arrival, queue.borrowed(first), hurries=hurries)
        for name in victims.gangs if victims is not None else ():
            run = stop(name)
            stopped[name] = replace(run, preempted=run.preempted + 1)
            queue.append(wanting(by_name[name]), front=True)
            preempted += 1
        return victims is not None

    while arrivals or queue or running:
        now = min(arrivals[0].arrival if arrivals else math.inf, running[0][0] if running else math.inf, over)
        tally.advance(now, inventory, good, bool(queue))
        while running and running[0][0] <= now:
            _, name, gpus, speed = heapq.heappop(running)
            inventory.release(name)
            queue.end(name)
            ends.pop(name, None)
            runs_of.pop(name)
            lies.pop(name, None)
            good -= gpus * speed
        while arrivals and arrivals[0].arrival <= now:
            job = arrivals.popleft()
            if job.gpus > inventory.devices or queue.never(job.name, job.gpus):
                dropped += 1
                continue
            by_name[job.name] = job
            queue.append(wanting(job), priority=int(hurries and urgent(job.name)))
        over = math.inf
        while queue.first(0):
            (first,) = queue.first(0)
            job, request = first.job, first.request
            since = could_start.get(job.name)
            asked_at = inventory.changes
            if inventory.free_devices < job.gpus:
                if make_room(first, waits_for_clique=False):
                    continue
                over = ending.again
                break
            place = partial(_place, inventory, request, policy)
            expected = partial(_expected, inventory, request, overtaking, now, place)
            answer, since = in_turn(inventory, request, since, now, place, first.patience, expected)
            if not isinstance(answer, Allocation):
                patient = answer.shortfalls[-1].kind is ShortfallKind.PATIENCE
                if since is not None:
                    could_start[job.name] = since
                if make_room(first, waits_for_clique=patient):
                    continue
                over = ending.again
                if patient and since is not None:
                    over = math.nextafter(since + answer.shortfalls[-1].wanted, math.inf)
                break
            if seer is not None:
                waiting = ((now, each.request, each.job.duration) for each in queue if each is not first)
                coming = (
                    (each.arrival, machines.request(each.name, each.gpus), each.duration)
                    for each in arrivals
                    if each.gpus <= inventory.devices
                )
                known = [(end, name) for end, name, _, _ in running]
                answer = seer.best(answer, request, now + job.duration, known, chain(waiting, coming))
            start(first, answer)
        if discipline.backfill.waiting and queue and inventory.free_devices:
            for each, found in overtaking.look(queue.first(discipline.backfill.waiting), now, since, queue.may_pass):
                overtook += 1
                start(each, found)
        if not arrivals and not running and len(queue):
            dropped += len(queue)
            break
    whole = inventory.devices * tally.window
    figures = {
        "goodput_pct": 100 * tally.good / whole,
        "occupancy_pct": 100 * tally.allocated / whole,
        "allocated_pct": 100 * tally.allocated / whole,
        "allocated_gpu_hours": tally.allocated / 3600,
        "gpu_hours": held / 3600,
        "allocation_pct": 100 * tally.while_waiting / (inventory.devices * tally.waiting) if tally.waiting else None,
        "fragmented_nodes_pct": 100 * tally.fragmented / (tally.nodes * tally.window),
        "left_pct": 100 * left / several if several else 0.0,
        "mean_wait_s": sum(waits) / len(waits),
        "p99_wait_s": percentile(waits, 99),
        "longest_wait_s": max(waits),
        "overtook": overtook,
        "moved": moved,
        "preempted": preempted,
        "lost_gpu_hours": lost / 3600,
        "urgent_mean_wait_s": sum(urgent_waits) / max(1, len(urgent_waits)),
        "jobs": len(waits),
        "dropped": dropped,
    }
    for at, name in enumerate(LEVELS):
        if any(name in node.labels for node in topology.nodes.values()):
            figures[f"in_one_{name}_pct"] = 100 * sum(apart[: at + 1]) / sum(apart) if sum(apart) else None
    if teams:
        figures |= {f"mean_wait_{team}_s": sum(each) / len(each) for team, each in sorted(by_team.items())}
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}, waits
