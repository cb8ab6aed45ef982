"""Gangs whose placement group the coordinator makes with the plan, in one call of the program."""

from __future__ import annotations

import pytest

from ray_dra.core.gangs.gang import Maker
from ray_dra.errors import GangGone, InvalidRequest, UnsatisfiableError
from tests.coordinator.kills import Broken, MortalRay, SilentRay, failing_at_each_write, lived
from tests.core.machines import gang

from .world import Crash, Phase, World

ACTOR = "c" * 32


def group(number: int) -> str:
    return f"{number:036x}"


def ask(world: World, number: int, *sizes: int, **more: object) -> str:
    world.submit(gang(*sizes, name=group(number)), maker=Maker(ACTOR), **more)
    return group(number)


def states(world: World) -> dict[str, str]:
    return {name: found.state for name, found in world.ray.groups.items()}


def test_it_is_in_ray_when_the_call_is_answered() -> None:
    world = World()
    made = ask(world, 1, 4, 4)
    assert states(world) == {made: "CREATED"}
    assert world.coordinator.status(made).group == made
    assert world.store.keys("map/") == [f"map/{made}"]
    world.pass_time(1)
    assert world.coordinator.status(made).phase is Phase.READY
    world.check()
    assert world.coordinator.commit(made, "f" * 36, 0).group == made, "nobody else makes one"
    world.coordinator.release(made)
    world.pass_time(3)
    world.check_empty()


def test_of_one_that_waits_the_program_makes_the_group_in_its_turn() -> None:
    """Until then its actor may be gone, which Ray would not see."""
    world = World()
    first = ask(world, 1, 4, 4, 4, 4)
    waits = ask(world, 2, 4)
    world.coordinator.release(first)
    world.pass_time(3)
    status = world.coordinator.status(waits)
    assert (status.phase, status.group) == (Phase.HELD, None)
    assert world.place(waits).phase is Phase.READY


def test_that_of_the_next_plan_is_the_programs() -> None:
    world = World()
    for name in world.names[:2]:
        world.ray.start_task(world.raylet(name), 4)  # of which nobody knows yet
    made = ask(world, 1, 4)
    if states(world)[made] == "CREATED":
        pytest.fail("the place is free")
    world.pass_time(6)
    status = world.coordinator.status(made)
    assert (status.moves, status.group) == (1, None)
    assert states(world)[made] == "REMOVED"
    assert world.place(made).phase is Phase.READY
    world.coordinator.release(made)
    world.pass_time(3)
    world.check_empty()


def test_a_name_that_ray_has_given_away_is_a_no_and_nothing_is_held() -> None:
    world = World()
    theirs = world.ray.create_group([{"CPU": 1.0}], [{}], "job")
    world.ray.groups[theirs].name = "train"
    with pytest.raises(UnsatisfiableError, match="already exists"):
        ask(world, 7, 4, name="train")
    world.ray.remove_group(theirs)
    world.pass_time(3)
    world.check_empty()


@pytest.mark.parametrize("took", [False, True])
@pytest.mark.parametrize("released", [False, True])
def test_where_ray_is_silent_it_is_told_again(took: bool, released: bool) -> None:
    world = World()
    world.ray.__class__ = SilentRay
    world.ray.took = took  # type: ignore[attr-defined]
    made = ask(world, 1, 4)
    world.ray.silent = False  # type: ignore[attr-defined]
    if released:
        world.coordinator.release(made)
        world.pass_time(3)
        assert set(states(world).values()) <= {"REMOVED"}, "not even one that Ray takes late"
        world.check_empty()
        return
    world.pass_time(4)
    assert states(world) == {made: "CREATED"}
    assert world.coordinator.status(made).phase is Phase.READY


def life(world: World) -> None:
    """Every step may be repeated after a kill."""
    for number, sizes in ((1, (4, 4)), (2, (2, 2)), (3, (4,)), (4, (4, 4))):
        try:
            ask(world, number, *sizes)
        except GangGone:
            pass
    world.pass_time()
    for number in (1, 2, 3, 4):
        world.coordinator.release(group(number))
        world.pass_time()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("broken", [False, True])
def test_killed_or_failed_at_every_write_nothing_is_lost_or_given_twice(after: bool, broken: bool) -> None:
    for world in failing_at_each_write(life, after=after, error=Broken if broken else Crash):
        lived(world, life, **({"back": lambda world: world.coordinator.observe()} if broken else {}))
        world.check()
        world.pass_time(40)
        world.check_empty()
        assert set(states(world).values()) <= {"REMOVED"}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_when_ray_makes_or_removes_a_group_the_next_one_goes_on(after: bool) -> None:
    for thing in range(5):
        world = World()
        world.ray.__class__ = MortalRay
        world.ray.die_at(thing, after=after)  # type: ignore[attr-defined]
        lived(world, life)
        world.check()
        world.pass_time(40)
        world.check_empty()
        assert set(states(world).values()) <= {"REMOVED"}


def test_a_coordinator_that_was_killed_before_ray_heard_of_it_tells_it() -> None:
    world = World()
    world.ray.__class__ = MortalRay
    world.ray.die_at(0, after=False)  # type: ignore[attr-defined]
    with pytest.raises(Crash):
        ask(world, 1, 4)
    assert not states(world)
    world.restart()
    assert ask(world, 1, 4) == group(1), "Ray's actor calls are sent again"
    world.pass_time(4)
    assert states(world) == {group(1): "CREATED"}
    assert world.coordinator.status(group(1)).phase is Phase.READY


@pytest.mark.parametrize("maker", [7, Maker("no actor"), Maker(ACTOR, outlives_job=1)])  # type: ignore[arg-type]
def test_whoever_cannot_make_one_is_refused(maker: object) -> None:
    with pytest.raises(InvalidRequest):
        World().submit(gang(4, name=group(1)), maker=maker)


def test_a_gang_without_a_groups_id_has_no_maker() -> None:
    with pytest.raises(InvalidRequest):
        World().submit(gang(4, name="g"), maker=Maker())
