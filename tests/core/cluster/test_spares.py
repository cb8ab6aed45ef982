"""Which nodes are spares: free ones, the same as long as they are, so many in each clique."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.spares import chosen_spares
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.plan import plan
from tests.core.machines import gang, rack


def chosen(inventory: Inventory, count: int) -> frozenset[str]:
    """As `Machines.keep_spares` does it."""
    found = chosen_spares(list(inventory.node_states.values()), count)
    for name, state in list(inventory.node_states.items()):
        if state.node.spare is not (name in found):
            inventory.put_node(replace(state.node, spare=name in found))
    return found


@given(
    count=st.integers(0, 3),
    sizes=st.lists(st.integers(1, 4), max_size=8),
    ill=st.lists(st.integers(0, 4), max_size=3, unique=True),
)
def test_spares_are_free_and_nobody_is_planned_on_them(count: int, sizes: list[int], ill: list[int]) -> None:
    inventory = Inventory((*rack("a", 5), *rack("b", 5)))
    for at in ill:
        inventory.put_node(replace(inventory.node_states[f"a-t{at}"].node, ready=False))
    spares = chosen(inventory, count)
    for clique, left in (("a", 5 - len(ill)), ("b", 5)):
        assert len([name for name in spares if name.startswith(clique)]) == min(count, left)
    for number, size in enumerate(sizes):
        answer = plan(inventory, gang(size, name=f"g{number}"))
        if isinstance(answer, Allocation):
            assert spares.isdisjoint(answer.nodes)
            inventory.hold(answer)
        assert chosen(inventory, count) == spares, "they stay so"


def test_a_spare_that_is_used_is_replaced_by_a_node_that_is_free() -> None:
    inventory = Inventory(rack("a", 4))
    (spare,) = chosen(inventory, 1)
    assert spare == "a-t3", "the last of its clique"
    lent = plan(inventory, replace(gang(4, name="lent"), preemptible=True))
    assert isinstance(lent, Allocation)
    assert lent.nodes == (spare,)
    inventory.hold(lent)
    assert chosen(inventory, 1) == {"a-t2"}
    inventory.release("lent")
    assert chosen(inventory, 1) == {"a-t2"}


def test_a_box_that_is_a_clique_of_its_own_is_nobodys_spare() -> None:
    """There would be no node left for any gang."""
    inventory = Inventory((*rack("a", 3), *rack("box", 1)))
    assert {name.partition("-")[0] for name in chosen(inventory, 2)} == {"a"}
    assert isinstance(plan(inventory, gang(4, name="g", locality=Locality(cliques=1))), Allocation)
    assert chosen(Inventory(rack("box", 1)), 1) == set()
