"""Writes to the API server keep to the limits that the RayCluster sets, and all of them are made."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ray_dra.adapters.write_limits import Writers
from ray_dra.errors import Conflict
from ray_dra.ports.kube_objects import WriteLimits


@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_no_more_are_made_at_once_and_none_is_left_out(at_once: int) -> None:
    now, most, made = 0, 0, 0
    lock = threading.Lock()

    def write() -> None:
        nonlocal now, most, made
        with lock:
            now, made = now + 1, made + 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    with ThreadPoolExecutor(16) as pool:
        Writers(pool, lambda: WriteLimits(at_once)).together([write] * 60)
    assert made == 60
    assert most <= at_once


def test_no_more_begin_in_a_second_whoever_makes_them() -> None:
    began: list[float] = []
    with ThreadPoolExecutor(16) as pool:
        writers = Writers(pool, lambda: WriteLimits(16, per_second=100.0))

        def write() -> None:
            writers.wait()
            began.append(time.monotonic())

        writers.together([write] * 20)
        writers.together([write] * 10)
    assert len(began) == 30
    assert max(began) - min(began) >= 28 / 100.0


def test_a_no_to_one_is_raised_when_all_others_are_made() -> None:
    made = []

    def refuse() -> None:
        raise Conflict("no")

    with ThreadPoolExecutor(4) as pool, pytest.raises(Conflict):
        Writers(pool, lambda: WriteLimits(2)).together([refuse, *[lambda: made.append(1)] * 9])
    assert len(made) == 9
