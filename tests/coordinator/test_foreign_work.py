"""Work outside gangs: which devices it has, and that it never shares one with a gang."""

from __future__ import annotations

import pytest

from ray_dra.coordinator.foreign_work import LAG_SECONDS
from ray_dra.core.model.request import Strategy
from ray_dra.translate.names import NODE_LABEL
from tests.coordinator.world import World, positions
from tests.core.machines import gang


@pytest.fixture
def world() -> World:
    return World()


def test_what_others_seem_to_have_counts_once_it_lasts(world: World) -> None:
    """Ray's view shows a gang's GPUs as in use for a moment after it is gone, and looks can be near to each other."""
    world.pass_time()
    world.ray.start_task("t0-0", 3)
    free = []
    for _ in range(70):
        world.pass_time(0.01)
        free.append(world.coordinator.inventory.free_devices)
    assert set(free) == {16, 13}
    assert LAG_SECONDS <= free.index(13) * 0.01 <= 2 * LAG_SECONDS + 0.02
    world.ray.tasks.clear()
    world.pass_time(0.01)
    assert world.coordinator.inventory.free_devices == 16, "what has ended is free at once"


def test_work_of_others_and_gangs_never_share_a_device(world: World) -> None:
    """A plain task has GPU id 0; the gang planned next to it takes other devices, and so do later tasks."""
    pid, gpu_ids = world.ray.start_task("t0-0", 1) or (0, ())
    assert positions(world.coordinator.devices_for("t0-0", "", -1, gpu_ids, pid)) == [0]
    status = world.submit(gang(3, name="g"))
    assert status.allocation is not None
    planned = {g.position for g in status.allocation.grants if g.node == "t0"}
    assert 0 not in planned or status.allocation.nodes != ("t0",)
    world.submit(gang(2, name="h"))
    world.place("g")
    world.place("h")
    world.check()


def test_what_a_gang_that_lost_a_node_still_has_is_not_others() -> None:
    """Ray keeps its other bundles: they were counted as others' work, and beside them as much was not planned on."""
    world = World(nodes=2)
    world.submit(gang(2, 2, name="g", strategy=Strategy.STRICT_SPREAD))
    world.place("g")
    world.pass_time(2)
    world.ray.kill_node("t1-0")
    world.pass_time(2)
    assert world.ray.view().groups[f"{1:036x}"].state == "RESCHEDULING"
    assert world.coordinator.inventory.free_devices == 2
    assert world.submit(gang(2, name="h")).allocation is not None
    world.check()


def test_what_others_have_of_a_node_counts_from_its_first_reading_on() -> None:
    """Tasks that ran before the coordinator: a gang that came between the reading of their node and the next look was
    planned onto their GPUs."""
    world = World(nodes=2)
    for name in world.names:
        world.ray.start_task(world.raylet(name), 4 if name == "t0" else 1)
    world.ray.create_group([{"GPU": 1.0}], [{NODE_LABEL: "t1"}], "job")
    world.store.data.clear()
    world.restart()
    for name in world.names:
        world.report(name)
    assert world.coordinator.inventory.free_devices == 2
    allocation = world.submit(gang(2, name="g")).allocation
    assert allocation is not None
    assert allocation.nodes == ("t1",)
    free = world.coordinator.inventory.free_devices
    world.coordinator.observe()
    assert world.coordinator.inventory.free_devices == free == 0, "a look says the same"


def test_tasks_that_come_after_a_gang_are_moved_off_its_devices() -> None:
    world = World(nodes=1)
    world.submit(gang(2, name="g"))
    world.place("g")  # Ray gives it GPU ids 0 and 1; the plan says devices 0 and 1
    allocation = world.coordinator.status("g").allocation
    assert allocation is not None
    held = {g.position for g in allocation.grants}
    given: set[int] = set()
    for _ in range(2):
        pid, gpu_ids = world.ray.start_task("t0-0", 1) or (0, ())
        devices = set(positions(world.coordinator.devices_for("t0-0", "", -1, gpu_ids, pid)))
        assert not devices & (held | given)
        given |= devices
    world.check()


def test_running_tasks_never_share_a_device_while_a_gang_waits_for_ray() -> None:
    """A gang is planned onto half of a node that Ray still gives to tasks; tasks come and go."""
    world = World(nodes=1)
    world.submit(gang(2, name="g"))
    running: dict[int, tuple[tuple[int, ...], list[int]]] = {}
    for turn in range(40):
        if len(running) == 4 or (turn % 3 == 2 and running):
            pid = sorted(running)[turn % len(running)]
            gpu_ids, _ = running.pop(pid)
            del world.ray.tasks[pid]
            if turn % 2:
                world.coordinator.foreign_work.ended("t0-0", gpu_ids, pid)
        task = world.ray.start_task("t0-0", 1)
        if task is not None:
            running[task[0]] = (task[1], positions(world.coordinator.devices_for("t0-0", "", -1, task[1], task[0])))
        if turn % 5 == 0:
            world.coordinator.observe()
        devices = [d for _, found in running.values() for d in found]
        assert len(set(devices)) == len(devices)
        world.check()


def test_a_task_that_was_quicker_moves_an_unplaced_gang(world: World) -> None:
    """Ray gave the GPUs away between the plan and the placement group: the gang is planned again."""
    world.submit(gang(4, name="g"))
    node = (world.coordinator.status("g").allocation or pytest.fail("no allocation")).nodes[0]
    raylet = world.raylet(node)
    pid, gpu_ids = world.ray.start_task(raylet, 4) or (0, ())
    world.coordinator.devices_for(raylet, "", -1, gpu_ids, pid)
    status = world.coordinator.status("g")
    assert status.moves >= 1
    assert status.allocation is not None
    assert status.allocation.nodes[0] != node
    world.check()


@pytest.mark.parametrize("restart", [False, True])
def test_parts_of_one_gpu_share_a_device_that_no_gang_gets_until_the_last_has_ended(restart: bool) -> None:
    world = World(nodes=1)
    world.submit(gang(2, name="g"))
    world.place("g")
    allocation = world.coordinator.status("g").allocation
    assert allocation is not None
    ours = {grant.position for grant in allocation.grants}
    world.ray.tasks |= {501: ("t0-0", (2,)), 502: ("t0-0", ())}  # halves: Ray counts one GPU
    (first,) = positions(world.coordinator.devices_for("t0-0", "", -1, (2,), 501))
    (second,) = positions(world.coordinator.devices_for("t0-0", "", -1, (2,), 502))
    assert first == second
    assert first not in ours
    if restart:
        world.restart()
        world.report("t0")
    busy = 1 << first
    for pid, left in ((501, busy), (502, 0)):
        del world.ray.tasks[pid]
        if pid == 501:
            world.ray.tasks[502] = ("t0-0", (2,))
        world.coordinator.foreign_work.ended("t0-0", (2,), pid)
        world.pass_time(2)
        assert world.coordinator.inventory.node_states["t0"].busy == left
    world.check()


def test_half_a_gpu_that_nobody_has_located_keeps_a_gang_off_a_whole_one() -> None:
    world = World(nodes=1)
    world.ray.create_group([{"GPU": 0.5}], [{}])
    world.pass_time(2)
    assert world.coordinator.inventory.free_devices == 3
