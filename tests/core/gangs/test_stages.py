"""Where the time of a gang goes on its way to readiness: every second is in one stage, and readiness ends it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.gangs.actions import Save, Timed
from ray_dra.core.gangs.events import Committed, GangObserved, NextTurn, ReleaseAsked, WorkersDue, WorkersProgressed
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.progress import STARTS, THERE, Progress
from ray_dra.core.gangs.stages import READY, StageTimes
from tests.core.gangs.world import World

NAMES = ("queued", "applied", "pods", "bound")


@given(st.lists(st.tuples(st.sampled_from([*NAMES, None]), st.integers(0, 9)), max_size=30), st.integers(0, 9))
def test_every_second_is_in_one_stage_and_readiness_ends_them(steps: list[tuple[str | None, int]], last: int) -> None:
    times, wall, began = StageTimes(), 0.0, None
    ends: dict[str, float] = {}
    for stage, seconds in [*steps, (READY, last)]:
        wall += seconds
        began = wall if began is None and stage is not None else began
        times, ended = times.entered(stage, wall)
        if ended is not None:
            ends[ended.stage] = ends.get(ended.stage, 0.0) + ended.seconds
    assert began is not None
    assert times.total == wall - began
    assert dict(times.spent) == ends
    for stage, _ in steps:
        assert times.entered(stage, wall + 100) == (times, None), "what comes after readiness is no way to it"


def test_a_clock_that_goes_back_makes_no_stage_shorter_than_nothing() -> None:
    times, _ = StageTimes().entered("pods", 10.0)
    times, ended = times.entered("bound", 5.0)
    assert (times.total, ended and ended.seconds) == (0.0, 0.0)


def spent(world: World, gang: str) -> dict[str, float]:
    return dict(world.gangs[gang].times.spent)


def timed(world: World) -> list[tuple[str, float]]:
    return [(action.ended.stage, action.ended.seconds) for action in world.done if isinstance(action, Timed)]


def test_a_gang_on_raylets_waits_for_its_turn_its_group_and_ray() -> None:
    world = World(nodes=1)
    world.submit(4, name="first")
    world.submit(4, name="second")
    world.now = 3.0
    world.act(ReleaseAsked("first"))
    world.act(GangObserved("first", Observed(group_state=None)))
    world.act(NextTurn())
    world.now = 3.5
    world.act(Committed("second", "0" * 36, 0))
    world.now = 4.75
    world.act(GangObserved("second", Observed(group_state="CREATED", placed_once=True)))
    assert spent(world, "second") == {"queued": 3.0, "grouped": 0.5, "placed": 1.25}
    assert timed(world)[-4:] == [("queued", 3.0), ("grouped", 0.5), ("placed", 1.25), (READY, 4.75)]
    world.now = 9.0
    world.act(GangObserved("second", Observed(group_state="PENDING", placed_once=True)))
    assert timed(world)[-1] == (READY, 4.75), "it was ready once"


@pytest.mark.parametrize("again", [False, True])
def test_a_gang_with_workers_of_its_own_goes_through_the_backends_stages(again: bool) -> None:
    """Also twice, where it is planned again; the record that the store has says what the one in memory says."""
    world = World(own_workers=True)
    world.submit(4, name="g")
    stages = ("applied", "pods", "bound", "prepared", "started", "verified")
    for at, stage in enumerate(stages, 1):
        world.now = float(at)
        world.act(WorkersProgressed("g", Progress(stage=stage)))
        world.act(GangObserved("g", Observed(provisioned=False)))
        if again and stage == "bound":
            world.act(WorkersProgressed("g", Progress(failed="a pod was lost")))
            world.act(GangObserved("g", Observed(provisioned=False)))
            assert world.gangs["g"].times.stage == "applied"
            assert world.gangs["g"].moves == 1
    world.now = 7.0
    world.act(WorkersProgressed("g", Progress(ready=True, stage="joined")))
    world.act(GangObserved("g", Observed()))
    world.now = 8.0
    moves = world.gangs["g"].moves
    world.act(Committed("g", "0" * 36, moves))
    (saved,) = [action.gang for action in world.done if isinstance(action, Save)][-1:]
    assert saved.times == world.gangs["g"].times
    world.now = 9.0
    world.act(WorkersProgressed("g", THERE))
    world.act(GangObserved("g", Observed(group_state="PENDING")))
    world.now = 10.0
    world.act(GangObserved("g", Observed(group_state="CREATED", placed_once=True)))
    wanted = {"applied": 2.0, "pods": 1.0, "bound": 1.0, "prepared": 1.0, "started": 1.0, "verified": 1.0}
    if again:
        wanted |= {"applied": 3.0, "bound": 0.0}
    assert spent(world, "g") == {**wanted, "grouped": 1.0, "joined": 1.0, "placed": 1.0}
    assert world.gangs["g"].times.total == 10.0


def test_a_gang_that_ends_before_it_is_ready_has_no_time_to_readiness() -> None:
    world = World(own_workers=True)
    world.submit(4, name="g")
    world.act(WorkersDue("g", Observed(provisioned=False)))
    world.act(ReleaseAsked("g"))
    assert READY not in dict(timed(world))
    assert STARTS.stage == ""
