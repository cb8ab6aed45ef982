"""The coordinator's actor without Ray, for the tests of this room."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace

import pytest
import ray

from ray_dra.processes import agents, look_loop, wiring
from ray_dra.processes import coordinator_actor as actors
from ray_dra.simulated.fakes import FakeRay, MemoryStore


class Outside:
    """What the actor finds around it: a store, a Ray with the job that started it, and what it has ended."""

    def __init__(self) -> None:
        self.store, self.ray, self.killed = MemoryStore(), FakeRay(), list[object]()
        self.ray.jobs.add("starter")


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    made = Outside()
    context = SimpleNamespace(get_job_id=lambda: "starter", current_actor="itself")
    monkeypatch.setattr(actors, "store_here", lambda: made.store)
    monkeypatch.setattr(agents, "start_agent", lambda raylet: None)
    monkeypatch.setattr(agents, "stop_agent", lambda raylet: None)
    monkeypatch.setattr(actors, "ask_again", lambda raylet: None)
    monkeypatch.setattr(wiring, "RayAdapter", lambda: made.ray)
    monkeypatch.setattr(look_loop, "LOOK_SECONDS", 0.02)
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
            actor._loop.task.cancel()

    asyncio.run(both())
