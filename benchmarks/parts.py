"""How long the planner takes for parts of GPUs: every part of a node, and a part of every GPU of a thousand.

Nodes of eight H100s of which every partition can be made, as NVIDIA's driver publishes them. Either nobody has anything
("empty"), or others have parts at random of half of the GPUs ("in use": hardly two of those are alike). Each round
plans a gang of another name; nothing is held. The first round, in which the planner learns what fits on such GPUs, is
told apart. Times are in milliseconds, by the clock and of CPU: on a machine that others use, too, they differ.
"""

from __future__ import annotations

import gc
import random
import time
from dataclasses import replace

from figures import parser, percentile, write
from shapes import BOX_LINKS, machine

from ray_dra.core.cluster.gpu_parts import table_of
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.clique import box_clique
from ray_dra.core.model.device import DeviceId
from ray_dra.core.model.node import Node
from ray_dra.core.model.parts import Part, PartCriteria, PartedGpu
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan
from ray_dra.simulated.profile import MigProfile, load_profile

GPUS = 8  # of a node
PRODUCT = "NVIDIA H100 80GB HBM3"
PROFILES = load_profile("hgx-h100").mig
CASES = {
    "every part of 8 GPUs": (1, 56, 1.0),
    "a part of each of 1,000 GPUs": (125, 1_000, 10.0),
    "56 parts on 1,000 GPUs": (125, 56, 10.0),
}
"""(nodes, parts of 1g.10gb, the aim for the 99th percentile in milliseconds)"""


def counters_of(mig: MigProfile) -> dict[str, int]:
    engines = {f"engine-{kind}": n for kind, n in enumerate(mig.engines) if n}
    return {"multiprocessors": mig.multiprocessors, "memory": mig.memory_mib, **engines}


def parted(node: str, at: int) -> PartedGpu:
    """A GPU of which every partition can be made."""
    parts = (
        Part(
            DeviceId("gpu.nvidia.com", node, f"gpu-{at}-mig-{mig.profile.replace('.', '')}-{mig.id}-{start}"),
            mig.profile,
            memory=mig.memory_mib << 20,
            consumes=(
                *counters_of(mig).items(),
                *((f"memory-slice-{place}", 1) for place in range(start, start + mig.span)),
            ),
        )
        for mig in PROFILES
        for start in mig.starts
    )
    counters = {f"memory-slice-{place}": 1 for place in range(max(mig.span for mig in PROFILES))}
    for mig in PROFILES:
        counters |= {name: max(n, counters.get(name, 0)) for name, n in counters_of(mig).items()}
    return PartedGpu(f"GPU-{node}-{at}", tuple(sorted(parts, key=lambda p: p.id.device)), tuple(counters.items()), at)


def nodes(count: int) -> list[Node]:
    names = [f"h100-{number}" for number in range(count)]
    made = (machine(name, GPUS, BOX_LINKS, box_clique(name), PRODUCT, 192.0) for name in names)
    return [replace(node, parted=tuple(parted(node.name, at) for at in range(GPUS))) for node in made]


def use(inventory: Inventory, seed: int) -> None:
    """Others have parts of every second GPU."""
    dice = random.Random(seed)
    for state in inventory.node_states.values():
        taken: dict[str, int] = {}
        for gpu in state.node.parted[::2]:
            table, mask = table_of(gpu), 0
            for _ in range(dice.randint(1, 4)):
                free = [at for at in range(len(gpu.parts)) if table.open(mask) >> at & 1]
                mask |= 1 << dice.choice(free) if free else 0
            taken[gpu.uuid] = mask
        inventory.set_others(state.name, sum(1 << at for at in range(0, GPUS, 2)), {})
        inventory.set_parts(state.name, taken, {})


def plans(inventory: Inventory, count: int, rounds: int) -> list[tuple[float, float]]:
    """Milliseconds of each plan, by the clock and of CPU."""
    bundle = Bundle((DeviceRequest(1, part=PartCriteria("1g.10gb", 0)),), {})
    taken = []
    for number in range(rounds):
        request = GangRequest(f"g{number}", (bundle,) * count)
        gc.collect()
        gc.disable()  # as in the coordinator, which collects between two calls
        began, worked = time.perf_counter(), time.thread_time()
        answer = plan(inventory, request)
        worked, ended = time.thread_time() - worked, time.perf_counter()
        taken.append(((ended - began) * 1000, worked * 1000))
        gc.enable()
        assert isinstance(answer, Allocation)
    return taken


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=200)
    options = arguments.parse_args()
    rows = []
    print(f"{'':<40}   first      p50      p99  CPU p50  CPU p99  aim of p99  (ms)")
    for name, (count, parts, aim) in CASES.items():
        for used in (False, True) if count > 1 else (False,):
            inventory = Inventory(nodes(count))
            if used:
                use(inventory, 7)
            (first, _), *taken = plans(inventory, parts, options.rounds + 1)
            row = {"case": name, "in_use": used, "first_ms": first}
            for what, times in zip(("", "cpu_"), map(list, zip(*taken, strict=True)), strict=True):
                row |= {f"{what}p50_ms": percentile(times, 50), f"{what}p99_ms": percentile(times, 99)}
            rows.append({**row, "aim_p99_ms": aim})
            called = f"{name}, {'in use' if used else 'empty'}"
            print(f"{called:<40}" + "".join(f"{row[key]:>9.2f}" for key in list(row)[2:]) + f"{aim:>12g}")
    write(options.json, rows)


if __name__ == "__main__":
    main()
