"""Workers are given back in an order that leaves no pod without its group, whatever KubeRay's operator has read."""

from __future__ import annotations

import pytest

from tests.coordinator.kubernetes_world import World


@pytest.mark.parametrize("turn", range(12))
def test_a_group_goes_only_when_the_operator_makes_no_more_pods_of_it(turn: int) -> None:
    """Released at any moment, that of its groups' first pods included, which the operator makes a moment later."""
    world = World()
    world.kube.lag_operator(2)  # a second
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(turn):
        world.turn()
    world.coordinator.release(gang)
    for _ in range(60):
        world.turn()
        assert world.kube.orphans() == []
    assert world.left() == []
    assert not world.kube.view().pods
