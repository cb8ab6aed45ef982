"""A small cluster of all kinds of nodes, and steps that change it, for the tests of the map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Health
from ray_dra.core.model.imex import IMEX_LIMITS
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from tests.core.machines import gang, node, one_clique, rack, shares
from tests.core.parted import bundle, parted_node

Step = Callable[[Inventory], None]


def nodes() -> list[Node]:
    """Two racks, the second with a spare; boxes, one with a GPU outside its clique; nodes in none; GPUs in parts."""
    second = rack("s", 2)
    return [
        *rack("r", 3),
        second[0],
        replace(second[1], spare=True),
        node("box", 4, box=True, loose=[2]),
        node("pcie", 2),
        parted_node("mig", 2),
    ]


REQUESTS: list[GangRequest] = [
    gang(2, name="two"),
    gang(4, 4, locality=one_clique(), name="rack"),
    gang(1, 1, 1, name="three"),
    gang(4, locality=Locality(cliques=1, exclusive=True), name="alone"),
    shares(300, 700, name="shares"),
    GangRequest("parts", (bundle("1g.10gb"), bundle("3g.40gb"))),
]


def start() -> Inventory:
    return Inventory(nodes(), IMEX_LIMITS)


def _ask(request: GangRequest) -> Step:
    def step(inventory: Inventory) -> None:
        if request.gang in inventory.gangs:
            inventory.release(request.gang)
            return
        answer = plan(inventory, request)
        if isinstance(answer, Allocation):
            inventory.hold(answer)

    return step


def _others(name: str, busy: int) -> Step:
    def step(inventory: Inventory) -> None:
        if name in inventory.node_states:
            inventory.set_others(name, busy, {})

    return step


def _health(name: str, sick: int, *, ready: bool) -> Step:
    def step(inventory: Inventory) -> None:
        there = {each.name: each for each in nodes()}[name]
        devices = tuple(
            replace(d, health=Health.TAINTED, health_reason="XID 79") if sick >> i & 1 else d
            for i, d in enumerate(there.devices)
        )
        inventory.put_node(replace(there, devices=devices, ready=ready, reason="" if ready else "cordoned"))

    return step


def _gone(name: str) -> Step:
    return lambda inventory: inventory.drop_node(name)


def _claims(others: int) -> Step:
    def step(inventory: Inventory) -> None:
        if "mig" in inventory.node_states:
            inventory.set_others("mig", 1 if others else 0, {})  # as whoever sees the claims says, too
            inventory.set_parts("mig", {"GPU-mig-0": others}, {})

    return step


NAMES = [each.name for each in nodes()]
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.sampled_from(REQUESTS).map(_ask),
    st.builds(_others, st.sampled_from(NAMES), st.integers(0, 3)),
    st.builds(_health, st.sampled_from(NAMES), st.integers(0, 3), ready=st.booleans()),
    st.sampled_from(NAMES).map(_gone),
    st.integers(0, 3).map(_claims),
)
