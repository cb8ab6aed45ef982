"""Raylets that are there: their nodes come, fall silent, go and come back, over fake ports."""

from __future__ import annotations

import pytest

from ray_dra.core.model.locality import Locality
from tests.coordinator.world import Phase, World
from tests.core.machines import gang


@pytest.fixture
def world() -> World:
    return World()


def test_a_lost_node_degrades_its_gang_and_a_new_raylet_heals_it(world: World) -> None:
    world.submit(gang(4, 4, name="g", locality=Locality(cliques=1)))
    world.place("g")
    world.ray.kill_node("t1-0")
    world.pass_time()
    status = world.coordinator.status("g")
    assert status.phase is Phase.DEGRADED
    assert "t1" in status.lost[0]
    assert world.coordinator.inventory.free_devices == 8, "its other devices stay its own"
    world.incarnation["t1"] = 1
    world.ray.add_node("t1-1", gpus=4, labels={"ray-dra.io/node": "t1"})
    world.coordinator.observe()
    world.report("t1")
    world.pass_time()
    status = world.coordinator.status("g")
    assert status.phase is Phase.READY
    world.check()


def test_a_raylet_that_is_back_before_the_old_one_ends_offers_no_gpu_twice(world: World) -> None:
    """Ray finds out late that a raylet is dead; the next one has the same GPUs, and asks for the same name."""
    world.submit(gang(4, name="g"))
    world.place("g")
    world.incarnation["t0"] = 1
    world.ray.add_node("t0-1", gpus=4, labels={"ray-dra.io/node": "t0"})
    for restart in (False, True):
        if restart:
            world.restart()
        for _ in range(2):
            world.coordinator.observe()
            world.report("t0")
        assert world.coordinator.status("g").phase is Phase.READY
        assert world.coordinator.status("g").selectors == ({"ray.io/node-id": "t0-0"},), "the label is of two"
        assert world.coordinator.inventory.free_devices == 12
    for name in ("a", "b", "c", "d"):
        world.submit(gang(4, name=name))
    held = [found.allocation for found in world.coordinator.gangs.values() if found.allocation is not None]
    uuids = [grant.uuid for allocation in held for grant in allocation.grants]
    assert len(uuids) == len(set(uuids)) == 16
    world.ray.kill_node("t0-0")
    world.pass_time(3)
    assert sorted(world.coordinator.inventory.node_states) == world.names
    assert world.coordinator.status("g").phase is Phase.READY
    assert world.coordinator.status("g").selectors == ({"ray-dra.io/node": "t0"},)
    world.check()


def test_raylets_of_one_label_are_two_nodes_and_stay_so_while_they_have_gangs() -> None:
    """Machines made of one image, with GPUs of their own."""
    world = World(nodes=2)
    world.names = ["t0", "t1", "twin"]
    world.racks["twin"] = world.racks["t0"]
    world.incarnation["twin"] = 0
    world.ray.add_node("twin-0", gpus=4, labels={"ray-dra.io/node": "t0"})
    world.coordinator.observe()
    world.report("twin")
    for name in ("a", "b", "c"):
        world.submit(gang(4, name=name))
        world.place(name)
    assert {g.allocation.nodes for g in world.coordinator.gangs.values() if g.allocation is not None} == {
        ("t0",),
        ("t1",),
        ("ray-twin-0",),
    }
    world.ray.kill_node("t0-0")
    for restart in (False, True):
        if restart:
            world.restart()
        world.pass_time(2)
        found = [world.coordinator.status(name) for name in ("a", "b", "c")]
        phases = {status.allocation.nodes[0]: status.phase for status in found if status.allocation is not None}
        assert phases == {"t0": Phase.DEGRADED, "t1": Phase.READY, "ray-twin-0": Phase.READY}
    world.check()


def test_faults_show_on_the_gang(world: World) -> None:
    world.submit(gang(4, name="g"))
    world.place("g")
    world.report("t0", xids=(79,))
    assert world.coordinator.status("g").phase is Phase.DEGRADED
    assert "XID 79" in world.coordinator.status("g").lost[0]
    world.report("t0", xids=(31,))
    assert world.coordinator.status("g").phase is Phase.READY, "XID 31 is the application's"
    world.report("t0", lost=2)
    assert "lost" in world.coordinator.status("g").lost[0]


def test_a_silent_agent_takes_its_node_out_of_planning(world: World) -> None:
    for _ in range(6):
        world.clock.now += 1.0
        world.coordinator.nodes.heartbeat("t0-0")
        world.coordinator.observe()
    ready = [s.name for s in world.coordinator.inventory.node_states.values() if s.node.ready]
    assert ready == ["t0"]


def test_a_node_that_fell_silent_before_its_raylet_ended_is_forgotten_too(world: World) -> None:
    for _ in range(6):
        world.clock.now += 1.0
        world.coordinator.nodes.heartbeat("t0-0")
        world.coordinator.observe()
    for name in world.names[1:]:
        world.ray.kill_node(world.raylet(name))
    world.coordinator.observe()
    assert list(world.coordinator.inventory.node_states) == ["t0"]
