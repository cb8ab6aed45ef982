"""Whole GPUs, parts and shares become one another on a gang's own GPUs: found where it can be, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.actions import RemoveGroup
from ray_dra.core.gangs.events import Committed, GangObserved, ReshapeAsked, Submitted, WorkersProgressed
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.progress import THERE, Progress
from ray_dra.core.gangs.reshape import GUARD_SECONDS, PASSING_SECONDS, next_allocation
from ray_dra.core.gangs.shapes import Reshape, ReshapeStage, Shape, gpu_of, has_anew, sense_of_reshape
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.gpu_sharing import GpuSharing, SharingKind
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.plan import plan
from tests.core.gangs.world import World
from tests.core.machines import group_id
from tests.core.parted import SMALL, bundle, parted_node

NODES, GPUS = 2, 3
TIME_SLICES = GpuSharing(SharingKind.TIME_SLICING)


def share(thousandths: int) -> Bundle:
    return Bundle((DeviceRequest(1, share=thousandths, sharing=TIME_SLICES),))


WHOLE = st.lists(st.integers(1, 3).map(lambda n: Bundle((DeviceRequest(n),))), min_size=1, max_size=4)
PARTS = st.lists(st.sampled_from(["1g.1gb", "2g.2gb", "3g.2gb"]).map(bundle), min_size=1, max_size=8)
SHARES = st.lists(st.sampled_from([250, 500, 750]).map(share), min_size=1, max_size=6)
SHAPES = WHOLE | PARTS | SHARES


def request(gang: str, bundles: list[Bundle]) -> GangRequest:
    return GangRequest(gang, tuple(bundles))


def cluster() -> Inventory:
    return Inventory(parted_node(f"n{n}", GPUS, SMALL) for n in range(NODES))


def alone(own: tuple[Placed, ...]) -> Inventory:
    """A cluster in which these GPUs are free, and all others another gang's."""
    made = cluster()
    mine = {gpu_of(grant) for placed in own for grant in placed.grants}
    rest = []
    for state in made.node_states.values():
        others = tuple(grant for grant in state.grants if gpu_of(grant) not in mine)
        if others:
            rest.append(Placed(state.name, others))
    if rest:
        made.hold(Allocation("rest", tuple(rest)))
    return made


def what_is_held(inventory: Inventory) -> dict[str, Any]:
    states = inventory.node_states.values()
    return {
        state.name: (state.held, state.free, dict(state.shares), [gpu.state for gpu in state.parts]) for state in states
    }


@settings(max_examples=150, deadline=None)
@given(SHAPES, SHAPES, st.lists(PARTS | WHOLE, max_size=2))
def test_a_next_shape_is_found_where_its_gpus_alone_have_it(
    first: list[Bundle], after: list[Bundle], others: list[list[Bundle]]
) -> None:
    inventory = cluster()
    planning = Planning(inventory, KnownNodes(inventory), ())
    for number, each in enumerate(others):
        answer = plan(inventory, request(f"other-{number}", each))
        if isinstance(answer, Allocation):
            inventory.hold(answer)
    held = plan(inventory, request("g", first))
    if not isinstance(held, Allocation):
        return
    inventory.hold(held)
    own, before = planning.own_gpus(held), what_is_held(inventory)
    mine = set(map(gpu_of, held.grants))
    theirs = {
        gpu_of(grant)
        for number in range(len(others))
        if (other := inventory.allocation(f"other-{number}")) is not None
        for grant in other.grants
    }
    assert (own is None) is bool(mine & theirs)
    if own is None:
        return
    assert {gpu_of(grant) for placed in own for grant in placed.grants} == mine
    asked = request("g", after)
    found = next_allocation(held, asked, planning, own_workers=True, gpus=own)
    assert what_is_held(inventory) == before, "nothing changes with a plan"
    assert isinstance(found, Allocation) is isinstance(plan(alone(own), asked), Allocation)
    if not isinstance(found, Allocation):
        return
    assert set(map(gpu_of, found.grants)) <= mine
    if not has_anew(request("g", first), asked):
        return
    change = Reshape(ReshapeStage.DRAINS, Shape(request("g", first), held), Shape(asked, found), 0.0, 60.0, gpus=own)
    assert sense_of_reshape(change, change.leaves, "g", 0) == ""
    for holds in (change.holds, found, change.holds, held):  # as its record has it, step by step
        inventory.release("g")
        inventory.hold(holds)
        taken = {gpu_of(grant) for grant in holds.grants}
        others_get = plan(inventory, request("late", [Bundle((DeviceRequest(1),))]))
        if isinstance(others_get, Allocation):
            assert taken.isdisjoint(map(gpu_of, others_get.grants))
        if holds is change.holds:
            some = plan(inventory, request("late", [bundle("1g.1gb")]))
            assert not isinstance(some, Allocation) or mine.isdisjoint(map(gpu_of, some.grants))
    assert what_is_held(inventory) == before


# -- step by step

LOST = Observed(group_state="CREATED", placed_once=True, lost=("node n: its pool is being published",))
OPEN = Observed(group_state="CREATED", placed_once=True, guarded=False)
RUNS = Observed(group_state="CREATED", placed_once=True)


def changing() -> World:
    """A gang of two whole GPUs that is to have parts of them."""
    world = World(machines=[parted_node("n", 2)], own_workers=True)
    world.act(Submitted(Order(request("g", [Bundle((DeviceRequest(2),))]))))
    world.act(WorkersProgressed("g", THERE))
    world.act(Committed("g", group_id("first"), 0))
    world.act(GangObserved("g", RUNS))
    world.act(ReshapeAsked("g", request("g", [bundle("1g.10gb")] * 14), 60.0, 30.0, RUNS))
    return world


def stage(world: World) -> ReshapeStage | None:
    change = world.gangs["g"].reshape
    return change.stage if change is not None else None


def test_nothing_is_let_go_before_others_are_kept_off() -> None:
    world = changing()
    world.now = 30.0
    world.act(GangObserved("g", OPEN))
    assert stage(world) is ReshapeStage.DRAINS
    assert world.gangs["g"].group == group_id("first")
    world.act(GangObserved("g", RUNS))
    assert stage(world) is ReshapeStage.COMES
    came = world.gangs["g"]
    assert came.allocation is not None
    assert came.allocation.epoch == came.moves == 1, "its workers are another attempt's"
    assert RemoveGroup(group_id("first")) in world.done
    world.act(WorkersProgressed("g", Progress(failed="no pod can be had")))
    back = world.gangs["g"]
    assert stage(world) is ReshapeStage.RETURNS
    assert back.allocation is not None
    assert (back.allocation.epoch, len(back.allocation.bundles)) == (2, 1)
    world.act(WorkersProgressed("g", THERE))
    world.act(Committed("g", group_id("third"), 2))
    world.act(GangObserved("g", RUNS))
    assert stage(world) is None
    assert world.gangs["g"].shape_failed == "no pod can be had"
    assert world.gangs["g"].gave_way == world.gangs["g"].moves, "it costs no try"


@pytest.mark.parametrize(
    ("seen", "seconds"), [(LOST, PASSING_SECONDS), (OPEN, GUARD_SECONDS)], ids=["a lost part", "no guard"]
)
def test_what_may_pass_is_waited_for_and_then_the_shape_stays(seen: Observed, seconds: float) -> None:
    world = changing()
    first = world.gangs["g"].group
    for now in (1.0, 29.0, 30.0 + seconds - 0.1):
        world.now = now
        world.act(GangObserved("g", seen))
        assert stage(world) is ReshapeStage.DRAINS
    world.now = 30.0 + seconds
    world.act(GangObserved("g", seen))
    assert stage(world) is None
    assert world.gangs["g"].shape_failed
    assert (world.gangs["g"].group, world.gangs["g"].moves) == (first, 0)


def test_where_others_can_never_be_kept_off_the_shape_stays_at_once() -> None:
    world = changing()
    world.act(GangObserved("g", replace(OPEN, no_guard="no right")))
    assert stage(world) is None
    assert "no right" in world.gangs["g"].shape_failed
    assert world.gangs["g"].moves == 0


def test_workers_that_do_not_come_in_time_bring_the_old_shape_back() -> None:
    world = changing()
    world.act(GangObserved("g", RUNS))
    world.act(GangObserved("g", Observed(provisioned=False, held_for=60.0)))
    assert stage(world) is ReshapeStage.COMES
    world.act(GangObserved("g", Observed(provisioned=False, held_for=60.1)))
    assert stage(world) is ReshapeStage.RETURNS
    world.act(GangObserved("g", Observed(provisioned=False, held_for=60.1)))
    assert "g" not in world.gangs, "all is given back"
