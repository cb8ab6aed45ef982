"""How long the planner takes at 1,000 to 1,000,000 GPUs (a million: racks only), at 95 % load, gangs coming and going.

Each cluster runs in a process of its own, so that its memory is its own. Per cluster
(`levels`: the racks below leaves, spines and cores, eight each):

    small           gangs of 1 to 72 GPUs: plan and hold
    small-cpu       the same, with CPUs asked for beside the GPUs
    mixed           gangs of one small bundle and several large ones: exact search instead of counting
    large           the largest gang (8,192 GPUs, or an eighth of a smaller cluster): plan and hold
    refusal         a no with its shortfalls
    counterfactual  what would fit instead, and whose leaving would help
    leave           a gang is given back
    node            a node leaves and joins again, or a device turns unhealthy and well

Times are of this machine in microseconds; the sizes side by side are the comparison.
"""

from __future__ import annotations

import gc
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from figures import parser, percentile, write
from shapes import LEVELS, cluster

from ray_dra.core.cluster.clique_state import CLIQUE
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import counterfactual
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Health
from ray_dra.core.model.imex import IMEX_LIMITS
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan

LOAD = 0.95
SIZES = (1, 2, 4, 8, 16, 32, 64, 72)
WEIGHTS = (30, 15, 25, 15, 7, 4, 2, 2)  # small ones are most, as in the ElasticFlow traces
SHAPES = {
    "nvl72": {1_000: "nvl72:14", 10_000: "nvl72:139", 100_000: "nvl72:1389", 1_000_000: "nvl72:13889"},
    "boxes8": {1_000: "boxes8:125", 10_000: "boxes8:1250", 100_000: "boxes8:12500"},
    "levels": {1_000: "nvl72:14/8/8/8", 10_000: "nvl72:139/8/8/8", 100_000: "nvl72:1389/8/8/8"},
    "mix": {1_000: "mix:42", 10_000: "mix:417", 100_000: "mix:4167"},
}
Row = dict[str, object]


class Load:
    """Gangs on a cluster, coming and going."""

    def __init__(self, kind: str, shape: str, seed: int) -> None:
        self.kind = "nvl72" if kind == "levels" else kind
        self.random = random.Random(seed)
        topology = cluster(shape)
        start = time.perf_counter()
        self.inventory = Inventory(topology, IMEX_LIMITS, LEVELS if kind == "levels" else ())
        self.build_s = time.perf_counter() - start
        self.total = self.inventory.devices
        self.gangs: list[tuple[str, int]] = []
        self.used = 0
        self.count = 0
        self.bundles: dict[tuple[int, float], Bundle] = {}

    def bundle(self, gpus: int, cpus: float = 0.0) -> Bundle:
        key = (gpus, cpus)
        if key not in self.bundles:
            self.bundles[key] = Bundle((DeviceRequest(gpus),), {"CPU": cpus} if cpus else {})
        return self.bundles[key]

    def request(self, gpus: int, *, cpus: float = 0.0, segment: int | None = None) -> GangRequest:
        """A gang in one clique, or (where it is larger than a clique, or `segment` says so) in segments."""
        self.count += 1
        where = self.kind
        if where == "mix":
            where = self.random.choice(("nvl72", "boxes8", "dgx1")) if gpus > 1 else "boxes8"
        node = 4 if where == "nvl72" else 8
        each = min(gpus, node)
        bundles = (self.bundle(each, cpus * each),) * max(1, gpus // each)
        if where == "dgx1":
            each = min(gpus, 4)  # four of a DGX-1 are all linked, eight are not
            bundles = (self.bundle(each, cpus * each),) * max(1, gpus // each)
            return GangRequest(f"g{self.count}", bundles, Locality(connect=Connect.REQUIRED))
        if segment is None and where == "boxes8" and gpus > 8:
            segment = 1
        locality = Locality(segment=segment) if segment else Locality(cliques=1)
        return GangRequest(f"g{self.count}", bundles, locality)

    def single(self) -> GangRequest:
        self.count += 1
        return GangRequest(f"g{self.count}", (self.bundle(1),))

    def draw(self, cpus: float = 0.0) -> GangRequest:
        return self.request(self.random.choices(SIZES, WEIGHTS)[0], cpus=cpus)

    def come(self, request: GangRequest) -> tuple[float, Allocation | Unsatisfiable]:
        """Microseconds for plan and hold, and the answer."""
        start = time.perf_counter_ns()
        answer = plan(self.inventory, request)
        if isinstance(answer, Allocation):
            self.inventory.hold(answer)
        took = (time.perf_counter_ns() - start) / 1000
        if isinstance(answer, Allocation):
            self.gangs.append((request.gang, request.device_count))
            self.used += request.device_count
        return took, answer

    def go(self) -> float:
        """A gang leaves at random; microseconds."""
        at = self.random.randrange(len(self.gangs))
        self.gangs[at], self.gangs[-1] = self.gangs[-1], self.gangs[at]
        name, size = self.gangs.pop()
        self.used -= size
        start = time.perf_counter_ns()
        self.inventory.release(name)
        return (time.perf_counter_ns() - start) / 1000

    def fill(self, load: float) -> None:
        """Up to a load; where the rest is too scattered for what comes, single GPUs fill it."""
        missed = 0
        while self.used < load * self.total:
            _, answer = self.come(self.draw() if missed < 200 else self.single())
            missed += isinstance(answer, Unsatisfiable)

    def make_room(self, gpus: int, load: float = LOAD) -> list[float]:
        took = []
        while self.gangs and self.used + gpus > load * self.total:
            took.append(self.go())
        return took


def measure(kind: str, shape: str, rounds: int, seed: int) -> list[Row]:
    gc.disable()  # it runs between calls, as in the coordinator
    load = Load(kind, shape, seed)
    load.fill(LOAD)
    rows: list[Row] = []

    def row(case: str, took: list[float], **more: object) -> None:
        if took:
            rows.append(
                {
                    "case": f"{kind}-{case}",
                    "gpus": load.total,
                    "count": len(took),
                    "p50_us": round(percentile(took, 50), 1),
                    "p99_us": round(percentile(took, 99), 1),
                    "max_us": round(max(took), 1),
                    "build_s": round(load.build_s, 2),
                    **more,
                }
            )

    leaving: list[float] = []
    for case, cpus in (("small", 0.0), ("small-cpu", 8.0)):
        _settle()
        yes: list[float] = []
        no: list[float] = []
        for i in range(rounds):
            if i % 1_000 == 0:
                gc.collect(1)
            request = load.draw(cpus)
            leaving += load.make_room(request.device_count)
            took, answer = load.come(request)
            (yes if isinstance(answer, Allocation) else no).append(took)
        row(case, yes, refused=len(no))
    row("leave", leaving)
    _settle()
    mixed: list[float] = []
    for _ in range(rounds // 20):
        request = _mixed(load)
        load.make_room(request.device_count)
        took, answer = load.come(request)
        if isinstance(answer, Allocation):
            mixed.append(took)
    row("mixed", mixed)
    _settle()
    row("refusal", _refusals(load, max(200, rounds // 20)))
    row("counterfactual", _counterfactuals(load, max(10, rounds // 1000)))
    row("node", _node_changes(load, max(200, rounds // 20)))
    _settle()
    row("large", _large(load, max(20, rounds // 200)), size=_largest(load))
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for each in rows:
        each["rss_mb"] = round(rss)
    return rows


def _settle() -> None:
    """What the coordinator's actor does between calls: the cyclic collector's work, and what is alive set aside."""
    gc.collect()
    gc.freeze()


def _mixed(load: Load) -> GangRequest:
    """One bundle of one GPU and several large ones, in one clique (or no wish, where cliques are small)."""
    load.count += 1
    each = 4 if load.kind == "nvl72" else 2
    bundles = (load.bundle(1), *(load.bundle(each),) * load.random.choice((1, 2, 3)))
    return GangRequest(f"g{load.count}", bundles, Locality(cliques=1))


def _wishes(load: Load) -> list[Callable[[], GangRequest]]:
    """Gangs that do not fit: too large for what is free, a bundle too large for a node, or too scattered.

    Each with CPUs beside the GPUs, and without.
    """
    linked = Locality(connect=Connect.REQUIRED)
    return [
        lambda: load.request(load.total, segment=1),
        *(
            lambda sizes=sizes, cpus=cpus, where=where: replace(
                load.request(1), bundles=tuple(load.bundle(n, cpus * n) for n in sizes), locality=where
            )
            for cpus in (0.0, 8.0)
            for sizes, where in (
                ((16,), Locality(cliques=1)),
                ((1,) * 73, Locality(cliques=1)),
                ((4,) * 40, Locality(cliques=2)),
                ((8,) * 600, linked),
            )
        ),
    ]


def _refusals(load: Load, rounds: int) -> list[float]:
    load.make_room(0)
    load.fill(LOAD)
    took = []
    wishes = _wishes(load)
    for i in range(rounds):
        request = wishes[i % len(wishes)]()
        start = time.perf_counter_ns()
        answer = plan(load.inventory, request)
        spent = (time.perf_counter_ns() - start) / 1000
        if isinstance(answer, Unsatisfiable):
            took.append(spent)
    return took


def _counterfactuals(load: Load, rounds: int) -> list[float]:
    """What is nearest to a yes for gangs that want most of a clique, or a few cliques."""
    took = []
    whole = [c.levels[-1] for c in load.inventory.orders.values() if c.kind == CLIQUE and len(c.levels) == 9]
    racks = [((load.bundle(4),) * 16, Locality(cliques=1)), ((load.bundle(4),) * 40, Locality(cliques=2))]
    boxes = [((load.bundle(8),) * (sum(map(len, whole)) + 4), Locality(segment=1))]  # a few more than are free
    wishes = racks if load.kind == "nvl72" else boxes
    for i in range(rounds * 4):
        bundles, locality = wishes[i % len(wishes)]
        request = replace(load.request(1), bundles=bundles, locality=locality)
        if isinstance(plan(load.inventory, request), Unsatisfiable):
            start = time.perf_counter_ns()
            counterfactual(load.inventory, request)
            took.append((time.perf_counter_ns() - start) / 1000)
        if len(took) == rounds:
            break
    return took


def _node_changes(load: Load, rounds: int) -> list[float]:
    took = []
    names = sorted(load.inventory.node_states)
    for i in range(rounds):
        node = load.inventory.node_states[load.random.choice(names)].node
        sick = replace(node, devices=(replace(node.devices[0], health=Health.TAINTED), *node.devices[1:]))
        changes: list[Callable[[], None]] = [
            lambda sick=sick: load.inventory.put_node(sick),  # type: ignore[misc]
            lambda node=node: load.inventory.put_node(node),  # type: ignore[misc]
        ]
        if i % 2:
            changes = [
                lambda node=node: load.inventory.drop_node(node.name),  # type: ignore[misc]
                lambda node=node: load.inventory.put_node(node),  # type: ignore[misc]
            ]
        for change in changes:
            start = time.perf_counter_ns()
            change()
            took.append((time.perf_counter_ns() - start) / 1000)
    return took


def _largest(load: Load) -> int:
    return min(8192, load.total // 8 // 64 * 64)


def _large(load: Load, rounds: int) -> list[float]:
    """The largest gang, in segments of 16 GPUs (of 8 on boxes), with the cluster at 95 % when it has come."""
    took = []
    size = _largest(load)
    for _ in range(rounds):
        load.make_room(size)
        request = load.request(size, segment=4 if load.kind == "nvl72" else 1)
        spent, answer = load.come(request)
        tries = 0
        while isinstance(answer, Unsatisfiable) and tries < 400:  # too scattered: more have to leave
            for _ in range(max(1, len(load.gangs) // 200)):
                load.go()
            tries += 1
            spent, answer = load.come(request)
        if isinstance(answer, Allocation):
            took.append(spent)
            load.inventory.release(request.gang)
            load.gangs.remove((request.gang, size))
            load.used -= size
            load.fill(LOAD)
    return took


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=20_000, help="gangs of the small cases (default 20,000)")
    arguments.add_argument("--gpus", type=int, nargs="*", default=[1_000, 10_000, 100_000, 1_000_000])
    arguments.add_argument("--kinds", nargs="*", default=list(SHAPES))
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--one", nargs=2, metavar=("KIND", "SHAPE"), help="measure one cluster in this process")
    options = arguments.parse_args()
    if options.one:
        kind, shape = options.one
        print(json.dumps(measure(kind, shape, options.rounds, options.seed)))
        return
    rows: list[Row] = []
    print(f"{'case':<22}{'GPUs':>8}{'count':>7}{'p50 us':>10}{'p99 us':>10}{'max us':>10}{'build s':>9}{'MB':>6}")
    for kind in options.kinds:
        for gpus in (g for g in options.gpus if g in SHAPES[kind]):
            command = [sys.executable, __file__, "--one", kind, SHAPES[kind][gpus]]
            command += ["--rounds", str(options.rounds), "--seed", str(options.seed)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for r in found:
                print(
                    f"{r['case']:<22}{r['gpus']:>8}{r['count']:>7}{r['p50_us']:>10}{r['p99_us']:>10}{r['max_us']:>10}"
                    f"{r['build_s']:>9}{r['rss_mb']:>6}"
                )
            rows += found
    write(options.json, rows)


if __name__ == "__main__":
    main()
