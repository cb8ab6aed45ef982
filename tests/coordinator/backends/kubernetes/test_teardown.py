"""Workers are given back in an order that leaves no pod without its group, whatever KubeRay's operator has read."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.translate.names import GROUP_LABEL
from tests.coordinator.kubernetes_world import CrashingKube, World


class LateOperator(CrashingKube):
    """The operator makes pods of the RayCluster as it was two turns (a second) before: it reads a cache."""

    read: list[dict[str, Any]] = []

    def _operate(self) -> None:
        now = self.raycluster
        self.read = [*self.read[-2:], copy.deepcopy(now)]
        self.raycluster = self.read[0]
        super()._operate()
        self.raycluster = now

    def orphans(self) -> list[str]:
        """Pods whose group is in the RayCluster no more, nor in what the operator has read: nobody ends them."""
        groups = {group["groupName"] for group in self.raycluster["spec"]["workerGroupSpecs"]}
        return [p["metadata"]["name"] for p in self._of("Pod") if p["metadata"]["labels"][GROUP_LABEL] not in groups]


@pytest.mark.parametrize("turn", range(12))
def test_a_group_goes_only_when_the_operator_makes_no_more_pods_of_it(turn: int) -> None:
    """Released at any moment, that of its groups' first pods included, which the operator makes a moment later."""
    world = World()
    world.kube.__class__ = LateOperator
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(turn):
        world.turn()
    world.coordinator.release(gang)
    for _ in range(60):
        world.turn()
        assert isinstance(world.kube, LateOperator)
        assert world.kube.orphans() == []
    assert world.left() == []
    assert not FakeKube.view(world.kube).pods
