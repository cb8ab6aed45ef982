"""Every call of the coordinator's actor, given anything: any program of the cluster may make it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ray_dra.core.gangs.order import Order
from ray_dra.errors import RayDraError
from ray_dra.processes.coordinator_actor import CoordinatorActor
from ray_dra.translate.map.view import Cursor
from tests.coordinator.world import tray
from tests.core.machines import gang, group_id
from tests.edge.hostile import EXTREMES
from tests.processes.conftest import Outside, run

Call = Callable[[CoordinatorActor, Any], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "raylet": lambda actor, value: actor.report(value, None, None, 1),
    "reading": lambda actor, value: actor.report("t0-0", value, None, 1),
    "visible": lambda actor, value: actor.report("t0-0", b"{}", value, 1),
    "count": lambda actor, value: actor.report("t0-0", None, None, value),
    "job": lambda actor, value: actor.hello(value),
    "policy": lambda actor, value: actor.hello("starter", value),
    "order": lambda actor, value: actor.submit(value),
    "commit": lambda actor, value: actor.commit(value, group_id("g"), 0),
    "release": lambda actor, value: actor.release(value, 0.0),
    "release's timeout": lambda actor, value: actor.release("nobody", value),
    "status": lambda actor, value: actor.status(value),
    "wait": lambda actor, value: actor.await_phase(value, (), 0.0),
    "phases": lambda actor, value: actor.await_phase("waits", value, 0.0),
    "wait's timeout": lambda actor, value: actor.await_phase("waits", ("queued",), value),
    "notice": lambda actor, value: actor.notice(value, 0.0),
    "notice's timeout": lambda actor, value: actor.notice("nobody", value),
    "ready": lambda actor, value: actor.await_ready(value, ""),
    "plan": lambda actor, value: actor.plan(value),
    "cursor": lambda actor, value: actor.view(value),
    "epoch": lambda actor, value: actor.view(Cursor(value)),
    "changes of nodes": lambda actor, value: actor.view(Cursor(actor._views._epoch + ".0.0", value, 1)),
    "changes of gangs": lambda actor, value: actor.view(Cursor(actor._views._epoch + ".0.0", 1, value)),
    "group": lambda actor, value: actor.ordinary(value, "", ""),
    "name": lambda actor, value: actor.ordinary("", value, ""),
    "raylet of a worker": lambda actor, value: actor.devices_for(value, "", -1, (0,), 1),
    "gpu_ids": lambda actor, value: actor.devices_for("t0-0", "", -1, value, 1),
    "gpu_ids of what ended": lambda actor, value: actor.ended("t0-0", value, 1),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_the_actor_given_the_worst(call: str, outside: Outside) -> None:
    """Answered, or refused by an error of ours; and the actor goes on."""

    async def calls(actor: CoordinatorActor) -> None:
        outside.ray.add_node("t0-0", gpus=4)
        actor._core.observe()
        actor._core.report("t0-0", tray("t0"))
        for name in ("holds", "waits"):
            await actor.submit(Order(gang(4, name=name), owner="starter"))
        for value in EXTREMES:
            try:
                await CALLS[call](actor, value)
            except RayDraError as error:
                assert error.reason
        assert {status.gang for status in await actor.gangs()} >= {"holds", "waits"}

    run(calls)
