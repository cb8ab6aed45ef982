"""The handle in a change of shape and in a restart after a fault: a coordinator over fakes behind it, and no Ray."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import ray_dra
from ray_dra.coordinator.status import Status
from ray_dra.core.gangs.gang import Maker
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import on_fault
from ray_dra.errors import RayDraError
from ray_dra.program import gang_handle
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator.world import World

ID = f"{7:036x}"


class _Call:
    """What `actor.method.remote(...)` returns, when it is read: an answer or an error, made at the call."""

    def __init__(self, call: Callable[..., Any], *given: Any) -> None:
        self.answer, self.error = None, None
        try:
            self.answer = call(*given)
        except RayDraError as error:
            self.error = error


class _Remote:
    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def remote(self, *given: Any) -> _Call:
        return _Call(self._call, *given)


class Actor:
    """As the coordinator's actor answers, and a second passes with each wait."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[str] = []
        for name in ("status", "commit", "reshape", "check_shape"):
            setattr(self, name, _Remote(self._noted(name)))
        self.await_phase = _Remote(lambda gang, phases, timeout: self._later(gang))
        self.await_reshape = _Remote(lambda gang, stage, timeout: self._later(gang))

    def _noted(self, name: str) -> Callable[..., Status]:
        def call(*given: Any) -> Status:
            self.asked.append(name)
            status: Status = getattr(self.world.coordinator, name)(*given)
            crossed: Status = pickle.loads(pickle.dumps(status))  # to another process
            return crossed

        return call

    def _later(self, gang: str) -> Status:
        self.world.pass_time(1)
        return self.world.coordinator.status(gang)


def read(call: _Call, **more: object) -> Any:
    if call.error is not None:
        raise call.error
    return call.answer


@pytest.fixture(params=[True, False], ids=["made by the coordinator", "made by the program"])
def handle(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[World, Any]:
    world = World()
    actor = Actor(world)

    class Group:
        def __init__(self, group: str) -> None:
            self.hex_id = group

        @property
        def id(self) -> Any:
            return type("Id", (), {"hex": lambda _: self.hex_id})()

        def wait(self, timeout: float) -> bool:
            world.pass_time(1)
            state = world.ray.groups[self.hex_id].state
            if state == "REMOVED":
                raise Exception("the placement group was removed")
            return state == "CREATED"

    def make(bundles: Any, *, bundle_label_selector: Any, **more: Any) -> Group:
        return Group(world.ray.create_group(bundles, bundle_label_selector, "job"))

    monkeypatch.setattr(gang_handle, "ask", read)
    monkeypatch.setattr(gang_handle, "coordinator", lambda: actor)
    monkeypatch.setattr(gang_handle, "plain", lambda name: make)
    monkeypatch.setattr(gang_handle, "remove", lambda group: world.ray.remove_group(group.hex_id))
    monkeypatch.setattr(gang_handle.GangPlacementGroup, "_made", lambda self, group: Group(group))
    asked = replace(request_from_bundles([{"GPU": 4}] * 2), gang=ID)
    declared = on_fault("restart", 0.0)
    order = Order(asked, owner="job", maker=Maker() if request.param else None, on_fault=declared)
    made = gang_handle.GangPlacementGroup.of(order, world.coordinator.submit(order))
    assert made.wait(30)
    return world, made


def test_it_returns_once_the_next_shape_is_placed_and_every_copy_follows(handle: tuple[World, Any]) -> None:
    world, made = handle
    copies = [copy.copy(made), pickle.loads(pickle.dumps(made))]
    before = made.placement_group.hex_id
    for count, size in ((8, 1), (4, 2), (2, 4)):
        made.reshape([{"GPU": size}] * count, grace=0)
        assert made.phase is Phase.READY
        assert made.bundle_count == count
        assert made.placement_group.hex_id not in (before, "")
        before = made.placement_group.hex_id
        assert [len(bundle.grants) for bundle in made.allocation.bundles] == [size] * count
        for each in copies:
            assert each.wait(30)
            assert each.placement_group.hex_id == before
            assert each.bundle_count == count
    assert [name for name, group in world.ray.groups.items() if group.state != "REMOVED"] == [before]
    world.check()


def test_a_change_that_was_over_before_it_was_heard_of_is_followed(handle: tuple[World, Any]) -> None:
    """As where the coordinator is killed while the handle waits for it."""
    world, made = handle
    group = made.placement_group.hex_id
    world.ray.groups[group].workers.add(0)
    wait = world.pass_time

    def pass_time(each: float = 5.0) -> None:
        world.ray.groups[group].workers.clear()
        for _ in range(3):
            wait(each)
            status = world.coordinator.status(ID)
            if status.group is None and status.phase is Phase.HELD:
                world.place(ID)

    world.pass_time = pass_time  # type: ignore[method-assign,assignment]
    made.reshape([{"GPU": 1}] * 8, grace=100)
    status = world.coordinator.status(ID)
    assert made.placement_group.hex_id == status.group != group
    assert made.bundle_count == 8


def test_a_shape_that_is_refused_changes_nothing(handle: tuple[World, Any]) -> None:
    world, made = handle
    before = made.placement_group.hex_id
    with pytest.raises(ray_dra.UnsatisfiableError, match="own GPUs"):
        made.reshape([{"GPU": 4}] * 3)
    with pytest.raises(ray_dra.InvalidRequest, match="on Kubernetes"):
        made.reshape([{"GPU": 1}] * 8, part=ray_dra.mig("1g.10gb"))
    for wrong in ({"timeout": 0}, {"timeout": "soon"}, {"grace": -1}):
        with pytest.raises(ray_dra.InvalidRequest):
            made.reshape([{"GPU": 2}] * 4, **wrong)
    with pytest.raises(ray_dra.InvalidRequest):
        made.reshape([{"GPU": 0}])
    assert (made.placement_group.hex_id, made.bundle_count, made.phase) == (before, 2, Phase.READY)
    world.check()


def test_the_old_shape_that_returns_is_told_with_the_reason(handle: tuple[World, Any]) -> None:
    world, made = handle
    wait = world.pass_time
    raylet = world.raylet(made.allocation.bundles[0].node)
    place, tasks = world.ray.place, list[int]()

    def steal() -> None:
        """Work without the hook is quicker than Ray's placement groups, once."""
        busy = sum(g.state == "CREATED" for g in world.ray.groups.values())
        if not tasks and not busy:
            found = world.ray.start_task(raylet, 1)
            assert found is not None
            tasks.append(found[0])
        place()

    world.ray.place = steal  # type: ignore[method-assign]
    seconds = [0]

    def pass_time(each: float = 5.0) -> None:
        seconds[0] += 1
        if seconds[0] == 40:
            world.ray.tasks.clear()
        wait(each)

    world.pass_time = pass_time  # type: ignore[method-assign,assignment]
    with pytest.raises(ray_dra.ReshapeFailed, match="shape that it had before") as failed:
        made.reshape([{"GPU": 1}] * 8, grace=0, timeout=20)
    assert "within 20 s" in failed.value.available
    assert tasks
    assert (made.bundle_count, made.phase) == (2, Phase.READY)
    made.reshape([{"GPU": 1}] * 8, grace=0)
    assert made.bundle_count == 8
    world.check()


def test_a_gang_that_is_given_back_meanwhile_is_gone(handle: tuple[World, Any]) -> None:
    world, made = handle
    group = made.placement_group.hex_id
    world.ray.groups[group].workers.add(0)
    wait = world.pass_time

    def pass_time(each: float = 5.0) -> None:
        world.coordinator.release(ID)
        wait(each)

    world.pass_time = pass_time  # type: ignore[method-assign,assignment]
    with pytest.raises(ray_dra.GangGone):
        made.reshape([{"GPU": 1}] * 8, grace=100)


def test_after_a_restart_every_copy_of_the_handle_has_the_next_placement_group(handle: tuple[World, Any]) -> None:
    world, made = handle
    copies = [copy.copy(made), pickle.loads(pickle.dumps(made))]
    before, was = made.placement_group.hex_id, made.allocation
    world.coordinator._wall = world.clock
    world.report(was.nodes[0], xids=(79,))
    world.pass_time(2)
    for each in (made, *copies):
        assert each.wait(30)
        assert each.placement_group.hex_id != before
        assert not {was.nodes[0]} & set(each.allocation.nodes)
    assert len({each.placement_group.hex_id for each in (made, *copies)}) == 1
    assert [name for name, group in world.ray.groups.items() if group.state == "CREATED"] == [
        made.placement_group.hex_id
    ]
    world.check()


def test_a_handle_waits_for_a_gang_that_waits_for_room_after_a_fault_and_makes_no_group_itself(
    handle: tuple[World, Any],
) -> None:
    world, made = handle
    world.coordinator._wall = world.clock
    others = [world.submit(replace(request_from_bundles([{"GPU": 4}]), gang=f"other{at}")).gang for at in range(2)]
    for each in others:
        world.place(each)
    node = made.allocation.nodes[0]
    world.report(node, xids=(79,))
    world.pass_time(2)
    assert str(made.phase.value) == "queued"
    world.report(node)
    assert made.wait(30)
    assert made.phase is Phase.READY
    assert len([1 for group in world.ray.groups.values() if group.state == "CREATED"]) == 3
    world.check()
