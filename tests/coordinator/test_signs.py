"""What each sign does to planning and to a gang that is ready, on raylets and on Kubernetes; and what does nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from ray_dra.core.gangs.drains import FLAP_SECONDS
from ray_dra.core.gangs.gang import GroupSet, OrdinaryGroup
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.signs import Severity
from ray_dra.ports.nvml import GpuReading, NodeReading
from ray_dra.translate.names import NVSENTINEL_STATE_LABEL
from tests.coordinator import kubernetes_world
from tests.core.machines import gang

from .world import World, tray

INFORM, DRAIN, LOST = Severity.INFORM, Severity.DRAIN, Severity.LOST
KubeWorld = kubernetes_world.World
STANDS = int(FLAP_SECONDS) + 2

# -- raylets that are there


def reads(world: World, node: str, **change: object) -> None:
    """NVML says this of the node's GPU 0."""
    reading = tray(node, rack=world.racks[node])
    first = replace(reading.gpus[0], **change)  # type: ignore[arg-type]
    world.coordinator.report(world.raylet(node), replace(reading, gpus=(first, *reading.gpus[1:])))


def links_down(world: World, node: str, count: int) -> None:
    links = tray(node).gpus[0].links
    reads(world, node, links=tuple(replace(link, active=at >= count) for at, link in enumerate(links) if link))


NVML: dict[str, tuple[Callable[[World, str], None], Severity]] = {
    "XID 31": (partial(reads, xids=(31,)), INFORM),
    "one link of two down": (partial(links_down, count=1), INFORM),
    "every link down": (partial(links_down, count=2), DRAIN),
    "a recovery action": (partial(reads, recovery=1), DRAIN),
    "row remapping failed": (partial(reads, remap_failed=True), DRAIN),
    "XID 79": (partial(reads, xids=(79,)), LOST),
    "the GPU lost": (partial(reads, lost=True), LOST),
}


def with_gang() -> World:
    world = World()
    world.submit(gang(4, name="train"))
    world.place("train")
    world.pass_time(3)
    assert world.coordinator.status("train").phase is Phase.READY
    return world


@pytest.mark.parametrize("sign", NVML)
def test_what_nvml_shows_does_what_its_severity_says(sign: str) -> None:
    befalls, severity = NVML[sign]
    world = with_gang()
    allocation = world.coordinator.status("train").allocation
    assert allocation is not None
    node = allocation.nodes[0]
    befalls(world, node)
    assert world.coordinator.status("train").notice is None
    world.pass_time(STANDS)
    status = world.coordinator.status("train")
    assert status.phase is (Phase.DEGRADED if severity is LOST else Phase.READY)
    assert (status.notice is not None) is (severity is DRAIN)
    if status.notice is not None:
        assert status.notice.ranks == (0,)
        assert status.notice.reason.startswith(f"to be drained: {node}/gpu-0: ")
    world.coordinator.release("train")
    world.pass_time(KEPT_SECONDS + 5)
    befalls(world, node)
    fits = world.coordinator.plan(gang(*[4] * 4, name="all"))
    assert hasattr(fits, "bundles") is (severity is INFORM), "nothing new is planned on it"
    reads(world, node)
    assert hasattr(world.coordinator.plan(gang(*[4] * 4, name="all")), "bundles")


def test_a_replica_that_ray_drains_is_replaced_in_the_clique_of_its_application() -> None:
    """Serve makes another one before it ends the one that is there; by itself that would go to the fullest tray."""
    world = World()
    numbers = iter(range(101, 109))

    def replica(*sizes: int, part_of: GroupSet | None = None) -> set[str]:
        name = f"{next(numbers):036x}"
        world.submit(gang(*sizes, name=name), ordinary=OrdinaryGroup(name, part_of=part_of))
        world.pass_time(1)
        found = world.coordinator.gangs[name].allocation
        assert found is not None
        return set(found.nodes)

    application = GroupSet("app")
    (first,) = replica(2, 2, part_of=application)
    world.submit(gang(4, 2, name="others", locality=Locality(cliques=1)))
    world.place("others")
    world.ray.drain(world.raylet(first), "the machine goes", 1e9)
    world.pass_time(2)
    (by_itself,) = set(getattr(world.coordinator.plan(gang(1, 1)), "nodes", ()))
    assert world.racks[by_itself] != world.racks[first]
    (second,) = replica(1, 1, part_of=application)
    assert second != first
    assert world.racks[second] == world.racks[first]
    world.check()


def test_a_notice_outlives_the_coordinator_and_is_taken_back_with_its_sign() -> None:
    world = with_gang()
    allocation = world.coordinator.status("train").allocation
    assert allocation is not None
    node = allocation.nodes[0]
    reads(world, node, recovery=2)
    world.pass_time(STANDS)
    told = world.coordinator.status("train").notice
    assert told is not None
    world.restart()
    assert world.coordinator.status("train").notice == told, "until its agent has spoken, nobody knows better"
    world.pass_time(2)
    reads(world, node, recovery=2)
    world.pass_time(2)
    assert world.coordinator.status("train").notice == told
    reads(world, node)
    world.pass_time(2)
    assert world.coordinator.status("train").notice is None


def test_nothing_moves_in_a_thousand_flaps() -> None:
    """Application XIDs, links that come and go, seconds without an answer of NVML."""
    chance, world = random.Random(1), with_gang()
    told: list[Notice | None] = []
    for _ in range(1000):
        node = chance.choice(world.names)
        match chance.randrange(4):
            case 0:
                reads(world, node, xids=(chance.choice([13, 31, 43, 45]),))
            case 1:
                links_down(world, node, chance.choice([1, 2]))
            case 2:
                reads(world, node, recovery=chance.randint(1, 5))
            case 3:
                world.coordinator.report(world.raylet(node), NodeReading(error="NVML did not answer in 3 s"))
        world.pass_time(chance.choice([1, 3, 9]))
        told.append(world.coordinator.status("train").notice)
        reads(world, node)
        world.pass_time(chance.choice([1, 2]))
        status = world.coordinator.status("train")
        assert (status.phase, status.moves) == (Phase.READY, 0)
    assert not any(told)
    assert not world.coordinator.observer.drains.tripped
    world.check()


# -- Kubernetes


def heard(world: KubeWorld, node: str, **change: object) -> None:
    """The agent in the gang's own worker says this of its first GPU."""
    raylet = next(name for name, each in world.ray.nodes.items() if each.alive and _on(world, name) == node)
    state = world.coordinator.inventory.node_states[node]
    gpus = tuple(GpuReading(index=at, uuid=device.uuid) for at, device in enumerate(state.node.devices))
    found = replace(gpus[0], **change)  # type: ignore[arg-type]
    world.coordinator.report(raylet, NodeReading("580", (found,)))


def _on(world: KubeWorld, raylet: str) -> str | None:
    return world.coordinator.observer.slot_on(raylet, world.coordinator.records.wanted())


KUBE: dict[str, tuple[Callable[[KubeWorld, str], None], Severity]] = {
    "a cordon": (lambda world, node: world.kube.cordon(node), DRAIN),
    "PreferNoSchedule": (lambda world, node: world.kube.taint(node, "PreferNoSchedule"), INFORM),
    "NoSchedule": (lambda world, node: world.kube.taint(node, "NoSchedule"), DRAIN),
    "NoExecute": (lambda world, node: world.kube.taint(node, "NoExecute"), LOST),
    "NVSentinel drains": (
        lambda world, node: world.kube.label(node, **{NVSENTINEL_STATE_LABEL: "draining"}),
        DRAIN,
    ),
    "NVSentinel's condition": (lambda world, node: world.kube.condition(node, "GpuNvlinkWatch"), DRAIN),
    "maintenance": (lambda world, node: world.kube.condition(node, "CSPMaintenance"), DRAIN),
    "a device's taint None": (lambda world, node: world.kube.taint_device(node, "gpu-0", "None"), INFORM),
    "a device's taint NoSchedule": (lambda world, node: world.kube.taint_device(node, "gpu-0", "NoSchedule"), DRAIN),
    "a device's taint NoExecute": (lambda world, node: world.kube.taint_device(node, "gpu-0", "NoExecute"), LOST),
    "a DeviceTaintRule of effect None": (
        lambda world, node: world.kube.put_taint_rule(node, "None", pool=node),
        INFORM,
    ),
    "a DeviceTaintRule NoSchedule": (
        lambda world, node: world.kube.put_taint_rule(node, "NoSchedule", pool=node, device="gpu-0"),
        DRAIN,
    ),
    "a DeviceTaintRule NoExecute": (
        lambda world, node: world.kube.put_taint_rule(node, "NoExecute", driver="gpu.nvidia.com", pool=node),
        LOST,
    ),
    "a silent kubelet": (lambda world, node: world.kube.lose_node(node), LOST),
    "the node deleted": (lambda world, node: world.kube.delete_node(node), LOST),
}


def with_kube_gang(nodes: int = 4) -> tuple[KubeWorld, str, str]:
    world = KubeWorld(nodes=nodes)
    gang_id = world.coordinator.submit(world.order(name="train")).gang
    assert world.drive(gang_id) is Phase.READY
    allocation = world.coordinator.status(gang_id).allocation
    assert allocation is not None
    return world, gang_id, allocation.nodes[1]


@pytest.mark.parametrize("sign", KUBE)
def test_what_kubernetes_says_does_what_its_severity_says(sign: str) -> None:
    befalls, severity = KUBE[sign]
    world, gang_id, node = with_kube_gang()
    befalls(world, node)
    world.later(int(FLAP_SECONDS) - 1)
    assert world.coordinator.status(gang_id).notice is None
    world.later(3)
    status = world.coordinator.status(gang_id)
    assert status.phase is (Phase.DEGRADED if severity is LOST else Phase.READY)
    assert (status.notice is not None) is (severity is DRAIN)
    assert status.moves == 0
    told = [message for reason, message in world.kube.told if reason == "GangNotice"]
    assert len(told) == (severity is DRAIN)
    if status.notice is not None:
        assert status.notice.ranks == (1,)
        assert node in status.notice.reason
        assert "bundle 1 will end: to be drained" in told[0]
    assert status.allocation is not None
    free = next(name for name in world.kube.nodes if name not in status.allocation.nodes)
    assert hasattr(world.coordinator.plan(world.order().request), "bundles"), "the other rack is well"
    befalls(world, free)
    world.later(1)
    planned = world.coordinator.plan(world.order().request)
    assert hasattr(planned, "bundles") is (severity is INFORM), "nothing new is planned there"


def test_what_the_agent_of_a_worker_finds_is_a_sign_too() -> None:
    world, gang_id, node = with_kube_gang()
    heard(world, node, recovery=1)
    world.later(STANDS)
    status = world.coordinator.status(gang_id)
    assert (status.phase, status.lost) == (Phase.READY, ())
    assert status.notice is not None
    assert "GPU reset needed" in status.notice.reason
    heard(world, node, recovery=1, xids=(79,))
    world.later(1)
    assert world.coordinator.status(gang_id).phase is Phase.DEGRADED


def test_one_notice_for_all_that_go_together() -> None:
    world, gang_id, _ = with_kube_gang(nodes=6)
    allocation = world.coordinator.status(gang_id).allocation
    assert allocation is not None
    for node in allocation.nodes:
        world.kube.cordon(node)
    world.later(STANDS)
    status = world.coordinator.status(gang_id)
    assert status.notice is not None
    assert status.notice.ranks == (0, 1)
    assert [reason for reason, _ in world.kube.told].count("GangNotice") == 1


def test_half_of_the_cluster_asks_a_person_and_tells_no_gang() -> None:
    world, gang_id, node = with_kube_gang(nodes=6)
    allocation = world.coordinator.status(gang_id).allocation
    assert allocation is not None
    others = [name for name in world.kube.nodes if name not in allocation.nodes]
    for name in (*others[:2], node):
        world.kube.cordon(name)
        world.later(20)
    assert world.coordinator.status(gang_id).notice is None
    assert [reason for reason, _ in world.kube.told].count("DrainWave") == 1
    assert "3 of 6 nodes" in world.coordinator.observer.drains.tripped
    assert world.coordinator.status(gang_id).phase is Phase.READY
    world.later(600)
    assert world.coordinator.status(gang_id).notice is None
    world.kube.cordon(others[0], False)
    world.later(STANDS)
    assert world.coordinator.status(gang_id).notice is not None
    assert not world.coordinator.observer.drains.tripped
    assert [reason for reason, _ in world.kube.told].count("DrainWave") == 1


def test_nothing_moves_in_a_thousand_flaps_on_kubernetes() -> None:
    """Cordons and taints of less than ten seconds, and effect None for as long as it likes."""
    chance, (world, gang_id, _) = random.Random(2), with_kube_gang()
    names = sorted(world.kube.nodes)
    for _ in range(1000):
        node = chance.choice(names)
        match chance.randrange(4):
            case 0:
                world.kube.cordon(node)
            case 1:
                world.kube.taint(node, "NoSchedule")
            case 2:
                world.kube.taint_device(node, f"gpu-{chance.randrange(4)}", "None")
            case 3:
                world.kube.condition(node, "GpuMemWatch")
        world.later(chance.choice([1, 4, 9]))
        status = world.coordinator.status(gang_id)
        assert (status.phase, status.moves, status.notice) == (Phase.READY, 0, None)
        world.kube.cordon(node, False)
        world.kube.taint(node, "")
        world.kube.condition(node)
        world.later(1)
    assert not {"GangNotice", "GangDegraded", "DrainWave"} & {reason for reason, _ in world.kube.told}
