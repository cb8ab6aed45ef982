"""The actor's loops: when the coordinator looks, and which raylets get an agent."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from ray_dra.ports.ray import RayNode, RayView
from ray_dra.processes import agents, look_loop, node_agent
from ray_dra.processes.agents import Agents
from ray_dra.processes.look_loop import LookLoop
from ray_dra.translate.names import SLOT_LABEL


@pytest.mark.parametrize("expects", [False, True])
def test_what_is_expected_is_looked_for_though_nobody_tells(monkeypatch: pytest.MonkeyPatch, expects: bool) -> None:
    monkeypatch.setattr(look_loop, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(look_loop, "EXPECTS_SECONDS", 0.0)
    looks: list[int] = []

    async def run() -> None:
        enough = asyncio.Event()

        def look() -> None:
            looks.append(1)
            loop.expects = expects
            if len(looks) == 3:
                loop.end()
                enough.set()

        loop = LookLoop(look, lambda: None)
        if expects:
            await asyncio.wait_for(enough.wait(), 60)
            await loop.task
        else:
            while not looks:
                await asyncio.sleep(0)
            await asyncio.sleep(0.2)
            loop.task.cancel()

    asyncio.run(run())
    assert len(looks) == (3 if expects else 1)


def test_raylets_that_join_a_gang_get_their_agents_once_it_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(agents, "start_agent", started.append)
    nodes: Any = SimpleNamespace(heard={})
    keeper = Agents(nodes)

    def node(name: str, **labels: str) -> RayNode:
        resources = {"GPU": 4.0}
        return RayNode(name, True, {SLOT_LABEL: labels["slot"]} if labels else {}, resources, resources, name, False)

    view = RayView((node("static"), node("joins", slot="a.n1"), node("runs", slot="b.n1")))
    keeper.keep(view, 1.0, later={"a.n1"})
    assert started == ["static", "runs"]
    keeper.keep(view, 1.5)
    assert started == ["static", "runs", "joins"]
    keeper.keep(view, 1.6, later={"b.n1"})
    assert started == ["static", "runs", "joins"], "none is started twice, and none ends for being placed again"


def test_an_agent_that_does_not_speak_is_replaced_and_one_that_speaks_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(agents, "start_agent", lambda raylet: calls.append(f"start {raylet}"))
    monkeypatch.setattr(agents, "stop_agent", lambda raylet: calls.append(f"stop {raylet}"))
    heard: dict[str, float] = {}
    nodes: Any = SimpleNamespace(heard=heard)
    keeper = Agents(nodes)
    resources = {"GPU": 4.0}
    view = RayView(tuple(RayNode(name, True, {}, resources, resources, name, False) for name in ("mute", "well")))
    stops: list[int] = []
    for second in range(600):
        heard["well"] = float(second)
        before = len(calls)
        keeper.keep(view, float(second))
        stops += [second for call in calls[before:] if call == "stop mute"]
    assert calls.count("start well") == 1
    assert "stop well" not in calls
    assert calls[-1] == "start mute"
    assert calls.count("start mute") > 20
    patience = [later - sooner for sooner, later in zip([0, *stops], stops, strict=False)]
    assert len(patience) == 3
    assert all(60 * 2**n <= waited < 60 * 2**n + 25 for n, waited in enumerate(patience)), "a slow start is waited for"

    keeper.keep(RayView(), 600.0)
    calls.clear()
    keeper.keep(view, 601.0)
    assert calls == ["start mute", "start well"], "what is gone is forgotten"


class Over(BaseException):
    """Ends the agent's loop, which nothing else does."""


def test_an_agent_that_meets_a_fault_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def once(send: Any, *, stopped: Any) -> None:
        begun.append(len(begun))
        raise BlockingIOError("no process to be had") if len(begun) == 1 else Over

    run = node_agent.AgentActor._run
    monkeypatch.setattr(node_agent.AgentActor, "_run", lambda agent: None)
    monkeypatch.setattr(node_agent, "run_agent", once)
    monkeypatch.setattr(node_agent, "HEARTBEAT_SECONDS", 0.0)
    with pytest.raises(Over):
        run(node_agent.AgentActor("raylet"))
    assert begun == [0, 1]
