"""Random clusters with cliques and IMEX limits, and a request for each, larger than what `brute.py` can search."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest, Strategy
from tests.core.machines import gang, node

Cliques = Sequence[str | None]


def random_case(dice: random.Random) -> tuple[Inventory, list[int], Cliques, set[int], GangRequest, Limits]:
    """The inventory; each node's free devices and clique; nodes in another gang's IMEX domain; request; limits."""
    nodes = dice.randint(2, 12)
    most = dice.choice((4, 4, 8))
    cliques: list[str | None] = [dice.choice(("a", "b", "c", "d", None)) for _ in range(nodes)]
    free = [dice.randint(dice.choice((0, most // 2)), most) for _ in range(nodes)]
    limits = dice.choice((Limits(), Limits(True, 18), Limits(True, dice.randint(2, 4)), Limits(True, 3, True)))
    segment = dice.choice((None, None, 2, 3, 4))
    count = dice.randint(1, 3) * segment if segment else dice.randint(1, 10)
    equal = dice.random() < 0.5
    size = dice.randint(1, most)
    sizes = [size if equal else dice.randint(1, most) for _ in range(count)]
    locality = Locality(cliques=dice.choice((None, None, 1, 2, 3)), segment=segment, required=dice.random() < 0.85)
    if locality.required and locality.cliques is not None and dice.random() < 0.2:
        locality = replace(locality, exclusive=True)
    strategy = dice.choice((Strategy.PACK, Strategy.PACK, Strategy.PACK, Strategy.STRICT_SPREAD, Strategy.STRICT_PACK))
    if strategy is Strategy.STRICT_PACK and segment is not None and segment < count:
        strategy = Strategy.PACK
    # A node with an IMEX domain of another gang has one more GPU, which that gang holds.
    busy = {n for n in range(nodes) if cliques[n] is not None and limits.compute_domains and dice.random() < 0.25}
    inventory = Inventory(
        (node(f"n{i:02}", f + (i in busy), clique=c) for i, (f, c) in enumerate(zip(free, cliques, strict=True))),
        limits,
    )
    for n in sorted(busy):
        state = inventory.node_states[f"n{n:02}"]
        grant = state.granted(1 << (state.size - 1))
        inventory.hold(Allocation(f"other-{n}", (Placed(state.name, grant),), counters=(state.imex_counter,)))
    return inventory, free, cliques, busy, gang(*sizes, locality=locality, strategy=strategy), limits
