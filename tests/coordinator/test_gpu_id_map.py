"""Which device a worker's GPU id means."""

from __future__ import annotations

import pytest

from tests.coordinator.world import World
from tests.core.machines import gang


@pytest.fixture
def world() -> World:
    return World()


def test_part_of_a_bundle_keeps_its_devices(world: World) -> None:
    world.submit(gang(4, name="g"))
    status = world.place("g")
    assert status.allocation is not None
    raylet = world.raylet(status.allocation.nodes[0])
    group = status.group or ""
    first = world.coordinator.devices_for(raylet, group, 0, (2,), 7)
    second = world.coordinator.devices_for(raylet, group, 0, (0, 1), 8)
    assert not set(first) & set(second)
    assert first == world.coordinator.devices_for(raylet, group, 0, (2,), 7)
    world.restart()
    assert first == world.coordinator.devices_for(raylet, group, 0, (2,), 7), "also after a restart"
