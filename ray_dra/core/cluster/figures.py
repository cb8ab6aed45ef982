"""An inventory in a few numbers: its GPUs by state, its cliques, the largest free one, how the free ones lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_dra.core.cluster.clique_state import LOOSE_NODE
from ray_dra.core.cluster.index import Index


@dataclass(frozen=True, slots=True)
class Figures:
    """See the module.

    Attributes:
        gpus: state -> how many; each GPU counts once.
            held: a gang has it whole; shared: gangs have shares or parts of it; others: work of others has it;
            left_out: its node is not ready; unhealthy: it is not; kept: free, in a clique that a gang has alone; free.
        cliques: state -> how many. full: nothing of it is free; free: something is, and nobody has anything of it;
            partly: something is, and somebody has the rest. GPUs that are in no clique are none.
        largest: free GPUs of the clique, or node without one, that has most.
        fragmentation: the share of free GPUs in cliques, or on nodes without one, of which somebody has the rest; 0
            where nothing is free.
    """

    gpus: Mapping[str, int]
    cliques: Mapping[str, int]
    largest: int
    fragmentation: float


def figures_of(inventory: Index) -> Figures:
    """Looks at each node and clique once."""
    gpus = dict.fromkeys(("held", "shared", "others", "left_out", "unhealthy", "kept", "free"), 0)
    for state in inventory.node_states.values():
        held, free = state.held, state.free
        shared = 0
        for position in state.shares:
            shared |= 1 << position
        shared &= ~held
        free &= ~shared
        busy = state.busy & ~(held | shared)
        rest = (1 << state.size) - 1 & ~(held | shared | busy | free)
        healthy = rest & state.healthy
        gpus["held"] += held.bit_count()
        gpus["shared"] += shared.bit_count()
        gpus["others"] += busy.bit_count()
        gpus["free"] += free.bit_count()
        if state.node.ready:
            gpus["kept"] += healthy.bit_count()
            gpus["unhealthy"] += (rest & ~healthy).bit_count()
        else:
            gpus["left_out"] += rest.bit_count()
    cliques = dict.fromkeys(("free", "partly", "full"), 0)
    largest = broken = 0
    for clique in inventory.clique_states.values():
        largest = max(largest, clique.free)
        kind = "full" if not clique.free else "free" if clique.idle else "partly"
        if kind == "partly":
            broken += clique.free
        if clique.kind != LOOSE_NODE:
            cliques[kind] += 1
    free_gpus = gpus["free"]
    return Figures(gpus, cliques, largest, min(1.0, broken / free_gpus) if free_gpus else 0.0)
