"""What is asked of a node besides devices: labels, CPUs, not being excluded, being ready."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy
from ray_dra.core.plan import plan
from tests.core.machines import gang, node

NODES = [
    node("a", 4, clique="r", labels={"zone": "x"}, resources={"CPU": 2.0, "other": 1.0}),
    node("b", 4, clique="r", labels={"zone": "y"}, resources={"CPU": 3.0}),
    replace(node("c", 4, clique="r", labels={"zone": "x"}, resources={"CPU": 1.0}), ready=False, reason="drained"),
    node("d", 2, clique="r", resources={"CPU": 0.5}),
]


@pytest.mark.parametrize("zone", ["", "x", "y", "!x", "in(x,y)", "nowhere"])
@pytest.mark.parametrize("exclude", [(), ("a",), ("b", "d")])
def test_every_small_gang_of_equal_bundles(zone: str, exclude: tuple[str]) -> None:
    """Alone, spread, on one node and in one clique: a yes where the nodes that will do hold so many, and only there."""
    for count, size, cpus in product(range(1, 6), (0, 1, 2), (0.0, 0.5, 1.0, 1.5)):
        if size or cpus:
            check_gang(count, size, cpus, zone, exclude)


def check_gang(count: int, size: int, cpus: float, zone: str, exclude: tuple[str]) -> None:
    bundle = Bundle(
        (DeviceRequest(size),) if size else (), {"CPU": cpus} if cpus else {}, {"zone": zone} if zone else {}
    )
    held = []
    for name, devices, cpu, label in (("a", 4, 2.0, "x"), ("b", 4, 3.0, "y"), ("d", 2, 0.5, None)):
        fits = {"": True, "x": label == "x", "y": label == "y", "!x": label != "x", "in(x,y)": label is not None}
        if name not in exclude and fits.get(zone, False):
            held.append(min(devices // size if size else 99, int(cpu / cpus) if cpus else 99))
    for strategy, locality, most in (
        (Strategy.PACK, Locality(), sum(held)),
        (Strategy.PACK, Locality(cliques=1), sum(held)),
        (Strategy.SPREAD, Locality(), sum(held)),
        (Strategy.STRICT_PACK, Locality(), max(held, default=0)),
        (Strategy.STRICT_SPREAD, Locality(), sum(map(bool, held))),
    ):
        request = GangRequest("g", (bundle,) * count, locality, strategy, exclude=frozenset(exclude))
        inventory = Inventory(NODES)
        answer = plan(inventory, request)
        assert isinstance(answer, Allocation) is (most >= count), (request, answer)
        if isinstance(answer, Allocation):
            inventory.hold(answer)
            assert all(inventory.node_states[name].left("CPU") >= 0 for name in answer.nodes)


@pytest.mark.parametrize("amount", [5e-324, 1e-308, 1e-4])
def test_of_next_to_nothing_a_node_has_enough(amount: float) -> None:
    """What is free, divided by it, is more than any number; OverflowError ended each look at the queue."""
    request = GangRequest("g", (Bundle((DeviceRequest(2),), {"CPU": amount}),) * 5)
    assert isinstance(plan(Inventory(NODES), request), Allocation)
    assert not isinstance(plan(Inventory(NODES), replace(request, bundles=request.bundles[:1] * 6)), Allocation)


def test_the_classes_of_bundles_that_differ_come_in_an_order_that_is_the_same_every_time() -> None:
    """Shares beside bundles without devices, labels, resources: any two can be compared."""
    bundles = (
        Bundle((DeviceRequest(1, share=500),)),
        Bundle((), {"CPU": 1.0}),
        Bundle((DeviceRequest(1),), {"CPU": 1.0}, {"zone": "x"}),
        Bundle((DeviceRequest(1),), {"CPU": 1.0}),
        Bundle((DeviceRequest(2),)),
        Bundle((DeviceRequest(1, share=400),)),
        Bundle((), {"CPU": 0.5}),
    )
    found = {plan(Inventory(NODES), GangRequest("g", order)).__class__ for order in (bundles, bundles[::-1])}
    assert found == {Allocation}
    assert isinstance(plan(Inventory(NODES), gang(4, 4)), Allocation)
