"""on_fault="restart": the whole gang is planned again after a fault, with its turn and its place kept; on raylets that
are there and on Kubernetes, with the coordinator killed at any moment of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from ray_dra.coordinator.backends.raylets.nodes import SILENT_SECONDS
from ray_dra.core.gangs.drains import FLAP_SECONDS
from ray_dra.core.gangs.gang import Maker
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.repair import DEGRADE, OnFault, on_fault
from ray_dra.errors import GangGone
from ray_dra.ports.nvml import NodeReading
from ray_dra.translate.names import NODE_LABEL
from tests.coordinator.kills import die_at, spare
from tests.core.machines import gang

from .fault_worlds import GRACE, NAME, ONE_CLIQUE, RESTART, KubeWorld, World
from .world import Crash, Phase, tray

STANDS = FLAP_SECONDS + GRACE + 2


def drained(world: World, node: str) -> None:
    reading = tray(node, rack=world.racks[node])
    first = replace(reading.gpus[0], recovery=1)
    world.coordinator.report(world.raylet(node), replace(reading, gpus=(first, *reading.gpus[1:])))


FAULTS: dict[str, Callable[[World, str], None]] = {
    "XID 79": lambda world, node: world.report(node, xids=(79,)),
    "a GPU lost": lambda world, node: world.report(node, lost=1),
    "its raylet dead": World.lose_raylet,
    "to be drained": drained,
    "NVML hung": lambda world, node: world.coordinator.report(world.raylet(node), NodeReading(error="NVML hangs")),
}
AT_ONCE = {"XID 79", "a GPU lost", "its raylet dead"}


@pytest.mark.parametrize("maker", [Maker(), None], ids=["made here", "made by the program"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_gang_is_started_again_elsewhere_once_its_notice_is_over(fault: str, maker: Maker | None) -> None:
    world = World()
    world.with_gang(maker=maker)
    before, group = world.nodes, world.status.group
    victim = sorted(before)[1]
    FAULTS[fault](world, victim)
    if fault not in AT_ONCE:
        world.pass_time(FLAP_SECONDS)
    world.pass_time(1)
    told = world.status.notice
    assert told is not None
    assert (told.ranks, told.faulty, told.deadline) == ((0, 1), (1,), told.since + GRACE)
    assert victim in told.reason
    assert (world.status.phase, world.status.moves) == (Phase.DRAINING, 0)
    world.pass_time(GRACE + 1)
    if maker is None:
        assert world.status.phase is Phase.HELD
        world.place(NAME)
    world.pass_time(2)
    status = world.status
    assert (status.phase, status.moves, status.notice) == (Phase.READY, 1, None)
    assert before.isdisjoint(world.nodes)
    assert status.group != group
    assert world.groups("CREATED") == [status.group]
    assert world.groups("REMOVED") == [group]
    whys = [change.why for change in status.history]
    assert f"notice: {told.reason}" in whys
    assert f"restart: {told.reason}" in whys
    world.check()


@pytest.mark.parametrize("declared", [RESTART, DEGRADE], ids=["restart", "degrade"])
def test_a_gang_whose_bundle_others_work_keeps_away_has_lost_it(declared: OnFault) -> None:
    """A raylet that was started again, on which work that was queued in Ray was quicker than the gang's bundle: it
    stood as being placed for ever."""
    world = World()
    world.with_gang(declared)
    before, victim = world.status, max(world.nodes)
    world.lose_raylet(victim)
    place, world.ray.place = world.ray.place, lambda: None  # type: ignore[method-assign]
    world.incarnation[victim] += 1
    world.ray.add_node(world.raylet(victim), gpus=4, labels={NODE_LABEL: victim})
    pid, _ = world.ray.start_task(world.raylet(victim), 4) or (0, ())
    world.ray.place = place  # type: ignore[method-assign]
    world.coordinator.observe()
    world.report(victim)
    world.pass_time(FLAP_SECONDS - 3)
    assert (world.status.phase, world.status.lost) == (Phase.PLACING, ())
    world.pass_time(4)
    assert world.status.lost == ("bundle 1: Ray does not place it again, though its raylet is there",)
    if declared is DEGRADE:
        assert world.status.phase is Phase.DEGRADED
        del world.ray.tasks[pid]
        world.pass_time(2)
        after = world.status
        assert (after.phase, after.lost, after.group) == (Phase.READY, (), before.group)
    else:
        world.pass_time(GRACE + 2)
        assert (world.status.phase, world.status.moves) == (Phase.READY, 1)
        assert victim not in world.nodes
    world.check()


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_over_before_the_notice_is_moves_nothing(fault: str) -> None:
    world = World()
    world.with_gang()
    before, victim = world.status, sorted(world.nodes)[0]
    FAULTS[fault](world, victim)
    world.pass_time(GRACE - 2 if fault in AT_ONCE else FLAP_SECONDS + GRACE - 2)
    assert world.status.phase is Phase.DRAINING
    world.start_raylet(victim) if fault == "its raylet dead" else world.report(victim)
    world.pass_time(STANDS)
    status = world.status
    assert (status.phase, status.moves, status.notice) == (Phase.READY, 0, None)
    assert status.allocation == before.allocation
    world.check()


def test_degrade_is_what_nobody_declares_and_does_nothing() -> None:
    for declared in (None, DEGRADE):
        world = World()
        world.with_gang(declared)  # type: ignore[arg-type]
        world.report(min(world.nodes), xids=(79,))
        world.pass_time(STANDS)
        assert (world.status.phase, world.status.moves, world.status.notice) == (Phase.DEGRADED, 0, None)


def full() -> World:
    """Both racks are taken, and somebody waits for half a one."""
    world = World()
    world.with_gang()
    for job, name, sizes in (("fills", "fills", (4, 4)), ("queued", "waits", (4,))):
        world.ray.jobs.add(job)
        world.coordinator.submit(Order(gang(*sizes, name=name, locality=ONE_CLIQUE), owner=job))
    world.place("fills")
    world.pass_time(2)
    return world


def test_where_nothing_else_is_free_it_waits_with_its_turn_and_its_place_kept() -> None:
    world = full()
    before, victim = world.nodes, min(world.nodes)
    world.report(victim, xids=(79,))
    world.pass_time(GRACE + 2)
    assert (world.status.phase, world.status.group) == (Phase.QUEUED, None)
    assert world.coordinator.records.first is not None
    assert world.coordinator.records.first.id == NAME, "it came before the one that waits"
    world.pass_time(KEPT_SECONDS / 2)
    assert world.coordinator.status("waits").phase is Phase.QUEUED
    world.check()
    world.report(victim)  # repaired
    world.pass_time(3)
    assert (world.status.phase, world.nodes) == (Phase.READY, before)
    assert world.coordinator.status("waits").phase is Phase.QUEUED
    world.check()


def test_it_waits_in_its_turn_for_another_place_too() -> None:
    world = full()
    before = world.nodes
    world.report(min(before), xids=(79,))
    world.pass_time(GRACE + KEPT_SECONDS + 5)
    assert (world.status.phase, world.coordinator.status("waits").phase) == (Phase.QUEUED, Phase.QUEUED), (
        "in their turn"
    )
    world.coordinator.release("fills")
    world.pass_time(3)
    assert world.status.phase is Phase.READY
    assert before.isdisjoint(world.nodes)
    world.check()


def test_what_is_to_be_drained_runs_on_until_there_is_another_place() -> None:
    world = full()
    before = world.nodes
    drained(world, min(before))
    world.pass_time(60)
    assert (world.status.phase, world.nodes, world.status.moves) == (Phase.DRAINING, before, 0)
    world.coordinator.release("waits")
    world.coordinator.release("fills")
    world.pass_time(3)
    notice = world.status.notice
    assert (world.status.ends, world.status.moves) == (True, 0), "its program hears of it first"
    assert notice is not None
    assert notice.deadline == notice.since + GRACE
    world.restart()
    world.pass_time(FLAP_SECONDS + 1)
    assert (world.status.phase, world.status.moves) == (Phase.READY, 1)
    assert before.isdisjoint(world.nodes)
    world.check()


@pytest.mark.parametrize("silent", [0, 1])
def test_what_is_to_be_drained_runs_on_though_an_agent_is_silent_for_seconds(silent: int) -> None:
    """There is no other place, and nothing of it is lost."""
    world = full()
    before = world.nodes
    drained(world, min(before))
    world.pass_time(STANDS)
    heard = {world.raylet(node) for node in world.names} - {world.raylet(sorted(before)[silent])}
    for _ in range(int(SILENT_SECONDS) + 3):
        world.clock.now += 1
        for each in heard:
            world.coordinator.nodes.heartbeat(each)
        world.coordinator.observe()
    for node in sorted(world.names):
        drained(world, node) if node == min(before) else world.report(node)
    world.pass_time(STANDS)
    assert (world.status.phase, world.nodes, world.status.moves) == (Phase.DRAINING, before, 0)


@pytest.mark.parametrize("starts", [0, 1, 5])
def test_the_notice_of_what_is_silent_goes_on_while_it_is_lost_in_another_way_or_not_seen_yet(starts: int) -> None:
    """Nothing ends before it has stood for long enough again, and the deadline is not put off."""
    world = World()
    world.with_gang()
    node, hung = min(world.nodes), NodeReading(error="NVML hangs")
    silent = world.raylet(node)
    for _ in range(int(SILENT_SECONDS + FLAP_SECONDS) + 2):
        world.clock.now += 1
        for name in set(world.names) - {node}:
            world.coordinator.nodes.heartbeat(world.raylet(name))
        world.coordinator.observe()
    notice = world.status.notice
    assert notice is not None
    for _ in range(starts):
        world.restart()
        for name in world.names:
            world.report(name) if name != node else world.coordinator.report(silent, hung)
        world.pass_time(2)
        assert world.status.notice == notice
    world.coordinator.report(silent, hung)
    world.pass_time(FLAP_SECONDS - 3)
    told = world.status.notice
    assert told is not None
    assert (told.deadline, world.status.moves) == (notice.deadline, 0)
    world.pass_time(GRACE)
    assert (world.status.phase, world.status.moves) == (Phase.READY, 1)


def test_the_notice_of_what_was_silent_is_taken_back_by_a_coordinator_that_sees_it_well() -> None:
    world = World()
    world.with_gang()
    node = min(world.nodes)
    world.coordinator.report(world.raylet(node), NodeReading(error="NVML hangs"))
    world.pass_time(FLAP_SECONDS + 2)
    assert world.status.notice is not None
    world.come_back()
    world.pass_time(FLAP_SECONDS + 1)
    assert (world.status.phase, world.status.moves) == (Phase.READY, 0)
    assert world.status.notice is None


def test_a_coordinator_that_has_just_started_does_nothing_in_a_wave_of_signs_either() -> None:
    world = World(nodes=8)
    world.with_gang()
    before = world.nodes
    signs = [min(before), *[node for node in world.names if node not in before][:3]]
    drained(world, signs[0])
    world.pass_time(3)
    for node in signs[1:]:
        drained(world, node)
    world.pass_time(STANDS)
    assert world.status.notice is not None
    assert world.coordinator.observer.drains.tripped
    for _ in range(2):
        world.restart()
        for node in signs:
            drained(world, node)
        world.pass_time(STANDS)
        assert (world.status.phase, world.nodes, world.status.moves) == (Phase.DRAINING, before, 0)
    for node in signs[2:]:
        world.report(node)
    world.pass_time(GRACE + 3)
    assert (world.status.phase, world.status.moves) == (Phase.READY, 1)


def test_what_is_to_be_drained_has_another_place_at_once_where_somebody_would_have_it_meanwhile() -> None:
    world = full()
    before = world.nodes
    drained(world, min(before))
    world.pass_time(60)
    assert world.coordinator.status("waits").phase is Phase.QUEUED
    world.coordinator.inventory.release("fills")  # as its last worker ends, before it is the queue's turn
    world.coordinator.inventory.changes += 1
    world.coordinator.observe()
    assert (world.status.moves, world.status.ends) == (1, False)
    assert before.isdisjoint(world.nodes)


def test_it_may_be_started_again_as_often_as_faults_come() -> None:
    world = World()
    world.with_gang()
    for count in range(1, 9):
        victim = min(world.nodes)
        world.report(victim, xids=(79,))
        world.pass_time(GRACE + 3)
        assert (world.status.phase, world.status.moves) == (Phase.READY, count)
        world.report(victim)
        world.pass_time(1)
    assert len(world.groups("CREATED")) == 1
    world.coordinator.release(NAME)
    world.pass_time(3)
    world.coordinator.records.kept.look((), 0.0)
    world.check_empty()


def test_one_fault_after_the_other_does_not_put_it_off() -> None:
    world = World()
    world.with_gang()
    first, second = sorted(world.nodes)
    world.report(first, xids=(79,))
    world.pass_time(GRACE - 1)
    told = world.status.notice
    world.report(second, xids=(79,))
    world.pass_time(1)
    now = world.status.notice
    assert told is not None
    assert now is None or (now.deadline == told.deadline and now.faulty == (0, 1))
    world.pass_time(2)
    assert world.status.phase is Phase.READY
    assert world.status.moves == 1


def test_its_end_is_its_end() -> None:
    for ends in ("released", "its program ended"):
        world = World()
        world.with_gang()
        world.report(min(world.nodes), xids=(79,))
        world.pass_time(2)
        if ends == "released":
            world.coordinator.release(NAME)
        else:
            world.ray.jobs.clear()
        world.pass_time(STANDS)
        assert NAME not in world.coordinator.gangs
        assert not world.groups("CREATED")


def test_nothing_moves_in_a_thousand_losses_of_seconds() -> None:
    """NVML that does not answer, agents that are silent, devices that are not listed: for less than ten seconds."""
    chance, world = random.Random(3), World()
    world.with_gang(on_fault("restart", 0.0))
    for _ in range(1000):
        node = chance.choice(world.names)
        raylet = world.raylet(node)
        match chance.randrange(3):
            case 0:
                world.coordinator.report(raylet, NodeReading(error="NVML did not answer in 3 s"))
            case 1:
                world.report(node, gpus=3)
            case 2:
                world.report(node, xids=(chance.choice([13, 31, 43, 45]),))
        world.pass_time(chance.choice([1, 4, 9]))
        world.report(node)
        world.pass_time(1)
        assert (world.status.phase, world.status.moves, world.status.notice) == (Phase.READY, 0, None)
    world.check()


def test_half_of_the_cluster_fallen_silent_asks_a_person() -> None:
    world = World(nodes=6)
    world.with_gang()
    for node in [*sorted(world.nodes)[:1], *[name for name in world.names if name not in world.nodes][:2]]:
        world.coordinator.report(world.raylet(node), NodeReading(error="NVML hangs"))
    world.pass_time(120)
    assert (world.status.moves, world.status.phase) == (0, Phase.DEGRADED)
    assert "3 of 6 nodes have fallen silent" in world.coordinator.observer.silence.tripped
    for node in world.names:
        world.report(node)
    world.pass_time(5)
    assert (world.status.moves, world.status.phase) == (0, Phase.READY)


# -- the coordinator killed


@pytest.mark.parametrize("queued", [False, True], ids=["elsewhere", "into the queue"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["store", "ray"])
def test_killed_at_any_write_it_is_started_again_once(victim: str, after: bool, queued: bool) -> None:
    at, died = 0, True
    while died:
        world = full() if queued else World()
        if not queued:
            world.with_gang()
        before, node = world.nodes, min(world.nodes)
        die_at(world, victim, at, after=after)
        died = False
        for step in range(40):
            try:
                if step == 0:
                    world.report(node, xids=(79,))
                world.pass_time(1)
            except Crash:
                died = True
                world.restart()
                for name in world.names:
                    world.report(name, xids=(79,) if name == node else ())
        spare(world)
        world.check()
        status = world.status
        assert status.moves == 1, f"killed at {at}"
        if queued:
            assert status.phase is Phase.QUEUED
            assert not world.groups("CREATED")[1:]
            world.report(node)
            world.pass_time(3)
            status = world.status
        assert status.phase is Phase.READY, f"killed at {at}: {status.history}"
        assert queued or before.isdisjoint(world.nodes)
        assert status.group in world.groups("CREATED")
        assert len(world.groups("CREATED")) == 1 + queued
        world.coordinator.release(NAME)
        world.pass_time(3)
        assert f"map/{status.group}" not in world.store.data
        at += 1
    assert at > (4 if victim == "store" else 1)


# -- Kubernetes

KUBE: dict[str, Callable[[KubeWorld, str], None]] = {
    "a pod killed": KubeWorld.kill_pod,
    "NoExecute": lambda world, node: world.kube.taint(node, "NoExecute"),
    "the node deleted": lambda world, node: world.kube.delete_node(node),
    "a silent kubelet": lambda world, node: world.kube.lose_node(node),
    "a device's taint NoExecute": lambda world, node: world.kube.taint_device(node, "gpu-0", "NoExecute"),
    "a cordon": lambda world, node: world.kube.cordon(node),
}


@pytest.mark.parametrize("fault", KUBE)
def test_on_kubernetes_a_gang_gets_new_workers_and_a_placement_group_by_itself(fault: str) -> None:
    world = KubeWorld()
    world.with_gang()
    before = world.status
    node = world.nodes[1]
    KUBE[fault](world, node)
    for _ in range(int(2 * STANDS)):
        world.turn()
        if world.status.moves:
            break
    assert world.status.moves == 1
    assert world.until_ready() is Phase.READY
    status = world.status
    assert status.group != before.group
    assert fault == "a pod killed" or node not in world.nodes
    assert [g.state for name, g in world.ray.groups.items() if name == before.group] == ["REMOVED"]
    told = [reason for reason, _ in world.kube.told]
    assert told.count("GangRepair") == 1
    assert told.count("GangNotice") == 1
    assert "GangDraining" in told
    assert (status.times.again, status.times.stage) == (True, "")
    world.coordinator.release(NAME)
    world.kube.regain_node(node) if fault == "a silent kubelet" else None
    world.settle()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["kube", "ray"])
def test_killed_at_any_write_on_kubernetes(victim: str, after: bool) -> None:
    at, died = 0, True
    while died:
        world = KubeWorld()
        world.with_gang()
        node = world.nodes[0]
        world.die_at(victim, at, after=after)
        world.kube.taint(node, "NoExecute")
        before = world.coordinator
        for _ in range(120):
            world.turn()
            if world.status.moves and world.status.phase is Phase.READY:
                break
        died = world.coordinator is not before
        world.spare()
        assert (world.status.phase, world.status.moves) == (Phase.READY, 1), f"killed at {at}"
        assert node not in world.nodes
        world.coordinator.release(NAME)
        world.settle()
        at += 1
    assert at > (4 if victim == "kube" else 1)


def test_a_gang_that_was_given_back_is_not_started_again() -> None:
    world = World()
    world.with_gang()
    world.ray.remove_group(world.status.group or "")
    world.report(min(world.nodes), xids=(79,))
    world.pass_time(STANDS)
    with pytest.raises(GangGone):
        _ = world.status
