"""The coordinator's metrics as Prometheus would scrape them from a cluster that runs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_dra.ports.metrics import (
    CLIQUES,
    ENDS,
    GPUS,
    LEASE,
    METRICS,
    MOVES,
    NOTICES,
    PREFIX,
    REFUSALS,
    REPAIRS,
    REQUESTS,
    TEAM_GANGS,
    TEAM_GPUS,
    WATCH_AGE,
    Kind,
)
from tests.e2e.real_head import FOLDER, Head, eventually, real_head

Series = dict[str, dict[tuple[tuple[str, str], ...], float]]
PROGRAM = """
import sys

import ray

import ray_dra

ray.init(f"ray_dra://127.0.0.1:{sys.argv[1]}")
gang = ray_dra.placement_group([{"GPU": 2}])
gang.wait(60)
try:
    ray_dra.placement_group([{"GPU": 999}])
except ray_dra.UnsatisfiableError:
    pass
ray_dra.placement_group([{"GPU": 1}]).remove()
sys.stdin.read()
"""
ON_KUBERNETES = {LEASE, WATCH_AGE, REQUESTS}
OF_FAULTS = {MOVES, NOTICES, REPAIRS}
OF_TEAMS = {TEAM_GPUS, TEAM_GANGS}
NOT_HERE = ON_KUBERNETES | OF_FAULTS | OF_TEAMS
EXPECTED = {f"{PREFIX}{metric.name}" for metric in METRICS if metric not in NOT_HERE}


def scraped(head: Head) -> Series:
    """Name -> labels that are ours -> value, of all series of ours that the head exports."""
    found: Series = {}
    labels = {label for metric in METRICS for label in metric.labels} | {"le"}
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{head.metrics}/metrics", timeout=10).read().decode()
    except OSError:
        return {}
    for line in text.splitlines():
        matched = re.fullmatch(rf"({PREFIX}\w+)(?:\{{(.*)\}})? (\S+)", line)
        if matched is not None:
            given = re.findall(r'(\w+)="([^"]*)"', matched[2] or "")
            ours = tuple((name, value) for name, value in sorted(given) if name in labels)
            found.setdefault(matched[1], {})[ours] = float(matched[3])
    return found


def names_of(found: Series) -> set[str]:
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in found}


def counted(found: Series) -> bool:
    """Whether the gauges are of a time when the machine was known."""
    return sum(found.get(f"{PREFIX}{GPUS.name}", {}).values()) == 4


def scraped_whole(head: Head) -> Series:
    """Once all is there; what is, after a while."""
    found = scraped(head)
    until = time.monotonic() + 120
    while not (names_of(found) >= EXPECTED and counted(found)) and time.monotonic() < until:
        time.sleep(1)
        found = scraped(head)
    return found


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    with real_head(tmp_path) as found:
        yield found


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_every_metric_that_there_is_cause_for_is_scraped_under_its_name(head: Head) -> None:
    """On a head with Ray's own agent, which the embedded cluster does without."""
    (head.folder / "program.py").write_text(PROGRAM)
    eventually(lambda: head.run(str(FOLDER / "ray"), "status", "--address", f"127.0.0.1:{head.port}"), "4.0 GPU")
    command = [sys.executable, "program.py", head.port]
    with subprocess.Popen(command, env=head.environment, cwd=head.folder, stdin=subprocess.PIPE) as program:
        found = scraped_whole(head)
        assert program.stdin is not None
        program.stdin.close()
    assert names_of(found) >= EXPECTED
    assert names_of(found) <= EXPECTED | {f"{PREFIX}{metric.name}" for metric in OF_FAULTS}, "one name for one thing"
    for metric in METRICS:
        if metric.kind is not Kind.HISTOGRAM:
            for labels in found.get(f"{PREFIX}{metric.name}", {}):
                assert {name for name, _ in labels} == set(metric.labels)
    assert counted(found)
    assert sum(found[f"{PREFIX}{CLIQUES.name}"].values()) == 1
    assert found[f"{PREFIX}{ENDS.name}"][("outcome", "released"),] == 1
    assert found[f"{PREFIX}{REFUSALS.name}"][("kind", "UnsatisfiableError"),] == 1
