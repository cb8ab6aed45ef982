"""Random cliques below leaves, spines and cores, with labels missing here and there, and a gang for each."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import GangRequest, Strategy
from tests.core.machines import gang, node

LEVELS = ("leaf", "spine", "core")


class Tree(NamedTuple):
    nodes: list[Node]
    free: list[int]
    busy: set[int]  # nodes in another gang's IMEX domain
    request: GangRequest
    limits: Limits

    def inventory(self, labels: tuple[str, ...] = LEVELS) -> Inventory:
        made = Inventory(self.nodes, self.limits, labels)
        for at in sorted(self.busy):  # the other gang has one more GPU
            state = made.node_states[self.nodes[at].name]
            grant = state.granted(1 << (state.size - 1))
            made.hold(Allocation(f"other-{at}", (Placed(state.name, grant),), counters=(state.imex_counter,)))
        return made


def random_tree(dice: random.Random) -> Tree:
    """Leaves below spines below cores, some labels missing, some cliques in two leaves."""
    most = dice.choice((1, 2, 4))
    spines = [(f"s{at}", dice.choice(("x", "y"))) for at in range(dice.randint(1, 3))]
    leaves = [(f"l{at}", *dice.choice(spines)) for at in range(dice.randint(2, 5))]
    nodes: list[Node] = []
    free: list[int] = []
    busy: set[int] = set()
    limits = dice.choice((Limits(), Limits(True, 18), Limits(True, 2), Limits(True, 3, True)))
    for clique in range(dice.randint(4, 8)):
        path = dice.choice(leaves)
        for tray in range(dice.randint(1, 3)):
            here = dice.choice(leaves) if dice.random() < 0.04 else path
            labels = {label: name for label, name in zip(LEVELS, here, strict=True) if dice.random() < 0.97}
            taken = limits.compute_domains and dice.random() < 0.15
            free.append(dice.randint(most // 2, most))
            busy |= {len(nodes)} if taken else set()
            name = f"c{clique}-{tray}"
            nodes.append(node(name, free[-1] + taken, clique=f"c{clique}", order=tray, labels=labels))
    segment = dice.choice((None, None, None, 2, 2, 3))
    count = dice.randint(2, 3) * segment if segment else dice.randint(3, 8)
    size = dice.randint(1, most)
    sizes = [size if dice.random() < 0.7 else dice.randint(1, most)] * count
    if dice.random() < 0.4:
        sizes = [dice.randint(1, most) for _ in range(count)]
    cliques = dice.choice((None, None, None, 2, 3, 4))
    locality = Locality(cliques=cliques, segment=segment)
    if locality.within_cliques:
        locality = replace(locality, required=dice.random() < 0.7)
    if dice.random() < 0.5:
        locality &= Locality(level=dice.choice(LEVELS), domains=dice.randint(1, 3))
    strategy = dice.choice((*[Strategy.PACK] * 4, Strategy.STRICT_SPREAD))
    return Tree(nodes, free, busy, gang(*sizes, locality=locality, strategy=strategy), limits)
