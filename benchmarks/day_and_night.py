"""A day of inference and training on 64 GPUs: gangs that change their shape, beside fixed partitions and time slices.

    python benchmarks/day_and_night.py [--seed 1] [--json FILE]

A replay without Ray: each request is one event. Eight boxes with eight GPUs. Inference: requests come by day more than
by night (Poisson, the same ones for every rival); a replica serves one after the other, SERVICE seconds each on a part
1g.10gb, of which a GPU has seven; they wait in one queue. Training: a queue of gangs of eight GPUs that never ends,
which can stop within GRACE seconds and go on later.

- `fixed K`: K boxes are in parts all day, the others train.
- `time slices`: every GPU trains and has replicas beside it, as many as its memory has room for. Slices have no two
  processes on a GPU at once, and a replica in its slice keeps a part of the GPU busy (ALONE), or, at its best, all.
- `shapes`: a box serves from 56 parts or trains as one gang, as the load of the next minutes asks (that of this curve,
  with a margin). Each change is planned by `core.gangs.reshape.next_allocation`, and takes what a driver takes that
  makes or destroys one part a second (PART_SECONDS), and OWN_SECONDS more, in which the box does nothing.

Idle is what is left of 64 GPUs after the requests served (each a seventh of a GPU for SERVICE seconds) and training.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from figures import parser, percentile, write

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.reshape import next_allocation
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from ray_dra.ports.kube_objects import KubeNode, Placing
from ray_dra.simulated.dra.devices import gpu_pool, node_labels, slices
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.kube.slices import node_from_slices, read_slice
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import mig

BOXES, GPUS, PARTS = 8, 8, 7
DAY = 86_400.0
SERVICE = 10.0  # seconds of a request on a part
PEAK = 35.0  # requests a second: 50 of the 64 GPUs' parts
GRACE = 60.0  # in which training saves its work before a change
PART_SECONDS, OWN_SECONDS = 1.0, 10.0
SWITCH = GPUS * PARTS * PART_SECONDS + OWN_SECONDS
MARGIN, AHEAD, EACH = 1.15, 900.0, 300.0  # of the load; seconds that are looked ahead; seconds between two looks
TRAINING_MEMORY, REPLICA_MEMORY, GPU_MEMORY = 60, 10, 80  # GB
ALONE = 0.3  # of a GPU that a replica keeps busy which has it for its slice


def load(at: float) -> float:
    """Requests a second, at a time of the day."""
    day = max(0.0, math.sin((at / DAY - 0.29) * 2 * math.pi))
    return PEAK * (0.12 + 0.88 * math.pow(day, 0.8))


def requests(seed: int) -> Iterator[float]:
    """When each comes: Poisson, by thinning."""
    chance, at = random.Random(seed), 0.0
    while (at := at + chance.expovariate(PEAK)) < DAY:
        if chance.random() * PEAK < load(at):
            yield at


class Served(NamedTuple):
    """`waits`: from the coming of each request to its end; `training`: GPU hours; `changes`: of shape."""

    waits: list[float]
    training: float
    changes: int = 0

    @property
    def idle(self) -> float:
        """GPU hours."""
        return BOXES * GPUS * DAY / 3600 - self.training - len(self.waits) * SERVICE / PARTS / 3600


class Replicas:
    """Boxes in parts, and the requests that wait for one."""

    def __init__(self) -> None:
        self.free: list[tuple[float, int]] = []  # (from when on, box) of each replica
        self.serving: set[int] = set()

    def add(self, box: int, at: float) -> None:
        self.serving.add(box)
        for _ in range(GPUS * PARTS):
            heapq.heappush(self.free, (at, box))

    def remove(self, box: int, at: float) -> float:
        """What runs there ends; when it has."""
        self.serving.discard(box)
        last = max(free for free, of in self.free if of == box)
        self.free = [each for each in self.free if each[1] != box]
        heapq.heapify(self.free)
        return max(at, last)

    def serve(self, at: float) -> float:
        """When the request is done that comes now."""
        free, box = self.free[0]
        done = max(at, free) + SERVICE
        heapq.heapreplace(self.free, (done, box))
        return done


def fixed(seed: int, boxes: int) -> Served:
    replicas = Replicas()
    for box in range(boxes):
        replicas.add(box, 0.0)
    waits = [replicas.serve(at) - at for at in requests(seed)]
    return Served(waits, (BOXES - boxes) * GPUS * DAY / 3600)


def time_slices(seed: int, keeps_busy: float) -> Served:
    """A GPU's time goes to its active processes in equal slices; a request has the GPU for itself in its own.
    `keeps_busy`: so much of it."""
    replicas = (GPU_MEMORY - TRAINING_MEMORY) // REPLICA_MEMORY
    alone = SERVICE / PARTS / keeps_busy  # seconds of the GPU
    free = [(0.0, n) for n in range(BOXES * GPUS * replicas)]
    busy: list[list[float]] = [[] for _ in range(BOXES * GPUS)]  # of each GPU: when its replicas end
    waits, used = [], 0.0
    for at in requests(seed):
        since, replica = free[0]
        start, gpu = max(at, since), replica % (BOXES * GPUS)
        busy[gpu] = [end for end in busy[gpu] if end > start]
        active = 2 + len(busy[gpu])  # with itself and training
        done = start + alone * active
        busy[gpu].append(done)
        heapq.heapreplace(free, (done, replica))
        waits.append(done - at)
        used += alone
    return Served(waits, max(0.0, BOXES * GPUS * DAY - used) / 3600)


@dataclass
class Box:
    """A box that is a gang's, and what it is now: parts that serve, or training."""

    held: Allocation
    serves: bool
    until: float = 0.0  # it changes until then
    trained: float = 0.0  # seconds
    since: float = 0.0


class Shapes:
    def __init__(self) -> None:
        machines = simulated_nodes("hgx-h100", nodes=BOXES)
        nodes = []
        for machine in machines:
            pool = slices(gpu_pool(machine, {}, frozenset({"DynamicMIG"})), machine.name, 1)
            versioned = [{**each, "metadata": {**each["metadata"], "resourceVersion": "1"}} for each in pool]
            node = KubeNode(machine.name, labels=node_labels(machine), cpus=256, memory=1 << 40)
            nodes.append(node_from_slices(node, [read_slice(each) for each in versioned], Placing()))
        self.inventory = Inventory(nodes)
        self.planning = Planning(self.inventory, KnownNodes(self.inventory), ())
        self.boxes: list[Box] = []
        self.planned: list[float] = []  # seconds of each plan
        for number in range(BOXES):
            answer = plan(self.inventory, self.shape(number, serves=False))
            assert isinstance(answer, Allocation), answer
            self.inventory.hold(answer)
            self.boxes.append(Box(answer, serves=False))

    def shape(self, number: int, *, serves: bool) -> GangRequest:
        bundles = [{"GPU": 1.0}] * (GPUS * PARTS) if serves else [{"GPU": float(GPUS)}]
        made = request_from_bundles(bundles, part=mig("1g.10gb") if serves else None)
        return replace(made, gang=f"box-{number}")

    def change(self, number: int, *, serves: bool) -> None:
        box = self.boxes[number]
        began = time.perf_counter()
        gpus = self.planning.own_gpus(box.held)
        assert gpus is not None
        found = next_allocation(box.held, self.shape(number, serves=serves), self.planning, own_workers=True, gpus=gpus)
        self.planned.append(time.perf_counter() - began)
        assert isinstance(found, Allocation), found
        self.inventory.release(box.held.gang)
        self.inventory.hold(found)
        box.held, box.serves = found, serves

    def run(self, seed: int) -> Served:
        replicas, changes, look = Replicas(), 0, 0.0
        for number in range(self.wanted(0.0)):
            self.change(number, serves=True)
            replicas.add(number, 0.0)
        waits = []
        for at in requests(seed):
            while look <= at:
                changes += self.look(look, replicas)
                look += EACH
            waits.append(replicas.serve(at) - at)
        trained = sum(box.trained + (0.0 if box.serves else DAY - box.since) for box in self.boxes)
        return Served(waits, trained * GPUS / 3600, changes)

    def look(self, at: float, replicas: Replicas) -> int:
        """Change boxes as the load of the next minutes asks."""
        wanted = self.wanted(at)
        settled = [n for n, box in enumerate(self.boxes) if box.until <= at]
        serving = [n for n in settled if self.boxes[n].serves]
        training = [n for n in settled if not self.boxes[n].serves]
        coming = sum(box.serves for box in self.boxes)
        for number in training[: max(0, wanted - coming)]:
            box = self.boxes[number]
            box.trained += max(0.0, at - box.since)  # its grace is for saving its work
            box.until = at + GRACE + SWITCH
            self.change(number, serves=True)
            replicas.add(number, box.until)
        for number in serving[wanted:] if coming > wanted else ():
            box = self.boxes[number]
            box.until = box.since = replicas.remove(number, at) + SWITCH
            self.change(number, serves=False)
        return len([n for n in settled if self.boxes[n].until > at])

    @staticmethod
    def wanted(at: float) -> int:
        most = max(load(at + ahead) for ahead in (0.0, AHEAD / 2, AHEAD))
        return min(BOXES, math.ceil(most * MARGIN * SERVICE / (GPUS * PARTS)))


def row(name: str, served: Served) -> dict[str, Any]:
    return {
        "rival": name,
        "requests": len(served.waits),
        "median_s": round(statistics.median(served.waits), 2),
        "p99_s": round(percentile(served.waits, 99), 2),
        "most_s": round(max(served.waits), 2),
        "training_gpu_hours": round(served.training, 1),
        "idle_gpu_hours": round(served.idle, 1),
        "changes": served.changes,
    }


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    shapes = Shapes()
    rows = [row("shapes", shapes.run(given.seed))]
    rows += [row(f"fixed {boxes}", fixed(given.seed, boxes)) for boxes in (6, 7, 8)]
    rows += [row(f"time slices, {busy:.0%} busy", time_slices(given.seed, busy)) for busy in (ALONE, 1.0)]
    for each in rows:
        print("  ".join(f"{name} {value}" for name, value in each.items()))
    print(f"a plan of the next shape: median {1e3 * statistics.median(shapes.planned):.2f} ms")
    write(given.json, rows)


if __name__ == "__main__":
    main()
