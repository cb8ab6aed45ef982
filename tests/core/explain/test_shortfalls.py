"""What a no names."""

from __future__ import annotations

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.machines import gang, node


def test_a_no_names_what_no_node_has_beside_the_devices_that_are_taken() -> None:
    inventory = Inventory([node("a", 8, box=True), node("b", 8, box=True, resources={"CPU": 96.0})])
    answer = plan(inventory, gang(9, resources={"CPU": 128.0}))
    assert isinstance(answer, Unsatisfiable)
    assert {(s.kind, s.available) for s in answer.shortfalls} >= {(ShortfallKind.RESOURCES, 96.0)}
    assert ShortfallKind.NODE_SIZE in {s.kind for s in answer.shortfalls}
    inventory.drop_node("b")
    answer = plan(inventory, gang(9, resources={"CPU": 128.0}))
    assert isinstance(answer, Unsatisfiable)
    assert (ShortfallKind.RESOURCES, 64.0) in {(s.kind, s.available) for s in answer.shortfalls}, "the largest has left"
