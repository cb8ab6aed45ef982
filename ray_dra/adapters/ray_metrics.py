"""The coordinator's metrics, by Ray's: a node's agent exports them for Prometheus, with `ray_` before their names."""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from ray_dra.ports.metrics import BUILD_INFO, METRICS, PREFIX, Kind, Metric
from ray_dra.translate.names import VERSION

AGAIN_SECONDS = 5.0

logger = logging.getLogger("ray_dra")


class RayMetrics:
    """See the module, and `ports.metrics.Metrics`."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {metric.name: _made(metric) for metric in METRICS}
        self._said: dict[tuple[str, tuple[str, ...]], tuple[float, float]] = {}  # value, and until when it stands

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        """What has not changed is said again every few seconds: Ray forgets a gauge of which it hears no more."""
        key, now = (metric.name, labels), time.monotonic()
        said = self._said.get(key)
        if said is None or said[0] != value or now > said[1]:
            self._said[key] = value, now + AGAIN_SECONDS
            self._do(lambda: self._made[metric.name].set(value, _tags(metric, labels)))

    def alive(self) -> None:
        self.put(BUILD_INFO, 1, VERSION, ray.__version__)

    def count(self, metric: Metric, *labels: str) -> None:
        self._do(lambda: self._made[metric.name].inc(1, _tags(metric, labels)))

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        self._do(lambda: self._made[metric.name].observe(value, _tags(metric, labels)))

    @staticmethod
    def _do(call: Any) -> None:
        """Whatever Ray has against it: no gang waits for a metric."""
        try:
            call()
        except Exception:
            logger.warning("a metric was not recorded", exc_info=True)


def _tags(metric: Metric, labels: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(metric.labels, labels, strict=True))


def _made(metric: Metric) -> Any:
    """Ray's own, which adds `ray_` before the name, and `_total` after a counter's that lacks it."""
    name = f"{PREFIX.removeprefix('ray_')}{metric.name}"
    match metric.kind:
        case Kind.GAUGE:
            return Gauge(name, metric.what, metric.labels)
        case Kind.COUNTER:
            return Counter(name, metric.what, metric.labels)
        case Kind.HISTOGRAM:
            return Histogram(name, metric.what, list(metric.bounds), metric.labels)
