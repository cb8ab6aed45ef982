"""Gangs are moved so that another one has its clique; on raylets that are there and on Kubernetes, with the coordinator
killed at any moment of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_dra.core.gangs.consolidation import Consolidation
from ray_dra.core.gangs.discipline import Discipline
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import on_fault
from tests.coordinator.kills import die_at, placed_all_the_same
from tests.core.machines import gang, group_id

from .fault_worlds import GRACE, HERE, ONE_CLIQUE, KubeWorld, World

AT_ONCE = Discipline(consolidation=Consolidation(restart=1.0, least_run=0.0))
ENDS = on_fault("degrade", GRACE)
ONE, TWO, WAITS, FILLS = (group_id(name) for name in ("one", "two", "waits", "fills"))


def scattered() -> World:
    """A gang of a tray in each of two racks of two trays."""
    world = World()
    world.discipline = AT_ONCE
    world.come_back()
    for name in (ONE, FILLS, TWO):
        request = gang(4, name=name, locality=ONE_CLIQUE)
        world.coordinator.submit(Order(request, owner="job", on_fault=ENDS, maker=HERE, movable=True))
        world.pass_time(2)
        if world.coordinator.status(name).phase is Phase.HELD:
            world.place(name)
    world.coordinator.release(FILLS)
    world.pass_time(2)
    assert clique_of(world, ONE) != clique_of(world, TWO)
    return world


def ask(world: World) -> None:
    """For a whole rack."""
    request = gang(4, 4, name=WAITS, locality=ONE_CLIQUE)
    world.coordinator.submit(Order(request, name="waits", owner="job", on_fault=ENDS, maker=HERE))


def clique_of(world: World | KubeWorld, name: str) -> str | None:
    allocation = world.coordinator.status(name).allocation
    assert allocation is not None
    (clique,) = {grant.clique for grant in allocation.grants}
    return clique


def test_a_gang_is_moved_and_goes_on_under_its_handle() -> None:
    world = scattered()
    ask(world)
    for _ in range(90):
        world.pass_time(1)
        if world.coordinator.status(WAITS).phase is Phase.HELD:
            world.place(WAITS)
    assert {world.coordinator.status(name).phase for name in (ONE, TWO, WAITS)} == {Phase.READY}
    assert clique_of(world, ONE) == clique_of(world, TWO) != clique_of(world, WAITS)
    assert sorted(each.consolidated for each in world.coordinator.gangs.values()) == [0, 0, 1]
    assert len(world.groups("CREATED")) == 3
    world.check()


def test_a_gang_that_keeps_gpus_for_another_shape_is_not_moved_from_them() -> None:
    world = scattered()
    for name in (ONE, TWO):
        world.coordinator.reshape(name, gang(2, name=name, locality=ONE_CLIQUE), 60.0, 0.0, keep=True)
    world.pass_time(2)
    ask(world)
    world.pass_time(90)
    assert world.coordinator.status(WAITS).phase is Phase.QUEUED
    for name in (ONE, TWO):
        world.coordinator.reshape(name, gang(4, name=name, locality=ONE_CLIQUE), 60.0, 0.0)
    for _ in range(90):
        world.pass_time(1)
        if world.coordinator.status(WAITS).phase is Phase.HELD:
            world.place(WAITS)
    assert {world.coordinator.status(name).phase for name in (ONE, TWO, WAITS)} == {Phase.READY}
    world.check()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["store", "ray"])
def test_killed_at_any_write_one_gang_is_moved_once(victim: str, after: bool) -> None:
    at, died = 0, True
    while died:
        world = scattered()
        ask(world)
        die_at(world, victim, at, after=after)
        died = placed_all_the_same(world, WAITS, 120)
        world.check()
        gangs = world.coordinator.gangs
        assert all(each.history[-1].to is Phase.READY for each in gangs.values()), f"killed at {at}"
        assert sorted(each.consolidated for each in gangs.values()) == [0, 0, 1], f"killed at {at}"
        assert len(world.groups("CREATED")) == 3
        at += 1
    assert at > (3 if victim == "store" else 1)


def kubernetes() -> KubeWorld:
    world = KubeWorld()
    world.discipline = AT_ONCE
    world.restart()
    for name in (ONE, FILLS, TWO):
        order = world.order(1, name=name, on_fault=ENDS, movable=True)
        order = replace(order, request=replace(order.request, gang=name, locality=ONE_CLIQUE), maker=HERE)
        world.coordinator.submit(order)
        assert world.drive(name) is Phase.READY
    world.coordinator.release(FILLS)
    for _ in range(10):
        world.turn()
    assert clique_of(world, ONE) != clique_of(world, TWO)
    order = world.order(2, name="waits", on_fault=ENDS)
    order = replace(order, request=replace(order.request, gang=WAITS, locality=ONE_CLIQUE), maker=HERE)
    world.coordinator.submit(order)
    return world


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["kube", "ray"])
def test_killed_at_any_write_on_kubernetes_other_pods_are_made(victim: str, after: bool) -> None:
    at, died = 0, True
    while died:
        world = kubernetes()
        world.die_at(victim, at, after=after)
        before = world.coordinator
        assert world.drive(WAITS, 300) is Phase.READY, f"killed at {at}"
        died = world.coordinator is not before
        world.spare()
        for name in (ONE, TWO):
            for _ in range(80):
                if world.coordinator.status(name).phase is Phase.READY:
                    break
                world.turn()
            assert world.coordinator.status(name).phase is Phase.READY
        assert sorted(each.consolidated for each in world.coordinator.gangs.values()) == [0, 0, 1], f"killed at {at}"
        for name in (ONE, TWO, WAITS):
            world.coordinator.release(name)
        world.settle()
        at += 1
    assert at > (4 if victim == "kube" else 1)
