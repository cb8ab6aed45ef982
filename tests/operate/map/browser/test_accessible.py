"""For a keyboard, a screen reader, the dark scheme: axe finds nothing, and Tab leads everywhere and out again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.machines import gang
from tests.operate.map.browser.live import Live, until

TABS = ("gangs", "queue", "whatif", "troubles", "table")
FOCUS = """() => {
  const at = document.activeElement, shown = at.id === "view" ? document.getElementById("frame") : at;
  const style = getComputedStyle(shown), seen = style.outlineStyle !== "none" && style.outlineWidth !== "0px";
  return at === document.body ? null : [at.id || at.name || at.textContent.trim(), seen];
}"""


def test_axe_finds_nothing(page: Any, source: Live) -> None:
    """All its rules, of which some are only good practice, on every tab; contrast of text among them."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    source.hold(gang(4, 4, name="train"))
    until(lambda: page.locator("#gangs .link").count() == 1)
    page.locator("#gangs .link").click()
    until(lambda: page.locator("#gang tbody tr").count() == 2)
    page.locator("#tab-whatif").click()
    page.locator("#whatif [type=submit]").click()
    until(lambda: page.locator("#answer pre").count() == 1)
    grounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for tab in TABS:
            page.locator(f"#tab-{tab}").click()
            found = axe.run(page)
            assert found.response["passes"], "axe has looked"
            assert found.violations_count == 0, f"{scheme}, {tab}: {found.generate_report()}"
    assert len(grounds) == 2


def test_tab_leads_to_all_that_can_be_used_and_out_again(page: Any, source: Live) -> None:
    """What has the focus is seen, too."""
    source.hold(gang(4, name="train"))
    until(lambda: page.locator("#gangs .link").count() == 1)
    page.evaluate("document.activeElement.blur()")
    order: list[str] = []
    while len(order) < 30:
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUS)
        if at is None or at[0] in order:
            break
        assert at[1], f"the focus is not seen on {at[0]}"
        order.append(at[0])
    assert order == ["find", "smaller", "fit", "larger", "view", "tab-gangs", "panel-gangs", "train"]


def test_a_gang_is_opened_asked_about_and_closed_by_keys_alone(page: Any, source: Live) -> None:
    source.hold(gang(4, name="train"))
    until(lambda: page.locator("#gangs .link").count() == 1)
    page.locator("#gangs .link").focus()
    page.keyboard.press("Enter")
    until(lambda: page.locator("#gang tbody tr").count() == 1)
    assert page.evaluate("document.activeElement.closest('#gang') !== null"), "the focus goes along"
    source.hold(gang(2, name="eval"))
    until(lambda: page.locator("#gangs .link").count() == 2)
    assert page.evaluate("document.activeElement.textContent") == "Close", "lists that change leave it where it is"
    page.keyboard.press("Enter")
    until(lambda: not page.locator("#gang").is_visible())
    assert page.evaluate("document.activeElement.textContent") == "train", "and back to where it came from"
    page.locator("#tab-gangs").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    page.locator("[name=bundles]").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    until(lambda: "It fits" in page.locator("#answer").inner_text())
