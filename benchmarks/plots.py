"""Figures for people: one a question, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, Any]
OURS, OTHERS = "#1b6e53", "#9aa5b1"
STYLES = ("-", "--", "-.", ":")


def draw(rows: list[Row], path: Path, *, pods: bool) -> list[Path]:
    """The figures of a run; the paths written."""
    where = f"{rows[0]['workload']} on {rows[0]['cluster']}"
    if not all(row["trace"] for row in rows):
        where = f"synthetic workload on {rows[0]['cluster']}"
    stem = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    if pods:
        return _curves(rows, where, stem)
    return [*_bars(rows, where, stem), *_waits(rows, where, stem.with_name(stem.name + "-waits"))]


def _line(policy: str, at: int) -> dict[str, Any]:
    if policy == "ray-dra":
        return {"linestyle": "-", "linewidth": 2.4, "color": OURS, "zorder": 3}
    return {"linestyle": STYLES[at % len(STYLES)], "linewidth": 1.3, "zorder": 2}


def _by_policy(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["policy"], []).append(row)
    return found


def _curves(rows: list[Row], where: str, stem: Path) -> list[Path]:
    """How much of the GPUs is allocated as demand arrives?"""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for i, (policy, runs) in enumerate(sorted(_by_policy(rows).items())):
        points = sorted({int(p) for run in runs for p in run["curve"]})
        values = [mean(run["curve"][str(p)] for run in runs if str(p) in run["curve"]) for p in points]
        axes.plot(points, values, label=policy, **_line(policy, i))
    axes.plot([50, 100], [50, 100], color="#cccccc", linewidth=1, label="all that arrived")
    axes.set_xlim(80, 100.5)
    axes.set_ylim(min(run["curve"].get("80", 75.0) for run in rows) - 1, 100)
    axes.set_xlabel("GPU demand that has arrived (% of the cluster's GPUs)")
    axes.set_ylabel("GPUs allocated (%)")
    axes.set_title(f"How much of what arrives finds a place: {where}")
    axes.legend(fontsize=8)
    return _save(figure, stem)


def _bars(rows: list[Row], where: str, stem: Path) -> list[Path]:
    """How much of the cluster does useful work?"""
    found = sorted(_by_policy(rows).items(), key=lambda item: mean(r["goodput_pct"] for r in item[1]))
    names = [policy for policy, _ in found]
    good = [mean(r["goodput_pct"] for r in runs) for _, runs in found]
    lost = [mean(r["occupancy_pct"] - r["goodput_pct"] for r in runs) for _, runs in found]
    figure, axes = plt.subplots(figsize=(7, 0.42 * len(names) + 1.8))
    axes.barh(names, good, color=[OURS if n == "ray-dra" else OTHERS for n in names], label="useful")
    axes.barh(names, lost, left=good, color="#e8c4a0", label="lost by gangs outside their clique")
    for at, value in enumerate(good):
        axes.text(value - 0.5, at, f"{value:.1f}", va="center", ha="right", fontsize=8, color="white")
    axes.set_xlabel("GPU time (% of the cluster over the trace)")
    axes.set_title(f"Goodput: {where}")
    axes.set_xlim(0, max(g + n for g, n in zip(good, lost, strict=True)) * 1.05)
    axes.legend(fontsize=8, loc="lower right")
    return _save(figure, stem)


def _waits(rows: list[Row], where: str, stem: Path) -> list[Path]:
    """How long do jobs wait?"""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for i, (policy, runs) in enumerate(sorted(_by_policy(rows).items())):
        waits = sorted(w / 3600 for run in runs for w in run["waits"])
        shares = [100 * (n + 1) / len(waits) for n in range(len(waits))]
        axes.plot(waits, shares, label=policy, **_line(policy, i))
    axes.set_xlabel("wait before the job starts (hours)")
    axes.set_ylabel("jobs that waited at most so long (%)")
    axes.set_title(f"Waits: {where}")
    axes.legend(fontsize=8)
    return _save(figure, stem)


def _save(figure: Any, stem: Path) -> list[Path]:
    figure.tight_layout()
    paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=130)
    plt.close(figure)
    return paths


def survival(rows: list[Row], path: Path) -> list[Path]:
    """How many spares a rack needs: a panel for each time of repair, a line for each way and size of gang."""
    repairs = sorted({row["repair_h"] for row in rows})
    figure, panels = plt.subplots(1, len(repairs), figsize=(5 * len(repairs), 4.2), sharey=True, squeeze=False)
    colors = {
        "degrade": "#9aa5b1",
        "restart": "#c9822b",
        "replace": OURS,
        "shrink": "#7b5ea7",
        "replace, shrink": "#2f855a",
    }
    for axes, repair in zip(panels[0], repairs, strict=True):
        for way, color in colors.items():
            for at, (gpus, worse) in enumerate(sorted({(row["gpus"], row["worse"]) for row in rows})):
                key = (repair, way, gpus, worse)
                found = [r for r in rows if (r["repair_h"], r["way"], r["gpus"], r["worse"]) == key]
                found.sort(key=lambda row: int(row["spares"]))
                label = f"{way}, {gpus} GPUs" + (f", faults x {worse:g}" if worse != 1 else "")
                shares = [row["goodput_pct"] for row in found]
                axes.plot([r["spares"] for r in found], shares, STYLES[at % 4], color=color, marker="o", label=label)
        axes.set_xticks(sorted({row["spares"] for row in rows}))
        axes.set_xlabel("spares a rack of 18 nodes")
        axes.set_title(f"a node is repaired in {repair:g} h")
    panels[0][0].set_ylabel("time in which the gang makes progress (%)")
    panels[0][-1].legend(fontsize=7)
    return _save(figure, path.with_suffix("") if path.suffix in (".png", ".svg") else path)
