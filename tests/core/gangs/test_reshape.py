"""Another shape for a gang on the GPUs that it has, on the engine alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.gangs.actions import DeleteMap, Drop, RemoveGroup, Save, TellNotice
from ray_dra.core.gangs.changes import ForbiddenChange, check_change
from ray_dra.core.gangs.events import (
    Committed,
    DevicesTaken,
    GangObserved,
    NextTurn,
    ReleaseAsked,
    ReshapeAsked,
    Submitted,
    WorkersProgressed,
)
from ray_dra.core.gangs.gang import Gang, Maker, OrdinaryGroup
from ray_dra.core.gangs.lifecycle import HOLD_SECONDS, MOST_MOVES, Observed
from ray_dra.core.gangs.notice import Ending
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.progress import THERE, Progress
from ray_dra.core.gangs.repair import LOST, on_fault
from ray_dra.core.gangs.reshape import NOTICE, next_allocation
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.parts import PartCriteria
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.errors import GangGone, InvalidRequest, RayDraError, UnsatisfiableError
from tests.core.gangs.world import World
from tests.core.machines import gang, group_id, node, rack

RUNS = Observed(group_state="CREATED", placed_once=True)
BUSY = Observed(group_state="CREATED", placed_once=True, busy=True)


def ready(*sizes: int, nodes: int = 2, own_workers: bool = False, name: str = "g", **more: Any) -> World:
    """A world with a gang that Ray has placed."""
    world = World(nodes=nodes, own_workers=own_workers, machines=more.pop("machines", None))
    world.submit(*sizes, name=name, **more)
    place(world, name)
    return world


def place(world: World, name: str = "g", group: str = "first") -> None:
    if world.engine.own_workers:
        world.act(WorkersProgressed(name, THERE))
    world.act(Committed(name, group_id(group), world.gangs[name].moves))
    world.act(GangObserved(name, RUNS))


def ask(
    world: World,
    *sizes: int,
    name: str = "g",
    grace: float = 30.0,
    seen: Observed = RUNS,
    keep: bool = False,
    **more: Any,
) -> Gang:
    request = gang(*sizes, name=name, **more)
    world.act(ReshapeAsked(name, request, 60.0, grace, seen, keep))
    return world.gangs[name]


def devices(allocation: Allocation | None) -> set[object]:
    assert allocation is not None
    return {grant.device for grant in allocation.grants}


def every(allocation: Allocation | None) -> set[object]:
    """With what is kept."""
    assert allocation is not None
    return {grant.device for grant in allocation.held_grants}


def held(world: World, name: str = "g") -> set[object]:
    return every(world.inventory.allocation(name))


@pytest.mark.parametrize("own_workers", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((4, 4), (2, 2, 2, 2)),
        ((2, 2), (4,)),
        ((1, 1, 1, 1), (4,)),
        ((4,), (3, 1)),
        ((4, 4), (1,) * 8),
        ((4, 4), (4, 2, 2)),
    ],
)
def test_the_same_gpus_in_another_shape(before: tuple[int, ...], after: tuple[int, ...], own_workers: bool) -> None:
    """Step by step: nothing is let go before the old work has ended, nothing is anybody else's in between."""
    world = ready(*before, own_workers=own_workers)
    mine = held(world)
    began = ask(world, *after)
    assert began.reshape is not None
    assert began.group == group_id("first")
    assert began.notice is not None
    assert (began.notice.reason, began.notice.deadline) == (NOTICE, 30.0)
    assert any(isinstance(action, TellNotice) for action in world.done)
    assert RemoveGroup(group_id("first")) not in world.done

    world.act(GangObserved("g", BUSY))
    assert world.gangs["g"].reshape == began.reshape, "its work goes on"
    cut = world.act(GangObserved("g", RUNS))
    came = world.gangs["g"]
    kinds = [type(action) for action in cut]
    assert kinds.index(Save) < kinds.index(RemoveGroup) < kinds.index(DeleteMap), "the record comes first"
    assert came.group is None
    assert came.notice is None
    assert came.request == gang(*after)
    assert devices(came.allocation) == mine == held(world)

    place(world, group="second")
    over = world.gangs["g"]
    assert (over.reshape, over.shape_failed, over.group) == (None, "", group_id("second"))
    assert over.old_groups == (), "what Ray has no more is forgotten"
    assert held(world) == mine
    assert over.moves == over.gave_way == 1


def test_what_the_next_shape_does_not_need_is_its_own_until_that_is_there() -> None:
    world = ready(4, 4)
    world.submit(4, name="waits")
    ask(world, 4, 2)
    world.act(GangObserved("g", RUNS))
    world.act(NextTurn())
    assert world.gangs["waits"].allocation is None
    assert len(held(world)) == 8
    place(world, group="second")
    assert len(held(world)) == 6
    ask(world, 4)
    world.act(GangObserved("g", RUNS))
    place(world, group="third")
    world.act(NextTurn())
    assert world.gangs["waits"].allocation is not None


def test_what_is_kept_is_its_own_until_a_shape_needs_it_or_it_is_given_back() -> None:
    world = ready(4, 4)
    mine = held(world)
    world.submit(4, name="waits")
    ask(world, 2, keep=True)
    world.act(GangObserved("g", RUNS))
    place(world, group="second")
    world.serve()
    small = world.gangs["g"]
    assert (small.reshape, len(devices(small.allocation))) == (None, 2)
    assert held(world) == mine
    assert world.gangs["waits"].allocation is None
    assert world.engine.records.amounts(small).gpus == 8_000, "it counts in its team's queue"

    ask(world, 2, keep=True)  # again
    assert world.gangs["g"] == small
    ask(world, 4, 4)
    world.act(GangObserved("g", RUNS))
    place(world, group="third")
    assert devices(world.gangs["g"].allocation) == mine
    assert world.gangs["g"].allocation.kept is None  # type: ignore[union-attr]

    ask(world, 4, keep=True)
    world.act(GangObserved("g", RUNS))
    place(world, group="fourth")
    group = world.gangs["g"].group
    ask(world, 4)
    assert world.gangs["g"].allocation.kept is None  # type: ignore[union-attr]
    assert (world.gangs["g"].group, world.gangs["g"].reshape) == (group, None), "nothing else changes"
    world.serve()
    assert world.gangs["waits"].allocation is not None


def test_workers_that_were_made_for_a_gang_keep_what_a_shape_does_not_use() -> None:
    world = ready(4, 4, own_workers=True)
    mine = held(world)
    for sizes in ((2,), (4, 2), (1, 1, 1), (4, 4)):
        ask(world, *sizes, keep=True)
        world.act(GangObserved("g", RUNS))
        place(world, group=f"with {sizes}")
        now = world.gangs["g"]
        assert (now.request, now.reshape, held(world)) == (gang(*sizes), None, mine)
        assert now.allocation is not None
        assert now.allocation.kept is None or not now.allocation.kept.guarded
    ask(world, 4, keep=True)
    world.act(GangObserved("g", RUNS))
    place(world, group="four")
    with pytest.raises(UnsatisfiableError, match="keep their GPUs"):
        ask(world, 4)


def test_other_resources_are_kept_too() -> None:
    world = World(machines=[node("n", 4, clique="a", resources={"CPU": 16.0})])
    world.act(Submitted(Order(gang(2, 2, resources={"CPU": 6.0}))))
    place(world)
    ask(world, 2, resources={"CPU": 1.0}, keep=True)
    world.act(GangObserved("g", RUNS))
    place(world, group="second")
    world.act(Submitted(Order(gang(1, name="waits", resources={"CPU": 5.0}))))
    assert world.gangs["waits"].allocation is None
    ask(world, 2, 2, resources={"CPU": 6.0})
    world.act(GangObserved("g", RUNS))
    place(world, group="third")
    assert world.gangs["g"].request == gang(2, 2, resources={"CPU": 6.0})


def test_a_gang_that_is_planned_again_keeps_nothing() -> None:
    world = ready(4, 4, machines=rack("a", 4), on_fault=on_fault("restart", 0.0))
    ask(world, 4, keep=True)
    world.act(GangObserved("g", RUNS))
    place(world, group="second")
    assert len(held(world)) == 8
    lost = replace(RUNS, lost=("a GPU",), ending=Ending(f"{LOST}: a GPU", 0.0, (0,), (0,)))
    for world.now in (1.0, 2.0, 3.0, 60.0):
        world.act(GangObserved("g", lost))
    assert world.gangs["g"].restarts == 1
    assert len(held(world)) == 4


def test_the_grace_time_ends_what_still_runs() -> None:
    world = ready(4)
    ask(world, 2, 2, grace=30.0)
    world.now = 29.9
    world.act(GangObserved("g", BUSY))
    assert world.gangs["g"].group == group_id("first")
    world.now = 30.0
    world.act(GangObserved("g", BUSY))
    assert world.gangs["g"].group is None
    assert "grace time is over" in world.gangs["g"].history[-1].why


@pytest.mark.parametrize("sizes", [(4, 4, 4), (8,), (4, 3, 3), (1,) * 9])
def test_a_shape_that_its_gpus_do_not_have_is_refused_with_what_is_missing(sizes: tuple[int, ...]) -> None:
    """Though the cluster has it: these GPUs do not."""
    world = ready(4, 4, nodes=9)
    before, free = world.gangs["g"], world.inventory.free_devices
    with pytest.raises(UnsatisfiableError, match="own GPUs") as no:
        ask(world, *sizes)
    assert no.value.shortfalls
    assert all(s.available is None or s.wanted > s.available for s in no.value.shortfalls if isinstance(s.wanted, int))
    assert world.gangs["g"] == before
    assert world.inventory.free_devices == free


def test_a_clique_that_its_gpus_are_not_in_is_refused() -> None:
    world = ready(4, 4, machines=[*rack("a", 1), *rack("b", 1)])
    with pytest.raises(UnsatisfiableError):
        ask(world, 2, 2, 2, 2, locality=Locality(cliques=1))
    ask(world, 2, 2, 2, 2, locality=Locality(segment=2))
    world.act(GangObserved("g", RUNS))
    allocation = world.gangs["g"].allocation
    assert allocation is not None
    assert allocation.cliques in (("a", "a", "b", "b"), ("b", "b", "a", "a"))


def test_other_resources_count_too() -> None:
    """On workers that stay, what they offer; else what is free on the node, with what the gang has there."""
    machines = [node("n", 4, clique="a", resources={"CPU": 16.0})]
    for own_workers, fits in ((False, 16.0), (True, 8.0)):
        world = World(machines=machines, own_workers=own_workers)
        world.act(Submitted(Order(gang(2, 2, resources={"CPU": 4.0}))))
        place(world)
        ask(world, 4, resources={"CPU": fits})
        world.act(GangObserved("g", RUNS))
        place(world, group="second")
        with pytest.raises(UnsatisfiableError) as no:
            ask(world, 2, 2, resources={"CPU": fits / 2 + 1})
        assert no.value.shortfalls


def test_what_the_next_shape_needs_besides_gpus_is_held_from_the_first_step_on() -> None:
    world = World(machines=[node("n", 4, clique="a", resources={"CPU": 16.0})])
    world.act(Submitted(Order(gang(1, 1, resources={"CPU": 4.0}))))
    place(world)
    ask(world, 1, 1, resources={"CPU": 6.0})
    world.act(Submitted(Order(gang(1, name="waits", resources={"CPU": 5.0}))))
    assert world.gangs["waits"].allocation is None
    world.act(Submitted(Order(gang(1, name="fits", resources={"CPU": 4.0}, priority=1))))
    assert world.gangs["fits"].allocation is not None
    world.act(GangObserved("g", RUNS))
    place(world, group="second")


def test_workers_that_were_made_for_a_gang_keep_their_gpus() -> None:
    world = ready(4, 4, own_workers=True)
    with pytest.raises(UnsatisfiableError, match="keep their GPUs") as no:
        ask(world, 4, 2)
    assert [s.kind for s in no.value.shortfalls] == [ShortfallKind.WORKERS]
    before = world.gangs["g"].allocation
    ask(world, 2, 2, 2, 2)
    world.act(GangObserved("g", RUNS))
    now = world.gangs["g"].allocation
    assert now is not None
    assert before is not None
    assert now.epoch == before.epoch, "the attempt that made them stays"
    assert set(now.nodes) == set(before.nodes)


# -- what goes wrong


def came(**more: Any) -> World:
    """A gang that has left its old shape; nobody has made the next placement group yet."""
    world = ready(4, 4, **more)
    ask(world, *(2,) * 4)
    world.act(GangObserved("g", RUNS))
    return world


def test_a_shape_that_ray_does_not_place_gives_way_to_the_old_one() -> None:
    world = came()
    first = world.gangs["g"].reshape
    assert first is not None
    world.act(Committed("g", group_id("second"), 1))
    late = Observed(group_state="PENDING", held_for=60.1)
    world.act(GangObserved("g", Observed(group_state="PENDING", held_for=59.9)))
    assert world.gangs["g"].group == group_id("second"), "it has as long as its program says"
    world.act(GangObserved("g", late))
    back = world.gangs["g"]
    assert back.reshape is not None
    assert back.reshape.stage is ReshapeStage.RETURNS
    assert back.shape == first.leaves
    assert RemoveGroup(group_id("second")) in world.done
    world.act(Committed("g", group_id("third"), 2))
    world.act(GangObserved("g", RUNS))
    over = world.gangs["g"]
    assert over.reshape is None
    assert over.request == gang(4, 4)
    assert "Ray did not place it within 60 s" in over.shape_failed
    assert len(held(world)) == 8
    ask(world, 8 // 2, 4, resources={"CPU": 1.0})
    assert world.gangs["g"].shape_failed == "", "and may try again"


def test_where_the_old_shape_cannot_be_had_either_all_is_given_back_with_the_reason() -> None:
    world = came()
    world.act(Committed("g", group_id("second"), 1))
    late = Observed(group_state="PENDING", held_for=61.0)
    world.act(GangObserved("g", late))
    world.act(Committed("g", group_id("third"), 2))
    world.act(GangObserved("g", late))
    assert "g" not in world.gangs
    *_, last = (action.gang for action in world.done if isinstance(action, Save))
    assert last.failed == (
        "its next shape: Ray did not place it within 60 s; its old shape: Ray did not place it within 60 s"
    )
    assert world.inventory.held_devices == 0
    removed = {action.group for action in world.done if isinstance(action, RemoveGroup)}
    assert removed == {group_id(each) for each in ("first", "second", "third")}


def test_gpus_that_both_shapes_need_and_that_are_lost_end_the_gang() -> None:
    world = came()
    world.act(Committed("g", group_id("second"), 1))
    gone = Observed(group_state="PENDING", held_for=1.0, lost=("node a-t0 is gone",))
    world.act(GangObserved("g", gone))
    assert world.gangs["g"].reshape is not None, "it may be back in time"
    world.act(GangObserved("g", Observed(group_state="PENDING", held_for=61.0, lost=("node a-t0 is gone",))))
    assert "g" not in world.gangs
    *_, last = (action.gang for action in world.done if isinstance(action, Save))
    assert "node a-t0 is gone" in last.failed


def test_a_part_that_is_lost_while_the_old_shape_drains_leaves_everything_as_it_is() -> None:
    world = ready(4, 4)
    ask(world, *(2,) * 4)
    world.act(GangObserved("g", Observed(group_state="RESCHEDULING", placed_once=True, lost=("node a-t0 is gone",))))
    stays = world.gangs["g"]
    assert (stays.reshape, stays.notice, stays.group) == (None, None, group_id("first"))
    assert "node a-t0 is gone" in stays.shape_failed
    assert stays.moves == 0


def test_nobody_makes_the_next_placement_group() -> None:
    world = came(detached=True)
    late = Observed(held_for=HOLD_SECONDS + 1)
    world.act(GangObserved("g", late))
    assert world.gangs["g"].reshape is not None
    assert world.gangs["g"].request == gang(4, 4)
    world.act(GangObserved("g", late))
    assert "g" not in world.gangs


def test_its_program_ends_in_the_middle() -> None:
    for world in (ready(4, 4), came()):
        if world.gangs["g"].reshape is None:
            ask(world, *(2,) * 4)
        state = "CREATED" if world.gangs["g"].group else None
        world.act(GangObserved("g", Observed(group_state=state, placed_once=bool(state), owner_alive=False)))
        world.act(GangObserved("g", Observed(group_state="ABSENT" if state else None, owner_alive=False)))
        assert "g" not in world.gangs
        assert world.inventory.held_devices == 0


def test_it_is_given_back_in_the_middle_and_holds_both_shapes_until_its_workers_have_ended() -> None:
    world = came()
    world.busy.add("g")
    world.act(ReleaseAsked("g"))
    assert world.gangs["g"].releasing
    assert len(held(world)) == 8
    world.busy.clear()
    world.act(ReleaseAsked("g"))
    assert any(isinstance(action, Drop) for action in world.done)
    assert world.inventory.held_devices == 0


def test_workers_that_fail_bring_the_old_shape_back_and_then_the_end() -> None:
    world = came(own_workers=True)
    world.act(WorkersProgressed("g", Progress(failed="a pod was lost")))
    back = world.gangs["g"]
    assert back.reshape is not None
    assert (back.reshape.stage, back.reshape.why) == (ReshapeStage.RETURNS, "a pod was lost")
    world.act(WorkersProgressed("g", Progress(failed="another pod was lost")))
    assert "g" not in world.gangs


def test_work_of_others_that_is_said_to_have_a_device_moves_it_nowhere() -> None:
    world = came()
    before = world.gangs["g"]
    world.act(DevicesTaken("g", Observed()))
    assert world.gangs["g"] == before
    world.act(Committed("g", group_id("second"), 1))
    world.act(DevicesTaken("g", Observed(group_state="PENDING")))
    assert world.gangs["g"].moves == 1
    assert held(world)


def test_a_change_of_shape_costs_no_try() -> None:
    world = ready(4)
    for turn in range(MOST_MOVES + 2):
        ask(world, *((2, 2) if turn % 2 == 0 else (4,)))
        world.act(GangObserved("g", RUNS))
        place(world, group=f"group{turn}")
    found = world.gangs["g"]
    assert found.moves == found.gave_way == MOST_MOVES + 2
    assert found.old_groups == ()


def test_a_placement_group_that_ray_still_has_is_not_forgotten() -> None:
    world = came()
    world.act(Committed("g", group_id("second"), 1))
    still = Observed(group_state="CREATED", placed_once=True, left_groups=(group_id("first"),))
    world.act(GangObserved("g", still))
    assert world.gangs["g"].reshape is None
    assert world.gangs["g"].old_groups == (group_id("first"),)


# -- what is refused


def test_asked_twice_it_is_begun_once() -> None:
    """A restart may have swallowed the answer."""
    world = ready(4)
    ask(world, 2, 2)
    before = world.gangs["g"]
    assert world.act(ReshapeAsked("g", gang(2, 2), 60.0, 30.0, RUNS)) == []
    with pytest.raises(InvalidRequest, match="already"):
        ask(world, 3, 1)
    assert world.gangs["g"] == before
    world.act(GangObserved("g", RUNS))
    assert world.act(ReshapeAsked("g", gang(2, 2), 60.0, 30.0, Observed())) == []
    place(world, group="second")
    assert world.act(ReshapeAsked("g", gang(2, 2), 60.0, 30.0, RUNS)) == [], "it has the shape"


@pytest.mark.parametrize(
    "seen",
    [
        Observed(group_state="PENDING"),
        Observed(group_state=None),
        Observed(group_state="RESCHEDULING", placed_once=True),
        Observed(group_state="CREATED", placed_once=True, lost=("a GPU",)),
    ],
)
def test_only_a_gang_that_is_ready_changes_its_shape(seen: Observed) -> None:
    world = ready(4)
    with pytest.raises(InvalidRequest, match="ready"):
        ask(world, 2, 2, seen=seen)
    assert world.gangs["g"].reshape is None


def test_what_has_no_other_shape_is_refused() -> None:
    part = Bundle((DeviceRequest(1, part=PartCriteria("1g.10gb")),))
    share = Bundle((DeviceRequest(1, share=500),))
    world = ready(4)
    for bundle in (part, share):  # of raylets that are there no workers can be made anew
        with pytest.raises(InvalidRequest, match="on Kubernetes"):
            world.act(ReshapeAsked("g", GangRequest("g", (bundle,) * 4), 60.0, 30.0, RUNS))
    with pytest.raises(InvalidRequest, match="to itself"):
        ask(world, 2, 2, locality=Locality(cliques=1, exclusive=True))
    world.busy.add("g")
    world.act(ReleaseAsked("g"))
    with pytest.raises(GangGone):
        ask(world, 2, 2)
    world = World()
    ordinary = f"{7:036x}"
    world.act(Submitted(Order(gang(4, name=ordinary), ordinary=OrdinaryGroup(ordinary))))
    with pytest.raises(InvalidRequest, match="ordinary"):
        ask(world, 2, 2, name=ordinary)
    world.act(Submitted(Order(gang(4, name="paid")), queue="outside/q"))
    with pytest.raises(InvalidRequest, match="queue"):
        ask(world, 2, 2, name="paid", seen=Observed())


def test_a_gang_that_has_its_clique_to_itself_keeps_it() -> None:
    world = ready(4, locality=Locality(cliques=1, exclusive=True))
    world.submit(4, name="waits")
    ask(world, 2, 2)
    world.act(GangObserved("g", RUNS))
    place(world, group="second")
    world.act(NextTurn())
    assert world.gangs["waits"].allocation is None
    ask(world, 4, locality=Locality(cliques=1, exclusive=True))


# -- records


def test_a_record_may_change_its_shape_in_no_other_way() -> None:
    world = ready(4, 4)
    first = world.gangs["g"]
    began = ask(world, *(2,) * 4)
    world.act(GangObserved("g", RUNS))
    now = world.gangs["g"]
    assert began.reshape is not None
    assert now.reshape is not None
    moved = replace(now, moves=2, gave_way=2, reshape=replace(now.reshape, stage=ReshapeStage.RETURNS, why="no"))
    for before, after in (
        (first, now),
        (first, replace(first, request=now.request)),
        (first, replace(began, reshape=replace(began.reshape, leaves=began.reshape.comes))),
        (began, replace(began, request=now.request)),
        (began, replace(now, reshape=replace(now.reshape, comes=now.reshape.leaves))),
        (began, replace(now, allocation=first.allocation)),
        (now, replace(now, reshape=None, moves=2, gave_way=2)),
        (now, moved),
        (now, replace(now, moves=2, gave_way=2)),
        (now, replace(now, reshape=replace(now.reshape, stage=ReshapeStage.DRAINS))),
        (now, replace(now, reshape=replace(now.reshape, comes=now.reshape.leaves))),
        (now, replace(now, reshape=None, old_groups=(), group=group_id("other"))),
    ):
        with pytest.raises(ForbiddenChange):
            check_change(before, after)
    check_change(began, now)
    check_change(began, replace(began, releasing=True))
    check_change(now, replace(moved, request=first.request, allocation=first.allocation))


sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(
    mine=sizes,
    others=sizes,
    new=sizes,
    own_workers=st.booleans(),
    cliques=st.sampled_from([None, 1, 2]),
    keep=st.booleans(),
)
def test_a_yes_has_its_own_gpus_alone_and_a_no_is_true(
    mine: list[int], others: list[int], new: list[int], own_workers: bool, cliques: int | None, keep: bool
) -> None:
    """Against a cluster that has nothing but the gang's GPUs."""
    world = World(machines=[*rack("a", 2), *rack("b", 2)])
    for name, wanted in (("other", others), ("g", mine)):
        answer = plan(world.inventory, gang(*wanted, name=name))
        if not isinstance(answer, Allocation):
            return
        world.inventory.hold(answer)
    before = world.inventory.allocation("g")
    assert before is not None
    changes = {name: state.free for name, state in world.inventory.node_states.items()}
    request = gang(*new, locality=Locality(cliques=cliques))
    found = next_allocation(before, request, world.engine.planning, own_workers=own_workers, keep=keep)
    assert {name: state.free for name, state in world.inventory.node_states.items()} == changes
    assert world.inventory.allocation("g") == before
    alone = World(machines=[*rack("a", 2), *rack("b", 2)])
    for name, state in alone.inventory.node_states.items():
        own = sum(1 << grant.position for grant in before.grants if grant.node == name)
        alone.inventory.set_others(name, (1 << state.size) - 1 & ~own, {})
    possible = isinstance(plan(alone.inventory, request), Allocation)
    if own_workers and not keep:
        possible = possible and sum(new) == sum(mine)
    if isinstance(found, Unsatisfiable):
        assert found.shortfalls
        assert own_workers or not possible
        return
    assert possible
    assert devices(found) <= devices(before)
    if own_workers or keep:
        assert every(found) == devices(before)
    if keep:  # and so it can go back
        world.inventory.release("g")
        world.inventory.hold(found)
        again = next_allocation(found, gang(*mine), world.engine.planning, own_workers=own_workers, keep=keep)
        assert isinstance(again, Allocation)
        assert devices(again) == devices(before)
        assert again.kept is None


class Shapes(RuleBasedStateMachine):
    """One gang changes its shape again and again while another waits for GPUs; whatever Ray does, at any time."""

    own_workers = False

    def __init__(self) -> None:
        super().__init__()
        self.world = World(own_workers=self.own_workers)
        self.count = 0
        self.begin()

    def begin(self) -> None:
        self.count += 1
        self.name = f"{self.count:036x}"
        maker = Maker() if self.count % 2 else None
        self.world.act(Submitted(Order(gang(4, 4, name=self.name), detached=True, maker=maker)))
        self.world.act(Submitted(Order(gang(1, name=f"waits{self.count}"))))

    @property
    def gang(self) -> Gang | None:
        return self.world.gangs.get(self.name)

    @rule(
        sizes=st.sampled_from([(2, 2, 2, 2), (4, 4), (1,) * 8, (4, 2, 2), (4, 4, 1), (4, 2), (3, 3, 1, 1), (1,), (8,)]),
        grace=st.sampled_from([0.0, 3.0]),
        state=st.sampled_from(["CREATED", "CREATED", "CREATED", "PENDING"]),
        keep=st.booleans(),
    )
    def ask(self, sizes: tuple[int, ...], grace: float, state: str, keep: bool) -> None:
        if self.gang is None:
            return
        seen = Observed(
            group_state=state if self.gang.group else None, placed_once=bool(self.gang.group) and state == "CREATED"
        )
        before = self.gang
        try:
            self.world.act(ReshapeAsked(self.name, gang(*sizes, name=self.name), 10.0, grace, seen, keep))
        except RayDraError:
            assert self.gang == before
            return
        change = self.gang.reshape
        if keep and before.reshape is None and change is not None:
            assert every(change.comes.allocation) == every(before.allocation), "what is kept is kept"

    @rule(
        state=st.sampled_from(["CREATED", "CREATED", "PENDING", "RESCHEDULING", None]),
        busy=st.booleans(),
        late=st.sampled_from([0.0, 0.0, 11.0, 40.0]),
        lost=st.sampled_from([(), (), (), ("a GPU",)]),
    )
    def look(self, state: str | None, busy: bool, late: float, lost: tuple[str, ...]) -> None:
        self.world.now += 1.0
        if self.gang is None:
            return
        state = state if self.gang.group is not None else None
        seen = Observed(
            group_state=state,
            busy=busy,
            held_for=late,
            lost=lost,
            placed_once=state in ("CREATED", "RESCHEDULING"),
            provisioned=self.world.engine.records.notes[self.name].progress.ready,
        )
        self.world.act(GangObserved(self.name, seen))

    @precondition(lambda self: self.gang is not None and not self.gang.releasing)
    @rule()
    def commit(self) -> None:
        assert self.gang is not None
        self.count += 1
        self.world.act(Committed(self.name, group_id(f"group{self.count}"), self.gang.moves))

    @precondition(lambda self: self.own_workers and self.gang is not None)
    @rule(progress=st.sampled_from([THERE, THERE, Progress(failed="no node")]))
    def workers(self, progress: Progress) -> None:
        self.world.act(WorkersProgressed(self.name, progress))

    @rule()
    def serve(self) -> None:
        while self.world.act(NextTurn()):
            pass

    @precondition(lambda self: self.gang is None)
    @rule()
    def again(self) -> None:
        for each in list(self.world.gangs):
            self.world.act(ReleaseAsked(each))
        self.begin()

    @invariant()
    def nothing_of_it_is_anybody_elses(self) -> None:
        self.world.engine.validate()
        each = self.gang
        if each is None or each.allocation is None:
            return
        mine = held(self.world, self.name)
        if each.reshape is None:
            assert mine == every(each.allocation)
        else:
            assert every(each.reshape.leaves.allocation) | every(each.reshape.comes.allocation) <= mine
        for name, other in self.world.gangs.items():
            if name != self.name and other.allocation is not None:
                assert mine.isdisjoint(devices(other.allocation))

    def teardown(self) -> None:
        for each in list(self.world.gangs):
            self.world.act(ReleaseAsked(each))
        assert not self.world.gangs
        assert self.world.inventory.held_devices == 0


class ShapesOnOwnWorkers(Shapes):
    own_workers = True


TestShapes = Shapes.TestCase
TestShapes.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestShapesOnOwnWorkers = ShapesOnOwnWorkers.TestCase
TestShapesOnOwnWorkers.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
