"""A gang changes its shape on the GPUs that it has: with kills at every step, foreign work that wants its GPUs, and on
Kubernetes workers that stay."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.core.gangs.gang import Maker
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.model.parts import PartCriteria
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import GangGone, InvalidRequest, RayDraError, UnsatisfiableError
from ray_dra.ports.ray import GroupAnswer, NewGroup
from ray_dra.simulated.fakes import MemoryStore
from ray_dra.translate.names import SLOT_LABEL
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator import kubernetes_world
from tests.coordinator.fault_worlds import GRACE, NAME, KubeWorld
from tests.coordinator.kills import Broken, MortalRay, die_at, failing_at_each_write, lived, spare
from tests.coordinator.world import Clock, Crash, CrashingStore, World, positions
from tests.core.machines import gang


def ready(*sizes: int, world: World | None = None) -> World:
    world = world or World()
    world.submit(gang(*sizes, name="a"))
    assert world.place("a").phase is Phase.READY
    return world


def in_shape(world: World, *sizes: int) -> bool:
    """As the handle does: follow to the next placement group. True once the gang has this shape, and Ray has it."""
    status = world.coordinator.status("a")
    if status.allocation is not None and status.group is None and status.phase is Phase.HELD:
        status = world.place("a")
    return (
        status.phase is Phase.READY
        and status.reshape is None
        and world.coordinator.gangs["a"].request == gang(*sizes, name="a")
    )


def used(world: World) -> set[object]:
    held = world.coordinator.gangs["a"].holds
    assert held is not None
    return {grant.device for grant in held.held_grants}


def changed(world: World) -> None:
    """A life in which a gang has three shapes; every step may be repeated after a kill."""
    world.submit(gang(4, 4, name="a"))
    status = world.coordinator.status("a")
    if status.group is None and status.allocation is not None:
        world.place("a")
    world.submit(gang(4, 4, 4, name="b"))  # waits for a GPU of it
    for sizes in ((2, 2, 2, 2), (4, 2), (2, 2, 1)):
        if world.coordinator.gangs["a"].allocation is None:
            break  # it was given back before the kill, and waits for "b"
        if len(used(world)) >= sum(sizes):
            with contextlib.suppress(InvalidRequest):  # it is on its way to a later shape already
                world.coordinator.reshape("a", gang(*sizes, name="a"), 60.0, 0.0, keep=len(sizes) == 2)
        for _ in range(4):
            world.pass_time(1)
            if in_shape(world, *sizes):
                break
    world.coordinator.release("a")
    world.pass_time(2)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [Crash, Broken])
def test_killed_at_every_write_it_goes_on_and_nobody_gets_a_gpu_in_between(
    error: type[BaseException], after: bool
) -> None:
    for world in failing_at_each_write(changed, after=after, error=error):
        lived(world, changed, back=World.restart if error is Crash else lambda world: world.coordinator.observe())
        world.check()
        for name in ("a", "b"):
            world.coordinator.release(name)
        for _ in range(3):
            world.pass_time(40)
        world.check_empty()
        assert not [group for group in world.ray.groups.values() if group.state != "REMOVED"]


def follow(world: World, made: dict[int, str]) -> None:
    """As the handle does whose call is sent again: it has made one placement group for each plan. `made`: by moves."""
    status = world.coordinator.status("a")
    if status.allocation is None or status.group is not None:
        return
    if status.moves not in made:
        bundles = [{"GPU": float(len(placed.grants))} for placed in status.allocation.bundles]
        made[status.moves] = world.ray.create_group(bundles, status.selectors, "job")
    world.coordinator.commit("a", made[status.moves], status.moves)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(12))
def test_killed_once_in_a_change_the_gang_has_the_next_shape_all_the_same(write: int, after: bool) -> None:
    world = ready(4, 4)
    mine = used(world)
    assert isinstance(world.store, CrashingStore)
    world.store.left, world.store.after = write, after
    made: dict[int, str] = {}
    for _ in range(6):
        try:
            if world.coordinator.gangs["a"].request == gang(4, 4, name="a"):
                world.coordinator.reshape("a", gang(2, 2, 2, 2, name="a"), 60.0, 0.0)
            world.pass_time(1)
            follow(world, made)
        except Crash:
            world.come_back()
        assert used(world) == mine
        world.check()
    assert in_shape(world, 2, 2, 2, 2)
    assert len([group for group in world.ray.groups.values() if group.state != "REMOVED"]) == 1
    assert len(world.store.keys("map/")) == 1


def kept(world: World) -> None:
    """A life in which a gang keeps what its small shape does not use, and has the large one again."""
    world.submit(gang(4, 4, name="a"))
    status = world.coordinator.status("a")
    if status.group is None and status.allocation is not None:
        world.place("a")
    world.submit(gang(4, 4, 4, name="b"))  # waits for a GPU of it
    for sizes in ((2,), (4, 4), (1, 1)):
        if world.coordinator.gangs["a"].allocation is None:
            break  # it was given back before the kill, and waits for "b"
        with contextlib.suppress(InvalidRequest):  # it is on its way to a later shape already
            world.coordinator.reshape("a", gang(*sizes, name="a"), 60.0, 0.0, keep=True)
        for _ in range(4):
            world.pass_time(1)
            if "a" not in world.coordinator.gangs:
                return  # its program was killed before it was told of the placement group
            if world.coordinator.gangs["a"].allocation is not None:
                assert len(used(world)) == 8
            if in_shape(world, *sizes):
                break
    world.coordinator.release("a")
    world.pass_time(2)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [Crash, Broken])
def test_killed_at_every_write_it_keeps_what_it_is_to_keep(error: type[BaseException], after: bool) -> None:
    for world in failing_at_each_write(kept, after=after, error=error):
        lived(world, kept, back=World.restart if error is Crash else lambda world: world.coordinator.observe())
        world.check()
        for name in ("a", "b"):
            world.coordinator.release(name)
        for _ in range(3):
            world.pass_time(40)
        world.check_empty()


@pytest.mark.parametrize("keep", [False, True])
def test_who_asks_for_the_shape_that_comes_and_would_keep_something_else_hears_so(keep: bool) -> None:
    """Two copies of a handle, say: the one that asks for what is kept would think that it has it."""
    world = ready(4, 4)
    world.coordinator.reshape("a", gang(4, name="a"), 60.0, 0.0, keep=keep)
    assert world.coordinator.status("a").reshape is ReshapeStage.COMES
    with pytest.raises(InvalidRequest, match="is changing its shape already"):
        world.coordinator.reshape("a", gang(4, name="a"), 60.0, 0.0, keep=not keep)
    world.coordinator.reshape("a", gang(4, name="a"), 60.0, 0.0, keep=keep)
    assert world.place("a").phase is Phase.READY
    world.pass_time(1)
    assert len(used(world)) == (8 if keep else 4)
    world.coordinator.reshape("a", gang(*[1] * len(used(world)), name="a"), 60.0, 0.0, keep=keep)
    world.coordinator.reshape("a", gang(*[1] * len(used(world)), name="a"), 60.0, 0.0, keep=not keep)  # it uses all
    world.check()


def test_what_a_gang_keeps_is_no_task_of_others() -> None:
    """With ray-dra's hook; of other work Ray has no taints."""
    world = ready(4, 4, 4, 4)
    world.coordinator.reshape("a", gang(2, name="a"), 60.0, 0.0, keep=True)
    assert world.place("a").phase is Phase.READY
    world.pass_time(1)
    status = world.coordinator.status("a")
    assert status.allocation is not None
    assert len(used(world)) == 16
    node = status.allocation.bundles[0].node
    with pytest.raises(RayDraError, match="every GPU of the node is taken"):
        world.coordinator.devices_for(world.raylet(node), "", -1, (3,), 7)
    world.coordinator.reshape("a", gang(2, name="a"), 60.0, 0.0)
    assert len(world.coordinator.devices_for(world.raylet(node), "", -1, (3,), 7)) == 1


def test_work_without_the_hook_on_what_is_kept_is_told_and_keeps_the_next_shape_away_until_it_ends() -> None:
    world = ready(4, 4)
    world.coordinator.reshape("a", gang(4, name="a"), 60.0, 0.0, keep=True)
    assert world.place("a").phase is Phase.READY
    world.pass_time(2)
    assert world.coordinator.status("a").other_work == ()
    held = world.coordinator.gangs["a"].allocation
    assert held is not None
    assert held.kept is not None
    task = world.ray.start_task(world.raylet(held.kept.placed[0].node), 1)
    assert task is not None
    world.pass_time(2)
    (said,) = world.coordinator.status("a").other_work
    assert "of those that the gang keeps" in said
    with pytest.raises(UnsatisfiableError, match="own GPUs"):
        world.coordinator.reshape("a", gang(4, 4, name="a"), 60.0, 0.0)
    assert world.coordinator.gangs["a"].allocation == held
    del world.ray.tasks[task[0]]
    world.pass_time(2)
    assert world.coordinator.status("a").other_work == ()
    world.coordinator.reshape("a", gang(4, 4, name="a"), 60.0, 0.0)
    assert world.place("a").phase is Phase.READY
    world.check()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_between_the_record_and_ray_the_old_placement_group_goes_all_the_same(after: bool) -> None:
    world = ready(4, 4)
    world.ray.__class__ = MortalRay
    assert isinstance(world.ray, MortalRay)
    world.ray.die_at(0, after=after)
    with pytest.raises(Crash):
        world.coordinator.reshape("a", gang(4, 2, 2, name="a"), 60.0, 0.0)
    world.restart()
    world.pass_time(1)
    status = world.coordinator.status("a")
    assert status.reshape is ReshapeStage.COMES
    assert [group.state for group in world.ray.groups.values()] == ["REMOVED"]
    assert in_shape(world, 4, 2, 2) or world.place("a").phase is Phase.READY


def test_its_work_has_its_grace_time_and_a_restart_does_not_give_it_more() -> None:
    world = ready(4)
    status = world.coordinator.status("a")
    assert status.group is not None
    world.ray.groups[status.group].workers.add(0)
    now = [1_000.0]
    world.coordinator._wall = lambda: now[0]
    status = world.coordinator.reshape("a", gang(2, 2, name="a"), 60.0, 20.0)
    assert status.reshape is ReshapeStage.DRAINS
    assert status.notice is not None
    assert status.notice.deadline == 1_020.0
    world.pass_time(5)
    assert world.coordinator.status("a").reshape is ReshapeStage.DRAINS
    world.coordinator = Coordinator(world.store, world.ray, world.clock, wall=lambda: now[0])
    world.pass_time(1)
    assert world.coordinator.status("a").notice == status.notice
    now[0] = 1_021.0
    world.pass_time(1)
    assert world.coordinator.status("a").reshape is ReshapeStage.COMES
    world.ray.settle()
    assert world.place("a").phase is Phase.READY


def test_foreign_work_gets_none_of_its_gpus_while_it_changes_its_shape() -> None:
    """Ray has no taints, and hands out numbers of GPUs; a worker that asks which ones they are is told no."""
    world = ready(4)
    status = world.coordinator.status("a")
    assert status.allocation is not None
    raylet = world.raylet(status.allocation.bundles[0].node)
    world.coordinator.reshape("a", gang(2, 2, name="a"), 60.0, 0.0)
    world.ray.settle()
    task = world.ray.start_task(raylet, 2)
    assert task is not None
    pid, gpu_ids = task
    for _ in range(2):
        with pytest.raises(RayDraError, match="taken"):
            world.coordinator.devices_for(raylet, "", -1, gpu_ids, pid)
        assert world.place("a").phase is Phase.PLACING
        world.pass_time(10)
        assert world.coordinator.status("a").moves == 1, "it waits for its own GPUs, and goes nowhere else"
    del world.ray.tasks[pid]  # Ray ends a worker whose hook fails, and tries its task again
    world.pass_time(1)
    assert in_shape(world, 2, 2)
    world.check()


def test_foreign_work_that_does_not_ask_keeps_the_next_shape_away_and_the_old_one_returns() -> None:
    world = ready(4)
    status = world.coordinator.status("a")
    assert status.allocation is not None
    raylet = world.raylet(status.allocation.bundles[0].node)
    world.coordinator.reshape("a", gang(2, 2, name="a"), 20.0, 0.0)
    world.ray.settle()
    task = world.ray.start_task(raylet, 1)
    assert task is not None
    world.place("a")
    world.pass_time(19)
    assert world.coordinator.status("a").reshape is ReshapeStage.COMES
    world.pass_time(3)
    status = world.coordinator.status("a")
    assert status.reshape is ReshapeStage.RETURNS
    assert "within 20 s" in status.shape_failed
    del world.ray.tasks[task[0]]
    world.pass_time(1)
    assert world.place("a").phase is Phase.READY
    world.pass_time(1)
    status = world.coordinator.status("a")
    assert (status.reshape, status.bundles) == (None, 1)
    assert "within 20 s" in status.shape_failed
    world.check()


def test_a_shape_is_checked_before_anything_is_asked_of_the_gang() -> None:
    world = ready(4)
    before = world.coordinator.gangs["a"]
    for request, timeout, grace in (
        (gang(2, 2, name="other"), 60.0, 0.0),
        ("(2, 2)", 60.0, 0.0),
        (gang(2, 2, name="a"), 0.0, 0.0),
        (gang(2, 2, name="a"), float("nan"), 0.0),
        (gang(2, 2, name="a"), 60.0, -1.0),
        (gang(2, 2, name="a"), 60.0, float("inf")),
    ):
        with pytest.raises(InvalidRequest):
            world.coordinator.reshape("a", request, timeout, grace)  # type: ignore[arg-type]
    with pytest.raises(UnsatisfiableError, match="own GPUs"):
        world.coordinator.reshape("a", gang(4, 4, name="a"), 60.0, 0.0)
    with pytest.raises(GangGone):
        world.coordinator.reshape("none", gang(4, name="none"), 60.0, 0.0)
    assert world.coordinator.gangs["a"] == before


def test_a_worker_of_the_next_shape_sees_the_gpus_of_its_bundle() -> None:
    world = ready(4)
    world.coordinator.reshape("a", gang(1, 3, name="a"), 60.0, 0.0)
    status = world.place("a")
    assert status.allocation is not None
    assert status.group is not None
    seen = []
    for bundle, placed in enumerate(status.allocation.bundles):
        found = world.coordinator.devices_for(world.raylet(placed.node), status.group, bundle, (bundle,), 7)
        seen += positions(found)
        assert set(positions(found)) <= {grant.position for grant in placed.grants}
    assert len(set(seen)) == 2


def test_given_back_in_the_middle_its_gpus_are_free_once_the_workers_of_the_old_shape_have_ended() -> None:
    world = ready(4)
    status = world.coordinator.status("a")
    assert status.group is not None
    world.ray.groups[status.group].workers.add(0)
    world.coordinator.reshape("a", gang(2, 2, name="a"), 60.0, 0.0)
    assert world.coordinator.status("a").group is None
    assert not world.coordinator.release("a")
    assert "a" in world.coordinator.gangs
    world.pass_time(1)
    world.check_empty()


def test_of_two_records_that_claim_a_gpu_which_a_shape_does_not_need_one_lies_aside() -> None:
    world = ready(4, 4)
    world.coordinator.reshape("a", gang(4, name="a"), 60.0, 0.0)
    assert world.coordinator.status("a").reshape is ReshapeStage.COMES
    told = json.loads(world.store.data["gang/a"])
    left = told["reshape"]["leaves"]
    spare = next(placed for placed in left["allocation"][1] if placed != told["allocation"][1][0])
    text = json.dumps({**told, "reshape": None, "reshaped": False, "sequence": 2, "old_groups": [], "moves": 0})
    text = text.replace(json.dumps(told["allocation"][1]), json.dumps([spare]))
    text = text.replace('"gang": "a"', '"gang": "b"').replace('"allocation": ["a"', '"allocation": ["b"')
    world.store.data["gang/b"] = text.replace('"gave_way": 1', '"gave_way": 0').encode()
    world.restart()
    assert list(world.coordinator.gangs) == ["a"]
    assert "claims a device" in world.coordinator.aside.records["gang/b"].reason


# -- on Kubernetes: the gang's own workers and claims stay


class KubernetesWorld(kubernetes_world.World):
    def __init__(self) -> None:
        super().__init__()
        self.name = self.coordinator.submit(self.order()).gang
        assert self.drive(self.name) is Phase.READY
        self.before = self.objects()

    def objects(self) -> tuple[list[str], list[object]]:
        """What there is of its workers: names of objects, and the devices that claims have got."""
        return sorted(self.kube.left()), sorted(self.kube.claimed(), key=str)

    def request(self, bundles: int, gpus: int) -> GangRequest:
        return replace(request_from_bundles([{"GPU": float(gpus)}] * bundles), gang=self.name)

    def turn(self) -> None:
        super().turn()
        if hasattr(self, "before") and not self.coordinator.gangs[self.name].releasing:
            assert self.objects() == self.before, "no claim ends, so Kubernetes has nothing to give to others"


def test_on_kubernetes_workers_and_claims_stay() -> None:
    world = KubernetesWorld()
    for bundles, gpus in ((8, 1), (4, 2), (2, 4)):
        writes = world.kube.writes
        world.coordinator.reshape(world.name, world.request(bundles, gpus), 60.0, 0.0)
        assert world.drive(world.name) is Phase.READY
        world.turn()
        status = world.coordinator.status(world.name)
        assert (status.reshape, status.bundles) == (None, bundles)
        assert world.kube.writes == writes
    with pytest.raises(UnsatisfiableError, match="keep their GPUs"):
        world.coordinator.reshape(world.name, world.request(1, 4), 60.0, 0.0)
    del world.before
    world.coordinator.release(world.name)
    world.settle()


def test_on_kubernetes_workers_keep_the_gpus_that_a_shape_does_not_use() -> None:
    """No claim ends for it, and the GPUs of each bundle are those that its raylet numbers so."""
    world = KubernetesWorld()
    mine = {grant.device for grant in world.coordinator.gangs[world.name].allocation.grants}  # type: ignore[union-attr]
    for bundles, gpus in ((1, 2), (3, 2), (1, 4), (8, 1), (2, 4)):
        world.coordinator.reshape(world.name, world.request(bundles, gpus), 60.0, 0.0, keep=True)
        assert world.drive(world.name) is Phase.READY
        world.restart()
        world.turn()
        status = world.coordinator.status(world.name)
        assert (status.reshape, status.bundles, status.phase) == (None, bundles, Phase.READY)
        assert status.allocation is not None
        assert {grant.device for grant in status.allocation.held_grants} == mine
        assert world.coordinator.inventory.free_devices == 8
        seen = world.coordinator.gpu_id_map.by_bundle(status.allocation)
        for placed, devices in zip(status.allocation.bundles, seen, strict=True):
            pod = next(got for pod, got in world.kube.running() if pod.node == placed.node)
            there = world.coordinator.inventory.node_states[placed.node].node.devices
            names = [device.uuid for device in there if device.uuid in pod]
            assert [names[device.position] for device in devices] == [grant.uuid for grant in placed.grants]
    del world.before
    world.coordinator.release(world.name)
    world.settle()


def test_on_kubernetes_bundles_in_another_order_of_nodes_have_the_same_workers() -> None:
    """A worker is selected by its slot's number, and slots are numbered as the first shape's bundles were."""
    world = KubernetesWorld()

    def numbers() -> dict[str, str]:
        status = world.coordinator.status(world.name)
        assert status.allocation is not None
        return {n: sel[SLOT_LABEL] for n, sel in zip(status.allocation.nodes, status.selectors, strict=True)}

    before, orders = numbers(), set()
    for sizes in ((4, 2, 2), (2, 2, 4), (1, 3, 4), (4, 3, 1), (2, 4, 2)):
        request = replace(request_from_bundles([{"GPU": float(size)} for size in sizes]), gang=world.name)
        world.coordinator.reshape(world.name, request, 60.0, 0.0)
        assert world.drive(world.name) is Phase.READY
        world.restart()
        world.turn()
        assert numbers() == before
        orders.add(tuple(numbers()))
        status = world.coordinator.status(world.name)
        assert status.group is not None
        on = [world.ray.nodes[n].labels[SLOT_LABEL] for n in world.ray.groups[status.group].nodes if n is not None]
        assert on == [selector[SLOT_LABEL] for selector in status.selectors]
    assert len(orders) > 1, "else nothing was tried"


def test_on_kubernetes_its_work_has_its_grace_time() -> None:
    """Its raylets are in its own workers, which are no nodes of their own."""
    world = KubernetesWorld()
    group = world.coordinator.gangs[world.name].group
    assert group is not None
    world.ray.groups[group].workers.add(1)
    now = [1_000.0]
    world.coordinator._wall = lambda: now[0]
    world.coordinator.reshape(world.name, world.request(8, 1), 60.0, 20.0)
    for _ in range(10):
        world.turn()
    assert world.coordinator.status(world.name).reshape is ReshapeStage.DRAINS
    world.ray.groups[group].workers.clear()
    world.turn()
    assert world.coordinator.status(world.name).reshape is ReshapeStage.COMES
    assert world.drive(world.name) is Phase.READY
    group = world.coordinator.gangs[world.name].group
    assert group is not None
    world.ray.groups[group].workers.add(1)
    world.coordinator.reshape(world.name, world.request(2, 4), 60.0, 20.0)
    now[0] += 21.0
    world.turn()
    assert world.coordinator.status(world.name).reshape is ReshapeStage.COMES, "it is over"


def test_of_placement_groups_that_a_gang_has_left_no_gpu_ids_are_remembered() -> None:
    """Or the record of a raylet would grow with each day's change of shape."""
    world = made_here(4)
    for sizes in ((2, 2), (4,)) * 3:
        world.coordinator.reshape(MADE, gang(*sizes, name=MADE), 60.0, 0.0)
        world.pass_time(2)
        status = world.coordinator.status(MADE)
        assert status.allocation is not None
        assert status.group is not None
        raylet = world.raylet(status.allocation.nodes[0])
        world.coordinator.devices_for(raylet, status.group, 0, (0,), 7)
        known = world.coordinator.foreign_work.bundles[raylet]
        assert {owner.partition("/")[0] for owner in known} == {status.group}


@pytest.mark.parametrize("kill", range(8))
def test_on_kubernetes_a_coordinator_that_is_started_again_at_any_time_goes_on(kill: int) -> None:
    world = KubernetesWorld()
    world.coordinator.reshape(world.name, world.request(8, 1), 60.0, 0.0)
    for turn in range(16):
        if turn == kill:
            world.restart()
        world.drive(world.name, turns=1)
    status = world.coordinator.status(world.name)
    assert (status.phase, status.reshape, status.bundles) == (Phase.READY, None, 8)
    assert len([group for group in world.ray.groups.values() if group.state != "REMOVED"]) == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_a_gang_that_has_changed_its_shape_has_lost_workers_replaced_and_changes_it_again(restarted: bool) -> None:
    """The new worker has the number of the lost one, and the others stay what they are, shape after shape."""
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(on_fault("replace", GRACE))

    def shape(*sizes: int) -> None:
        asked = replace(request_from_bundles([{"GPU": float(size)} for size in sizes]), gang=NAME)
        world.coordinator.reshape(NAME, asked, 60.0, 0.0)
        world.drive(NAME)
        world.turn()
        assert (world.status.phase, world.status.reshape, world.status.bundles) == (Phase.READY, None, len(sizes))
        if restarted:
            world.restart()
            world.turn()

    def workers() -> dict[str, str]:
        return {pod.node or "": pod.uid for pod, _ in world.kube.running()}

    shape(2, 2, 4)
    shape(4, 2, 2)
    for _ in range(2):
        before, lost, moves = workers(), world.nodes[0], world.status.moves
        world.kube.cordon(lost)
        for _ in range(80):
            world.turn()
            if world.status.moves > moves:
                break
        assert world.until_ready() is Phase.READY
        assert lost not in world.nodes
        now = workers()
        assert len(now) == 2
        assert {node: now[node] for node in before if node != lost} == {n: u for n, u in before.items() if n != lost}
        shape(2, 2, 4)
        assert workers() == now, "no worker is made anew for another shape"
        shape(4, 2, 2)
        world.kube.cordon(lost, closed=False)
    world.coordinator.release(NAME)
    world.settle()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_worker_that_is_replaced_takes_what_it_kept_with_it_and_the_others_keep_theirs(restarted: bool) -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(on_fault("replace", GRACE))
    asked = replace(request_from_bundles([{"GPU": 2.0}, {"GPU": 3.0}], strategy="STRICT_SPREAD"), gang=NAME)
    world.coordinator.reshape(NAME, asked, 60.0, 0.0, keep=True)
    world.drive(NAME)
    world.turn()

    def kept() -> dict[str, int]:
        held = world.coordinator.gangs[NAME].allocation
        return {p.node: len(p.grants) for p in held.kept.placed} if held and held.kept else {}

    lost, stays = world.nodes
    assert kept() == {lost: 2, stays: 1}
    world.kube.cordon(lost)
    for _ in range(80):
        world.turn()
        if lost not in world.nodes:
            break
    if restarted:
        world.restart()
    assert world.until_ready() is Phase.READY
    assert kept() == {stays: 1}
    devices = {node: sum(1 for each in world.kube.claimed() if each[0] == node) for node in world.nodes}
    assert devices == {world.nodes[0]: 2, stays: 4}, "the claims say so, too"
    world.coordinator.release(NAME)
    world.settle()


def test_parts_that_no_claim_makes_are_refused_with_the_reason() -> None:
    world = KubernetesWorld()
    bundles = [{"GPU": 1.0}] * 8
    parts = replace(request_from_bundles(bundles, part=PartCriteria("1g.10gb")), gang=world.name)
    with pytest.raises(UnsatisfiableError, match="no node gives GPUs in parts"):
        world.coordinator.reshape(world.name, parts, 60.0, 0.0)


def test_a_record_that_says_what_cannot_be_lies_aside() -> None:
    """Of a change of shape, too: a next shape with a GPU that is not held could be another gang's."""
    world = ready(4, 4)
    status = world.coordinator.status("a")
    assert status.group is not None
    world.ray.groups[status.group].workers.add(0)
    world.coordinator.reshape("a", gang(2, 2, name="a"), 60.0, 1_000.0)
    data = json.loads(world.store.data["gang/a"])
    spoils: tuple[Callable[[dict[str, Any]], None], ...] = (
        lambda told: told["reshape"].update(stage="comes"),
        lambda told: told["reshape"].update(stage="returns"),
        lambda told: told["reshape"].update(timeout=0.0),
        lambda told: told["reshape"]["comes"]["request"].update(gang="b"),
        lambda told: told["reshape"]["leaves"].update(told["reshape"]["comes"]),
    )
    for spoil in spoils:
        told = json.loads(json.dumps(data))
        spoil(told)
        store = MemoryStore()
        store.data = {**world.store.data, "gang/a": json.dumps(told).encode()}
        found = Coordinator(store, world.ray, Clock())
        assert not found.gangs
        assert list(found.aside.records) == ["gang/a"]
    store = MemoryStore()
    store.data = dict(world.store.data)
    assert list(Coordinator(store, world.ray, Clock()).gangs) == ["a"]


# -- the coordinator makes the placement groups, as for all that programs ask for by `placement_group`

MADE = f"{7:036x}"


def made_here(*sizes: int) -> World:
    world = World()
    world.ray.__class__ = MortalRay
    world.submit(gang(*sizes, name=MADE), maker=Maker())
    world.pass_time(1)
    assert world.coordinator.status(MADE).phase is Phase.READY
    return world


def living(world: World) -> list[str]:
    return [name for name, group in world.ray.groups.items() if group.state != "REMOVED"]


def test_the_next_placement_group_is_made_in_the_same_moment() -> None:
    """So that Ray has it before others' work that waits: there is nothing to do for the program."""
    world = made_here(4)
    status = world.coordinator.status(MADE)
    assert status.group == MADE
    status = world.coordinator.reshape(MADE, gang(2, 2, name=MADE), 60.0, 0.0)
    assert status.reshape is ReshapeStage.COMES
    assert status.group not in (None, MADE)
    assert living(world) == [status.group]
    world.pass_time(1)
    status = world.coordinator.status(MADE)
    assert (status.phase, status.reshape, status.bundles) == (Phase.READY, None, 2)
    assert world.store.keys("map/") == [f"map/{status.group}"]
    world.check()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(16))
@pytest.mark.parametrize("where", ["store", "ray"])
def test_killed_anywhere_in_a_change_the_gang_has_the_next_shape(where: str, write: int, after: bool) -> None:
    world = made_here(4, 4)
    mine = {grant.device for grant in world.coordinator.gangs[MADE].holds.grants}  # type: ignore[union-attr]
    world.submit(gang(4, 4, 4, name="waits"))
    die_at(world, where, write, after=after)
    shapes = [(2, 2, 2, 2), (1, 1, 1, 1, 4), (2,), (4, 4)]
    for _ in range(16):
        try:
            found = world.coordinator.gangs[MADE]
            if found.reshape is None and shapes and found.request == gang(*shapes[0], name=MADE):
                del shapes[0]
            if found.reshape is None and shapes:
                world.coordinator.reshape(MADE, gang(*shapes[0], name=MADE), 60.0, 0.0, keep=True)
            world.pass_time(1)
        except Crash:
            world.come_back()
        held = world.coordinator.gangs[MADE].holds
        assert held is not None
        assert {grant.device for grant in held.held_grants} == mine
        assert world.coordinator.gangs["waits"].allocation is None
        world.check()
    assert not shapes
    status = world.coordinator.status(MADE)
    assert (status.phase, status.bundles, status.shape_failed) == (Phase.READY, 2, "")
    assert living(world) == [status.group]
    assert world.store.keys("map/") == [f"map/{status.group}"]
    spare(world)
    world.coordinator.release(MADE)
    world.coordinator.release("waits")
    world.pass_time(2)
    world.check_empty()


def test_a_shape_that_ray_refuses_gives_way_to_the_old_one() -> None:
    """A name that another group has taken, say; and where the old one is refused too, the gang is given up."""
    world = World()
    world.submit(gang(4, name=MADE), maker=Maker(), name="train")
    world.pass_time(1)
    make = world.ray.make_group
    for times in (1, 2):
        left = [times]

        def refuse(new: NewGroup, *, again: bool, left: list[int] = left) -> GroupAnswer:
            if left[0]:
                left[0] -= 1
                return GroupAnswer(refused="the name is taken")
            return make(new, again=again)

        world.ray.make_group = refuse  # type: ignore[method-assign]
        if times == 2:
            with pytest.raises(UnsatisfiableError, match="the name is taken"):
                world.coordinator.reshape(MADE, gang(2, 2, name=MADE), 60.0, 0.0)
            continue
        world.coordinator.reshape(MADE, gang(2, 2, name=MADE), 60.0, 0.0)
        world.pass_time(2)
        status = world.coordinator.status(MADE)
        assert (status.phase, status.bundles, status.shape_failed) == (Phase.READY, 1, "the name is taken")
    world.pass_time(2)
    world.check_empty()


def test_a_ray_that_does_not_answer_when_the_old_group_is_to_go_is_asked_again_before_the_next_one_is_made() -> None:
    """Both have the gang's name, of which Ray takes one."""
    world = World()
    world.submit(gang(4, name=MADE), maker=Maker(), name="train")
    world.pass_time(1)
    remove, deaf = world.ray.remove_group, [True]

    def remove_once_it_answers(group: str) -> None:
        if deaf:
            deaf.clear()
            raise RayDraError("Ray's control store did not answer.")
        remove(group)

    world.ray.remove_group = remove_once_it_answers  # type: ignore[method-assign]
    assert world.coordinator.reshape(MADE, gang(2, 2, name=MADE), 60.0, 0.0).reshape is ReshapeStage.COMES
    world.pass_time(2)
    status = world.coordinator.status(MADE)
    assert (status.phase, status.bundles, status.shape_failed) == (Phase.READY, 2, "")
    assert living(world) == [status.group]


def test_a_gang_that_is_started_again_after_a_fault_keeps_its_shape() -> None:
    world = World()
    world.submit(gang(4, name=MADE), maker=Maker(), on_fault=on_fault("restart", 0.0))
    world.pass_time(1)
    world.coordinator.reshape(MADE, gang(2, 2, name=MADE), 60.0, 0.0)
    world.pass_time(1)
    status = world.coordinator.status(MADE)
    assert status.allocation is not None
    world.report(status.allocation.bundles[0].node, xids=(79,))
    for _ in range(3):
        world.pass_time(5)
    status = world.coordinator.status(MADE)
    assert (status.phase, status.bundles) == (Phase.READY, 2)
    assert status.group is not None
    assert len(world.ray.groups[status.group].bundles) == 2
    world.check()
