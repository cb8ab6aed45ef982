"""Gangs that a queue of Kueue's pays for, on the coordinator with fakes: nothing before its yes, all back at its no."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ray_dra.coordinator.backends.kubernetes.kueue import REST_SECONDS
from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.quota import GRACE_SECONDS
from ray_dra.errors import GangGone, InvalidRequest, UnsatisfiableError
from ray_dra.simulated.fake_kueue import FakeKueue
from ray_dra.translate.kube.slots import stem_of
from ray_dra.translate.names import GANG_KEY, QUEUE_ANNOTATION
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator.kubernetes_world import World

GPUS = {"nvidia.com/gpu": 8.0, "cpu": 64.0, "memory": 1e12}


def world_with(**quotas: Any) -> World:
    """A RayCluster whose gangs are paid from `team`, of eight GPUs unless said otherwise."""
    world = World()
    world.kube.queues = FakeKueue({"team": {"default": {**GPUS, **quotas}}})
    world.kube.kueue = True
    world.kube.annotate_raycluster({QUEUE_ANNOTATION: "kueue/team"})
    world.turn()
    return world


def submit(world: World, priority: int = 0) -> str:
    order = world.order()
    return world.coordinator.submit(replace(order, request=replace(order.request, priority=priority))).gang


def workloads(world: World) -> list[str]:
    return [w["metadata"]["name"] for w in world.kube._of("Workload")]


def test_nothing_is_made_before_the_queue_says_yes_and_what_is_over_quota_waits_in_its_words() -> None:
    world = world_with()
    first = submit(world)
    assert world.coordinator.status(first).phase is Phase.QUOTA
    assert workloads(world)
    assert not world.kube._of("Pod")
    assert world.coordinator.inventory.free_devices == 16
    assert world.drive(first) is Phase.READY
    second = submit(world)
    for _ in range(60):
        world.turn()
    status = world.coordinator.status(second)
    assert (status.phase, status.moves) == (Phase.QUOTA, 0), "there is no patience to lose"
    assert "4 more needed" in str(status.waits_for[0]) or "8 more needed" in str(status.waits_for[0])
    assert "the queue kueue/team" in str(status.waits_for[0])
    assert len(workloads(world)) == 2
    world.coordinator.release(first)
    assert world.drive(second) is Phase.READY
    world.coordinator.release(second)
    world.settle()


@pytest.mark.parametrize("keep", [False, True])
def test_a_gang_keeps_the_shape_that_its_queue_has_admitted(keep: bool) -> None:
    """While it waits for the queue, and once it runs; a gang from before the queue was named is not paid from it."""
    world = world_with()
    waits = submit(world)
    world.kube.annotate_raycluster({})
    world.turn()
    free = submit(world)
    world.kube.annotate_raycluster({QUEUE_ANNOTATION: "kueue/team"})
    for _ in range(2):
        before = world.coordinator.gangs[waits].request
        shape = replace(request_from_bundles([{"GPU": 1.0}] * 4), gang=waits)
        with pytest.raises(InvalidRequest, match="keeps the shape that it was admitted with"):
            world.coordinator.check_shape(waits, shape, keep=keep)
        with pytest.raises(InvalidRequest, match="keeps the shape that it was admitted with"):
            world.coordinator.reshape(waits, shape, 60.0, 0.0, keep=keep)
        assert world.coordinator.gangs[waits].request == before
        assert world.coordinator.gangs[waits].reshape is None
        assert world.drive(waits) is Phase.READY
    assert world.drive(free) is Phase.READY
    world.coordinator.reshape(free, replace(request_from_bundles([{"GPU": 4.0}]), gang=free), 60.0, 0.0, keep=True)
    for _ in range(20):
        world.drive(free, turns=1)
    status = world.coordinator.status(free)
    assert (status.phase, status.reshape, status.bundles) == (Phase.READY, None, 1)
    assert len(workloads(world)) == 1
    for gang in (waits, free):
        world.coordinator.release(gang)
    world.settle()


def test_a_request_is_given_up_only_once_every_device_is_back() -> None:
    world = world_with()
    gang = submit(world)
    world.drive(gang)
    (name,) = workloads(world)
    world.coordinator.release(gang)
    for _ in range(60):
        world.turn()
        if world.kube.claimed():
            assert workloads(world) == [name]
    assert not workloads(world)
    world.settle()


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4, 5, 6])
def test_what_is_preempted_in_the_making_gives_all_back_and_asks_again(turns: int) -> None:
    """At each step: the winner is admitted only once nothing of the loser is left, and the loser after it."""
    world = world_with()
    low = submit(world)
    for _ in range(turns):
        world.turn()
    high = submit(world, priority=1)
    for _ in range(80):
        if world.drive(high, 1) is Phase.READY:
            break
        if world.coordinator.status(high).phase is not Phase.QUOTA:
            assert not [pod for pod in world.kube.view().pods if (pod.attempt or "").startswith(stem_of(low))]
    status = world.coordinator.status(low)
    assert (status.phase, status.allocation) == (Phase.QUOTA, None)
    world.coordinator.release(high)
    assert world.drive(low) is Phase.READY
    world.coordinator.release(low)
    world.settle()


def test_a_gang_that_runs_ends_when_it_is_preempted_and_says_why() -> None:
    world = world_with()
    low = submit(world)
    assert world.drive(low) is Phase.READY
    high = submit(world, priority=1)
    began, told = world.clock.now, None
    for _ in range(120):
        world.turn()
        if low not in world.coordinator.gangs or world.coordinator.gangs[low].releasing:
            break
        told = world.coordinator.gangs[low].notice or told
    assert told is not None
    assert told.reason.startswith("kueue/team: Preempted: Preempted to accommodate a workload")
    assert told.ranks == (0, 1)
    assert GRACE_SECONDS - 1 <= world.clock.now - began <= GRACE_SECONDS + 3
    for _ in range(10):
        world.turn()
    with pytest.raises(UnsatisfiableError, match="kueue/team: Preempted: Preempted to accommodate a workload"):
        world.coordinator.status(low)
    assert world.drive(high) is Phase.READY
    world.coordinator.release(high)
    world.settle()


def test_flavours_limit_the_plan() -> None:
    world = world_with()
    nodes = sorted(world.kube.nodes)
    labels = {name: dict(world.kube.nodes[name].labels) for name in nodes}
    (key,) = {k for k in labels[nodes[0]] if len({labels[n].get(k) for n in nodes}) == 2}
    world.kube.queues = FakeKueue(
        {"team": {"one": {**GPUS, "nvidia.com/gpu": 0.0}, "other": dict(GPUS)}},
        {"one": {key: labels[nodes[0]][key]}, "other": {key: labels[nodes[-1]][key]}},
    )
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    allocation = world.coordinator.gangs[gang].allocation
    assert allocation is not None
    assert {labels[node][key] for node in allocation.nodes} == {labels[nodes[-1]][key]}


def test_what_is_deactivated_is_given_up() -> None:
    world = world_with()
    gang = submit(world)
    world.drive(gang)
    (workload,) = world.kube._of("Workload")
    workload["spec"]["active"] = False
    for _ in range(40):
        world.turn()
    with pytest.raises(UnsatisfiableError, match="Deactivated"):
        world.coordinator.status(gang)
    world.settle()


def test_a_request_that_somebody_deletes_is_a_quota_taken_back() -> None:
    world = world_with()
    gang = submit(world)
    for _ in range(3):
        world.turn()
    assert world.coordinator.gangs[gang].allocation is not None
    world.kube.drop("Workload")
    world.turn()
    assert world.coordinator.gangs[gang].allocation is None
    assert world.drive(gang) is Phase.READY


def test_a_program_that_ends_while_it_waits_leaves_no_request() -> None:
    world = world_with(**{"nvidia.com/gpu": 4.0})
    gang = submit(world)
    for _ in range(5):
        world.turn()
    assert "maximum capacity (4)" in str(world.coordinator.status(gang).waits_for[0])
    world.ray.jobs.clear()
    world.settle()
    with pytest.raises(GangGone):
        world.coordinator.status(gang)


def test_a_queue_that_is_none_is_refused_with_the_cure() -> None:
    world = world_with()
    world.kube.annotate_raycluster({QUEUE_ANNOTATION: "volcano/team"})
    world.turn()
    with pytest.raises(InvalidRequest, match="kueue/NAME"):
        submit(world)
    world.kube.annotate_raycluster({QUEUE_ANNOTATION: "kueue/team"})
    world.kube.kueue = False
    world.turn()
    with pytest.raises(InvalidRequest, match="does not serve"):
        submit(world)


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_write_a_gang_comes_and_goes_and_leaves_no_request(after: bool) -> None:
    """From the request to readiness, through a preemption, and back."""
    write = 0
    while True:
        world = world_with()
        low = submit(world)
        for _ in range(4):
            world.turn()
        high = submit(world, priority=1)
        world.kube.die_at(write, after=after)
        assert world.drive(high, 200) is Phase.READY, write
        world.coordinator.release(high)
        assert world.drive(low, 200) is Phase.READY, write
        world.coordinator.release(low)
        world.settle(120)
        if world.kube._left is not None:
            break
        write += 1
    assert write > 10


def test_a_raycluster_that_names_no_queue_any_more_leaves_no_request() -> None:
    world = world_with()
    first = submit(world)
    assert world.drive(first) is Phase.READY
    world.kube.annotate_raycluster({})
    world.turn()
    second = submit(world)
    assert world.coordinator.gangs[second].quota is None
    world.coordinator.release(first)
    world.coordinator.release(second)
    world.settle()
    world.turn()
    assert world.coordinator.idle


def test_an_ordinary_placement_group_that_ray_has_been_told_of_ends_with_its_quota() -> None:
    world = world_with()
    order = world.order()
    group = f"{7:036x}"
    request = replace(order.request, gang=group)
    world.coordinator.submit(replace(order, request=request, ordinary=OrdinaryGroup(group)))
    for _ in range(40):
        world.turn()
        if world.coordinator.gangs[group].group is not None:
            break
    assert world.coordinator.gangs[group].quota is not None
    (workload,) = world.kube._of("Workload")
    assert world.kube.queues is not None
    world.kube.queues.evict(workload, "ClusterQueueStopped", "The ClusterQueue is stopped")
    for _ in range(40):
        world.turn()
        if group not in world.coordinator.gangs:
            break
    with pytest.raises(UnsatisfiableError, match="ClusterQueueStopped"):
        world.coordinator.status(group)
    world.settle()


def test_a_request_whose_gangs_record_lies_aside_is_kept() -> None:
    """Its workers may run on; what pays for them does, too, until somebody lets the record go."""
    world = world_with()
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    world.store.put(GANG_KEY + gang, b"no record")
    world.restart()
    for _ in range(5):
        world.turn()
    assert gang not in world.coordinator.gangs
    assert len(workloads(world)) == 1
    world.coordinator.release(gang)
    world.settle()


def test_a_request_is_kept_by_its_number_however_often_it_was_evicted_before() -> None:
    """The gang's record lies aside, e.g. as a newer version's."""
    world = world_with()
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    record = json.loads(world.store.get(GANG_KEY + gang) or b"")
    world.store.put(GANG_KEY + gang, json.dumps({**record, "version": 99, "quota": {"asks": 250}}).encode())
    (workload,) = world.kube._of("Workload")
    world.kube.drop("Workload")
    world.kube.put({**workload, "metadata": {**workload["metadata"], "name": f"{stem_of(gang)}-q250"}})
    world.restart()
    for _ in range(5):
        world.turn()
    assert gang not in world.coordinator.gangs
    assert workloads(world) == [f"{stem_of(gang)}-q250"]
    world.coordinator.release(gang)
    world.settle()


def test_what_is_evicted_as_soon_as_it_is_made_is_asked_for_now_and_then() -> None:
    world = world_with()
    gang = submit(world)
    made = 0
    for _ in range(120):
        world.turn()
        for workload in world.kube._of("Workload"):
            if not workload["status"].get("seen"):
                made += 1
                workload["status"]["seen"] = True
                assert world.kube.queues is not None
                world.kube.queues.evict(workload, "AdmissionCheck", "At least one admission check is false")
    assert 60 / REST_SECONDS / 2 <= made <= 60 / REST_SECONDS + 2
    assert world.coordinator.status(gang).phase is Phase.QUOTA
    world.coordinator.release(gang)
    world.settle()


def ordinary(world: World, number: int, bundles: int) -> str:
    order, group = world.order(bundles), f"{number:036x}"
    request = replace(order.request, gang=group)
    world.coordinator.submit(replace(order, request=request, ordinary=OrdinaryGroup(group)))
    return group


def admit(world: World, gang: str) -> None:
    """In Kueue's own order, which is none of ours."""
    (workload,) = [w for w in world.kube._of("Workload") if w["metadata"]["name"].startswith(stem_of(gang))]
    assigned = [
        {"name": each["name"], "flavors": dict.fromkeys(GPUS, "default")} for each in workload["spec"]["podSets"]
    ]
    workload["status"] = {
        "admission": {"podSetAssignments": assigned},
        "conditions": [{"type": "Admitted", "status": "True", "reason": "Admitted", "message": ""}],
    }


def test_an_ordinary_placement_group_that_is_admitted_after_a_later_one_has_its_turn_all_the_same() -> None:
    """The later one does not fit, and nothing of the cluster changes."""
    world = world_with(**{"nvidia.com/gpu": 0.0})
    for node in sorted(world.kube.nodes)[1:]:
        for device in range(4):
            world.kube.take(node, f"gpu-{device}")
    first, second = ordinary(world, 1, 1), ordinary(world, 2, 2)
    world.turn()
    admit(world, second)
    for _ in range(4):
        world.turn()
    assert world.coordinator.status(second).phase is Phase.QUEUED
    admit(world, first)
    for _ in range(4):
        world.turn()
    assert world.coordinator.gangs[first].allocation is not None


def test_a_gang_that_is_admitted_anew_is_planned_on_its_new_nodes_though_the_cluster_has_not_changed() -> None:
    world = world_with()
    nodes = sorted(world.kube.nodes)
    for node in nodes:
        world.kube.label(node, pool="full" if node in nodes[:2] else "free")
    for node in nodes[:2]:
        for device in range(4):
            world.kube.take(node, f"gpu-{device}")
    none = {**GPUS, "nvidia.com/gpu": 0.0}
    labels = {"full": {"pool": "full"}, "free": {"pool": "free"}}
    world.kube.queues = FakeKueue({"team": {"full": dict(GPUS), "free": none}}, labels)
    world.turn()
    gang = submit(world)
    for _ in range(6):
        world.turn()
    assert world.coordinator.status(gang).phase is Phase.QUEUED
    world.kube.queues.queues["team"] = {"full": none, "free": dict(GPUS)}
    world.kube.queues.evict(world.kube._of("Workload")[0], "Preempted", "to accommodate another")
    assert world.drive(gang) is Phase.READY


def test_an_admission_that_goes_without_an_eviction_is_missed_in_the_same_words_as_before() -> None:
    world = world_with(**{"nvidia.com/gpu": 4.0})
    gang = submit(world)
    for _ in range(3):
        world.turn()
    assert world.kube.queues is not None
    world.kube.queues.queues["team"]["default"]["nvidia.com/gpu"] = 8.0
    for _ in range(6):
        world.turn()
    assert world.coordinator.gangs[gang].allocation is not None
    world.kube.queues.queues["team"]["default"]["nvidia.com/gpu"] = 4.0
    world.kube._of("Workload")[0]["status"].clear()
    for _ in range(3):
        world.turn()
    assert world.coordinator.gangs[gang].allocation is None


def test_an_eviction_that_is_taken_back_takes_the_notice_back_and_the_next_has_its_whole_grace() -> None:
    world = world_with()
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    (workload,) = world.kube._of("Workload")
    assert world.kube.queues is not None
    for _ in range(2):
        world.kube.queues.evict(workload, "ClusterQueueStopped", "The ClusterQueue is stopped")
        for _ in range(4):
            world.turn()
        assert world.coordinator.gangs[gang].notice is not None
        conditions = workload["status"]["conditions"]
        conditions[:] = [each for each in conditions if each["type"] != "Evicted"]
        for _ in range(2 * int(GRACE_SECONDS) + 4):
            world.turn()
        assert world.coordinator.gangs[gang].notice is None
        assert world.coordinator.status(gang).phase is Phase.READY


def test_a_gang_whose_program_removes_it_in_its_grace_is_not_asked_for_again() -> None:
    world = world_with()
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    for _ in range(6):
        world.turn()
    assert world.kube.queues is not None
    world.kube.queues.evict(world.kube._of("Workload")[0], "ClusterQueueStopped", "The ClusterQueue is stopped")
    world.turn()
    group = world.coordinator.gangs[gang].group
    assert group is not None
    world.ray.remove_group(group)
    world.settle(20)


def test_a_request_that_a_coordinator_left_is_given_up_by_the_next_though_the_annotation_is_gone() -> None:
    """Nor does that one end before it has seen which there are."""
    world = world_with()
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    world.coordinator.release(gang)
    while gang in world.coordinator.gangs:
        world.turn()
    assert workloads(world)
    world.kube.annotate_raycluster({})
    world.kube._watches_queues = False
    world.kube.seize_lease("the one before")
    world.restart()
    assert not world.coordinator.idle
    world.kube.free_lease()
    for _ in range(3):
        world.turn()
    assert not workloads(world)
    assert world.coordinator.idle


def test_a_raycluster_that_is_suspended_leaves_no_request() -> None:
    """Its coordinator ends with it, and the RayCluster, which owns the requests, stays. Let go on before that, what ran
    has lost its quota, and what waited is asked for again."""
    world = world_with()
    runs = submit(world)
    assert world.drive(runs) is Phase.READY
    waits = submit(world)
    world.turn()
    assert len(workloads(world)) == 2
    world.kube.apply_raycluster(suspend=True)
    for _ in range(3):
        world.turn()
    assert not workloads(world)
    world.kube.apply_raycluster(suspend=False)
    for _ in range(10):
        world.turn()
    with pytest.raises(UnsatisfiableError, match="the request is gone"):
        world.coordinator.status(runs)
    assert world.drive(waits) is Phase.READY


@pytest.mark.parametrize("evicted", [True, False], ids=["evicted", "released"])
def test_what_was_made_since_the_last_look_is_waited_for_before_its_request_is_given_up(evicted: bool) -> None:
    """No look has shown the pod yet; and a gang on one node has no ComputeDomain that one would have shown."""
    world = world_with()
    order = world.order(1)
    gang = world.coordinator.submit(order).gang
    while not world.kube._of("Pod"):
        world.turn()
    (name,) = workloads(world)
    if evicted:
        assert world.kube.queues is not None
        world.kube.queues.evict(world.kube._of("Workload")[0], "Preempted", "to accommodate another")
    else:
        world.coordinator.release(gang)
    for look in range(40):
        world.clock.now += 0.1
        world.coordinator.observe()
        assert name in workloads(world) or not world.kube._of("Pod")
        if look % 10 == 9:
            world.kube.step()
    assert name not in workloads(world)


def test_a_coordinator_that_starts_again_keeps_notice_and_deadline_of_a_gang_that_was_evicted() -> None:
    """Also before its watch has shown what Kueue says."""
    world = world_with()
    gang = submit(world)
    assert world.drive(gang) is Phase.READY
    world.coordinator._wall = lambda: world.clock.now
    world.kube.queues.evict(world.kube._of("Workload")[0], "Preempted", "to accommodate another")  # type: ignore[union-attr]
    began = world.clock.now
    for _ in range(4):
        world.turn()
    notice = world.coordinator.gangs[gang].notice
    assert notice is not None
    while gang in world.coordinator.gangs and not world.coordinator.gangs[gang].releasing:
        assert world.coordinator.gangs[gang].notice == notice
        assert world.clock.now - began <= GRACE_SECONDS + 10
        if (world.clock.now - began) % 10 == 0:
            world.kube._watches_queues = False
            watch, world.kube.watch_queues = world.kube.watch_queues, lambda: None  # type: ignore[method-assign]
            world.restart()
            world.coordinator._wall = lambda: world.clock.now
            world.turn()
            world.kube.watch_queues = watch  # type: ignore[method-assign]
        world.turn()
    assert world.clock.now - began >= GRACE_SECONDS
