"""The coordinator's actor without Ray: its loop over a store and a Ray that are fakes."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from ray_dra import actors
from ray_dra.simulated.fakes import FakeRay, MemoryStore


def test_a_look_that_fails_is_told_and_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(actors, "KvStore", MemoryStore)
    monkeypatch.setattr(actors, "RayAdapter", FakeRay)
    monkeypatch.setattr(actors, "LOOK_SECONDS", 0.1)
    looks = []

    async def run() -> None:
        actor = actors.CoordinatorActor()
        observe = actor._core.observe

        def fail_once() -> None:
            looks.append(1)
            if len(looks) == 1:
                raise KeyError("a fault")
            observe()

        monkeypatch.setattr(actor._core, "observe", fail_once)
        for _ in range(600):
            if len(looks) > 2 or actor._loop.done():
                break
            await asyncio.sleep(0.05)
        actor._loop.cancel()

    try:
        with caplog.at_level(logging.ERROR, "ray_dra"):
            asyncio.run(run())
    finally:
        gc.enable()
    assert len(looks) > 2
    assert "a look failed" in caplog.text
