"""Screenshots for the docs, made anew with each run: build/screenshots/*.png. docs/map.md says what they show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.imex import IMEX_LIMITS
from ray_dra.core.model.locality import Locality
from tests.core.machines import gang, node, one_clique
from tests.operate.map.browser.live import Live, Served, until
from tests.operate.map.levels import LEVELS, leafed

TO = Path(__file__).parents[4] / "build" / "screenshots"
WIDE, HIGH = 1440, 900


def cluster() -> Live:
    """Eight racks of 18 trays below four leaves and two spines, two boxes; gangs, others' work and domain, faults."""
    source = Live()
    source.about = "gb200"
    racks = [each for at in range(8) for each in leafed(f"gb200-r{at}", 18, f"leaf-{at // 2}", f"spine-{at // 4}")]
    racks[40] = replace(racks[40], ready=False, reason="cordoned")
    boxes = [node(f"hgx-{at}", 8, box=True, sick=[5] if at else []) for at in range(2)]
    source.inventory = Inventory([*racks, *boxes], IMEX_LIMITS, LEVELS)
    for name, bundles in (("pretrain", 32), ("rlhf-trainer", 16), ("rollouts", 12), ("serve-70b", 4), ("eval", 2)):
        source.hold(gang(*[4] * bundles, name=name, locality=Locality(cliques=2) if bundles > 18 else one_clique()))
    for at in range(3):
        source.inventory.set_others(f"gb200-r7-t{at}", 0b1111, {})
    theirs = {f"gb200-r7-t{at}": "team-b/llama-0" for at in range(3)}
    source.inventory.set_others_domains(frozenset(theirs), theirs)
    return source


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots(browser: Any, scheme: str) -> None:
    source = cluster()
    served = Served(source)
    try:
        page = browser.new_page(viewport={"width": WIDE, "height": HIGH}, color_scheme=scheme)
        page.goto(served.url)
        until(lambda: page.locator("#gangs .link").count() == 5)
        pictures = {"racks": _open("pretrain"), "what-if": _ask, "health": _tab("troubles")}
        for name, show in pictures.items():
            show(page)
            path = TO / f"{name}-{scheme}.png"
            page.screenshot(path=path)
            head = path.read_bytes()
            assert head.startswith(b"\x89PNG")
            assert (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) == (WIDE, HIGH)
        page.close()
    finally:
        served.end()


def _open(name: str) -> Any:
    def show(page: Any) -> None:
        page.locator("#gangs .link", has_text=name).click()
        until(lambda: page.locator("#gang tbody tr").count() > 1)

    return show


def _ask(page: Any) -> None:
    page.locator("#panel-gangs #gang button").first.click()
    page.locator("#tab-whatif").click()
    page.locator("[name=bundles]").fill("16")
    page.locator("#whatif [type=submit]").click()
    until(lambda: page.locator("#answer pre").count() == 1)


def _tab(name: str) -> Any:
    def show(page: Any) -> None:
        page.locator("#forget").click()
        page.locator(f"#tab-{name}").click()

    return show
