"""The coordinator over fake ports: its promises, and faults. Its queue: test_queue.py; kills: test_life.py."""

from __future__ import annotations

import pytest

from ray_dra.coordinator.foreign_work import LAG_SECONDS
from ray_dra.core.gangs.lifecycle import Gang, Observed
from ray_dra.core.gangs.records import RuntimeNotes
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.errors import GangGone, NameTaken, UnsatisfiableError
from tests.core.machines import gang

from .world import Phase, World, positions


@pytest.fixture
def world() -> World:
    return World()


def test_a_gang_from_request_to_release(world: World) -> None:
    status = world.submit(gang(4, 4, name="g", locality=Locality(cliques=1)))
    assert status.phase is Phase.HELD
    assert status.selectors == ({"ray-dra.io/node": "t0"}, {"ray-dra.io/node": "t1"})
    status = world.place("g")
    assert status.phase is Phase.READY
    world.check()
    assert status.group is not None
    world.ray.groups[status.group].workers.add(1)
    assert world.coordinator.release("g") is False, "its workers still run"
    assert world.coordinator.status("g").phase is Phase.RELEASING
    world.pass_time()
    world.check_empty()
    assert world.coordinator.release("g") is True


def test_a_gang_without_workers_is_gone_at_once(world: World) -> None:
    """No look at Ray is needed: the raylets say so."""
    world.submit(gang(4, 4, name="g", locality=Locality(cliques=1)))
    world.place("g")
    assert world.coordinator.release("g") is True
    world.check_empty()


def test_a_fault_with_one_gang_does_not_hold_up_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        world.submit(gang(4, name=name))
        world.ray.groups[world.place(name).group or ""].workers.add(0)
    for name in ("a", "b"):
        world.coordinator.release(name)
    observed = world.coordinator.observer.observed

    def faulty(gang: Gang, notes: RuntimeNotes) -> Observed:
        if gang.id == "a":
            raise KeyError("a fault")
        return observed(gang, notes)

    monkeypatch.setattr(world.coordinator.observer, "observed", faulty)
    with pytest.raises(KeyError, match="a fault"):
        world.pass_time()
    assert list(world.coordinator.gangs) == ["a"]
    monkeypatch.undo()
    world.pass_time()
    world.check_empty()


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


def test_devices_stay_taken_until_the_workers_have_ended(world: World) -> None:
    world.submit(gang(4, name="g"))
    world.place("g")
    group = world.coordinator.gangs["g"].group
    assert group is not None
    world.ray.groups[group].workers.add(0)
    world.coordinator.release("g")
    world.coordinator.observe()
    assert world.coordinator.gangs["g"].releasing
    assert world.coordinator.inventory.free_devices == 12
    world.pass_time()
    assert world.coordinator.inventory.free_devices == 16


def test_what_can_never_fit_is_refused_and_leaves_nothing(world: World) -> None:
    for request in (gang(5), gang(*[4] * 5), gang(*[4] * 3, locality=Locality(cliques=1)), gang(1, products=("X",))):
        with pytest.raises(UnsatisfiableError) as caught:
            world.submit(request)
        assert caught.value.shortfalls
        assert caught.value.wanted
        assert caught.value.available
        world.check_empty()


def test_a_name_is_taken_once(world: World) -> None:
    world.submit(gang(1, name="a"), name="train", namespace="x")
    with pytest.raises(NameTaken):
        world.submit(gang(1, name="b"), name="train", namespace="x")
    world.submit(gang(1, name="c"), name="train", namespace="y")
    world.check()


def test_a_gang_ends_with_its_driver_unless_detached(world: World) -> None:
    world.submit(gang(4, name="mine"))
    world.place("mine")
    world.submit(gang(4, name="kept"), detached=True)
    world.submit(gang(4, name="unplaced"))
    group = world.place("kept").group
    world.ray.jobs.clear()
    world.ray.groups[group or ""].job = ""
    world.pass_time()
    world.pass_time()
    assert set(world.coordinator.gangs) == {"kept"}
    world.check()


def test_a_hold_that_nobody_commits_is_given_back(world: World) -> None:
    world.submit(gang(4, name="g"))
    world.pass_time(20)
    assert "g" in world.coordinator.gangs
    world.pass_time(20)
    world.check_empty()


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


def test_work_of_others_and_gangs_never_share_a_device(world: World) -> None:
    """A plain task has slot 0; the gang planned next to it takes other devices, and so do later tasks."""
    pid, slots = world.ray.start_task("t0-0", 1) or (0, ())
    assert positions(world.coordinator.devices_for("t0-0", "", -1, slots, pid)) == [0]
    status = world.submit(gang(3, name="g"))
    assert status.allocation is not None
    planned = {g.position for g in status.allocation.grants if g.node == "t0"}
    assert 0 not in planned or status.allocation.nodes != ("t0",)
    world.submit(gang(2, name="h"))
    world.place("g")
    world.place("h")
    world.check()


def test_tasks_that_come_after_a_gang_are_moved_off_its_devices() -> None:
    world = World(nodes=1)
    world.submit(gang(2, name="g"))
    world.place("g")  # Ray gives it slots 0 and 1; the plan says devices 0 and 1
    allocation = world.coordinator.status("g").allocation
    assert allocation is not None
    held = {g.position for g in allocation.grants}
    given: set[int] = set()
    for _ in range(2):
        pid, slots = world.ray.start_task("t0-0", 1) or (0, ())
        devices = set(positions(world.coordinator.devices_for("t0-0", "", -1, slots, pid)))
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
            slots, _ = running.pop(pid)
            del world.ray.tasks[pid]
            if turn % 2:
                world.coordinator.foreign_work.ended("t0-0", slots, pid)
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
    pid, slots = world.ray.start_task(raylet, 4) or (0, ())
    world.coordinator.devices_for(raylet, "", -1, slots, pid)
    status = world.coordinator.status("g")
    assert status.moves >= 1
    assert status.allocation is not None
    assert status.allocation.nodes[0] != node
    world.check()


def test_a_gang_that_ray_does_not_place_moves(world: World) -> None:
    world.submit(gang(4, name="g"))
    node = (world.coordinator.status("g").allocation or pytest.fail("no allocation")).nodes[0]
    world.ray.start_task(world.raylet(node), 2)  # by a program without our hook
    status = world.place("g")
    assert status.phase is Phase.PLACING
    world.pass_time(1)
    world.pass_time(4)
    status = world.coordinator.status("g")
    assert status.moves == 1
    assert status.group is None
    assert status.allocation is not None
    assert status.allocation.nodes[0] != node
    assert world.place("g").phase is Phase.READY


def test_an_exclusive_gang_that_cannot_move_keeps_its_clique() -> None:
    """Found by the state machine below: work of others came into the clique while Ray had not placed the gang."""
    world = World()
    for name in ("t0", "t2"):
        world.ray.start_task(world.raylet(name), 1)
    world.submit(gang(4, name="g", locality=Locality(cliques=1, exclusive=True)), wait=False)
    before = world.place("g")
    assert before.allocation is not None
    (clique,) = set(before.allocation.cliques)
    assert clique is not None
    for _ in range(3):
        world.pass_time(4)
        world.check()
        status = world.coordinator.status("g")
        assert status.phase is Phase.PLACING, "it was planned again, and there is nowhere else"
        assert status.moves == 0
        assert status.allocation == before.allocation
        assert world.coordinator.inventory.clique_states[clique].owner == "g"
        assert world.submit(gang(1, name="other", locality=Locality(cliques=1)), wait=False).allocation is not None
        assert clique not in (world.coordinator.status("other").allocation or before.allocation).cliques
        world.coordinator.release("other")


def test_a_restarted_coordinator_keeps_a_clique_for_the_gang_that_has_it_alone(world: World) -> None:
    world.submit(gang(4, name="alone", locality=Locality(cliques=1, exclusive=True)))
    world.place("alone")
    world.restart()
    world.check()
    for name in ("a", "b"):
        world.submit(gang(4, name=name))
    allocations = [world.coordinator.gangs[name].allocation for name in ("a", "b")]
    assert {node for found in allocations if found is not None for node in found.nodes} == {"t2", "t3"}
    assert world.submit(gang(1, name="more")).phase is Phase.QUEUED
    world.coordinator.release("alone")
    world.pass_time()
    assert world.coordinator.status("more").phase is Phase.HELD
    world.check()


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


def test_commit_of_an_old_plan_is_not_taken(world: World) -> None:
    world.submit(gang(4, name="g"))
    old = world.ray.create_group([{"GPU": 4}], [{}], "job")
    assert world.coordinator.commit("g", old, 7).group is None
    world.coordinator.release("g")
    with pytest.raises(GangGone):
        world.coordinator.commit("g", old, 0)


def test_plan_holds_nothing(world: World) -> None:
    answer = world.coordinator.plan(gang(4, 4, locality=Locality(cliques=1)))
    assert not isinstance(answer, Unsatisfiable)
    world.check_empty()
