"""Records that cannot be read: set aside in the store, so that one of them never keeps the coordinator from starting.

Neighbours: `gang_store.py`, `backends/raylets/nodes.py` and `foreign_work.py` read their records through here;
`ray-dra gangs` names what lies aside, and `ray-dra release` lets it go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ray_dra.errors import RayDraError
from ray_dra.ports.store import Store
from ray_dra.translate.files.shared_records import SetAside, aside_from_bytes, aside_to_bytes
from ray_dra.translate.names import ASIDE_KEY

T = TypeVar("T")
logger = logging.getLogger("ray_dra")


@dataclass(frozen=True, slots=True)
class Unread:
    """A record that lies aside: the key that it had, why, and its bytes."""

    key: str
    reason: str
    data: bytes


class Aside:
    """See the module. `records` by the key that they had."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.records: dict[str, Unread] = {}
        for key in store.keys(ASIDE_KEY):
            found = aside_from_bytes(store.get(key) or b"")
            had = key.removeprefix(ASIDE_KEY)
            self.records[had] = Unread(had, found.reason, found.data)

    def read(self, prefix: str, parse: Callable[[str, bytes], T]) -> Iterator[T]:
        """What `parse` makes of each record under the prefix (by its key without it); where it raises, it is set
        aside."""
        for key in self._store.keys(prefix):
            data = self._store.get(key)
            if data is None:
                continue
            try:
                found = parse(key.removeprefix(prefix), data)
            except RayDraError as error:
                self.put(key, data, " ".join(str(error).split()))
                continue
            yield found

    def put(self, key: str, data: bytes, reason: str) -> None:
        """Keep a record under another key; a kill in between only repeats it."""
        reason = ascii(reason)[1:-1]
        self._store.put(ASIDE_KEY + key, aside_to_bytes(SetAside(reason, data)))
        self._store.delete(key)
        self.records[key] = Unread(key, reason, data)
        logger.error("a record cannot be read and was set aside, `ray-dra gangs` names it: %a: %s", key, reason)

    def let_go(self, key: str) -> bool:
        """Forget a record for good; False where there is none."""
        if self.records.pop(key, None) is None:
            return False
        self._store.delete(ASIDE_KEY + key)
        return True
