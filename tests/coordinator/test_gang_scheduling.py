"""Gangs in PodGroups of Kubernetes' own, on the coordinator with fakes: all pods of an attempt are bound or none, the
PodGroup is there before them and goes with them, and a worker that takes a lost one's place waits for nobody."""

from __future__ import annotations

from typing import Any

import pytest

from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import on_fault
from ray_dra.simulated.fake_gang_scheduling import FakeGangScheduling, group_of
from ray_dra.translate.kube.slots import stem_of
from ray_dra.translate.names import GANG_SCHEDULING_ANNOTATION, POD_GROUP_APIS
from tests.coordinator.fault_worlds import GRACE, KubeWorld
from tests.coordinator.kubernetes_world import World

ASKED = {GANG_SCHEDULING_ANNOTATION: "true"}


def grouped(world: Any, asked: bool = True, **more: Any) -> Any:
    world.kube.gangs = FakeGangScheduling(**more)
    if asked:
        world.kube.annotate_raycluster(ASKED)
    world.turn()
    return world


def submit(world: World, bundles: int = 2, **more: Any) -> str:
    return world.coordinator.submit(world.order(bundles, **more)).gang


def groups(world: World) -> list[str]:
    return [str(group["metadata"]["name"]) for group in world.kube._gang_pod_groups()]


def pods(world: World) -> list[dict[str, Any]]:
    return world.kube._of("Pod")


def bound(world: World) -> int:
    return sum("nodeName" in pod["spec"] for pod in pods(world))


@pytest.mark.parametrize("api", POD_GROUP_APIS)
def test_a_gang_is_in_a_pod_group_that_is_there_before_its_pods_and_until_they_are_gone(api: str) -> None:
    world = grouped(World(), api=api)
    gang = submit(world)
    for _ in range(80):
        phase = world.drive(gang, 1)
        assert all(group_of(pod) in groups(world) for pod in pods(world))
        assert bound(world) in (0, 2), "all or none"
        if phase is Phase.READY:
            break
    assert phase is Phase.READY
    (group,) = world.kube._gang_pod_groups()
    assert group["apiVersion"] == api
    assert group["metadata"]["name"] == f"{stem_of(gang)}-0"
    world.coordinator.release(gang)
    for _ in range(60):
        world.turn()
        assert all(group_of(pod) in groups(world) for pod in pods(world))
    assert not groups(world)
    world.settle()


@pytest.mark.parametrize(
    ("asked", "served"), [(False, FakeGangScheduling()), (True, None), (True, FakeGangScheduling(gate=False))]
)
def test_without_the_wish_the_kind_or_the_gate_gangs_come_as_ever(
    asked: bool, served: FakeGangScheduling | None
) -> None:
    world = grouped(World(), asked)
    world.kube.gangs = served
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    assert not groups(world)
    assert not any(map(group_of, pods(world)))
    world.coordinator.release(gang)
    world.settle()


def test_where_one_pod_cannot_be_bound_none_is_and_the_next_attempt_has_a_group_of_its_own() -> None:
    world = grouped(World())
    gang = submit(world)
    for _ in range(40):
        if len(pods(world)) == 2:
            break
        world.turn()
    first = groups(world)
    victim = pods(world)[1]
    node = victim["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (name,) = node["nodeSelectorTerms"][0]["matchFields"][-1]["values"]
    world.kube.take(name, "gpu-0")
    seen = set()
    for _ in range(120):
        phase = world.drive(gang, 1)
        seen |= set(groups(world))
        assert sum("nodeName" in pod["spec"] for pod in pods(world) if group_of(pod) == first[0]) == 0
        if phase is Phase.READY:
            break
    assert phase is Phase.READY
    assert len(seen) == 2
    assert groups(world) == [f"{stem_of(gang)}-1"]
    world.coordinator.release(gang)
    world.settle()


def test_a_worker_that_takes_a_lost_ones_place_is_in_no_group() -> None:
    """With two lost one would wait for the other, and a gang that goes on with fewer for ever."""
    world = grouped(KubeWorld(nodes=4, cliques=1))
    gang = world.with_gang(on_fault("replace", GRACE))
    before = groups(world)
    assert len(before) == 1
    world.kill_pod(world.nodes[0])
    for _ in range(120):
        world.turn()
        if world.status.moves and world.status.phase is Phase.READY:
            break
    assert (world.status.phase, world.status.moves) == (Phase.READY, 1)
    assert sorted(map(group_of, pods(world))) == ["", before[0]]
    assert groups(world) == before
    world.coordinator.release(gang)
    world.settle()
    assert not groups(world)


def test_a_worker_that_is_lost_in_the_making_is_made_again_in_the_group() -> None:
    world = grouped(World())
    gang = submit(world)
    for _ in range(40):
        world.turn()
        if bound(world) == 2:
            break
    world.kube.drop("Pod")
    assert world.drive(gang) is Phase.READY
    assert len({group_of(pod) for pod in pods(world)}) == 1
    assert len(groups(world)) == 1
    world.coordinator.release(gang)
    world.settle()


@pytest.mark.parametrize("turns", range(2, 7))
@pytest.mark.parametrize("gone", [True, False])
def test_a_pod_group_that_somebody_deletes_in_the_making_costs_no_try(turns: int, gone: bool) -> None:
    """`gone`: with its finalizer; else it stays while pods name it."""
    world = grouped(World())
    gang = submit(world)
    for _ in range(turns):
        world.drive(gang, 1)
    for group in world.kube._gang_pod_groups():
        kind = f"{group['apiVersion']} PodGroup"
        (world.kube.drop if gone else world.kube.delete)(kind, group["metadata"]["name"])
    assert world.drive(gang) is Phase.READY
    assert world.coordinator.status(gang).moves == 0
    world.coordinator.release(gang)
    world.settle()


def test_killed_at_every_write_a_gang_comes_and_goes_and_leaves_no_group() -> None:
    """Before or after it, in turn."""
    write = 0
    while True:
        world = grouped(World())
        world.kube.die_at(write, after=write % 2 == 1)
        gang = submit(world)
        assert world.drive(gang, 240) is Phase.READY, write
        assert len(groups(world)) == 1
        world.coordinator.release(gang)
        world.settle(240)
        assert not groups(world)
        if world.kube._left is not None:
            break
        write += 1
    assert write > 8


def test_a_stray_group_is_deleted_by_the_next_coordinator() -> None:
    """Left by one that died with its head, whose records are gone with it."""
    world = grouped(World())
    gang = submit(world)
    for _ in range(40):
        world.turn()
        if groups(world) and not pods(world):
            break
    assert groups(world)
    assert gang in world.coordinator.gangs
    for key in world.store.keys(""):
        world.store.delete(key)
    world.restart()
    for _ in range(20):
        world.turn()
    assert not groups(world)
    assert not world.kube.left()


def test_a_gang_is_not_held_up_by_a_group_that_only_its_finalizer_keeps() -> None:
    world = grouped(World())
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    world.kube.put(
        {
            "apiVersion": POD_GROUP_APIS[0],
            "kind": "PodGroup",
            "metadata": {**world.kube._gang_pod_groups()[0]["metadata"], "deletionTimestamp": "now"},
            "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
        }
    )
    world.coordinator.release(gang)
    for _ in range(60):
        world.turn()
    assert gang not in world.coordinator.gangs


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("write", range(1, 6))
def test_an_attempt_goes_on_as_it_began_where_another_coordinator_finds_another_wish(write: int, asked: bool) -> None:
    class Changed(World):
        def restart(self) -> None:
            self.kube.annotate_raycluster({} if asked else ASKED)
            super().restart()

    world = grouped(Changed(), asked)
    world.kube.die_at(write, after=True)
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    assert world.coordinator.status(gang).moves == 0
    named = {group_of(pod) for pod in pods(world)}
    assert len(named) == 1, "all or none"
    assert named <= {"", *groups(world)}
    world.coordinator.release(gang)
    world.settle()


def test_the_wish_is_heard_while_the_coordinator_runs() -> None:
    world = grouped(World(), asked=False)
    first = submit(world)
    assert world.drive(first) is Phase.READY
    assert not groups(world)
    world.kube.annotate_raycluster(ASKED)
    second = submit(world)
    assert world.drive(second) is Phase.READY
    assert groups(world) == [f"{stem_of(second)}-0"]
    for gang in (first, second):
        world.coordinator.release(gang)
    world.settle()
