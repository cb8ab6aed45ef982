"""Queues of teams: by hand, and what holds whatever comes in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.gangs.backfill import OFF, Bounds
from ray_dra.core.gangs.events import NextTurn, QueuesDeclared, ReleaseAsked, Submitted
from ray_dra.core.gangs.gang import Gang, GroupSet
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.standing import TeamStanding, behind, team_standings
from ray_dra.core.gangs.team_order import TeamOrder
from ray_dra.core.gangs.team_queues import (
    MOST_GPUS,
    MOST_WEIGHT,
    Amounts,
    Entitlement,
    TeamQueue,
    TeamQueues,
    amounts_of,
    beyond,
    entitlement,
)
from ray_dra.core.gangs.turn import turn_of
from ray_dra.core.model.shortfall import ShortfallKind
from ray_dra.errors import InvalidRequest, UnsatisfiableError
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import mig, mps
from tests.core.gangs.world import World
from tests.core.machines import gang, node

GPU = 1000


def queues(**given: Mapping[str, float]) -> TeamQueues:
    """In GPUs, as an operator says them."""
    return TeamQueues.of(
        TeamQueue(
            name,
            round(GPU * fields.get("guarantee", 0)),
            fields.get("weight", 1.0),
            round(GPU * fields["limit"]) if "limit" in fields else None,
        )
        for name, fields in given.items()
    )


def world_of(nodes: int = 2, backfill: Bounds = OFF, **given: Mapping[str, float]) -> World:
    world = World(nodes=nodes, backfill=backfill)
    world.act(QueuesDeclared(queues(**given)))
    return world


def serve(world: World) -> list[str]:
    """The gangs that start, in order."""
    started: list[str] = []
    for _ in range(1_000):
        before = {name for name, each in world.gangs.items() if each.allocation is not None}
        if not world.act(NextTurn()):
            return started
        started += [name for name, g in world.gangs.items() if g.allocation is not None and name not in before]
    raise AssertionError("the queue comes to no end")


def runs(world: World, name: str) -> bool:
    return world.gangs[name].allocation is not None


def team(world: World, name: str) -> TeamStanding:
    (found,) = (each for each in team_standings(world.engine.records) if each.name == name)
    return found


# -- by hand


def test_what_a_gang_counts() -> None:
    assert amounts_of(gang(4, 4, 2)) == Amounts(10 * GPU)
    with_more = request_from_bundles([{"GPU": 2, "CPU": 8, "memory": 100}] * 3)
    assert amounts_of(with_more) == Amounts(6 * GPU, 24.0, 300.0)
    shares = request_from_bundles([{"GPU": 0.25}] * 5, sharing=mps())
    assert amounts_of(shares).gpus == 2 * GPU, "of a GPU that it has in part nobody else gets the rest"
    assert amounts_of(request_from_bundles([{"GPU": 1}] * 7, part=mig("1g.10gb"))).gpus == 7 * 143
    assert amounts_of(request_from_bundles([{"GPU": 1}], part=mig("7g.80gb"))).gpus == GPU
    assert amounts_of(request_from_bundles([{"GPU": 1}], part=mig(memory="10G"))).gpus == GPU


def test_guaranteed_demand_comes_before_who_borrows_whoever_came_first() -> None:
    world = world_of(a={"guarantee": 4}, b={"guarantee": 4})
    world.submit(4, 4, name="all", team="a")
    world.submit(4, name="borrows", team="a")
    world.submit(4, name="guaranteed", team="b")
    assert not runs(world, "guaranteed")
    world.act(ReleaseAsked("all"))
    world.submit(4, name="guaranteed too", team="b")
    assert serve(world) == ["borrows", "guaranteed"], "without `all`, `borrows` is within a's guarantee"
    assert not runs(world, "guaranteed too")


def test_who_borrows_waits_behind_a_guarantee_that_came_later() -> None:
    world = world_of(a={"guarantee": 0}, b={"guarantee": 4})
    world.submit(4, name="filler", team="a")
    world.submit(4, name="more", team="a")
    world.submit(4, name="borrows", team="a")
    world.submit(4, name="guaranteed", team="b")
    world.act(ReleaseAsked("filler"))
    assert serve(world) == ["guaranteed"]


def test_of_those_who_borrow_the_team_with_the_least_by_its_weight_comes_first() -> None:
    world = world_of(nodes=3, light={"weight": 1}, heavy={"weight": 3})
    world.submit(4, 4, 4, name="all")
    for at in range(6):
        world.submit(2, name=f"light{at}", team="light")
    for at in range(6):
        world.submit(2, name=f"heavy{at}", team="heavy")
    world.act(ReleaseAsked("all"))
    assert serve(world) == ["light0", "heavy0", "heavy1", "heavy2", "light1", "heavy3"]
    assert (team(world, "light").used, team(world, "heavy").used) == (4.0, 8.0)


def test_a_team_of_weight_nothing_borrows_what_nobody_else_waits_for() -> None:
    world = world_of(a={"weight": 0}, b={})
    world.submit(4, 4, name="all")
    world.submit(4, name="idle only", team="a")
    world.submit(4, name="first", team="b")
    world.submit(4, name="second", team="b")
    world.act(ReleaseAsked("all"))
    assert serve(world) == ["first", "second"]
    world.act(ReleaseAsked("first"))
    assert serve(world) == ["idle only"]


def test_over_its_limit_a_team_waits_and_holds_up_no_other() -> None:
    world = world_of(a={"limit": 4}, b={})
    world.submit(2, name="runs", team="a")
    world.submit(4, name="waits", team="a")
    assert serve(world) == []
    world.submit(2, name="behind it", team="a")
    world.submit(4, name="other", team="b")
    assert runs(world, "other")
    assert not runs(world, "behind it"), "its own team waits in order"
    (why,) = world.engine.records.notes["waits"].refused
    assert (why.kind, why.wanted, why.available) == (ShortfallKind.LIMIT, 4.0, 2.0)
    assert str(why) == "limit in the queue a: wanted 4 GPUs, available 2 of at most 4 (2 used)"
    assert team(world, "a").limited
    world.act(ReleaseAsked("runs"))
    assert serve(world) == ["waits"]


def test_what_is_over_the_limit_for_ever_is_refused() -> None:
    world = world_of(a={"limit": 3})
    with pytest.raises(UnsatisfiableError) as refused:
        world.submit(4, name="large", team="a")
    (why,) = refused.value.shortfalls
    assert (why.kind, why.wanted, why.available) == (ShortfallKind.LIMIT, 4.0, 3.0)
    world.submit(2, name="small", team="a")
    with pytest.raises(UnsatisfiableError, match="limit in the queue a"):
        world.act(Submitted(Order(gang(2, name="now"), team="a", wait=False), looked=True))
    assert not world.gangs.keys() & {"large", "now"}


@pytest.mark.parametrize("declared", [True, False])
def test_a_queue_that_nobody_declared_is_refused_with_the_names_that_exist(declared: bool) -> None:
    world = world_of(a={}, b={}) if declared else World()
    with pytest.raises(InvalidRequest) as refused:
        world.submit(1, name="g", team="c")
    assert refused.value.place == "queue"
    assert refused.value.available == ("a, b, default" if declared else "none (docs/queue.md)")
    assert not world.gangs


def test_an_ordinary_group_waits_for_a_queue_that_is_not_declared() -> None:
    """As for anything that Ray does not have; where no queues are declared, there is one for all."""
    world = world_of(a={}, b={})
    group = world.ordinary(1, number=1, team="c")
    assert serve(world) == []
    (why,) = [behind(world.engine.records, world.gangs[group])]
    assert (
        str(why)
        == "limit in the queue c: wanted 1 GPUs, available none: this queue is not declared; there are a, b, default"
    )
    world.act(QueuesDeclared(queues(c={})))
    assert serve(world) == [group]
    single = World()
    assert single.gangs[single.ordinary(1, number=1, team="c")].allocation is not None


def test_kueues_queue_and_a_teams_do_not_go_together() -> None:
    world = world_of(a={})
    with pytest.raises(InvalidRequest, match="Kueue"):
        world.submit(1, name="g", team="a", queue="kueue/q")
    assert world.submit(1, name="paid", queue="kueue/q").team == ""
    assert world.gangs[world.ordinary(1, number=1, team="a", queue="kueue/q")].team == ""


def test_a_gang_that_names_none_is_in_the_default_queue() -> None:
    world = world_of(a={}, default={"limit": 2})
    world.submit(2, name="one")
    world.submit(1, name="two")
    assert not runs(world, "two")
    assert team(world, "default").used == 2.0
    world.act(QueuesDeclared(queues(a={})))
    assert serve(world) == ["two"], "nothing limits a default that is not declared"


def test_a_queue_that_is_shrunk_or_deleted_ends_nothing_and_starts_nothing() -> None:
    world = world_of(a={"guarantee": 8}, b={})
    world.submit(4, name="runs", team="a")
    world.submit(8 - 4, name="more", team="a")
    world.submit(2, name="waits", team="a")
    world.act(QueuesDeclared(queues(a={"limit": 4}, b={})))
    assert team(world, "a").borrowed == 8.0
    world.act(ReleaseAsked("more"))
    assert serve(world) == []
    world.act(QueuesDeclared(queues(b={})))
    assert runs(world, "runs")
    gone = team(world, "a")
    assert (gone.declared, gone.used, gone.borrowed, gone.waiting, gone.limit) == (False, 4.0, 4.0, 1, 0.0)
    with pytest.raises(InvalidRequest):
        world.submit(1, name="new", team="a")
    assert world.submit(4, name="of b", team="b").allocation is not None, "nobody is held up by it"
    world.act(ReleaseAsked("of b"))
    world.act(QueuesDeclared(TeamQueues()))
    assert serve(world) == ["waits"], "without queues of teams the queue is one"


def test_huge_numbers_are_numbers() -> None:
    world = world_of(a={"guarantee": MOST_GPUS, "weight": MOST_WEIGHT, "limit": MOST_GPUS}, b={"weight": 1e-300})
    assert runs(world, world.submit(4, name="a", team="a").id)
    assert runs(world, world.submit(4, name="b", team="b").id)
    assert beyond(TeamQueue("b", weight=5e-324), Amounts(GPU), Amounts(8 * GPU)) == math.inf
    assert entitlement(TeamQueue("a", MOST_GPUS * GPU), 10**15, GPU) is Entitlement.BORROWED


def test_cpus_and_memory_count_where_they_are_counted() -> None:
    """A team with few GPUs and all CPUs has most of the cluster."""
    cluster = Amounts(8 * GPU, 64.0, 0.0)
    assert beyond(TeamQueue("a"), Amounts(GPU, 48.0, 1e9), cluster) == 0.75
    assert beyond(TeamQueue("a", 4 * GPU), Amounts(GPU, 48.0), cluster) == 0.25, "with its GPUs go as many CPUs"
    assert beyond(TeamQueue("a"), Amounts(GPU), Amounts()) == 0.0


@pytest.mark.parametrize(
    ("mine", "passes"),
    [({"limit": 8}, False), ({"limit": 9}, True), ({"guarantee": 8}, False), ({"guarantee": 9}, True)],
)
def test_who_overtakes_takes_neither_limit_nor_right_from_the_first(mine: dict[str, float], passes: bool) -> None:
    world = world_of(nodes=3, backfill=Bounds(), a=mine, b={"guarantee": 9}, c={"limit": 9})
    world.submit(4, 4, name="long", team="c", runs_for=100.0)
    world.submit(4, 4, name="first", team="a")
    world.submit(4, 4, name="second", team="b")
    if "limit" in mine:
        world.act(QueuesDeclared(queues(a={"guarantee": 9, **mine}, b={}, c={"limit": 9})))
    world.submit(1, name="own", team="a", runs_for=5.0)
    world.submit(2, name="over", team="c", runs_for=5.0)
    world.submit(1, name="other", team="b", runs_for=5.0)
    assert world.engine.records.first is world.gangs["first"]
    assert serve(world) == [*(["own"] if passes else []), "other"], "`over` would be over its own team's limit"


def test_in_a_gang_of_sets_groups_count_together() -> None:
    world = world_of(default={"limit": 3})
    for number in (1, 2):
        world.ordinary(2, number=number, part_of=GroupSet("pair", 2))
    assert serve(world) == []
    assert not any(each.allocation for each in world.gangs.values())
    world.act(QueuesDeclared(queues(default={"limit": 4})))
    assert len(serve(world)) == 2


def test_ordinary_groups_hold_up_nobody_and_keep_their_teams_limits() -> None:
    world = world_of(a={"limit": 2}, b={"guarantee": 4})
    world.submit(4, 4, name="all", team="b")
    over, within = world.ordinary(4, number=1, team="a"), world.ordinary(2, number=2, team="a")
    world.ordinary(4, number=3, team="b")
    world.act(ReleaseAsked("all"))
    assert serve(world) == [f"{3:036x}", within], "what is guaranteed comes first"
    assert not runs(world, over)


def test_what_is_used_is_what_is_held_while_it_is_given_back() -> None:
    world = world_of(a={"limit": 4}, b={})
    world.submit(4, name="goes", team="a")
    world.busy.add("goes")
    world.act(ReleaseAsked("goes"))
    world.submit(4, name="next", team="a")
    assert not runs(world, "next")
    assert team(world, "a").used == 4.0


def test_cpus_of_the_cluster_are_summed_up_again_when_nodes_come() -> None:
    world = world_of(a={})
    assert world.engine.records.team_order.total == Amounts(8 * GPU, 128.0, 0.0)
    world.inventory.put_node(node("new", 4, clique="a", resources={"CPU": 8.0, "memory": 5.0}))
    world.engine.records.count_cluster()
    assert world.engine.records.team_order.total == Amounts(12 * GPU, 136.0, 5.0)


# -- whatever comes


TEAMS = ("a", "b", "c")
SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=3)
FIELDS = st.fixed_dictionaries(
    {"guarantee": st.integers(0, 6), "weight": st.sampled_from([0.0, 0.5, 1.0, 3.0])},
    optional={"limit": st.integers(6, 12)},
)


class Teams(RuleBasedStateMachine):
    """Gangs of teams come, start and end, and queues change."""

    def __init__(self) -> None:
        super().__init__()
        self.world = world_of(nodes=3, backfill=Bounds(), a={"guarantee": 4}, b={"guarantee": 4, "limit": 8}, c={})
        self.count = 0

    @property
    def order(self) -> TeamOrder:
        return self.world.engine.records.team_order

    def has(self, name: str) -> int:
        return sum(
            amounts_of(each.request).gpus
            for each in self.world.gangs.values()
            if each.allocation is not None and self.order.team(each.team) == name
        )

    @rule(
        sizes=SIZES,
        name=st.sampled_from(["", *TEAMS]),
        priority=st.integers(0, 1),
        runs_for=st.sampled_from([None, 2.0]),
        ordinary=st.booleans(),
    )
    def submit(self, sizes: list[int], name: str, priority: int, runs_for: float | None, ordinary: bool) -> None:
        self.count += 1
        try:
            if ordinary:
                self.started(lambda: self.world.ordinary(*sizes, number=self.count, team=name))
            else:
                order = Order(gang(*sizes, name=f"g{self.count}", priority=priority), team=name, runs_for=runs_for)
                self.started(lambda: self.world.act(Submitted(order)))
        except InvalidRequest as refused:
            assert not ordinary
            assert refused.place == "queue"
            assert not self.order.queues.declared(name)
        except UnsatisfiableError as never:
            limit = self.order.queues.queue(name).limit
            assert limit is not None
            assert never.shortfalls[0].kind is ShortfallKind.LIMIT
            assert sum(sizes) * GPU > limit

    @precondition(lambda self: self.world.gangs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.world.act(ReleaseAsked(data.draw(st.sampled_from(sorted(self.world.gangs)))))

    @rule(seconds=st.sampled_from([0.5, 5.0]))
    def time(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(given=st.dictionaries(st.sampled_from([*TEAMS, "default"]), FIELDS, min_size=1))
    def declare(self, given: dict[str, dict[str, float]]) -> None:
        self.world.act(QueuesDeclared(queues(**given)))

    @rule()
    def serve(self) -> None:
        for _ in range(100):
            if not self.started(lambda: self.world.act(NextTurn())):
                return

    def started(self, act: Callable[[], object]) -> object:
        """What starts does so by its right."""
        before = dict(self.world.gangs)
        waited = [each for each in before.values() if each.waits]
        has = {name: self.has(name) for name in {self.order.team(each.team) for each in waited} | set(TEAMS)}
        beyond_before = self.beyond_of()
        done = act()
        for name, now in self.world.gangs.items():
            was = before.get(name)
            if now.allocation is not None and (was is None or was.allocation is None):
                self.check_start(now, [each for each in waited if each.id != name], has, beyond_before)
        return done

    def beyond_of(self) -> dict[str, float]:
        order = self.order
        names = {*order.queues.each, *TEAMS, "default"}
        return {name: beyond(order.queues.queue(name), order.has(name), order.total) for name in names}

    def check_start(self, now: Gang, waited: list[Gang], has: dict[str, int], was_beyond: dict[str, float]) -> None:
        order = self.order
        team = order.team(now.team)
        queue, wants = order.queues.queue(now.team), amounts_of(now.request).gpus
        assert queue.limit is None or self.has(team) <= queue.limit, "no team starts anything over its limit"
        if now.history[-1].why.startswith("before its turn"):
            return
        mine = entitlement(queue, self.has(team) - wants, wants)
        for other in waited:
            theirs = order.team(other.team)
            if other.ordinary is not None:
                continue
            if theirs == team:
                key, own = (-other.request.priority, other.sequence), (-now.request.priority, now.sequence)
                assert key > own, "a team's own gangs keep their order"
                continue
            if order.first_of(theirs) != turn_of(other):
                continue
            right = entitlement(order.queues.queue(other.team), has[theirs], amounts_of(other.request).gpus)
            if right is Entitlement.OVER_LIMIT:
                continue
            assert mine <= right, "what is guaranteed comes before what is borrowed"
            if mine is right is Entitlement.GUARANTEED:
                assert now.sequence < other.sequence, "nobody who comes later passes what is guaranteed"
            elif mine is right is Entitlement.BORROWED:
                assert was_beyond[team] <= was_beyond[theirs], "who has less beyond its guarantee comes first"

    @invariant()
    def sane(self) -> None:
        self.world.engine.validate()
        for found in team_standings(self.world.engine.records):
            assert found.used * GPU == self.has(found.name)
            assert found.borrowed == max(0.0, found.used - found.guarantee)


TestTeams = Teams.TestCase
TestTeams.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
