"""The page in a real browser: its cells are the cluster's, follow it, and nothing that a user named becomes HTML."""

from __future__ import annotations

from typing import Any

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.translate.map.page import PageState
from ray_dra.translate.map.view import of_snapshot
from tests.core.machines import gang, rack
from tests.operate.map.browser.live import Live, Served, until

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

TIMES = """() => {
  const times = [];
  for (let at = 0; at < 30; at++) {
    const began = performance.now();
    window.rayDraMap.drawNow();
    times.push(performance.now() - began);
  }
  return times.sort((a, b) => a - b);
}"""


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
