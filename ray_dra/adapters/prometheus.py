"""Metrics of a process that is no part of Ray, scraped by Prometheus at a port of its own.

The coordinator's leave by Ray (`ray_metrics.py`); this is for the programs of DaemonSets. Off unless a port is named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ray_dra.errors import InvalidRequest, shown
from ray_dra.ports.metrics import NO_METRICS, PREFIX, Kind, Metric, Metrics
from ray_dra.translate.names import METRICS_PORT_VARIABLE


class PrometheusMetrics:
    """See the module, and `ports.metrics.Metrics`; of these metrics and no others.

    Args:
        info: the gauge that is 1, with these values as labels, for as long as the process lives.
    """

    def __init__(self, metrics: Sequence[Metric], info: Metric, *versions: str) -> None:
        from prometheus_client import CollectorRegistry

        self.registry = CollectorRegistry()
        self._made = {metric.name: _made(metric, self.registry) for metric in metrics}
        self._info, self._versions = info, versions
        self.alive()

    def serve(self, port: int) -> int:
        """Answer at this port, on every address of IPv6 and IPv4, or of IPv4 alone where there is no other. The port:
        where 0 is asked for, one that was free.

        Raises:
            InvalidRequest: another process listens there.
        """
        from prometheus_client import start_http_server

        for address in ("::", "0.0.0.0"):
            try:
                server, _ = start_http_server(port, address, self.registry)
                return int(server.server_port)
            except OSError as error:
                failed = error
        raise InvalidRequest("Metrics cannot be served at this port.", place=str(port), available=str(failed))

    def alive(self) -> None:
        self.put(self._info, 1, *self._versions)

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        self._of(metric, labels).set(value)

    def count(self, metric: Metric, *labels: str) -> None:
        self._of(metric, labels).inc()

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        self._of(metric, labels).observe(value)

    def _of(self, metric: Metric, labels: tuple[str, ...]) -> Any:
        made = self._made[metric.name]
        return made.labels(*labels) if metric.labels else made


def metrics_served(
    metrics: Sequence[Metric], info: Metric, *versions: str, environment: Mapping[str, str] = os.environ
) -> Metrics:
    """Metrics at the port that the environment names (RAY_DRA_METRICS_PORT); nobody's where it names none.

    Raises:
        InvalidRequest: it names something else than a port, or one that is taken.
    """
    said = environment.get(METRICS_PORT_VARIABLE, "").strip()
    if not said:
        return NO_METRICS
    if not (said.isascii() and said.isdigit() and len(said) < 6 and 0 < int(said) < 65536):
        raise InvalidRequest("It is a port.", place=METRICS_PORT_VARIABLE, wanted=shown(said), available="1 to 65535")
    made = PrometheusMetrics(metrics, info, *versions)
    made.serve(int(said))
    print(f"metrics are served at port {said}", flush=True)
    return made


def _made(metric: Metric, registry: Any) -> Any:
    """The client adds `_total` to a counter's name."""
    from prometheus_client import Counter, Gauge, Histogram

    name = f"{PREFIX}{metric.name}"
    match metric.kind:
        case Kind.GAUGE:
            return Gauge(name, metric.what, metric.labels, registry=registry)
        case Kind.COUNTER:
            return Counter(name.removesuffix("_total"), metric.what, metric.labels, registry=registry)
        case Kind.HISTOGRAM:
            return Histogram(name, metric.what, metric.labels, buckets=metric.bounds, registry=registry)
