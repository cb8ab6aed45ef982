"""Ray's own notice on the raylets of a gang's own workers, so that Train and Serve hear of a fault unchanged: told
once, of all that ends together, where it does end, and never of a raylet that others share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_dra.coordinator.observer import LEAD_SECONDS
from ray_dra.core.gangs.drains import FLAP_SECONDS
from ray_dra.core.gangs.faults import MORE_SECONDS
from ray_dra.core.gangs.repair import DEGRADE, OnFault, on_fault
from ray_dra.errors import RayDraError
from tests.coordinator.kills import MortalRay, die_at, spare
from tests.coordinator.world import Crash
from tests.core.machines import gang, group_id

from .fault_worlds import GRACE, HERE, NAME, ONE_CLIQUE, RESTART, KubeWorld, World
from .world import Phase, tray

REPLACE = on_fault("replace", GRACE)
BOTH = on_fault(("replace", "restart"), GRACE)


def raylet(world: KubeWorld, rank: int) -> str:
    """The raylet of a bundle, as Ray has placed it."""
    found = world.ray.groups[world.status.group or ""].nodes[rank]
    assert found is not None
    return found


def until_noticed(world: KubeWorld) -> None:
    world.later(int(FLAP_SECONDS) + 2)
    assert world.status.notice is not None
    world.later(int(MORE_SECONDS))


def test_ray_hears_once_of_the_worker_that_ends_with_the_notices_deadline() -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(REPLACE)
    ends, stays, group = raylet(world, 1), raylet(world, 0), world.status.group
    world.kube.cordon(world.nodes[1])
    until_noticed(world)
    notice = world.status.notice
    assert notice is not None
    ((told, why, deadline),) = world.ray.drained
    assert world.coordinator.ends_at(NAME) == {ends: notice.deadline}, "as Ray says it of a raylet that drains"
    assert (told, deadline) == (ends, notice.deadline)
    assert "cordoned" in why
    assert not world.ray.nodes[stays].drains
    assert world.until_ready() is Phase.READY
    whys = [change.why for change in world.status.history]
    told_at = whys.index("Ray drains its workers: bundles 1")
    assert (
        whys.index(f"notice: {notice.reason}") < told_at < whys.index(f"replace, on {world.nodes[1]}: {notice.reason}")
    )
    assert whys.count(whys[told_at]) == 1
    assert world.status.group == group
    assert raylet(world, 0) == stays
    assert len(world.ray.drained) == 1
    assert not world.ray.nodes[raylet(world, 1)].drains
    world.coordinator.release(NAME)
    world.settle()


@pytest.mark.parametrize("killed", [False, True])
def test_what_ray_was_told_ends_though_the_sign_is_taken_back(killed: bool) -> None:
    """Ray cannot take a drain back: nothing new would run in that bundle for ever."""
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(REPLACE)
    node, ends, group = world.nodes[1], raylet(world, 1), world.status.group
    world.kube.cordon(node)
    until_noticed(world)
    world.kube.cordon(node, closed=False)
    if killed:
        world.restart()
    world.later(1)
    notice = world.status.notice
    assert notice is not None
    assert (notice.ranks, notice.faulty) == ((1,), (1,))
    assert "Ray drains the worker" in notice.reason
    assert world.until_ready() is Phase.READY
    assert (world.status.group, world.nodes[1]) == (group, node), "made anew where it was"
    assert raylet(world, 1) != ends
    assert [told for told, _, _ in world.ray.drained] == [ends]
    world.later(int(FLAP_SECONDS + GRACE) + 3)
    assert (world.status.moves, world.status.notice) == (1, None)
    world.coordinator.release(NAME)
    world.settle()


@pytest.mark.parametrize("seconds", range(9, 13))
def test_a_cordon_of_some_ten_seconds_tells_ray_nothing(seconds: int) -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(REPLACE)
    world.kube.cordon(world.nodes[1])
    world.later(seconds)
    world.kube.cordon(world.nodes[1], closed=False)
    world.later(int(GRACE) + 5)
    assert not world.ray.drained
    assert (world.status.moves, world.status.notice, world.status.phase) == (0, None, Phase.READY)


def test_all_workers_that_end_together_are_told_at_once() -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(RESTART)
    ends = {raylet(world, 0), raylet(world, 1)}
    world.kube.cordon(world.nodes[1])
    until_noticed(world)
    assert {told for told, _, _ in world.ray.drained} == ends
    assert len({deadline for _, _, deadline in world.ray.drained}) == 1
    notice = world.status.notice
    assert notice is not None
    assert (notice.ranks, notice.faulty) == ((0, 1), (1,)), "those that only end with it are not faulty"
    assert world.until_ready() is Phase.READY
    assert not {raylet(world, 0), raylet(world, 1)} & ends
    assert len(world.ray.drained) == 2


@pytest.mark.parametrize("declared", [DEGRADE, REPLACE, RESTART], ids=["degrade", "replace", "restart"])
def test_ray_is_not_told_of_what_may_not_end(declared: OnFault) -> None:
    """Nothing is done, or there is no other place: the gang runs on, and what it starts is to run."""
    world = KubeWorld()  # two racks of two trays
    world.with_gang(declared)
    other = world.coordinator.submit(world.order()).gang
    world.drive(other)
    world.kube.cordon(world.nodes[1])
    until_noticed(world)
    world.later(int(GRACE) + 3)
    assert not world.ray.drained
    assert world.status.moves == 0
    world.coordinator.release(other)
    for _ in range(20):
        world.turn()
    if declared is RESTART:
        assert world.until_ready() is Phase.READY
        assert world.status.moves == 1


def test_raylets_that_others_share_are_never_told_and_those_who_wait_for_a_notice_are() -> None:
    """Half of the grace before the end, or some seconds: what ends with its group is a failure to Train."""
    world = World()
    world.with_gang(RESTART)
    node, raylets = min(world.nodes), {world.raylet(node) for node in world.nodes}
    assert world.coordinator.ends_at(NAME) == {}
    world.report(node, xids=(79,))
    world.pass_time(1)
    notice = world.status.notice
    assert notice is not None
    assert notice.deadline == notice.since + GRACE
    assert world.status.ends
    assert world.coordinator.ends_at(NAME) == dict.fromkeys(raylets, notice.deadline - GRACE / 2)
    world.restart()
    assert world.coordinator.ends_at(NAME) == dict.fromkeys(raylets, notice.deadline - GRACE / 2)
    world.pass_time(GRACE + 3)
    assert (world.status.moves, world.status.ends) == (1, False)
    assert world.coordinator.ends_at(NAME) == {}
    assert not world.ray.drained


def test_a_library_ends_its_work_some_seconds_before_a_long_grace_is_over() -> None:
    world = World()
    world.with_gang(on_fault("restart", 60.0))
    world.report(min(world.nodes), xids=(79,))
    world.pass_time(1)
    notice = world.status.notice
    assert notice is not None
    assert set(world.coordinator.ends_at(NAME).values()) == {notice.since + 60.0 - LEAD_SECONDS}


def test_libraries_hear_of_a_sign_to_drain_once_it_stands_and_of_one_that_is_taken_back_no_more() -> None:
    world = World()
    world.with_gang(RESTART)
    node = min(world.nodes)
    world.ray.drain(world.raylet(node), "spot", 0.0)
    world.pass_time(FLAP_SECONDS + 1)
    assert (world.status.notice is not None, world.status.ends) == (True, False)
    world.pass_time(MORE_SECONDS)
    assert world.status.ends
    world.ray.nodes[world.raylet(node)] = replace(world.ray.nodes[world.raylet(node)], drains=False)
    world.pass_time(1)
    assert (world.status.notice, world.status.ends, world.coordinator.ends_at(NAME)) == (None, False, {})


@pytest.mark.parametrize("declared", [DEGRADE, RESTART], ids=["degrade", "restart"])
def test_libraries_hear_of_nothing_that_does_not_end(declared: OnFault) -> None:
    """Nothing is done, or there is no other place for what is only to be drained."""
    world = World()
    world.with_gang(declared)
    world.submit(gang(4, 4, name=group_id("other"), locality=ONE_CLIQUE), maker=HERE)
    world.pass_time(3)
    world.ray.drain(world.raylet(min(world.nodes)), "spot", 0.0)
    world.pass_time(FLAP_SECONDS + MORE_SECONDS + 3)
    assert world.status.notice is not None
    assert (world.status.ends, world.coordinator.ends_at(NAME)) == (False, {})


def with_nowhere_to_go(late: float) -> tuple[World, str]:
    """A gang of which a raylet drains, `late` seconds after its grace, and the gang that has the only other place."""
    world, other = World(), group_id("other")
    world.with_gang(RESTART)
    world.submit(gang(4, 4, name=other, locality=ONE_CLIQUE), maker=HERE)
    world.pass_time(3)
    world.ray.drain(world.raylet(min(world.nodes)), "spot", 0.0)
    world.pass_time(FLAP_SECONDS + GRACE + late)
    return world, other


def test_libraries_hear_before_a_place_that_comes_after_the_grace_is_taken() -> None:
    """Else a Train run would be ended with its placement group: a failure, of which none is allowed by default."""
    world, other = with_nowhere_to_go(20)
    assert (world.status.moves, world.status.ends) == (0, False)
    raylets = {world.raylet(node) for node in world.nodes}
    world.coordinator.release(other)
    world.pass_time(1)
    notice = world.status.notice
    assert notice is not None
    assert world.coordinator.ends_at(NAME) == dict.fromkeys(raylets, notice.since + GRACE / 2)
    assert [change.why for change in world.status.history].count(f"notice anew: {notice.reason}") == 1
    world.pass_time(GRACE - 1)
    assert world.status.moves == 0
    world.pass_time(2)
    assert (world.status.phase, world.status.moves) == (Phase.READY, 1)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("write", range(3, 6))
def test_a_notice_that_begins_anew_goes_on_after_a_kill_at_any_write_of_it(write: int, after: bool) -> None:
    world, other = with_nowhere_to_go(5)
    held = world.nodes
    die_at(world, "store", write, after=after)
    world.coordinator.release(other)
    heard = False
    for _ in range(int(2 * GRACE + FLAP_SECONDS) + 8):
        try:
            world.pass_time(1)
        except Crash:
            world.come_back()
        heard = heard or world.status.ends
    assert heard
    assert (world.status.phase, world.status.moves) == (Phase.READY, 1)
    assert held.isdisjoint(world.nodes)
    spare(world)
    world.check()


def test_libraries_hear_though_the_coordinator_was_started_again_after_the_grace() -> None:
    world, other = with_nowhere_to_go(5)
    world.come_back()
    world.pass_time(FLAP_SECONDS + 1)
    assert not world.status.ends
    world.coordinator.release(other)
    world.pass_time(1)
    assert (world.status.ends, world.status.moves) == (True, 0)
    world.pass_time(GRACE + 1)
    assert (world.status.phase, world.status.moves) == (Phase.READY, 1)


def test_libraries_hear_once_a_wave_of_signs_that_came_before_they_did_is_over() -> None:
    world = World(nodes=8)
    world.with_gang(RESTART)
    signs = [min(world.nodes), *[node for node in world.names if node not in world.nodes][:3]]
    for node in signs:
        world.ray.drain(world.raylet(node), "spot", 0.0)
        world.pass_time(1 if node == signs[0] else 0)
    world.pass_time(FLAP_SECONDS + GRACE + 3)
    assert world.status.notice is not None
    assert (world.status.ends, world.status.moves) == (False, 0)
    for node in signs[1:]:
        world.ray.nodes[world.raylet(node)] = replace(world.ray.nodes[world.raylet(node)], drains=False)
    world.pass_time(1)
    assert (world.status.ends, world.status.moves) == (True, 0)
    world.pass_time(GRACE + 1)
    assert (world.status.phase, world.status.moves) == (Phase.READY, 1)


def test_libraries_hear_of_a_sign_that_stands_though_another_comes_and_goes() -> None:
    world = World()
    world.with_gang(on_fault("restart", 30.0))
    node = min(world.nodes)
    world.ray.drain(world.raylet(node), "spot", 0.0)
    world.pass_time(FLAP_SECONDS + 1)
    first = world.status.notice
    assert first is not None
    assert first.deadline is not None
    told = set[float]()
    for second in range(28):
        reading = tray(node, rack=world.racks[node])
        flaps = replace(reading.gpus[0], recovery=second % 2)
        world.coordinator.report(world.raylet(node), replace(reading, gpus=(flaps, *reading.gpus[1:])))
        world.pass_time(1)
        told |= set(world.coordinator.ends_at(NAME).values())
    assert (told, world.status.moves) == ({first.deadline - LEAD_SECONDS}, 0), "the same each time"
    world.pass_time(3)
    assert (world.status.phase, world.status.moves) == (Phase.READY, 1), "and nothing is put off by it"


def test_ray_hears_before_a_place_that_comes_after_the_grace_is_taken() -> None:
    world = KubeWorld()  # two racks of two trays
    world.with_gang(RESTART)
    other = world.coordinator.submit(world.order()).gang
    world.drive(other)
    world.kube.cordon(world.nodes[1])
    world.later(int(FLAP_SECONDS + GRACE) + 10)
    assert not world.ray.drained
    ends = {raylet(world, 0), raylet(world, 1)}
    world.coordinator.release(other)
    for _ in range(40):
        world.turn()
        if world.ray.drained:
            break
    notice = world.status.notice
    assert notice is not None
    assert {(told, deadline) for told, _, deadline in world.ray.drained} == {(each, notice.deadline) for each in ends}
    assert world.status.moves == 0
    world.restart()
    assert world.until_ready() is Phase.READY
    assert (world.status.moves, len(world.ray.drained)) == (1, 2)


def test_who_waits_for_a_notice_waits_on_while_none_of_the_raylets_is_there() -> None:
    """Else it would ask without a pause until they are."""
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(REPLACE)
    world.ray.kill_node(raylet(world, 1))
    world.turn()
    assert world.status.notice is not None
    assert (world.status.ends, world.coordinator.ends_at(NAME)) == (False, {})
    assert world.until_ready() is Phase.READY


def test_a_raylet_that_is_there_and_that_somebody_drains_is_left_by_plans_and_gangs() -> None:
    """A cloud that takes its machine back, say: `ray drain-node`. Ray would place nothing new there."""
    world = World()
    world.with_gang(RESTART)
    held, node = world.nodes, min(world.nodes)
    world.ray.drain(world.raylet(node), "spot", 0.0)
    world.pass_time(2)
    assert (world.status.phase, world.status.notice) == (Phase.READY, None)
    assert world.coordinator.inventory.node_states[node].node.reason == "Ray drains its raylet"
    world.pass_time(FLAP_SECONDS)
    notice = world.status.notice
    assert notice is not None
    assert (notice.faulty, "Ray drains its raylet" in notice.reason) == ((0,), True)
    world.pass_time(GRACE + 3)
    assert world.status.phase is Phase.READY
    assert not world.nodes & held
    assert len(world.ray.drained) == 1, "and by nobody else"
    world.lose_raylet(node)
    world.start_raylet(node)
    world.pass_time(2)
    assert world.coordinator.inventory.node_states[node].node.ready


def test_a_wave_of_signs_tells_ray_nothing() -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(REPLACE)
    for name in sorted(world.kube.nodes)[:3]:
        world.kube.cordon(name)
    world.later(int(FLAP_SECONDS + GRACE) + 3)
    assert not world.ray.drained


def test_a_worker_that_somebody_else_drains_is_replaced() -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(REPLACE)
    ends, node = raylet(world, 1), world.nodes[1]
    world.ray.drain(ends, "maintenance, say", 0.0)
    world.later(1)
    notice = world.status.notice
    assert notice is not None
    assert (notice.ranks, world.status.phase) == ((1,), Phase.DRAINING)
    assert world.until_ready() is Phase.READY
    assert raylet(world, 1) != ends
    assert world.nodes[1] == node


class HaltingRay(MortalRay):
    """The coordinator is killed at its first drain, before or after it; or Ray does not answer once."""

    halt = ""

    def drain(self, node_id: str, why: str, deadline: float) -> None:
        halt, self.halt = self.halt, ""
        if halt == "silent":
            raise RayDraError("Ray did not take a drain.")
        if halt == "before":
            raise Crash
        super().drain(node_id, why, deadline)
        if halt == "after":
            raise Crash


@pytest.mark.parametrize("halt", ["silent", "before", "after"])
@pytest.mark.parametrize("declared", [REPLACE, RESTART], ids=["replace", "restart"])
def test_a_coordinator_that_is_killed_at_it_tells_the_rest(declared: OnFault, halt: str) -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.ray.__class__ = HaltingRay
    world.with_gang(declared)
    ends = {raylet(world, rank) for rank in ([1] if declared is REPLACE else [0, 1])}
    world.kube.cordon(world.nodes[1])
    world.ray.halt = halt  # type: ignore[attr-defined]
    for _ in range(2 * int(FLAP_SECONDS + MORE_SECONDS) + 4):
        world.turn()
    notice = world.status.notice
    assert notice is not None
    assert sorted(told for told, _, _ in world.ray.drained) == sorted(ends)
    assert {deadline for _, _, deadline in world.ray.drained} == {notice.deadline}
    assert world.until_ready() is Phase.READY
    assert not world.ray.nodes[raylet(world, 1)].drains
