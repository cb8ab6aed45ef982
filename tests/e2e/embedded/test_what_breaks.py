"""What breaks on the embedded cluster: devices, drivers, programs, the coordinator, a node. The last of its folder."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

import ray_dra
from ray_dra.adapters.ray import RayAdapter
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.device import Health
from ray_dra.processes.calls import ask, coordinator
from ray_dra.processes.start_coordinator import greet
from ray_dra.program import orders
from ray_dra.simulated.cluster import LocalCluster
from tests.e2e.conftest import eventually, health, pinned, planned, reset, seen

pytestmark = pytest.mark.ray


def test_faults_are_seen_within_two_seconds(free: LocalCluster) -> None:
    node = free.nodes[0].name
    machine = free.machine(node)

    machine.link_down(0, 3)
    assert eventually(lambda: ray_dra.topology().nodes[node].links[0][1] == 17, 5) < 2
    machine.fabric(1, state=2)
    assert eventually(lambda: ray_dra.topology().nodes[node].devices[1].clique is None, 5) < 2
    machine.xid(2, 79)
    assert eventually(lambda: ray_dra.topology().nodes[node].devices[2].health is Health.TAINTED, 5) < 2
    machine.lose(2)
    assert eventually(lambda: ray_dra.topology().nodes[node].devices[2].health is Health.GONE, 5) < 2
    machine.heal()  # GPU 2 comes back as after a reset, without its XID
    eventually(lambda: all(d.health is Health.OK for d in ray_dra.topology().nodes[node].devices), 10)


def test_a_hung_driver_takes_the_node_out_and_back(free: LocalCluster) -> None:
    node = free.nodes[1].name
    machine = free.machine(node)
    machine.hang()
    eventually(lambda: not ray_dra.topology().nodes[node].ready, 15)
    # On a busy machine the agent's silence may be noticed just before its probe says why.
    eventually(lambda: "NVML" in ray_dra.topology().nodes[node].reason, 15)
    machine.heal()
    eventually(lambda: ray_dra.topology().nodes[node].ready, 30)


class Rank:
    def where(self) -> list[str]:
        return [device.uuid or "" for device in ray_dra.get_devices()]

    def notice(self, timeout: float) -> Any:
        return ray_dra.get_notice(timeout)


def test_a_gang_is_started_again_after_a_fault_and_the_program_goes_on_with_its_handle(free: LocalCluster) -> None:
    with ray_dra.placement_group([{"GPU": 4}] * 2, locality=ray_dra.same_clique(), on_fault="restart", grace=2) as gang:
        for count, fault in enumerate(["XID 79", "its raylet dead"]):
            gang.wait(60)
            ranks = [
                ray.remote(Rank).options(num_gpus=4, num_cpus=0, **pinned(gang, bundle)).remote() for bundle in range(2)
            ]
            placed = gang.allocation
            assert placed is not None
            for rank, bundle in zip(ranks, placed.bundles, strict=True):
                assert ray.get(rank.where.remote(), timeout=60) == [grant.uuid for grant in bundle.grants]
            node, group = placed.nodes[1], gang.placement_group
            told = ranks[0].notice.remote(30.0)
            if fault == "XID 79":
                free.machine(node).xid(0, 79)
                notice = ray.get(told, timeout=60)
                assert (notice.ranks, notice.faulty) == ((0, 1), (1,))
            else:
                free.kill_node(node)
            # Nobody but the coordinator does anything for it.
            eventually(lambda: ask(coordinator().status.remote(gang.id)).moves == count + 1, 60)  # noqa: B023
            eventually(lambda: ask(coordinator().status.remote(gang.id)).phase is Phase.READY, 60)
            with pytest.raises(ray.exceptions.RayError):
                ray.get(ranks[0].where.remote(), timeout=60)
            assert gang.wait(60)
            assert gang.placement_group != group
            assert gang.allocation is not None
            assert not set(placed.nodes) & set(gang.allocation.nodes)
            if fault == "XID 79":
                reset(free, node, 0)
            else:
                free.add_node(node)
            eventually(lambda: health() == [Health.OK] * 16, 60)


def test_a_gang_shrinks_after_a_fault_and_grows_back_once_its_gpu_is_well(free: LocalCluster) -> None:
    """Nobody but the coordinator does anything for it; its program makes its actors anew, by the same handle."""

    def ranks_where(count: int) -> list[list[str]]:
        made = [ray.remote(Rank).options(num_gpus=4, num_cpus=0, **pinned(gang, at)).remote() for at in range(count)]
        found: list[list[str]] = ray.get([rank.where.remote() for rank in made], timeout=60)
        return found

    shrinks = ray_dra.placement_group(
        [{"GPU": 4}] * 2, locality=ray_dra.same_clique(), on_fault="shrink", min_bundles=1, grace=0.5
    )
    with shrinks as gang:
        gang.wait(60)
        whole, group = gang.allocation, gang.placement_group
        assert whole is not None
        had = [[grant.uuid for grant in bundle.grants] for bundle in whole.bundles]
        lost = whole.nodes[0]
        free.machine(lost).xid(0, 79)
        eventually(lambda: ask(coordinator().status.remote(gang.id)).shrunk == "1 of 2 bundles", 60)
        assert gang.wait(60)
        smaller = gang.placement_group
        assert smaller != group
        assert (gang.bundle_count, "has shrunk to 1 of 2 bundles" in gang.explain()) == (1, True)
        assert ranks_where(1) == had[1:], "the segment that is well, on the GPUs that it has"
        reset(free, lost, 0)
        eventually(lambda: not ask(coordinator().status.remote(gang.id)).shrunk, 90)
        assert gang.wait(60)
        assert gang.allocation is not None
        assert gang.placement_group not in (group, smaller)
        assert gang.allocation.bundles == whole.bundles, "all of it where it was"
        assert ranks_where(2) == had
    eventually(lambda: health() == [Health.OK] * 16, 60)


def test_a_gang_starts_again_on_its_own_spare_that_nobody_else_got(free: LocalCluster) -> None:
    with ray_dra.placement_group(
        [{"GPU": 4}], on_fault="restart", spares=1, grace=0, locality=ray_dra.same_clique()
    ) as gang:
        gang.wait(60)
        first = gang.allocation
        eventually(lambda: ask(coordinator().status.remote(gang.id)).spares, 10)
        [spare] = ask(coordinator().status.remote(gang.id)).spares
        assert f"spares of its own: {spare}" in gang.explain()
        with pytest.raises(ray_dra.UnsatisfiableError):
            ray_dra.placement_group([{"GPU": 4}] * 3, wait=False)
        assert first is not None
        free.machine(first.nodes[0]).xid(0, 79)
        eventually(lambda: ask(coordinator().status.remote(gang.id)).moves == 1, 60)
        assert gang.wait(60)
        assert gang.allocation is not None
        assert gang.allocation.nodes == (spare,)
        reset(free, first.nodes[0], 0)
    eventually(lambda: health() == [Health.OK] * 16, 60)


def test_ray_takes_a_drain_and_what_runs_there_runs_on(free: LocalCluster) -> None:
    """As the coordinator tells it of the raylets of workers that it has made, which nobody shares."""
    port, node = RayAdapter(), free.nodes[3].name
    raylet = ray_dra.topology().nodes[node].ray_node_id
    assert raylet is not None
    there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(raylet, soft=False)
    rank = ray.remote(Rank).options(num_cpus=0, scheduling_strategy=there).remote()
    ray.get(rank.where.remote(), timeout=60)
    deadline = time.time() + 1000
    try:
        for _ in range(2):
            port.drain(raylet, "a test", deadline)
        assert {n.id for n in port.view().nodes if n.drains} == {raylet}
        assert ray._private.state.state.get_draining_nodes() == {raylet: int(deadline * 1000)}, "as Train reads it"
        assert ray.get(rank.where.remote(), timeout=60) == []
        late = ray.remote(Rank).options(num_cpus=0, scheduling_strategy=there).remote()
        with pytest.raises(ray.exceptions.RayError):  # nothing new; so no raylet that others share
            ray.get(late.where.remote(), timeout=60)
    finally:
        free.kill_node(node)
        free.add_node(node)
    eventually(lambda: len([n for n in port.view().nodes if n.alive and not n.drains]) == 5, 60)
    # A coordinator that has not looked since the drain still has the raylet before, and all was well with that.
    eventually(lambda: raylet not in [n.ray_node_id for n in ray_dra.topology().nodes.values()], 60)
    eventually(lambda: health() == [Health.OK] * 16, 60)


def test_a_killed_coordinator_is_back_in_two_seconds(free: LocalCluster) -> None:
    with ray_dra.placement_group([{"GPU": 4}] * 2, locality=ray_dra.same_clique()) as gang:
        gang.wait(30)
        eventually(lambda: len(ray_dra.topology().nodes) == 4, 30)
        before = gang.allocation
        for _ in range(2):
            os.kill(ask(coordinator().pid.remote()), signal.SIGKILL)
            began = time.monotonic()
            assert len(ray_dra.topology().nodes) == 4
            assert time.monotonic() - began < 10, "only a hang fails here; benchmarks/recovery.py has the figure"
            assert gang.allocation == before
        assert gang.phase is Phase.READY
        with pytest.raises(ray_dra.UnsatisfiableError):
            ray_dra.placement_group([{"GPU": 4}] * 3, wait=False)


def test_whoever_gives_up_holds_nothing(free: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between submit and handle; a coordinator that is silent for longer than its callers wait."""

    def interrupted(actor: Any, order: Order, soft_node: str | None) -> None:
        submit(actor, order, soft_node)
        raise KeyboardInterrupt

    submit = orders._planned
    monkeypatch.setattr(orders, "_planned", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ray_dra.placement_group([{"GPU": 4}])
    eventually(lambda: not ask(coordinator().gangs.remote()), 10)
    monkeypatch.undo()

    pid = ask(coordinator().pid.remote())
    monkeypatch.setattr(orders, "ask", lambda reference: ask(reference, timeout=1))
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            with pytest.raises(ray_dra.CoordinatorUnavailable):
                ray_dra.placement_group([{"GPU": 4}])
    finally:
        os.kill(pid, signal.SIGCONT)
    for _ in range(20):
        assert not ask(coordinator().gangs.remote())
        time.sleep(0.05)


def test_a_coordinator_killed_among_ordinary_groups_loses_none_and_makes_none_twice(free: LocalCluster) -> None:
    """Killed when it has some of them, and others are on their way to it."""
    groups = [placement_group([{"GPU": 1}]) for _ in range(10)]
    os.kill(ask(coordinator().pid.remote()), signal.SIGKILL)
    groups += [placement_group([{"GPU": 1}]) for _ in range(10)]
    assert len(placed(groups, 16)) == 16, "as many as there are GPUs"
    grants = [g for s in ask(coordinator().gangs.remote()) for g in (s.allocation.grants if s.allocation else ())]
    assert len(grants) == len({grant.device for grant in grants}) == 16
    for group in groups[:4]:
        remove_placement_group(group)
    assert len(placed(groups[4:], 16)) == 16, "the others have their turn"
    for group in groups:
        remove_placement_group(group)
    eventually(lambda: not ask(coordinator().gangs.remote()), 30)
    with ray_dra.placement_group([{"GPU": 4}] * 4) as gang:
        assert gang.wait(30)


def placed(groups: list[PlacementGroup], count: int) -> list[PlacementGroup]:
    """Those that Ray has placed, once there are so many."""

    def now() -> list[PlacementGroup]:
        return [group for group in groups if placement_group_table(group).get("state") == "CREATED"]

    eventually(lambda: len(now()) >= count, 60)
    return now()


def test_groups_of_a_coordinator_that_ended_for_good_are_rays_and_the_log_says_so(
    free: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends with a group on its way to it; the next one plans what is made then."""
    pid = ask(coordinator().pid.remote())
    os.kill(pid, signal.SIGSTOP)
    with caplog.at_level(logging.WARNING, "ray_dra"):
        group = placement_group([{"GPU": 1}])
        try:
            assert not group.wait(0.5)
            ray.kill(coordinator())
        finally:
            os.kill(pid, signal.SIGKILL)
        try:
            assert group.wait(60)
            eventually(lambda: "is left to Ray" in caplog.text, 10)
        finally:
            greet(None)
            remove_placement_group(group)
    after = placement_group([{"GPU": 4}] * 2)
    assert after.wait(60)
    assert after.id.hex() in [status.gang for status in ask(coordinator().gangs.remote())]
    remove_placement_group(after)


class Poison:
    """Ends the process that reads it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (1,)


def test_a_call_that_kills_the_coordinator_is_not_sent_for_ever(free: LocalCluster) -> None:
    with ray_dra.placement_group([{"GPU": 4}]) as gang:
        gang.wait(30)
        with pytest.raises(ray_dra.CoordinatorUnavailable):
            ask(coordinator().plan.remote(Poison()), timeout=120)
        pid = ask(coordinator().pid.remote(), timeout=60)
        time.sleep(1)
        assert ask(coordinator().pid.remote()) == pid, "it stays, and so do gangs"
        assert gang.phase is Phase.READY


def test_waits_do_not_keep_out_work(free: LocalCluster) -> None:
    """More of them than Ray gives an actor calls at a time."""
    everything = ray_dra.placement_group([{"GPU": 4}] * 4)
    everything.wait(30)
    job = ray.get_runtime_context().get_job_id()
    with ray_dra.placement_group([{"GPU": 4}]) as gang:
        waits = [coordinator().await_ready.remote(gang.id, job) for _ in range(1500)]
        assert len({gang.ready() for _ in range(1500)}) == 1, "one call for each gang"
        assert gang.phase is Phase.QUEUED
        with pytest.raises(ray_dra.UnsatisfiableError):
            ray_dra.placement_group([{"GPU": 1}], wait=False)
        everything.remove()
        assert ray.get(waits, timeout=60) == [gang.id] * 1500
        assert gang.wait(30)


DRIVER = """
import sys, time, ray, ray_dra
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
gang = ray_dra.placement_group([{"GPU": 4}] * 2)
gang.wait(60)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_gang_ends_with_its_killed_driver(free: LocalCluster) -> None:
    """A second program joins by host:port, gets a gang, and is killed."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, f"ray_dra://{free.address}"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == "ready"
        assert len(ask(coordinator().gangs.remote())) == 1
    finally:
        driver.kill()
        driver.wait()
    eventually(lambda: not ask(coordinator().gangs.remote()), 30)
    with ray_dra.placement_group([{"GPU": 4}] * 4) as gang:
        assert gang.wait(30)


def test_a_raylet_that_dies_is_started_again(free: LocalCluster) -> None:
    """With the address and the labels of its machine, so that its gang is ready again without anybody's doing."""
    with ray_dra.placement_group([{"GPU": 4}] * 2, locality=ray_dra.same_clique()) as gang:
        gang.wait(30)
        assert gang.allocation is not None
        node = gang.allocation.nodes[0]

        def alive() -> dict[str, str]:
            found = [n for n in ray.nodes() if n["Alive"] and n["Labels"].get("ray-dra.io/node") == node]
            return {n["NodeID"]: n["NodeManagerAddress"] for n in found}

        before = alive()
        os.kill(free.raylets()[node], signal.SIGKILL)
        eventually(lambda: len(alive()) == 1 and not alive().keys() & before.keys(), 60)
        assert list(alive().values()) == list(before.values())
        eventually(lambda: gang.phase is Phase.READY, 60)  # the other raylet comes too soon to see it degraded
        found = ray.get(ray.remote(seen).options(num_gpus=4, num_cpus=0, **pinned(gang, 0)).remote(), timeout=60)
        assert found == planned(gang, 0)


def test_a_node_dies_and_its_restarted_raylet_gets_its_gang_back(free: LocalCluster) -> None:
    """The last test of the module: it kills a raylet, which stays down until it is added."""
    with ray_dra.placement_group([{"GPU": 4}] * 2, locality=ray_dra.same_clique()) as gang:
        gang.wait(30)
        assert gang.allocation is not None
        node = gang.allocation.nodes[1]
        free.kill_node(node)
        eventually(lambda: gang.phase is Phase.DEGRADED, 30)
        assert node in gang.explain()
        free.add_node(node)
        eventually(lambda: gang.phase is Phase.READY, 60)
        found = ray.get(ray.remote(seen).options(num_gpus=4, num_cpus=0, **pinned(gang, 1)).remote(), timeout=60)
        assert found == planned(gang, 1)
