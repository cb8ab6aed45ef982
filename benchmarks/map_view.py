"""What the map costs the coordinator: a call of `view` a second, with its pickling, while gangs come and go.

    python benchmarks/map_view.py --racks 100 --seconds 200

The racks are filled with gangs to four fifths. `opens`: all that the first browser is told, in how many calls; `idle`:
a second in which nothing changes; `busy`: one in which a gang of up to 64 GPUs ends and others come in its place. CPU
milliseconds; the mean, and the 99th percentile. `kilobytes`: of one answer.
"""

from __future__ import annotations

import gc
import json
import pickle
import random
import time
from statistics import mean

from figures import parser, percentile, write
from shapes import cluster

from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.coordinator.view import Views
from ray_dra.core.gangs.order import Order
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.simulated.fakes import FakeRay, MemoryStore
from ray_dra.translate.map.view import NOTHING_SEEN, Cursor

SIZES = (1, 2, 4, 8, 16)  # nodes of a gang


class Watched:
    """A coordinator over a Ray that answers nothing, and whoever looks at it."""

    def __init__(self, racks: int) -> None:
        self.now, self.dice, self.count = 0.0, random.Random(0), 0
        self.coordinator = Coordinator(MemoryStore(), FakeRay(), lambda: self.now, wall=lambda: 1e9 + self.now)
        for node in cluster(f"nvl72:{racks}").nodes.values():
            self.coordinator.inventory.put_node(node)
        self.views: Views = self.coordinator.views("e", dict)
        self.cursor: Cursor = NOTHING_SEEN

    def fill(self) -> None:
        inventory = self.coordinator.inventory
        while inventory.held_devices < 0.8 * inventory.devices:
            self.count += 1
            bundles = (Bundle((DeviceRequest(4),)),) * self.dice.choice(SIZES)
            request = GangRequest(f"g{self.count}", bundles, Locality(cliques=1, required=False))
            self.coordinator.submit(Order(request, name=f"train-{self.count}", owner="01000000"))

    def end_one(self) -> None:
        self.coordinator.release(self.dice.choice(list(self.coordinator.gangs)))

    def look(self) -> tuple[float, int, bool]:
        """CPU milliseconds, bytes, and whether there is more."""
        began = time.thread_time()
        view = self.views.since(self.cursor)
        size = len(pickle.dumps(view, protocol=5))
        spent = (time.thread_time() - began) * 1000
        self.cursor = view.to
        return spent, size, view.more


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--racks", type=int, default=100)
    made.add_argument("--seconds", type=int, default=200)
    options = made.parse_args()
    watched = Watched(options.racks)
    watched.fill()
    gc.collect()
    gc.disable()  # as the actor does: it collects between its looks
    opens = [watched.look()]
    while opens[-1][2]:
        opens.append(watched.look())
    found = {}
    for what in ("idle", "busy"):
        looks = []
        for _ in range(options.seconds):
            watched.now += 1.0
            if what == "busy":
                watched.end_one()
                watched.fill()
            looks.append(watched.look())
        spent = [ms for ms, _, _ in looks]
        found[what] = {
            "mean_ms": round(mean(spent), 3),
            "p99_ms": round(percentile(spent, 99), 3),
            "kilobytes": round(mean(size for _, size, _ in looks) / 1000, 1),
        }
    row = {
        "gpus": watched.coordinator.inventory.devices,
        "gangs": len(watched.coordinator.gangs),
        "opens": {
            "calls": len(opens),
            "ms": round(sum(ms for ms, _, _ in opens), 1),
            "most_ms": round(max(ms for ms, _, _ in opens), 1),
        },
        **found,
    }
    print(json.dumps(row))
    write(options.json, [row])


if __name__ == "__main__":
    main()
