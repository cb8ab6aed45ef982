"""How the planner chooses: golden plans for named machines, determinism, room left for others."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Strategy
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.model.topology import Topology
from ray_dra.core.plan import plan
from tests.core.machines import DGX1, gang, node, one_clique, rack


def positions(answer: Allocation | Unsatisfiable) -> list[tuple[str, list[int]]]:
    assert isinstance(answer, Allocation), answer
    return [(p.node, [g.position for g in p.grants]) for p in answer.bundles]


def test_golden_dgx1_best_quads_and_pairs() -> None:
    """The best quads are 0-3 and 4-7 (9 links each); a pair without a link is never taken when links are required."""
    linked = Locality(connect=Connect.REQUIRED)
    inventory = Inventory([node("dgx", 8, links=DGX1, numa=[0] * 4 + [1] * 4)])
    assert positions(plan(inventory, gang(4, 4, locality=linked))) == [("dgx", [0, 1, 2, 3]), ("dgx", [4, 5, 6, 7])]
    assert positions(plan(inventory, gang(4))) == [("dgx", [0, 1, 2, 3])]
    inventory.set_others("dgx", 0b01111110, {})  # free: 0 and 7, which have no link
    assert positions(plan(inventory, gang(2))) == [("dgx", [0, 7])]
    answer = plan(inventory, gang(2, locality=linked))
    assert isinstance(answer, Unsatisfiable)
    assert answer.shortfalls[0].kind is ShortfallKind.CONNECTED
    assert answer.shortfalls[0].available == 1


def test_golden_bridged_pairs() -> None:
    pairs = tuple(tuple(12 if i != j and i // 2 == j // 2 else 0 for j in range(8)) for i in range(8))
    inventory = Inventory([node("pcie", 8, links=pairs)])
    inventory.set_others("pcie", 0b00000001, {})
    assert positions(plan(inventory, gang(2, 1))) == [("pcie", [2, 3]), ("pcie", [1])]


def test_golden_numa_inside_a_tray() -> None:
    """Two GPUs of one tray come from one CPU, and the fuller CPU is used up first."""
    inventory = Inventory(rack("c", 1))
    inventory.set_others("c-t0", 0b0001, {})
    assert positions(plan(inventory, gang(2))) == [("c-t0", [2, 3])]
    assert positions(plan(inventory, gang(1))) == [("c-t0", [1])]


def test_golden_degraded_box() -> None:
    """Seven in the clique: 7 fit one clique, 8 only outside of it."""
    inventory = Inventory([node("b", 8, box=True, loose=[2])])
    assert positions(plan(inventory, gang(7, locality=one_clique()))) == [("b", [0, 1, 3, 4, 5, 6, 7])]
    assert isinstance(plan(inventory, gang(8, locality=one_clique())), Unsatisfiable)
    assert positions(plan(inventory, gang(8))) == [("b", list(range(8)))]


def test_golden_rack_in_topology_order() -> None:
    inventory = Inventory(reversed(rack("c", 12)))
    answer = plan(inventory, gang(*[4] * 12, locality=one_clique()))
    assert [n for n, _ in positions(answer)] == [f"c-t{i}" for i in range(12)], "tray 2 before tray 10"


def test_the_tightest_clique_is_taken_and_whole_ones_are_spared() -> None:
    inventory = Inventory([*rack("a", 4), *rack("b", 4), *rack("c", 4)])
    first = plan(inventory, gang(4, 4, name="first"))
    assert isinstance(first, Allocation)
    inventory.hold(first)
    second = plan(inventory, gang(4, name="second"))
    assert isinstance(second, Allocation)
    assert second.cliques[0] == first.cliques[0], "the clique in use, not a fresh one"
    small = plan(inventory, gang(2, 1, name="small", locality=one_clique(required=False)))
    assert isinstance(small, Allocation)
    assert set(small.cliques) == {first.cliques[0]}
    big = plan(inventory, gang(*[4] * 4, name="big", locality=one_clique()))
    assert isinstance(big, Allocation)
    assert big.cliques[0] != first.cliques[0]


@pytest.mark.parametrize("locality", [Locality(), Locality(cliques=2), Locality(segment=1)], ids=str)
def test_of_several_cliques_the_last_is_the_tightest_that_takes_the_rest(locality: Locality) -> None:
    """Cliques of 4, 3 and 1 trays, 5 bundles: four on the roomiest, and the fifth where nobody else would fit."""
    inventory = Inventory([*rack("a", 4), *rack("b", 3), *rack("c", 1)])
    answer = plan(inventory, gang(*[4] * 5, locality=locality))
    assert isinstance(answer, Allocation)
    assert answer.cliques == ("a", "a", "a", "a", "c")


def test_a_gang_without_wishes_stays_together_and_spills_only_when_it_must() -> None:
    inventory = Inventory([*rack("a", 2), *rack("b", 2)])
    assert isinstance(answer := plan(inventory, gang(4, 4)), Allocation)
    assert len(set(answer.cliques)) == 1
    assert isinstance(answer := plan(inventory, gang(4, 4, 4)), Allocation)
    assert len(set(answer.cliques)) == 2


def test_exclusive_cliques_are_kept_free_of_others() -> None:
    inventory = Inventory([*rack("a", 2), *rack("b", 2)])
    alone = plan(inventory, gang(4, name="alone", locality=Locality(cliques=1, exclusive=True)))
    assert isinstance(alone, Allocation)
    inventory.hold(alone)
    mine = alone.cliques[0]
    for name in ("x", "y"):
        other = plan(inventory, gang(4, name=name))
        assert isinstance(other, Allocation)
        assert other.cliques[0] != mine
        inventory.hold(other)
    refused = plan(inventory, gang(1, locality=Locality(cliques=1, exclusive=True)))
    assert isinstance(refused, Unsatisfiable)
    assert refused.shortfalls[-1].kind is ShortfallKind.EXCLUSIVE
    inventory.release("alone")
    assert isinstance(plan(inventory, gang(4)), Allocation)


def test_unknown_is_no_clique() -> None:
    inventory = Inventory([node("a", 4), node("b", 4)])
    answer = plan(inventory, gang(2, 2, locality=one_clique()))
    assert isinstance(answer, Unsatisfiable)
    assert answer.shortfalls[0].kind is ShortfallKind.CLIQUE_UNKNOWN
    assert isinstance(plan(inventory, gang(4, 4)), Allocation)


def test_products_are_matched_whole() -> None:
    inventory = Inventory([node("a", 4, product="NVIDIA GH200 480GB")])
    answer = plan(inventory, gang(1, products=("NVIDIA H200",)))
    assert isinstance(answer, Unsatisfiable)
    assert answer.shortfalls[0].kind is ShortfallKind.PRODUCT
    assert answer.shortfalls[0].available == ("NVIDIA GH200 480GB",)
    assert isinstance(plan(inventory, gang(1, products=("NVIDIA GH200 480GB",))), Allocation)


def test_unhealthy_devices_are_given_to_nobody() -> None:
    inventory = Inventory([node("a", 4, box=True, sick=[1])])
    assert positions(plan(inventory, gang(3))) == [("a", [0, 2, 3])]
    assert isinstance(plan(inventory, gang(4)), Unsatisfiable)


def test_spread_is_best_effort_and_strict_spread_is_not() -> None:
    inventory = Inventory(rack("a", 2))
    assert isinstance(answer := plan(inventory, gang(1, 1, strategy=Strategy.SPREAD)), Allocation)
    assert len(set(answer.nodes)) == 2
    assert isinstance(plan(inventory, gang(1, 1, 1, strategy=Strategy.SPREAD)), Allocation)
    refused = plan(inventory, gang(1, 1, 1, strategy=Strategy.STRICT_SPREAD))
    assert isinstance(refused, Unsatisfiable)
    assert refused.shortfalls[0].kind is ShortfallKind.NODES


@given(
    seed=st.integers(0, 1000),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    cliques=st.sampled_from([None, 1, 2]),
    required=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_the_same_answer_whatever_the_input_order(
    seed: int, sizes: list[int], cliques: int | None, required: bool
) -> None:
    """Same nodes in another order, built at once or joined one by one, the same holds: the same plan."""
    nodes: list[Node] = [*rack("a", 3), *rack("b", 2), node("box", 8, box=True), node("loose", 2)]
    shuffled = list(nodes)
    random.Random(seed).shuffle(shuffled)
    request = gang(*sizes, locality=Locality(cliques=cliques, required=required))
    before = gang(3, 2, name="before")
    answers = []
    for inventory in (Inventory(Topology.of(nodes)), Inventory(shuffled)):
        if seed % 2:
            plan(inventory, gang(2, 2, name="asked before"))
        held = plan(inventory, before)
        assert isinstance(held, Allocation)
        inventory.hold(held)
        answers.append(plan(inventory, request))
    assert answers[0] == answers[1]
