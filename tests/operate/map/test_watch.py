"""What browsers hear: all there is, then what changes; that a source is silent, and that it is back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ray_dra.errors import CoordinatorUnavailable
from ray_dra.operate.map import watch as watching
from ray_dra.operate.map.watch import Watch
from ray_dra.translate.map.page import State, applied
from ray_dra.translate.map.view import Cursor, View


class Told:
    """A source that tells what it is given, one view a look."""

    about, live = "a test", True

    def __init__(self) -> None:
        self.views: list[View | Exception] = []
        self.looks = 0

    def look(self, cursor: Cursor) -> View:
        self.looks += 1
        view = self.views.pop(0) if self.views else View(cursor)
        if isinstance(view, Exception):
            raise view
        return view

    def gang(self, gang: str) -> dict[str, Any]:
        raise NotImplementedError

    def plan(self, request: object) -> Any:
        raise NotImplementedError


def gangs(number: int, **cards: dict[str, Any]) -> View:
    return View(Cursor("e", 0, number), again=number == 1, gangs=cards)


async def heard(events: AsyncGenerator[str, None]) -> tuple[str, State]:
    lines = (await asyncio.wait_for(events.__anext__(), 20)).splitlines()
    fields = dict(line.partition(": ")[::2] for line in lines if line)
    assert float(fields["id"]) > 1e9
    return fields["event"], json.loads(fields["data"])


async def heard_change(events: AsyncGenerator[str, None]) -> State:
    while True:
        name, found = await heard(events)
        if name == "change":
            return found


def test_two_browsers_know_the_same_and_nobody_is_asked_when_they_have_gone() -> None:
    async def run() -> None:
        source = Told()
        source.views = [gangs(1, a={"phase": "queued"})]
        watch = Watch(source, seconds=0.01)
        assert source.looks == 0
        first = watch.events()
        name, one = await heard(first)
        assert (name, one["gangs"], one["queue"], one["about"]) == (
            "state",
            {"a": {"phase": "queued"}},
            ["a"],
            "a test",
        )
        assert "\n" not in json.dumps(one)
        source.views = [gangs(2, b={"phase": "ready"}), gangs(3, b={"phase": "degraded"})]
        while "b" not in one["gangs"] or one["gangs"]["b"]["phase"] != "degraded":
            one = applied(one, await heard_change(first))
        second = watch.events()
        assert await heard(second) == ("state", one)
        assert watch.browsers == 2
        for events in (first, second):
            await events.aclose()
        await asyncio.sleep(0.1)
        looks = source.looks
        await asyncio.sleep(0.1)
        assert (watch.browsers, source.looks) == (0, looks)
        third = watch.events()
        await heard(third)
        source.views = [gangs(4, c={"phase": "ready"})]
        assert (await heard_change(third))["gangs"] == {"c": {"phase": "ready"}}
        await third.aclose()

    asyncio.run(run())


def test_a_slow_browser_hears_all_changes_as_one() -> None:
    async def run() -> None:
        source = Told()
        watch = Watch(source, seconds=0.01)
        events = watch.events()
        _, state = await heard(events)
        source.views = [gangs(1, a={"phase": "queued"}), gangs(2, a={"phase": "ready"}, b={"phase": "ready"})]
        source.views.append(View(Cursor("e", 0, 3), ended=["b"]))
        while source.views:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        change = await heard_change(events)
        assert change["gangs"] == {"a": {"phase": "ready"}, "b": None}
        assert applied(state, change)["gangs"] == {"a": {"phase": "ready"}}
        await events.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("fault", [CoordinatorUnavailable("The coordinator did not answer."), RuntimeError("odd")])
def test_a_silent_source_is_said_and_what_was_known_stays(fault: Exception) -> None:
    async def run() -> None:
        source = Told()
        source.views = [gangs(1, a={"phase": "ready"}), fault, fault, gangs(2, b={"phase": "ready"})]
        watch = Watch(source, seconds=0.01)
        events = watch.events()
        _, state = await heard(events)
        assert not state["silent"]
        change = await heard_change(events)
        assert change["silent"]["why"] == getattr(fault, "reason", "RuntimeError")
        state = applied(state, change)
        assert state["gangs"] == {"a": {"phase": "ready"}}
        while state["silent"]:
            state = applied(state, await heard_change(events))
        while "b" not in state["gangs"]:
            state = applied(state, await heard_change(events))
        await events.aclose()

    asyncio.run(run())


def test_one_that_is_silent_from_the_first_on_is_said_too() -> None:
    async def run() -> None:
        source = Told()
        source.views = [CoordinatorUnavailable("There is none.")]
        watch = Watch(source, seconds=0.01)
        events = watch.events()
        assert (await heard(events))[1]["silent"]["why"] == "There is none."
        assert await heard_change(events) == {"silent": None}
        await events.aclose()

    asyncio.run(run())


def test_a_browser_hears_that_the_server_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PING_SECONDS", 0.01)

    async def run() -> None:
        source = Told()
        source.live = False
        events = Watch(source).events()
        await heard(events)
        assert await heard(events) == ("ping", {})
        assert source.looks == 1, "a file is not asked again"
        await events.aclose()

    asyncio.run(run())


def test_browsers_that_come_at_once_share_one_look() -> None:
    """Two looks at a time would count what both find twice."""

    class Slow(Told):
        def look(self, cursor: Cursor) -> View:
            time.sleep(0.05)
            return super().look(cursor)

    async def run() -> None:
        source = Slow()
        source.views = [gangs(1, a={"phase": "queued"}), CoordinatorUnavailable("Two looked.")]
        watch = Watch(source, seconds=60)
        found = await asyncio.gather(*(heard(watch.events()) for _ in range(20)))
        assert source.looks == 1
        assert all(state["gangs"] == {"a": {"phase": "queued"}} and not state["silent"] for _, state in found)

    asyncio.run(run())


def test_who_was_there_hears_what_the_look_for_a_newcomer_finds() -> None:
    async def run() -> None:
        source = Told()
        source.views = [CoordinatorUnavailable("It starts."), gangs(1, a={"phase": "queued"})]
        watch = Watch(source, seconds=60)
        first, second = watch.events(), watch.events()
        _, one = await heard(first)
        assert one["silent"]["why"] == "It starts."
        _, other = await heard(second)
        one = applied(one, await heard_change(first))
        assert one == other
        assert (one["gangs"], one["silent"]) == ({"a": {"phase": "queued"}}, None)

    asyncio.run(run())
