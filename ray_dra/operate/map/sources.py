"""Where the map's contents come from: a running cluster's coordinator, or a snapshot file. Nothing here changes either.

Calls block; the server makes them in threads. Neighbours: `coordinator/view.py` answers `view`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ray_dra.core.explain.whatif import answer_of
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.errors import CoordinatorUnavailable, GangGone, InvalidSnapshot
from ray_dra.translate.files.plain import MAX_BYTES
from ray_dra.translate.files.snapshot import inventory_of, load_snapshot, read_snapshot
from ray_dra.translate.map.gangs import gang_details, ranks
from ray_dra.translate.map.view import Cursor, View, of_snapshot

Ask = Callable[..., Any]
"""The coordinator's answer to a call by its name, with the call's arguments."""


class Source(Protocol):
    """See the module. `about`: whose map it is, for the page's title. `live`: it changes."""

    about: str
    live: bool

    def look(self, cursor: Cursor) -> View: ...

    def gang(self, gang: str) -> dict[str, Any]:
        """What is told of one gang. Raises GangGone where there is none."""
        ...

    def plan(self, request: GangRequest) -> Allocation | Unsatisfiable: ...


STANDARD_INPUT = Path("-")


class SnapshotSource:
    """A file, or `-` for the standard input. Read once: what is wrong with it is said before anything is served.

    Raises:
        InvalidSnapshot: it is none, or no file; a pipe that nobody writes to would be waited for without end.
    """

    live = False

    def __init__(self, path: Path) -> None:
        if path == STANDARD_INPUT:
            self.about = "standard input"
            snapshot = load_snapshot(sys.stdin.buffer.read(MAX_BYTES + 1))
        else:
            if os.path.exists(path) and not path.is_file():  # Path.exists raises for a name too long
                raise InvalidSnapshot(
                    "This is no regular file.", place=str(path), available="a file, or - for the standard input"
                )
            self.about = path.name
            snapshot = read_snapshot(path)
        self._inventory = inventory_of(snapshot)
        self._view = of_snapshot(self._inventory)

    def look(self, cursor: Cursor) -> View:
        return self._view if cursor != self._view.to else View(cursor)

    def gang(self, gang: str) -> dict[str, Any]:
        allocation = self._inventory.allocation(gang)
        if allocation is None:
            raise GangGone("There is no such gang in the file.", place=gang[:100])
        return {"history": [], "times": [], "shape": [], "waits": [], **ranks(allocation)}

    def plan(self, request: GangRequest) -> Allocation | Unsatisfiable:
        return answer_of(self._inventory, request)


class ClusterSource:
    """A coordinator. `ask` calls it by names; an answer that takes long is given up."""

    live = True

    def __init__(self, about: str, ask: Ask) -> None:
        self.about, self._ask = about, ask

    def look(self, cursor: Cursor) -> View:
        found = self._ask("view", cursor)
        if not isinstance(found, View):
            raise CoordinatorUnavailable("The coordinator is of another version.", available=type(found).__name__)
        return found

    def gang(self, gang: str) -> dict[str, Any]:
        status = self._ask("status", gang)
        expected = self._ask("expected", gang) if status.allocation is None else None
        return gang_details(status, expected)

    def plan(self, request: GangRequest) -> Allocation | Unsatisfiable:
        found: Allocation | Unsatisfiable = self._ask("plan", request)
        return found
