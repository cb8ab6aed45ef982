"""Sets of ordinary placement groups: each near the others, softly, or all as one gang."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs import records, set_index
from ray_dra.core.gangs.actions import MakeGroup, Save
from ray_dra.core.gangs.events import JobsSeen, NextTurn, ReleaseAsked, Submitted, WorkersProgressed
from ray_dra.core.gangs.gang import Gang, GroupSet, OrdinaryGroup
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.patience import Patience
from ray_dra.core.gangs.planning import Planning
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.gangs.sets import place_near, place_together
from ray_dra.core.gangs.turn import Turn, turn_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import ANYWHERE, Locality
from ray_dra.core.model.request import Strategy
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.errors import InvalidRequest
from tests.core.gangs.world import World
from tests.core.machines import gang, rack, shares

ONE = Locality(cliques=1)
NEAR = Locality(cliques=1, required=False)
NAMED = GroupSet("job/name")
PAIR, FOUR = GroupSet("job/name", 2), GroupSet("job/name", 4)


def world_of(**trays: int) -> World:
    """Racks of so many trays with four GPUs each; one is tighter than another where it has fewer."""
    world = World(nodes=0)
    for name, count in trays.items():
        for each in rack(name, count):
            world.inventory.put_node(each)
    world.engine.planning.known.look(0.0)
    return world


def cliques(world: World, *groups: str) -> set[str]:
    held = [world.gangs[group].allocation for group in groups]
    assert all(held), "each has its place"
    return {str(grant.clique) for allocation in held if allocation is not None for grant in allocation.grants}


def waiting(world: World, *groups: str) -> bool:
    return all(world.gangs[group].waits for group in groups)


def serve(world: World) -> None:
    while world.act(NextTurn()):
        pass


def kind(world: World, group: str) -> ShortfallKind:
    return world.engine.records.notes[group].refused[0].kind


# -- near each other


def test_a_group_goes_where_its_set_is_and_another_where_it_is_tightest() -> None:
    world = world_of(a=2, b=3)
    whole = world.ordinary(4, 4, 4, number=1, locality=ONE, part_of=NAMED)
    assert cliques(world, whole) == {"b"}, "there alone it fits"
    world.act(ReleaseAsked(whole))
    first = world.ordinary(4, 4, 3, number=2, locality=ONE, part_of=NAMED)
    second = world.ordinary(1, number=3, locality=NEAR, part_of=NAMED)
    other = world.ordinary(4, number=4, locality=NEAR, part_of=GroupSet("another"))
    assert cliques(world, first, second) == {"b"}
    assert cliques(world, other) == {"a"}
    full = world.ordinary(4, number=5, locality=NEAR, part_of=NAMED)
    assert cliques(world, full) == {"a"}, "softly: where the set is there is no room"


def test_what_a_group_needs_itself_comes_before_its_set() -> None:
    world = world_of(a=2, b=3)
    first = world.ordinary(4, 4, 4, number=1, locality=ONE, part_of=NAMED)
    world.act(ReleaseAsked(first))
    first = world.ordinary(4, 4, 3, number=2, locality=ONE, part_of=NAMED)
    assert cliques(world, first) == {"b"}
    for number, locality in ((3, NEAR), (4, ONE)):
        group = world.ordinary(1, 1, number=number, locality=locality, part_of=NAMED)
        assert cliques(world, group) == {"a"}, "one clique for it, though one of its GPUs would fit where the set is"
        world.act(ReleaseAsked(group))


def test_those_that_are_gone_pull_nobody() -> None:
    world = world_of(a=1, b=2)
    first = world.ordinary(4, 4, number=1, part_of=NAMED)
    assert cliques(world, first) == {"b"}
    world.act(ReleaseAsked(first))
    assert cliques(world, world.ordinary(4, number=2, part_of=NAMED)) == {"a"}


# -- as one gang


def test_nothing_starts_before_all_have_come_and_then_all_start_in_one_clique() -> None:
    world = world_of(a=3, b=4)
    groups = [world.ordinary(4, number=number, locality=ONE, part_of=FOUR) for number in range(1, 4)]
    assert waiting(world, *groups)
    assert kind(world, groups[0]) is ShortfallKind.SET
    free = world.inventory.free_devices
    groups.append(world.ordinary(4, number=4, locality=ONE, part_of=FOUR))
    serve(world)
    assert cliques(world, *groups) == {"b"}, "each by itself would go to a, which is tighter"
    assert world.inventory.free_devices == free - 16
    made = [action.gang for action in world.done if isinstance(action, MakeGroup)]
    assert made == groups


def test_they_hold_up_nobody_and_wait_for_room_together() -> None:
    world = world_of(a=2)
    holds = world.ordinary(1, number=1)
    groups = [world.ordinary(4, number=number, locality=ONE, part_of=PAIR) for number in (2, 3)]
    serve(world)
    assert waiting(world, *groups)
    assert {kind(world, group) for group in groups} <= {ShortfallKind.CLIQUE, ShortfallKind.DEVICES}
    small = world.ordinary(1, number=4)
    assert not waiting(world, small)
    for group in (holds, small):
        world.act(ReleaseAsked(group))
    serve(world)
    assert cliques(world, *groups) == {"a"}


def test_they_have_the_turn_of_the_last() -> None:
    """Else the later ones would pass gangs that came before them; or not, as the cluster happened to change."""
    world = world_of(a=3)
    taken = world.ordinary(4, 4, number=1, locality=ONE)
    first = world.ordinary(1, number=2, locality=ONE, part_of=PAIR)
    between = world.submit(4, 4, name="between")
    last = world.ordinary(1, number=3, locality=ONE, part_of=PAIR)
    serve(world)
    world.ordinary(1, number=4, locality=ONE)
    world.act(ReleaseAsked(f"{4:036x}"))
    serve(world)
    assert between.waits
    assert waiting(world, first, last)
    world.act(ReleaseAsked(taken))
    serve(world)
    assert not world.gangs["between"].waits
    assert not waiting(world, first)
    assert not waiting(world, last)


def test_one_that_is_removed_before_the_last_has_come_counts_no_more() -> None:
    world = world_of(a=2)
    first, second = (world.ordinary(1, number=number, locality=ONE, part_of=GroupSet("s", 3)) for number in (1, 2))
    world.act(ReleaseAsked(first))
    third = world.ordinary(1, number=3, locality=ONE, part_of=GroupSet("s", 3))
    serve(world)
    assert waiting(world, second, third)
    fourth = world.ordinary(1, number=4, locality=ONE, part_of=GroupSet("s", 3))
    serve(world)
    assert not any(world.gangs[group].waits for group in (second, third, fourth))


def test_the_next_so_many_are_a_gang_of_their_own() -> None:
    world = world_of(a=1, b=1)
    groups = []
    for number in range(1, 5):
        groups.append(world.ordinary(2, number=number, locality=ONE, part_of=PAIR))
        serve(world)
        assert waiting(world, groups[-1]) == (number % 2 == 1)
    assert cliques(world, *groups[:2]) == {"a"}
    assert cliques(world, *groups[2:]) == {"b"}


@pytest.mark.parametrize("required", [True, False])
def test_a_coordinator_that_was_ended_between_two_of_them_places_the_rest_where_they_are(required: bool) -> None:
    world = world_of(a=2, b=3)
    locality = replace(ONE, required=required)
    actions = []
    for number in (1, 2, 3):
        world.ordinary(4, number=number, locality=locality, part_of=GroupSet("s", 3))
    one, two, three = (f"{number:036x}" for number in (1, 2, 3))
    actions = world.decide(NextTurn())
    saves = [action for action in actions if isinstance(action, Save)]
    assert [save.gang.id for save in saves] == [one, two, three]
    world.do(saves[0])  # and no more
    taken = world.ordinary(4, 4, number=9, locality=ONE)
    assert cliques(world, taken) == {"a"}
    serve(world)
    assert cliques(world, one, two, three) == {"b"}
    again = world_of(b=3)
    for number in (1, 2, 3):
        again.ordinary(4, number=number, locality=locality, part_of=GroupSet("s", 3))
    again.do(next(action for action in again.decide(NextTurn()) if isinstance(action, Save)))
    for each in rack("c", 3):
        again.inventory.put_node(each)
    again.ordinary(4, number=8, locality=NEAR, part_of=GroupSet("t"))  # into b, the fullest
    serve(again)
    waits = [group for group in (two, three) if again.gangs[group].waits]
    assert len(waits) == (1 if required else 0), "what is required of them all stays so"


def test_sets_of_one_scope_and_several_sizes_are_each_for_itself() -> None:
    """Rules by name may give groups of one job different numbers, or none."""
    world = world_of(a=2, b=2)
    near = world.ordinary(1, number=1, locality=NEAR, part_of=GroupSet("job"))
    first = world.ordinary(2, number=2, locality=ONE, part_of=GroupSet("job", 2))
    others = [world.ordinary(2, number=number, locality=ONE, part_of=GroupSet("job", 3)) for number in (3, 4)]
    serve(world)
    assert not waiting(world, near)
    assert waiting(world, first, *others)
    second = world.ordinary(2, number=5, locality=ONE, part_of=GroupSet("job", 2))
    serve(world)
    assert len(cliques(world, first, second)) == 1
    assert waiting(world, *others)


def test_one_that_is_made_anew_and_has_no_room_holds_up_no_other() -> None:
    world = world_of(a=2)
    three = GroupSet("s", 3)
    groups = [
        world.ordinary(size, number=number, locality=ONE, part_of=three) for number, size in ((1, 1), (2, 4), (3, 1))
    ]
    serve(world)
    for group in groups[1:]:
        world.act(ReleaseAsked(group))
    world.ordinary(4, number=9)
    large = world.ordinary(4, number=4, locality=ONE, part_of=three)
    small = world.ordinary(1, number=5, locality=ONE, part_of=three)
    serve(world)
    assert waiting(world, large)
    assert not waiting(world, small)


@pytest.mark.parametrize("last", [False, True])
def test_where_one_that_had_no_room_is_given_up_the_others_are_looked_at_again(last: bool) -> None:
    """Though nothing else has changed: the no was for other groups."""
    world = world_of(a=1)
    large = world.ordinary(4, 4, number=1, locality=ONE, part_of=PAIR)
    groups = [world.ordinary(1, number=number, locality=ONE, part_of=PAIR) for number in ((2,) if last else (2, 3))]
    serve(world)
    assert waiting(world, large, *groups)
    world.act(ReleaseAsked(large))
    serve(world)
    if last:
        groups.append(world.ordinary(1, number=3, locality=ONE, part_of=PAIR))
        serve(world)
    assert not any(world.gangs[group].waits for group in groups)


@pytest.mark.parametrize("lost", [(1,), (3,), (1, 3), (3, 1), (1, 2, 3)])
def test_what_is_made_anew_goes_where_its_own_batch_is(lost: tuple[int, ...]) -> None:
    world = world_of(a=2, b=3)
    for number in (1, 2, 3, 4):
        world.ordinary(4, number=number, locality=ONE, part_of=PAIR)
        serve(world)
    one, two, three, four = (f"{number:036x}" for number in (1, 2, 3, 4))
    assert cliques(world, one, two) == {"a"}
    assert cliques(world, three, four) == {"b"}
    for number in lost:
        world.act(ReleaseAsked(f"{number:036x}"))
    for number in lost:
        world.ordinary(4, number=number + 10, locality=ONE, part_of=PAIR)
        serve(world)
    batches: dict[int, set[str]] = {}
    for group, held in world.gangs.items():
        batches.setdefault(held.batch, set()).update(cliques(world, group))
    assert sorted(map(sorted, batches.values())) == [["a"], ["b"]]


def test_one_that_is_made_anew_adds_no_more_cliques_than_the_set_may_have() -> None:
    world = world_of(a=2, b=1, c=1)
    two = Locality(cliques=2)
    groups = [world.ordinary(4, number=number, locality=two, part_of=PAIR) for number in (1, 2)]
    serve(world)
    assert cliques(world, *groups) == {"a"}
    world.act(ReleaseAsked(groups[1]))
    held = world.gangs[groups[0]].allocation
    assert held is not None
    (other,) = {"a-t0", "a-t1"} - set(held.nodes)
    world.inventory.set_others(other, 0b1111, {})
    rest = world.ordinary(2, 4, number=4, locality=two, part_of=PAIR)
    serve(world)
    assert waiting(world, rest), "in b and c it would be a third"
    world.inventory.set_others(other, 0b0011, {})
    serve(world)
    assert len(cliques(world, groups[0], rest)) == 2


def test_to_wait_for_the_rest_of_a_large_set_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that had come were sorted at each arrival and each turn."""
    world, looked, count = world_of(a=1), 0, 300
    world.engine.validate = lambda: None  # type: ignore[method-assign]

    def counted(gang: Gang) -> Turn:
        nonlocal looked
        looked += 1
        return turn_of(gang)

    for module in (records, set_index):
        monkeypatch.setattr(module, "turn_of", counted)
    for number in range(1, count + 1):
        world.ordinary(1, number=number, locality=ONE, part_of=GroupSet("s", 10_000))
    serve(world)
    assert looked < 20 * count


def test_no_group_of_a_set_that_is_a_gang_has_a_clique_to_itself() -> None:
    """They would wait for ever: the second could not lie where the first is."""
    with pytest.raises(InvalidRequest):
        world_of(a=2).ordinary(1, number=1, locality=Locality(cliques=1, exclusive=True), part_of=PAIR)


def test_where_a_workers_pod_fails_it_is_made_again_where_the_set_is() -> None:
    world = World(own_workers=True, nodes=3)
    for each in rack("b", 4):
        world.inventory.put_node(each)
    world.engine.planning.known.look(0.0)
    groups = [world.ordinary(4, number=number, locality=ONE, part_of=GroupSet("s", 3)) for number in (1, 2, 3)]
    serve(world)
    (where,) = cliques(world, *groups)
    world.act(WorkersProgressed(groups[1], Progress(failed="no node")))
    assert cliques(world, *groups) == {where}


def test_the_end_of_their_job_is_the_end_of_those_that_wait_for_others() -> None:
    world = world_of(a=2)
    group = world.ordinary(1, number=1, locality=ONE, part_of=PAIR, owner="job")
    world.act(JobsSeen(()))
    assert world.gangs[group].releasing
    other = world.ordinary(1, number=2, locality=ONE, part_of=PAIR, owner="next")
    serve(world)
    assert waiting(world, other), "it is no other's set"


def test_patience_counts_for_the_set() -> None:
    world = world_of(a=1, b=1)
    world.inventory.put_node(rack("c", 2)[0])
    world.inventory.put_node(rack("c", 2)[1])
    world.engine.planning.known.look(0.0)
    world.inventory.set_others("c-t0", 0b1111, {})
    patient = Locality(cliques=1, required=False, patience=60.0)
    groups = [world.ordinary(4, number=number, locality=patient, part_of=PAIR) for number in (1, 2)]
    serve(world)
    assert waiting(world, *groups)
    world.now = 59.0
    serve(world)
    assert waiting(world, *groups)
    world.now = 61.0
    serve(world)
    assert not any(world.gangs[group].waits for group in groups)


# -- the planner's part alone


def planning_of(free: list[list[int]]) -> Planning:
    """Cliques of nodes of which so many of four GPUs are free."""
    nodes = [node for at, clique in enumerate(free) for node in rack(f"c{at}", len(clique))]
    inventory = Inventory(nodes)
    for node, count in zip(nodes, (count for clique in free for count in clique), strict=True):
        inventory.set_others(node.name, (1 << 4) - (1 << count), {})
    return Planning(inventory, KnownNodes(inventory), ())


def members(count: int, sizes: list[int], locality: Locality, strategy: Strategy) -> list[Gang]:
    made = []
    for number in range(count):
        group = f"{number:036x}"
        request = gang(*sizes, name=group, locality=locality, strategy=strategy)
        made.append(Gang(request, number, ordinary=OrdinaryGroup(group, part_of=GroupSet("s", count))))
    return made


def room(clique: list[int], sizes: list[int], strategy: Strategy) -> int:
    """How many equal groups a clique holds."""
    if strategy is Strategy.STRICT_PACK:
        return sum(count // sum(sizes) for count in clique)
    return sum(count // sizes[0] for count in clique) // len(sizes)


@settings(max_examples=300, deadline=None)
@given(
    free=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=4),
    count=st.integers(2, 5),
    size=st.integers(1, 3),
    bundles=st.integers(1, 3),
    strategy=st.sampled_from([Strategy.PACK, Strategy.STRICT_PACK]),
    most=st.integers(1, 2),
)
def test_equal_groups_get_places_together_if_and_only_if_there_are_some(
    free: list[list[int]], count: int, size: int, bundles: int, strategy: Strategy, most: int
) -> None:
    sizes = [size] * bundles
    planning = planning_of(free)
    gangs = members(count, sizes, Locality(cliques=most), strategy)
    answer, _ = place_together(planning, gangs, None, 0.0, Patience(), lambda *_: None)
    rooms = sorted((room(clique, sizes, strategy) for clique in free), reverse=True)
    if strategy is Strategy.PACK and most > 1:
        # a group's bundles may lie in both cliques
        rooms = sorted((room(clique, sizes[:1], strategy) for clique in free), reverse=True)
        possible = sum(rooms[:most]) >= count * bundles
    else:
        possible = sum(rooms[:most]) >= count
    assert possible is not isinstance(answer, Unsatisfiable)
    if isinstance(answer, Unsatisfiable):
        assert answer.shortfalls
        return
    assert [each.gang for each in answer] == [each.id for each in gangs]
    grants = [grant for each in answer for grant in each.grants]
    assert len({(grant.node, grant.position) for grant in grants}) == count * size * bundles
    assert len({grant.clique for grant in grants}) <= most
    for each in answer:
        assert strategy is not Strategy.STRICT_PACK or len(set(each.nodes)) == 1
        planning.inventory.hold(each)  # raises where it is not free


@settings(max_examples=200, deadline=None)
@given(
    free=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=2, max_size=4),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    locality=st.sampled_from([ANYWHERE, NEAR, ONE]),
    data=st.data(),
)
def test_a_pull_refuses_nothing_and_worsens_nothing(
    free: list[list[int]], sizes: list[int], locality: Locality, data: st.DataObject
) -> None:
    """Where a group fits without its set it fits with it, in no more cliques."""
    planning = planning_of(free)
    alone = planning.plan(gang(*sizes, locality=locality))
    at = data.draw(st.integers(0, len(free) - 1))
    group = members(1, sizes, locality, Strategy.PACK)[0]
    answer = place_near(planning, group, frozenset({f"c{at}"}), 0)
    assert isinstance(answer, Allocation) is isinstance(alone, Allocation)
    if isinstance(answer, Allocation) and isinstance(alone, Allocation) and locality is not ANYWHERE:
        assert len({grant.clique for grant in answer.grants}) <= len({grant.clique for grant in alone.grants})
        inside = planning_of([free[at]]).plan(gang(*sizes, locality=ONE))
        if isinstance(inside, Allocation):
            assert {grant.clique for grant in answer.grants} == {f"c{at}"}


THREE = GroupSet("job/name", 3)


@pytest.mark.parametrize("asked", ["segments on one node", "shares on one node"])
def test_groups_that_are_no_bundle_each_are_placed_all_the_same(asked: str) -> None:
    """As one bundle each they would be what no gang can ask: the next turn, and each start, ended in InvalidRequest."""
    world = world_of(a=3)
    for number in (1, 2, 3):
        request = shares(500, 400) if asked.startswith("shares") else gang(1, 1, locality=Locality(segment=2))
        request = replace(request, gang=f"{number:036x}", strategy=Strategy.STRICT_PACK)
        minted = OrdinaryGroup(request.gang, part_of=THREE)
        world.act(Submitted(Order(request, ordinary=minted)))
    serve(world)
    assert not any(each.waits for each in world.gangs.values())


def test_groups_that_ask_for_what_does_not_go_together_wait_and_hold_up_nobody() -> None:
    world = world_of(a=3)
    segments = world.ordinary(1, 1, number=1, locality=Locality(segment=2), part_of=PAIR)
    other = world.ordinary(1, 1, 1, number=2, part_of=PAIR)
    serve(world)
    assert waiting(world, segments, other)
    assert kind(world, segments) is ShortfallKind.SET
    assert world.submit(4, name="g").allocation is not None
