"""A worker that has only what its gang keeps for another shape is lost: it is made anew, or what it had is given back,
and the gang goes on in either case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import UnsatisfiableError
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator.fault_worlds import GRACE, NAME, KubeWorld
from tests.coordinator.world import Crash


class World(KubeWorld):
    """A gang of two whole trays uses one of them and keeps the other, which is `keeps`."""

    def __init__(self, way: str = "degrade") -> None:
        super().__init__(nodes=6, cliques=2)
        self.with_gang(on_fault(way, GRACE))
        self.reshape(4)
        self.until_placed()
        (self.keeps,) = self.kept

    def shape(self, *sizes: int) -> GangRequest:
        return replace(request_from_bundles([{"GPU": float(size)} for size in sizes]), gang=NAME)

    def reshape(self, *sizes: int) -> None:
        self.coordinator.reshape(NAME, self.shape(*sizes), 60.0, 0.0, keep=True)

    def until_placed(self) -> None:
        for _ in range(200):
            self.drive(NAME, turns=1)
            if self.status.phase is Phase.READY and self.status.reshape is None:
                return
        raise AssertionError(self.status)

    @property
    def kept(self) -> dict[str, int]:
        held = self.coordinator.gangs[NAME].allocation
        return {p.node: len(p.grants) for p in held.kept.placed} if held is not None and held.kept is not None else {}

    @property
    def pods(self) -> dict[str, str]:
        return {pod.node or "": pod.uid for pod, _ in self.kube.running()}

    def turns(self, count: int = 20) -> None:
        for _ in range(count):
            self.turn()

    @property
    def whys(self) -> str:
        return "; ".join(change.why for change in self.status.history)


def lose_node(world: World) -> None:
    world.kube.lose_node(world.keeps)
    world.kill_pod(world.keeps)


def delete_node(world: World) -> None:
    world.kube.delete_node(world.keeps)
    world.kill_pod(world.keeps)


def evict(world: World) -> None:
    world.kube.taint(world.keeps, "NoExecute")
    world.kill_pod(world.keeps)


def take(world: World) -> None:
    """Somebody else's claim was quicker."""
    world.kill_pod(world.keeps)
    world.kube._collect()
    world.kube.take(world.keeps, "gpu-0")


def end_raylet(world: World) -> None:
    """No pod of a gang is started twice."""
    (pod,) = (pod.name for pod, _ in world.kube.running() if pod.node == world.keeps)
    world.kube.end_well(pod)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("way", ["degrade", "replace"])
def test_it_is_made_anew_where_it_was(way: str, restarted: bool) -> None:
    world = World(way)
    before, claimed = world.pods, sorted(world.kube.claimed())
    world.kill_pod(world.keeps)
    if restarted:
        world.restart()
    world.turns()
    assert world.status.phase is Phase.READY
    assert world.kept == {world.keeps: 4}
    assert sorted(world.kube.claimed()) == claimed
    assert world.pods.keys() == before.keys()
    assert [node for node in before if world.pods[node] != before[node]] == [world.keeps]
    world.reshape(4, 4)
    world.until_placed()
    assert (world.status.bundles, world.status.shape_failed) == (2, "")
    world.coordinator.release(NAME)
    world.settle()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("what", [lose_node, delete_node, evict, take, end_raylet])
def test_where_it_cannot_be_had_what_it_kept_is_given_back_and_other_shapes_can_be_had(
    what: Callable[[World], None], restarted: bool
) -> None:
    """The next change of shape waited for it, and so did the way back: the whole gang was given up for it."""
    world = World()
    what(world)
    if restarted:
        world.restart()
    world.turns()
    assert (world.status.phase, world.status.lost, world.kept) == (Phase.READY, (), {})
    assert f"what it kept on {world.keeps} is given back" in world.whys
    assert world.keeps not in world.pods
    with pytest.raises(UnsatisfiableError, match="own GPUs"):
        world.reshape(4, 4)
    world.reshape(2, 2)
    world.until_placed()
    assert (world.status.bundles, world.status.shape_failed) == (2, "")
    assert world.keeps not in world.pods
    world.kube.regain_node(world.keeps)
    world.coordinator.release(NAME)
    world.settle()


@pytest.mark.parametrize("what", [lose_node, take, end_raylet])
def test_lost_while_its_gang_changes_its_shape_it_ends_no_change_that_does_not_need_it(
    what: Callable[[World], None],
) -> None:
    world = World()
    world.reshape(2, 2)
    assert world.status.reshape is ReshapeStage.COMES
    what(world)
    world.until_placed()
    world.turns()
    assert (world.status.bundles, world.status.shape_failed, world.kept) == (2, "", {})
    world.coordinator.release(NAME)


def test_lost_before_a_shape_comes_that_needs_it_the_gang_stays_as_it_is() -> None:
    world = World()
    group = world.coordinator.gangs[NAME].group
    assert group is not None
    world.ray.groups[group].workers.add(0)
    world.coordinator.reshape(NAME, world.shape(4, 4), 60.0, 30.0, keep=True)
    assert world.status.reshape is ReshapeStage.DRAINS
    lose_node(world)
    world.turns(6)
    after = world.coordinator.status(NAME)
    assert (after.phase, after.reshape, after.bundles) == (Phase.READY, None, 1)
    assert f"what it kept on {world.keeps} is lost" in world.status.shape_failed
    assert world.status.notice is None
    assert world.kept == {}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(8))
def test_a_coordinator_that_is_killed_at_any_write_goes_on_with_it(write: int, after: bool) -> None:
    for node_too in (False, True):
        world = World("replace")
        world.kill_pod(world.keeps)
        if node_too:
            world.kube.lose_node(world.keeps)
        world.kube.die_at(write, after=after)
        for _ in range(40):
            try:
                world.turn()
            except Crash:
                world.restart()
        world.kube._left = None
        assert world.status.phase is Phase.READY
        assert world.kept == ({} if node_too else {world.keeps: 4})
        world.coordinator.release(NAME)
        world.kube.regain_node(world.keeps)
        world.settle()


def test_a_lost_slot_is_not_replaced_onto_what_the_gang_keeps() -> None:
    """There its own worker is, which has these GPUs: the record would say them twice, and be refused at each look."""
    world = World("replace")
    before = world.pods[world.keeps]
    lost = world.nodes[0]
    world.kube.cordon(lost)
    for _ in range(80):
        world.turn()
        if lost not in world.nodes:
            break
    assert world.until_ready() is Phase.READY
    assert not {lost, world.keeps} & {*world.nodes}
    assert world.kept == {world.keeps: 4}
    assert world.pods[world.keeps] == before
    world.reshape(4, 4)
    world.until_placed()
    assert {*world.nodes} == world.pods.keys() - {lost}
    world.coordinator.release(NAME)
    world.settle()


def test_beside_a_lost_worker_about_which_nothing_is_done_what_is_kept_is_given_back_with_its_pod() -> None:
    world = World()
    used = world.nodes[0]
    end_raylet(world)
    world.kill_pod(used)
    world.turns()
    assert (world.status.phase, world.kept) == (Phase.DEGRADED, {})
    assert [pod.name for pod in world.kube.view().pods] == []
    assert world.kube.claimed() == []
    world.coordinator.release(NAME)
    world.settle()


def test_both_lost_the_slot_with_bundles_is_replaced_all_the_same() -> None:
    """Its making waited for the other one's node, too."""
    world = World("replace")
    lost = world.nodes[0]
    for node in (lost, world.keeps):
        world.kube.lose_node(node)
        world.kill_pod(node)
    for _ in range(200):
        world.turn()
        if lost not in world.nodes and world.status.phase is Phase.READY:
            break
    assert world.status.phase is Phase.READY, world.whys
    assert not {lost, world.keeps} & {*world.nodes}
    assert world.kept == {}
