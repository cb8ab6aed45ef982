"""What a look at a long queue costs the coordinator's core: whose turn it is, patience, and who may go before its turn.

    python benchmarks/queue_look.py --racks 36 --waiting 5000 --rounds 50

The racks are full of gangs of one GPU to a rack, and thousands wait; all prefer a clique and say how long they run, the
first in the queue needs several racks. In each round a running gang ends, and a look follows until nobody more starts.
`changed`: such a look; `unchanged`: the one after it, half a second later; `overrun`: one at which somebody has come to
run longer than it said. Times are CPU milliseconds of one look; `started` is the mean number of gangs that a look
starts.
"""

from __future__ import annotations

import random
import time
from statistics import mean

from figures import parser, percentile, write
from shapes import cluster

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.actions import Drop, EndWorkers, Save
from ray_dra.core.gangs.engine import Engine
from ray_dra.core.gangs.events import Event, Moment, NextTurn, ReleaseAsked, Submitted, WorkersLeft
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.progress import THERE
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest

SIZES = (1, 1, 1, 2, 4, 8, 16, 32, 64, 72)
FIRST_RACKS = 4  # that the first in the queue needs


class Queue:
    """The engine alone: what it decides is done on its records."""

    def __init__(self, racks: int, dice: random.Random) -> None:
        inventory = Inventory(cluster(f"nvl72:{racks}"))
        known = KnownNodes(inventory)
        known.look(0.0)
        self.engine, self.now, self.dice, self.count = (
            Engine(inventory, known, begins=THERE, own_workers=False),
            0.0,
            dice,
            0,
        )

    def act(self, event: Event) -> int:
        """How many actions it led to."""
        now = Moment(self.now, self.now)
        actions = self.engine.handle(event, now)
        for action in actions:
            if isinstance(action, Save):
                self.engine.saved(action, now)
            elif isinstance(action, Drop):
                self.engine.records.drop(action.gang, keep_until=action.keep_until)
            elif isinstance(action, EndWorkers):
                self.act(WorkersLeft(action.gang, False, undone=True, why=action.why))
        return len(actions)

    def submit(self, gpus: int, locality: Locality, runs_for: float) -> None:
        self.count += 1
        request = GangRequest(f"g{self.count}", (Bundle((DeviceRequest(1),)),) * gpus, locality)
        self.act(Submitted(Order(request, runs_for=runs_for)))

    def some(self) -> None:
        """A gang of any size."""
        self.submit(self.dice.choice(SIZES), Locality(cliques=1, required=False), 3600 * 4 ** self.dice.uniform(-2, 3))

    def look(self) -> tuple[float, int]:
        """CPU milliseconds until nothing more is decided, and how many gangs have started."""
        before = self.holding()
        began = time.thread_time()
        while self.act(NextTurn()):
            pass
        return (time.thread_time() - began) * 1000, self.holding() - before

    def holding(self) -> int:
        return sum(1 for _ in self.engine.records.holders())


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--racks", type=int, default=36)
    made.add_argument("--waiting", type=int, default=5_000)
    made.add_argument("--rounds", type=int, default=50)
    options = made.parse_args()
    queue = Queue(options.racks, random.Random(0))
    while queue.engine.records.first is None:
        queue.some()
    queue.act(ReleaseAsked(queue.engine.records.first.id))
    queue.submit(FIRST_RACKS * 72, Locality(segment=72), 36_000.0)
    while sum(gang.waits for gang in queue.engine.records.gangs.values()) < options.waiting:
        for _ in range(100):
            queue.some()
    running = queue.holding()
    times: dict[str, list[float]] = {"changed": [], "unchanged": [], "overrun": []}
    started = []
    for _ in range(options.rounds):
        holders = [gang.id for gang, _ in queue.engine.records.holders()]
        queue.act(ReleaseAsked(queue.dice.choice(holders)))
        took, count = queue.look()
        times["changed"].append(took)
        started.append(count)
        queue.now += 0.5
        times["unchanged"].append(queue.look()[0])
        ends = [
            gang.ends for gang, _ in queue.engine.records.holders() if gang.ends is not None and gang.ends > queue.now
        ]
        queue.now = min(ends) + 0.1
        times["overrun"].append(queue.look()[0])
    print(f"{options.waiting} wait, {running} run on {options.racks} racks; a look starts {mean(started):.1f}")
    rows = []
    for what, each in times.items():
        row = {"look": what, "p50_ms": percentile(each, 50), "p99_ms": percentile(each, 99), "max_ms": max(each)}
        rows.append({**row, "waiting": options.waiting, "running": running, "racks": options.racks})
        print(
            f"{what:<12}"
            + "".join(f"{row[key]:>9.1f}" for key in ("p50_ms", "p99_ms", "max_ms"))
            + "  CPU ms p50, p99, max"
        )
    write(options.json, rows)


if __name__ == "__main__":
    main()
