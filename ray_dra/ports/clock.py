"""The clock that the coordinator is given."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    def __call__(self) -> float:
        """Seconds, monotonic."""
