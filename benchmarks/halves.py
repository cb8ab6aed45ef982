"""Whether a change to FGD's rule wins on pods that it was not chosen on.

    python benchmarks/traces.py --traces DIR --workload default --halves --seeds 5 --json default.json \
        --policy fgd,fgd:points=50,fgd:fullest,...
    python benchmarks/halves.py default.json multigpu20.json ...

Reads what `traces.py --halves` wrote for several lists. Three ways to split them: chosen on the first halves and
reported on the second; the other way round; chosen on all lists but one and reported on that one. Chosen is the
change that gains most over `fgd` (GPUs allocated, mean of the runs); a gain is paired by run, with its 95 % bootstrap
interval. A change may become the default where the gain that is reported is above 0 with all of its interval, in
every split, and over at least so many runs that the interval says something (FEWEST).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from traces import Row, compare

RULE = "fgd"
FIGURE = "allocated_pct"
FEWEST = 3

Gain = tuple[float, float, float]
"""Percentage points of all GPUs over the rule: mean, and the 95 % interval."""


def gains(rows: list[Row]) -> dict[str, Gain]:
    """Change -> what it gains over the rule on these runs."""
    return {
        policy: (0 - mean, 0 - high, 0 - low)
        for policy, _, mean, low, high in compare(rows, FIGURE, RULE)
        if policy != RULE
    }


def splits(rows: list[Row]) -> list[tuple[str, Callable[[Row], bool]]]:
    """(what it is chosen on and reported on, whether a run is of the part that it is chosen on)."""

    def of_half(half: int) -> Callable[[Row], bool]:
        return lambda row: bool(row["half"] == half)

    def not_of(name: str) -> Callable[[Row], bool]:
        return lambda row: bool(row["workload"] != name)

    found = [("first halves -> second halves", of_half(1)), ("second halves -> first halves", of_half(2))]
    lists = sorted({row["workload"] for row in rows})
    return found + [(f"the other lists -> {name}", not_of(name)) for name in lists if len(lists) > 1]


def verdict(rows: list[Row]) -> list[str]:
    """The changes that win in every split: those that may become the default."""
    changes = sorted({row["policy"] for row in rows} - {RULE})
    winners = set(changes)
    for name, chosen_on in splits(rows):
        tuned = gains([row for row in rows if chosen_on(row)])
        others = [row for row in rows if not chosen_on(row)]
        told = gains(others)
        if not tuned.keys() == told.keys() == set(changes):
            raise SystemExit(f"{name}: a change has no runs in one of the parts")
        best = max(changes, key=lambda change: tuned[change][0])
        print(f"\n{name}: chosen {best}")
        print(f"  {'':<34}{'chosen on':<28}reported on")
        for change in changes:
            print(f"  {change:<34}{shown(tuned[change]):<28}{shown(told[change])}{' <-' if change == best else ''}")
        enough = sum(row["policy"] == best for row in others) >= FEWEST
        winners &= {best} if enough and told[best][1] > 0 else set()
    return sorted(winners)


def shown(gain: Gain) -> str:
    mean, low, high = gain
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("files", type=Path, nargs="+", help="what traces.py --halves wrote")
    rows: list[Row] = [row for path in made.parse_args().files for row in json.loads(path.read_text())]
    if {row.get("half") for row in rows} != {1, 2} or RULE not in {row["policy"] for row in rows}:
        made.error(f"there have to be runs of both halves, and of {RULE}, in these files")
    winners = verdict(rows)
    print(f"\nwins on what it was not chosen on, in every split: {', '.join(winners) or 'none; the rule stays'}")


if __name__ == "__main__":
    main()
