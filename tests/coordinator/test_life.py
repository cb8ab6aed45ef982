"""The coordinator's life over fake ports: killed at every write, and everything that can happen in any order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.gangs.actions import Action
from ray_dra.core.gangs.events import Event, Moment
from ray_dra.core.gangs.lifecycle import ARROWS
from ray_dra.core.model.locality import Locality
from ray_dra.errors import GangGone, RayDraError, UnsatisfiableError
from ray_dra.simulated.fakes import FakeRay
from tests.coordinator import kubernetes_world
from tests.core.machines import gang

from .world import Crash, CrashingStore, Phase, World, positions


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


class Broken(RuntimeError):
    """As Ray's store fails: what was asked may have been done."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_where_a_write_fails_store_and_memory_say_the_same_from_the_next_look_on(after: bool) -> None:
    count = writes_of_the_script()
    for at in range(count):
        world = World()
        assert isinstance(world.store, CrashingStore)
        world.store.left, world.store.after, world.store.error = at, after, Broken
        for _ in range(3):
            try:
                script(world)
                break
            except Broken:
                world.coordinator.observe()
                world.check()
            except GangGone:
                pass  # the step before was done already
        before = {name: gang.allocation for name, gang in world.coordinator.gangs.items()}
        world.restart()
        assert not world.coordinator.aside.records
        assert {name: gang.allocation for name, gang in world.coordinator.gangs.items()} == before
        for name in ("a", "b", "c"):
            world.coordinator.release(name)
        for _ in range(3):
            world.pass_time(40)
        world.check_empty()


@pytest.mark.parametrize("look", [False, True])
def test_a_gang_that_was_refused_by_a_failing_store_takes_nothing_from_the_next(look: bool) -> None:
    world = World()
    assert isinstance(world.store, CrashingStore)
    world.store.left, world.store.after, world.store.error = 0, True, Broken
    with pytest.raises(Broken):
        world.submit(gang(4, 4, name="a"))
    assert world.store.get("gang/a") is not None
    if look:
        world.coordinator.observe()
    world.submit(gang(4, 4, 4, 4, name="b"))
    assert world.place("b").phase is Phase.READY
    world.restart()
    assert [*world.coordinator.gangs] == ["b"]
    assert world.coordinator.status("b").phase is Phase.READY
    world.check()


def test_a_map_whose_commit_failed_does_not_stay() -> None:
    world = World()
    assert isinstance(world.store, CrashingStore)
    world.submit(gang(4, name="g"))
    world.store.left, world.store.error = 1, Broken  # the map is written, the record is not
    with pytest.raises(Broken):
        world.place("g")
    assert world.store.keys("map/")
    world.coordinator.observe()
    assert not world.store.keys("map/")
    assert world.place("g").phase is Phase.READY
    assert len(world.store.keys("map/")) == 1


class DeafRay(FakeRay):
    """Does not answer when it is first asked to remove a placement group."""

    deaf = True

    def remove_group(self, group: str) -> None:
        if self.deaf:
            self.deaf = False
            raise RayDraError("Ray's control store did not answer.")
        super().remove_group(group)


@pytest.mark.parametrize("released", [False, True])
def test_a_group_that_a_gang_has_left_is_removed_when_ray_answers_again(released: bool) -> None:
    world = World()
    world.ray.__class__ = DeafRay
    status = world.submit(gang(4, name="g"))
    assert status.allocation is not None
    world.ray.start_task(world.raylet(status.allocation.bundles[0].node), 4)
    assert world.place("g").phase is Phase.PLACING
    with pytest.raises(RayDraError):
        world.pass_time(5)
    assert world.coordinator.status("g").moves == 1
    assert [group.state for group in world.ray.groups.values()] == ["PENDING"]
    if released:
        assert world.coordinator.release("g")
    else:
        world.pass_time(1)
    assert [group.state for group in world.ray.groups.values()] == ["REMOVED"]


class MortalRay(FakeRay):
    """The coordinator is killed when it is about to remove a placement group, or just has."""

    def __init__(self) -> None:
        super().__init__()
        self.before = self.after = False

    def remove_group(self, group: str) -> None:
        if self.before:
            self.before = False
            raise Crash
        super().remove_group(group)
        if self.after:
            self.after = False
            raise Crash


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("backend", ["raylets", "kubernetes"])
def test_killed_at_the_end_of_a_group_the_coordinator_goes_on_with_it(backend: str, when: str) -> None:
    """Between its record, which says that the gang is given back, and Ray; nobody asks again on Kubernetes."""
    world = World() if backend == "raylets" else kubernetes_world.World()
    world.ray.__class__ = MortalRay
    world.ray.__dict__ |= {"before": False, "after": False}
    if isinstance(world, World):
        name = world.submit(gang(4, name="g")).gang
        world.place(name)
    else:
        name = world.coordinator.submit(world.order()).gang
        assert world.drive(name) is Phase.READY
    setattr(world.ray, when, True)
    with pytest.raises(Crash):
        world.coordinator.release(name)
    world.restart()
    if isinstance(world, World):
        if when == "before":
            assert world.coordinator.status(name).phase is Phase.READY, "nothing had been said yet"
            world.coordinator.release(name)
        world.pass_time(3)
        world.check_empty()
    else:
        world.settle()


def done_twice(world: World | kubernetes_world.World, times: int) -> None:
    """Each action of the executor is done so often."""
    executor = world.coordinator.executor
    do = executor.do

    def repeated(action: Action, now: Moment) -> Event | None:
        for _ in range(times - 1):
            do(action, now)
        return do(action, now)

    executor.do = repeated  # type: ignore[method-assign]


def test_an_action_that_is_repeated_changes_nothing_more() -> None:
    found = []
    for times in (1, 2):
        world = World()
        world.coordinator._wall = lambda: 0.0
        done_twice(world, times)
        for name, sizes in (("a", (4, 4)), ("b", (2,)), ("c", (4, 4, 4)), ("d", (4,))):
            world.submit(gang(*sizes, name=name))
        world.place("a")
        world.ray.start_task("t2-0", 4)
        world.place("b")
        world.pass_time(10)
        world.coordinator.release("a")
        world.pass_time(5)
        world.check()
        states = {name: group.state for name, group in world.ray.groups.items()}
        found.append((dict(world.store.data), states, [world.coordinator.status(n) for n in world.coordinator.gangs]))
        assert len(states) > 1
    assert found[0] == found[1]


def test_an_action_that_is_repeated_on_kubernetes_changes_nothing_more() -> None:
    left = []
    for times in (1, 2):
        world = kubernetes_world.World()
        done_twice(world, times)
        name = world.coordinator.submit(world.order()).gang
        assert world.drive(name) is Phase.READY
        left.append((len(world.left()), world.coordinator.status(name).moves, sorted(world.kube.claimed())))
        world.coordinator.release(name)
        world.settle()
    assert left[0] == left[1]


def test_a_history_outlives_the_coordinator() -> None:
    world = World()
    world.submit(gang(4, 4, name="g"))
    world.place("g")
    world.report("t0", xids=(79,))
    world.pass_time(1)
    before = [change.to for change in world.coordinator.status("g").history]
    assert before == [Phase.HELD, Phase.PLACING, Phase.READY, Phase.DEGRADED]
    world.restart()
    after = [change.to for change in world.coordinator.status("g").history]
    assert after[:2] == before[:2], "what was only seen is stored with the next decision"
    assert after[-1] is Phase.DEGRADED, "and seen again"
    world.check()


LOCALITIES = [
    Locality(),
    *(Locality(cliques=n, exclusive=alone) for n in (1, 2) for alone in (False, True)),
    *(Locality(cliques=1, required=False, patience=patience) for patience in (0.0, 10.0)),
]


class Life(RuleBasedStateMachine):
    """Holds, commits, releases, kills and faults in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.count = 0
        self.phases: dict[str, Phase] = {}

    @rule(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        locality=st.sampled_from(LOCALITIES),
        priority=st.integers(0, 1),
        wait=st.booleans(),
        detached=st.booleans(),
    )
    def submit(self, sizes: list[int], locality: Locality, priority: int, wait: bool, detached: bool) -> None:
        self.count += 1
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

    @precondition(lambda self: self.gangs(Phase.PLACING, Phase.READY))
    @rule(data=st.data())
    def commit_by_another_copy(self, data: st.DataObject) -> None:
        """Of the handle, which made a placement group of its own at the same time; the first one stays."""
        name = data.draw(st.sampled_from(self.gangs(Phase.PLACING, Phase.READY)))
        before = self.world.coordinator.status(name)
        after = self.world.coordinator.commit(name, "f" * 36, before.moves)
        assert after.group == before.group
        assert after.phase == before.phase

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

    @precondition(lambda self: self.world.coordinator.gangs)
    @rule(data=st.data())
    def lose_record(self, data: st.DataObject) -> None:
        """A gang's record cannot be read any more; its placement group lives on."""
        lost = data.draw(st.sampled_from(list(self.world.coordinator.gangs)))
        before = {g: s.allocation for g, s in self.world.coordinator.gangs.items() if g != lost}
        self.world.store.data[f"gang/{lost}"] = data.draw(st.sampled_from([b"", b"?", b"{}", b'{"version":9}']))
        self.world.restart()
        assert f"gang/{lost}" in self.world.coordinator.aside.records
        after = self.world.coordinator.gangs
        assert all(after[g].allocation == a for g, a in before.items() if a is not None and g in after)

    @rule(seconds=st.sampled_from([3.0, 40.0]))
    def stop_coordinator(self, seconds: float) -> None:
        """It hears nobody meanwhile."""
        self.world.clock.now += seconds
        self.world.coordinator.observe()
        assert not [
            s.node.reason for s in self.world.coordinator.inventory.node_states.values() if "silent" in s.node.reason
        ]
        self.world.pass_time(0.5)

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
            held = self.world.coordinator.inventory.node_states[f"t{at}"].held
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
    def devices_of_lost_records_are_nobody_elses(self) -> None:
        maps = self.world.coordinator.foreign_work.unclaimed.values()
        theirs = {device[1] for bundles in maps for bundle in bundles for device in bundle}
        for held in self.world.coordinator.gangs.values():
            assert held.allocation is None or theirs.isdisjoint(g.uuid for g in held.allocation.grants)

    @invariant()
    def phases_change_as_allowed(self) -> None:
        now = {g: self.world.coordinator.status(g).phase for g in self.world.coordinator.gangs}
        for name, before in self.phases.items():
            after = now.get(name, Phase.GONE)
            steps = {before} | {to for was, to in ARROWS if was is before}
            reachable = steps | {to for was, to in ARROWS if was in steps}  # a rule may take two steps
            assert after in reachable, f"{name}: {before} -> {after}"
        self.phases = now

    def teardown(self) -> None:
        self.world.ray.tasks.clear()
        for group in self.world.coordinator.foreign_work.unclaimed:
            self.world.ray.remove_group(group)
        for unread in list(self.world.coordinator.aside.records.values()):
            self.world.coordinator.release(unread.key.removeprefix("gang/"))
        for name in list(self.world.coordinator.gangs):
            self.world.coordinator.release(name)
        for _ in range(3):
            self.world.pass_time()
        self.world.check_empty()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
