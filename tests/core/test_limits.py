"""The limits that the docs tell are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ray_dra.core.cluster import known_nodes
from ray_dra.core.gangs import admission, gang, lifecycle
from ray_dra.core.planner import work

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("limit", "value", "file", "said"),
    [
        (lifecycle.PLACE_SECONDS, 3, "architecture", "does not place the bundles within 3 s"),
        (lifecycle.MOST_MOVES, 5, "architecture", "planned again elsewhere, at most five times"),
        (gang.MOST_CHANGES, 20, "architecture", "keeps the last 20 changes"),
        (gang.MOST_WHY, 300, "architecture", "(300 characters at most)"),
        (lifecycle.HOLD_SECONDS, 30, "architecture", "nobody makes its placement group within 30 s"),
        (lifecycle.WORKERS_SECONDS, 20, "kubernetes", "within 20 s the gang gets new workers"),
        (admission.MOST_WAITING, 10_000, "architecture", "A program has at most 10,000 gangs in the queue"),
        (admission.REST_FACTOR, 10, "architecture", "rests for 10 times as long as a no"),
        (known_nodes.REMEMBER_SECONDS, 600, "architecture", "a node that is gone counts for that for 10 minutes more"),
        (work.STEPS, 300_000, "planner", "(`work.STEPS`, 300,000,"),
        (work.MOST_CLASSES, 1_000, "planner", "at most 1,000 classes of bundles"),
    ],
)
def test_a_limit_is_what_is_told_of_it(limit: float, value: float, file: str, said: str) -> None:
    assert limit == value
    assert said in re.sub(r"\s+", " ", (DOCS / f"{file}.md").read_text())
