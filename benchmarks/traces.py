"""Replay real traces through the planner, beside other policies.

    python benchmarks/traces.py --traces DIR --workload default --cluster openb --policy ray-dra,fgd --seeds 10
    python benchmarks/traces.py --traces DIR --workload cluster04 --scale 4 --cluster nvl72:36 --policy all

`--workload NAME` is an openb pod list (`openb_pod_list_NAME.csv.gz`) or a job list (`NAME.csv.gz` with the columns
job_id, submission_time, duration, num_gpu), looked for in DIR and the folders in it. Without the traces a seeded
synthetic workload takes their place, and a line says so. `--cluster nvl72:36/4/3` has levels above the cliques: four
racks below each leaf, three leaves below each spine (benchmarks/shapes.py). Policies: see benchmarks/policies.py;
`ray-dra` is the product's, which for pods is FGD's rule; `fgd:points=50+fullest+fine=20` is that with changes
(core/policy/fgd.py).
`NAME@SHARE`: gangs wait for their clique for that share of the time that they are expected to run; `ray-dra` alone
means `ray-dra@0.1`, the others do not wait. After a / come disciplines with + between (docs/queue.md): `easy`, gangs
behind the first may start before their turn, by the same guesses; `patience`, gangs wait while a clique is worth it, in
place of @ (`patience=0.6`: to gangs that are so fast outside); `moves`, others are moved so that the first has its
clique; `preempt`, a tenth of the jobs is urgent, comes first and takes others' devices (benchmarks/ending.py);
`quotas`, jobs are of four teams with queues of their own (benchmarks/teams.py), which take back what others have
borrowed; `lent`, the same, and nothing is taken back; `fcfs`, or nothing: nobody overtakes.
`bound` is the product's with all GPUs in one clique, so that GPUs are all that counts. `foresight` is the product's
with the future known, for comparison (benchmarks/foresight.py). Pods are run as FGD's paper runs them
(benchmarks/openb.py), gangs through one queue (benchmarks/replay.py). `--halves` runs the first and the second half of
a list apart, pods each with their own mix, so that what is tuned on one can be reported on the other (for pods
benchmarks/halves.py reads the JSON files).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import openb
import plots
from figures import parser, write
from policies import FirstFit, Kai, KueueBest, KueueLeast, Ray, Slurm
from regret import Regret
from replay import Job, read_jobs, replay, shuffled, synthetic_jobs
from shapes import cluster, flat

from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.backfill import BOUNDS
from ray_dra.core.gangs.consolidation import CONSOLIDATION
from ray_dra.core.gangs.discipline import FIRST_COME, Discipline
from ray_dra.core.gangs.patience import WORTH, Worth
from ray_dra.core.gangs.preemption import PREEMPTION
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.topology import Topology
from ray_dra.core.plan import plan
from ray_dra.core.policy.base import Policy
from ray_dra.core.policy.fgd import Demand, FragmentationGradient, Mix, devices_left

GANG_POLICIES = (
    "ray-dra",
    "ray-dra@0",
    "first-fit",
    "ray",
    "best-fit",
    "kueue-best",
    "kueue-least",
    "kai",
    "slurm",
    "fgd",
)
POD_POLICIES = ("ray-dra", "best-fit", "first-fit", "ray")
BOUND = "bound"  # the product's, where all GPUs are one clique
FORESIGHT = "foresight"  # the product's, with the future known: benchmarks/foresight.py
PATIENCE = {"ray-dra": 0.1}  # the policy's, where its name does not say
RESAMPLES = 2_000
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What to replay; one process does one."""

    traces: Path | None
    workload: str
    cluster: str
    scale: int
    policy: str
    seed: int
    until: float
    with_regret: bool
    same_time: bool
    half: int  # of a list, the first or the second; 0: the whole list


def find(traces: Path | None, name: str) -> Path | None:
    """The file in the folder or below it."""
    if traces is None or not traces.is_dir():
        return None
    return next((path for path in sorted(traces.rglob(name)) if path.is_file()), None)


def placing(name: str) -> str:
    """A policy's name less its patience and discipline."""
    return name.partition("/")[0].partition("@")[0]


QUOTAS, LENT, PREEMPT = "quotas", "lent", "preempt"
DISCIPLINES: Mapping[str, Mapping[str, Any]] = {
    "fcfs": {},
    "easy": {"backfill": BOUNDS},
    "patience": {"worth": WORTH},
    QUOTAS: {"preemption": PREEMPTION},
    LENT: {},
    "moves": {"consolidation": CONSOLIDATION},
    PREEMPT: {"preemption": PREEMPTION},
}


def discipline_of(name: str) -> Discipline:
    """Who may go when, by a policy's name. Raises SystemExit for a discipline that nobody knows."""
    found = FIRST_COME
    for part in (name.partition("/")[2] or "fcfs").split("+"):
        kind, equals, speed = part.partition("=")
        if kind not in DISCIPLINES or (equals and kind != "patience"):
            raise SystemExit(f"{name!r}: after the / come disciplines, {', '.join(DISCIPLINES)}, with + between")
        found = replace(found, **DISCIPLINES[kind])
        try:
            found = replace(found, worth=Worth(float(speed))) if equals else found
        except ValueError:
            raise SystemExit(f"{name!r}: patience is followed by a speed, as in patience=0.6") from None
    return found


def policy_for(name: str, demands: Callable[[], list[Demand]], *, pods: bool) -> Policy | None:
    """The policy by its name, less its patience; None for the product's tightest place."""
    name = placing(name)
    if name in ("ray-dra", BOUND, FORESIGHT) and not pods:
        return None
    if name == "ray-dra" or name.partition(":")[0] == "fgd":
        return FragmentationGradient(demands(), **_changes(name))
    plain: dict[str, type[Policy]] = {p.name: p for p in (Policy, FirstFit, Ray, KueueBest, KueueLeast, Kai, Slurm)}
    if name not in plain:
        raise SystemExit(f"unknown policy {name!r}; there are ray-dra, fgd, {', '.join(plain)}")
    found = plain[name]()
    if pods:
        found.by_clique = False
    return found


def _changes(name: str) -> dict[str, Any]:
    """What follows the colon in `fgd:points=50+fullest+fine=20`, for `FragmentationGradient`."""
    found: dict[str, Any] = {}
    for change in filter(None, name.partition(":")[2].split("+")):
        key, _, value = change.partition("=")
        if key not in ("points", "fullest", "fine") or (key == "fullest") is bool(value):
            raise SystemExit(f"{name!r}: changes are points=N, fullest and fine=N, with + between")
        found[key] = True if key == "fullest" else float(value) if key == "fine" else int(value)
    return found


# -- pods that never leave


def run_pods(run: Run) -> Row:
    """One seed of an openb workload."""
    path = find(run.traces, f"openb_pod_list_{run.workload}.csv.gz")
    if path is not None:
        trace = openb.pods(path.parent, run.workload)
        topology = openb.nodes(path.parent) if run.cluster == "openb" else cluster(run.cluster)
    else:
        trace, topology = openb.synthetic()
    if run.half:
        middle = len(trace) // 2
        trace = trace[:middle] if run.half == 1 else trace[middle:]
    demands = openb.mix(trace)
    inventory = Inventory(openb.numbered(topology, run.seed))
    capacity = inventory.devices * 1000
    policy = policy_for(run.policy, lambda: demands, pods=True)
    mix = Mix(demands)
    bundles = {pod: pod.bundle for pod in trace}
    arrived = allocated = lost = 0
    curve: dict[str, float] = {}
    for i, pod in enumerate(openb.arrivals(trace, capacity, run.seed)):
        arrived += pod.thousandths
        answer = plan(inventory, GangRequest(f"pod-{i}", (bundles[pod],)), policy=policy)
        if isinstance(answer, Allocation):
            inventory.hold(answer)
            allocated += pod.thousandths
        else:
            lost += 1
        percent = int(100 * arrived / capacity)
        if percent >= 50 and percent % 5 == 0 and str(percent) not in curve:
            curve[str(percent)] = round(100 * allocated / capacity, 3)
        if arrived >= run.until * capacity:
            break
    free = unusable = 0.0
    for state in inventory.node_states.values():
        left = state.shared_left() | dict.fromkeys(bits(state.free), 1000)
        resources_left = tuple(state.left(name) for name in mix.names)
        unusable += mix.unusable(devices_left(state, left), resources_left)
        free += sum(left.values())
    return {
        "workload": run.workload,
        "cluster": run.cluster,
        "policy": run.policy,
        "seed": run.seed,
        "half": run.half,
        "arrived_pct": round(100 * arrived / capacity, 3),
        "allocated_pct": round(100 * allocated / capacity, 4),
        "fragmented_pct": round(100 * unusable / capacity, 4),
        "free_pct": round(100 * free / capacity, 4),
        "pods_dropped": lost,
        "curve": curve,
        "trace": path is not None,
    }


# -- gangs that come and go


def jobs_of(run: Run, topology: Topology) -> tuple[list[Job], bool]:
    path = find(run.traces, f"{run.workload}.csv.gz") or find(run.traces, f"{run.workload}.csv")
    if path is None:
        return synthetic_jobs(1_500, topology.device_count, run.scale), False
    jobs = read_jobs(path, run.scale)
    if run.half:
        jobs.sort(key=lambda job: job.arrival)
        middle = len(jobs) // 2
        jobs = jobs[:middle] if run.half == 1 else jobs[middle:]
    return jobs, True


def run_gangs(run: Run) -> Row:
    topology = cluster(run.cluster)
    jobs, real = jobs_of(run, topology)
    if placing(run.policy) == BOUND:
        topology = flat(topology)
    policy = policy_for(run.policy, lambda: _node_demands(topology, jobs), pods=False)
    regret = Regret(topology) if run.with_regret else None
    disciplines = set(run.policy.partition("/")[2].split("+"))
    figures, waits = replay(
        topology,
        shuffled(jobs, run.seed),
        policy,
        regret.seen if regret is not None else None,
        patience=patience_of(run.policy),
        same_time=run.same_time,
        foresight=placing(run.policy) == FORESIGHT,
        discipline=discipline_of(run.policy),
        teams=not disciplines.isdisjoint((QUOTAS, LENT)),
        hurries=PREEMPT in disciplines,
    )
    row: Row = {
        "workload": run.workload,
        "cluster": run.cluster,
        "scale": run.scale,
        "policy": run.policy,
        "seed": run.seed,
        "half": run.half,
        **figures,
        "waits": [round(w) for w in sorted(waits)][:: max(1, len(waits) // 200)],
        "trace": real,
    }
    if regret is not None:
        row |= regret.figures()
    return row


def patience_of(name: str) -> float:
    """What follows the @ in a policy's name, or its own. Raises SystemExit for what is no share."""
    policy, at, share = name.partition("/")[0].partition("@")
    try:
        return float(share) if at else PATIENCE.get(policy, 0.0)
    except ValueError:
        raise SystemExit(f"{name!r}: after the @ comes a share of the expected run, as in ray-dra@0.1") from None


def _node_demands(topology: Topology, jobs: list[Job]) -> list[Demand]:
    """The mix of bundles, for FGD, which looks at single nodes."""
    node = min(len(n.devices) for n in topology.nodes.values())
    counts: dict[int, int] = {}
    for job in jobs:
        size = min(job.gpus, node)
        counts[size] = counts.get(size, 0) + max(1, job.gpus // node)
    total = sum(counts.values())
    return [Demand(n / total, size) for size, n in sorted(counts.items())]


# -- the comparison


def compare(rows: list[Row], figure: str, ours: str) -> Iterator[tuple[str, float, float, float, float]]:
    """(policy, mean, `ours` minus it: mean, low, high): paired by run, 95 % by bootstrap over the runs."""
    by_seed: dict[str, dict[Any, float]] = {}
    for row in rows:
        if row.get(figure) is not None:
            run = (row["workload"], row.get("half"), row["seed"])
            by_seed.setdefault(row["policy"], {})[run] = row[figure]
    mine = by_seed.get(ours, {})
    dice = random.Random(0)
    for policy, theirs in by_seed.items():
        differences = [mine[s] - theirs[s] for s in theirs if s in mine] or [0.0]
        resampled = sorted(mean(dice.choices(differences, k=len(differences))) for _ in range(RESAMPLES))
        low, high = resampled[int(0.025 * RESAMPLES)], resampled[int(0.975 * RESAMPLES)]
        yield policy, mean(theirs.values()), mean(differences), low, high


def report(rows: list[Row], figures: tuple[str, ...]) -> None:
    ours = rows[0]["policy"]
    for figure in figures:
        print(f"\n{figure:<22}{'mean':>12}   {ours} minus it, mean [95 % interval over seeds]")
        for policy, value, difference, low, high in compare(rows, figure, ours):
            print(f"  {policy:<20}{value:>12.3f}   {difference:+.3f} [{low:+.3f}, {high:+.3f}]")


def show(rows: list[Row], *, regret: bool) -> None:
    """Each figure of the policies, beside each other."""
    figures: tuple[str, ...] = ("goodput_pct", "occupancy_pct", "allocation_pct", "left_pct", "fragmented_nodes_pct")
    figures += tuple(name for name in rows[0] if name.startswith("in_one_"))
    figures += ("allocated_gpu_hours", "gpu_hours", "mean_wait_s", "p99_wait_s", "longest_wait_s")
    figures = ("allocated_pct", "fragmented_pct") if "allocation_pct" not in rows[0] else figures
    for half in sorted({row["half"] for row in rows}):
        if half:
            print(f"\nhalf {half} of {rows[0]['workload']}")
        report([row for row in rows if row["half"] == half], figures)
        if regret:
            report([row for row in rows if row["half"] == half], ("regret_pct", "undecided"))


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.description = __doc__
    made.add_argument("--traces", type=Path, help="folder of the traces")
    made.add_argument("--workload", default="default", help="default, multigpu20, ..., or a job list: cluster04")
    made.add_argument("--cluster", default="openb", help="openb, nvl72:RACKS, boxes8:N, mix:N; see below")
    made.add_argument("--scale", type=int, default=1, help="multiplies the jobs' sizes")
    made.add_argument("--policy", default="all", help="names with commas between, or all")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--first-seed", type=int, default=0, help="the first of the seeds")
    made.add_argument("--read", type=Path, nargs="+", help="report what earlier runs wrote by --json, and run nothing")
    made.add_argument("--until", type=float, default=1.0, help="pods: arrived demand over capacity at which to stop")
    made.add_argument("--halves", action="store_true", help="the first and the second half of the list apart")
    made.add_argument("--regret", action="store_true", help="gangs: what a full repack would have admitted (slow)")
    made.add_argument("--same-time", action="store_true", help="gangs outside their clique end as in the trace")
    made.add_argument("--plot", type=Path, help="write FILE.png and FILE.svg")
    made.add_argument("--processes", type=int, default=2)
    options = made.parse_args()
    if options.read:
        rows = [row for path in options.read for row in json.loads(path.read_text())]
        for cluster_name in dict.fromkeys((row["workload"], row["cluster"]) for row in rows):
            print(f"\n{' on '.join(cluster_name)}")
            show([row for row in rows if (row["workload"], row["cluster"]) == cluster_name], regret=options.regret)
        return
    pods = options.cluster == "openb" or find(options.traces, f"openb_pod_list_{options.workload}.csv.gz") is not None
    names = (POD_POLICIES if pods else GANG_POLICIES) if options.policy == "all" else options.policy.split(",")
    runs = [
        Run(
            traces=options.traces,
            workload=options.workload,
            cluster=options.cluster,
            scale=options.scale,
            policy=name,
            seed=seed,
            until=options.until,
            with_regret=options.regret,
            same_time=options.same_time,
            half=half,
        )
        for half in ((1, 2) if options.halves else (0,))
        for name in names
        for seed in range(options.first_seed, options.first_seed + options.seeds)
    ]
    if FORESIGHT in map(placing, names) and not options.same_time:
        made.error(f"{FORESIGHT} goes with --same-time: it plays gangs forward as in the trace")
    work: Callable[[Run], Row] = run_pods if pods else run_gangs
    for name in names:
        policy_for(name, list, pods=pods)  # an unknown name is said before anything runs
        patience_of(name)
        discipline_of(name)
    if options.processes > 1:
        with ProcessPoolExecutor(options.processes) as pool:
            rows = list(pool.map(work, runs))
    else:
        rows = [work(run) for run in runs]
    if not all(row["trace"] for row in rows):
        print(f"the trace {options.workload} is not in {options.traces}: this is the seeded synthetic workload")
    show(rows, regret=options.regret)
    write(options.json, rows)
    if options.plot is not None:
        for path in plots.draw(rows, options.plot, pods=pods):
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
