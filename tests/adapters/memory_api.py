"""A client of an API server in memory, for what needs nothing of it but a lease."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any


class Api:
    """A `KubernetesApi` in memory: nothing is there but a lease, of which `told` is read."""

    server = "memory"

    def __init__(self, told: Any = None) -> None:
        self.told, self.closed = told, threading.Event()
        self.create: Callable[..., Any] = lambda thing, namespace: {"metadata": {"uid": "u"}}

    def serves(self, kind: str) -> bool:
        return True

    def pages(self, *arguments: Any, **more: Any) -> Iterator[tuple[list[Any], str]]:
        yield [], "1"

    def watch(self, *arguments: Any, began: Callable[..., None], **more: Any) -> Iterator[Any]:
        ended = threading.Event()
        began(ended.set)
        ended.wait(30)
        return iter(())

    def find(self, *arguments: Any) -> Any:
        return self.told

    def replace(self, thing: Any) -> None: ...
