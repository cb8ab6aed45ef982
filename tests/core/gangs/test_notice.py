"""A gang's program is told once of what will end, and told again where that changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ray_dra.core.gangs.actions import Action, Note, TellNotice
from ray_dra.core.gangs.events import Committed, GangObserved, ReleaseAsked
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.notice import Ending, Notice, noticed
from ray_dra.core.gangs.phases import Phase
from tests.core.gangs.world import World
from tests.core.machines import group_id

UPGRADE, DELETED = Ending("it is upgraded", None, (0, 1)), Ending("it is deleted", 5.0, (0, 1))
PART = Ending("it is deleted", 5.0, (1,))


def ready() -> World:
    world = World(own_workers=True)
    world.submit(4, 4, name="g")
    world.act(Committed("g", group_id("group"), 0))
    return world


def see(world: World, ending: Ending | None, at: float) -> list[Action]:
    world.now = at
    return world.act(GangObserved("g", Observed("CREATED", placed_once=True, ending=ending)))


def told(actions: Sequence[Action]) -> list[Notice]:
    return [action.notice for action in actions if isinstance(action, TellNotice)]


def test_a_notice_is_told_once_and_again_where_it_changes() -> None:
    world = ready()
    see(world, None, 1.0)
    first = Notice(UPGRADE.reason, None, (0, 1), 2.0)
    assert told(see(world, UPGRADE, 2.0)) == [first]
    assert told(see(world, UPGRADE, 3.0)) == []
    assert world.gangs["g"].notice == first
    assert told(see(world, DELETED, 4.0)) == [Notice(DELETED.reason, 9.0, (0, 1), 4.0)]
    assert told(see(world, DELETED, 8.0)) == [], "its deadline stays, however long that is seen"
    assert told(see(world, PART, 8.5)) == [Notice(PART.reason, 13.5, (1,), 8.5)]
    gone = see(world, None, 9.0)
    assert told(gone) == []
    assert any(isinstance(action, Note) for action in gone)
    assert world.gangs["g"].notice is None
    assert [(change.to, change.why) for change in world.gangs["g"].history[-4:]] == [
        (Phase.READY, "notice: it is upgraded"),
        (Phase.READY, "notice: it is deleted"),
        (Phase.READY, "notice: it is deleted"),
        (Phase.READY, "the notice is taken back: it is deleted"),
    ]


def test_a_gang_that_is_given_back_is_told_nothing_more() -> None:
    """Its history ends with why it is; the record's end says that."""
    world = ready()
    world.busy.add("g")
    see(world, UPGRADE, 1.0)
    world.act(ReleaseAsked("g"))
    before = world.gangs["g"]
    assert before.releasing
    assert told(see(world, DELETED, 2.0)) == []
    assert world.gangs["g"].notice == before.notice
    assert world.gangs["g"].history == before.history


@pytest.mark.parametrize("before", [None, Notice("other", 3.0, (0, 1), 1.0), Notice(DELETED.reason, 3.0, (0,), 1.0)])
def test_what_is_new_has_its_own_time(before: Notice | None) -> None:
    assert noticed(before, DELETED, 10.0) == Notice(DELETED.reason, 15.0, (0, 1), 10.0)
    assert noticed(before, None, 10.0) is None
