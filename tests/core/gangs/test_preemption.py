"""The first in the queue takes the devices of gangs of a lower priority: by hand, and what holds whatever happens."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from ray_dra.core.gangs.events import GangObserved, NextTurn, ReleaseAsked, ReshapeAsked
from ray_dra.core.gangs.gang import GroupSet
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.notice import Ending
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.preemption import NOBODY, Preemption
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.model.locality import Locality
from ray_dra.errors import InvalidRequest, UnsatisfiableError
from tests.core.gangs.world import World
from tests.core.machines import gang, rack

GRACE = 5.0
GRACEFUL = on_fault("degrade", GRACE)
AT_ONCE = Preemption(most=3, least_run=0.0)
ONE_CLIQUE = Locality(cliques=1)


def running(world: World, name: str) -> Observed:
    grouped = world.gangs[name].group is not None
    return Observed(group_state="CREATED" if grouped else None, placed_once=grouped, provisioned=True)


def look(world: World, seconds: float = 0.5) -> None:
    """As the coordinator does: a step of each that holds devices, then the queue."""
    world.now += seconds
    for name in list(world.gangs):
        if name in world.gangs and world.gangs[name].allocation is not None:
            world.act(GangObserved(name, running(world, name)))
    serve(world)


def serve(world: World) -> None:
    for _ in range(1_000):
        if not world.act(NextTurn()):
            return
    raise AssertionError("the queue comes to no end")


def pass_time(world: World, seconds: float) -> None:
    until = world.now + seconds
    while world.now < until:
        look(world)


def low(world: World, *sizes: int, name: str, **more: Any) -> None:
    world.submit(*sizes, name=name, preemptible=True, on_fault=GRACEFUL, **more)


def runs(world: World, name: str) -> bool:
    return name in world.gangs and world.gangs[name].allocation is not None


def told(world: World) -> set[str]:
    return {name for name, each in world.gangs.items() if each.eviction is not None}


@pytest.fixture
def world() -> World:
    """Three trays of four, of which three gangs have one each."""
    world = World(nodes=3, preemption=AT_ONCE)
    for name in ("a", "b", "c"):
        low(world, 4, name=name)
        world.now += 10.0
    look(world)
    return world


def test_the_least_work_is_lost_and_the_victim_waits_at_the_front_of_its_priority(world: World) -> None:
    low(world, 4, name="waits")
    world.submit(4, name="high", priority=5)
    look(world)
    assert told(world) == {"c"}, "it has run for the shortest time"
    victim = world.gangs["c"]
    assert victim.notice is not None
    assert victim.eviction is not None
    assert (victim.notice.reason, victim.notice.ranks) == ("preempted by high, of priority 5", (0,))
    assert victim.notice.deadline == victim.eviction.deadline == world.now + GRACE
    pass_time(world, GRACE - 1)
    assert runs(world, "c")
    assert not runs(world, "high")
    pass_time(world, 1.5)
    assert runs(world, "high")
    victim = world.gangs["c"]
    assert (victim.allocation, victim.preempted, victim.restarts, victim.moves) == (None, 1, 1, 1)
    assert victim.history[-1].to is Phase.QUEUED
    first = world.engine.records.first
    assert first is not None
    assert first.id == "c", "though others of its priority came before it"
    world.act(ReleaseAsked("a"))
    look(world)
    assert runs(world, "c")
    assert not runs(world, "waits")


def test_what_was_saved_is_not_lost(world: World) -> None:
    world.engine.records.notes["a"].checkpoint = world.now
    world.submit(4, name="high", priority=5)
    look(world)
    assert told(world) == {"a"}


@pytest.mark.parametrize(("restart", "taken"), [(0.0, "large"), (600.0, "small")])
def test_the_time_until_a_gang_works_again_is_lost_with_each_of_its_gpus(restart: float, taken: str) -> None:
    """A large gang that has just saved its work loses nothing else; a small one has worked for a minute."""
    world = World(nodes=3, preemption=Preemption(3, 0.0, restart))
    low(world, 4, 4, name="large")
    low(world, 4, name="small")
    world.now += 60.0
    world.engine.records.notes["large"].checkpoint = world.now
    world.submit(4, name="high", priority=5)
    look(world)
    assert told(world) == {taken}


def test_the_lowest_priority_goes_first_whatever_is_lost() -> None:
    world = World(nodes=2, preemption=AT_ONCE)
    low(world, 4, name="low")
    world.now += 1000.0
    low(world, 4, name="middle", priority=1)
    look(world)
    world.submit(4, name="high", priority=5)
    look(world)
    assert told(world) == {"low"}


def test_nobody_is_taken_by_an_equal_one_nor_who_may_not_be_preempted() -> None:
    world = World(nodes=3, preemption=AT_ONCE)
    world.submit(4, name="firm")
    low(world, 4, name="equal", priority=5)
    low(world, 4, name="higher", priority=6)
    world.submit(4, name="high", priority=5)
    pass_time(world, 3 * GRACE)
    assert not told(world)
    assert not runs(world, "high")


def test_never_one_more_than_is_needed(world: World) -> None:
    """The devices of those that end in any case count as free."""
    world.submit(4, 4, name="high", priority=5)
    look(world)
    assert told(world) == {"b", "c"}
    world.busy.add("a")
    world.act(ReleaseAsked("a"))
    look(world)
    assert told(world) == {"c"}, "a ends by itself, and b goes on"
    assert world.gangs["b"].notice is None
    world.busy.clear()
    world.act(ReleaseAsked("a"))
    pass_time(world, GRACE + 1)
    assert runs(world, "high")
    assert runs(world, "b")


@pytest.mark.parametrize("ends", ["released", "has a place"])
def test_who_is_not_needed_any_more_goes_on(world: World, ends: str) -> None:
    world.submit(4, name="high", priority=5)
    look(world)
    assert told(world) == {"c"}
    world.act(ReleaseAsked("high" if ends == "released" else "a"))
    pass_time(world, 2 * GRACE)
    assert not told(world)
    assert runs(world, "c")
    assert world.gangs["c"].notice is None
    assert world.gangs["c"].preempted == 0


def test_who_will_have_ended_by_then_is_waited_for() -> None:
    world = World(nodes=2, preemption=AT_ONCE)
    low(world, 4, name="soon", runs_for=20.0)
    low(world, 4, name="other")
    world.now = 17.0
    world.submit(4, name="high", priority=5)
    look(world)
    assert not told(world)
    pass_time(world, 6.0)  # it runs longer than its program said
    assert told(world)


def test_who_ends_within_its_grace_counts_as_gone_from_then_on_though_nothing_has_changed() -> None:
    world = World(nodes=2, preemption=AT_ONCE)
    world.submit(4, name="firm", runs_for=100.0, on_fault=GRACEFUL)
    low(world, 4, name="low")
    world.submit(4, 4, name="high", priority=5)
    pass_time(world, 100.0 - GRACE - 0.5)
    assert not told(world), "without the firm one it would not be enough"
    pass_time(world, 1.0)
    assert told(world) == {"low"}


def test_notice_is_not_taken_back_for_one_that_would_end_later() -> None:
    """What is expected of the notice stays so."""
    world = World(nodes=2, preemption=AT_ONCE)
    world.submit(4, name="firm", runs_for=20.0, on_fault=on_fault("degrade", 12.0))
    low(world, 4, name="low")
    world.now = 6.0
    world.submit(4, name="high", priority=5)
    look(world)
    assert told(world) == {"low"}
    pass_time(world, 3.0)
    assert told(world) == {"low"}, "the firm one will end within its grace, but not by then"
    pass_time(world, GRACE)
    assert runs(world, "high")


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_notice_stays_while_it_is_enough_with_whoever_ends_before_it_is_over(late: float) -> None:
    """One goes before its turn after the notice, and ends before the deadline, though not within its own grace."""
    world = World(nodes=2, preemption=AT_ONCE)
    world.submit(4, name="low", preemptible=True, on_fault=on_fault("degrade", 20.0))
    world.submit(4, 4, name="high", priority=5)
    look(world)
    assert told(world) == {"low"}
    deadline = world.now + 20.0
    world.submit(4, name="small", runs_for=10.0, on_fault=GRACEFUL)
    look(world)
    assert runs(world, "small")
    pass_time(world, 9.5 + late)
    world.act(ReleaseAsked("small"))
    pass_time(world, deadline - world.now)
    assert runs(world, "high")
    history = [change.why for change in world.gangs["low"].history]
    assert sum(why.startswith("notice") for why in history) == 1
    assert not any("taken back" in why for why in history)


def test_notice_is_taken_back_once_somebody_runs_on_beyond_it() -> None:
    world = World(nodes=2, preemption=AT_ONCE)
    world.submit(4, name="low", preemptible=True, on_fault=on_fault("degrade", 20.0))
    world.submit(4, 4, name="high", priority=5)
    world.submit(4, name="small", runs_for=10.0, on_fault=GRACEFUL)
    pass_time(world, 17.0)
    assert runs(world, "small")
    assert told(world) == {"low"}
    pass_time(world, 3.0)
    assert not told(world), "small has overrun by so much that it is expected to end after the notice"
    assert runs(world, "low")


def test_a_notice_of_which_less_is_needed_with_who_ends_before_it_is_over_stays_whole() -> None:
    """Without the notice that one would not count, and the notice would be told again."""
    world = World(machines=[*rack("a", 2), *rack("b", 2)], preemption=AT_ONCE)
    for name in ("one", "two", "three"):
        world.submit(4, name=name, preemptible=True, on_fault=on_fault("degrade", 20.0))
    world.submit(4, name="soon", runs_for=15.0, on_fault=GRACEFUL)
    world.submit(4, name="high", priority=5)
    look(world)
    before = told(world)
    assert len(before) == 1
    pass_time(world, 5.0)
    assert told(world) == before
    world.act(ReleaseAsked("soon"))
    look(world)
    assert runs(world, "high")
    look(world)
    assert not told(world)


def test_a_notice_that_is_about_to_be_taken_back_promises_nobody_anything() -> None:
    world = World(nodes=2, preemption=AT_ONCE)
    world.submit(4, name="firm", runs_for=50.0, on_fault=GRACEFUL)
    low(world, 4, name="low", runs_for=30.0)
    world.submit(4, name="high", priority=5, runs_for=100.0)
    look(world)
    assert told(world) == {"low"}
    world.submit(4, name="next", runs_for=10.0, on_fault=GRACEFUL)
    world.act(ReleaseAsked("firm"))
    serve(world)
    assert runs(world, "high")
    promised = world.gangs["next"].promised
    assert promised is not None
    assert promised.by == 30.0, "and not when the notice ends, which nobody needs any more"


def test_one_that_has_just_begun_is_left_alone_and_so_is_one_that_was_taken_often_enough() -> None:
    world = World(nodes=1, preemption=Preemption(most=2, least_run=60.0))
    low(world, 4, name="low")
    for count in (1, 2, 3):
        look(world)
        started = world.now
        world.submit(4, name=f"high-{count}", priority=5)
        pass_time(world, 58.0)
        assert not told(world)
        pass_time(world, 3.0)
        if count == 3:
            break
        assert told(world) == {"low"}, world.now - started
        pass_time(world, GRACE + 1)
        assert runs(world, f"high-{count}")
        world.act(ReleaseAsked(f"high-{count}"))
        look(world)
        assert runs(world, "low")
    pass_time(world, 600.0)
    assert runs(world, "low"), "it runs to its end"
    assert world.gangs["low"].preempted == 2


def test_it_can_be_off() -> None:
    world = World(nodes=1, preemption=Preemption(NOBODY.most, 0.0))
    low(world, 4, name="low")
    world.submit(4, name="high", priority=5)
    pass_time(world, 50.0)
    assert runs(world, "low")


def test_the_cheapest_clique_is_freed_and_no_other() -> None:
    world = World(machines=[*rack("a", 2), *rack("b", 2)], preemption=AT_ONCE)
    for name in ("one", "two", "three", "four"):
        low(world, 4, name=name)
        world.now += 10.0
    look(world)
    where = {name: world.gangs[name].allocation.nodes[0][0] for name in world.gangs}  # type: ignore[union-attr]
    world.submit(4, 4, name="high", priority=1, locality=ONE_CLIQUE)
    look(world)
    assert len({where[name] for name in told(world)}) == 1
    assert len(told(world)) == 2


def test_a_preferred_clique_is_freed_if_that_can_be_and_else_anything() -> None:
    for firm in (False, True):
        world = World(machines=[*rack("a", 2), *rack("b", 2)], preemption=AT_ONCE)
        for name in ("one", "two", "three", "four"):
            world.submit(4, name=name, preemptible=not firm or name in ("one", "four"), on_fault=GRACEFUL)
        look(world)
        world.submit(4, 4, name="high", priority=1, locality=Locality(cliques=1, required=False))
        look(world)
        cliques = {world.gangs[name].allocation.nodes[0][0] for name in told(world)}  # type: ignore[union-attr]
        assert len(told(world)) == 2
        assert len(cliques) == (2 if firm else 1)


def test_who_could_start_and_waits_for_what_it_prefers_takes_nobody() -> None:
    world = World(machines=[*rack("a", 2), *rack("b", 2)], preemption=AT_ONCE)
    for name in ("one", "two"):
        low(world, 4, name=name)
    world.submit(4, 4, name="high", priority=1, locality=Locality(cliques=1, required=False, patience=60.0))
    # one and two lie in one rack; the other is free, so that they are spread first
    pass_time(world, 1.0)
    assert not told(world)


def test_a_gang_with_notice_keeps_its_shape_and_a_fault_changes_nothing(world: World) -> None:
    world.submit(4, name="high", priority=5)
    look(world)
    with pytest.raises(InvalidRequest, match="about to end"):
        world.act(ReshapeAsked("c", gang(2, 2, name="c"), 10.0, 1.0, running(world, "c")))
    fault = Ending("lost: a node", 3.0, (0,), (0,))
    world.act(GangObserved("c", replace(running(world, "c"), ending=fault)))
    notice = world.gangs["c"].notice
    assert notice is not None
    assert notice.reason.startswith("preempted by")


def test_ordinary_groups_take_nobody_and_are_not_taken() -> None:
    world = World(nodes=1, preemption=AT_ONCE)
    low(world, 4, name="low")
    world.ordinary(4, number=1, part_of=GroupSet("set"))
    pass_time(world, 2 * GRACE)
    assert not told(world)


# -- whatever happens


@pytest.mark.parametrize(
    "worlds", [2, pytest.param(100, marks=pytest.mark.by_hand)], ids=["2,000 steps", "100,000 steps"]
)
def test_no_cycle_and_no_starvation(worlds: int) -> None:
    """At each step somebody comes, ends, or time passes. Nobody is taken by an equal or lower one, nor once too often;
    who was taken is before all others of its priority; once nobody new comes, everybody runs to its end."""
    dice = random.Random(worlds)
    for _ in range(worlds):
        world = World(machines=[*rack("a", 2), *rack("b", 2)], preemption=Preemption(most=2, least_run=3.0))
        priorities: dict[str, int] = {}
        for step in range(1_000):
            if dice.random() < 0.3 and len(world.gangs) < 12:
                name, priority = f"g{step}", dice.randint(0, 3)
                sizes = [4] * dice.randint(1, 2) if dice.random() < 0.5 else [dice.randint(1, 4)]
                locality = ONE_CLIQUE if dice.random() < 0.5 else None
                priorities[name] = priority
                world.submit(
                    *sizes,
                    name=name,
                    priority=priority,
                    preemptible=dice.random() < 0.7,
                    on_fault=on_fault("degrade", float(dice.randint(0, 3))),
                    locality=locality,
                )
            elif dice.random() < 0.2 and world.gangs:
                world.act(ReleaseAsked(dice.choice(sorted(world.gangs))))
            before = dict(world.gangs)
            look(world, 1.0)
            for name, each in world.gangs.items():
                was = before.get(name)
                if each.eviction is not None:
                    by = each.eviction.by
                    assert priorities[by] > priorities[name]
                    assert each.request.preemptible
                    assert each.preempted < 2
                if was is not None and each.preempted > was.preempted:
                    assert was.eviction is not None
                    assert world.now >= was.eviction.deadline
                    assert was.started is not None
                    assert was.eviction.deadline - was.started >= 3.0
        for _ in range(40):
            if not world.gangs:
                break
            for name in [name for name, each in world.gangs.items() if each.allocation is not None]:
                if dice.random() < 0.5:
                    world.act(ReleaseAsked(name))
            pass_time(world, 5.0)
        assert not world.gangs


@pytest.mark.parametrize(
    "lives", [8, pytest.param(200, marks=pytest.mark.by_hand)], ids=["2,000 steps", "50,000 steps"]
)
def test_no_notice_is_told_again_and_again(lives: int) -> None:
    """At one moment nobody hears it twice. Later, a gang hears it again on behalf of the same one only where something
    has come of another meanwhile: it started, ended, or ran longer than was guessed."""
    heard = 0
    for seed in range(lives):
        dice = random.Random(seed)
        settings = Preemption(most=100, least_run=0.0)
        world = World(machines=[*rack("a", 2), *rack("b", 2)], preemption=settings, worth=None)
        times, changes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for step in range(250):
            world.now += 1.0
            there = {name: each.allocation for name, each in world.gangs.items() if each.allocation is not None}
            overrun = sum(world.gangs[name].ends == world.now for name in there)
            for name in there:
                ends = world.gangs[name].ends
                if dice.random() < 0.03 or (ends is not None and ends <= world.now and dice.random() < 0.8):
                    world.act(ReleaseAsked(name))
                else:
                    world.act(GangObserved(name, running(world, name)))
            if sum(each.waits for each in world.gangs.values()) < 6 and dice.random() < 0.7:
                some_gang(world, dice, f"g{step}")
            now = heard_by(world)
            after = {name: each.allocation for name, each in world.gangs.items() if each.allocation is not None}
            came_of = overrun + sum(there.get(name) != after.get(name) for name in {*there, *after})
            for told_to in now:
                assert now[told_to] == 1, "twice at one moment"
                times[told_to] += 1
                assert times[told_to] <= 1 + changes[told_to] + came_of
            for told_to in times:
                changes[told_to] += came_of
        heard += sum(times.values())
        assert max(times.values(), default=0) <= 3
    assert heard > 4 * lives


def some_gang(world: World, dice: random.Random, name: str) -> None:
    """Many prefer a clique, say how long they run, and may be preempted; those that may not end within their notice."""
    sizes = [4] * dice.randint(1, 3) if dice.random() < 0.5 else [dice.randint(1, 4)] * dice.randint(1, 2)
    required = dice.random() < 0.3
    locality = Locality(cliques=1, required=required, patience=None if required else 0.0)
    preemptible = dice.random() < 0.5
    try:
        world.submit(
            *sizes,
            name=name,
            priority=dice.randint(0, 2),
            preemptible=preemptible,
            on_fault=on_fault("degrade", float(dice.randint(15, 30) if preemptible else dice.randint(1, 5))),
            locality=locality if dice.random() < 0.7 else None,
            runs_for=float(dice.randint(2, 25)) if not preemptible or dice.random() < 0.5 else None,
        )
    except UnsatisfiableError:
        assert name not in world.gangs


def heard_by(world: World) -> Counter[tuple[str, str]]:
    """The queue, until nothing more is decided: who hears on behalf of whom, and how often."""
    heard = Counter[tuple[str, str]]()
    for _ in range(300):
        before = {name: each.eviction for name, each in world.gangs.items()}
        if not world.act(NextTurn()):
            return heard
        for name, each in world.gangs.items():
            if each.eviction is not None and before[name] is None:
                heard[name, each.eviction.by] += 1
    raise AssertionError("the queue comes to no end")
