"""The engine alone: events in, actions out, and no record changed until the store has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.actions import Action, Drop, EndWorkers, MakeWorkers, Note, Refuse, RemoveGroup, Save, WriteMap
from ray_dra.core.gangs.engine import Engine
from ray_dra.core.gangs.events import (
    Committed,
    DevicesTaken,
    Event,
    GangObserved,
    JobsSeen,
    Moment,
    NextTurn,
    ReleaseAsked,
    Submitted,
    WorkersDue,
    WorkersLeft,
    WorkersProgressed,
)
from ray_dra.core.gangs.lifecycle import HOLD_SECONDS, MOST_CHANGES, MOST_MOVES, Gang, Observed, Phase, phase
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.progress import STARTS, THERE, Progress
from ray_dra.errors import InvalidRequest, NameTaken, UnsatisfiableError
from tests.core.machines import gang, group_id, rack


class World:
    """An engine, and an executor of which nothing is left but the records."""

    def __init__(self, *, own_workers: bool = False, nodes: int = 2) -> None:
        self.inventory = Inventory(rack("a", nodes))
        known = KnownNodes(self.inventory)
        known.look(0.0)
        begins = STARTS if own_workers else THERE
        self.engine = Engine(self.inventory, known, begins=begins, own_workers=own_workers)
        self.now = 0.0
        self.busy: set[str] = set()  # gangs of which workers still run
        self.done: list[Action] = []

    @property
    def gangs(self) -> dict[str, Gang]:
        return self.engine.records.gangs

    def decide(self, event: Event) -> list[Action]:
        return self.engine.handle(event, Moment(self.now, self.now))

    def act(self, event: Event) -> list[Action]:
        """Decide, act, and decide on what comes of it."""
        actions = self.decide(event)
        for action in actions:
            self.do(action)
        self.engine.validate()
        return actions

    def do(self, action: Action) -> None:
        self.done.append(action)
        if isinstance(action, Refuse):
            raise action.error
        if isinstance(action, Save):
            self.engine.saved(action, Moment(self.now, self.now))
        elif isinstance(action, Drop):
            self.engine.records.drop(action.gang)
        elif isinstance(action, EndWorkers):
            self.act(WorkersLeft(action.gang, action.gang in self.busy, undone=True, why=action.why))

    def submit(self, *sizes: int, name: str, **more: Any) -> Gang:
        self.act(Submitted(Order(gang(*sizes, name=name), **more)))
        return self.gangs[name]


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
    assert world.engine.records.failures == {"g": "the last node is lost"}


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
    assert kinds(world.act(DevicesTaken("g", running))) == [Note]
    assert replace(world.gangs["g"], history=()) == replace(before, history=())
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


class Life(RuleBasedStateMachine):
    """Anything said of any gang in any order: the invariants hold, and so does the table of changes."""

    own_workers = False

    def __init__(self) -> None:
        super().__init__()
        self.world = World(own_workers=self.own_workers, nodes=3)
        self.count = 0

    def drawn(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.world.gangs)))

    @rule(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), priority=st.integers(0, 1), wait=st.booleans())
    def submit(self, sizes: list[int], priority: int, wait: bool) -> None:
        self.count += 1
        request = gang(*sizes, name=f"g{self.count}", priority=priority)
        self.world.act(Submitted(Order(request, owner=f"job{self.count % 2}", wait=wait)))

    @precondition(lambda self: self.world.gangs)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        name = self.drawn(data)
        if not self.world.gangs[name].releasing:
            self.count += 1
            self.world.act(Committed(name, group_id(f"group{self.count}"), self.world.gangs[name].moves))

    @precondition(lambda self: self.world.gangs)
    @rule(data=st.data(), busy=st.booleans())
    def release(self, data: st.DataObject, busy: bool) -> None:
        name = self.drawn(data)
        if busy:
            self.world.busy.add(name)
        self.world.act(ReleaseAsked(name))

    @precondition(lambda self: self.world.gangs)
    @rule(
        data=st.data(),
        state=st.sampled_from([None, "PENDING", "CREATED", "ABSENT"]),
        lost=st.booleans(),
        alive=st.booleans(),
        late=st.booleans(),
        taken=st.booleans(),
    )
    def observe(self, data: st.DataObject, state: str | None, lost: bool, alive: bool, late: bool, taken: bool) -> None:
        name = self.drawn(data)
        held = self.world.gangs[name]
        seen = Observed(
            group_state=state if held.group is not None else None,
            owner_alive=alive,
            busy=name in self.world.busy,
            lost=("a node",) if lost else (),
            held_for=2 * HOLD_SECONDS if late else 0.0,
            provisioned=self.world.engine.records.notes[name].progress.ready,
            placed_once=state not in (None, "PENDING"),
        )
        self.world.act(WorkersDue(name, seen))
        if taken and not held.releasing and phase(held, seen) in (Phase.HELD, Phase.PLACING):
            self.world.act(DevicesTaken(name, seen))
        elif name in self.world.gangs:
            self.world.act(GangObserved(name, seen))

    @precondition(lambda self: self.own_workers and self.world.gangs)
    @rule(
        data=st.data(),
        progress=st.sampled_from(
            [THERE, Progress(ready=True), STARTS, Progress(failed="no node"), Progress(failed="no", final=True)]
        ),
    )
    def workers_progress(self, data: st.DataObject, progress: Progress) -> None:
        name = self.drawn(data)
        if MakeWorkers(name) in self.world.decide(WorkersDue(name, Observed())):
            self.world.act(WorkersProgressed(name, progress))

    @rule(jobs=st.sampled_from([("job0", "job1"), ("job0",), ()]))
    def jobs(self, jobs: tuple[str, ...]) -> None:
        self.world.act(JobsSeen(jobs))

    @rule()
    def workers_end(self) -> None:
        self.world.busy.clear()

    @rule()
    def serve(self) -> None:
        self.world.now += 1.0
        while self.world.act(NextTurn()):
            pass

    @invariant()
    def valid(self) -> None:
        self.world.engine.validate()

    def teardown(self) -> None:
        self.world.busy.clear()
        for name in list(self.world.gangs):
            self.world.act(ReleaseAsked(name))
        assert not self.world.gangs
        assert self.world.inventory.free_devices == 12


class LifeWithOwnWorkers(Life):
    own_workers = True


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestLifeWithOwnWorkers = LifeWithOwnWorkers.TestCase
TestLifeWithOwnWorkers.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
