"""The store: durable keys and values, and the keys that the coordinator shares with workers."""

from __future__ import annotations

from typing import Protocol

# Keys in the store that the coordinator shares with workers. MAP: a placement group's bundle-to-GPUs map. SLOT_KEY:
# what a gang's pod must find by NVML; VERIFIED_KEY: that it did; GO_KEY: the barrier, open for an attempt's pods.
MAP = "map/"


SLOT_KEY, VERIFIED_KEY, GO_KEY = "slot/", "verified/", "go/"


class Store(Protocol):
    """Durable keys and values; every put is atomic and has happened when it returns."""

    def put(self, key: str, value: bytes) -> None: ...

    def get(self, key: str) -> bytes | None: ...

    def delete(self, key: str) -> None: ...

    def keys(self, prefix: str) -> list[str]: ...
