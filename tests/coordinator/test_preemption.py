"""A gang of a higher priority takes the devices of others; on raylets that are there and on Kubernetes, with the
coordinator killed at any moment of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from ray_dra.core.gangs.discipline import Discipline
from ray_dra.core.gangs.gang import Maker
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.preemption import Preemption
from ray_dra.core.gangs.repair import FaultRule, on_fault
from ray_dra.errors import GangGone
from tests.coordinator.kills import die_at, placed_all_the_same
from tests.core.machines import gang, group_id

from .fault_worlds import GRACE, HERE, NAME, ONE_CLIQUE, KubeWorld, World

AT_ONCE = Discipline(preemption=Preemption(most=3, least_run=0.0, restart=0.0))
LOW = on_fault("degrade", GRACE)
HIGH = group_id("high")


def preemptible(world: World, *, maker: Maker | None = HERE) -> None:
    """Two gangs over a rack each, that may be preempted."""
    world.discipline = AT_ONCE
    world.come_back()
    for job, name in (("job", NAME), ("other", group_id("other"))):
        world.ray.jobs.add(job)
        request = replace(gang(4, 4, name=name, locality=ONE_CLIQUE), preemptible=True)
        world.coordinator.submit(Order(request, owner=job, on_fault=LOW, maker=maker))
        if maker is None:
            world.place(name)
        world.pass_time(2)
    world.pass_time(2)
    assert {world.coordinator.status(name).phase for name in (NAME, group_id("other"))} == {Phase.READY}


def ask_high(world: World) -> None:
    world.ray.jobs.add("high")
    request = gang(4, 4, name=HIGH, locality=ONE_CLIQUE, priority=5)
    world.coordinator.submit(Order(request, name="high", owner="high", on_fault=on_fault("restart"), maker=HERE))


@pytest.mark.parametrize("maker", [Maker(), None], ids=["made here", "made by the program"])
def test_it_has_its_clique_within_the_grace_and_the_victim_goes_on_afterwards(maker: Maker | None) -> None:
    world = World()
    preemptible(world, maker=maker)
    ask_high(world)
    world.pass_time(1)
    victims = [name for name, each in world.coordinator.gangs.items() if each.eviction is not None]
    assert victims == [group_id("other")], "it has run for the shorter time"
    (victim,) = victims
    before, told = world.coordinator.status(victim), world.coordinator.status(victim).notice
    assert told is not None
    assert (told.reason, told.deadline, told.ranks) == ("preempted by high, of priority 5", told.since + GRACE, (0, 1))
    standing = world.coordinator.status(HIGH).standing
    assert standing is not None
    assert (standing.takes, standing.starts) == ((victim,), told.deadline)
    world.pass_time(GRACE - 2)
    assert world.coordinator.status(victim).group == before.group
    world.pass_time(4)
    assert world.coordinator.status(victim).phase is Phase.QUEUED
    assert world.coordinator.status(HIGH).allocation is not None
    world.place(HIGH) if world.coordinator.status(HIGH).phase is Phase.HELD else None
    world.pass_time(2)
    assert world.coordinator.status(HIGH).phase is Phase.READY
    assert before.group in world.groups("REMOVED")
    assert world.status.phase is Phase.READY
    world.check()
    world.coordinator.release(HIGH)
    world.pass_time(2)
    if maker is None:
        assert world.coordinator.status(victim).phase is Phase.HELD
        world.place(victim)
        world.pass_time(2)
    after = world.coordinator.status(victim)
    assert after.phase is Phase.READY
    assert after.group != before.group
    assert [change.why for change in after.history].count("preempted by high, of priority 5") == 1
    world.check()


def test_a_grace_alone_leaves_the_rest_to_the_cluster() -> None:
    world = World()
    world.coordinator._on_fault = (FaultRule("", on_fault("restart", 60.0)),)
    request = replace(gang(4, name=NAME), preemptible=True)
    world.coordinator.submit(Order(request, owner="job", grace=7.0))
    assert world.coordinator.gangs[NAME].on_fault == on_fault("restart", 7.0)


def test_whose_work_is_saved_is_rather_taken() -> None:
    world = World()
    preemptible(world)
    world.coordinator.checkpointed(NAME)
    ask_high(world)
    world.pass_time(1)
    assert [name for name, each in world.coordinator.gangs.items() if each.eviction] == [NAME]
    with pytest.raises(GangGone):
        world.coordinator.checkpointed("nobody")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["store", "ray"])
def test_killed_at_any_write_one_gang_gives_way_once(victim: str, after: bool) -> None:
    at, died = 0, True
    while died:
        world = World()
        preemptible(world)
        die_at(world, victim, at, after=after)
        died = placed_all_the_same(world, HIGH, 40, partial(ask_high, world))
        world.check()
        gangs = world.coordinator.gangs
        assert gangs[HIGH].history[-1].to is Phase.READY, f"killed at {at}: {gangs[HIGH].history}"
        assert sorted(each.preempted for each in gangs.values()) == [0, 0, 1], f"killed at {at}"
        assert not any(each.eviction for each in gangs.values())
        assert len(world.groups("CREATED")) == 2
        waits = next(each for each in gangs.values() if each.preempted)
        assert waits.waits
        world.coordinator.release(HIGH)
        world.pass_time(3)
        assert world.coordinator.status(waits.id).phase is Phase.READY
        assert len(world.groups("CREATED")) == 2
        at += 1
    assert at > (4 if victim == "store" else 1)


def borrowed(world: World) -> None:
    """Two gangs of a team over a rack each, of which one is beyond its guarantee."""
    world.discipline, world.queues = AT_ONCE, "a: {guarantee: 8}\nb: {guarantee: 8}"
    world.come_back()
    for name in (NAME, group_id("other")):
        world.coordinator.submit(
            Order(gang(4, 4, name=name, locality=ONE_CLIQUE), owner="job", on_fault=LOW, maker=HERE, team="a")
        )
        world.pass_time(2)
    assert {world.coordinator.status(name).phase for name in (NAME, group_id("other"))} == {Phase.READY}


def ask_owed(world: World) -> None:
    request = gang(4, 4, name=HIGH, locality=ONE_CLIQUE)
    world.coordinator.submit(Order(request, name="high", owner="job", on_fault=LOW, maker=HERE, team="b"))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["store", "ray"])
def test_killed_at_any_write_what_was_borrowed_comes_back_once(victim: str, after: bool) -> None:
    at, died = 0, True
    while died:
        world = World()
        borrowed(world)
        die_at(world, victim, at, after=after)
        died = placed_all_the_same(world, HIGH, 40, partial(ask_owed, world))
        world.check()
        gangs = world.coordinator.gangs
        assert gangs[HIGH].history[-1].to is Phase.READY, f"killed at {at}: {gangs[HIGH].history}"
        assert gangs[NAME].preempted == 0, "it is within its team's guarantee"
        assert gangs[group_id("other")].preempted == 1, f"killed at {at}"
        assert gangs[group_id("other")].waits
        assert {each.name: (each.used, each.borrowed) for each in world.coordinator.teams()} == {
            "a": (8.0, 0.0),
            "b": (8.0, 0.0),
            "default": (0.0, 0.0),
        }
        world.coordinator.release(HIGH)
        world.pass_time(3)
        assert world.coordinator.status(group_id("other")).phase is Phase.READY, "it borrows again"
        assert len(world.groups("CREATED")) == 2
        at += 1
    assert at > (4 if victim == "store" else 1)


def test_a_coordinator_that_starts_again_with_preemption_off_takes_nobody_more() -> None:
    world = World()
    preemptible(world)
    world.discipline = Discipline(preemption=Preemption(most=0))
    world.come_back()
    ask_high(world)
    world.pass_time(3 * GRACE)
    assert world.coordinator.status(HIGH).phase is Phase.QUEUED


# -- Kubernetes


def kubernetes() -> KubeWorld:
    world = KubeWorld(nodes=2, cliques=1)
    world.discipline = AT_ONCE
    world.restart()
    order = world.order(2, name="train", on_fault=LOW)
    request = replace(order.request, gang=NAME, preemptible=True)
    world.coordinator.submit(replace(order, request=request, maker=HERE))
    assert world.drive(NAME) is Phase.READY
    order = world.order(2, name="high", on_fault=on_fault("restart"))
    request = replace(order.request, gang=HIGH, priority=5)
    world.coordinator.submit(replace(order, request=request, maker=HERE))
    return world


def test_on_kubernetes_the_pods_are_ended_and_others_made() -> None:
    world = kubernetes()
    before = {pod.name for pod, _ in world.kube.running()}
    assert world.drive(HIGH, 120) is Phase.READY
    assert before.isdisjoint({pod.name for pod, _ in world.kube.running()})
    assert world.status.phase is Phase.QUEUED
    assert [reason for reason, _ in world.kube.told].count("GangNotice") == 1
    world.coordinator.release(HIGH)
    assert world.until_ready() is Phase.READY
    world.coordinator.release(NAME)
    world.settle()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["kube", "ray"])
def test_killed_at_any_write_on_kubernetes(victim: str, after: bool) -> None:
    at, died = 0, True
    while died:
        world = kubernetes()
        world.die_at(victim, at, after=after)
        before = world.coordinator
        assert world.drive(HIGH, 120) is Phase.READY, f"killed at {at}"
        died = world.coordinator is not before
        world.spare()
        gangs = world.coordinator.gangs
        assert (gangs[NAME].preempted, gangs[NAME].waits) == (1, True), f"killed at {at}"
        for name in (NAME, HIGH):
            world.coordinator.release(name)
        world.settle()
        at += 1
    assert at > (4 if victim == "kube" else 1)
