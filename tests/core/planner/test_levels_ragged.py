"""Levels above the clique where the tree is ragged: every small case against every choice of cliques. A clique without
a label, one whose nodes lie in two leaves, a spine with one leaf, a leaf that two spines claim."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.plan import plan
from tests.core.machines import gang, node
from tests.core.stages import Path, nearness, paths_of, stages

LEVELS = ("leaf", "spine")
TREES: dict[str, tuple[Path, ...]] = {
    "a spine with one leaf": (("l1", "s1"), ("l1", "s1"), ("l2", "s1"), ("l3", "s2")),
    "one without a leaf": (("l1", "s1"), (None, "s1"), ("l2", "s1"), ("l3", "s2")),
    "one without labels": ((None, None), ("l1", "s1"), ("l2", "s1"), ("l1", "s1")),
    "leaves without a spine": (("l1", "s1"), ("l2", None), ("l2", None), ("l3", "s1")),
    "a leaf of two spines": (("l1", "s1"), ("l1", "s2"), ("l2", "s2"), ("l3", "s1")),
    "one in two leaves": (("l1", "s1"), ("l1", "s1"), ("l2", "s1"), ("l2", "s2")),
}
TORN = "one in two leaves"
LIMITS = ((None, 1), ("leaf", 2), ("leaf", 3), ("spine", 2))


def nodes_of(tree: str, capacities: Sequence[int]) -> list[Node]:
    """Cliques with so many free nodes of one GPU."""
    found = []
    for at, (path, capacity) in enumerate(zip(TREES[tree], capacities, strict=True)):
        for tray in range(capacity):
            here = TREES[tree][-1] if tree == TORN and (at, tray) == (0, 1) else path
            labels = {label: name for label, name in zip(LEVELS, here, strict=True) if name is not None}
            found.append(node(f"c{at}-{tray}", 1, clique=f"c{at}", order=tray, labels=labels))
    return found


@pytest.mark.parametrize("tree", TREES)
def test_nothing_nearer_holds_the_gang(tree: str) -> None:
    """And of the cliques of one domain it has the fewest; what no domain holds is placed as without levels."""
    seen = set()
    orders = {said: stages(2, None if said[0] is None else LEVELS.index(said[0]), said[1]) for said in LIMITS}
    for capacities in product(range(3), repeat=4):
        nodes = nodes_of(tree, capacities)
        paths = paths_of(nodes, LEVELS)
        inventory, plain = Inventory(nodes, level_labels=LEVELS), Inventory(nodes)
        free = {f"c{at}": capacity for at, capacity in enumerate(capacities) if capacity}
        every = [chosen for count in range(1, 5) for chosen in combinations(free, count)]
        lies = {said: [nearness([paths[c] for c in some], order) for some in every] for said, order in orders.items()}
        for segment, cliques in ((1, None), (2, None), (1, 2), (1, 3)):
            for total in range(3, sum(capacities) + 1):
                if total % segment:
                    continue
                holds = [
                    at
                    for at, some in enumerate(every)
                    if len(some) <= (cliques or 4) and sum(free[c] // segment for c in some) >= total // segment
                ]
                near = Locality(cliques=cliques, segment=segment if segment > 1 else None)
                without = plan(plain, gang(*[1] * total, locality=near))
                for said, order in orders.items():
                    level, most = said
                    asked = near if level is None else near & Locality(level=level, domains=most)
                    answer = plan(inventory, gang(*[1] * total, locality=asked))
                    case = (capacities, total, asked, answer)
                    assert isinstance(answer, Allocation) is isinstance(without, Allocation) is bool(holds), case
                    if not isinstance(answer, Allocation):
                        continue
                    used = {name.partition("-")[0] for name in answer.nodes}
                    found = nearness([paths[clique] for clique in used], order)
                    best = min((lies[said][at], len(every[at])) for at in holds)
                    assert found == best[0], case
                    if found[0] == len(order):
                        assert answer == without, case
                    elif order[found[0]].most == 1:
                        assert len(used) == best[1], case
                    seen.add("elsewhere" if found[0] == len(order) else order[found[0]])
    assert len(seen) > 3, "nearer and farther ones have been met"
