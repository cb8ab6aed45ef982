"""Something is done in a module as soon as anybody imports it: large ones, as Ray Train's, are not imported for it.

Neighbours: `ray_train.py` and `ray_train_notice.py` catch parts of Ray Train so.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

Then = Callable[[ModuleType], None]


def when_imported(name: str, then: Then) -> None:
    """At once where the module is there already. Harmless when repeated: the first of a module's counts until it is
    imported, so `then` is to do the same however often it is called."""
    if name in sys.modules:
        then(sys.modules[name])
    elif not any(isinstance(finder, Finder) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder(name, then))


class Finder(importlib.abc.MetaPathFinder):
    """Finds the one module as Python does, and has `then` done once it is there."""

    def __init__(self, name: str, then: Then) -> None:
        self.name, self._then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._then(module)

        loader.exec_module = exec_module
        return spec
