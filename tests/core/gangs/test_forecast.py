"""When gangs that wait should start: by hand, and as it then is if all guesses hold."""

from __future__ import annotations

import random

import pytest

from ray_dra.core.gangs.backfill import OFF
from ray_dra.core.gangs.events import Moment, NextTurn, ReleaseAsked
from ray_dra.core.gangs.forecast import MOST_AHEAD, MOST_NAMED, Expected
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.shortfall import Unsatisfiable
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
    for now in range(400):
        world.now = float(now)
        for name in [each for each, has in world.gangs.items() if has.ends is not None and has.ends <= now]:
            world.act(ReleaseAsked(name))
        serve(world)
        for name in [each for each in told if each in world.gangs and not world.gangs[each].waits]:
            assert told.pop(name) == now, name
    assert not told
