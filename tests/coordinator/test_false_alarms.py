"""What is no fault moves nothing: taints of effect None, XIDs of applications, a cordon of ten seconds, NVML that is
silent for three, in 250 tries (by hand 1,000), one after the other and one upon the other, on gangs that declare
everything."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ray_dra.core.gangs.repair import on_fault
from ray_dra.ports.nvml import NodeReading
from ray_dra.translate.nvml.reading import APPLICATION_XIDS

from .fault_worlds import NAME, KubeWorld, World
from .world import Phase

TRIES = [125, pytest.param(500, marks=pytest.mark.by_hand)]  # in each of the two worlds


def on_a_raylet(world: World, node: str, chance: random.Random) -> None:
    """Some of it at once, for some seconds; then all is as before."""
    xids = tuple(chance.sample(sorted(APPLICATION_XIDS), chance.randint(0, 3)))
    silent = chance.random() < 0.5
    world.report(node, xids=xids)
    for _ in range(chance.randint(0, 3)):
        if silent:
            world.coordinator.report(world.raylet(node), NodeReading(error="NVML did not answer in 3 s"))
        world.pass_time(1)
    world.report(node, xids=xids if chance.random() < 0.5 else ())
    world.pass_time(1)


def told_taint(world: KubeWorld, node: str) -> Callable[[], None]:
    world.kube.taint_device(node, "gpu-0", "None")
    return lambda: world.kube.taint_device(node, "gpu-0", "")


def told_rule(world: KubeWorld, node: str) -> Callable[[], None]:
    world.kube.put_taint_rule("told", "None", pool=node)
    return lambda: world.kube.drop("DeviceTaintRule", "told")


def cordon(world: KubeWorld, node: str) -> Callable[[], None]:
    world.kube.cordon(node)
    return lambda: world.kube.cordon(node, closed=False)


def preferred(world: KubeWorld, node: str) -> Callable[[], None]:
    world.kube.taint(node, "PreferNoSchedule")
    return lambda: world.kube.taint(node, "")


@pytest.mark.parametrize("tries", TRIES)
def test_on_raylets(tries: int) -> None:
    world, chance = World(), random.Random(7)
    world.with_gang(on_fault("restart", 0.0))
    held = world.nodes
    for _ in range(tries):
        on_a_raylet(world, chance.choice(sorted(held)), chance)
        world.pass_time(chance.randint(0, 2))
        assert (world.nodes, world.status.moves, world.status.notice) == (held, 0, None)
    world.pass_time(15)
    assert (world.nodes, world.status.moves, world.status.phase) == (held, 0, Phase.READY)


@pytest.mark.parametrize("tries", TRIES)
def test_on_kubernetes(tries: int) -> None:
    world, chance = KubeWorld(nodes=10, cliques=2), random.Random(8)
    world.with_gang(on_fault(("replace", "restart"), 0.0))
    held, pods = world.nodes, {pod.uid for pod, _ in world.kube.running()}
    for _ in range(tries):
        alarms = chance.sample([told_taint, told_rule, cordon, preferred], chance.randint(1, 2))
        node = chance.choice(held)
        ends = [alarm(world, node) for alarm in alarms]
        world.later(chance.randint(1, 10))
        for end in ends:
            end()
        world.later(1)
        assert (world.nodes, world.status.moves) == (held, 0)
    world.later(15)
    assert (world.status.phase, world.status.notice) == (Phase.READY, None)
    assert {pod.uid for pod, _ in world.kube.running()} == pods
    assert not world.ray.drained
    world.coordinator.release(NAME)
    world.settle()
