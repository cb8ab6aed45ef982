"""The engine alone: events in, actions out, and no record changed until the store has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ray_dra.core.gangs.actions import Action, Drop, EndWorkers, MakeWorkers, Note, RemoveGroup, Save, Timed, WriteMap
from ray_dra.core.gangs.events import (
    Committed,
    DevicesTaken,
    Event,
    GangObserved,
    JobsSeen,
    NextTurn,
    ReleaseAsked,
    Submitted,
    WorkersDue,
    WorkersLeft,
    WorkersProgressed,
)
from ray_dra.core.gangs.gang import MOST_CHANGES, Gang
from ray_dra.core.gangs.lifecycle import MOST_MOVES, Observed
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.progress import STARTS, THERE, Progress
from ray_dra.errors import InvalidRequest, NameTaken, UnsatisfiableError
from tests.core.gangs.world import World
from tests.core.machines import gang, group_id


def kinds(actions: Iterable[Action]) -> list[type]:
    return [type(action) for action in actions]


def test_a_decision_changes_no_record() -> None:
    """Until the store has it; so a store that fails leaves everything as it was."""
    world = World()
    world.submit(4, name="held")
    before, free = dict(world.gangs), world.inventory.free_devices
    events: Sequence[Event] = [
        Submitted(Order(gang(4, name="new"))),
        Submitted(Order(gang(4, 4, name="waits"))),
        Committed("held", group_id("group"), 0),
        ReleaseAsked("held"),
        DevicesTaken("held", Observed()),
        WorkersProgressed("held", Progress(failed="no node")),
    ]
    for event in events:
        actions = world.decide(event)
        assert any(isinstance(action, Save | Drop | EndWorkers) for action in actions), event
        assert world.gangs == before, event
        assert world.inventory.free_devices == free, event
        assert world.inventory.allocation("held") == before["held"].allocation
        world.engine.validate()


def test_the_store_comes_before_the_world() -> None:
    world = World(own_workers=True)
    world.submit(4, name="g")
    committed = world.act(Committed("g", group_id("group"), 0))
    assert kinds(committed)[:2] == [WriteMap, Save], "workers find the map as soon as there is a record of the group"
    actions = world.decide(ReleaseAsked("g"))
    assert kinds(actions).index(Save) < kinds(actions).index(RemoveGroup) < kinds(actions).index(EndWorkers)
    moved = world.decide(WorkersProgressed("g", Progress(failed="no node")))
    assert kinds(moved).index(Save) < kinds(moved).index(RemoveGroup)


@pytest.mark.parametrize(
    "event",
    [
        Committed("none", group_id("group"), 0),
        ReleaseAsked("none"),
        WorkersDue("none", Observed()),
        WorkersProgressed("none", THERE),
        GangObserved("none", Observed()),
        WorkersLeft("none", False, True, ""),
        DevicesTaken("none", Observed()),
        NextTurn(),
        JobsSeen(()),
    ],
)
def test_what_is_said_of_a_gang_that_is_not_there_is_nothing(event: Event) -> None:
    assert World().decide(event) == []


@pytest.mark.parametrize("group", ["", "group", group_id("g")[1:], group_id("jkl").upper(), 7, None])
def test_what_is_no_id_of_a_placement_group_is_refused(group: Any) -> None:
    """Ray could not remove it again."""
    world = World()
    world.submit(4, name="g")
    with pytest.raises(InvalidRequest, match="no id of a placement group"):
        world.act(Committed("g", group, 0))
    assert world.gangs["g"].group is None


@pytest.mark.parametrize(("said", "kept"), [(299, 299), (300, 300), (301, 300), (10_000, 300)])
def test_a_reason_that_is_long_is_kept_short(said: int, kept: int) -> None:
    world = World(own_workers=True)
    world.submit(4, name="g")
    world.act(WorkersProgressed("g", Progress(failed="x" * said, final=True)))
    history = next(action.gang.history for action in world.done[::-1] if isinstance(action, Save))
    assert len(history[-1].why) == kept
    assert history[-1].why.endswith("...") is (said > kept)


def test_the_same_said_twice_is_decided_once() -> None:
    world = World()
    assert world.act(Submitted(Order(gang(4, name="g"))))
    assert world.act(Submitted(Order(gang(4, name="g")))) == []
    assert world.act(Committed("g", group_id("group"), 0))
    assert world.act(Committed("g", group_id("group"), 0)) == []
    assert world.act(Committed("g", group_id("other"), 0)) == []
    assert world.gangs["g"].group == group_id("group")


def test_admission_refuses_with_the_reason_and_holds_nothing() -> None:
    world = World()
    world.submit(4, name="a", namespace="x", wait=True)
    with pytest.raises(UnsatisfiableError, match="even if nobody else"):
        world.submit(4, 4, 4, name="large")
    world.act(Submitted(Order(gang(1, name="b"), name="train")))
    with pytest.raises(NameTaken):
        world.act(Submitted(Order(gang(1, name="c"), name="train")))
    assert world.act(Submitted(Order(gang(4, 4, name="now"), wait=False))) == [], "the world is looked at again first"
    with pytest.raises(UnsatisfiableError, match="does not fit now"):
        world.act(Submitted(Order(gang(4, 4, name="now"), wait=False), looked=True))
    assert set(world.gangs) == {"a", "b"}


def test_a_gang_that_gets_no_workers_is_tried_so_often_and_then_given_up() -> None:
    world = World(own_workers=True)
    world.submit(4, name="g")
    for tries in range(MOST_MOVES):
        assert MakeWorkers("g") in world.act(WorkersDue("g", Observed(provisioned=False)))
        world.act(WorkersProgressed("g", Progress(failed=f"node {tries} is lost")))
        assert world.gangs["g"].moves == tries + 1
    world.act(WorkersProgressed("g", Progress(failed="another gang came first", gave_way=True)))
    assert world.gangs["g"].moves == MOST_MOVES + 1, "to give way costs no try"
    world.act(WorkersProgressed("g", Progress(failed="the last node is lost")))
    assert "g" not in world.gangs
    *_, last = (action.gang for action in world.done if isinstance(action, Save))
    assert last.failed == "the last node is lost"
    assert (last.moves, last.gave_way) == (MOST_MOVES + 1, 1)


def test_to_give_way_costs_no_try_where_ray_does_not_place_the_gang_either() -> None:
    world = World(own_workers=True)
    world.submit(4, name="g")
    late = Observed(group_state="PENDING", held_for=30.0)
    for _ in range(MOST_MOVES):
        world.act(WorkersProgressed("g", Progress(failed="another gang came first", gave_way=True)))
    for moves in range(MOST_MOVES, 2 * MOST_MOVES):
        assert world.gangs["g"].moves == moves
        world.act(Committed("g", group_id(f"group-{moves}"), moves))
        world.act(GangObserved("g", late))
    world.act(Committed("g", group_id("last"), 2 * MOST_MOVES))
    world.act(GangObserved("g", late))
    assert "g" not in world.gangs, "its own tries are used up"


def test_workers_are_made_until_ray_has_placed_the_gang_and_not_for_one_that_ends() -> None:
    world = World(own_workers=True)
    world.submit(4, name="g")
    world.act(Committed("g", group_id("group"), 0))
    for seen, made in (
        (Observed(group_state="PENDING"), True),
        (Observed(group_state=None), True),
        (Observed(group_state="CREATED", placed_once=True), False),
        (Observed(group_state="RESCHEDULING", placed_once=True), False),
        (Observed(group_state="ABSENT"), False),
    ):
        assert (MakeWorkers("g") in world.act(WorkersDue("g", seen))) == made, seen


@pytest.mark.parametrize("own_workers", [False, True])
def test_a_gang_that_runs_is_not_planned_again_whoever_says_that_he_has_a_device_of_it(own_workers: bool) -> None:
    world = World(own_workers=own_workers)
    world.submit(4, name="g")
    world.act(Committed("g", group_id("group"), 0))
    before = world.gangs["g"]
    running = Observed(group_state="CREATED", placed_once=True)
    assert kinds(world.act(DevicesTaken("g", running))) == [Note, Timed, Timed]
    assert replace(world.gangs["g"], history=(), times=before.times) == replace(before, history=())
    world.act(DevicesTaken("g", replace(running, group_state="RESCHEDULING")))
    assert world.gangs["g"].moves == 1


def test_a_gang_that_ray_does_not_place_stays_where_nothing_else_is_free() -> None:
    world = World(nodes=1)
    world.submit(4, name="g")
    world.act(Committed("g", group_id("group"), 0))
    before, world.now = world.gangs["g"], 10.0
    late = Observed(group_state="PENDING", held_for=10.0)
    assert not any(isinstance(action, Save) for action in world.act(GangObserved("g", late)))
    assert world.gangs["g"] == before
    assert world.engine.records.notes["g"].since == 10.0, "and Ray has as much time again"


def test_a_gang_that_ray_does_not_place_for_others_work_gives_up_what_ray_does_not_give() -> None:
    world = World(nodes=1)
    world.submit(4, name="g")
    world.act(Committed("g", group_id("group"), 0))
    world.inventory.set_others("a-t0", 0b0001, {})
    late = Observed(group_state="PENDING", held_for=10.0)
    world.act(GangObserved("g", late))
    assert world.gangs["g"].waits
    assert world.inventory.held_devices == 0
    assert RemoveGroup(group_id("group")) in world.done
    assert world.engine.records.notes["g"].refused
    world.inventory.set_others("a-t0", 0, {})
    world.act(NextTurn())
    assert world.gangs["g"].allocation is not None


def test_a_step_of_the_workers_starts_their_time_anew_and_a_move_everything() -> None:
    world = World(own_workers=True)
    world.submit(4, name="g")
    notes = world.engine.records.notes["g"]
    for now, progress, since in (
        (1.0, STARTS, 0.0),
        (2.0, Progress(ready=True), 2.0),
        (3.0, Progress(ready=True), 2.0),
    ):
        world.now = now
        world.act(WorkersProgressed("g", progress))
        assert (notes.progress, notes.since) == (progress, since)
    world.now = 4.0
    world.act(WorkersProgressed("g", Progress(ready=True, failed="a node is lost")))
    assert world.gangs["g"].moves == 1
    assert (notes.progress, notes.since) == (STARTS, 4.0)


def test_what_is_given_back_is_not_planned_again() -> None:
    world = World(own_workers=True)
    world.submit(4, name="g")
    world.busy.add("g")
    world.act(ReleaseAsked("g"))
    assert world.gangs["g"].releasing
    assert world.decide(DevicesTaken("g", Observed())) == []


def test_a_history_says_when_what_and_why() -> None:
    world = World()
    world.submit(4, 4, name="all")
    world.now = 1.0
    world.submit(4, name="g")
    world.now = 2.0
    world.act(ReleaseAsked("all"))
    world.act(NextTurn())
    world.act(Committed("g", group_id("group"), 0))
    world.now = 3.0
    world.act(GangObserved("g", Observed(group_state="CREATED")))
    world.act(GangObserved("g", Observed(group_state="CREATED", lost=("node a-t0 is gone",))))
    world.now = 4.0
    world.act(GangObserved("g", Observed(group_state="CREATED")))
    found = [(c.at, c.was, c.to) for c in world.gangs["g"].history]
    assert found == [
        (1.0, None, Phase.QUEUED),
        (2.0, Phase.QUEUED, Phase.HELD),
        (2.0, Phase.HELD, Phase.PLACING),
        (3.0, Phase.PLACING, Phase.READY),
        (3.0, Phase.READY, Phase.DEGRADED),
        (4.0, Phase.DEGRADED, Phase.READY),
    ]
    whys = [c.why for c in world.gangs["g"].history]
    assert whys[0].startswith("submitted; waits for ")
    assert whys[-2] == "node a-t0 is gone"
    assert whys[-1] == "what was lost is back"


def test_a_history_stays_short() -> None:
    world = World()
    world.submit(4, name="g")
    world.act(Committed("g", group_id("group"), 0))
    for turn in range(100):
        lost = ("x" * 10_000,) if turn % 2 else ()
        world.act(GangObserved("g", Observed(group_state="CREATED", lost=lost)))
    history = world.gangs["g"].history
    assert len(history) == MOST_CHANGES
    assert history[-1].to is Phase.DEGRADED
    assert sum(len(change.why) for change in history) < 10_000


def test_the_end_of_a_gang_tells_why_it_was_given_back() -> None:
    """Also of one that a coordinator found in the store, from before there were histories."""
    world = World()
    world.submit(4, name="g")
    world.busy.add("g")
    world.act(ReleaseAsked("g"))
    assert world.gangs["g"].releasing
    (drop,) = (a for a in world.act(GangObserved("g", Observed())) if isinstance(a, Drop))
    assert drop.why == "released"
    old = World()
    old.engine.records.restore(Gang(gang(4, name="old"), 1, releasing=True), 0.0)
    noted = old.decide(GangObserved("old", Observed()))
    assert [a.why for a in noted if isinstance(a, Drop)] == ["found in the store"]
