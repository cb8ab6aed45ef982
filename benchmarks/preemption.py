"""How long it takes to choose who ends for a gang of a higher priority, on full racks.

    python benchmarks/preemption.py --racks 36 --rounds 20

The racks are filled with gangs of one GPU, of a tray, of mixed sizes, or of a rack, in one clique each, with priorities
0 to 2 and work to lose at random; all of them may be taken. Each round fills another cluster and asks for one gang.
Times are CPU milliseconds of one search, between which the cyclic collector runs, as in the coordinator; `taken` is the
mean number of gangs, `none` in how many rounds nobody was found.
"""

from __future__ import annotations

import gc
import random
import time
from functools import partial
from statistics import mean

from figures import parser, percentile, write
from shapes import cluster

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.victims import Price, cheapest_victims
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan

ONE_CLIQUE = Locality(cliques=1)
FILLED = {
    "one GPU each": ((1,), 1),
    "a tray each": ((1,), 4),
    "mixed": ((1, 1, 2, 4, 8, 16, 32, 64), 1),
    "a rack each": ((18,), 4),
}
"""What the running gangs are: the numbers of bundles, and GPUs of each."""
ASKED = {
    "64 GPUs in a clique": (64, 1, ONE_CLIQUE),
    "16 trays in a clique": (16, 4, ONE_CLIQUE),
    "a whole clique": (18, 4, Locality(cliques=1, exclusive=True)),
    "8 GPUs in a clique": (8, 1, ONE_CLIQUE),
    "8 segments of 16 trays": (128, 4, Locality(segment=16)),
    "128 GPUs anywhere": (128, 1, Locality()),
}


def request(name: str, bundles: int, gpus: int, locality: Locality) -> GangRequest:
    return GangRequest(name, (Bundle((DeviceRequest(gpus),)),) * bundles, locality, priority=9)


def fill(inventory: Inventory, sizes: tuple[int, ...], gpus: int, dice: random.Random) -> dict[str, Price]:
    """Gangs until nothing is free; what they cost."""
    prices: dict[str, Price] = {}
    while inventory.free_devices:
        name, bundles = f"g{len(prices)}", dice.choice(sizes)
        answer = plan(inventory, request(name, bundles, gpus, ONE_CLIQUE))
        if not isinstance(answer, Allocation):
            answer = plan(inventory, request(name, 1, gpus, ONE_CLIQUE))
        assert isinstance(answer, Allocation)
        inventory.hold(answer)
        lost = len(answer.grants) * dice.randint(0, 24 * 3600)
        prices[name] = Price((dice.choice((0, 0, 0, 1, 2)),), lost, len(answer.grants))
    return prices


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--racks", type=int, default=36)
    arguments.add_argument("--rounds", type=int, default=20)
    options = arguments.parse_args()
    topology, rows = cluster(f"nvl72:{options.racks}"), []
    gc.disable()
    print(f"{'running gangs':<16}{'asked for':<26}{'p50':>8}{'p99':>8}{'max':>8}  (CPU ms){'taken':>8}{'none':>6}")
    for filled, (sizes, gpus) in FILLED.items():
        worlds = []
        for seed in range(options.rounds):
            inventory = Inventory(topology)
            worlds.append((inventory, fill(inventory, sizes, gpus, random.Random(seed))))
        for asked, wanted in ASKED.items():
            times, taken = [], []
            for inventory, prices in worlds:
                wants = request("wants", *wanted)
                gc.collect(1)
                began = time.thread_time()
                found = cheapest_victims(inventory, wants, prices, partial(plan, inventory, wants))
                times.append((time.thread_time() - began) * 1000)
                taken += [len(found.gangs)] if found is not None else []
            row = {"filled": filled, "asked": asked, "rounds": options.rounds, "none": options.rounds - len(taken)}
            row |= {"p50_ms": percentile(times, 50), "p99_ms": percentile(times, 99), "max_ms": max(times)}
            rows.append({**row, "taken": mean(taken) if taken else None})
            figures = "".join(f"{row[key]:>8.1f}" for key in ("p50_ms", "p99_ms", "max_ms"))
            print(f"{filled:<16}{asked:<26}{figures}{mean(taken) if taken else 0:>18.1f}{row['none']:>6}")
    write(options.json, rows)


if __name__ == "__main__":
    main()
