"""What spares are worth: how much of the time a gang over many racks makes progress while nodes fail and are repaired.

    python benchmarks/survival.py --gpus 512,2048,8192 --repair 1,24 --spares 0,1,2 --seeds 3 --plot FILE

A model: faults are drawn (one in 50,700 GPU hours, as in Llama 3's 54 days on 16,384 GPUs, or `--worse` times as
often), a node is out for the time of its repair, work since the last checkpoint is lost, and to go on takes a while.
Where the gang goes on is not a model: it is the planner's own answer (`core.plan`, `core.gangs.replacing`, `shrinking`
and `growing`) on the nodes that are well. Racks have 18 trays of 4 GPUs; the gang has segments of 16 trays, one a rack;
of the other two, others have those that are no spares. Five ways: nobody acts; the whole gang starts again elsewhere;
lost workers are replaced and else the gang starts again; segments that have lost a tray go until there is room for them
again, and half of the segments are enough; lost workers are replaced, and else their segments go. What fewer GPUs do
counts as so much less.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from statistics import mean
from typing import Any

from figures import parser, write
from shapes import racks

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.growing import grown
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.repair import OnFault, Way
from ray_dra.core.gangs.replacing import place_again
from ray_dra.core.gangs.shapes import Shape
from ray_dra.core.gangs.shrinking import shrunk_to
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import IMEX_LIMITS
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan

SEGMENT, GPUS = 16, 4  # trays of a rack that the gang has, and GPUs of a tray
HOUR = 3600.0
GPU_HOURS = 50_700.0  # in which one fault is met
CHECKPOINT = 1800.0
GOES_ON = {
    "replace": 60.0,
    "restart": 300.0,
    "shrink": 300.0,
    "degrade": 300.0,
}  # seconds until it makes progress again
GROWS_AFTER = 40.0  # seconds for which room has to stand, and of notice
WAYS = ("degrade", "restart", "replace", "shrink", "replace, shrink")


@dataclass(frozen=True)
class Case:
    """`gpus` of the gang, `repair` in hours, `spares` in each rack, `worse`: faults come so many times as often."""

    gpus: int
    repair: float
    spares: int
    way: str
    worse: float = 1.0

    @property
    def racks(self) -> int:
        return self.gpus // (SEGMENT * GPUS)


class Life:
    """A gang from its start on, for so many seconds."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case, self.random = case, random.Random(f"{case.gpus} {case.repair} {seed} {case.worse}")
        self.inventory = Inventory(self._nodes(), IMEX_LIMITS)
        self.planning = Planning(self.inventory, KnownNodes(self.inventory), ())
        bundles = (Bundle((DeviceRequest(GPUS),)),) * (case.racks * SEGMENT)
        request = GangRequest("g", bundles, Locality(segment=SEGMENT))
        answer = plan(self.inventory, request)
        assert isinstance(answer, Allocation)
        self.inventory.hold(answer)
        least = max(1, case.racks // 2) * SEGMENT
        self.gang = Gang(request, 1, allocation=answer, group="g", on_fault=OnFault((Way.SHRINK,), 0.0, least))
        self.lost: set[str] = set()  # nodes of the gang that are out
        self.restarts = self.replaced = self.shrunk = self.grown = 0

    def _nodes(self) -> Iterator[Node]:
        """Trays that others have are left out."""
        for node in racks(self.case.racks):
            tray = node.order or 0
            if tray < SEGMENT + self.case.spares:
                yield replace(node, spare=self.case.way not in ("degrade", "restart") and tray >= SEGMENT)

    def share(self, seconds: float) -> float:
        """Of the time in which it makes progress that is not lost, in percent."""
        names = sorted(self.inventory.node_states)
        every = GPU_HOURS * HOUR / (len(names) * GPUS * self.case.worse)  # seconds from one fault to the next
        repairs: list[tuple[float, str]] = []
        now, useful, runs_from = 0.0, 0.0, 0.0
        fault, grows_at = self.random.expovariate(1 / every), float("inf")
        while min(fault, grows_at, repairs[0][0] if repairs else seconds) < seconds:
            if grows_at <= min(fault, repairs[0][0] if repairs else seconds):
                now, grows_at = grows_at, float("inf")
                part = self._part
                if now >= runs_from and self._grow():  # its program has notice, so that nothing is lost
                    useful += (now - runs_from) * part
                    runs_from = now + GOES_ON["shrink"]
                continue
            if repairs and repairs[0][0] <= fault:
                now, node = heappop(repairs)
                self._well(node, well=True)
                if runs_from == float("inf"):
                    self.lost.discard(node)
                    runs_from = now + took if (took := self._goes_on()) is not None else runs_from
                if self.gang.shrunk is not None and runs_from < float("inf"):
                    grows_at = max(now, runs_from) + GROWS_AFTER
                continue
            now, node = fault, self.random.choice(names)
            fault += self.random.expovariate(1 / every)
            if not self.inventory.node_states[node].node.ready:
                continue
            heappush(repairs, (now + self.case.repair * HOUR, node))
            self._well(node, well=False)
            if node not in self._has():
                continue
            useful += max(0.0, now - runs_from) // CHECKPOINT * CHECKPOINT * self._part
            self.lost.add(node)
            took = self._goes_on()
            runs_from = now + took if took is not None else float("inf")
            grows_at = runs_from + GROWS_AFTER if self.gang.shrunk is not None else float("inf")
        return 100 * (useful + max(0.0, seconds - runs_from) * self._part) / seconds

    @property
    def _part(self) -> float:
        """Of the whole gang, what it has."""
        return len(self.gang.request.bundles) / (self.case.racks * SEGMENT)

    def _has(self) -> frozenset[str]:
        return frozenset(self.gang.allocation.nodes) if self.gang.allocation is not None else frozenset()

    def _goes_on(self) -> float | None:
        """After how long it does; None: not before something is repaired."""
        if not self.lost:
            return GOES_ON["degrade"]
        if "replace" in self.case.way and self._replace():
            return GOES_ON["replace"]
        if "shrink" in self.case.way and self._shrink():
            return GOES_ON["shrink"]
        if self.case.way in ("restart", "replace") and self._restart():
            return GOES_ON["restart"]
        return None

    def _replace(self) -> bool:
        assert self.gang.allocation is not None
        faulty = [rank for rank, node in enumerate(self.gang.allocation.nodes) if node in self.lost]
        found = place_again(self.planning, self.gang, faulty)
        self.replaced += found is not None
        return self._moved(found)

    def _shrink(self) -> bool:
        assert self.gang.allocation is not None
        faulty = [rank for rank, node in enumerate(self.gang.allocation.nodes) if node in self.lost]
        found = shrunk_to(self.gang, faulty, own_workers=True)
        self.shrunk += found is not None
        return self._has_shape(found)

    def _grow(self) -> bool:
        found = grown(self.planning, self.gang, own_workers=True, may=lambda request: True)
        self.grown += found is not None
        return self._has_shape(found)

    def _has_shape(self, found: Shape | None) -> bool:
        if found is None:
            return False
        self.gang = replace(self.gang, request=found.request, shrunk=found.shrunk)
        return self._moved(found.allocation)

    def _restart(self) -> bool:
        assert self.gang.allocation is not None
        request = replace(self.gang.request, preemptible=False)
        found = self.planning.elsewhere(self.gang.allocation, lambda: plan(self.inventory, request))
        self.restarts += isinstance(found, Allocation)
        return self._moved(found if isinstance(found, Allocation) else None)

    def _moved(self, found: Allocation | None) -> bool:
        if found is None:
            return False
        self.inventory.release("g")
        self.inventory.hold(found)
        self.gang = replace(self.gang, allocation=found, moves=self.gang.moves + 1)
        self.lost.clear()
        return True

    def _well(self, name: str, *, well: bool) -> None:
        node = self.inventory.node_states[name].node
        self.inventory.put_node(replace(node, ready=well, reason="" if well else "a fault"))


def run(case: Case, days: float, seeds: int) -> dict[str, Any]:
    shares, restarts, replaced, shrunk, grows = [], 0, 0, 0, 0
    for seed in range(seeds):
        life = Life(case, seed)
        shares.append(life.share(days * 24 * HOUR))
        restarts, replaced = restarts + life.restarts, replaced + life.replaced
        shrunk, grows = shrunk + life.shrunk, grows + life.grown
    return {
        "gpus": case.gpus,
        "repair_h": case.repair,
        "spares": case.spares,
        "way": case.way,
        "worse": case.worse,
        "goodput_pct": round(mean(shares), 2),
        "least_pct": round(min(shares), 2),
        "restarts": restarts / seeds,
        "replaced": replaced / seeds,
        "shrunk": shrunk / seeds,
        "grown": grows / seeds,
    }


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--gpus", default="512,2048,8192")
    made.add_argument("--repair", default="1,24", help="hours")
    made.add_argument("--spares", default="0,1,2", help="free trays of each rack")
    made.add_argument("--worse", default="1", help="faults come so many times as often")
    made.add_argument("--days", type=float, default=30.0)
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--plot", type=Path, help="write FILE.png and FILE.svg")
    options = made.parse_args()
    rows = []
    print(f"{'GPUs':>6} {'repair':>7} {'faults':>7} {'spares':>7} " + " ".join(f"{way:>15}" for way in WAYS))
    for gpus in map(int, options.gpus.split(",")):
        for worse in map(float, options.worse.split(",")):
            for repair in map(float, options.repair.split(",")):
                for spares in map(int, options.spares.split(",")):
                    found = [run(Case(gpus, repair, spares, way, worse), options.days, options.seeds) for way in WAYS]
                    rows += found
                    shares = " ".join(f"{row['goodput_pct']:>14.1f}%" for row in found)
                    print(f"{gpus:>6} {repair:>5g} h {worse:>5g} x {spares:>7} {shares}", flush=True)
    write(options.json, rows)
    if options.plot is not None:
        import plots

        for path in plots.survival(rows, options.plot):
            print(path)


if __name__ == "__main__":
    main()
