"""Gangs on a fake Kubernetes beside each other, beside another RayCluster's gangs, workers that are there, and work of
others; the making of one gang's workers: test_provision.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ray_dra.core.lifecycle import Phase
from ray_dra.errors import UnsatisfiableError
from ray_dra.translate.labels import NODE, RAY_NODE_ID
from tests.runtime.kubernetes_world import World
from tests.runtime.world import tray


def test_two_gangs_in_two_cliques_and_one_that_waits() -> None:
    world = World()
    first, second = (world.coordinator.submit(world.order()).gang for _ in range(2))
    assert world.drive(first) is Phase.READY
    assert world.drive(second) is Phase.READY
    third = world.coordinator.submit(world.order())
    assert third.phase is Phase.QUEUED
    with pytest.raises(UnsatisfiableError, match=r"does not fit now|ahead"):
        world.coordinator.submit(world.order(wait=False))
    world.coordinator.release(first)
    assert world.drive(third.gang) is Phase.READY
    for gang in (second, third.gang):
        world.coordinator.release(gang)
    world.settle()


def rival(world: World, gang: str, born: str) -> None:
    """A gang of another RayCluster, in a namespace where we may only read, wants the devices of ours."""
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    names = json.dumps([grant.uuid for grant in allocation.grants], separators=(",", ":"))
    expression = f'device.attributes["gpu.nvidia.com"].uuid in {names}'
    exactly = {"deviceClassName": "gpu.nvidia.com", "count": 4, "selectors": [{"cel": {"expression": expression}}]}
    world.kube.things["ResourceClaim", "rival"] = {
        "kind": "ResourceClaim",
        "metadata": {
            "name": "rival",
            "namespace": "other",
            "uid": "rival",
            "creationTimestamp": born,
            "labels": {"ray-dra.io/attempt": "rd-0-0", "ray-dra.io/raycluster": "other"},
        },
        "spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}},
        "status": {},
    }


@pytest.mark.parametrize("born", ["0", "9"])
def test_of_two_rayclusters_that_want_a_device_the_younger_gives_way(born: str) -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    before = world.coordinator.status(gang).allocation
    assert before is not None
    rival(world, gang, born)
    if born == "0":
        assert world.drive(gang) is Phase.READY
        after = world.coordinator.status(gang).allocation
        assert after is not None
        assert not {g.uuid for g in before.grants} & {g.uuid for g in after.grants}
    else:
        assert world.drive(gang) is Phase.READY
        assert world.coordinator.status(gang).moves == 0
    world.coordinator.release(gang)
    world.kube.things.pop(("ResourceClaim", "rival"), None)
    world.settle()


def test_devices_that_anothers_gang_waits_for_are_taken_but_not_for_ever() -> None:
    world = World(nodes=2, cliques=1)
    gang = world.coordinator.submit(world.order()).gang
    rival(world, gang, "0")
    world.coordinator.release(gang)
    world.turn()
    waiting = world.coordinator.submit(world.order())
    assert waiting.phase is Phase.QUEUED
    world.later(121)
    world.turn()
    assert world.coordinator.status(waiting.gang).phase is Phase.PROVISIONING


def test_gpu_workers_that_are_there_are_used_before_new_ones_are_made() -> None:
    """A worker of the user's own, on the host's network: it calls itself like its node, of which it has a part."""
    world = World()
    taken = "gb200-r0-t00"
    world.ray.add_node("theirs", gpus=4, labels={NODE: taken})
    for at in range(4):
        world.kube.take(taken, f"gpu-{at}")
    world.turn()
    world.coordinator.report("theirs", tray("theirs"))
    first = world.coordinator.submit(world.order(bundles=1))
    assert first.selectors == ({RAY_NODE_ID: "theirs"},)
    assert world.drive(first.gang) is Phase.READY
    assert not world.kube.writes
    second = world.coordinator.submit(world.order(bundles=1))
    assert second.phase is Phase.PROVISIONING
    assert second.allocation is not None
    assert second.allocation.nodes != (taken,)
    assert world.drive(second.gang) is Phase.READY
    for status in (first, second):
        world.coordinator.release(status.gang)
    world.settle()


@pytest.mark.parametrize("times", [1, 99])
def test_work_that_took_a_gangs_worker_is_named_and_the_gang_gets_new_ones(times: int) -> None:
    """Ray has no taints: between two joins, queued work of others can settle on the first of a gang's raylets."""
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    add_node = world.ray.add_node
    took: list[str] = []

    def add_and_take(raylet: str, **more: Any) -> None:
        add_node(raylet, **more)
        if len(took) < times and world.ray.start_task(raylet, 1):
            took.append(raylet)

    world.ray.add_node = add_and_take  # type: ignore[method-assign]
    said = set()
    for _ in range(600):
        try:
            found = world.drive(gang, turns=1)
        except UnsatisfiableError:
            break
        if found is Phase.READY:
            break
        said.add(world.coordinator.status(gang).said)
    assert any("1 GPU on gb200-r0-t0" in text and "by work of job other" in text for text in said)
    if times == 1:
        assert found is Phase.READY
        assert world.coordinator.status(gang).moves == 1
        world.coordinator.release(gang)
    else:
        with pytest.raises(UnsatisfiableError, match=r"given up: .*taken by work of job other"):
            world.coordinator.status(gang)
    world.settle()


@pytest.mark.parametrize("device", ["gpu-2-mig-1g10gb-19-0", "fpga-7"])
def test_a_part_of_a_gpu_that_others_have_is_not_planned_and_what_nobody_knows_is_named(device: str) -> None:
    world = World(nodes=2, cliques=1)
    world.kube.take("gb200-r0-t00", device)
    world.turn()
    free = world.coordinator.inventory.seats["gb200-r0-t00"].free
    assert free == (0 if device == "fpga-7" else 0b1011)
    assert world.coordinator.workers is not None
    said = world.coordinator.workers.problems()
    assert len(said) == (1 if device == "fpga-7" else 0)
    assert all(f"other/other-gb200-r0-t00-{device}" in problem for problem in said)
    gang = world.coordinator.submit(world.order(bundles=1)).gang
    assert world.drive(gang) is Phase.READY
    status = world.coordinator.status(gang)
    assert status.allocation is not None
    assert (status.allocation.nodes, status.moves) == (("gb200-r0-t01",), 0)
    del world.kube.things["ResourceClaim", f"other-gb200-r0-t00-{device}"]
    world.kube._version += 1
    world.turn()
    assert world.coordinator.inventory.seats["gb200-r0-t00"].free == 0b1111
    assert not world.coordinator.workers.problems()
    world.coordinator.release(gang)
    world.settle()


def test_a_part_of_a_gangs_gpu_that_others_got_first_is_named_and_the_gang_moves() -> None:
    world = World()
    gang = world.coordinator.submit(world.order(bundles=1)).gang
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    world.kube.take(allocation.nodes[0], "gpu-1-mig-1g10gb-19-0")
    assert world.drive(gang) is Phase.READY
    status = world.coordinator.status(gang)
    assert status.allocation is not None
    assert status.allocation.nodes != allocation.nodes
    world.coordinator.release(gang)
    world.kube.things.pop(("ResourceClaim", f"other-{allocation.nodes[0]}-gpu-1-mig-1g10gb-19-0"))
    world.settle()
