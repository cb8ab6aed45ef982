"""Who goes when: turns, the limit on a program's gangs, and a no that is not asked again too soon."""

from __future__ import annotations

import pytest

from ray_dra.core.gangs import admission
from ray_dra.core.gangs.admission import REST_FACTOR
from ray_dra.core.gangs.events import NextTurn, ReleaseAsked, Submitted, TurnTook
from ray_dra.core.gangs.order import Order
from ray_dra.core.model.shortfall import ShortfallKind
from ray_dra.errors import UnsatisfiableError
from tests.core.gangs.world import World, plans_of
from tests.core.machines import gang


def ask(world: World, *sizes: int, name: str, priority: int = 0, owner: str = "", wait: bool = True) -> bool:
    """Submit; whether the gang holds devices now."""
    world.act(Submitted(Order(gang(*sizes, name=name, priority=priority), owner=owner, wait=wait)))
    return name in world.gangs and world.gangs[name].allocation is not None


def test_whose_turn_it_is_starts_and_who_comes_after_a_gang_that_waits_waits_too() -> None:
    world = World()  # two trays of four
    assert ask(world, 4, name="first")
    assert not ask(world, 4, 4, name="large"), "no room"
    assert not ask(world, 1, name="small"), "there is room, but others wait before it"
    assert [s.kind for s in world.engine.records.notes["small"].refused] == [ShortfallKind.QUEUE]
    assert not ask(world, 1, name="less", priority=-1)
    assert ask(world, 1, name="urgent", priority=1), "it waits for nobody"
    assert world.engine.records.first is world.gangs["large"]
    assert not ask(world, 4, name="urgent and large", priority=1)
    assert world.engine.records.first is world.gangs["urgent and large"]
    assert not ask(world, 1, name="as urgent", priority=1)
    world.act(ReleaseAsked("first"))
    assert [world.engine.records.ahead(world.gangs[name]) for name in ("urgent and large", "as urgent", "large")] == [
        0,
        1,
        2,
    ]


def test_a_program_has_so_many_gangs_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_WAITING", 2)
    world = World()
    assert ask(world, 4, 4, name="all", owner="a")
    for name in ("one", "two"):
        assert not ask(world, 1, name=name, owner="a")
    with pytest.raises(UnsatisfiableError) as caught:
        ask(world, 1, name="three", owner="a")
    (short,) = caught.value.shortfalls
    assert (short.kind, short.wanted, short.available) == (ShortfallKind.QUEUE, 3, 2)
    assert not ask(world, 1, name="of another", owner="b")
    world.act(ReleaseAsked("one"))
    assert not ask(world, 1, name="three", owner="a")
    assert "three" in world.gangs


def test_a_no_that_took_long_is_not_asked_again_soon() -> None:
    """While nothing changes, not at all; when something has, once it costs a small share of the time."""
    world = World()
    ask(world, 4, 4, name="all")
    ask(world, 4, name="waits")
    asked = plans_of(world.engine)
    assert world.act(NextTurn()) == []
    world.act(TurnTook(2.0))
    assert len(asked) == 1
    assert world.act(NextTurn()) == []
    assert len(asked) == 1, "nothing has changed"
    for seconds, times in ((1.0, 1), (2 * REST_FACTOR - 1.5, 1), (0.5, 2)):
        world.now += seconds
        world.inventory.changes += 1
        world.act(NextTurn())
        assert len(asked) == times
    world.act(TurnTook(0.0))
    world.now += 0.1
    world.act(ReleaseAsked("all"))
    assert world.act(NextTurn()), "there is room now"
    assert world.gangs["waits"].allocation is not None
