"""Ordinary placement groups as the engine decides on them: registered in Ray with a certain place, holding up nobody,
and never moved."""

from __future__ import annotations

import pytest

from ray_dra.core.gangs.actions import BuryGroup, Drop, EndWorkers, MakeGroup, Note, RemoveGroup, Save, Tell, WriteMap
from ray_dra.core.gangs.events import DevicesTaken, GangObserved, GroupMade, JobsSeen, NextTurn, ReleaseAsked, Submitted
from ray_dra.core.gangs.gang import Gang, OrdinaryGroup, owner_ended
from ray_dra.core.gangs.lifecycle import Observed, phase
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.locality import Locality
from ray_dra.errors import NameTaken
from tests.core.gangs.test_engine import kinds
from tests.core.gangs.world import World, plans_of
from tests.core.machines import gang, node

ACTOR = "a" * 32


def held(world: World, group: str) -> bool:
    return world.gangs[group].allocation is not None


def serve(world: World) -> None:
    while world.act(NextTurn()):
        pass


def test_where_its_place_is_certain_ray_is_told_and_its_workers_find_the_map() -> None:
    world = World()
    group = world.ordinary(4, 4, number=1)
    assert kinds(world.done) == [WriteMap, Save, Note, MakeGroup]
    assert world.gangs[group].group == group
    assert phase(world.gangs[group], Observed(group_state="CREATED")) is Phase.READY
    assert world.ray == {group: "PENDING"}


def test_with_workers_of_its_own_ray_is_told_once_they_are_there() -> None:
    world = World(own_workers=True)
    group = world.ordinary(4, number=1)
    assert world.gangs[group].group is None
    world.act(GangObserved(group, Observed(provisioned=False)))
    assert not world.ray
    world.act(GangObserved(group, Observed(provisioned=True)))
    assert world.gangs[group].group == group
    assert world.ray == {group: "PENDING"}


def test_it_holds_up_nobody_and_waits_for_those_that_do() -> None:
    """As a placement group that is pending in Ray; a gang that was asked for as one keeps its turn."""
    world = World()  # two trays of four
    first = world.ordinary(4, number=1)
    large = world.ordinary(4, 4, number=2)
    assert not held(world, large)
    small = world.ordinary(1, number=3)
    assert held(world, small), "nothing is held up by an ordinary group"
    world.submit(2, name="gang")
    assert world.gangs["gang"].allocation is not None
    world.submit(4, name="waits")
    behind = world.ordinary(1, number=4)
    assert not held(world, behind), "it is behind a gang that waits"
    world.act(ReleaseAsked(small))
    serve(world)
    assert not held(world, behind), "there is room, and it is not its turn"
    world.act(ReleaseAsked("gang"))
    serve(world)
    assert world.gangs["waits"].allocation is not None
    assert not held(world, behind)
    assert not held(world, large)
    world.act(ReleaseAsked(first))
    serve(world)
    assert held(world, behind)
    world.act(ReleaseAsked("waits"))
    world.act(ReleaseAsked(behind))
    serve(world)
    assert held(world, large)


def test_equal_groups_that_wait_are_planned_once_a_change() -> None:
    world = World()
    first = world.ordinary(4, 4, number=1)
    waiting = [world.ordinary(4, number=number) for number in range(2, 30)]
    asked = plans_of(world.engine)
    world.inventory.changes += 1
    serve(world)
    assert len(asked) == 1
    serve(world)
    assert len(asked) == 1, "nothing has changed"
    world.act(ReleaseAsked(first))
    serve(world)
    assert [held(world, group) for group in waiting] == [True, True] + [False] * 26, "the earliest first"


def test_patience_ends_without_any_change() -> None:
    world = World()
    world.inventory.put_node(node("b-t0", 4, clique="b"))
    world.engine.planning.known.look(0.0)
    world.inventory.set_others("a-t0", 0b1111, {})
    group = f"{2:036x}"
    prefers = Locality(cliques=1, required=False, patience=60.0)
    world.act(Submitted(Order(gang(4, 4, name=group, locality=prefers), ordinary=OrdinaryGroup(group))))
    assert not held(world, group)
    for now in (30.0, 59.0):
        world.now = now
        serve(world)
        assert not held(world, group)
    world.now = 61.0
    serve(world)
    assert held(world, group)


def test_never_is_not_now() -> None:
    world = World()
    group = world.ordinary(8, number=1)
    assert not held(world, group)
    assert world.engine.records.notes[group].refused
    serve(world)
    world.inventory.put_node(node("large", 8, clique="b"))
    serve(world)
    assert held(world, group)


def test_a_name_is_one_for_all_gangs() -> None:
    world = World()
    world.ordinary(1, number=1, name="train")
    with pytest.raises(NameTaken):
        world.act(Submitted(Order(gang(1, name="g"), name="train")))
    with pytest.raises(NameTaken):
        world.ordinary(1, number=2, name="train")


def test_whoever_waits_for_a_group_that_is_removed_before_ray_has_it_hears_so() -> None:
    world = World(nodes=1)
    world.ordinary(4, number=1)
    waits = world.ordinary(4, number=2)
    assert kinds(world.act(ReleaseAsked(waits))) == [Save, Note, BuryGroup, Drop]
    assert world.ray[waits] == "REMOVED"
    registered = f"{1:036x}"
    assert kinds(world.act(ReleaseAsked(registered)))[:2] == [RemoveGroup, EndWorkers]
    assert not world.gangs


def test_where_ray_did_not_answer_it_is_told_again_and_its_silence_is_no_removal() -> None:
    world = World()
    group = f"{1:036x}"
    for action in world.decide(Submitted(Order(gang(4, name=group), ordinary=OrdinaryGroup(group)))):
        if not isinstance(action, MakeGroup):
            world.do(action)
    assert MakeGroup(group, again=True) in world.act(GangObserved(group, Observed(group_state="ABSENT")))
    assert MakeGroup(group, again=True) not in world.act(GangObserved(group, Observed(group_state="PENDING")))
    world.ray[group] = "REMOVED"
    world.act(GangObserved(group, Observed(group_state="ABSENT")))
    assert not world.gangs


def test_one_that_ray_has_removed_is_not_taken_up_anew_by_the_next_coordinator() -> None:
    world = World()
    group = world.ordinary(4, number=1)
    world.engine.records.notes[group].registered = False  # a coordinator that has just started knows nothing
    world.ray[group] = "REMOVED"
    world.act(GangObserved(group, Observed(group_state="ABSENT")))
    assert not world.gangs
    assert world.ray[group] == "REMOVED"


def test_one_that_ray_refuses_is_given_back() -> None:
    world = World()
    group = world.ordinary(4, number=1)
    world.act(GroupMade(group, refused="the name is another's"))
    assert not world.gangs
    *_, last = (action.gang for action in world.done if isinstance(action, Save) and action.gang.id == group)
    assert last.failed == "the name is another's"


def test_ray_may_take_as_long_as_it_likes_to_place_it() -> None:
    world = World()
    group = world.ordinary(4, number=1)
    world.now = 1000.0
    actions = world.act(GangObserved(group, Observed(group_state="PENDING", held_for=1000.0)))
    assert kinds(actions) == [Tell]
    assert world.gangs[group].moves == 0


def test_other_devices_of_the_same_nodes_where_others_took_one() -> None:
    world = World()
    group = world.ordinary(2, 2, number=1)
    before = world.gangs[group]
    assert before.allocation is not None
    (name,) = set(before.allocation.nodes)
    taken = before.allocation.grants[0].position
    world.inventory.set_others(name, 1 << taken, {})
    late = Observed(group_state="PENDING", held_for=10.0)
    assert kinds(world.act(DevicesTaken(group, late))) == [Tell] or world.gangs[group] == before, "no other is free"
    small = world.ordinary(1, number=2)
    assert world.gangs[small].group == small
    world.act(ReleaseAsked(group))
    group = world.ordinary(2, number=3)
    allocation = world.gangs[group].allocation
    assert allocation is not None
    (name,) = set(allocation.nodes)
    world.inventory.set_others(name, 1 << allocation.grants[0].position, {})
    actions = world.act(GangObserved(group, late))
    assert [a for a in actions if isinstance(a, WriteMap)], "its workers are to find the new ones"
    moved = world.gangs[group]
    assert moved.allocation is not None
    assert moved.group == group
    assert set(moved.allocation.nodes) == {name}
    assert allocation.grants[0] not in moved.allocation.grants
    assert not world.engine.planning.taken(moved.allocation)
    running = Observed(group_state="CREATED", placed_once=True)
    assert WriteMap not in kinds(world.act(DevicesTaken(group, running)))


@pytest.mark.parametrize(
    ("actor", "outlives", "registered", "job", "ended", "expected"),
    [
        ("", False, False, True, (), False),
        ("", False, False, False, (), True),
        (ACTOR, False, False, False, (), False),  # the actor of a detached one may outlive the job
        (ACTOR, False, False, True, (ACTOR,), False),  # as in Ray, the job keeps it
        (ACTOR, False, False, False, (ACTOR,), True),
        (ACTOR, True, False, True, (ACTOR,), True),  # a detached actor's groups are its own
        (ACTOR, True, False, False, (), False),
        (ACTOR, True, True, False, (), False),
        (ACTOR, True, True, False, (ACTOR,), True),  # it may have ended just before Ray was told
        ("", False, True, False, (), True),
    ],
)
def test_it_ends_with_whom_it_ends_in_ray(
    actor: str, outlives: bool, registered: bool, job: bool, ended: tuple[str, ...], expected: bool
) -> None:
    group = f"{1:036x}"
    made = Gang(gang(4, name=group), 1, owner="job", ordinary=OrdinaryGroup(group, actor, outlives))
    if registered:
        world = World()
        world.ordinary(4, number=1, owner="job", actor=actor, outlives_job=outlives)
        made = world.gangs[group]
    assert owner_ended(made, ("job",) if job else (), ended) == expected
    if not registered:
        world = World(nodes=1)
        world.submit(4, name="all")
        world.ordinary(4, number=1, owner="job", actor=actor, outlives_job=outlives)
        world.act(JobsSeen(("job",) if job else (), ended))
        assert world.gangs[group].releasing == expected
        assert (world.ray.get(group) == "REMOVED") == expected
        if not job or outlives:
            assert world.engine.records.kept_by_actors(("job",) if job else ()) == (
                {actor} - {""} if not expected else set()
            )


def test_a_detached_group_outlives_everybody() -> None:
    world = World(nodes=1)
    world.submit(4, name="all")
    group = world.ordinary(4, number=1, owner="job", detached=True)
    world.act(JobsSeen(()))
    assert not world.gangs[group].releasing


def test_one_of_which_ray_has_not_answered_is_buried_when_it_is_given_back() -> None:
    """Its record has the group already, and whether Ray has it nobody knows."""
    for answered in (True, False):
        world = World(nodes=1)
        group = world.ordinary(4, number=1)
        assert world.gangs[group].group == group
        world.engine.records.notes[group].registered = answered
        given_back = kinds(world.decide(ReleaseAsked(group)))
        assert (BuryGroup in given_back) is not answered
        assert RemoveGroup in given_back
