"""What the coordinator counts, for whoever collects metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Metrics(Protocol):
    """See the module. No call raises."""

    def stage_ended(self, stage: str, seconds: float) -> None:
        """A gang was so long in a stage of its way to readiness; "" for all of the way."""

    def gangs(self, by_phase: Mapping[str, int]) -> None:
        """How many gangs are in each phase."""


class _NoMetrics:
    """Nobody collects any."""

    def stage_ended(self, stage: str, seconds: float) -> None: ...
    def gangs(self, by_phase: Mapping[str, int]) -> None: ...


NO_METRICS: Metrics = _NoMetrics()
