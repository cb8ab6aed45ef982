"""The coordinator's metrics, by Ray's: a node's agent exports them for Prometheus, with `ray_` before their names."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge, Histogram

SECONDS = [0.1 * 10**power * step for power in range(5) for step in (1, 2, 5)]  # Ray's agents keep no finer sums


class RayMetrics:
    """See the module, and `ports.metrics.Metrics`."""

    def __init__(self) -> None:
        self._stages = Histogram(
            "dra_gang_stage_seconds", "Time of a gang in a stage on its way to readiness.", SECONDS, ("stage",)
        )
        self._ready = Histogram("dra_gang_ready_seconds", "Time from a gang's call to its readiness.", SECONDS)
        self._gangs = Gauge("dra_gangs", "Gangs in each phase.", ("phase",))
        self._said: dict[str, int] = {}

    def stage_ended(self, stage: str, seconds: float) -> None:
        if stage:
            self._stages.observe(seconds, {"stage": stage})
        else:
            self._ready.observe(seconds)

    def gangs(self, by_phase: Mapping[str, int]) -> None:
        """Only what has changed: this is asked at every look."""
        for phase, count in by_phase.items():
            if self._said.get(phase) != count:
                self._gangs.set(count, {"phase": phase})
                self._said[phase] = count
