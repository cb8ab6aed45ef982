"""How near a gang of a replay lies: within its cliques or not, and below one switch of which level. Neighbour:
`replay.py`, which turns it into speed and figures."""

from __future__ import annotations

from itertools import combinations

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation, Placed


def inside(inventory: Inventory, allocation: Allocation, segment: int) -> bool:
    """Whether each segment lies in one clique, or on one node with every two of its devices linked."""
    parts = [allocation.bundles[i : i + segment] for i in range(0, len(allocation.bundles), segment)]
    return all(_linked(inventory, part) for part in parts)


def _linked(inventory: Inventory, part: tuple[Placed, ...]) -> bool:
    grants = [g for placed in part for g in placed.grants]
    cliques = {g.clique for g in grants}
    if len(cliques) == 1 and None not in cliques:
        return True
    if len({g.node for g in grants}) > 1:
        return False
    links = inventory.node_states[grants[0].node].graph.links
    return all(links[a.position][b.position] for a, b in combinations(grants, 2))


def together(inventory: Inventory, allocation: Allocation) -> int | None:
    """The lowest level of which one domain has all of a gang over several cliques, their number where none has; None
    for a gang in one clique, or on one node."""
    states = [inventory.node_states[name] for name in allocation.nodes]
    cliques = {clique for state in states for clique in state.members}
    if len(cliques) == 1 or len(set(allocation.nodes)) == 1:
        return None
    paths = [inventory.above(inventory.clique_states[clique]) for clique in cliques]
    for at, names in enumerate(zip(*paths, strict=True)):
        if None not in names and len(set(names)) == 1:
            return at
    return len(inventory.level_labels)
