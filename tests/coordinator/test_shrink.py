"""on_fault="shrink": whole segments that are well go on in a new placement group after a fault, and the gang grows back
once there is room; on raylets that are there and on Kubernetes, with the coordinator killed at any moment of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ray_dra.core.gangs.drains import FLAP_SECONDS
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.gangs.reshape import GROW_SECONDS
from ray_dra.core.gangs.reshaping import AGAIN_SECONDS
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.model.locality import Locality
from ray_dra.translate.kube.slots import slot_labels
from ray_dra.translate.names import SLOT_LABEL
from tests.coordinator.kills import die_at, spare
from tests.core.machines import gang

from .fault_worlds import GRACE, HERE, NAME, ONE_CLIQUE, KubeWorld, World
from .test_replace import FAULTS, pods
from .world import Crash, Phase

SHRINK = on_fault("shrink", GRACE, min_bundles=1)
SEGMENTS = Locality(segment=2)


def shrunk(world: World, *, victim: int = 1) -> str:
    """The gang after its bundle was lost; its node."""
    node = sorted(world.nodes)[victim]
    world.report(node, xids=(79,))
    world.pass_time(GRACE + 3)
    return node


def work(world: World) -> None:
    """Of the gang's program, which does not end by itself."""
    world.ray.groups[world.status.group or ""].workers.add(0)


def bundles(world: World | KubeWorld) -> int:
    return len(world.coordinator.gangs[NAME].request.bundles)


def holds(world: World | KubeWorld) -> set[object]:
    held = world.coordinator.gangs[NAME].holds
    assert held is not None
    return {grant.device for grant in held.grants}


@pytest.mark.parametrize("victim", [0, 1])
def test_what_is_well_goes_on_where_it_is_in_a_new_group_and_grows_back_when_what_was_lost_is_back(victim: int) -> None:
    world = World()
    world.with_gang(SHRINK)
    before, was = world.status, world.nodes
    had = before.allocation
    node = shrunk(world, victim=victim)
    status = world.status
    assert (status.phase, status.moves, status.notice, bundles(world)) == (Phase.READY, 1, None, 1)
    assert world.nodes == was - {node}
    assert status.allocation is not None
    assert had is not None
    assert status.allocation.bundles == (had.bundles[1 - victim],), "its devices"
    assert status.request is not None
    assert len(status.request.bundles) == 1
    assert "1 of 2 bundles" in status.shrunk
    assert world.groups("CREATED") == [status.group]
    assert status.group != before.group
    assert any("shrink, to 1 of 2 bundles: lost" in change.why for change in status.history)
    world.check()

    world.pass_time(60)
    assert bundles(world) == 1, "there is no room"
    work(world)
    world.report(node)
    world.pass_time(FLAP_SECONDS + 2)
    status = world.status
    assert status.reshape is ReshapeStage.DRAINS
    assert status.notice is not None
    assert "grows back" in status.notice.reason
    assert status.notice.deadline == status.notice.since + GRACE
    world.pass_time(GRACE + 3)
    status = world.status
    assert (status.phase, status.notice, status.reshape, status.shrunk) == (Phase.READY, None, None, "")
    assert world.nodes == was
    assert status.allocation is not None
    assert status.allocation.bundles == had.bundles
    assert world.groups("CREATED") == [status.group]
    world.check()
    world.coordinator.release(NAME)
    world.pass_time(3)
    world.check_empty()


def test_it_grows_back_in_its_clique_and_nowhere_else() -> None:
    world = World(nodes=6)
    racks = world.racks
    world.with_gang(SHRINK)
    assert {racks[node] for node in world.nodes} == {racks[min(world.nodes)]}
    clique = racks[min(world.nodes)]
    shrunk(world)
    world.pass_time(FLAP_SECONDS + GRACE + 20)
    assert bundles(world) == (2 if sum(rack == clique for rack in racks.values()) > 2 else 1)
    assert {racks[node] for node in world.nodes} == {clique}


def test_segments_go_whole_and_may_come_back_elsewhere() -> None:
    world = World(nodes=8)  # two racks of four
    request = gang(4, 4, 4, 4, name=NAME, locality=SEGMENTS)
    world.submit(request, on_fault=on_fault("shrink", GRACE, min_bundles=2), maker=HERE)
    world.pass_time(3)
    first, second = world.status.allocation.nodes[:2], world.status.allocation.nodes[2:]  # type: ignore[union-attr]
    world.submit(gang(4, 4, 4, name="other", locality=ONE_CLIQUE))
    world.place("other")
    world.report(first[1], xids=(79,))
    world.pass_time(GRACE + 3)
    assert (world.status.phase, world.status.allocation.nodes) == (Phase.READY, second)  # type: ignore[union-attr]
    assert world.status.shrunk == "2 of 4 bundles"
    world.pass_time(30)
    assert bundles(world) == 2
    world.coordinator.release("other")
    world.pass_time(FLAP_SECONDS + GRACE + 5)
    status = world.status
    assert (status.phase, status.shrunk) == (Phase.READY, "")
    assert status.allocation is not None
    assert status.allocation.nodes[2:] == second
    assert not {*first} & {*status.allocation.nodes[:2]}
    world.check()


def test_fewer_than_enough_do_not_go_on_and_the_next_way_is_taken() -> None:
    for ways, phase, moves in ((("shrink",), Phase.DEGRADED, 0), (("shrink", "restart"), Phase.READY, 1)):
        world = World()
        world.submit(
            gang(4, 4, name=NAME, locality=ONE_CLIQUE), on_fault=on_fault(ways, GRACE, min_bundles=1), maker=HERE
        )
        world.pass_time(3)
        before = world.nodes
        for node in before:
            world.report(node, xids=(79,))
        world.pass_time(GRACE + 3)
        assert (world.status.phase, world.status.moves, world.status.shrunk) == (phase, moves, "")
        assert bundles(world) == 2
        assert (world.nodes == before) is (moves == 0)


def test_it_shrinks_again_and_what_comes_back_in_parts_comes_in_parts() -> None:
    world = World(nodes=2)
    world.submit(gang(1, 1, 1, 1, name=NAME, locality=ONE_CLIQUE), on_fault=SHRINK, maker=HERE)
    world.pass_time(3)
    held = world.status.allocation
    assert held is not None
    node = held.nodes[0]
    world.report(node, lost=1)
    world.pass_time(GRACE + 3)
    assert (world.status.phase, bundles(world)) == (Phase.READY, 3)
    world.report(node, lost=1, xids=(79,))
    world.pass_time(GRACE + FLAP_SECONDS + 3)
    assert (world.status.phase, bundles(world)) == (Phase.READY, 2)
    world.report(node, lost=1)
    world.pass_time(FLAP_SECONDS + GRACE + 5)
    assert (world.status.phase, bundles(world), world.status.shrunk) == (Phase.READY, 3, "3 of 4 bundles")
    world.report(node)
    world.pass_time(FLAP_SECONDS + GRACE + 5)
    assert (world.status.phase, world.status.shrunk, world.status.allocation) == (
        Phase.READY,
        "",
        held._replace(epoch=0),
    )
    world.check()


def test_room_that_comes_and_goes_ends_nothing() -> None:
    world = World()
    world.with_gang(SHRINK)
    node = shrunk(world)
    moves = world.status.moves
    for _ in range(8):
        world.report(node)
        world.pass_time(FLAP_SECONDS - 3)
        assert world.status.notice is None
        world.report(node, xids=(79,))
        world.pass_time(2)
    assert (world.status.moves, world.status.phase) == (moves, Phase.READY)


def test_room_that_nobody_looked_at_for_a_while_counts_anew() -> None:
    """Meanwhile somebody waited before it, so that it was not its turn to look."""
    world = World()
    world.with_gang(SHRINK)
    node = shrunk(world)
    world.report(node)
    world.pass_time(3)
    world.submit(gang(4, 4, 4, 4, name="first", priority=1))
    world.report(node, xids=(79,))
    world.pass_time(2 * FLAP_SECONDS)
    world.report(node)
    world.coordinator.release("first")
    world.pass_time(FLAP_SECONDS - 2)
    assert (world.status.notice, bundles(world)) == (None, 1)
    world.pass_time(4 + GRACE)
    assert (world.status.phase, world.status.shrunk) == (Phase.READY, "")


def test_three_of_four_that_it_lacks_come_together() -> None:
    world = World(nodes=12)
    request = gang(*[4] * 6, name=NAME, locality=ONE_CLIQUE)
    world.submit(request, on_fault=SHRINK, maker=HERE)
    world.pass_time(3)
    lost = sorted(world.nodes)[1:5]
    for node in lost:
        world.report(node, xids=(79,))
        world.pass_time(0.1)
    world.pass_time(GRACE + FLAP_SECONDS + 3)
    assert (world.status.phase, world.status.shrunk) == (Phase.READY, "2 of 6 bundles")
    for node in lost[1:]:
        world.report(node)
    world.pass_time(FLAP_SECONDS + GRACE + 3)
    assert (world.status.phase, world.status.shrunk, world.status.moves) == (Phase.READY, "5 of 6 bundles", 2)
    world.check()


def test_it_does_not_grow_by_what_is_lost_before_its_time() -> None:
    world = World()
    world.with_gang(SHRINK)
    node = shrunk(world)
    work(world)
    world.report(node)
    world.pass_time(FLAP_SECONDS + 2)
    assert world.status.reshape is ReshapeStage.DRAINS
    world.report(node, xids=(79,))
    world.pass_time(GRACE + 5)
    status = world.status
    assert (status.phase, bundles(world), status.reshape, status.notice) == (Phase.READY, 1, None, None)
    assert status.moves == 1, "nothing of it was ended"
    world.check()
    world.report(node)
    world.pass_time(FLAP_SECONDS + GRACE + 5)
    assert (world.status.phase, world.status.shrunk) == (Phase.READY, "")


def test_what_ray_does_not_place_while_it_grows_leaves_it_as_it_was_and_it_tries_again_later() -> None:
    world = World()
    world.with_gang(SHRINK)
    node = shrunk(world)
    work(world)
    world.report(node)
    world.pass_time(FLAP_SECONDS + 2)
    world.ray.groups[world.status.group or ""].workers.clear()
    world.ray.start_task(world.raylet(node), gpus=1)  # just before Ray hears of it
    world.coordinator.observe()
    assert world.status.reshape is ReshapeStage.COMES
    for _ in range(2 * int(GROW_SECONDS)):
        world.pass_time(1)
        if world.status.reshape is None and world.status.phase is Phase.READY:
            break
    status = world.status
    assert (status.phase, bundles(world), status.reshape) == (Phase.READY, 1, None)
    assert "did not place" in status.shape_failed
    world.check()
    world.ray.tasks.clear()
    world.pass_time(60)
    assert bundles(world) == 1, "each try ends its program's work"
    world.pass_time(AGAIN_SECONDS)
    assert (world.status.phase, world.status.shrunk) == (Phase.READY, "")


def test_who_comes_before_it_has_the_room() -> None:
    world = World()
    world.with_gang(SHRINK)
    node = shrunk(world)
    world.submit(gang(4, 4, 4, 4, name="first", priority=1))
    world.report(node)
    world.pass_time(FLAP_SECONDS + GRACE + 5)
    assert (bundles(world), world.coordinator.status("first").phase) == (1, Phase.QUEUED)
    world.coordinator.release("first")
    world.pass_time(FLAP_SECONDS + GRACE + 5)
    assert world.status.shrunk == ""


def test_its_program_may_give_it_another_shape_which_it_keeps() -> None:
    world = World()
    world.with_gang(SHRINK)
    node = shrunk(world)
    world.coordinator.reshape(NAME, gang(2, 2, name=NAME, locality=ONE_CLIQUE), 60.0, 0.0)
    world.pass_time(3)
    assert (world.status.phase, world.status.shrunk, bundles(world)) == (Phase.READY, "", 2)
    world.report(node)
    world.pass_time(FLAP_SECONDS + GRACE + 5)
    assert (bundles(world), world.status.moves) == (2, 2)


def test_a_gang_with_its_cliques_to_itself_keeps_them() -> None:
    world = World()
    world.submit(gang(4, 4, name=NAME, locality=Locality(cliques=1, exclusive=True)), on_fault=SHRINK, maker=HERE)
    world.pass_time(3)
    was = world.nodes
    node = shrunk(world)
    world.submit(gang(4, 4, 4, name="other"))
    world.report(node)
    world.pass_time(1)
    assert world.coordinator.status("other").phase is Phase.QUEUED, "the clique is not its own"
    world.pass_time(FLAP_SECONDS + GRACE + 5)
    assert (world.nodes, world.status.shrunk) == (was, "")
    world.check()


# -- the coordinator killed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["store", "ray"])
def test_killed_at_any_write_it_shrinks_once_and_grows_back_once(victim: str, after: bool) -> None:
    at, died = 0, True
    while died:
        world = World()
        world.with_gang(SHRINK)
        before, node, had = world.nodes, min(world.nodes), holds(world)
        die_at(world, victim, at, after=after)
        died, back = False, 20
        for step in range(60):
            try:
                if step == 0:
                    world.report(node, xids=(79,))
                if step == back:
                    world.report(node)
                world.pass_time(1)
            except Crash:
                died = True
                world.restart()
                for name in world.names:
                    world.report(name, xids=(79,) if name == node and step < back else ())
            assert holds(world) <= had
            world.check()
            if step == back - 1:
                assert (world.status.phase, bundles(world)) == (Phase.READY, 1), f"killed at {at}"
        spare(world)
        world.check()
        status = world.status
        assert (status.phase, status.moves, status.shrunk) == (Phase.READY, 2, ""), f"killed at {at}: {status.history}"
        assert (world.nodes, holds(world)) == (before, had)
        assert world.groups("CREATED") == [status.group]
        assert world.store.keys("map/") == [f"map/{status.group}"]
        at += 1
    assert at > (8 if victim == "store" else 3)


# -- Kubernetes


def until(world: KubeWorld, done: Callable[[KubeWorld], bool], turns: int = 200) -> None:
    for _ in range(turns):
        world.turn()
        if done(world):
            return
    raise AssertionError(f"it does not come to that: {world.status.history}")


def gone_on(world: KubeWorld) -> bool:
    return world.status.moves > 0 and world.status.phase is Phase.READY


def whole_again(world: KubeWorld) -> bool:
    return world.status.phase is Phase.READY and not world.status.shrunk


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("bundle", [0, 1])
def test_on_kubernetes_the_workers_that_are_well_stay_and_one_is_made_when_it_grows(fault: str, bundle: int) -> None:
    world = KubeWorld(nodes=4, cliques=2)
    world.with_gang(SHRINK)
    before, was = world.status, pods(world)
    node, other = world.nodes[bundle], world.nodes[1 - bundle]
    FAULTS[fault](world, node)
    until(world, gone_on)
    status = world.status
    assert (status.moves, world.nodes, status.shrunk) == (1, (other,), "1 of 2 bundles")
    assert status.group != before.group
    now = pods(world)
    assert now[other] == was[other], "its worker runs on"
    assert node not in now or fault == "a silent kubelet"
    assert [reason for reason, _ in world.kube.told].count("GangRepair") == 1
    if fault == "a pod killed":
        pass  # the node is well
    elif fault == "a silent kubelet":
        world.kube.regain_node(node)
    elif fault == "the node deleted":
        world.coordinator.release(NAME)
        world.settle()
        return
    elif fault == "a device's taint NoExecute":
        world.kube.taint_device(node, "gpu-0", "")
    elif fault == "a cordon":
        world.kube.cordon(node, False)
    else:
        world.kube.taint(node, "")
    until(world, whole_again)
    status = world.status
    assert status.moves == 2
    assert set(world.nodes) == {node, other}
    assert world.nodes[bundle] == node
    now = pods(world)
    assert now[other] == was[other]
    assert now[node] != was[node]
    found = {pod.node: got for pod, got in world.kube.running()}
    assert status.allocation is not None
    for placed in status.allocation.bundles:
        assert found[placed.node] == {grant.uuid for grant in placed.grants}
    world.coordinator.release(NAME)
    world.settle()


def test_a_spare_comes_before_and_shrinking_is_next() -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(on_fault(("replace", "shrink", "restart"), GRACE, min_bundles=1))
    group, clique = world.status.group, world.status.allocation.bundles[0].clique  # type: ignore[union-attr]
    world.kube.taint(world.nodes[1], "NoExecute")
    until(world, gone_on)
    assert (world.status.group, world.status.shrunk) == (group, "")
    kept = world.nodes[0]
    world.kube.taint(world.nodes[1], "NoExecute")
    until(world, lambda world: world.status.shrunk != "" and world.status.phase is Phase.READY)
    assert world.nodes == (kept,)
    world.kube.taint(kept, "NoExecute")
    until(world, lambda world: world.status.phase is Phase.READY and kept not in world.nodes)
    assert world.status.allocation is not None
    assert world.status.allocation.bundles[0].clique != clique, "too few are left: elsewhere"
    world.coordinator.release(NAME)
    world.settle()


def test_a_worker_that_cannot_be_had_while_it_grows_leaves_it_as_it_was() -> None:
    world = KubeWorld(nodes=4, cliques=2)
    world.with_gang(SHRINK)
    was, (other, node) = pods(world), world.nodes
    world.kube.taint(node, "NoExecute")
    until(world, gone_on)
    world.kube.break_registry(node)
    world.kube.taint(node, "")
    until(world, lambda world: world.status.reshape is ReshapeStage.COMES)
    until(world, lambda world: world.status.reshape is None and world.status.phase is Phase.READY, 400)
    assert (world.nodes, world.status.shrunk) == ((other,), "1 of 2 bundles")
    assert world.status.shape_failed
    for _ in range(10):
        world.turn()
    now = pods(world)
    assert (now[other], node in now) == (was[other], False)
    world.coordinator.release(NAME)
    world.settle()


@pytest.mark.parametrize("fault", ["a pod killed", "NoExecute"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["kube", "ray"])
def test_killed_at_any_write_on_kubernetes(victim: str, fault: str, after: bool) -> None:
    at, died = 0, True
    while died:
        world = KubeWorld(nodes=4, cliques=2)
        world.with_gang(SHRINK)
        other, node = world.nodes
        was = pods(world)
        world.die_at(victim, at, after=after)
        before = world.coordinator
        FAULTS[fault](world, node)
        until(world, gone_on)
        world.kube.taint(node, "")
        until(world, whole_again)
        died = world.coordinator is not before
        world.spare()
        assert (world.status.moves, world.nodes) == (2, (other, node)), f"killed at {at}: {world.status.history}"
        assert pods(world)[other] == was[other]
        world.coordinator.release(NAME)
        world.settle()
        at += 1
    assert at > 2


VICTIMS: dict[str, Callable[[KubeWorld], None]] = {
    "its pod": lambda world: world.kill_pod(world.nodes[0]),
    "its node": lambda world: world.kube.taint(world.nodes[0], "NoExecute"),
    "what it lost, again": lambda world: world.kube.taint(sorted(world.kube.nodes)[1], "NoExecute"),
    "the coordinator": KubeWorld.restart,
}


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("turns", range(0, 44, 4))
def test_whatever_else_is_lost_meanwhile_it_is_ready_again(victim: str, turns: int) -> None:
    world = KubeWorld(nodes=4, cliques=2)
    world.with_gang(on_fault(("shrink", "restart"), GRACE, min_bundles=1))
    node = world.nodes[1]
    world.kube.taint(node, "NoExecute")
    until(world, lambda world: world.status.moves > 0)
    for turn in range(turns):
        if turn == 6:
            world.kube.taint(node, "")
        world.turn()
    VICTIMS[victim](world)
    for _ in range(300):
        world.turn()
    assert world.status.phase is Phase.READY, "\n".join(map(str, world.status.history))
    assert not world.status.lost
    assert len(world.nodes) in (1, 2)
    world.coordinator.release(NAME)
    world.settle()


def test_a_worker_may_go_where_the_gang_had_another_slot_before_it_shrank() -> None:
    """It has the label by which the placement group selects its slot, and no slot has two."""
    world = KubeWorld(nodes=4, cliques=1)
    asked = world.order(4, on_fault=on_fault(("replace", "shrink"), GRACE, min_bundles=2), name="train")
    request = replace(asked.request, gang=NAME, locality=SEGMENTS)
    world.coordinator.submit(replace(asked, request=request, maker=HERE))
    assert world.drive(NAME) is Phase.READY
    first, second, third, fourth = world.nodes
    world.kube.taint(fourth, "NoExecute")
    for _ in range(60):
        world.turn()
    assert (world.status.phase, world.nodes) == (Phase.READY, (first, second))
    for node, takes in ((second, third), (third, second)):  # and back, with the same numbers
        world.kube.taint_device(second, "gpu-1", "")
        world.kube.taint_device(node, "gpu-1", "NoExecute")
        for _ in range(120):
            world.turn()
        assert (world.status.phase, world.nodes) == (Phase.READY, (first, takes))
        (group,) = [each for each in world.ray.groups.values() if each.state == "CREATED"]
        assert world.status.allocation is not None
        labels = slot_labels(world.status.allocation)
        assert [each[SLOT_LABEL] for each in group.selectors] == [labels[first], labels[takes]]
    world.coordinator.release(NAME)
    world.settle()
