"""Levels above cliques, and others' IMEX domains: drawn, and said in words."""

from __future__ import annotations

from typing import Any

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.imex import IMEX_LIMITS
from tests.core.machines import gang, rack
from tests.operate.map.browser.live import Live, until
from tests.operate.map.levels import LEVELS, leafed

BRACKETS = """() => window.rayDraMap.current().layout.brackets.map((each) => [each.level, each.text])"""
PLACED = """() => {
  // Each bracket stands above the racks of its domain, and above no other.
  const {blocks, brackets} = window.rayDraMap.current().layout;
  return brackets.every(({level, name, x, right, y, high}) => blocks.every((block) => {
    const under = block.y >= y + high && block.y < y + 4 * high + 20 && block.x >= x && block.x < right;
    return !under || block.rack.above[level] === name;
  }));
}"""


def test_racks_stand_below_their_leaf_and_spine(page: Any, source: Live) -> None:
    source.inventory = Inventory(
        [
            *leafed("c", 2, "l3", "s2"),
            *leafed("a", 2, "l1", "s1"),
            *leafed("b", 2, "l1", "s1"),
            *leafed("e", 2, "leaf-2", "s1"),
            *rack("d", 2),
        ],
        IMEX_LIMITS,
        LEVELS,
    )
    until(lambda: len(page.evaluate(BRACKETS)) == 5)
    assert sorted(page.evaluate(BRACKETS)) == [
        [0, "leaf l1"],
        [0, "leaf l3"],
        [0, "leaf-2"],
        [1, "spine s1"],
        [1, "spine s2"],
    ]
    assert page.evaluate(PLACED)
    assert page.evaluate("window.rayDraMap.current().layout.blocks.map((each) => each.rack.name)") == list("abecd")
    for _ in range(4):  # in several lines, and where there is no room for words
        page.locator("#larger").click()
        assert page.evaluate(PLACED)
    page.evaluate("window.rayDraMap.zoom(-30)")
    assert page.evaluate(PLACED)
    page.locator("#tab-table").click()
    until(lambda: page.locator("#rack-table tbody th").count() == 5)
    assert page.locator("#rack-table tbody th").first.inner_text().split("\n\n") == ["a", "leaf l1, spine s1"]


def test_others_domains_are_called_after_who_is_in_them(page: Any, source: Live) -> None:
    source.inventory = Inventory(rack("r", 4), IMEX_LIMITS)
    source.inventory.set_others_domains(frozenset(["r-t0", "r-t1", "r-t2"]), {"r-t0": "b/llama-0", "r-t1": "b/llama-0"})
    source.hold(gang(4, name="train"))
    until(
        lambda: page.evaluate("Object.values(window.rayDraMap.current().state.nodes).some((each) => each.imex_member)")
    )
    page.locator("#view").focus()
    said = []
    for _ in range(3):
        page.keyboard.press("ArrowDown")
        said.append(page.locator("#said").inner_text())
    assert ["the IMEX domain of b/llama-0" in each for each in said] == [True, True, False]
    assert "in the IMEX domain of others" in said[2]
