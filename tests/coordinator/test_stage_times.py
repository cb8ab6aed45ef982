"""The stages of gangs' ways to readiness in a whole coordinator: what is told of them, counted, and done by them."""

from __future__ import annotations

import pytest

from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.core.gangs.phases import Phase
from tests.coordinator.counted import Counted
from tests.coordinator.kubernetes_world import World

STAGES = ["applied", "pods", "bound", "prepared", "verified", "grouped", "joined", "placed"]


def counting() -> tuple[World, Counted]:
    world, counted = World(), Counted()
    world.coordinator = Coordinator(
        world.store, world.ray, world.clock, world.kube, wall=lambda: 1e9 + world.clock.now, metrics=counted
    )
    return world, counted


def test_a_gangs_way_is_told_whole_and_counted_once() -> None:
    world, counted = counting()
    gang = world.coordinator.submit(world.order()).gang
    began = world.clock.now
    assert world.drive(gang) is Phase.READY
    status = world.coordinator.status(gang)
    took = world.clock.now - began
    spent = dict(status.times.spent)
    assert [stage for stage in STAGES if stage in spent] == list(spent), "in this order"
    assert {"applied", "bound", "joined"} <= spent.keys() <= set(STAGES)
    assert status.times.total == took
    assert counted.ended == [*status.times.spent, ("", took)]
    seen = [phase for each in counted.phases for phase, count in each.items() if count]
    assert seen == ["provisioning", "held", "placing", "ready"], "at the end of each look"
    world.coordinator.release(gang)
    world.settle()
    assert not any(counted.phases[-1].values())


def test_where_proofs_are_expected_and_who_joins_is_known_from_its_stage() -> None:
    """For as long as it lasts: looks are dearer then, and agents of workers are held back."""
    world, _ = counting()
    gang = world.coordinator.submit(world.order()).gang
    expected, starting = [], []
    hook = world._pods
    for turn in range(80):
        world._pods = hook if turn > 9 else lambda: None  # type: ignore[method-assign]  # Ray is slow to load
        world.turn()
        status = world.coordinator.status(gang)
        expected.append(world.coordinator.records.expects_proofs)
        starting.append(len(world.coordinator.observer.starting(world.coordinator.records)))
        assert world.coordinator.records.expects_proofs is (status.times.stage == "verified")
        if status.phase is Phase.HELD and status.group is None:
            group = world.ray.create_group([{"GPU": 4.0}] * 2, status.selectors, "job")
            world.coordinator.commit(gang, group, status.moves)
        if status.phase is Phase.READY:
            break
    assert True in expected
    assert not expected[-1]
    assert max(starting) == 2, "both its slots"
    assert starting[-1] == 0


@pytest.mark.parametrize("turns", range(12))
def test_a_coordinator_that_starts_again_goes_on_with_the_times_that_were_stored(turns: int) -> None:
    world, _ = counting()
    began = world.clock.now
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(turns):
        world.turn()
    world.coordinator = Coordinator(world.store, world.ray, world.clock, world.kube, wall=lambda: 1e9 + world.clock.now)
    assert world.drive(gang) is Phase.READY
    assert world.coordinator.status(gang).times.total == world.clock.now - began
