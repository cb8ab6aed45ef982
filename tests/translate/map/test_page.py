"""The page's state: equal to one made afresh, whatever changes led to it; and the changes alone lead there."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.figures import figures_of
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.node import Node
from ray_dra.translate.map.gangs import Card
from ray_dra.translate.map.page import STACKED, PageState, State, applied, merged
from ray_dra.translate.map.view import Cursor, View, of_snapshot
from tests.core.machines import gang, held, node, rack
from tests.translate.map.worlds import STEPS, Step, start

LEVELS = ("example.com/leaf", "example.com/spine")


@given(st.lists(STEPS, max_size=10), st.booleans())
@settings(max_examples=60, deadline=None)
def test_changes_lead_to_what_is_there(steps: list[Step], together: bool) -> None:
    inventory, page = start(), PageState()
    browser: State = {}
    browser = applied(browser, page.state)
    waiting: State = {}
    for step in [lambda _: None, *steps]:
        step(inventory)
        before = json.dumps(page.state)
        old = page.state
        waiting = merged(waiting, page.take(of_snapshot(inventory)))
        assert json.dumps(old) == before, "the state before stays as it was"
        if not together:
            browser, waiting = applied(browser, waiting), {}
    browser = applied(browser, waiting)
    fresh = PageState()
    fresh.take(of_snapshot(inventory))
    assert page.state == fresh.state == browser
    assert json.loads(json.dumps(browser)) == browser, "JSON has nothing that it is not told"
    figures, ours = figures_of(inventory), page.state["figures"]
    assert (ours["gpus"], ours["cliques"]) == (figures.gpus, figures.cliques)
    assert (ours["largest"], ours["fragmentation"]) == (figures.largest, figures.fragmentation)
    names = [name for each in page.state["racks"] for name in each["nodes"]]
    assert sorted(names) == sorted(inventory.node_states), "each node stands in one rack"
    assert page.take(of_snapshot(inventory)) == {}, "nothing has changed"


def test_the_state_of_a_small_cluster() -> None:
    inventory = Inventory([*rack("r", 2), node("box", 2, box=True, sick=[1]), node("pcie", 1)])
    held(inventory, gang(4, name="train"))
    page = PageState()
    page.take(of_snapshot(inventory))
    product = "NVIDIA H100 80GB HBM3"
    taken = {"state": "held", "gang": "train"}
    assert page.state == {
        "nodes": {
            "box": {"gpus": ["free", {"state": "unhealthy", "sick": "tainted"}], "product": product},
            "pcie": {"gpus": [{"state": "free", "loose": True}], "product": product},
            "r-t0": {"gpus": [taken] * 4, "product": product},
            "r-t1": {"gpus": ["free"] * 4, "product": product},
        },
        "gangs": {"train": {"phase": "held", "bundles": 1, "gpus": 4, "nodes": 1, "cliques": ["r"]}},
        "racks": [
            {"name": "r", "kind": "rack", "clique": "r", "nodes": ["r-t0", "r-t1"]},
            {"name": "boxes", "kind": "boxes", "clique": "", "nodes": ["box"]},
            {"name": "in no clique", "kind": "loose", "clique": "", "nodes": ["pcie"]},
        ],
        "queue": [],
        "cliques": {"box.box": "box", "r": "r"},
        "figures": {
            "gpus": dict.fromkeys(("shared", "others", "left_out", "kept"), 0) | {"free": 6, "held": 4, "unhealthy": 1},
            "nodes": 4,
            "cliques": {"free": 1, "partly": 1, "full": 0},
            "largest": 4,
            "fragmentation": 4 / 6,
        },
    }


def test_boxes_stand_in_columns() -> None:
    page = PageState()
    page.take(of_snapshot(Inventory([node(f"b{at}", 1, box=True) for at in range(STACKED + 2)])))
    first, second = page.state["racks"]
    assert (first["name"], len(first["nodes"]), first["nodes"][:2]) == ("boxes 1", STACKED, ["b0", "b1"])
    assert (second["name"], second["nodes"]) == ("boxes 2", [f"b{STACKED}", f"b{STACKED + 1}"])


def test_the_queue_is_in_its_order_and_facts_are_told_once() -> None:
    page = PageState()
    cards: dict[str, Card] = {
        "late": {"phase": "queued", "ahead": 1},
        "first": {"phase": "queued"},
        "paid": {"phase": "quota"},
        "runs": {"phase": "ready"},
    }
    change = page.take(View(Cursor("e", 0, 4), again=True, gangs=cards, facts={"problems": ["watch is old"]}))
    assert change["queue"] == page.state["queue"] == ["first", "late", "paid"]
    assert page.take(View(Cursor("e", 0, 5), gangs=cards, facts={"problems": ["watch is old"]})) == {}
    change = page.take(View(Cursor("e", 0, 6), ended=["first", "never"]))
    assert change == {"gangs": {"first": None}, "queue": ["late", "paid"]}
    assert page.say("alive", False) == {"alive": False}
    assert page.say("alive", False) == {}


def below(rows: list[Node], *domains: str) -> list[Node]:
    """Nodes with their domain of each level, the lowest first."""
    return [replace(each, labels={**each.labels, **dict(zip(LEVELS, domains, strict=False))}) for each in rows]


def test_racks_stand_by_their_domains_and_say_them() -> None:
    inventory = Inventory(
        [
            *below(rack("c", 2), "l10", "s1"),
            *below(rack("b", 2), "l2", "s2"),
            *below(rack("a", 2), "l2", "s1"),
            *below(rack("d", 2)),
            *below(rack("e", 2), "l2", "s1"),
            *below([node("box1", 2, box=True), node("box2", 2, box=True)], "l2", "s1"),
            *below([node("box3", 2, box=True)], "l10", "s1"),
        ],
        level_labels=LEVELS,
    )
    page = PageState()
    page.take(of_snapshot(inventory))
    assert page.state["levels"] == list(LEVELS)
    assert [(each["name"], each.get("above")) for each in page.state["racks"]] == [
        ("a", ["l2", "s1"]),
        ("e", ["l2", "s1"]),
        ("c", ["l10", "s1"]),
        ("b", ["l2", "s2"]),
        ("d", None),
        ("boxes 1", ["l2", "s1"]),
        ("boxes 2", ["l10", "s1"]),
    ]
    (other,) = below([node("box1", 2, box=True)], "l10", "s1")
    inventory.put_node(other)
    change = page.take(of_snapshot(inventory))
    assert [each["nodes"] for each in change["racks"][-2:]] == [["box2"], ["box1", "box3"]], "it has moved"


def test_a_rack_over_two_domains_of_a_level_is_in_none_of_it() -> None:
    first, second = rack("r", 2)
    page = PageState()
    page.take(of_snapshot(Inventory([*below([first], "l1", "s1"), *below([second], "l2", "s1")], level_labels=LEVELS)))
    assert page.state["racks"][0]["above"] == [None, "s1"]
