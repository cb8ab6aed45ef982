"""The benchmark of the queue runs and writes what it promises; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "crowd.py"


def test_every_case_with_a_small_crowd(tmp_path: Path) -> None:
    out = tmp_path / "crowd.json"
    small = ["--waiting", "60", "--nodes", "4", "--rounds", "3", "--bundles", "50", "--gangs", "20"]
    command = [sys.executable, str(SCRIPT), *small, "--json", str(out)]
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    cases = {row["case"]: row for row in json.loads(out.read_text())}
    assert cases.keys() >= {"submit", "look", "status", "gangs()", "the scans alone", "memory"}
    assert cases["the owner of 60 dies: looks"]["value"] >= 1
    assert sum(name.startswith("one request") for name in cases) == 8
