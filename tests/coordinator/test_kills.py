"""The coordinator killed, or failed by the store or by Ray, at each single step; and each step done twice."""

from __future__ import annotations

import contextlib

import pytest

from ray_dra.core.gangs.actions import Action
from ray_dra.core.gangs.events import Event, Moment
from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.model.locality import Locality
from ray_dra.errors import RayDraError
from ray_dra.simulated.fakes import FakeRay
from tests.coordinator import kubernetes_world
from tests.coordinator.kills import Broken, MortalRay, failing_at_each_write, lived
from tests.core.machines import gang

from .world import Crash, CrashingStore, Phase, World


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


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_write_nothing_is_lost_or_given_twice(after: bool) -> None:
    """Kill the coordinator before and after each of its writes, bring it back, and go on."""
    for world in failing_at_each_write(script, after=after):
        lived(world, script)
        world.check()
        end(world)
        assert world.coordinator.inventory.free_devices >= 15


def overtaken(world: World) -> None:
    """A life in which a gang starts before its turn."""
    world.submit(gang(4, 4, name="a"), runs_for=3600.0)
    world.submit(gang(*[4] * 4, name="c"), runs_for=3600.0)
    world.submit(gang(2, name="b"), runs_for=60.0)
    world.pass_time(2)
    for name in ("a", "b"):
        status = world.coordinator.status(name)
        if status.allocation is not None and status.group is None:
            world.place(name)
    world.coordinator.release("b")
    world.coordinator.release("a")
    world.pass_time()
    status = world.coordinator.status("c")
    if status.allocation is not None and status.group is None:
        world.place("c")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_write_while_a_gang_overtakes(after: bool) -> None:
    """The guess and the end that follows from it are in the record: who comes back sees the same queue."""
    for world in failing_at_each_write(overtaken, after=after):
        lived(world, overtaken)
        world.check()
        found = world.coordinator.gangs["c"]
        assert found.allocation is not None
        assert found.ends is not None
        before = {name: (each.runs_for, each.ends) for name, each in world.coordinator.records.gangs.items()}
        world.restart()
        assert {name: (each.runs_for, each.ends) for name, each in world.coordinator.records.gangs.items()} == before
        end(world)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_where_a_write_fails_store_and_memory_say_the_same_from_the_next_look_on(after: bool) -> None:
    for world in failing_at_each_write(script, after=after, error=Broken):
        lived(world, script, back=lambda world: world.coordinator.observe())
        before = {name: gang.allocation for name, gang in world.coordinator.gangs.items()}
        world.restart()
        assert not world.coordinator.aside.records
        assert {name: gang.allocation for name, gang in world.coordinator.gangs.items()} == before
        end(world)


def end(world: World) -> None:
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


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_store_that_fails_in_a_gangs_turn_costs_nobody_its_place_in_the_queue(at: int, after: bool) -> None:
    """An ordinary placement group was asked again only when the inventory changed."""
    world = World()
    assert isinstance(world.store, CrashingStore)
    world.submit(gang(4, 4, 4, 4, name="first"))
    world.place("first")
    world.submit(gang(4, name="second"))
    ordinary = f"{3:036x}"
    world.submit(gang(4, name=ordinary), ordinary=OrdinaryGroup(ordinary))
    world.store.left, world.store.after, world.store.error = at, after, Broken
    for _ in range(3):
        with contextlib.suppress(Broken):
            world.coordinator.release("first")
            world.pass_time(3)
    assert world.coordinator.status("second").phase is Phase.HELD
    assert world.coordinator.status(ordinary).phase is Phase.READY
    world.check()


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


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("backend", ["raylets", "kubernetes"])
def test_killed_at_the_end_of_a_group_the_coordinator_goes_on_with_it(backend: str, when: str) -> None:
    """Between its record, which says that the gang is given back, and Ray; nobody asks again on Kubernetes."""
    world = World() if backend == "raylets" else kubernetes_world.World()
    world.ray.__class__ = MortalRay
    assert isinstance(world.ray, MortalRay)
    if isinstance(world, World):
        name = world.submit(gang(4, name="g")).gang
        world.place(name)
    else:
        name = world.coordinator.submit(world.order()).gang
        assert world.drive(name) is Phase.READY
    world.ray.die_at(0, after=when == "after")
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
