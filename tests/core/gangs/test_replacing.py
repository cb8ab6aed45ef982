"""Lost slots go whole to other nodes of their clique; whatever else a gang has stays as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.replacing import place_again
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.imex import IMEX_LIMITS, NO_LIMITS, Limits, imex_counter
from ray_dra.core.model.locality import Locality
from ray_dra.core.plan import plan
from ray_dra.translate.kube.slots import slot_labels
from tests.core.machines import gang, rack

TRAYS = 5


def placed(
    *sizes: int, locality: Locality, limits: Limits = IMEX_LIMITS, others: tuple[int, ...] = ()
) -> tuple[Inventory, Planning, Gang]:
    """A gang on two racks, beside gangs of one node with so many devices each."""
    inventory = Inventory((*rack("a", TRAYS), *rack("b", TRAYS)), limits)
    for number, size in enumerate(others):
        answer = plan(inventory, gang(size, name=f"other{number}"))
        if isinstance(answer, Allocation):
            inventory.hold(answer)
    request = gang(*sizes, name="g", locality=locality)
    answer = plan(inventory, request)
    held = answer if isinstance(answer, Allocation) else None
    if held is not None:
        inventory.hold(held)
    planning = Planning(inventory, KnownNodes(inventory), ())
    return inventory, planning, Gang(request, 1, allocation=held, group="g", moves=2)


def _alone(held: Allocation, slot: Placed) -> bool:
    """Whether nothing else of the gang is in the slot's clique."""
    return all(placed.clique != slot.clique for placed in held.bundles if placed.node != slot.node)


LOCALITIES = [Locality(cliques=1), Locality(segment=2), Locality(), Locality(cliques=1, exclusive=True)]


@given(
    sizes=st.sampled_from([(4, 4), (4, 4, 4, 4), (2, 2), (2, 2, 4, 4), (4,)]),
    locality=st.sampled_from(LOCALITIES),
    limits=st.sampled_from([IMEX_LIMITS, NO_LIMITS]),
    others=st.lists(st.integers(1, 4), max_size=8).map(tuple),
    data=st.data(),
)
def test_the_lost_slots_move_and_nothing_else(
    sizes: tuple[int, ...], locality: Locality, limits: Limits, others: tuple[int, ...], data: st.DataObject
) -> None:
    if locality.segment is not None and len(sizes) % 2:
        return
    inventory, planning, asked = placed(*sizes, locality=locality, limits=limits, others=others)
    held = asked.allocation
    if held is None:
        return
    nodes = list(dict.fromkeys(held.nodes))
    lost = data.draw(st.lists(st.sampled_from(nodes), min_size=1, unique=True))
    for node in lost:
        inventory.put_node(replace(inventory.node_states[node].node, ready=False, reason="lost"))
    before = {name: state.free for name, state in inventory.node_states.items()}
    faulty = [next(rank for rank, node in enumerate(held.nodes) if node == each) for each in lost]
    found = place_again(planning, asked, faulty)
    assert found == place_again(planning, asked, faulty)
    assert {name: state.free for name, state in inventory.node_states.items()} == before, "nothing is held"
    roomy = [
        state.name
        for state in inventory.node_states.values()
        if state.node.ready and state.name not in held.nodes and state.free.bit_count() == 4
    ]
    if found is None:
        cliques = {placed.clique for placed in held.bundles if placed.node in lost}
        spare = [name for name in roomy if inventory.node_states[name].node.clique in cliques]
        assert len(spare) < len(lost) or len(cliques) > 1, "a no is true"
        return
    assert found.epoch == held.epoch
    assert [*slot_labels(found).values()] == [*slot_labels(held).values()]
    to = dict(zip(held.nodes, found.nodes, strict=True))
    assert len(set(to.values())) == len(to), "no two slots come together"
    for was, now in zip(held.bundles, found.bundles, strict=True):
        assert (now == was) is (was.node not in lost)
        assert now.clique == was.clique or not (locality.within_cliques and locality.required) or _alone(held, was)
        assert len(now.grants) == len(was.grants)
        assert now.node not in lost
    assert dict(found.renewed) == {to[node]: 3 for node in lost}
    assert len(found.counters) == len(held.counters)
    for left, node in to.items():  # who was joined to others is so again
        assert ((imex_counter(left), 1) in held.counters) is ((imex_counter(node), 1) in found.counters)
    inventory.release("g")
    inventory.hold(found)  # raises where anything of it is another's


def test_where_only_the_worker_is_lost_it_stays() -> None:
    _, planning, asked = placed(4, 4, locality=Locality(cliques=1))
    held = asked.allocation
    assert held is not None
    found = place_again(planning, asked, [1])
    assert found is not None
    assert found.bundles == held.bundles
    assert found.renewed == ((held.nodes[1], 3),)


def test_raylets_that_were_there_are_not_made_anew() -> None:
    inventory, planning, asked = placed(4, 4, locality=Locality(cliques=1))
    held = asked.allocation
    assert held is not None
    assert place_again(Planning(inventory, planning.known, [held.nodes[1]]), asked, [1]) is None


@pytest.mark.parametrize("taken", [True, False])
def test_a_node_of_another_imex_domain_is_no_place(taken: bool) -> None:
    inventory, planning, asked = placed(4, 4, 4, 4, locality=Locality(cliques=1))
    held = asked.allocation
    assert held is not None
    (spare,) = (n for n, s in inventory.node_states.items() if n[0] == held.nodes[0][0] and n not in held.nodes)
    if taken:
        inventory.node_states[spare].imex_gang = "other"
    inventory.put_node(replace(inventory.node_states[held.nodes[0]].node, ready=False, reason="lost"))
    found = place_again(planning, asked, [0])
    assert (found is None) is taken


def test_spares_are_taken_where_no_other_node_of_the_clique_is_free() -> None:
    inventory, planning, asked = placed(4, 4, locality=Locality(cliques=1))
    held = asked.allocation
    assert held is not None
    rest = [name for name in inventory.node_states if name[0] == held.nodes[0][0] and name not in held.nodes]
    spare, *others = rest
    inventory.put_node(replace(inventory.node_states[spare].node, spare=True))
    inventory.put_node(replace(inventory.node_states[held.nodes[1]].node, ready=False, reason="lost"))
    found = place_again(planning, asked, [1])
    assert found is not None
    assert found.nodes[1] in others
    for name in others:
        inventory.set_others(name, 0b1111, {})
    found = place_again(planning, asked, [1])
    assert found is not None
    assert found.nodes[1] == spare


@pytest.mark.parametrize("locality", [Locality(), Locality(segment=1)])
def test_a_box_that_is_a_clique_of_its_own_is_replaced_by_another(locality: Locality) -> None:
    boxes = [each for name in "abcd" for each in rack(name, 1, 8)]
    inventory = Inventory(boxes)
    request = gang(8, 8, name="g", locality=locality)
    held = plan(inventory, request)
    assert isinstance(held, Allocation)
    inventory.hold(held)
    asked = Gang(request, 1, allocation=held, group="g")
    inventory.put_node(replace(inventory.node_states[held.nodes[0]].node, ready=False, reason="lost"))
    found = place_again(Planning(inventory, KnownNodes(inventory), ()), asked, [0])
    assert found is not None
    assert found.nodes[0] not in held.nodes
    assert found.bundles[1] == held.bundles[1]
