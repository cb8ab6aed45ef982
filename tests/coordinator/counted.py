"""What a coordinator tells those who collect metrics, kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ray_dra.ports.metrics import GANGS, READY_SECONDS, STAGE_SECONDS, Kind, Metric


class Counted:
    """What was told to those who collect metrics."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, float]] = []
        self.phases: list[Mapping[str, int]] = []
        self.gauges: dict[tuple[str, tuple[str, ...]], float] = {}
        self.counts: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def alive(self) -> None:
        """At the end of each look."""
        now = {key[1][0]: int(value) for key, value in self.gauges.items() if key[0] == GANGS.name}
        if now and (not self.phases or self.phases[-1] != now):
            self.phases.append(now)

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        assert metric.kind is Kind.GAUGE
        assert len(labels) == len(metric.labels)
        self.gauges[metric.name, labels] = value

    def count(self, metric: Metric, *labels: str) -> None:
        assert metric.kind is Kind.COUNTER
        assert len(labels) == len(metric.labels)
        self.counts[metric.name, labels] += 1

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        assert metric.kind is Kind.HISTOGRAM
        assert len(labels) == len(metric.labels)
        if metric in (STAGE_SECONDS, READY_SECONDS):
            self.ended.append(("".join(labels), value))
        else:
            self.counts[metric.name, labels] += 1
