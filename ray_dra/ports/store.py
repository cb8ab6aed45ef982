"""The store: durable keys and values. `translate.names` has the keys."""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """Durable keys and values; every put is atomic and has happened when it returns."""

    def put(self, key: str, value: bytes) -> None: ...

    def get(self, key: str) -> bytes | None: ...

    def delete(self, key: str) -> None: ...

    def keys(self, prefix: str) -> list[str]: ...
