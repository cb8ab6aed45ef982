"""Gangs that KAI Scheduler places, from a queue of its own, on the coordinator with fakes: each a PodGroup of its own,
whole or not at all, nothing held while there is no quota, and never ended while we repair it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import pytest

from ray_dra.coordinator.backends.kubernetes.kai import FIRST_REST_SECONDS, REST_SECONDS
from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import OnFault, Way, on_fault
from ray_dra.errors import GangGone, InvalidRequest, UnsatisfiableError
from ray_dra.simulated.fake_kai import STALE_STEPS, FakeKai
from ray_dra.translate.kube.slots import stem_of
from ray_dra.translate.names import KAI_PRIORITIES_ANNOTATION, QUEUE_ANNOTATION
from tests.coordinator.fault_worlds import GRACE, KubeWorld
from tests.coordinator.kubernetes_world import World

Made = TypeVar("Made", bound=World)


def world_with(limit: float = 8.0, **more: Any) -> World:
    """A RayCluster whose gangs are of KAI's queue `team`, of so many GPUs."""
    world = World(**more)
    return with_kai(world, limit)


def with_kai(world: Made, limit: float) -> Made:
    world.kube.pod_groups = FakeKai({"team": limit})
    world.kube.kai = True
    world.kube.annotate_raycluster({QUEUE_ANNOTATION: "kai/team"})
    world.turn()
    return world


def repairing() -> tuple[KubeWorld, str]:
    """One rack of four trays, and a gang on two of them that is repaired by new workers."""
    world = with_kai(KubeWorld(nodes=4, cliques=1), 16.0)
    return world, world.with_gang(on_fault("replace", GRACE))


def submit(world: World, bundles: int = 2, **more: Any) -> str:
    return world.coordinator.submit(world.order(bundles, **more)).gang


def groups(world: World) -> list[str]:
    return [str(group["metadata"]["name"]) for group in world.kube._of("PodGroup")]


def bound(world: World) -> list[int]:
    """How many pods of each PodGroup are bound."""
    found: dict[str, int] = {}
    for pod in world.kube._of("Pod"):
        name = pod["metadata"]["annotations"]["pod-group-name"]
        found[name] = found.get(name, 0) + ("nodeName" in pod["spec"])
    return sorted(found.values())


def test_a_gang_has_a_pod_group_before_its_pods_and_gives_it_back_last() -> None:
    world = world_with()
    gang = submit(world)
    phases = set()
    for _ in range(80):
        phase = world.drive(gang, 1)
        phases.add(phase)
        assert groups(world) or not world.kube._of("Pod")
        assert bound(world) in ([], [0], [2]), "all or none"
        if phase is Phase.READY:
            break
    assert phase is Phase.READY
    assert Phase.QUOTA in phases or world.coordinator.gangs[gang].quota is not None
    (name,) = groups(world)
    assert name.startswith(stem_of(gang))
    assert name.endswith("-u-1")
    world.coordinator.release(gang)
    for _ in range(60):
        world.turn()
        if world.kube._of("Pod") or world.kube.claimed():
            assert groups(world) == [name]
    assert not groups(world)
    world.settle()


def test_over_the_limit_it_waits_in_kais_words_holds_nothing_and_costs_no_try_and_no_node() -> None:
    world = world_with()
    first = submit(world)
    assert world.drive(first) is Phase.READY
    second = submit(world)
    quiet = tries = 0
    for _ in range(600):
        was = world.coordinator.status(second).phase
        world.turn()
        status = world.coordinator.status(second)
        if status.phase is Phase.QUOTA and not world.kube._of("PodGroup")[1:]:
            quiet += 1
            assert status.allocation is None
            assert world.coordinator.inventory.free_devices == 8
        tries += was is Phase.QUOTA and status.phase is not Phase.QUOTA
        assert not world.coordinator.backend.machines.avoided  # type: ignore[attr-defined]
    assert quiet > 300, "most of the time it holds nothing"
    seconds = 600 * 0.5
    assert seconds / REST_SECONDS - 2 <= tries <= seconds / REST_SECONDS + 6, "ever later, a minute at most"
    status = world.coordinator.status(second)
    if status.phase is Phase.QUOTA:
        (why,) = status.waits_for
        assert "OverLimit: team quota has reached the allowable limit of GPUs. Limit is 8 GPUs, currently 8" in str(why)
        assert "the queue kai/team" in str(why)
    assert any("no quota yet from kai/team: OverLimit" in each.why for each in status.history)
    world.coordinator.release(first)
    assert world.drive(second, 240) is Phase.READY
    world.coordinator.release(second)
    world.settle()


def test_a_small_gang_is_not_held_up_by_one_that_is_over_the_limit() -> None:
    world = world_with(limit=4.0)
    large, small = submit(world, 2), submit(world, 1)
    assert world.drive(small, 120) is Phase.READY
    assert world.coordinator.status(large).moves <= 12
    world.coordinator.release(large)
    world.coordinator.release(small)
    world.settle()


def test_a_gangs_priority_is_told_to_kai_by_its_class() -> None:
    world = world_with()
    world.kube.annotate_raycluster({QUEUE_ANNOTATION: "kai/team", KAI_PRIORITIES_ANNOTATION: "high"})
    world.turn()
    with pytest.raises(InvalidRequest, match="0=train,100=inference"):
        submit(world)
    world.kube.annotate_raycluster({QUEUE_ANNOTATION: "kai/team", KAI_PRIORITIES_ANNOTATION: "0=train,10=build"})
    world.turn()
    for priority, named in ((0, "train"), (12, "build")):
        order = world.order()
        ranked = replace(order, request=replace(order.request, priority=priority))
        gang = world.coordinator.submit(ranked).gang
        assert world.drive(gang, 240) is Phase.READY
        (made,) = world.kube._of("PodGroup")
        assert made["spec"]["priorityClassName"] == named
        world.coordinator.release(gang)
        world.settle()


def test_a_queue_that_does_not_exist_is_waited_for_in_kais_words() -> None:
    world = world_with()
    world.kube.annotate_raycluster({QUEUE_ANNOTATION: "kai/nobodys"})
    world.turn()
    gang = submit(world)
    seen = set()
    for _ in range(60):
        world.turn()
        seen |= {str(why) for why in world.coordinator.status(gang).waits_for}
    assert any("QueueDoesNotExist" in why for why in seen)
    assert world.kube.pod_groups is not None
    world.kube.pod_groups.queues["nobodys"] = 8.0
    assert world.drive(gang, 240) is Phase.READY
    world.coordinator.release(gang)
    world.settle()


@pytest.mark.parametrize("turns", range(1, 8))
def test_what_kai_ends_in_the_making_gives_all_back_and_asks_again(turns: int) -> None:
    world = world_with()
    gang = submit(world)
    phase = Phase.QUOTA
    for _ in range(turns):
        phase = world.drive(gang, 1)
    if groups(world):
        world.kube.evict_by_kai(groups(world)[0])
    if phase is Phase.READY:
        world.coordinator.release(gang)
        world.settle()
        return
    assert world.drive(gang, 240) is Phase.READY
    world.coordinator.release(gang)
    world.settle()


def test_a_gang_that_runs_ends_at_once_when_kai_ends_its_pods_and_says_so() -> None:
    """There is no grace to be had: its pods are gone. Nothing of it is repaired from a quota that it has no more."""
    world = world_with()
    gang = submit(world, on_fault=OnFault((Way.REPLACE,)))
    assert world.drive(gang) is Phase.READY
    pods = {pod["metadata"]["uid"] for pod in world.kube._of("Pod")}
    world.kube.evict_by_kai(groups(world)[0])
    for _ in range(8):
        world.turn()
        assert {pod["metadata"]["uid"] for pod in world.kube._of("Pod")} <= pods
    with pytest.raises(UnsatisfiableError, match="kai/team: KAI Scheduler ended its workers at 2026"):
        world.coordinator.status(gang)
    world.settle()


def test_a_gang_that_we_repair_is_not_ended_as_stale() -> None:
    """Its PodGroup says never. KAI would end the rest of it a minute after a loss, where nothing is gated."""
    world = world_with(nodes=4, cliques=1)
    gang = submit(world, on_fault=OnFault((Way.DEGRADE,)))
    assert world.drive(gang) is Phase.READY
    world.kube.drop("Pod")
    for _ in range(2 * STALE_STEPS):
        world.turn()
    assert world.coordinator.status(gang).phase is Phase.DEGRADED
    assert bound(world) == [1], "what is left of it runs on"
    group = world.kube._of("PodGroup")[0]
    group["spec"]["stalenessGracePeriod"] = "60s"
    for _ in range(2 * STALE_STEPS):
        world.turn()
    assert bound(world) != [1], "the fake would have ended it"
    for _ in range(20):
        world.turn()
    world.settle()


def test_a_lost_worker_is_replaced_in_the_same_pod_group() -> None:
    world, gang = repairing()
    before, lost = groups(world), world.nodes[0]
    world.kill_pod(lost)
    for _ in range(120):
        world.turn()
        if world.status.moves and world.status.phase is Phase.READY:
            break
    assert (world.status.phase, world.status.moves) == (Phase.READY, 1)
    assert groups(world) == before
    assert bound(world) == [2]
    world.coordinator.release(gang)
    world.settle()


def test_a_replacement_over_the_limit_waits_and_does_not_end_the_gang() -> None:
    world, gang = repairing()
    assert world.kube.pod_groups is not None
    world.kube.pod_groups.queues["team"] = 4.0
    world.kill_pod(world.nodes[0])
    waited = set()
    for _ in range(60):
        world.turn()
        assert not world.coordinator.gangs[gang].releasing
        waited.add(world.status.phase)
    assert Phase.REPAIRING in waited
    assert any("OverLimit" in str(group["status"]) for group in world.kube._of("PodGroup"))
    world.kube.pod_groups.queues["team"] = 16.0
    for _ in range(200):
        world.turn()
        if world.status.phase is Phase.READY:
            break
    assert bound(world) == [2]
    world.coordinator.release(gang)
    world.settle()


def test_a_condition_that_stays_when_the_pods_are_bound_ends_nothing() -> None:
    world = world_with(limit=8.0)
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    (group,) = world.kube._of("PodGroup")
    told = {"reason": "OverLimit", "message": "an old one"}
    condition = {"type": "UnschedulableOnNodePool", "status": "True", "reason": "Unschedulable", "reasons": [told]}
    group["status"]["schedulingConditions"] = [condition]
    for _ in range(60):
        world.turn()
    assert world.coordinator.status(gang).phase is Phase.READY
    world.coordinator.release(gang)
    world.settle()


@pytest.mark.parametrize("odd", [0, pytest.param(1, marks=pytest.mark.by_hand)])
def test_killed_at_every_write_a_gang_comes_and_goes_and_leaves_nothing(odd: int) -> None:
    """Before or after it, in turn: from the request over its limit to readiness, and back."""
    write = 0
    while True:
        world = world_with(limit=4.0)
        first = submit(world, 1)
        for _ in range(4):
            world.turn()
        second = submit(world, 1)
        world.kube.die_at(write, after=write % 2 == odd)
        assert world.drive(first, 240) is Phase.READY, write
        for _ in range(10):
            world.turn()
        world.coordinator.release(first)
        assert world.drive(second, 400) is Phase.READY, write
        world.coordinator.release(second)
        world.settle(240)
        assert not groups(world)
        if world.kube._left is not None:
            break
        write += 1
    assert write > 10


def test_a_program_that_ends_while_it_waits_leaves_no_pod_group() -> None:
    world = world_with(limit=4.0)
    gang = submit(world)
    for _ in range(30):
        world.turn()
    world.ray.jobs.clear()
    world.settle()
    assert not groups(world)
    with pytest.raises(GangGone):
        world.coordinator.status(gang)


def test_a_pod_group_that_somebody_deletes_in_the_making_is_made_again() -> None:
    world = world_with()
    gang = submit(world)
    for _ in range(2):
        world.turn()
    world.kube.drop("PodGroup")
    assert world.drive(gang, 240) is Phase.READY
    assert groups(world)
    world.coordinator.release(gang)
    world.settle()


def test_a_cluster_without_kai_is_refused_with_the_cure() -> None:
    world = world_with()
    world.kube.kai = False
    with pytest.raises(InvalidRequest, match="does not serve"):
        submit(world)


def test_a_raycluster_that_names_another_queue_leaves_gangs_in_the_one_that_they_began_with() -> None:
    world = world_with()
    first = submit(world)
    for _ in range(2):
        world.turn()
    world.kube.annotate_raycluster({})
    world.turn()
    assert world.drive(first) is Phase.READY
    assert groups(world)
    second = submit(world)
    assert world.coordinator.gangs[second].quota is None
    assert world.drive(second) is Phase.READY
    assert len(groups(world)) == 1
    world.coordinator.release(first)
    world.coordinator.release(second)
    world.settle()


def test_ordinary_placement_groups_wait_over_the_limit_as_gangs_do() -> None:
    world = world_with(limit=4.0)
    order, group = world.order(), f"{7:036x}"
    world.coordinator.submit(replace(order, request=replace(order.request, gang=group), ordinary=OrdinaryGroup(group)))
    for _ in range(60):
        world.turn()
        assert group in world.coordinator.gangs
    assert world.kube.pod_groups is not None
    world.kube.pod_groups.queues["team"] = 8.0
    for _ in range(200):
        world.turn()
        if world.coordinator.status(group).phase is Phase.READY:
            break
    assert world.coordinator.gangs[group].group is not None
    assert bound(world) == [2]
    world.coordinator.release(group)
    world.settle()


def test_the_first_rest_is_short() -> None:
    assert FIRST_REST_SECONDS < REST_SECONDS
