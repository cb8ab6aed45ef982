"""The coordinator's actor without Ray: its loop over a store and a Ray that are fakes."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace

import pytest
import ray

from ray_dra import actors
from ray_dra.ports import NodeReading, RayNode
from ray_dra.runtime.pace import LEAST_SECONDS, LOOK_SECONDS, pause
from ray_dra.simulated.fakes import FakeRay, MemoryStore
from ray_dra.translate.records import reading_to_bytes
from tests.runtime.kubernetes_world import World


class Outside:
    """What the actor finds around it: a store, a Ray with the job that started it, and what it has ended."""

    def __init__(self) -> None:
        self.store, self.ray, self.killed = MemoryStore(), FakeRay(), list[object]()
        self.ray.jobs.add("starter")


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    made = Outside()
    context = SimpleNamespace(get_job_id=lambda: "starter", current_actor="itself")
    monkeypatch.setattr(actors, "KvStore", lambda: made.store)
    monkeypatch.setattr(actors, "RayAdapter", lambda: made.ray)
    monkeypatch.setattr(actors, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray, "kill", made.killed.append)
    yield made
    gc.enable()


def run(test: Callable[[actors.CoordinatorActor], Awaitable[None]]) -> None:
    """A test beside the actor's loop."""

    async def both() -> None:
        actor = actors.CoordinatorActor()
        try:
            await test(actor)
        finally:
            actor._loop.cancel()

    asyncio.run(both())


async def until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to be within 30 s")


def counting(monkeypatch: pytest.MonkeyPatch, actor: actors.CoordinatorActor, look: Callable[[int], None]) -> list[int]:
    """The looks from now on; `look` comes before each, and may fail."""
    looks: list[int] = []
    observe = actor._core.observe

    def counted() -> None:
        looks.append(1)
        look(len(looks))
        observe()

    monkeypatch.setattr(actor._core, "observe", counted)
    return looks


def test_a_look_that_fails_is_told_and_the_next_one_comes(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_once(look: int) -> None:
        if look == 1:
            raise KeyError("a fault")

    async def test(actor: actors.CoordinatorActor) -> None:
        looks = counting(monkeypatch, actor, fail_once)
        await until(lambda: len(looks) > 2)

    with caplog.at_level(logging.ERROR, "ray_dra"):
        run(test)
    assert "a look failed" in caplog.text


def test_what_drivers_say_is_looked_at_at_once(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not half a second later: the making of a gang's workers begins with a look, and its barrier opens in one."""
    world = World()
    outside.ray.jobs.add("job")
    monkeypatch.setattr(actors, "_kube", lambda target, changed: world.kube)
    monkeypatch.setattr(actors, "LOOK_SECONDS", 3600.0)

    async def test(actor: actors.CoordinatorActor) -> None:
        looks = counting(monkeypatch, actor, lambda look: None)
        await until(lambda: looks)
        await asyncio.sleep(0.2)
        assert len(looks) == 1, "nothing has changed"
        gang = await actor.submit(world.order())
        await until(lambda: len(looks) == 2)
        await actor.commit(gang.gang, "a-group", gang.moves)
        await until(lambda: len(looks) == 3)
        assert world.kube.writes, "the making of its workers has begun"

    run(test)


def test_it_ends_with_the_last_program_and_whoever_comes_then_asks_again(outside: Outside) -> None:
    outside.ray.nodes["raylet"] = RayNode("raylet", alive=True, labels={}, total={}, available={})

    async def test(actor: actors.CoordinatorActor) -> None:
        assert not await actor.hello("second"), "Ray does not list it"
        outside.ray.jobs.add("second")
        assert await actor.hello("second")
        outside.ray.jobs.remove("starter")
        await asyncio.sleep(0.2)
        assert not outside.killed
        outside.ray.jobs.remove("second")
        await until(lambda: outside.killed)
        outside.ray.jobs.add("third")
        assert not await actor.hello("third")
        await actor.report("raylet", reading_to_bytes(NodeReading()), None)
        await asyncio.wait_for(actor._loop, 30)

    run(test)
    assert outside.killed == ["itself"]
    assert not outside.store.data


def test_it_ends_though_its_starter_died_before_it_said_hello(outside: Outside) -> None:
    async def test(actor: actors.CoordinatorActor) -> None:
        outside.ray.jobs.clear()
        await until(lambda: outside.killed)

    run(test)


def test_started_again_it_serves_whom_it_served(outside: Outside) -> None:
    outside.store.put("session/other", b"")
    outside.ray.jobs = {"other"}

    async def test(actor: actors.CoordinatorActor) -> None:
        await asyncio.sleep(0.2)
        assert not outside.killed
        outside.ray.jobs.clear()
        await until(lambda: outside.killed)

    run(test)


def test_it_ends_though_its_keys_cannot_be_deleted(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that had retired and stayed would turn every later program away."""

    delete = outside.store.delete

    def fail(key: str) -> None:
        if key == "gang/of-old":
            raise RuntimeError("the control store does not answer")
        delete(key)

    async def test(actor: actors.CoordinatorActor) -> None:
        outside.store.put("gang/of-old", b"")
        outside.ray.jobs.clear()
        await until(lambda: outside.killed)

    monkeypatch.setattr(outside.store, "delete", fail)
    run(test)


def test_looking_takes_a_sixth_of_the_time_at_most() -> None:
    for used in (0.0, 0.001, 0.01, 0.05):
        assert used <= (used + pause(used, used)) / 6 + 1e-9
        assert pause(used, used) >= LEAST_SECONDS
    assert pause(0.2, 0.0) == 0.2, "and half of the time"
    assert pause(60.0, 60.0) == LOOK_SECONDS
