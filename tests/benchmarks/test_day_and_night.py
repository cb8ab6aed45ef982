"""The replay of a day counts what it serves, and its boxes have what the load asks."""

from __future__ import annotations

import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import day_and_night as day


def test_requests_are_served_in_their_order_by_whoever_is_free() -> None:
    replicas = day.Replicas()
    replicas.add(0, 0.0)
    chance, at, done = random.Random(1), 0.0, list[float]()
    for _ in range(2_000):
        at += chance.expovariate(8.0)
        done.append(replicas.serve(at))
        assert done[-1] >= at + day.SERVICE
        assert sum(end > at for end in done) <= day.GPUS * day.PARTS or done[-1] > at + day.SERVICE
    assert all(a <= b + day.SERVICE for a, b in pairwise(done))
    assert max(sum(end - day.SERVICE <= at < end for end in done) for at in done) <= day.GPUS * day.PARTS
    assert replicas.remove(0, at) == max(done)


def test_there_are_always_more_replicas_than_the_load_asks() -> None:
    for minute in range(0, 1_440, 5):
        at = minute * 60.0
        boxes = day.Shapes.wanted(at)
        assert 1 <= boxes <= day.BOXES
        assert boxes == day.BOXES or boxes * day.GPUS * day.PARTS >= day.load(at) * day.SERVICE * day.MARGIN


def test_each_box_changes_on_its_own_gpus_and_back() -> None:
    shapes = day.Shapes()
    before = [{grant.uuid for grant in box.held.grants} for box in shapes.boxes]
    for serves in (True, False, True):
        for number in range(day.BOXES):
            shapes.change(number, serves=serves)
        now = [
            {grant.part.parent if grant.part is not None else grant.uuid for grant in box.held.grants}
            for box in shapes.boxes
        ]
        assert now == before
        assert {len(box.held.bundles) for box in shapes.boxes} == {56 if serves else 1}


def test_idle_is_what_is_left_of_all_gpus() -> None:
    served = day.Served([10.0] * 3_600, training=100.0)
    hours = day.BOXES * day.GPUS * 24.0
    assert served.idle == pytest.approx(hours - 100.0 - day.SERVICE / day.PARTS)
