"""Ordinary placement groups through the coordinator, over fake ports."""

from __future__ import annotations

import pytest

from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.model.request import Bundle, DeviceRequest
from ray_dra.errors import InvalidRequest
from ray_dra.translate.ray.bundles import ray_bundles, request_from_bundles
from tests.coordinator.kills import MortalRay, SilentRay, failing_at_each_write, lived
from tests.core.machines import gang

from .world import Phase, World

ACTOR = "b" * 32


def group(number: int) -> str:
    return f"{number:036x}"


def order(world: World, number: int, *sizes: int, **more: object) -> str:
    """A program makes one; its id."""
    actor, outlives = str(more.pop("actor", "")), bool(more.pop("outlives_job", False))
    minted = OrdinaryGroup(group(number), actor, outlives)
    world.submit(gang(*sizes, name=group(number)), ordinary=minted, **more)
    return group(number)


def states(world: World) -> dict[str, str]:
    return {name: found.state for name, found in world.ray.groups.items()}


def test_it_is_in_ray_when_the_call_is_answered() -> None:
    world = World()
    first = order(world, 1, 4, 4)
    assert states(world) == {first: "CREATED"}
    world.pass_time(1)
    assert world.coordinator.status(first).phase is Phase.READY
    where = [world.ray.nodes[raylet or ""].labels["ray-dra.io/node"] for raylet in world.ray.groups[first].nodes]
    allocation = world.coordinator.status(first).allocation
    assert allocation is not None
    assert where == list(allocation.nodes)
    assert world.store.keys("map/") == [f"map/{first}"]
    assert world.coordinator.pending_groups() == []
    world.check()


def test_pending_ones_are_told_of_and_get_their_turn() -> None:
    world = World()
    first = order(world, 1, 4, 4, 4, 4)
    second = order(world, 2, 4, name="second", namespace="here")
    assert states(world) == {first: "CREATED"}
    told = [(second, "second", [{"GPU": 4.0}], "PACK")]
    assert world.coordinator.pending_groups() == told
    assert world.coordinator.pending_groups(group=second) == told
    assert world.coordinator.pending_groups(name="second", namespace="here") == told
    assert world.coordinator.pending_groups(name="second", namespace="there") == []
    assert world.coordinator.pending_groups(group=first) == []
    world.ray.remove_group(first)  # by Ray's own call, in a process without the hook
    world.pass_time(3)
    assert states(world) == {first: "REMOVED", second: "CREATED"}
    world.coordinator.release(second)
    world.pass_time(1)
    world.check_empty()


def test_the_end_of_a_job_and_of_a_detached_actor() -> None:
    world = World()
    world.ray.actors[ACTOR] = "another"
    order(world, 1, 4, 4, 4, 4)
    job, actor = order(world, 2, 4), order(world, 3, 4, actor=ACTOR, outlives_job=True)
    world.ray.jobs.add("other")
    world.ray.jobs.remove("job")
    world.pass_time(3)
    assert states(world)[job] == "REMOVED"
    assert actor in world.coordinator.gangs
    assert states(world)[actor] == "CREATED", "what the job had is free"
    waits = order(world, 4, 4, 4, 4, 4, actor=ACTOR, outlives_job=True)
    del world.ray.actors[ACTOR]
    world.pass_time(1)
    assert waits not in world.coordinator.gangs
    assert actor not in world.coordinator.gangs
    assert states(world)[actor] == "REMOVED", "it might have ended just before Ray was told of the group"


@pytest.mark.parametrize("took", [False, True])
@pytest.mark.parametrize("removed", [False, True])
def test_where_ray_is_silent_it_is_told_again(took: bool, removed: bool) -> None:
    world = World()
    world.ray.__class__ = SilentRay
    world.ray.took = took  # type: ignore[attr-defined]
    first = order(world, 1, 4, 4)
    world.ray.silent = False  # type: ignore[attr-defined]
    if removed:
        world.ray.remove_group(first)
    world.pass_time(3)
    if took and removed:
        assert states(world) == {first: "REMOVED"}
        world.check_empty()
    else:
        assert states(world) == {first: "CREATED"}
        assert world.coordinator.status(first).phase is Phase.READY
        world.check()


def script(world: World) -> None:
    """A life of ordinary groups; every step may be repeated after a kill."""
    for number, sizes in enumerate(([4, 4], [4, 4], [4], [2]), 1):
        order(world, number, *sizes)
    world.pass_time()
    world.coordinator.release(group(4))
    world.ray.remove_group(group(1))
    world.coordinator.release(group(1))
    world.pass_time()
    world.coordinator.release(group(2))
    world.coordinator.release(group(3))
    world.pass_time()


def end(world: World) -> None:
    for number in range(1, 5):
        world.coordinator.release(group(number))
    world.pass_time(40)
    world.check_empty()
    assert world.coordinator.inventory.free_devices == 16
    live = {name for name, state in states(world).items() if state != "REMOVED"}
    assert not live, "nobody waits for what is gone"
    assert set(states(world)) == {group(number) for number in range(1, 5)}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_write_nothing_is_lost_or_twice(after: bool) -> None:
    for world in failing_at_each_write(script, after=after):
        lived(world, script)
        end(world)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(12))
def test_killed_at_everything_it_does_in_ray_nothing_is_lost_or_twice(at: int, after: bool) -> None:
    world = World()
    world.ray.__class__ = MortalRay
    assert isinstance(world.ray, MortalRay)
    world.ray.die_at(at, after=after)
    lived(world, script)
    end(world)


def test_others_that_took_its_place_keep_it_and_it_waits_on_its_nodes() -> None:
    """Ray gave a GPU to a task while the group was being registered: it is placed when the task ends, and has other
    devices than the task."""
    world = World(nodes=1)
    world.ray.nodes["t0-0"].total["CPU"] = 16.0  # type: ignore[index]
    cpus = request_from_bundles([{"GPU": 2, "CPU": 16}])
    from dataclasses import replace

    taker = world.ray.start_task("t0-0", 1)
    assert taker is not None
    first = group(1)
    world.ray.tasks[99] = ("t0-0", ())
    world.coordinator.observe()
    world.submit(replace(cpus, gang=first), ordinary=OrdinaryGroup(first))
    pid, slots = taker
    taken = world.coordinator.devices_for("t0-0", "", -1, slots, pid)
    allocation = world.coordinator.status(first).allocation
    assert allocation is not None
    assert {g.uuid for g in allocation.grants}.isdisjoint(d.uuid for d in taken)
    assert world.coordinator.status(first).group == first
    world.check()


def test_a_group_whose_device_others_took_and_whose_other_node_is_gone_waits() -> None:
    """Each look ended in a KeyError."""
    world = World(nodes=2)
    other, slots = world.ray.start_task("t0-0", 1) or (0, ())
    first = order(world, 1, 4, 4)
    assert world.coordinator.status(first).phase is Phase.PLACING
    assert len(world.coordinator.devices_for("t0-0", "", -1, slots, other)) == 1
    world.ray.kill_node("t1-0")
    world.pass_time(10)
    assert world.coordinator.status(first).phase is Phase.DEGRADED
    world.check()


BAD: list[object] = [
    OrdinaryGroup("g"),
    OrdinaryGroup(group(2)),
    OrdinaryGroup(group(1), "an actor"),
    OrdinaryGroup(group(1), "", 1),  # type: ignore[arg-type]
    7,
]


@pytest.mark.parametrize("minted", BAD)
def test_what_is_no_ordinary_group_is_refused(minted: object) -> None:
    world = World()
    with pytest.raises(InvalidRequest):
        world.submit(gang(1, name=group(1)), ordinary=minted)
    world.check_empty()


def test_ray_hears_of_a_bundle_what_the_program_said() -> None:
    bundles = [{"GPU": 1, "node:10.0.0.1": 0.001, "accelerator_type:GB200": 0.0001, "CPU": 0.0}, {"CPU": 1.0, "GPU": 0}]
    request = request_from_bundles(bundles)
    assert request.bundles[0].devices == (DeviceRequest(1),)
    assert request.bundles[1] == Bundle((), {"CPU": 1.0})
    assert ray_bundles(request) == [{k: float(v) for k, v in bundle.items() if v} for bundle in bundles]
