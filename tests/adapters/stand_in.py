"""A module that stands for one of Ray Train's: to import that takes seconds."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@contextmanager
def stand_in(
    adapter: ModuleType, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    """The module that `adapter` looks for is called `name` meanwhile; the callable writes it into `folder`, and imports
    it."""
    monkeypatch.setattr(adapter, "MODULE", name)
    monkeypatch.syspath_prepend(str(folder))
    before = list(sys.meta_path)

    def write(text: str) -> Any:
        (folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    sys.meta_path[:] = before
    sys.modules.pop(name, None)
