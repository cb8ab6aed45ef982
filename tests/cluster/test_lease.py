"""The lease that keeps two coordinators from writing for one RayCluster, on a real API server."""

from __future__ import annotations

import time

import pytest

from ray_dra.adapters import lease
from ray_dra.adapters.lease import Lease
from tests.cluster.world import Namespace


def test_one_has_it_at_a_time_and_a_restart_need_not_wait(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("DURATION_SECONDS", 3), ("RENEW_SECONDS", 0.5), ("ASK_SECONDS", 0.1), ("SAFE_SECONDS", 2.0)):
        monkeypatch.setattr(lease, name, value)
    made = [Lease(namespace.api, namespace.name, "gangs", holder) for holder in ("first", "second")]
    try:
        for each in made:
            assert each.asked.wait(10)
        holding = [each for each in made if not each.missing()]
        assert len(holding) == 1
        (waiting,) = (each for each in made if each is not holding[0])
        assert "another coordinator" in waiting.missing()
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:  # renewed beyond its duration
            assert [bool(each.missing()) for each in (holding[0], waiting)] == [False, True]
            time.sleep(0.05)
        again = Lease(namespace.api, namespace.name, "gangs", holding[0]._holder)  # its coordinator was killed
        holding[0].stop()
        made.append(again)
        assert again.asked.wait(10)
        assert not again.missing()
        again.stop()
        deadline = time.monotonic() + 20
        while waiting.missing():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert again.missing()
    finally:
        for each in made:
            each.stop()


def test_without_the_right_it_says_so(namespace: Namespace) -> None:
    made = Lease(namespace.api, "there-is-no-such-namespace", "gangs", "me")
    try:
        assert made.asked.wait(10)
        assert made.missing()
    finally:
        made.stop()
