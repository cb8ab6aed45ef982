"""Which nodes of a clique are kept as spares: for gangs that lose one there, and planned on by nobody else. Pure.

`Node.spare` marks them; the planner leaves these out of every plan but those of preemptible gangs, and
`core.gangs.replacing` finds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ray_dra.core.cluster.node_state import NodeState


def chosen_spares(states: Iterable[NodeState], count: int) -> frozenset[str]:
    """So many free nodes of each clique over several nodes, or as many as are free: those that are spares already, then
    the last in topology order. Where all are in use, a node becomes a spare once it is free. A box that is a clique of
    its own has no other node to be a spare for."""
    free: dict[str, list[NodeState]] = {}
    nodes: Counter[str] = Counter()
    for state in states:
        clique = state.node.clique
        nodes[clique or ""] += 1
        if clique is not None and state.node.ready and not state.held and state.free.bit_count() == state.size:
            free.setdefault(clique, []).append(state)
    found: set[str] = set()
    for clique, each in free.items():
        if nodes[clique] == 1:
            continue
        each.sort(key=lambda state: state.key, reverse=True)
        each.sort(key=lambda state: not state.node.spare)
        found.update(state.name for state in each[:count])
    return frozenset(found)
