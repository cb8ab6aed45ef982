"""What comes to the coordinator past the constructors: unpickling checks nothing."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ray_dra import errors
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.order import Order, check_order
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, check_request
from ray_dra.core.plan import plan
from ray_dra.errors import MOST_BYTES, InvalidRequest, RayDraError
from ray_dra.translate.files.records import gang_from_bytes, gang_to_bytes
from tests.coordinator.world import World
from tests.core.machines import rack
from tests.edge.hostile import EXTREMES, MEGABYTE, answers_or_refuses

KINDS: tuple[Any, ...] = (Order, GangRequest, Locality, Bundle, DeviceRequest)
FIELDS = [(kind, name) for kind in KINDS for name in kind.__dataclass_fields__]


def order_with(kind: type, name: str, value: Any) -> Order:
    """An order in which one field of one part is `value`."""
    locality = Locality(cliques=1)
    device = DeviceRequest(2, products=("X",))
    bundle = Bundle((device,), {"CPU": 1.0}, {"zone": "z"})
    request = GangRequest("g", (bundle,), locality)
    order = Order(request, name="n", namespace="ns", owner="01")
    parts: dict[type, Any] = {
        Order: order,
        GangRequest: request,
        Locality: locality,
        Bundle: bundle,
        DeviceRequest: device,
    }
    object.__setattr__(parts[kind], name, value)
    return order


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_an_order_that_passed_no_constructor(kind: type, name: str) -> None:
    """The coordinator keeps what passes, so it has to read it back, too."""
    inventory = Inventory(rack("a", 2))
    for value in EXTREMES:
        order = order_with(kind, name, value)
        found = answers_or_refuses(lambda order=order: check_order(order))  # type: ignore[misc]
        if isinstance(found, RayDraError):
            assert isinstance(found, InvalidRequest)
            assert found.place
        else:
            record = Gang(order.request, 1, order.name, order.namespace, order.owner, order.detached)
            assert gang_from_bytes(gang_to_bytes(record)) == record
            answers_or_refuses(lambda order=order: plan(inventory, order.request))  # type: ignore[misc]


def test_what_is_no_order_at_all() -> None:
    for value in [*EXTREMES, object.__new__(Order), object.__new__(GangRequest)]:
        for check in (check_order, check_request):
            found = answers_or_refuses(lambda value=value, check=check: check(value))  # type: ignore[misc]
            assert isinstance(found, InvalidRequest)


def test_texts_count_once_and_have_an_end() -> None:
    """A request travels, is kept, and is told in events."""
    device = DeviceRequest(1)
    alike = tuple(Bundle((device,), {"x" * 200: 1.0}) for _ in range(1000))
    assert check_request(GangRequest("g", alike)).device_count == 1000
    different = tuple(Bundle((device,), {"x" * 200: 1.0 + i}) for i in range(1000))
    with pytest.raises(InvalidRequest, match="too long together"):
        check_request(GangRequest("g", different))


def test_the_coordinator_asks() -> None:
    world = World()
    bad = order_with(Bundle, "resources", {"\ud800": 0.5})
    with pytest.raises(InvalidRequest):
        world.coordinator.submit(bad)
    with pytest.raises(InvalidRequest):
        world.coordinator.plan(bad.request)
    assert not world.coordinator.gangs


def test_every_error_encodes_and_is_short() -> None:
    """It crosses processes by way of Ray, which cannot encode a lone surrogate."""
    for kind in [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, RayDraError)]:
        for value in ("\ud800" * 5000, "a\udcff", "é" * 3000, "x" * MEGABYTE):
            error = kind(value, place=value, wanted=value, available=value)
            for each in (error, pickle.loads(pickle.dumps(error))):
                assert 0 < len(str(each).encode()) <= MOST_BYTES
                parts = (*each.args, each.reason, each.place, each.wanted, each.available)
                assert all(part.encode() for part in parts)
