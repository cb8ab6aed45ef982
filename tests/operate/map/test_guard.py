"""Who is let in: nobody by a foreign name, no other site's page, and nobody who wants more than to look."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message

from ray_dra.operate.map.guard import HEADERS, Guard
from tests.operate.map.asked import asked, scope_of

APP = Guard(PlainTextResponse("the map"), ["Racks.example"])


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8266", "localhost", "LOCALHOST:1", "[::1]:8266", "10.1.2.3:80", "racks.example:8266"]
)
def test_whoever_calls_it_by_its_name_is_let_in(host: str) -> None:
    answer = asked(APP, "/", host=host)
    assert (answer.status, answer.body) == (200, b"the map")
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8266", "localhost.evil.example", "", "127.0.0.1.evil.example", "[evil]", "1"),
        *("localhost:evil.example", "[127.0.0.1]evil.example", "[::1%evil.example]", "[::1]x", "localhost:123456"),
    ],
)
def test_a_name_that_is_not_its_own_is_refused(host: str) -> None:
    """As by DNS rebinding: the name of an attacker's page, with this server's address."""
    answer = asked(APP, "/", host=host)
    assert answer.status == 421
    assert b"the map" not in answer.body
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"])
def test_nothing_but_looking_is_served(method: str) -> None:
    assert asked(APP, "/", method).status == 405


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"sec_fetch_site": "none", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}),
        (200, {"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}),
        (200, {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}),
        (403, {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}),
        (403, {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}),
        (403, {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}),
    ],
)
def test_another_sites_page_may_link_to_it_and_no_more(status: int, headers: dict[str, str]) -> None:
    assert asked(APP, "/", **headers).status == status


def test_a_web_socket_is_closed() -> None:
    sent: list[Message] = []

    async def connect() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(APP({**scope_of("/events"), "type": "websocket"}, connect, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
