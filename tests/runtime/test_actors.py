"""The coordinator's actor without Ray: its loop over a store and a Ray that are fakes."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from ray_dra import actors
from ray_dra.runtime.pace import LEAST_SECONDS, LOOK_SECONDS, pause
from ray_dra.simulated.fakes import FakeRay, MemoryStore
from tests.runtime.kubernetes_world import World


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


def test_what_drivers_say_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not half a second later: the making of a gang's workers begins with a look, and its barrier opens in one."""
    world = World()
    monkeypatch.setattr(actors, "KvStore", MemoryStore)
    monkeypatch.setattr(actors, "RayAdapter", FakeRay)
    monkeypatch.setattr(actors, "_kube", lambda target, changed: world.kube)
    monkeypatch.setattr(actors, "LOOK_SECONDS", 3600.0)
    looks = []

    async def run() -> None:
        actor = actors.CoordinatorActor()
        observe = actor._core.observe
        assert isinstance(actor._core.ray, FakeRay)
        actor._core.ray.jobs.add("job")

        def counted() -> None:
            looks.append(1)
            observe()

        monkeypatch.setattr(actor._core, "observe", counted)

        async def looked(times: int) -> None:
            for _ in range(600):
                if len(looks) >= times:
                    return
                await asyncio.sleep(0.05)

        await looked(1)
        await asyncio.sleep(0.2)
        assert len(looks) == 1, "nothing has changed"
        gang = await actor.submit(world.order())
        await looked(2)
        await actor.commit(gang.gang, "a-group", gang.moves)
        await looked(3)
        actor._loop.cancel()

    try:
        asyncio.run(run())
    finally:
        gc.enable()
    assert len(looks) == 3
    assert world.kube.writes, "the making of its workers has begun"


def test_looking_takes_a_sixth_of_the_time_at_most() -> None:
    for used in (0.0, 0.001, 0.01, 0.05):
        assert used <= (used + pause(used, used)) / 6 + 1e-9
        assert pause(used, used) >= LEAST_SECONDS
    assert pause(0.2, 0.0) == 0.2, "and half of the time"
    assert pause(60.0, 60.0) == LOOK_SECONDS
