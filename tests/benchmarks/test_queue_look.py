"""The benchmark of a look at a long queue runs, and does what it says."""

from __future__ import annotations

import random
import sys
from pathlib import Path

HERE = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(HERE))

import queue_look  # noqa: E402

from ray_dra.core.gangs.events import ReleaseAsked  # noqa: E402
from ray_dra.core.model.locality import Locality  # noqa: E402


def test_a_look_starts_gangs_before_their_turn() -> None:
    queue = queue_look.Queue(2, random.Random(0))
    while queue.engine.records.first is None:
        queue.some()
    queue.act(ReleaseAsked(queue.engine.records.first.id))
    queue.submit(144, Locality(segment=72), 36_000.0)
    for _ in range(60):
        queue.some()
    first, started = queue.engine.records.first, 0
    assert first is not None
    for _ in range(10):
        holders = [gang.id for gang, _ in queue.engine.records.holders()]
        queue.act(ReleaseAsked(queue.dice.choice(holders)))
        started += queue.look()[1]
        queue.now += 1.0
        queue.engine.validate()
    assert started > 0
    still = queue.engine.records.first
    assert still is not None
    assert still.id == first.id
    assert still.promised is not None
