"""Guesses from earlier runs: of the same name up to its number and as many GPUs, that became ready and ended by
themselves."""

from __future__ import annotations

import pytest

from ray_dra.core.gangs import past_runs
from ray_dra.core.gangs.events import Committed, GangObserved, ReleaseAsked, Submitted
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.order import Order
from tests.core.gangs.world import World
from tests.core.machines import gang, group_id

RUNNING = Observed(group_state="CREATED", placed_once=True)


def submit(world: World, name: str, *, gpus: int = 4, runs_for: float | None = None, namespace: str = "") -> str:
    """The id of a gang of this name."""
    found = f"id{len(world.done)}"
    world.act(Submitted(Order(gang(gpus, name=found), name=name, namespace=namespace, runs_for=runs_for)))
    return found


def run(world: World, name: str, seconds: float, *, ready: bool = True, gpus: int = 4) -> None:
    """A gang that runs for so long."""
    found = submit(world, name, gpus=gpus)
    world.act(Committed(found, group_id(found), 0))
    if ready:
        world.act(GangObserved(found, RUNNING))
    world.now += seconds
    world.act(ReleaseAsked(found))
    world.act(GangObserved(found, Observed(group_state="REMOVED", undone=True)))
    assert found not in world.gangs


def guess(world: World, name: str, **more: int) -> float | None:
    found = submit(world, name, **more)  # type: ignore[arg-type]
    said = world.gangs[found].runs_for
    world.act(ReleaseAsked(found))
    return said


def test_the_longest_of_the_last_runs_of_its_name_is_the_guess() -> None:
    world = World()
    assert guess(world, "train-1") is None
    for number, seconds in enumerate((500.0, 100.0, 50.0)):
        run(world, f"train-{number}", seconds)
    assert guess(world, "train-17") == 500.0
    run(world, "train", 20.0)
    assert guess(world, "train-18") == 100.0, "of the last three"
    for other in ("eval-1", "trainer-1", "train-x", "", "7"):
        assert guess(world, other) is None, other
    assert guess(world, "train-2", gpus=2) is None
    found = submit(world, "train-3", runs_for=7.0)
    assert world.gangs[found].runs_for == 7.0, "its program knows better"
    assert world.gangs[submit(world, "train-4", namespace="other")].runs_for is None


def test_a_run_that_never_was_ready_teaches_nothing() -> None:
    world = World()
    run(world, "train-1", 500.0, ready=False)
    assert guess(world, "train-2") is None


def test_a_guess_that_was_learnt_lets_a_gang_overtake_and_can_be_off() -> None:
    for learn in (True, False):
        world = World(nodes=3, learn=learn)
        run(world, "short-1", 10.0)
        long = submit(world, "long", runs_for=100.0)
        world.submit(4, 4, 4, name="big")
        short = submit(world, "short-2")
        assert world.gangs[long].allocation is not None
        world.serve()
        assert (world.gangs[short].allocation is not None) is learn


def test_so_many_names_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_runs, "MOST_NAMES", 2)
    world = World()
    for name in ("a", "b", "a", "c"):
        run(world, name, 5.0)
    assert [guess(world, name) for name in ("a", "b", "c")] == [5.0, None, 5.0]
