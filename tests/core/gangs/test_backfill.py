"""Who may start before its turn, by hand, against exhaustive search, and over time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.backfill import (
    ABOUT_TO,
    Bounds,
    Reservation,
    apart,
    before_its_turn,
    can_leave,
    expected_end,
    reservations,
)
from ray_dra.core.gangs.events import NextTurn, ReleaseAsked, Submitted
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.patience import Answer, Worth, in_turn
from ray_dra.core.gangs.promise import Promise
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest, Strategy
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest
from tests.core import brute
from tests.core.gangs.world import World
from tests.core.machines import gang, picture, rack

NEAR = Locality(cliques=1, required=False)
NEAR_NOW = replace(NEAR, patience=0.0)


def serve(world: World) -> None:
    for _ in range(1_000):
        if not world.act(NextTurn()):
            return
    raise AssertionError("the queue comes to no end")


def runs(world: World, name: str) -> bool:
    return name in world.gangs and world.gangs[name].allocation is not None


@pytest.fixture
def world() -> World:
    """Three trays of four; `long` has one of them for 100 s, and `big` waits for all three."""
    world = World(nodes=3)
    world.submit(4, name="long", runs_for=100.0)
    world.submit(4, 4, 4, name="big")
    return world


# -- by hand


def test_who_will_have_ended_by_then_starts_before_its_turn(world: World) -> None:
    for name, runs_for in (("short", 99.0), ("too long", 101.0), ("silent", None), ("exact", 100.0)):
        world.submit(1, name=name, runs_for=runs_for)
    serve(world)
    assert [name for name in world.gangs if runs(world, name)] == ["long", "short", "exact"]
    assert world.gangs["short"].history[-1].why == "before its turn: devices are held"
    assert world.gangs["short"].ends == 99.0
    assert world.engine.records.notes["big"].reservation is not None
    world.now = 99.0
    for name in ("short", "exact", "long"):
        world.act(ReleaseAsked(name))
    serve(world)
    assert runs(world, "big"), "nobody delayed it"


@pytest.mark.parametrize("free", ["a-t0", "a-t1", "b-t0"])
def test_what_is_not_reserved_may_be_had_for_longer(free: str) -> None:
    """The first needs the rack of two trays; a number of GPUs would say that each tray is in its way."""
    world = World(machines=[*rack("a", 2), *rack("b", 1)])
    for name in ("one", "two", "three"):
        world.submit(4, name=name, runs_for=100.0)
    world.submit(4, 4, name="big", locality=Locality(cliques=1))
    world.submit(4, name="behind", runs_for=1e6)
    world.act(ReleaseAsked(next(n for n, g in world.gangs.items() if g.allocation and g.allocation.nodes == (free,))))
    serve(world)
    promise = world.engine.records.notes["big"].reservation
    assert promise is not None
    assert set(promise.allocation.nodes) == {"a-t0", "a-t1"}
    assert runs(world, "behind") is (free == "b-t0")


def test_a_place_beside_the_reservation_is_looked_for_where_the_tightest_is_in_it() -> None:
    world = World(machines=[*rack("a", 2), *rack("b", 1)])
    request = replace(gang(2, name="long"), exclude=frozenset({"b-t0"}))
    world.act(Submitted(Order(request, runs_for=100.0)))
    world.submit(4, 4, name="big", locality=Locality(cliques=1))
    tightest = plan(world.inventory, gang(2))
    assert isinstance(tightest, Allocation)
    assert tightest.nodes == world.gangs["long"].allocation.nodes, "the other half of its tray"  # type: ignore[union-attr]
    world.submit(2, name="behind", runs_for=1e6)
    serve(world)
    held = world.gangs["behind"].allocation
    assert held is not None
    assert held.nodes == ("b-t0",)


@pytest.mark.parametrize(
    ("over", "expected"), [(0.0, 2.0), (1.0, 2.0), (2.0, 4.0), (3.0, 4.0), (50.0, 64.0), (64.0, 128.0)]
)
def test_who_overruns_its_guess_is_expected_to_run_as_long_again(world: World, over: float, expected: float) -> None:
    world.now = 100.0 + over
    world.submit(1, name="too long", runs_for=expected - over + 0.1)
    serve(world)
    assert not runs(world, "too long")
    promise = world.engine.records.notes["big"].reservation
    assert promise is not None
    assert promise.at == expected_end(100.0, world.now) == 100.0 + expected
    assert runs(world, "long"), "it loses nothing else"
    world.act(ReleaseAsked("long"))
    serve(world)
    assert runs(world, "big")


def test_who_overruns_lets_nobody_into_the_promised_place_though_there_is_another_later() -> None:
    world = World(machines=[*rack("a", 2), *rack("b", 2)])
    late = replace(gang(4, name="late"), exclude=frozenset({"a-t1", "b-t0", "b-t1"}))
    other = replace(gang(4, 4, name="other"), exclude=frozenset({"a-t0", "a-t1"}))
    world.act(Submitted(Order(late, runs_for=10.0)))
    world.act(Submitted(Order(other, runs_for=50.0)))
    world.submit(4, 4, name="big", locality=Locality(cliques=1))
    serve(world)
    world.now = 11.0
    world.submit(4, name="small", runs_for=38.0)
    serve(world)
    promise = world.engine.records.notes["big"].reservation
    assert promise is not None
    assert promise.at == 12.0, "as long again as it has overrun"
    assert not runs(world, "small"), "it would have the other half of the rack that was promised at 10"
    world.now = 12.0
    world.act(ReleaseAsked("late"))
    serve(world)
    assert runs(world, "big"), "later by no more than the other overran"


def test_who_wants_a_clique_to_itself_waits_for_everybody_in_it() -> None:
    world = World(nodes=2)
    world.submit(4, name="there", runs_for=10.0)
    world.submit(4, name="alone", locality=Locality(cliques=1, exclusive=True))
    world.submit(1, name="behind", runs_for=100.0)
    world.submit(4, name="short", runs_for=5.0)
    serve(world)
    promise = world.engine.records.notes["alone"].reservation
    assert promise is not None
    assert set(promise.after) == {"there", "short"}, "not only for who has the node that it will have"


def test_who_is_given_back_is_waited_for_as_if_it_had_ended() -> None:
    world = World(nodes=4)
    world.submit(4, name="leaves")
    world.submit(4, name="long", runs_for=100.0)
    world.submit(4, 4, 4, name="big")
    world.busy.add("leaves")
    world.act(ReleaseAsked("leaves"))
    world.submit(1, name="short", runs_for=10.0)
    serve(world)
    promise = world.engine.records.notes["big"].reservation
    assert promise is not None
    assert promise.at == world.now, "it can start at any moment"
    assert not runs(world, "short")


def test_it_can_be_off_and_looks_no_further_than_it_is_told() -> None:
    for bounds, expected in ((Bounds(0), 0), (Bounds(1), 0), (Bounds(2), 2), (Bounds(2, ends=0), 0), (Bounds(9), 2)):
        world = World(nodes=3, backfill=bounds)
        world.submit(4, name="long", runs_for=100.0)
        world.submit(4, 4, 4, name="big")
        world.submit(1, name="silent")
        for name in ("one", "two"):
            world.submit(1, name=name, runs_for=10.0)
        serve(world)
        assert sum(runs(world, name) for name in ("silent", "one", "two")) == expected, bounds


def test_nobody_is_looked_at_twice_while_nothing_changes(world: World) -> None:
    world.submit(1, name="too long", runs_for=1e6)
    serve(world)
    asked: list[object] = []
    plan_it = world.engine.planning.plan
    world.engine.planning.plan = lambda *a, **k: asked.append(a) or plan_it(*a, **k)  # type: ignore[method-assign,func-returns-value]
    world.now += 1.0
    serve(world)
    assert not asked
    world.submit(1, name="new", runs_for=1e6)
    world.now += 1.0
    serve(world)
    assert 0 < len(asked) <= 2, "only the new one is looked at"


@pytest.mark.parametrize("guess", [0, -1, 0.5, float("nan"), float("inf"), 366 * 86400, "10", True, None])
def test_a_guess_is_a_number_of_seconds(guess: object) -> None:
    if guess is None:
        Order(gang(1), runs_for=None)
        return
    with pytest.raises(InvalidRequest, match="runs_for"):
        Order(gang(1), runs_for=guess)  # type: ignore[arg-type]


# -- without guesses it is the queue that it was


@pytest.mark.parametrize("seed", range(10))
def test_without_guesses_the_queue_is_what_it_is_without_backfill(seed: int) -> None:
    dice = random.Random(seed)
    worlds = World(nodes=3), World(nodes=3, backfill=Bounds(0))
    for step in range(30):
        sizes, priority = [dice.randint(1, 4) for _ in range(dice.randint(1, 3))], dice.randint(0, 1)
        gone = dice.choice([*worlds[0].gangs, None])
        busy = dice.random() < 0.3
        for world in worlds:
            world.now += 1.0
            if gone is None or step % 2:
                world.act(Submitted(Order(gang(*sizes, name=f"g{step}", priority=priority))))
            else:
                if busy:
                    world.busy.add(gone)
                world.act(ReleaseAsked(gone))
            serve(world)
        held = [{name: each.allocation for name, each in world.gangs.items()} for world in worlds]
        assert held[0] == held[1]


# -- against exhaustive search


def _fits(world: brute.World, request: GangRequest, *, strict: bool) -> bool:
    if strict:
        request = replace(request, locality=replace(request.locality, required=True, patience=0.0))
    return brute.Brute(world, request).fits()


def _starts(world: brute.World, ends: dict[str, float], request: GangRequest, now: float) -> float | None:
    """When the first could start at the earliest, if guesses hold; by trying every place at every end."""
    for at in sorted({now, *(end for end in ends.values() if end > now)}):
        if _fits(world.without([name for name, end in ends.items() if end <= at]), request, strict=False):
            return at
    return None


def _placing(inventory: Inventory, request: GangRequest) -> Callable[[bool], Answer]:
    return lambda strict: plan(inventory, request, strict=strict)


def _placing_without(inventory: Inventory, request: GangRequest) -> Callable[[frozenset[str]], Answer]:
    return lambda nodes: plan(inventory, replace(request, exclude=request.exclude | nodes), strict=True)


def _case(dice: random.Random) -> tuple[brute.World, dict[str, float], GangRequest, GangRequest]:
    """A cluster, the ends of some of its gangs, the first, and one behind it."""
    world = brute.random_world(dice, gangs=5)
    ends = {name: float(dice.randint(1, 9)) for name in world.gangs if dice.random() < 0.8}
    first = replace(brute.random_request(dice, bundles=4), gang="first")
    return world, ends, first, replace(brute.random_request(dice, bundles=1), gang="behind")


@pytest.mark.parametrize("seed", range(4))
def test_a_gang_that_ends_by_its_guess_delays_no_reservation(seed: int) -> None:
    """And the reservation is the earliest start there is; and nothing of the inventory is changed by looking."""
    dice = random.Random(seed)
    started = refused = longer = 0
    for _ in range(400):
        world, ends, first, behind = _case(dice)
        inventory, order = world.inventory(), sorted((end, name) for name, end in ends.items())
        if isinstance(plan(inventory, first), Allocation):
            continue  # it would not wait
        before, changes = picture(inventory), inventory.changes
        promise = reservations(inventory, first, order, 0.0, None, _placing(inventory, first))
        assert picture(inventory) == before
        assert inventory.changes == changes
        earliest = _starts(world, ends, first, 0.0)
        assert (promise[0].at if promise else None) == earliest, brute.told(world, first)
        if not promise:
            continue
        runs_for = float(dice.randint(1, 12))
        found = before_its_turn(inventory, promise, runs_for, _placing_without(inventory, behind))
        assert picture(inventory) == before
        if found is None:
            refused += 1
            if isinstance(plan(inventory, behind, strict=True), Allocation):
                assert runs_for > promise[0].at, "it would have ended by then"
            continue
        started += 1
        longer += runs_for > promise[0].at
        assert brute.broken(world, behind, found) == ""
        beside = replace(world, gangs={**world.gangs, "behind": found})
        after = _starts(beside, {**ends, "behind": runs_for}, first, 0.0)
        assert after is not None
        assert earliest is not None
        assert after <= earliest, brute.told(beside, first)
    assert min(started, refused, longer) >= 3


@pytest.mark.parametrize("seed", range(4))
def test_allocations_that_are_apart_can_be_held_together(seed: int) -> None:
    dice = random.Random(seed)
    yes = 0
    for _ in range(400):
        world, _, first, behind = _case(dice)
        inventory = world.without([*world.gangs]).inventory()
        one, other = plan(inventory, first), plan(inventory, behind)
        if not (isinstance(one, Allocation) and isinstance(other, Allocation)):
            continue
        assert apart(inventory, one, other) == apart(inventory, other, one)
        if apart(inventory, one, other):
            yes += 1
            inventory.hold(one)
            held = replace(world, gangs={"first": one})
            assert brute.broken(held, behind, other) == ""
            inventory.hold(other)
    assert yes > 10


def test_a_gang_is_not_beside_another_where_a_clique_has_room_for_one_imex_domain() -> None:
    for limits, expected in ((Limits(True), True), (Limits(True, 18, True), False)):
        inventory = Inventory(rack("a", 4), limits)
        one = plan(inventory, gang(4, 4, name="one", locality=Locality(cliques=1)))
        assert isinstance(one, Allocation)
        elsewhere = frozenset(one.nodes)
        other = plan(inventory, replace(gang(4, 4, name="two", locality=Locality(cliques=1)), exclude=elsewhere))
        assert isinstance(other, Allocation)
        assert apart(inventory, one, other) is expected


def test_who_has_a_clique_to_itself_leaves_all_of_it() -> None:
    """Its own devices alone would be too few for the first."""
    inventory = Inventory(rack("a", 2))
    alone = plan(inventory, gang(4, name="alone", locality=Locality(cliques=1, exclusive=True)))
    assert isinstance(alone, Allocation)
    inventory.hold(alone)
    request = gang(4, 4)
    (promise,) = reservations(inventory, request, [(5.0, "alone")], 0.0, None, _placing(inventory, request))
    assert promise.at == 5.0


# -- what is promised


def test_those_who_overrun_one_after_the_other_delay_the_first_once(world: World) -> None:
    """Each runs 3 s longer than it said; `big` was promised 100 s."""
    world.now = 90.0
    world.submit(1, name="one", runs_for=10.0)
    serve(world)
    assert runs(world, "one")
    world.now = 101.0
    world.act(ReleaseAsked("one"))
    world.submit(2, name="two", runs_for=1.0)
    serve(world)
    assert not runs(world, "two"), "the other overruns"
    world.now = 102.0
    long = world.gangs["long"]
    world.act(ReleaseAsked("long"))
    serve(world)
    assert runs(world, "big")
    assert long.ends == 100.0


def test_a_promise_does_not_get_later_with_the_beginning_of_a_wait() -> None:
    world = World(machines=[*rack("a", 2), *rack("b", 1)])
    world.act(Submitted(Order(replace(gang(4, name="forever"), exclude=frozenset({"b-t0", "a-t1"})))))
    world.act(Submitted(Order(replace(gang(4, name="late"), exclude=frozenset({"a-t1"})), runs_for=47.0)))
    world.submit(4, 4, name="big", locality=replace(NEAR, patience=5.0))
    world.submit(1, name="behind", runs_for=10.0)
    serve(world)
    assert world.gangs["big"].promised == Promise(47.0, 52.0)
    world.now = 49.0
    for name in ("behind", "late"):
        world.act(ReleaseAsked(name))
    serve(world)
    assert world.gangs["big"].could_start == 49.0, "it waits for a rack until 54"
    world.submit(4, name="too long", runs_for=4.0)
    world.submit(4, name="short", runs_for=3.0)
    serve(world)
    assert not runs(world, "too long"), "it would end after 52"
    assert runs(world, "short")
    assert world.gangs["big"].promised == Promise(47.0, 52.0)
    world.now = 54.0
    serve(world)
    assert not runs(world, "big"), "the other overruns by 2 s"
    world.act(ReleaseAsked("short"))
    serve(world)
    assert runs(world, "big")
    began = world.gangs["big"]
    assert began.promised is None
    assert began.could_start is None


def restarted(world: World) -> World:
    """The same cluster and records, and a coordinator that has just started."""
    machines = [state.node for state in world.inventory.node_states.values()]
    after = World(machines=machines, worth=world.discipline.worth)
    after.now = world.now
    for each in world.gangs.values():
        after.engine.records.restore(each, after.now)
    return after


def test_a_promise_outlives_its_coordinator() -> None:
    """`late` overruns in the place that was promised at 10, and there is another at 50."""
    world = World(machines=[*rack("a", 2), *rack("b", 2)])
    late = replace(gang(4, name="late"), exclude=frozenset({"a-t1", "b-t0", "b-t1"}))
    other = replace(gang(4, 4, name="other"), exclude=frozenset({"a-t0", "a-t1"}))
    world.act(Submitted(Order(late, runs_for=10.0)))
    world.act(Submitted(Order(other, runs_for=50.0)))
    world.submit(4, 4, name="big", locality=Locality(cliques=1))
    world.submit(4, name="behind", runs_for=11.0)
    serve(world)
    assert world.gangs["big"].promised == Promise(10.0, 10.0)
    world.now = 11.0
    world = restarted(world)
    world.submit(4, name="small", runs_for=38.0)
    serve(world)
    assert not runs(world, "small"), "it would have the other half of the rack that was promised at 10"
    world.now = 12.0
    world.act(ReleaseAsked("late"))
    serve(world)
    assert runs(world, "big")


def test_a_wait_for_a_clique_outlives_its_coordinator() -> None:
    world = World(machines=[*rack("a", 2), *rack("b", 2)])
    for name, rest in (("one", {"a-t1", "b-t0", "b-t1"}), ("two", {"a-t0", "a-t1", "b-t1"})):
        world.act(Submitted(Order(replace(gang(4, name=name), exclude=frozenset(rest)))))
    world.submit(4, 4, name="big", locality=replace(NEAR, patience=60.0))
    world.now = 40.0
    serve(world)
    world = restarted(world)
    serve(world)
    assert not runs(world, "big")
    world.now = 59.0
    serve(world)
    assert not runs(world, "big")
    world.now = 60.0
    serve(world)
    assert runs(world, "big"), "a minute, and not a minute from the restart"


def test_a_promise_whose_place_somebody_of_a_higher_priority_has_taken_is_made_anew() -> None:
    """It starts at once, so that the first is first again; else nobody could go before it for 100 seconds."""
    world = World(nodes=1)
    world.submit(4, name="all", runs_for=10.0)
    world.submit(4, name="first", runs_for=50.0)
    serve(world)
    assert world.gangs["first"].promised == Promise(10.0, 10.0)
    world.now = 10.0
    world.act(ReleaseAsked("all"))
    world.submit(2, name="urgent", runs_for=100.0, priority=1)
    world.submit(1, name="small", runs_for=60.0)
    serve(world)
    assert [name for name in world.gangs if runs(world, name)] == ["urgent", "small"]
    assert world.gangs["first"].promised == Promise(110.0, 110.0), "for a coordinator after this one, too"


def test_who_overtakes_takes_nothing_of_what_is_promised_and_the_promise_stays() -> None:
    """Also where the one that overtook runs on: it has started, but its turn did not come before."""
    world = World(nodes=1)
    world.submit(3, name="most", runs_for=10.0)
    world.submit(4, name="first", runs_for=50.0)
    world.submit(1, name="small", runs_for=8.0)
    serve(world)
    assert runs(world, "small")
    world.now = 11.0
    serve(world)
    assert world.gangs["first"].promised == Promise(10.0, 10.0)


# -- over time


@pytest.mark.parametrize("seed", range(6))
def test_whoever_is_first_starts_by_its_reservation_however_many_come(seed: int) -> None:
    """Everybody ends by its guess, gangs never stop coming, and those with patience start when it is over."""
    dice = random.Random(seed)
    world = World(machines=[*rack("a", 3), *rack("b", 2)], worth=Worth(speed=0.5))  # so that all end at whole seconds
    promised: dict[str, float] = {}
    overtaken = firsts = 0
    for step in range(400):
        world.now = float(step)
        for name in [n for n, g in world.gangs.items() if g.ends is not None and dice.random() < 0.2]:
            if dice.random() < 0.1:
                world.act(ReleaseAsked(name))  # sooner than it said
        for name in [n for n, g in world.gangs.items() if g.ends is not None and g.ends <= world.now + 1e-9]:
            world.act(ReleaseAsked(name))
        while len([*world.engine.records.team_order.turns()]) < 12:
            count = len(world.done)
            small = dice.random() < 0.8
            sizes = [4] * dice.randint(3, 5) if not small else [dice.randint(1, 4)]
            patience = dice.choice((0.0, 7.0))
            request = gang(*sizes, name=f"g{step}-{count}", locality=replace(NEAR, patience=patience))
            guess = float(dice.randint(5, 40)) if small else float(dice.randint(5, 20))
            world.act(Submitted(Order(request, runs_for=guess)))
        before = {name for name in world.gangs if runs(world, name)}
        serve(world)
        first = world.engine.records.first
        assert first is not None
        for name in world.gangs:
            if runs(world, name) and name in promised:
                firsts += 1
                assert world.now <= promised.pop(name), "it started later than it was promised"
        new = {name for name in world.gangs if runs(world, name)} - before
        overtaken += any(world.gangs[name].sequence > first.sequence for name in new)
        promise = world.engine.records.notes[first.id].reservation
        assert promise is not None, "everybody has said when it ends"
        promised[first.id] = min(promised.get(first.id, promise.at), promise.at)
    assert firsts > 10
    assert overtaken > 20


def test_patience_is_reserved_for_as_well() -> None:
    """Two racks of two trays, one taken in each for 100 s and 200 s: the gang could start at once, and has 50 s."""
    inventory = Inventory([*rack("a", 2), *rack("b", 2)])
    ends = []
    for count, (name, node) in enumerate((("one", "a-t0"), ("two", "b-t0"))):
        answer = plan(inventory.part([node]), gang(4, name=name))
        assert isinstance(answer, Allocation)
        inventory.hold(answer)
        ends.append((100.0 * (count + 1), name))

    def at(patience: float, waited: float | None, now: float = 0.0) -> list[float]:
        request = gang(4, 4, locality=replace(NEAR, patience=patience))
        asked = reservations(inventory, request, ends, now, waited, _placing(inventory, request))
        return [each.at for each in asked]

    assert at(50.0, None) == [0.0, 50.0]
    assert at(50.0, 20.0, now=20.0) == [50.0]
    assert at(150.0, 0.0) == [100.0], "a clique is free before its patience is over"
    assert at(0.0, None) == [0.0]
    since: float | None = None
    request = gang(4, 4, locality=replace(NEAR, patience=50.0))
    answer, since = in_turn(inventory, request, since, 0.0, _placing(inventory, request))
    assert not isinstance(answer, Allocation)
    assert isinstance(in_turn(inventory, request, since, 50.0, _placing(inventory, request))[0], Allocation)


def test_what_cannot_be_known_is_no_reservation() -> None:
    inventory = Inventory(rack("a", 2))
    for name in ("one", "two"):
        answer = plan(inventory, gang(4, name=name))
        assert isinstance(answer, Allocation)
        assert can_leave(answer)
        inventory.hold(answer)
    both = gang(4, 4, strategy=Strategy.STRICT_SPREAD)

    def asked(*ends: tuple[float, str]) -> tuple[Reservation, ...]:
        return reservations(inventory, both, ends, 0.0, None, _placing(inventory, both))

    assert asked() == asked((5.0, "one")) == asked((5.0, "two")) == ()
    assert [each.at for each in asked((5.0, "two"), (9.0, "one"))] == [9.0]
    assert [(each.at, each.after) for each in asked((ABOUT_TO, "two"), (ABOUT_TO, "one"))] == [(0.0, ("two", "one"))]


@pytest.mark.parametrize("seed", range(6))
def test_however_many_overrun_the_first_is_late_by_no_more_than_the_longest(seed: int) -> None:
    """Some end 3 s after what was guessed, gangs never stop coming, and the coordinator starts again now and then."""
    dice = random.Random(seed)
    world = World(machines=[*rack("a", 3), *rack("b", 2)], worth=Worth(speed=0.5))
    promised: dict[str, float] = {}
    late: dict[str, float] = {}
    overtaken = firsts = 0
    for step in range(300):
        world.now = float(step)
        ended = [
            n for n, g in world.gangs.items() if g.ends and g.ends + late.setdefault(n, dice.choice((0, 0, 3))) <= step
        ]
        for name in ended:
            world.act(ReleaseAsked(name))
        while len([*world.engine.records.team_order.turns()]) < 12:
            sizes = [4] * dice.randint(2, 5) if dice.random() < 0.3 else [dice.randint(1, 4)]
            locality = dice.choice((NEAR_NOW, replace(NEAR, patience=7.0), Locality(), Locality(cliques=2)))
            request = gang(*sizes, name=f"g{step}-{len(world.done)}", locality=locality)
            world.act(Submitted(Order(request, runs_for=float(dice.randint(3, 20)))))
        if dice.random() < 0.05:
            world = restarted(world)
        before = {name for name in world.gangs if runs(world, name)}
        serve(world)
        for name in list(promised):
            if runs(world, name):
                firsts += 1
                assert world.now <= promised.pop(name) + 3.0
        first = world.engine.records.first
        assert first is not None
        overtaken += sum(
            runs(world, n) and g.sequence > first.sequence and n not in before for n, g in world.gangs.items()
        )
        if (promise := first.promised) is not None:
            promised[first.id] = min(promised.get(first.id, promise.by), promise.by)
    assert firsts > 10
    assert overtaken > 20
