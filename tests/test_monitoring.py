"""Dashboards, alerts and their page: every metric they name is one that is exported, and the page has them all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from ray_dra.ports.metrics import AGENT_METRICS, DRIVER_METRICS, METRICS, PREFIX, Kind

TOP = Path(__file__).parents[1]
FOLDER = TOP / "kube" / "monitoring"
PAGE = (TOP / "docs" / "metrics.md").read_text()
OPERATIONS = (TOP / "docs" / "operations.md").read_text()
EXPORTED = {
    f"{PREFIX}{metric.name}{end}"
    for metric in (*METRICS, *AGENT_METRICS)
    for end in (("_bucket", "_count", "_sum") if metric.kind is Kind.HISTOGRAM else ("",))
}
EVERY = tuple(dict.fromkeys((*METRICS, *AGENT_METRICS, *DRIVER_METRICS)))
LABELS = {f"{PREFIX}{metric.name}": set(metric.labels) for metric in EVERY}
OF_RAY = {"SessionName", "le"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text())["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> list[str]:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]] + [rule["expr"] for rule in rules()]


def test_every_name_in_a_query_is_exported_and_has_the_labels_that_it_selects() -> None:
    for query in queries():
        names = re.findall(r"ray_dra_\w+", query)
        assert names, query
        assert set(names) <= EXPORTED, query
        allowed = OF_RAY.union(*(LABELS[re.sub(r"_(bucket|count|sum)$", "", name)] for name in names))
        for inside in re.findall(r"\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)\s*(?:=~|!=|=)", inside)) <= allowed, query
        for by in re.findall(r"by \(([^)]*)\)", query):
            assert {label.strip() for label in by.split(",")} <= allowed, query


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(queries())
    assert [metric.name for metric in METRICS if f"{PREFIX}{metric.name}" not in shown] == []


def test_the_page_has_each_metric_as_it_is_and_each_alert() -> None:
    for metric in EVERY:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        assert f"| `{PREFIX}{metric.name}` | {metric.kind.value} | {labels} | {metric.what} |" in PAGE
    assert set(re.findall(r"ray_dra_\w+", PAGE)) <= LABELS.keys()
    for rule in rules():
        assert f"| {rule['alert']} |" in PAGE
        assert f"alert {rule['alert']}" in OPERATIONS, "what to do about it"
        assert set(rule["annotations"]) == {"summary", "description"}


def test_names_are_as_prometheus_has_them() -> None:
    for metric in EVERY:
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", metric.name)
        assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
        assert metric.kind is not Kind.HISTOGRAM or metric.name.endswith("_seconds")
        assert list(metric.bounds) == sorted(set(metric.bounds))
    assert len({metric.name for metric in EVERY}) == len(EVERY)


def test_a_series_of_anothers_tells_whose_it_is() -> None:
    """Names begin with their program's, but for those that all count alike."""
    for metrics, whose in ((AGENT_METRICS, "topology_"), (DRIVER_METRICS, "simulated_")):
        assert all(metric in METRICS or metric.name.startswith(whose) for metric in metrics)


def test_the_image_has_what_serves_them() -> None:
    assert "\nprometheus-client==" in (TOP / "kube" / "image" / "requirements.txt").read_text()
