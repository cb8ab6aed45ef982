"""Ordinary placement groups where workers are made for them: Ray is told of one once its workers have proved their
devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from tests.coordinator.kubernetes_world import World


def ordinary(world: World, number: int) -> Order:
    order = world.order()
    group = f"{number:036x}"
    return replace(order, request=replace(order.request, gang=group), ordinary=OrdinaryGroup(group))


def submit(world: World, number: int) -> str:
    return world.coordinator.submit(ordinary(world, number)).gang


def test_ray_is_told_once_its_workers_are_there() -> None:
    world = World()
    group = submit(world, 1)
    assert world.coordinator.pending_groups(), "the program can ask for it meanwhile"
    seen = []
    for _ in range(80):
        world.turn()
        phase = world.coordinator.status(group).phase
        seen.append((phase, group in world.ray.groups))
        if phase is Phase.READY:
            break
    assert seen[0] == (Phase.PROVISIONING, False)
    assert seen[-1] == (Phase.READY, True)
    assert all(phase in (Phase.PLACING, Phase.READY) for phase, told in seen if told)
    assert world.ray.groups[group].state == "CREATED"
    assert world.coordinator.pending_groups() == []
    world.ray.remove_group(group)
    world.settle()


@pytest.mark.parametrize("turns", range(0, 24, 3))
def test_removed_at_any_time_nothing_is_left_and_whoever_waits_hears_so(turns: int) -> None:
    world = World()
    group = submit(world, 1)
    for _ in range(turns):
        world.turn()
    world.ray.remove_group(group)
    world.coordinator.release(group)
    world.settle()
    assert world.ray.groups[group].state == "REMOVED"


@pytest.mark.parametrize("turns", range(0, 24, 3))
def test_the_next_coordinator_goes_on_with_it(turns: int) -> None:
    world = World()
    group = submit(world, 1)
    for _ in range(turns):
        world.turn()
    world.restart()
    for _ in range(80):
        world.turn()
    assert world.coordinator.status(group).phase is Phase.READY
    assert world.ray.groups[group].state == "CREATED"
    world.coordinator.release(group)
    world.settle()


def test_its_program_ends_while_its_workers_are_made() -> None:
    world = World()
    submit(world, 1)
    for _ in range(4):
        world.turn()
    world.ray.jobs.clear()
    world.settle()
