"""The alert rules in Prometheus' own engine: each fires for what it says, after the time that it says, and for nothing
else. The engine is built once, in about a minute."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_dra.ports.metrics import PREFIX
from tests.cluster import binaries

pytestmark = pytest.mark.timeout(1800)
RULES = Path(__file__).parents[2] / "kube" / "monitoring" / "rules.yaml"
MINUTES = 90
WELL: dict[str, float] = {
    "queue_longest_wait_seconds": 10,
    "lease_held": 1,
    "agents_silent": 0,
    'watch_age_seconds{kind="Pod"}': 30,
    'gang_ends_total{outcome="failed"}': 0,
    'api_requests_total{code="200"}': 100,  # a counter: so much a minute
    'api_requests_total{code="503"}': 1,
    'gpus{state="unhealthy"}': 0,
    "topology_answered_timestamp_seconds": 0,  # seconds ago
    "topology_gpus": 4,
}
"""What a coordinator and a topology agent export that are well; a counter's value is what it grows by in a minute."""

CASES: list[tuple[str, dict[str, float], str, int]] = [
    # what is amiss from minute 10 to 49; what fires; from which minute on
    ("queue_longest_wait_seconds", {"queue_longest_wait_seconds": 3601}, "RayDraGangWaitsLong", 15),
    ("lease_held", {"lease_held": 0}, "RayDraLeaseLost", 12),
    ("agents_silent", {"agents_silent": 1}, "RayDraAgentsSilent", 15),
    ("watch_age_seconds", {'watch_age_seconds{kind="Pod"}': 421}, "RayDraWatchOld", 11),
    ("gang_ends_total", {'gang_ends_total{outcome="failed"}': 1}, "RayDraGangsFail", 13),
    ("api_requests_total", {'api_requests_total{code="503"}': 20}, "RayDraRequestsFail", 22),
    ("gpus", {'gpus{state="unhealthy"}': 2}, "RayDraGpusUnhealthy", 25),
    ("topology_answered", {"topology_answered_timestamp_seconds": 301}, "RayDraTopologyAgentStuck", 12),
    ("topology_gpus", {"topology_gpus": 3}, "RayDraTopologyGpusLost", 15),
    ("nearly answered", {"topology_answered_timestamp_seconds": 300}, "", 0),
    ("nearly", {"queue_longest_wait_seconds": 3600, 'watch_age_seconds{kind="Pod"}': 420}, "", 0),
    ("some requests fail", {'api_requests_total{code="503"}': 10}, "", 0),
]


def _whose(name: str) -> dict[str, str]:
    """The labels that tell whose a series, or an alert, is."""
    return {"node": "box-1"} if "topology" in name.lower() else {"SessionName": "session_1"}


def firing(tmp_path: Path, wrong: dict[str, float], minutes: Sequence[int]) -> dict[str, list[int]]:
    """Alert -> the minutes in which it fires, where `wrong` holds in some minutes and all is well in the others."""
    groups = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    series = []
    for said, value in WELL.items():
        name, _, label = said.rstrip("}").partition("{")
        labels = {"__name__": PREFIX + name, **_whose(name)}
        if label:
            key, _, text = label.partition("=")
            labels[key] = text.strip('"')
        values, total = [], 0.0
        for minute in range(MINUTES):
            now = wrong.get(said, value) if minute in minutes else value
            total += now
            values.append(total if name.endswith("_total") else 60 * minute - now if "_timestamp_" in name else now)
        series.append({"labels": labels, "values": values})
    asked = json.dumps({"rules": str(tmp_path / "rules.yaml"), "minutes": MINUTES, "series": series})
    engine = binaries.program("prometheus-rules")
    told = subprocess.run([engine], input=asked, text=True, check=True, stdout=subprocess.PIPE)
    found: dict[str, list[int]] = {}
    for line in told.stdout.splitlines():
        alert: dict[str, Any] = json.loads(line)
        assert alert["labels"].items() >= _whose(alert["alert"]).items(), "which cluster or node it is about"
        assert "{{" not in alert["annotations"]["summary"] + alert["annotations"]["description"]
        found.setdefault(alert["alert"], []).append(alert["minute"])
    return found


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    binaries.build(only=("prometheus-rules",))


@pytest.mark.parametrize(("wrong", "alert", "first"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_an_alert_fires_for_what_it_says_and_for_nothing_else(
    tmp_path: Path, wrong: dict[str, float], alert: str, first: int
) -> None:
    fired = firing(tmp_path, wrong, range(10, 50))
    assert set(fired) == ({alert} if alert else set()), fired
    if alert:
        assert fired[alert][0] == first
        assert fired[alert] == list(range(first, fired[alert][-1] + 1)), "without a break"
        ends = 50 + 60 if alert == "RayDraGangsFail" else 50  # it looks at the last hour
        assert fired[alert][-1] < ends + 12


def test_every_alert_is_tried() -> None:
    groups = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    assert {rule["alert"] for group in groups for rule in group["rules"]} == {case[2] for case in CASES} - {""}
