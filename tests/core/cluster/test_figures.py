"""An inventory in numbers: against a count of each GPU by itself, whoever holds what."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.figures import figures_of
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Health
from ray_dra.core.plan import plan
from tests.core.machines import gang, node, rack, shares

STATES = ("held", "shared", "others", "left_out", "unhealthy", "kept", "free")
CLIQUES = ("free", "partly", "full")


@given(
    sizes=st.lists(st.integers(1, 4), max_size=6),
    shared=st.lists(st.sampled_from([300, 700]), max_size=3),
    busy=st.integers(0, 15),
    sick=st.integers(0, 15),
    away=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_each_gpu_counts_once_and_each_clique(
    sizes: list[int], shared: list[int], busy: int, sick: int, away: bool
) -> None:
    nodes = [*rack("r", 2), *rack("s", 2), node("box", 2, box=True)]
    first, second = nodes[0], nodes[1]
    unhealthy = tuple(replace(d, health=Health.TAINTED) if sick >> i & 1 else d for i, d in enumerate(second.devices))
    nodes[1] = replace(second, devices=unhealthy)
    inventory = Inventory(nodes)
    inventory.set_others(first.name, busy, {})
    for number, size in enumerate(sizes):
        answer = plan(inventory, gang(size, name=f"g{number}"))
        if isinstance(answer, Allocation):
            inventory.hold(answer)
    for number, amount in enumerate(shared):
        answer = plan(inventory, shares(amount, name=f"s{number}"))
        if isinstance(answer, Allocation):
            inventory.hold(answer)
    if away:
        inventory.put_node(replace(nodes[2], ready=False, reason="cordoned"))
    figures = figures_of(inventory)
    counts = dict.fromkeys(STATES, 0)
    for state in inventory.node_states.values():
        for at, device in enumerate(state.node.devices):
            held = any(mask >> at & 1 for mask in state.tenants.values())
            if held:
                counts["held"] += 1
            elif at in state.shares:
                counts["shared"] += 1
            elif state.busy >> at & 1:
                counts["others"] += 1
            elif not state.node.ready:
                counts["left_out"] += 1
            else:
                counts["free" if device.health is Health.OK else "unhealthy"] += 1
    assert figures.gpus == counts
    assert sum(figures.gpus.values()) == 18
    free = {clique.id: clique.free for clique in inventory.clique_states.values()}
    assert figures.largest == max(free.values())
    assert sum(figures.cliques.values()) == inventory.clique_count


def test_free_gpus_beside_others_are_fragments() -> None:
    inventory = Inventory([*rack("r", 2), *rack("s", 2)])
    assert (figures_of(inventory).fragmentation, figures_of(inventory).cliques["free"]) == (0.0, 2)
    answer = plan(inventory, gang(3))
    assert isinstance(answer, Allocation)
    inventory.hold(answer)
    figures = figures_of(inventory)
    assert figures.cliques == {"free": 1, "partly": 1, "full": 0}
    assert (figures.largest, figures.fragmentation) == (8, 5 / 13)
    assert figures_of(Inventory()).fragmentation == 0.0
