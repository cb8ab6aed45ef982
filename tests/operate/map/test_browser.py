"""The page in a real browser: its cells are the cluster's, follow it, and nothing that a user named becomes HTML.

Needs Playwright and Debian's Chromium (docs/testbed.md); skipped where either is missing.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.errors import CoordinatorUnavailable
from ray_dra.operate.map.server import app_of, listen, server_of
from ray_dra.translate.map.gangs import ranks
from ray_dra.translate.map.page import PageState
from ray_dra.translate.map.view import Cursor, View, of_snapshot
from tests.core.machines import gang, held, node, rack

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: docs/testbed.md")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("there is no Chromium: docs/testbed.md", allow_module_level=True)

ODD = "<img src=x onerror=alert(1)>"
SEEN = """() => {
  // What is drawn: the colour of each cell beside its edge, by node.
  const {state, layout, gangs} = window.rayDraMap.current(), canvas = document.getElementById("racks");
  window.rayDraMap.drawNow();
  const found = {}, context = canvas.getContext("2d"), hex = (x) => x.toString(16).padStart(2, "0");
  for (const block of layout.blocks) block.rack.nodes.forEach((name, row) => {
    found[name] = state.nodes[name].gpus.map((raw, at) => {
      const x = block.left + at * block.step + 2, y = block.top + row * block.row + 2;
      const [r, g, b] = context.getImageData(x, y, 1, 1).data;
      return "#" + hex(r) + hex(g) + hex(b);
    });
  });
  const looks = Object.fromEntries(Object.keys(state.gangs).map((id) => [id, gangs.look(id).colour]));
  return {found, looks, state: JSON.stringify(state)};
}"""

DULL = """() => {
  // Texts that are hard to read on what is behind them.
  const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
  const linear = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (each) => {
    for (let at = each; at; at = at.parentElement) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const hasText = (each) => [...each.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  const wrong = [];
  for (const each of document.querySelectorAll("body *")) {
    if (!hasText(each) || !each.offsetParent) continue;
    const [most, least] = [light(rgb(getComputedStyle(each).color)), light(ground(each))].sort((x, y) => y - x);
    if ((most + 0.05) / (least + 0.05) < 4.5) wrong.push(each.textContent.slice(0, 40));
  }
  return wrong;
}"""
TIMES = """() => {
  const times = [];
  for (let at = 0; at < 30; at++) {
    const began = performance.now();
    window.rayDraMap.drawNow();
    times.push(performance.now() - began);
  }
  return times.sort((a, b) => a - b);
}"""


class Live:
    """A source that changes as a test has it."""

    about, live = "a test", True

    def __init__(self) -> None:
        self.inventory = Inventory([*rack("r", 3), node("box", 4, box=True, sick=[1])])
        self.silent = False
        self._one_at_a_time = threading.Lock()  # the server looks from its own threads

    def hold(self, request: GangRequest) -> None:
        with self._one_at_a_time:
            held(self.inventory, request)

    def release(self, gang: str) -> None:
        with self._one_at_a_time:
            self.inventory.release(gang)

    def look(self, cursor: Cursor) -> View:
        if self.silent:
            raise CoordinatorUnavailable("The coordinator did not answer.")
        with self._one_at_a_time:
            return of_snapshot(self.inventory)

    def gang(self, gang: str) -> dict[str, Any]:
        allocation = self.inventory.allocation(gang)
        assert allocation is not None
        return {"history": [], "waits": [], "shape": [], "times": [], **ranks(allocation)}

    def plan(self, request: GangRequest) -> Allocation | Unsatisfiable:
        return plan_and_explain(self.inventory, request)


class Served:
    def __init__(self, source: Live) -> None:
        self.socket = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        self._server = server_of(app_of(source, seconds=0.05))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def source() -> Live:
    return Live()


@pytest.fixture
def served(source: Live) -> Iterator[Served]:
    made = Served(source)
    yield made
    made.end()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    made = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="light")
    faults: list[str] = []
    made.on("pageerror", lambda error: faults.append(str(error)))
    made.on("dialog", lambda dialog: faults.append(dialog.message))
    made.goto(served.url)
    until(lambda: made.evaluate("!!window.rayDraMap && window.rayDraMap.current().layout.blocks.length > 0"))
    yield made
    assert faults == []
    made.close()


def until(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to be within 30 s")


def colours(page: Any, source: Live) -> None:
    """Each cell on the screen is as the inventory has it."""
    expected = PageState()
    expected.take(of_snapshot(source.inventory))
    seen: dict[str, Any] = page.evaluate(SEEN)
    looks = seen["looks"]
    assert set(looks) == set(source.inventory.gangs)
    assert set(seen["found"]) == set(expected.state["nodes"])
    for name, row in expected.state["nodes"].items():
        for at, (raw, colour) in enumerate(zip(row["gpus"], seen["found"][name], strict=True)):
            cell = {"state": raw} if isinstance(raw, str) else raw
            wanted = looks[cell["gang"]] if cell["state"] == "held" else "#ffffff"
            assert colour == wanted, (name, at, cell)


def shows(page: Any, gang: str, *, there: bool = True) -> bool:
    return (page.locator(f'#gangs tr[data-gang="{gang}"]').count() > 0) is there


def test_cells_follow_gangs_that_come_and_go(page: Any, source: Live) -> None:
    colours(page, source)
    source.hold(gang(4, 4, name="train"))
    until(lambda: shows(page, "train"))
    colours(page, source)
    source.hold(gang(2, name="eval"))
    until(lambda: shows(page, "eval"))
    colours(page, source)
    source.release("train")
    until(lambda: shows(page, "train", there=False))
    colours(page, source)
    assert "held 2 " in page.locator("#totals").inner_text().replace("\n", " ")


def test_names_are_text(page: Any, source: Live) -> None:
    source.hold(gang(4, name=ODD))
    until(lambda: page.locator("#gangs .link").count() == 1)
    assert page.locator("#gangs .link").inner_text() == ODD
    page.locator("#gangs .link").click()
    until(lambda: page.locator("#gang tbody tr").count() == 1)
    page.locator("#view").hover(position={"x": 30, "y": 50})
    until(lambda: ODD in page.locator("#tip").inner_text())
    page.locator("#tab-whatif").click()
    page.locator("[name=bundles]").fill("3")
    page.locator("#whatif [type=submit]").click()
    until(lambda: ODD in page.locator("#answer").inner_text())
    assert page.locator("img").count() == 0


def test_what_if_is_drawn_as_ghosts(page: Any) -> None:
    page.locator("#tab-whatif").click()
    page.locator("[name=bundles]").fill("2")
    page.locator("#whatif [type=submit]").click()
    until(lambda: "It fits" in page.locator("#answer").inner_text())
    assert page.evaluate("window.rayDraMap.current().ghost") == {"r-t0": [0, 1, 2, 3], "r-t1": [0, 1, 2, 3]}
    page.locator("#forget").click()
    assert page.evaluate("window.rayDraMap.current().ghost") is None


def test_a_dead_coordinator_is_said_and_comes_back_and_so_is_a_dead_server(
    page: Any, source: Live, served: Served
) -> None:
    source.hold(gang(4, name="train"))
    until(lambda: shows(page, "train"))
    source.silent = True
    until(lambda: page.locator("#banner").is_visible())
    assert "The coordinator has not answered" in page.locator("#banner").inner_text()
    assert page.locator("#alive").inner_text() == "the coordinator does not answer"
    assert shows(page, "train"), "what was last known stays"
    source.silent = False
    until(lambda: not page.locator("#banner").is_visible())
    assert page.locator("#alive").inner_text() == "live"
    served.end()
    until(lambda: page.locator("#banner").is_visible())
    assert "The map's server does not answer" in page.locator("#banner").inner_text()


def test_the_keyboard_goes_everywhere_and_says_where(page: Any, source: Live) -> None:
    source.hold(gang(4, name="train"))
    until(lambda: shows(page, "train"))
    page.locator("#view").focus()
    said = page.locator("#said")
    for key, start in (
        ("ArrowDown", "r-t0, GPU 0, rack r; held by train"),
        ("ArrowRight", "r-t0, GPU 1"),
        ("ArrowDown", "r-t1, GPU 1, rack r; free"),
        ("PageDown", "box, GPU 1, boxes; faulty; not well: tainted"),
        ("Home", "r-t0, GPU 0"),
    ):
        page.keyboard.press(key)
        assert said.inner_text().startswith(start), key
    page.keyboard.press("Enter")
    until(lambda: page.locator("#gang").is_visible())
    page.locator("#tab-gangs").focus()
    for tab in ("queue", "whatif", "troubles", "table"):
        page.keyboard.press("ArrowRight")
        assert page.locator(f"#panel-{tab}").is_visible()
    until(lambda: page.locator("#rack-table tbody tr").count() == 2)
    assert page.locator("#rack-table tbody tr").first.inner_text().split() == ["r", "3", "8", "4", "0", "0"]


def test_everything_that_can_be_used_has_a_name_and_text_can_be_read(page: Any, source: Live) -> None:
    """In both schemes: contrast of 4.5 to 1 between text and what is behind it."""
    source.hold(gang(4, name="train"))
    until(lambda: shows(page, "train"))
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role], table, section")].filter((each) => !(
          each.textContent.trim() || each.getAttribute("aria-label") || each.getAttribute("aria-labelledby") ||
          each.closest("label"))).filter((each) => !["status", "alert"].includes(each.getAttribute("role")))
          .map((each) => each.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        dull = page.evaluate(DULL)
        assert dull == [], scheme
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(set(grounds)) == 2


def test_a_hundred_racks_are_drawn_fast_enough(browser: Any) -> None:
    """7,200 GPUs: what a drawing takes is printed (docs/benchmarks.md); asserted is no more than that it is no hang."""
    source = Live()
    source.inventory = Inventory([each for at in range(100) for each in rack(f"r{at:02}", 18)])
    for number in range(80):
        source.hold(gang(*[4] * 18, name=f"g{number}"))
    served = Served(source)
    try:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(served.url)
        until(lambda: page.evaluate("!!window.rayDraMap && window.rayDraMap.current().layout.blocks.length === 100"))
        times = page.evaluate(TIMES)
        page.close()
    finally:
        served.end()
    print(f"a drawing took {times[15]:.1f} ms")
    assert times[15] < 5_000


def test_spares_of_a_gangs_own_are_no_cells_of_its(page: Any, source: Live) -> None:
    source.hold(gang(4, name="train"))
    source.hold(gang(4, name="spares/train"))
    until(lambda: shows(page, "train"))
    until(lambda: page.evaluate("window.rayDraMap.current().state.figures.gpus.held") == 8)
    drawn = page.evaluate(SEEN)
    assert set(drawn["found"]["r-t1"]) == {"#ffffff"}
    assert set(drawn["found"]["r-t0"]) == {drawn["looks"]["train"]}
    page.locator("#view").focus()
    for key in ("ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    assert "a spare of train\u2019s own" in page.locator("#said").inner_text()
