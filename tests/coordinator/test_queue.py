"""The queue, over fake ports: who is served when, and how long a gang waits for what it prefers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from ray_dra.coordinator.gang_store import GangStore
from ray_dra.core.gangs.gang import Gang, OrdinaryGroup
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import ShortfallKind
from ray_dra.errors import InvalidRequest, UnsatisfiableError
from tests.coordinator.kills import Broken
from tests.core.machines import gang

from .world import CrashingStore, Phase, World

NEAR = Locality(cliques=1, required=False, patience=60.0)


@pytest.fixture
def world() -> World:
    return World()


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
    assert caught.value.shortfalls[0].kind in (ShortfallKind.QUEUE, ShortfallKind.DEVICES)
    world.coordinator.release("all")
    phases = {n: world.coordinator.status(n).phase for n in ("big", "small", "urgent")}
    assert phases == {"big": Phase.QUEUED, "small": Phase.QUEUED, "urgent": Phase.HELD}, "nobody overtakes"
    world.coordinator.release("urgent")
    assert world.coordinator.status("big").phase is Phase.HELD
    assert world.coordinator.status("small").phase is Phase.QUEUED


def test_a_gang_that_waits_for_its_turn_says_who_comes_first_now(world: World) -> None:
    """Who was first when it came may be long gone, and a coordinator that has started again plans only the first."""
    world.submit(gang(*[4] * 4, name="all"))
    for name in ("first", "second", "third"):
        world.submit(gang(*[4] * 4, name=name))

    def before(name: str) -> str:
        (turn,) = (each for each in world.coordinator.status(name).waits_for if each.kind is ShortfallKind.QUEUE)
        return str(turn)

    assert "2 ahead, first first" in before("third")
    world.coordinator.release("all")
    assert world.coordinator.status("first").phase is Phase.HELD
    assert "1 ahead, first second" in before("third")
    world.restart()
    assert "1 ahead, first second" in before("third")
    assert ShortfallKind.QUEUE not in {each.kind for each in world.coordinator.status("second").waits_for}


def test_a_small_gang_that_says_how_long_it_runs_passes_a_big_one(world: World) -> None:
    """Also after a restart: the guesses are in the records."""
    world.submit(gang(4, 4, name="running"), runs_for=3600.0)
    world.place("running")
    world.submit(gang(*[4] * 4, name="big"))
    world.submit(gang(2, name="silent"))
    world.submit(gang(2, name="long"), runs_for=7200.0)
    world.submit(gang(2, name="short"), runs_for=60.0)
    world.pass_time(1)
    phases = {name: world.coordinator.status(name).phase for name in ("big", "silent", "long", "short")}
    assert phases == {
        "big": Phase.QUEUED,
        "silent": Phase.QUEUED,
        "long": Phase.QUEUED,
        "short": Phase.HELD,
    }
    first, hint = (world.coordinator.status(name).standing for name in ("big", "silent"))
    assert first is not None
    assert hint is not None
    assert first.starts == world.coordinator.records.gangs["running"].ends
    assert (hint.ahead, hint.starts, hint.guessed) == (1, None, False)
    world.place("short")
    world.submit(gang(2, name="shorter"), runs_for=30.0, wait=True)
    world.restart()
    for name in world.names:
        world.report(name)
    world.pass_time(1)
    assert world.coordinator.status("shorter").phase is Phase.HELD
    for name in ("short", "shorter", "running"):
        world.coordinator.release(name)
    world.pass_time(1)
    assert world.coordinator.status("big").phase is Phase.HELD
    world.check()


@pytest.fixture
def halves(world: World) -> World:
    """One of two trays is taken in each rack."""
    for name, size in (("a", 4), ("filler", 4), ("b", 4)):
        world.submit(gang(size, name=name))
        world.place(name)
    world.coordinator.release("filler")
    world.pass_time(1)
    free = {s.name for s in world.coordinator.inventory.node_states.values() if s.free}
    assert free == {"t1", "t3"}
    return world


def test_a_gang_waits_for_one_clique_and_then_takes_what_there_is(halves: World) -> None:
    status = halves.submit(gang(4, 4, name="g", locality=NEAR))
    assert status.phase is Phase.QUEUED
    assert [s.kind for s in status.waits_for] == [ShortfallKind.CLIQUE, ShortfallKind.PATIENCE]
    halves.submit(gang(1, name="behind"))
    halves.pass_time(59)
    assert halves.coordinator.status("g").phase is Phase.QUEUED
    assert halves.coordinator.status("g").waits_for[-1].available == 59
    assert halves.coordinator.status("behind").phase is Phase.QUEUED, "nobody overtakes"
    halves.pass_time(1)
    allocation = halves.coordinator.status("g").allocation
    assert allocation is not None
    assert allocation.nodes == ("t1", "t3")
    halves.check()


def test_what_a_gang_waits_for_is_taken_as_soon_as_it_is_there(halves: World) -> None:
    halves.submit(gang(4, 4, name="g", locality=NEAR))
    halves.pass_time(30)
    halves.coordinator.release("b")
    halves.pass_time(1)
    allocation = halves.coordinator.status("g").allocation
    assert allocation is not None
    assert len(set(allocation.cliques)) == 1


def test_patience_counts_from_when_the_gang_could_start(halves: World) -> None:
    halves.submit(gang(1, name="first"))
    halves.place("first")
    halves.submit(gang(4, 4, name="g", locality=NEAR))
    halves.pass_time(100)
    assert halves.coordinator.status("g").waits_for[-1].kind is not ShortfallKind.PATIENCE, (
        "there are no devices for it at all"
    )
    halves.coordinator.release("first")
    halves.pass_time(1)
    assert halves.coordinator.status("g").waits_for[-1].kind is ShortfallKind.PATIENCE
    halves.pass_time(61)
    assert halves.coordinator.status("g").phase is Phase.HELD


def test_who_does_not_wait_does_not_wait_for_that_either(halves: World) -> None:
    status = halves.submit(gang(4, 4, name="g", locality=NEAR), wait=False)
    assert status.phase is Phase.HELD


def test_what_no_clique_could_ever_hold_is_not_waited_for(world: World) -> None:
    assert world.submit(gang(4, 4, 4, name="g", locality=NEAR)).phase is Phase.HELD


def test_a_restarted_coordinator_is_patient_anew_and_not_for_ever(halves: World) -> None:
    halves.submit(gang(4, 4, name="g", locality=NEAR))
    halves.pass_time(50)
    halves.restart()
    for name in halves.names:
        halves.report(name)
    halves.pass_time(20)
    assert halves.coordinator.status("g").phase is Phase.QUEUED
    halves.pass_time(61)
    assert halves.coordinator.status("g").phase is Phase.HELD


@pytest.mark.parametrize("ordinary", [False, True], ids=["gang", "ordinary placement group"])
def test_a_gang_that_cannot_be_planned_leaves_the_queue_to_those_behind_it(
    world: World, monkeypatch: pytest.MonkeyPatch, ordinary: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours, which each look would meet again."""
    world.submit(gang(*[4] * 4, name="all"))
    poisoned = gang(2, name="poisoned")
    if ordinary:
        poisoned = replace(poisoned, gang="ab" * 18)
    world.submit(poisoned, ordinary=OrdinaryGroup(poisoned.gang) if ordinary else None)
    world.submit(gang(4, name="behind"))
    plan = world.coordinator.engine.planning.plan

    def faulty(request: GangRequest, *more: object, **named: object) -> object:
        if request.gang == poisoned.gang:
            raise KeyError("a fault")
        return plan(request, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(world.coordinator.engine.planning, "plan", faulty)
    world.coordinator.release("all")
    world.pass_time()
    world.pass_time()
    assert world.coordinator.status("behind").phase is Phase.HELD
    assert poisoned.gang not in world.coordinator.gangs
    with pytest.raises(UnsatisfiableError, match="KeyError: 'a fault'"):
        world.coordinator.status(poisoned.gang)
    assert "a fault" in caplog.text
    assert not ordinary or world.ray.groups[poisoned.gang].state == "REMOVED", "whoever waits for it hears of it"


def test_a_gang_whose_devices_cannot_be_recorded_leaves_the_queue_to_those_behind_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.submit(gang(*[4] * 4, name="all"))
    world.submit(gang(2, name="poisoned"))
    world.submit(gang(4, name="behind"))
    save = GangStore.save

    def choosy(self: GangStore, gang: Gang) -> None:
        if gang.id == "poisoned" and gang.allocation is not None:
            raise InvalidRequest("The gang cannot be recorded.")
        save(self, gang)

    monkeypatch.setattr(GangStore, "save", choosy)
    world.coordinator.release("all")
    world.pass_time()
    assert world.coordinator.status("behind").phase is Phase.HELD
    with pytest.raises(UnsatisfiableError, match="cannot be recorded"):
        world.coordinator.status("poisoned")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_gang_whose_turn_met_a_store_that_fails_has_its_turn_again(after: bool) -> None:
    """At any write on the way: that is no fault of the gang's, nor the same at each look."""
    at, met = 0, True
    while met:
        world = World()
        assert isinstance(world.store, CrashingStore)
        world.submit(gang(*[4] * 4, name="all"))
        world.submit(gang(4, name="g"))
        world.store.left, world.store.after, world.store.error = at, after, Broken
        for _ in range(4):
            with suppress(Broken):
                world.coordinator.release("all")
                world.pass_time(1)
        assert world.coordinator.status("g").phase is Phase.HELD, at
        at, met = at + 1, world.store.left is None
    assert at > 3


def test_it_is_told_when_a_gang_should_start(world: World) -> None:
    """Of one that waits, and of one that would come now; nothing is held for it, and nothing else of it is known."""
    began = world.coordinator._wall()
    world.submit(gang(*[4] * 4, name="all"), runs_for=100.0)
    world.submit(gang(4, name="waits"), runs_for=50.0)
    told = world.coordinator.expected("waits")
    assert told is not None
    assert told.starts is not None
    assert told.starts == pytest.approx(began + 100.0, abs=60.0)
    assert told.after == ("all",)
    comes = world.coordinator.when(gang(*[4] * 4, name="all"), 10.0)
    assert comes.starts == pytest.approx(told.starts + 50.0, abs=1e-6)
    assert (comes.ahead, comes.guessed) == (1, True)
    assert world.coordinator.expected("all") is None, "it runs"
    assert list(world.coordinator.gangs) == ["all", "waits"]
    for bad in (0.0, float("nan"), "10"):
        with pytest.raises(InvalidRequest, match="runs_for"):
            world.coordinator.when(gang(1), bad)  # type: ignore[arg-type]
