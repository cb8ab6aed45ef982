"""Nodes that take no more pods: nobody is planned onto them, and whoever runs there has lost nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ray_dra.core.gangs.phases import Phase
from ray_dra.errors import InvalidRequest, UnsatisfiableError
from tests.coordinator.kubernetes_world import World
from tests.translate.kube.objects import cluster

Befalls = Callable[[World, str], None]


def template(world: World, **spec: Any) -> None:
    """The user's worker group has this in its pods, too."""
    (group,) = cluster()["spec"]["workerGroupSpecs"]
    group["template"]["spec"].update(spec)
    world.kube.apply_raycluster(workerGroupSpecs=[group])


def affine(*expressions: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": [{"matchExpressions": [*expressions]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


CLOSES: dict[str, Befalls] = {
    "a cordon": lambda world, node: world.kube.cordon(node),
    "NoSchedule": lambda world, node: world.kube.taint(node, "NoSchedule"),
    "another nodeSelector": lambda world, node: template(world, nodeSelector={"pool": "new"}),
    "another affinity": lambda world, node: template(
        world, affinity=affine({"key": "pool", "operator": "In", "values": ["new"]})
    ),
}
HARMS: dict[str, Befalls] = {
    "NoExecute": lambda world, node: world.kube.taint(node, "NoExecute"),
    "a silent kubelet": lambda world, node: world.kube.lose_node(node),
}


@pytest.mark.parametrize("befalls", [*CLOSES, *HARMS])
def test_a_gang_that_is_ready_is_degraded_by_what_ends_its_pods_alone(befalls: str) -> None:
    world = World()
    status = world.coordinator.submit(world.order())
    assert status.allocation is not None
    node = status.allocation.nodes[0]
    assert world.drive(status.gang) is Phase.READY
    (CLOSES | HARMS)[befalls](world, node)
    world.coordinator.observe()
    after = world.coordinator.status(status.gang)
    assert after.phase is (Phase.READY if befalls in CLOSES else Phase.DEGRADED)
    assert bool(after.lost) is (befalls in HARMS)
    assert not world.coordinator.inventory.node_states[node].node.ready, "nobody is planned onto it"


@pytest.mark.parametrize("by_affinity", [False, True])
def test_a_gang_is_planned_where_the_template_lets_its_pods_run(by_affinity: bool) -> None:
    world = World()
    second = [name for name in world.kube.nodes if "r1" in name]
    for name in second:
        world.kube.label(name, pool="b")
    chosen = {"affinity": affine({"key": "pool", "operator": "Exists"})}
    template(world, **(chosen if by_affinity else {"nodeSelector": {"pool": "b"}}))
    world.turn()
    status = world.coordinator.submit(world.order())
    assert status.allocation is not None
    assert sorted(status.allocation.nodes) == sorted(second)
    assert world.drive(status.gang) is Phase.READY
    with pytest.raises(UnsatisfiableError):
        world.coordinator.submit(world.order(bundles=3))


def test_a_template_that_chooses_no_node_is_named() -> None:
    world = World()
    template(world, nodeSelector={"pool": "none"})
    world.turn()
    with pytest.raises(UnsatisfiableError, match="nodeSelector pool=none does not choose it: it has no label pool"):
        world.coordinator.submit(world.order(wait=False))


def test_a_template_that_names_its_node_is_refused() -> None:
    """Its pods would all be bound there by nobody, and the kubelet of another node than planned would start them."""
    world = World()
    template(world, nodeName="gb200-r0-t00")
    world.turn()
    with pytest.raises(InvalidRequest, match=r"names one node.* nodeSelector"):
        world.coordinator.submit(world.order())
    assert world.left() == []
