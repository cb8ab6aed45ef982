"""When gangs that wait should start: by hand, and as it then is if all guesses hold."""

from __future__ import annotations

import random

import pytest

from ray_dra.core.gangs.backfill import OFF
from ray_dra.core.gangs.events import Moment, NextTurn, QueuesDeclared, ReleaseAsked
from ray_dra.core.gangs.forecast import MOST_AHEAD, MOST_NAMED, Expected, Unreckoned
from ray_dra.core.gangs.preemption import NOBODY, Preemption
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from tests.core.gangs.test_borrowing import GRACE, ask, teams
from tests.core.gangs.test_team_queues import queues
from tests.core.gangs.world import World
from tests.core.machines import gang, picture, rack


def expected(world: World, name: str) -> Expected:
    before, changes = picture(world.inventory), world.inventory.changes
    found = world.engine.expecting.of(world.gangs[name], Moment(world.now, world.now))
    assert picture(world.inventory) == before
    assert world.inventory.changes == changes
    world.engine.validate()
    return found


def serve(world: World) -> None:
    while world.act(NextTurn()):
        pass


def starts_as_told(world: World, told: dict[str, float]) -> None:
    """Each of these starts at the second that was told, where each gang ends when it was to."""
    for now in range(400):
        world.now = float(now)
        for name in [each for each, has in world.gangs.items() if has.ends is not None and has.ends <= now]:
            world.act(ReleaseAsked(name))
        serve(world)
        for name in [each for each in told if each in world.gangs and not world.gangs[each].waits]:
            assert told.pop(name) == now, name
    assert not told


def test_each_starts_once_those_before_it_have_ended() -> None:
    """Two trays. `one` has one for 100 s; `both` wants two, then `next` one, and `last` both again."""
    world = World(nodes=2)
    world.submit(4, name="one", runs_for=100.0)
    world.submit(4, 4, name="both", runs_for=50.0)
    world.submit(4, name="next", runs_for=20.0)
    world.submit(4, 4, name="last")
    found = {name: expected(world, name) for name in ("both", "next", "last")}
    assert {name: (each.ahead, each.starts) for name, each in found.items()} == {
        "both": (0, 100.0),
        "next": (1, 150.0),
        "last": (2, 170.0),
    }
    assert found["both"].after == ("one",)
    assert found["last"].first == (("both", 8), ("next", 4))
    assert found["last"].after == ("next",)
    assert found["last"].guessed is False
    assert isinstance(found["last"].now, Unsatisfiable)
    assert found["last"].now.counterfactual is not None
    comes = world.engine.expecting.of_request(gang(4, name="one"), 10.0, Moment(0.0, 0.0))
    assert (comes.ahead, comes.starts, comes.silent) == (3, None, ("last",)), "nobody knows how long `last` runs"
    assert isinstance(comes.now, Allocation)
    urgent = world.engine.expecting.of_request(gang(4, priority=1), 10.0, Moment(0.0, 0.0))
    assert (urgent.ahead, urgent.starts) == (0, 0.0)


def test_nobody_can_tell_of_those_far_behind() -> None:
    world = World(nodes=1)
    world.submit(4, name="runs", runs_for=10.0)
    for number in range(MOST_AHEAD + 2):
        world.submit(4, name=f"g{number}", runs_for=10.0)
    assert expected(world, f"g{MOST_AHEAD}").starts == 10.0 * (MOST_AHEAD + 1)
    far = expected(world, f"g{MOST_AHEAD + 1}")
    assert (far.ahead, far.starts) == (MOST_AHEAD + 1, None)
    assert len(far.first) == MOST_NAMED


@pytest.mark.parametrize("seed", range(8))
def test_it_is_then_as_was_told_if_all_guesses_hold_and_nobody_overtakes(seed: int) -> None:
    dice = random.Random(seed)
    world = World(machines=[*rack("a", 2), *rack("b", 2)], backfill=OFF, worth=None)
    localities = (None, Locality(cliques=1), Locality(segment=1), Locality(cliques=1, required=False, patience=3.0))
    told: dict[str, float] = {}
    for number in range(14):
        sizes = [dice.randint(1, 4)] * dice.randint(1, 2)
        guess = float(dice.randint(1, 20))
        world.submit(*sizes, name=f"g{number}", runs_for=guess, locality=dice.choice(localities))
    for name in [each for each in world.gangs if world.gangs[each].waits]:
        found = expected(world, name)
        assert found.starts is not None
        told[name] = found.starts
    assert len(told) > 3
    starts_as_told(world, told)


def test_a_gang_over_its_teams_limit_starts_once_its_team_has_given_back_enough() -> None:
    """Four trays, team a at most two of them: `more` waits for `short`, though there is room, and `all` for both."""
    world = World(nodes=4)
    world.act(QueuesDeclared(queues(a={"limit": 8}, b={})))
    world.submit(4, name="long", team="a", runs_for=100.0)
    world.submit(4, name="short", team="a", runs_for=30.0)
    world.submit(4, name="more", team="a", runs_for=50.0)
    world.submit(4, 4, name="all", team="a", runs_for=10.0)
    more, both = expected(world, "more"), expected(world, "all")
    assert (more.ahead, more.starts, more.silent) == (0, 30.0, ())
    assert more.limit is not None
    assert more.limit.kind is ShortfallKind.LIMIT
    assert isinstance(more.now, Allocation), "there is room, and it may not have it"
    assert (both.ahead, both.starts) == (1, 100.0)
    now = Moment(0.0, 0.0)
    comes = world.engine.expecting.of_request(gang(4, name="one"), 10.0, now, "a")
    assert (comes.ahead, comes.starts, comes.first) == (2, 110.0, (("more", 4), ("all", 8)))
    elsewhere = world.engine.expecting.of_request(gang(4, name="one"), 10.0, now, "b")
    assert (elsewhere.ahead, elsewhere.starts, elsewhere.limit) == (0, 0.0, None)
    world.submit(4, name="silent", team="b")
    world.act(QueuesDeclared(queues(a={"limit": 8}, b={"limit": 4})))
    assert world.engine.expecting.of_request(gang(4, name="one"), 10.0, now, "b").starts is None
    assert expected(world, "more").starts == 30.0, "nothing of its own team is silent"


@pytest.mark.parametrize("seed", range(8))
def test_among_teams_it_is_then_as_was_told(seed: int) -> None:
    """Their turns change as gangs end, and none is over its limit."""
    dice = random.Random(seed)
    world = World(machines=[*rack("a", 2), *rack("b", 2)], backfill=OFF, worth=None, preemption=NOBODY)
    world.act(QueuesDeclared(queues(a={"guarantee": 4}, b={"weight": 2.0, "limit": 8}, c={"guarantee": 2, "limit": 8})))
    localities, told = (None, Locality(cliques=1), Locality(segment=1)), dict[str, float]()
    for number in range(16):
        sizes, guess = [dice.randint(1, 4)] * dice.randint(1, 2), float(dice.randint(1, 20))
        team, priority = dice.choice("abc"), dice.choice((0, 0, 1))
        locality = dice.choice(localities)
        world.submit(*sizes, name=f"g{number}", runs_for=guess, locality=locality, team=team, priority=priority)
    for name in [each for each in world.gangs if world.gangs[each].waits]:
        found = expected(world, name)
        assert found.starts is not None
        assert found.unreckoned == ()
        told[name] = found.starts
    assert len(told) > 3
    starts_as_told(world, told)


def test_one_that_takes_others_devices_has_them_once_their_notice_is_over() -> None:
    """Two trays, of which `batch` has one for long and may be preempted after a minute, `safe` the other."""
    world = World(nodes=2, preemption=Preemption(most=1, least_run=60.0))
    world.submit(4, name="batch", runs_for=1_000.0, preemptible=True, on_fault=on_fault("degrade", 5.0))
    world.submit(4, name="safe", runs_for=400.0)
    urgent = gang(4, priority=1)

    def comes(at: float) -> Expected:
        world.now = at
        return world.engine.expecting.of_request(urgent, 10.0, Moment(at, at))

    early = comes(10.0)
    assert (early.starts, early.takes, early.unreckoned) == (400.0, (), (Unreckoned.PREEMPTION,)), "it is not certain"
    later = comes(60.0)
    assert (later.starts, later.takes, later.after) == (65.0, ("batch",), ())
    assert comes(398.0).takes == (), "`safe` has ended before the notice would be over"
    world.now = 60.0
    world.submit(4, name="equal", runs_for=10.0)
    assert expected(world, "equal").takes == ()
    serve(world)
    world.submit(4, name="urgent", priority=1, runs_for=10.0)
    serve(world)
    assert expected(world, "urgent").starts == 65.0
    assert world.gangs["batch"].eviction is not None


def test_what_a_team_is_guaranteed_and_others_have_borrowed_comes_back_in_time() -> None:
    world = teams(nodes=2, a={}, b={"guarantee": 4})
    ask(world, 4, 4, name="borrows", team="a")
    found = world.engine.expecting.of_request(gang(4), None, Moment(world.now, world.now), "b")
    assert (found.starts, found.takes) == (world.now + GRACE, ("borrows",))
    found = world.engine.expecting.of_request(gang(4, 4), None, Moment(world.now, world.now), "b")
    assert (found.starts, found.takes, found.silent) == (None, (), ("borrows",)), "that is beyond its guarantee"
