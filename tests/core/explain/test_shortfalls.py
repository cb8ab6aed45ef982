"""What a no names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.device_selector import DRIVER_VERSION, MEMORY, Operator, Selector, Value
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.model.shortfall import Shortfall, ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.machines import gang, held, node


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


def found_of(inventory: Inventory, request: GangRequest) -> dict[ShortfallKind, Shortfall]:
    answer = plan(inventory, request)
    assert isinstance(answer, Unsatisfiable)
    return {s.kind: s for s in answer.shortfalls}


@pytest.mark.parametrize(
    ("name", "compared", "wanted", "nearest"),
    [
        (MEMORY, "==", 80, 79),
        (MEMORY, "==", 200, 192),
        (MEMORY, "==", 1, 40),
        (MEMORY, ">=", 200, 192),
        (MEMORY, "<", 40, 40),
        (DRIVER_VERSION, "==", (580, 0, 0), (580, 65, 6)),
        (DRIVER_VERSION, "==", (570, 99, 0), (570, 1, 2)),
        (DRIVER_VERSION, "==", (999, 0, 0), (580, 95, 5)),
        (DRIVER_VERSION, ">", (580, 95, 5), (580, 95, 5)),
    ],
)
def test_what_is_named_is_the_nearest_to_what_was_asked(
    name: str, compared: str, wanted: Value, nearest: Value
) -> None:
    """With == the largest there is was named, though another was nearer."""

    def has(at: int, memory: int, driver: str) -> Node:
        plain = node(f"n{at}", 1, box=True)
        (device,) = plain.devices
        attributes = {**device.attributes, DRIVER_VERSION: driver}
        return replace(plain, devices=(replace(device, attributes=attributes, capacity={MEMORY: memory}),))

    there = [(40, "570.1.2"), (79, "580.65.06"), (192, "580.95.05")]
    inventory = Inventory([has(at, *each) for at, each in enumerate(there)])
    bundle = Bundle((DeviceRequest(1, selectors=(Selector(name, Operator(compared), wanted),)),))
    found = found_of(inventory, GangRequest("g", (bundle,)))[ShortfallKind.ATTRIBUTE]
    assert (found.wanted, found.available) == (wanted, nearest)
    assert "the nearest to it" in str(found)


def test_spares_are_no_room_for_a_gang_that_is_lent_none() -> None:
    """The node with most free was a spare, which has as many linked devices as are asked for."""
    spare = replace(node("spare", 4, box=True), spare=True)
    inventory = Inventory([spare, node("a", 1, box=True)])
    small = found_of(inventory, gang(8))[ShortfallKind.NODE_SIZE]
    assert (small.place.id, small.available) == ("a", 1)
    loose = Inventory([spare, node("b", 2, links=((0, 0), (0, 0)))])
    unlinked = found_of(loose, gang(2, locality=Locality(connect=Connect.REQUIRED)))[ShortfallKind.CONNECTED]
    assert (unlinked.place.id, unlinked.available) == ("b", 1)


def test_a_spare_that_is_excluded_is_counted_out_once() -> None:
    spare = replace(node("spare", 4, box=True), spare=True)
    inventory = Inventory([spare, node("a", 1, box=True), node("b", 2, box=True)])
    lacking = found_of(inventory, replace(gang(8), exclude=frozenset({"spare", "b"})))[ShortfallKind.DEVICES]
    assert lacking.available == 1
    lent = replace(gang(8), exclude=frozenset({"spare"}), preemptible=True)
    assert found_of(inventory, lent)[ShortfallKind.DEVICES].available == 3


def test_one_gpu_is_one() -> None:
    """In words that people read."""
    full = Inventory([node("a", 1, box=True)])
    held(full, gang(1))
    no = plan(full, gang(1, name="b"))
    assert isinstance(no, Unsatisfiable)
    assert "wanted 1 GPU" in " ".join(map(str, no.shortfalls))
    assert "1 GPUs" not in " ".join(map(str, no.shortfalls))
