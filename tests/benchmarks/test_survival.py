"""The benchmark of what spares are worth runs, and acting on faults is never worse than not acting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "survival.py"


def test_a_small_gang_with_faults_that_come_often(tmp_path: Path) -> None:
    out = tmp_path / "survival.json"
    command = [sys.executable, str(SCRIPT), "--gpus", "128", "--repair", "24", "--worse", "30", "--days", "10"]
    command += ["--spares", "0,2", "--seeds", "2", "--json", str(out), "--plot", str(tmp_path / "plot")]
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    rows = {(row["spares"], row["way"]): row for row in json.loads(out.read_text())}
    assert {path.suffix for path in tmp_path.glob("plot.*")} == {".png", ".svg"}
    assert all(0 < row["goodput_pct"] <= 100 for row in rows.values())
    assert rows[2, "replace"]["replaced"] > 0
    assert rows[2, "restart"]["restarts"] > 0
    assert rows[0, "shrink"]["shrunk"] >= rows[0, "shrink"]["grown"] > 0
    assert rows[0, "degrade"]["goodput_pct"] < rows[0, "shrink"]["goodput_pct"], "a part of it goes on"
    degrade, restart, replace = (rows[2, way]["goodput_pct"] for way in ("degrade", "restart", "replace"))
    assert degrade < restart <= replace
    assert rows[0, "replace"]["goodput_pct"] < replace, "spares are what it lives by"
