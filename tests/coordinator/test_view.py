"""What the map is told: whoever knows a part and asks for the rest knows all, however much has changed in between."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.coordinator import view as views
from ray_dra.coordinator.view import ChangeLog, Views
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.order import Order
from ray_dra.errors import InvalidRequest
from ray_dra.translate.map.cells import ASIDE, NodeRow, node_row
from ray_dra.translate.map.page import PageState
from ray_dra.translate.map.view import NOTHING_SEEN, Cursor, View, all_since, of_snapshot
from tests.coordinator.fault_worlds import World as FaultWorld
from tests.coordinator.world import World
from tests.core.machines import gang, node
from tests.translate.map.worlds import STEPS, Step, start


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"), st.booleans()), max_size=60), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_a_log_tells_each_change_once_it_is_asked(steps: list[tuple[bool, str, bool]], most: int) -> None:
    """Two who ask, one seldom; what they know is what is there."""
    log, there, version = ChangeLog(), dict[str, int](), 0
    known: list[tuple[int, int, dict[str, int]]] = [(0, 0, {}), (0, 0, {})]

    def ask(who: int) -> None:
        more = True
        while more:
            era, at, has = known[who]
            if era != log.era:
                at, has = 0, {}
            told = log.since(at, most)
            for key in told.keys:
                has.pop(key, None)
                if key in there:
                    has[key] = there[key]
            known[who] = log.era, told.to, has
            assert len(told.keys) <= most
            more = told.more

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "MOST_GONE", 2)
        for comes, key, asks in steps:
            version += 1
            if comes:
                there[key] = version
            else:
                there.pop(key, None)
            log.note(key, gone=not comes)
            if asks:
                ask(0)
        ask(0)
        ask(1)
    assert known[0][2] == known[1][2] == there
    assert log.since(known[0][1], 3).keys == []


def told(source: Views, page: PageState, cursor: Cursor) -> Cursor:
    """All that there is to be told."""
    view = all_since(source.since, cursor)
    page.take(view)
    return view.to


@given(st.lists(st.tuples(STEPS, st.booleans()), max_size=10))
@settings(max_examples=50, deadline=None)
def test_what_is_told_bit_by_bit_is_the_inventory(steps: list[tuple[Step, bool]]) -> None:
    inventory, page = start(), PageState()
    world = World()
    source = Views("e", inventory, world.coordinator.records, world.coordinator._statuses, dict, world.clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "MOST_NODES", 3)
        patch.setattr(views, "MOST_GONE", 2)
        cursor = told(source, page, NOTHING_SEEN)
        for step, asks in steps:
            step(inventory)
            if asks:
                cursor = told(source, page, cursor)
        told(source, page, cursor)
    fresh = PageState()
    fresh.take(of_snapshot(inventory)._replace(gangs={}))
    for table in ("nodes", "racks", "figures", "cliques"):
        assert page.state[table] == fresh.state[table]


@given(st.lists(st.tuples(STEPS, st.booleans()), min_size=4, max_size=14))
@settings(max_examples=100, deadline=None)
def test_what_changes_between_two_bits_is_told_too(steps: list[tuple[Step, bool]]) -> None:
    """A bit is told while more nodes have changed than are noted for one answer; then it may all be as before."""
    inventory, known, cursor = start(), dict[str, NodeRow](), NOTHING_SEEN
    world = World()
    source = Views("e", inventory, world.coordinator.records, world.coordinator._statuses, dict, world.clock)

    def bit() -> View:
        nonlocal cursor
        view = source.since(cursor)
        if view.again:
            known.clear()
        known.update({row.name: row for row in view.nodes})
        for name in view.gone:
            known.pop(name, None)
        cursor = view.to
        return view

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "MOST_NODES", 2)
        patch.setattr(views, "MOST_GONE", 2)
        for step, asks in steps:
            step(inventory)
            if asks:
                bit()
        while bit().more:
            pass
    assert known == {name: node_row(inventory, state) for name, state in inventory.node_states.items()}


def test_a_node_told_before_its_change_was_noted_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that change, the one noted last is told first to somebody who begins anew; then it is as before."""
    inventory, world = Inventory([node("a", 1), node("b", 1), node("c", 1)]), World()
    source = Views("e", inventory, world.coordinator.records, world.coordinator._statuses, dict, world.clock)
    noted = [row.name for row in all_since(source.since, NOTHING_SEEN).nodes]
    monkeypatch.setattr(views, "MOST_NODES", 1)
    first = source.since(NOTHING_SEEN)
    assert [row.name for row in first.nodes] == noted[:1]
    for name in noted[1:]:
        inventory.set_others(name, 1, {})
    second = source.since(first.to)
    assert [(row.name, row.cells[0].state) for row in second.nodes] == [(noted[1], "others")]
    for name in noted[1:]:
        inventory.set_others(name, 0, {})
    third = all_since(source.since, second.to)
    told = {row.name: row.cells[0].state for view in (first, second, third) for row in view.nodes}
    assert told == dict.fromkeys("abc", "free")


def watching() -> tuple[World, Views, PageState]:
    """Two cliques of two nodes of four GPUs."""
    world = World()
    return world, world.coordinator.views("e", lambda: {"problems": []}), PageState()


def test_gangs_are_told_as_they_come_run_and_go() -> None:
    world, source, page = watching()
    cursor = told(source, page, NOTHING_SEEN)
    assert len(page.state["nodes"]) == 4
    assert page.state["gangs"] == {}
    first = world.coordinator.submit(Order(gang(4, 4, 4, 4, name="big"), name="train"))
    world.coordinator.submit(Order(gang(4, name="small"), name="eval"))
    cursor = told(source, page, cursor)
    assert page.state["gangs"]["big"]["name"] == "train"
    assert page.state["queue"] == ["small"]
    assert page.state["figures"]["gpus"]["held"] == 16
    world.place(first.gang)
    cursor = told(source, page, cursor)
    assert page.state["gangs"]["big"]["phase"] == "ready"
    world.coordinator.release("big")
    world.pass_time(2)
    cursor = told(source, page, cursor)
    assert "big" not in page.state["gangs"]
    assert page.state["gangs"]["small"]["phase"] != "queued"
    assert source.since(cursor)._replace(facts={}) == View(cursor, nodes=[], gone=[], gangs={}, ended=[]), (
        "nothing is told twice"
    )


def test_another_coordinator_is_told_from_the_start() -> None:
    world, source, page = watching()
    world.coordinator.submit(Order(gang(4, name="old")))
    cursor = told(source, page, NOTHING_SEEN)
    other, after, _ = watching()
    other.coordinator.submit(Order(gang(4, name="new")))
    after._epoch = "f"
    assert after.since(cursor).again
    told(after, page, cursor)
    assert list(page.state["gangs"]) == ["new"]


def test_nothing_is_noted_down_while_nobody_asks() -> None:
    world = World()
    world.submit(gang(4))
    assert world.coordinator.inventory.touched is None
    assert world.coordinator.records.touched is None


def test_a_plan_that_was_tried_is_no_change() -> None:
    world, source, page = watching()
    world.place(world.submit(gang(4, 4, name="a")).gang)
    cursor = told(source, page, NOTHING_SEEN)
    world.coordinator.plan(gang(4, 4, 4, 4))  # tries what would be without the gang
    assert world.coordinator.inventory.touched
    assert source.since(cursor).nodes == []


def test_what_no_record_says_is_told_within_a_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers are at, or others' work in the way."""
    world, source, page = watching()
    for number in range(7):
        world.submit(gang(1, name=f"g{number}"))
    cursor = told(source, page, NOTHING_SEEN)
    statuses = world.coordinator._statuses
    usual = statuses.of
    monkeypatch.setattr(statuses, "of", lambda gang: replace(usual(gang), said="1 of 2 pods"))
    for _ in range(3):
        cursor = told(source, page, cursor)
    assert {card["reason"] for card in page.state["gangs"].values()} == {"1 of 2 pods"}


def test_facts_are_looked_at_now_and_then() -> None:
    world = World()
    asked = itertools.count(1)
    source = world.coordinator.views("e", lambda: {"looks": next(asked)})
    assert source.since(NOTHING_SEEN).facts == source.since(NOTHING_SEEN).facts == {"looks": 1}
    world.pass_time(views.FACTS_SECONDS + 1)
    assert source.since(NOTHING_SEEN).facts == {"looks": 2}


def test_what_is_no_cursor_is_refused() -> None:
    _, source, _ = watching()
    for odd in (None, "e", ("e", 1, 1), Cursor(1), Cursor("e", -1), Cursor("e", 1, None)):  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest):
            source.since(odd)  # type: ignore[arg-type]


def test_spares_of_a_gangs_own_are_told_as_its() -> None:
    """By the name that the page reads (`translate/map/cells.py`, ASIDE)."""
    world = FaultWorld(nodes=6)
    world.with_gang(spares=1)
    (spare,) = world.status.spares
    page = PageState()
    told(world.coordinator.views("e", dict), page, NOTHING_SEEN)
    (holder,) = {cell["gang"] for cell in page.state["nodes"][spare]["gpus"]}
    assert holder.startswith(ASIDE)
    assert holder.partition("/")[2] in page.state["gangs"]
    assert holder not in page.state["gangs"]
