"""What is done in a module as soon as anybody imports it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ray_dra.adapters.late_import import Finder, when_imported

NAMES = ("ray_dra_tests_late", "ray_dra_tests_later")


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.meta_path)
    yield
    sys.meta_path[:] = before
    for name in NAMES:
        sys.modules.pop(name, None)


def test_it_is_done_once_the_module_is_there_whole() -> None:
    done: list[tuple[str, int]] = []

    def then(module: ModuleType) -> None:
        done.append((module.__name__, module.VALUE))

    for name in NAMES:
        when_imported(name, then)
        when_imported(name, then)
    assert not done
    importlib.import_module(NAMES[1])
    assert done == [(NAMES[1], 1)]
    importlib.import_module(NAMES[0])
    importlib.import_module(NAMES[0])
    assert done == [(NAMES[1], 1), (NAMES[0], 1)]
    when_imported(NAMES[0], then)
    assert done[2:] == [(NAMES[0], 1)], "at once where it is there"


def test_other_modules_are_not_looked_for() -> None:
    finder = Finder(NAMES[0], lambda module: None)
    assert finder.find_spec("json", None) is None
    assert finder.find_spec(NAMES[0], []) is None, "it is not installed"
