"""What a team has borrowed comes back to a gang whose team is guaranteed it: by hand, and over a long time."""

from __future__ import annotations

import random

import pytest

from ray_dra.core.gangs.backfill import OFF, Bounds
from ray_dra.core.gangs.borrowing import borrowed_by
from ray_dra.core.gangs.events import Moment, QueuesDeclared, ReleaseAsked, Submitted
from ray_dra.core.gangs.gang import Maker
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.preemption import NOBODY, Preemption
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.gangs.team_queues import Entitlement, TeamQueues, entitlement
from ray_dra.core.gangs.turn import arrival, turn_of
from ray_dra.core.model.locality import Locality
from tests.core.gangs.test_preemption import look, pass_time, runs, told
from tests.core.gangs.test_team_queues import queues
from tests.core.gangs.world import World
from tests.core.machines import gang, group_id, rack

GRACE = 5.0
GRACEFUL = on_fault("degrade", GRACE)
ONE_CLIQUE = Locality(cliques=1)


def teams(
    nodes: int = 3, *, least_run: float = 0.0, most: int = 1, restart: float = 0.0, **given: dict[str, float]
) -> World:
    world = World(machines=rack("a", nodes), preemption=Preemption(most, least_run, restart), backfill=OFF)
    world.act(QueuesDeclared(queues(**given)))
    return world


def ask(world: World, *sizes: int, name: str, team: str, priority: int = 0, **more: object) -> str:
    """A gang as `placement_group` asks for it. Its id."""
    request = gang(*sizes, name=group_id(name), priority=priority)
    world.act(Submitted(Order(request, name=name, team=team, maker=Maker(), on_fault=GRACEFUL, **more)))  # type: ignore[arg-type]
    return request.gang


def named(world: World, gangs: set[str]) -> set[str]:
    return {world.gangs[each].name for each in gangs}


def test_what_is_borrowed_comes_back_with_notice_and_waits_at_the_front_of_its_team() -> None:
    world = teams(a={"guarantee": 4}, b={"guarantee": 4})
    for name in ("own", "old", "young"):
        ask(world, 4, name=name, team="a")
        world.now += 10.0
    ask(world, 4, name="waits", team="a")
    owed = ask(world, 4, name="owed", team="b")
    look(world)
    assert named(world, told(world)) == {"young"}, "of what is borrowed, that of which the least work is lost"
    victim = world.gangs[group_id("young")]
    assert victim.notice is not None
    assert victim.notice.reason == "borrowed by a, and given back to b, for owed"
    assert not victim.request.preemptible, "it need not say so"
    pass_time(world, GRACE - 1)
    assert not runs(world, owed)
    pass_time(world, 1.5)
    assert runs(world, owed)
    assert world.engine.records.first is world.gangs[group_id("young")], "before those of its team that came earlier"
    pass_time(world, 5 * GRACE)
    assert not told(world), "whoever borrows takes nothing, so nothing goes to and fro"
    world.act(ReleaseAsked(owed))
    look(world)
    assert runs(world, group_id("young"))
    assert not runs(world, group_id("waits"))


def test_nothing_within_a_guarantee_is_taken_whatever_priorities_say() -> None:
    world = teams(a={"guarantee": 8}, b={"guarantee": 4})
    for name in ("one", "two"):
        ask(world, 4, name=name, team="a")
    ask(world, 4, name="borrows", team="default", priority=1_000)
    ask(world, 4, name="owed", team="b", priority=-1_000)
    look(world)
    assert named(world, told(world)) == {"borrows"}


def test_the_team_that_has_borrowed_most_by_its_weight_gives_first() -> None:
    world = teams(nodes=4, much={"weight": 4}, little={}, owed={"guarantee": 4})
    ask(world, 4, name="a", team="little")
    for name in ("b", "c", "d"):
        ask(world, 4, name=name, team="much")
        world.now += 100.0
    ask(world, 4, name="owed", team="owed")
    look(world)
    assert named(world, told(world)) == {"a"}, "4 of weight 1 are more than 12 of weight 4"


def test_who_borrows_takes_nothing_and_what_has_just_begun_is_left_for_a_while() -> None:
    world = teams(least_run=60.0, a={}, b={"guarantee": 4})
    for name in ("one", "two", "three"):
        ask(world, 4, name=name, team="a")
    ask(world, 4, 4, name="beyond", team="b")
    pass_time(world, 70.0)
    assert not told(world)
    world.act(ReleaseAsked(group_id("beyond")))
    world.act(ReleaseAsked(group_id("three")))
    ask(world, 4, name="new", team="a")
    owed = ask(world, 4, name="owed", team="b")
    look(world)
    assert len(named(world, told(world)) & {"one", "two"}) == 1, "`new` has run for too short a time"
    pass_time(world, GRACE + 1)
    assert runs(world, owed)


@pytest.mark.parametrize(("sizes", "waits"), [((4,), 0.0), ((4, 4), 100.0), ((4, 4, 4), 200.0)])
def test_the_more_ends_that_is_not_needed_the_longer_it_is_waited_for(sizes: tuple[int, ...], waits: float) -> None:
    """A large gang that ends for a small one leaves GPUs idle; one that is no larger ends at once."""
    world = teams(nodes=len(sizes), restart=100.0, a={}, b={"guarantee": 4})
    ask(world, *sizes, name="borrows", team="a")
    owed = ask(world, 4, name="owed", team="b")
    now = Moment(world.now, world.now)
    assert world.engine.expecting.of(world.gangs[owed], now).starts == world.now + waits + GRACE
    if waits:
        pass_time(world, waits - 5.0)
        assert not told(world)
        pass_time(world, 6.0)
    look(world)
    assert named(world, told(world)) == {"borrows"}
    pass_time(world, GRACE + 1)
    assert runs(world, owed)
    assert world.gangs[group_id("borrows")].preempted == 1


def test_it_is_off_where_preemption_is() -> None:
    world = World(nodes=2, preemption=NOBODY)
    world.act(QueuesDeclared(queues(a={}, b={"guarantee": 4})))
    ask(world, 4, 4, name="one", team="a")
    ask(world, 4, name="owed", team="b")
    pass_time(world, 30.0)
    assert not told(world)


def test_the_notice_is_taken_back_where_nothing_is_owed_any_more() -> None:
    for change in (queues(a={"guarantee": 8}, b={}), queues(a={}, b={"limit": 0}), TeamQueues()):
        world = teams(nodes=2, a={}, b={"guarantee": 4})
        ask(world, 4, 4, name="one", team="a")
        owed = ask(world, 4, name="owed", team="b")
        look(world)
        assert named(world, told(world)) == {"one"}
        world.act(QueuesDeclared(change))
        pass_time(world, 1.0)
        assert not told(world)
        pass_time(world, 2 * GRACE)
        assert runs(world, group_id("one"))
        assert not runs(world, owed)


def test_ordinary_groups_and_gangs_in_the_middle_of_something_are_left_alone() -> None:
    world = teams(a={}, b={"guarantee": 4})
    group = world.ordinary(4, number=1, team="a")
    world.submit(4, name="from before the queues")  # nobody would make its placement group again
    ask(world, 4, name="fits", team="a")
    ask(world, 4, name="owed", team="b")
    records = world.engine.records
    assert group not in borrowed_by(records, world.gangs[group_id("owed")])
    assert set(borrowed_by(records, world.gangs[group_id("owed")])) == {group_id("fits")}


@pytest.mark.parametrize("seed", range(4))
def test_over_a_long_time_everybody_has_what_it_is_guaranteed(seed: int) -> None:
    """Teams ask for more than there is, and little ends by itself: a guaranteed gang waits for no more than notice and
    what comes before it; only what is borrowed is ever taken."""
    dice = random.Random(seed)
    world = World(machines=[*rack("a", 3), *rack("b", 2)], preemption=Preemption(1, 2.0, 0.0), backfill=Bounds())
    declared = queues(a={"guarantee": 8}, b={"guarantee": 8, "weight": 2.0}, c={"weight": 0.0, "limit": 12})
    world.act(QueuesDeclared(declared))
    order = world.engine.records.team_order
    count = taken = served = 0
    since: dict[str, float] = {}
    for _ in range(800):
        if len([*order.turns()]) < 9:
            count += 1
            team = dice.choice(("a", "b", "c"))
            runs_for = 3.0 if dice.random() < 0.2 else None
            ask(world, *[dice.choice((1, 2, 4))] * dice.randint(1, 2), name=f"g{count}", team=team, runs_for=runs_for)
        if dice.random() < 0.1 and (running := [n for n, g in world.gangs.items() if g.allocation is not None]):
            world.act(ReleaseAsked(dice.choice(sorted(running))))
        before, had = told(world), dict(world.gangs)
        look(world, 1.0)
        for name in told(world) - before:
            check_taken(world, name)
            taken += 1
        for name, each in world.gangs.items():
            was = had.get(name)
            if each.allocation is not None and was is not None and was.allocation is None:
                served += name in since
                since.pop(name, None)
        first = world.engine.records.first
        for name in list(since):
            if first is None or first.id != name:
                del since[name]
        if first is not None and order.entitlement(first.team, world.engine.records.amounts(first)) is (
            Entitlement.GUARANTEED
        ):
            since.setdefault(first.id, world.now)
            if borrowed_by(world.engine.records, first):
                assert world.now - since[first.id] <= 3 * (GRACE + 2.0) + 3.0, (
                    "it is first, and what is borrowed is there"
                )
    assert taken > 8
    assert served > 8


def check_taken(world: World, name: str) -> None:
    """It is of another team, which has more than its guarantee without what comes before it."""
    order, victim = world.engine.records.team_order, world.gangs[name]
    assert victim.eviction is not None
    by = world.gangs[victim.eviction.by]
    assert order.team(by.team) != order.team(victim.team)
    assert order.entitlement(by.team, world.engine.records.amounts(by)) is Entitlement.GUARANTEED
    queue = order.queues.queue(victim.team)
    others = [
        world.engine.records.amounts(each).gpus
        for each in world.gangs.values()
        if each.allocation is not None and each.team == victim.team and turn_of(each) < turn_of(victim)
    ]
    mine = world.engine.records.amounts(victim).gpus
    assert entitlement(queue, sum(others), mine) is not Entitlement.GUARANTEED


def test_among_teams_a_preempted_gang_comes_by_its_arrival() -> None:
    world = teams(nodes=2, a={}, b={"guarantee": 8})
    ask(world, 4, 4, name="borrows", team="a")
    ask(world, 4, 4, name="owed", team="b")
    pass_time(world, GRACE + 1)
    victim = world.gangs[group_id("borrows")]
    assert victim.preempted == 1
    assert arrival(turn_of(victim)) == victim.sequence
