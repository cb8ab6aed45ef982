"""The planner's choices, and the steps of searching that they cost, for a few hundred random clusters.

Which of several places that fit is taken, and how little is looked at for it, no oracle tells: `golden_plans.txt` has
both, one request a line. A change of the planner that changes a line is to be meant, and the new lines read:

    python -m tests.core.test_plan_golden    writes them
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.core.planner.work import STEPS, Work
from tests.core import brute, brute_shares
from tests.core.machines import DGX1, gang, node, rack
from tests.core.random_cases import random_case

GOLDEN = Path(__file__).with_name("golden_plans.txt")
MOST_STEPS_WITH_FEW = 40
"""Each request is asked a second time with so few steps, of which a search uses half before it gives up."""


def cases() -> Iterator[tuple[str, Inventory, GangRequest]]:
    """(name, cluster, request): clusters of each kind, and gangs that come to one cluster and leave it."""
    for at in range(300):
        dice = random.Random(f"cliques {at}")
        yield f"cliques {at}", brute.random_world(dice).inventory(), brute.random_request(dice, bundles=6)
    for at in range(200):
        dice = random.Random(f"imex {at}")
        inventory, *_, request, _ = random_case(dice)
        yield f"imex {at}", inventory, request
    for at in range(200):
        dice = random.Random(f"shares {at}")
        yield f"shares {at}", brute_shares.random_cluster(dice).inventory(), brute_shares.random_request(dice)
    for at in range(6):
        dice = random.Random(f"many classes {at}")
        bundles = tuple(
            Bundle((DeviceRequest(dice.randint(1, 2)),), {"CPU": 1 + i / 64}) for i in range((16, 18, 32)[at % 3])
        )
        locality = dice.choice((Locality(), Locality(cliques=2), Locality(segment=2)))
        yield f"many classes {at}", Inventory([*rack("r", 8), *rack("s", 9)]), GangRequest("g", bundles, locality)
    inventory = machines()
    dice = random.Random("arrivals")
    for at in range(200):
        yield f"arrivals {at}", inventory, arrival(dice, f"gang-{at}")
        while inventory.free_devices < 12:
            inventory.release(dice.choice(inventory.gangs))


def arrival(dice: random.Random, name: str) -> GangRequest:
    sizes = [dice.choice((1, 1, 2, 2, 3, 4, 4, 6, 8))] * dice.choice((1, 1, 1, 2, 3, 4))
    if dice.random() < 0.2:
        sizes[0] = 1
    cliques, required = dice.choice((None, None, 1, 2)), dice.random() < 0.5
    exclusive = cliques is not None and dice.random() < 0.1
    connect = dice.choice((Connect.PREFERRED, Connect.REQUIRED, Connect.ANY))
    locality = Locality(cliques, required=required or exclusive, exclusive=exclusive, connect=connect)
    made = gang(
        *sizes,
        name=name,
        locality=locality,
        strategy=dice.choice((Strategy.PACK, *Strategy)),
        resources=dice.choice(({}, {}, {"CPU": 1.0})),
        products=dice.choice(((), (), (), ("B",), ("A", "B"))),
    )
    return replace(made, preemptible=dice.random() < 0.1)


def machines() -> Inventory:
    """Two racks, one of them with other GPUs, boxes with all links and with few, and nodes in no clique."""
    nodes = [*rack("a", 4), *(replace(n, spare=n.name == "b-t0") for n in rack("b", 3))]
    nodes += [
        node("box", 8, box=True),
        node("dgx", 8, box=True, links=DGX1, product="B"),
        node("part", 4, loose=[3], box=True),
    ]
    nodes += [node(f"loose{i}", 2, product="A", resources={"CPU": 4.0}) for i in range(2)]
    return Inventory(nodes, Limits(compute_domains=True, domain_nodes=3))


def answers() -> list[str]:
    """A line for each yes, and for each no that took some searching."""
    lines = []
    for name, inventory, request in cases():
        work, few = Work(), Work(MOST_STEPS_WITH_FEW)
        answer, quick = plan(inventory, request, work=work), plan(inventory, request, work=few)
        steps = STEPS - work.left
        line = f"{name}: {told(answer)}, {steps} steps"
        if steps >= MOST_STEPS_WITH_FEW // 2:
            line += f"; {told(quick) if quick != answer else 'the same'} with {MOST_STEPS_WITH_FEW - few.left}"
        if isinstance(answer, Allocation) or steps > 20:
            lines.append(line)
        if isinstance(answer, Allocation) and name.startswith("arrivals"):
            inventory.hold(answer)
    return lines


def told(answer: Allocation | Unsatisfiable) -> str:
    if isinstance(answer, Unsatisfiable):
        return "no" if answer.proven else "not proven"
    bundles = (f"{p.node}[{' '.join(str(g.position) for g in p.grants)}]" for p in answer.bundles)
    return " ".join((*bundles, *(f"+{scope}" for (scope, _), _ in answer.counters)))


def test_the_planner_chooses_as_it_did_and_searches_no_more() -> None:
    for was, now in zip(GOLDEN.read_text().splitlines(), answers(), strict=True):
        assert now == was


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in answers()))
