"""What would fit instead, and whose leaving would help: true, and where it says so, the least there is."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import ALL_SETS_OF, counterfactual, plan_and_explain
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import IMEX_LIMITS
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.checks import check
from tests.core.machines import DGX1, gang, node, one_clique, picture, rack


def fits_without(inventory: Inventory, request: GangRequest, gangs: tuple[str, ...]) -> bool:
    taken = [inventory.allocation(g) for g in gangs]
    for each in gangs:
        inventory.release(each)
    answer = plan(inventory, request)
    for allocation in taken:
        assert allocation is not None
        inventory.hold(allocation)
    return isinstance(answer, Allocation)


def full(*gangs: tuple[str, int, int], trays: int = 2, racks: int = 2) -> Inventory:
    """Racks with gangs of (name, bundles of 2 GPUs, priority) on them."""
    inventory = Inventory([n for r in range(racks) for n in rack(f"r{r}", trays)], IMEX_LIMITS)
    for name, bundles, priority in gangs:
        answer = plan(inventory, gang(*[2] * bundles, name=name, priority=priority))
        assert isinstance(answer, Allocation)
        inventory.hold(answer)
    return inventory


@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=6),
    wanted=st.integers(1, 5),
    size=st.integers(1, 4),
    cliques=st.sampled_from([None, 1, 2]),
    priority=st.integers(0, 2),
)
@settings(max_examples=150, deadline=None)
def test_the_smallest_set_is_the_smallest(
    sizes: list[tuple[int, int]], wanted: int, size: int, cliques: int | None, priority: int
) -> None:
    inventory = Inventory([*rack("a", 2), *rack("b", 1)])
    for i, (bundles, of) in enumerate(sizes):
        answer = plan(inventory, gang(*[2] * bundles, name=f"g{i}", priority=of))
        if isinstance(answer, Allocation):
            inventory.hold(answer)
    request = gang(*[size] * wanted, name="new", locality=Locality(cliques=cliques), priority=priority)
    if isinstance(plan(inventory, request), Allocation):
        return
    before = picture(inventory)
    found = counterfactual(inventory, request).leaving
    assert picture(inventory) == before, "everything is put back"

    def cost(gangs: tuple[str, ...]) -> tuple[int, int, int]:
        held = [inventory.allocation(g) for g in gangs]
        return max(a.priority for a in held if a), sum(len(a.grants) for a in held if a), len(gangs)

    may = [g for g in inventory.gangs if (a := inventory.allocation(g)) and a.priority <= priority]
    sets = [s for n in range(1, len(may) + 1) for s in combinations(may, n) if fits_without(inventory, request, s)]
    assert (found is None) is (not sets)
    if found is not None:
        assert found.smallest
        assert fits_without(inventory, request, found.gangs)
        assert cost(found.gangs) == min(map(cost, sets))


def test_many_gangs_one_that_is_enough() -> None:
    """More gangs than every set can be tried of: the least single one is still proven to be it."""
    inventory = full(*[(f"g{i}", 1 + i % 3, 0) for i in range(ALL_SETS_OF + 4)], trays=8, racks=2)
    for i in range(20):  # and fill up
        answer = plan(inventory, gang(1, name=f"x{i}"))
        if isinstance(answer, Allocation):
            inventory.hold(answer)
    request = gang(2, 2, name="new", locality=one_clique())
    answer = plan_and_explain(inventory, request)
    assert isinstance(answer, Unsatisfiable)
    assert answer.counterfactual is not None
    found = answer.counterfactual.leaving
    assert found is not None
    enough = [g for g in inventory.gangs if fits_without(inventory, request, (g,))]
    assert found.smallest
    assert found.devices == min(len(a.grants) for g in enough if (a := inventory.allocation(g)))


def test_several_have_to_leave_a_clique() -> None:
    """No single gang is enough; the set found is enough, and none of it could stay."""
    inventory = full(*[(f"g{i:02}", 1, 0) for i in range(32)], trays=8, racks=2)
    request = gang(4, 4, 4, name="new", locality=one_clique())
    found = counterfactual(inventory, request).leaving
    assert found is not None
    assert not found.smallest, "not every set has been tried, and it does not claim so"
    assert fits_without(inventory, request, found.gangs)
    assert found.devices == 12
    for gangs in combinations(found.gangs, len(found.gangs) - 1):
        assert not fits_without(inventory, request, gangs)


def test_those_of_a_higher_priority_stay() -> None:
    inventory = full(("high", 8, 5), trays=4, racks=1)
    request = gang(4, name="new", locality=one_clique(), priority=1)
    assert counterfactual(inventory, request).leaving is None
    assert counterfactual(inventory, gang(4, name="new", locality=one_clique(), priority=5)).leaving is not None


def test_what_fits_instead() -> None:
    inventory = full(trays=2, racks=2)
    answer = plan_and_explain(inventory, gang(4, 4, 4, 4, locality=one_clique()))
    assert isinstance(answer, Unsatisfiable)
    assert answer.counterfactual is not None
    changes = [i.change for i in answer.counterfactual.instead]
    assert changes == ["2 of the 4 bundles", "segments of 2 bundles in one clique each"]
    segments = gang(4, 4, 4, 4, locality=Locality(segment=2))
    check(answer.counterfactual.instead[1].allocation, inventory, segments)
    halved = counterfactual(inventory, gang(8)).instead
    assert [i.change for i in halved] == ["2 bundles of 4 GPUs"]
    boxes = Inventory([node("dgx", 8, links=DGX1)])
    linked = counterfactual(boxes, gang(8, locality=Locality(connect=Connect.REQUIRED))).instead
    assert [i.change for i in linked] == ["devices that are not all linked", "2 bundles of 4 GPUs"]
    assert counterfactual(Inventory(), gang(1)).instead == ()
    assert str(counterfactual(Inventory(), gang(1))) == "nothing near it would fit"
