"""Debian's Chromium, by Playwright, started once for this folder; its tests are skipped where either is missing.

Not once for the whole run: as long as Playwright is there, its thread has a running event loop, and other tests start
their own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.operate.map.browser.live import Live, Served, until

OPTIONS = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: docs/testbed.md")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium: docs/testbed.md")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=chromium, args=OPTIONS)
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
