"""The coordinator over fake ports: its promises, its queue, faults, and kills at every write."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.allocation import Kind, Unsatisfiable
from ray_dra.core.lifecycle import ALLOWED, Gang, Observed
from ray_dra.core.request import Locality
from ray_dra.errors import GangGone, NameTaken, RayDraError, UnsatisfiableError
from ray_dra.runtime.books import Notes
from ray_dra.runtime.others import LAG_SECONDS
from tests.core.machines import gang

from .world import Crash, CrashingStore, Phase, World, positions


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
    assert world.coordinator.release("g") is False, "its workers may still run"
    world.pass_time()
    world.check_empty()
    assert world.coordinator.release("g") is True


def test_a_fault_with_one_gang_does_not_hold_up_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        world.submit(gang(4, name=name))
        world.place(name)
    for name in ("a", "b"):
        world.coordinator.release(name)
    observed = world.coordinator.watch.observed

    def faulty(gang: Gang, notes: Notes) -> Observed:
        if gang.id == "a":
            raise KeyError("a fault")
        return observed(gang, notes)

    monkeypatch.setattr(world.coordinator.watch, "observed", faulty)
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


def test_what_does_not_fit_now_waits_or_fails_by_choice(world: World) -> None:
    world.submit(gang(*[4] * 4, name="all"))
    with pytest.raises(UnsatisfiableError) as caught:
        world.submit(gang(1, name="now"), wait=False)
    assert "held by gangs" in str(caught.value)
    status = world.submit(gang(4, name="later"))
    assert status.phase is Phase.QUEUED
    assert status.waits_for
    world.coordinator.release("all")
    assert world.coordinator.status("later").phase is Phase.HELD


def test_first_come_first_served_within_a_priority(world: World) -> None:
    world.submit(gang(*[4] * 4, name="all"))
    for name, size, priority in (("big", 4, 0), ("small", 1, 0), ("urgent", 2, 5)):
        sizes = [4] * 4 if name == "big" else [size]
        world.submit(gang(*sizes, name=name, priority=priority))
    with pytest.raises(UnsatisfiableError) as caught:
        world.submit(gang(1, name="impatient"), wait=False)
    assert caught.value.shortfalls[0].kind in (Kind.QUEUE, Kind.DEVICES)
    world.coordinator.release("all")
    phases = {n: world.coordinator.status(n).phase for n in ("big", "small", "urgent")}
    assert phases == {"big": Phase.QUEUED, "small": Phase.QUEUED, "urgent": Phase.HELD}, "nobody overtakes"
    world.coordinator.release("urgent")
    assert world.coordinator.status("big").phase is Phase.HELD
    assert world.coordinator.status("small").phase is Phase.QUEUED


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
    world.clock.now += 60
    world.coordinator.nodes.heartbeat("t0-0")
    world.coordinator.observe()
    ready = [s.name for s in world.coordinator.inventory.seats.values() if s.node.ready]
    assert ready == ["t0"]


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
                world.coordinator.others.ended("t0-0", slots, pid)
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
    world.place("g")
    for _ in range(3):
        world.pass_time(4)
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


def script(world: World) -> None:
    """A life with everything in it; every step may be repeated after a kill."""
    for request in (gang(4, 4, name="a", locality=Locality(cliques=1)), gang(2, 2, name="b"), gang(*[4] * 2, name="c")):
        world.submit(request)
    for name in ("a", "b"):
        status = world.coordinator.status(name)
        if status.allocation is not None and status.group is None:
            world.place(name)
    world.coordinator.release("a")
    world.pass_time()
    world.report("t3", xids=(79,))
    world.coordinator.release("b")
    world.pass_time()
    world.coordinator.release("c")
    world.pass_time()


def writes_of_the_script() -> int:
    world = World()
    assert isinstance(world.store, CrashingStore)
    before = world.store.writes
    script(world)
    return world.store.writes - before


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_write_nothing_is_lost_or_given_twice(after: bool) -> None:
    """Kill the coordinator before and after each of its writes, bring it back, and go on."""
    count = writes_of_the_script()
    assert count > 10
    for at in range(count):
        world = World()
        assert isinstance(world.store, CrashingStore)
        world.store.left, world.store.after = at, after
        for _ in range(3):
            try:
                script(world)
                break
            except Crash:
                world.restart()
                world.check()
            except GangGone:
                pass  # the step before was done already
        world.check()
        for name in ("a", "b", "c"):
            world.coordinator.release(name)
        for _ in range(3):
            world.pass_time(40)
        world.check_empty()
        assert world.coordinator.inventory.free_devices >= 15


class Life(RuleBasedStateMachine):
    """Holds, commits, releases, kills and faults in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.count = 0
        self.phases: dict[str, Phase] = {}

    @rule(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        cliques=st.sampled_from([None, 1, 2]),
        exclusive=st.booleans(),
        priority=st.integers(0, 1),
        wait=st.booleans(),
        detached=st.booleans(),
    )
    def submit(
        self, sizes: list[int], cliques: int | None, exclusive: bool, priority: int, wait: bool, detached: bool
    ) -> None:
        self.count += 1
        locality = Locality(cliques=cliques, exclusive=exclusive and cliques is not None)
        request = gang(*sizes, name=f"g{self.count}", locality=locality, priority=priority)
        try:
            status = self.world.submit(request, wait=wait, detached=detached)
            assert wait or status.allocation is not None
        except UnsatisfiableError as error:
            assert error.shortfalls
            assert request.gang not in self.world.coordinator.gangs

    def gangs(self, *phases: Phase) -> list[str]:
        found = self.world.coordinator
        return [g for g in found.gangs if found.status(g).phase in phases]

    @precondition(lambda self: self.gangs(Phase.HELD))
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.world.place(data.draw(st.sampled_from(self.gangs(Phase.HELD))))

    @precondition(lambda self: self.world.coordinator.gangs)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.world.coordinator.release(data.draw(st.sampled_from(list(self.world.coordinator.gangs))))

    @rule()
    def kill_coordinator(self) -> None:
        before = {g: s.allocation for g, s in self.world.coordinator.gangs.items()}
        self.world.restart()
        after = {g: s.allocation for g, s in self.world.coordinator.gangs.items()}
        for name, allocation in before.items():
            if allocation is not None and name in after:
                assert after[name] == allocation, "a restart keeps every decision"

    @rule(at=st.integers(0, 3), gpus=st.integers(1, 4), hooked=st.booleans())
    def start_task(self, at: int, gpus: int, hooked: bool) -> None:
        raylet = self.world.raylet(f"t{at}")
        if self.world.ray.nodes[raylet].alive and (task := self.world.ray.start_task(raylet, gpus)) and hooked:
            try:
                devices = positions(self.world.coordinator.devices_for(raylet, "", -1, task[1], task[0]))
            except RayDraError:
                del self.world.ray.tasks[task[0]]  # the worker fails, and Ray ends it
                return
            assert len(set(devices)) == gpus
            held = self.world.coordinator.inventory.seats[f"t{at}"].held
            assert not any(held >> d & 1 for d in devices)

    @precondition(lambda self: self.world.ray.tasks)
    @rule()
    def end_tasks(self) -> None:
        self.world.ray.tasks.clear()

    @rule(at=st.integers(0, 3), xid=st.sampled_from([(), (79,), (31,)]))
    def fault(self, at: int, xid: tuple[int, ...]) -> None:
        if self.world.ray.nodes[self.world.raylet(f"t{at}")].alive:
            self.world.report(f"t{at}", xids=xid)

    @rule(at=st.integers(0, 3))
    def restart_raylet(self, at: int) -> None:
        name = f"t{at}"
        self.world.ray.kill_node(self.world.raylet(name))
        self.world.coordinator.observe()
        self.world.incarnation[name] += 1
        self.world.ray.add_node(self.world.raylet(name), gpus=4, labels={"ray-dra.io/node": name})
        self.world.coordinator.observe()
        self.world.report(name)

    @rule(seconds=st.sampled_from([0.5, 4.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def all_is_well(self) -> None:
        self.world.check()

    @invariant()
    def phases_change_as_allowed(self) -> None:
        now = {g: self.world.coordinator.status(g).phase for g in self.world.coordinator.gangs}
        for name, before in self.phases.items():
            after = now.get(name, Phase.GONE)
            steps = {before} | ALLOWED[before]
            reachable = steps | {p for s in steps for p in ALLOWED[s]}  # a rule may take two steps
            assert after in reachable, f"{name}: {before} -> {after}"
        self.phases = now

    def teardown(self) -> None:
        self.world.ray.tasks.clear()
        for name in list(self.world.coordinator.gangs):
            self.world.coordinator.release(name)
        for _ in range(3):
            self.world.pass_time()
        self.world.check_empty()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_plan_holds_nothing(world: World) -> None:
    answer = world.coordinator.plan(gang(4, 4, locality=Locality(cliques=1)))
    assert not isinstance(answer, Unsatisfiable)
    world.check_empty()
