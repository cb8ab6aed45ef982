"""The scale benchmark runs and writes what it promises; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "plan_scale.py"
KINDS = ("nvl72", "boxes8", "levels", "mix")
CASES = ("small", "small-cpu", "leave", "mixed", "refusal", "counterfactual", "node", "large")


def test_every_case_on_a_small_cluster(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    command = [sys.executable, str(SCRIPT), "--gpus", "1000", "--rounds", "400", "--json", str(out)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout
    rows = json.loads(out.read_text())
    assert {r["case"] for r in rows} == {f"{kind}-{case}" for kind in KINDS for case in CASES}
    for row in rows:
        assert 0 < row["p50_us"] <= row["p99_us"] <= row["max_us"]
        assert row["gpus"] >= 1000
        assert row["rss_mb"] > 0
        assert row["build_s"] >= 0
        assert row["case"] in text
