"""Workers, nodes and devices that are lost while a gang's workers are made on a fake Kubernetes, or after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ray_dra.coordinator.backends.kubernetes.backend import KubernetesBackend
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import UnsatisfiableError
from ray_dra.ports.kube_objects import Pod
from ray_dra.simulated.fakes import FakeRay
from ray_dra.translate.names import GANG_LABEL, VERIFIED_KEY
from ray_dra.translate.nvml.reading import ZERO_UUID
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator.kubernetes_world import World
from tests.coordinator.world import tray


@pytest.mark.parametrize("turn", range(2, 5))
def test_a_worker_lost_in_the_making_is_made_anew_in_its_slot_while_the_others_stay(turn: int) -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(turn):
        world.turn()
    first, other = world.kube.view().pods
    assert world.coordinator.status(gang).phase is not Phase.READY
    world.kube.delete("Pod", first.name)
    assert world.drive(gang) is Phase.READY
    made = {pod.name: pod.uid for pod in world.kube.view().pods}
    assert made.keys() == {first.name, other.name}
    assert made[other.name] == other.uid
    assert made[first.name] != first.uid
    assert world.coordinator.status(gang).moves == 0
    world.coordinator.release(gang)
    world.settle()


def test_a_gang_whose_workers_are_lost_again_and_again_gives_all_back_and_is_planned_anew() -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(20):  # 10 s: no stage's patience is as short
        known = world.kube.view().pods
        world.turn()
        for pod in known:
            world.kube.drop("Pod", pod.name)
        if world.coordinator.status(gang).moves:
            break
    assert world.coordinator.status(gang).moves == 1
    assert world.drive(gang) is Phase.READY


KINDS = ("ResourceClaimTemplate", "ComputeDomain", "ResourceClaim", "RayCluster")


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("victim", ["node", "gone", "device", "pod", "control store", *KINDS])
def test_what_is_lost_at_any_moment_moves_the_whole_gang_or_ends_it(turn: int, victim: str) -> None:
    world = World(nodes=6, cliques=2)  # three trays a rack: one to spare
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(turn):
        world.turn()
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    node = allocation.nodes[0]
    if victim == "node":
        world.kube.lose_node(node)
    elif victim == "gone":
        world.kube.delete_node(node)
    elif victim == "device" and (node, "gpu-0") not in world.kube.claimed():
        world.kube.take(node, "gpu-0")
    elif victim == "pod":
        for pod in world.kube.view().pods[:1]:
            world.kube.delete("Pod", pod.name)
    elif victim == "ResourceClaim":
        for claim in world.kube.view().claims[:1]:
            world.kube.delete(victim, claim.name)
    elif victim in KINDS[:2]:
        world.kube.drop(victim)
    elif victim == "RayCluster":
        world.kube.apply_raycluster(upgradeStrategy={"type": "Recreate"})
    elif victim == "control store":
        world.store.data.clear()
        world.ray = FakeRay()
        world.restart()
        world.settle()
        return
    found = world.drive(gang, turns=200)
    if found is Phase.DEGRADED:  # it stood already, and what is lost of it shows
        assert world.coordinator.status(gang).lost
    else:
        assert found is Phase.READY
        chosen = world.coordinator.status(gang).allocation
        assert chosen is not None
        if victim in ("node", "gone"):
            assert node not in chosen.nodes
    world.coordinator.release(gang)
    for _ in range(100):
        world.turn()
    assert not world.coordinator.gangs  # what lingers on a lost node holds up nobody
    world.kube.regain_node(node)
    world.settle()


def test_devices_that_the_scheduler_gave_out_twice_are_given_back_at_once() -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    while not (ours := world.kube.claimed()):
        world.turn()
    world.kube.doubled = True
    world.kube.take(*ours[0])
    assert world.drive(gang, turns=40) is Phase.READY  # 20 s; no pod would be missed for two minutes
    assert world.coordinator.status(gang).moves == 1
    assert ours[0] not in world.kube.claimed()[1:]
    world.kube.give_back(*ours[0])
    world.kube.doubled = False
    world.coordinator.release(gang)
    world.settle()


def test_what_nvml_finds_in_a_gangs_worker_shows_and_keeps_others_off_the_gpu() -> None:
    world = World(nodes=2, cliques=1)
    gang = world.coordinator.submit(world.order(bundles=1)).gang
    assert world.drive(gang) is Phase.READY
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    raylet = next(n for n in world.ray.nodes.values() if n.alive)
    faulty = tray("x", rack=str(allocation.grants[0].clique).rpartition(".")[0], xids=(79,))
    uuids = [grant.uuid for grant in allocation.grants]
    clique = int(str(allocation.grants[0].clique).rpartition(".")[2])
    gpus = tuple(
        replace(g, uuid=u, fabric=replace(g.fabric, clique_id=clique)) if g.fabric else g
        for g, u in zip(faulty.gpus, uuids, strict=True)
    )
    world.coordinator.report(raylet.id, replace(faulty, gpus=gpus))
    world.turn()
    status = world.coordinator.status(gang)
    assert status.phase is Phase.DEGRADED
    assert len(status.lost) == 1
    assert "XID 79" in status.lost[0]
    world.coordinator.release(gang)
    world.settle()
    more = world.coordinator.submit(world.order(bundles=2))
    assert more.phase is Phase.QUEUED  # one of the eight is left out
    world.coordinator.report(raylet.id, tray("x"))  # nobody's worker any more: not heard
    world.later(601)
    world.turn()
    assert world.coordinator.status(more.gang).phase is Phase.PROVISIONING


def test_a_worker_that_sees_one_gpu_of_a_box_says_nothing_of_its_clique() -> None:
    """By NVML a GPU is in a box where another one is on the same switches."""
    world = World(1, None, "hgx-b200")
    gang = world.coordinator.submit(Order(request_from_bundles([{"GPU": 1}]), owner="job")).gang
    assert world.drive(gang) is Phase.READY
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    (grant,) = allocation.grants
    assert grant.clique is not None
    raylet = next(n for n in world.ray.nodes.values() if n.alive)
    seen = tray("x")
    fabric = seen.gpus[0].fabric
    assert fabric is not None
    alone = replace(seen.gpus[0], uuid=grant.uuid, fabric=replace(fabric, cluster_uuid=ZERO_UUID))
    world.coordinator.report(raylet.id, replace(seen, gpus=(alone,)))
    world.turn()
    assert world.coordinator.status(gang).phase is Phase.READY
    world.coordinator.report(raylet.id, replace(seen, gpus=(alone, replace(alone, uuid="GPU-other", links=()))))
    world.turn()
    assert world.coordinator.status(gang).phase is Phase.DEGRADED, "beside another one it is told"


def test_nodes_that_are_left_out_for_a_while_refuse_nobody_for_ever() -> None:
    world = World(nodes=2, cliques=1)
    backend = world.coordinator.backend
    assert isinstance(backend, KubernetesBackend)
    backend.machines.avoid(["gb200-r0-t00"], "a test")
    world.turn()
    status = world.coordinator.submit(world.order())
    assert status.phase is Phase.QUEUED
    assert "4 free of 8" in "; ".join(map(str, status.waits_for))
    world.later(61)
    assert world.drive(status.gang) is Phase.READY


@pytest.mark.parametrize(("stage", "seconds"), [("bound", 20), ("verified", 120), ("joined", 60)])
def test_a_gang_that_waits_in_vain_for_one_node_is_planned_without_it(stage: str, seconds: int) -> None:
    world = World(nodes=6, cliques=2)
    gang = world.coordinator.submit(world.order()).gang
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    bad, good = allocation.nodes
    running, add_node, schedule = world.kube.running, world.ray.add_node, world.kube._schedule

    def hanging() -> list[tuple[Pod, frozenset[str]]]:
        return [(pod, devices) for pod, devices in running() if pod.node != bad]

    def add_others(raylet: str, **more: Any) -> None:
        if {pod.name: pod.node for pod in world.kube.view().pods}[raylet] != bad:
            add_node(raylet, **more)

    def schedule_others(pod: dict[str, Any]) -> None:
        if bad not in str(pod["spec"]["affinity"]):
            schedule(pod)

    if stage == "bound":
        world.kube._schedule = schedule_others  # type: ignore[method-assign]
    elif stage == "verified":
        world.kube.running = hanging  # type: ignore[method-assign]
    else:
        world.ray.add_node = add_others  # type: ignore[method-assign]
    assert world.drive(gang, turns=2 * seconds + 60) is Phase.READY
    status = world.coordinator.status(gang)
    assert status.moves == 1
    assert status.allocation is not None
    assert bad not in status.allocation.nodes
    assert good in status.allocation.nodes, "only the one that was behind"


def test_a_gang_on_a_node_where_another_gang_failed_has_lost_nothing() -> None:
    world = World(nodes=2, cliques=1)
    first, second = (world.coordinator.submit(world.order(bundles=1, gpus=2)).gang for _ in range(2))
    nodes = [allocation.nodes for g in (first, second) if (allocation := world.coordinator.status(g).allocation)]
    assert nodes[0] == nodes[1]
    assert world.drive(first) is Phase.READY
    failing = next(pod for pod in world.kube._of("Pod") if pod["metadata"]["labels"][GANG_LABEL] == second)
    failing["status"] = {"phase": "Failed", "message": "a test"}
    world.kube.put(failing)
    world.coordinator.observe()
    world.turn()
    moved = world.coordinator.status(second).allocation
    assert moved is not None
    assert moved.nodes != nodes[0]
    assert world.coordinator.status(first).phase is Phase.READY
    world.kube.lose_node(nodes[0][0])
    world.turn()
    assert world.coordinator.status(first).phase is Phase.DEGRADED


def test_a_worker_that_ends_because_it_is_deleted_has_not_failed() -> None:
    """A kubelet writes how its containers ended, then lets the pod go."""
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(4):
        world.turn()
    pod = world.kube._of("Pod")[0]
    pod["metadata"]["deletionTimestamp"] = "now"
    pod["status"] = {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 143}}}]}
    world.kube.put(pod)
    world.coordinator.observe()
    assert world.drive(gang) is Phase.READY
    assert world.coordinator.status(gang).moves == 0


def test_what_a_lost_worker_has_proved_does_not_count_after_a_restart_either() -> None:
    world = World()
    world.coordinator.submit(world.order())
    while len(world.store.keys(VERIFIED_KEY)) < 2:
        world.turn()
    first, other = world.kube.view().pods
    world.kube.stop_scheduling()
    world.kube.drop("Pod", first.name)
    world.restart()
    assert len(world.store.keys(VERIFIED_KEY)) == 1
    assert other.name.rpartition("-")[2] in world.store.keys(VERIFIED_KEY)[0]


def test_an_attempt_that_never_gets_on_is_given_up_a_bounded_number_of_times() -> None:
    """Pods that never start: planned again on other nodes, and in the end a typed error that says why."""
    world = World(nodes=2, cliques=1)
    gang = world.coordinator.submit(world.order(bundles=1)).gang
    world.kube.stop_scheduling()
    for _ in range(2000):
        world.turn()
        world.later(5)
        if gang not in world.coordinator.gangs:
            break
    with pytest.raises(UnsatisfiableError, match=r"given up: .*without progress"):
        world.coordinator.status(gang)
    assert isinstance(world.order().request, GangRequest)
    world.settle()
