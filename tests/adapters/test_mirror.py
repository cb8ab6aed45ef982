"""Mirrors over a server that misbehaves as API servers do: too old a version, too many requests, broken connections,
pages that expire. What is mirrored is right in the end, whatever came in between."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.mirror import Mirror
from tests.adapters.servers import ConfigMapServer, until


def same(mirror: Mirror, server: ConfigMapServer) -> bool:
    return {t["metadata"]["name"]: t["data"] for t in mirror.items()} == {
        n: t["data"] for n, t in server.things.items()
    }


@pytest.mark.parametrize(
    "script",
    [
        ["change a", "change b", "change c"],  # each watch ends after one event: the next goes on from there
        ["too old", "change b", "too old"],
        ["half a line", "half a line", "too old"],
    ],
)
def test_watches_that_break_or_expire(
    server: ConfigMapServer, api: KubernetesApi, script: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = list(script)
    mirror = Mirror(api, "ConfigMap", "n")
    try:
        until(lambda: not server.script and same(mirror, server))
        assert server.version > 1
        if "too old" not in script and "half a line" not in script:
            assert server.asked[:4] == ["list", "watch 1", "watch 2", "watch 3"]
    finally:
        mirror.stop()


def test_too_many_requests_are_asked_again_as_the_server_says(server: ConfigMapServer, api: KubernetesApi) -> None:
    server.refuse = [(429, {"Retry-After": "1"}), (503, {"Retry-After": "1"})]
    began = time.monotonic()
    mirror = Mirror(api, "ConfigMap", "n")
    try:
        until(lambda: same(mirror, server))
        assert time.monotonic() - began > 1.5  # two times a second, as told
    finally:
        mirror.stop()


def test_lists_come_by_the_page_and_begin_anew_when_a_page_expired(
    server: ConfigMapServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.page = 1
    assert [t["metadata"]["name"] for t in api.items("ConfigMap", "n")] == ["a", "b", "c"]
    assert server.asked == ["list", "list 1", "list 2"]
    send = server.send

    def expire(handler: Any, code: int, body: Any, headers: Any) -> None:
        if server.asked[-1] == "list 1" and server.asked.count("list 1") == 2:
            code, body = 410, {"kind": "Status", "code": 410, "reason": "Expired", "message": "the page is too old"}
        send(handler, code, body, headers)

    server.send = expire  # type: ignore[method-assign]
    mirror = Mirror(api, "ConfigMap", "n")
    try:
        until(lambda: same(mirror, server))
        assert server.asked[3:8] == ["list", "list 1", "list", "list 1", "list 2"]
    finally:
        mirror.stop()
