"""Metrics at a port of a process's own, scraped and read as Prometheus reads them."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Sequence

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ray_dra.adapters.prometheus import PrometheusMetrics, metrics_served
from ray_dra.errors import InvalidRequest
from ray_dra.ports.metrics import (
    AGENT_INFO,
    AGENT_METRICS,
    DRIVER_INFO,
    DRIVER_METRICS,
    NO_METRICS,
    PREFIX,
    Kind,
    Metric,
)
from ray_dra.translate.names import METRICS_PORT_VARIABLE


def scraped(port: int) -> dict[tuple[str, frozenset[str]], float]:
    """(name, values of its labels) -> value, of all series."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        series = [each for family in families for each in family.samples]
        return {(each.name, frozenset(v for k, v in each.labels.items() if k != "le")): each.value for each in series}


@pytest.mark.parametrize(("metrics", "info"), [(AGENT_METRICS, AGENT_INFO), (DRIVER_METRICS, DRIVER_INFO)])
def test_each_metric_is_scraped_under_its_name_and_labels(metrics: Sequence[Metric], info: Metric) -> None:
    served = PrometheusMetrics(metrics, info, "1.2.3")
    port = served.serve(0)
    assert scraped(port)[f"{PREFIX}{info.name}", frozenset({"1.2.3"})] == 1
    for metric in metrics:
        values = tuple(f"of-{label}" for label in metric.labels)
        match metric.kind:
            case Kind.GAUGE:
                served.put(metric, 7, *values)
            case Kind.COUNTER:
                served.count(metric, *values)
                served.count(metric, *values)
            case Kind.HISTOGRAM:
                served.observe(metric, 0.25, *values)
    found = scraped(port)
    for metric in metrics:
        values = tuple(f"of-{label}" for label in metric.labels)
        name, value = {
            Kind.GAUGE: (metric.name, 7),
            Kind.COUNTER: (metric.name, 2),
            Kind.HISTOGRAM: (f"{metric.name}_sum", 0.25),
        }[metric.kind]
        assert found[f"{PREFIX}{name}", frozenset(values)] == value
    ours = {name for name, _ in found if not name.endswith("_created")}
    assert all(name.startswith(PREFIX) for name in ours), "no metric of the Python process itself"


def test_nothing_listens_unless_a_port_is_named() -> None:
    def served(said: str) -> object:
        return metrics_served(AGENT_METRICS, AGENT_INFO, "1", environment={METRICS_PORT_VARIABLE: said})

    assert metrics_served(AGENT_METRICS, AGENT_INFO, "1", environment={}) is NO_METRICS
    assert served(" ") is NO_METRICS
    for wrong in ("0", "-1", "65536", "http", "8080.0", "\u0663", "9" * 5000):
        with pytest.raises(InvalidRequest) as refused:
            served(wrong)
        assert refused.value.place == METRICS_PORT_VARIABLE
    with (
        socket.create_server(("0.0.0.0", 0)) as taken,
        pytest.raises(InvalidRequest, match="cannot be served"),
    ):
        served(str(taken.getsockname()[1]))
