"""Workers are given back from any moment on, and what is deleted is not waited for twice."""

from __future__ import annotations

import pytest

from tests.coordinator.backends.kubernetes.test_neighbours import say
from tests.coordinator.kubernetes_world import World


@pytest.mark.parametrize("turn", range(12))
def test_a_gang_released_at_any_moment_of_its_making_leaves_nothing(turn: int) -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(turn):
        world.turn()
    world.coordinator.release(gang)
    for _ in range(4):  # the pods end in one turn, and nothing is made meanwhile
        world.turn()
    assert world.left() == []
    assert world.kube.claimed() == []
    before = world.kube.writes
    for _ in range(10):
        world.turn()
    assert world.kube.writes == before


def test_a_raycluster_that_is_deleted_takes_nothing_of_another_in_its_namespace_along() -> None:
    """Its coordinator lives on for as long as its head takes to end."""
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(4):
        world.turn()
    say(world, "theirs", ["GPU-of-theirs"], world.kube.namespace)
    world.kube.drop_raycluster()
    world.coordinator.observe()
    world.coordinator.release(gang)
    world.coordinator.observe()
    assert not [claim for claim in world.kube.view().claims if claim.name != "theirs" and not claim.deleting]
    assert [claim.deleting for claim in world.kube.view().claims if claim.name == "theirs"] == [False]
