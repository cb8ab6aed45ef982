"""Workers are given back from any moment on, and what is deleted is not waited for twice."""

from __future__ import annotations

import pytest

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
