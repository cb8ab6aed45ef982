"""Metrics that a test reads."""

from __future__ import annotations

from ray_dra.ports.metrics import Metric


class Counted:
    """Metrics that are kept."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[str, ...]], float] = {}

    def alive(self) -> None: ...

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        self.values[metric.name, labels] = value

    def count(self, metric: Metric, *labels: str) -> None:
        key = (metric.name, labels)
        self.values[key] = self.values.get(key, 0) + 1

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """How often."""
        self.count(metric, *labels)
