"""A map that is served while a test changes what it shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.errors import CoordinatorUnavailable
from ray_dra.operate.map.server import app_of, listen, server_of
from ray_dra.translate.map.gangs import ranks
from ray_dra.translate.map.view import Cursor, View, of_snapshot
from tests.core.machines import held, node, rack


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


def until(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to be within 30 s")
