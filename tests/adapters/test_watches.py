"""Mirrors over a server that misbehaves as API servers do: too old a version, too many requests, broken connections,
pages that expire. What is mirrored is right in the end, whatever came in between."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ray_dra.adapters import kube_watch as kube
from ray_dra.adapters import kubernetes
from ray_dra.adapters.kube_watch import KubeAdapter, Mirror, side_by_side
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import ApiUnavailable, NotFound
from tests.adapters.kubeconfig import kubeconfig


def thing(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n", "resourceVersion": str(version)}, "data": {"at": str(version)}}


class Server:
    """ConfigMaps a, b, c of a namespace, and a watch that plays `script`: a list of what each watch does in turn."""

    def __init__(self) -> None:
        self.things = {name: thing(name, 1) for name in "abc"}
        self.version = 1
        self.refuse: list[tuple[int, dict[str, str]]] = []  # answers to give instead of the next ones
        self.script: list[str] = []
        self.asked: list[str] = []
        self.page = 10
        self.away = 0  # so many answers say that there is none
        self.slow = 2.0  # seconds for which a write is not answered
        self.new = self.kuberay = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None: ...

            def do_GET(self) -> None:
                outer.answer(self)

            def hang(self) -> None:
                outer.asked.append(f"{self.command} {self.path.rpartition('/')[2]}")
                time.sleep(outer.slow)

            do_POST = do_DELETE = do_PATCH = hang

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def change(self, name: str) -> dict[str, Any]:
        self.version += 1
        self.things[name] = thing(name, self.version)
        return self.things[name]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        query = {k: v[0] for k, v in parse_qs(urlsplit(handler.path).query).items()}
        watching = "watch" in query
        self.asked.append(
            f"watch {query['resourceVersion']}" if watching else f"list {query.get('continue', '')}".strip()
        )
        if self.away:
            self.away -= 1
            self.send(handler, 500, {"kind": "Status", "code": 500, "message": "not now"}, {})
        elif "/namespaces/" not in handler.path:
            groups = ("/apis/resource.k8s.io/v1", *(("/apis/ray.io/v1",) if self.kuberay else ()))
            names = {"resources": [{"name": "resourceslices"}, {"name": "rayclusters"}]}
            self.send(handler, 200 if self.new and handler.path in groups else 404, names, {})
        elif self.refuse:
            code, headers = self.refuse.pop(0)
            self.send(
                handler, code, {"kind": "Status", "code": code, "reason": "Expired", "message": "not now"}, headers
            )
        elif watching:
            self.watch(handler)
        else:
            every = sorted(self.things)
            start = int(query.get("continue", 0))
            on = {"continue": str(start + self.page)} if start + self.page < len(every) else {}
            items = [self.things[name] for name in every[start : start + self.page]]
            self.send(handler, 200, {"items": items, "metadata": {"resourceVersion": str(self.version), **on}}, {})

    def send(self, handler: BaseHTTPRequestHandler, code: int, body: Any, headers: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        handler.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def watch(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        step = self.script.pop(0) if self.script else "wait"
        events: list[dict[str, Any]] = []
        if step.startswith("change "):
            events.append({"type": "MODIFIED", "object": self.change(step.split()[1])})
        elif step == "too old":
            self.change("a")  # behind the watcher's back
            events.append({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
        elif step == "half a line":
            self.change("b")
            handler.wfile.write(b'{"type": "MODIFIED", "object": {"meta')
        for event in events:
            handler.wfile.write(json.dumps(event).encode() + b"\n")
        handler.wfile.flush()
        if step == "wait":
            time.sleep(30)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def api(server: Server, tmp_path: Path) -> KubernetesApi:
    return KubernetesApi(kubeconfig(server.http, tmp_path))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def same(mirror: Mirror, server: Server) -> bool:
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
    server: Server, api: KubernetesApi, script: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "AGAIN_SECONDS", 0.05)
    server.script = list(script)
    mirror = Mirror(api, "ConfigMap", "n")
    try:
        until(lambda: not server.script and same(mirror, server))
        assert server.version > 1
        if "too old" not in script and "half a line" not in script:
            assert server.asked[:4] == ["list", "watch 1", "watch 2", "watch 3"]
    finally:
        mirror.stop()


def test_too_many_requests_are_asked_again_as_the_server_says(server: Server, api: KubernetesApi) -> None:
    server.refuse = [(429, {"Retry-After": "1"}), (503, {"Retry-After": "1"})]
    began = time.monotonic()
    mirror = Mirror(api, "ConfigMap", "n")
    try:
        until(lambda: same(mirror, server))
        assert time.monotonic() - began > 1.5  # two times a second, as told
    finally:
        mirror.stop()


def test_an_answer_without_retry_after_is_an_error_that_says_so(server: Server, api: KubernetesApi) -> None:
    server.refuse = [(500, {})]
    with pytest.raises(ApiUnavailable, match="cannot answer now"):
        api.items("ConfigMap", "n")


def test_lists_come_by_the_page_and_begin_anew_when_a_page_expired(
    server: Server, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "AGAIN_SECONDS", 0.05)
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


def test_a_server_that_hangs_holds_nobody_up_for_long(
    server: Server, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write is tried once, and those that have not begun when the first is given up are not tried at all."""
    monkeypatch.setattr(kubernetes, "WRITE_SECONDS", 0.3)
    with pytest.raises(ApiUnavailable, match="did not answer"):
        api.delete("ConfigMap", "a", "n")
    assert server.asked == ["DELETE a"]
    with ThreadPoolExecutor(4) as writers, pytest.raises(ApiUnavailable, match="did not answer"):
        side_by_side(
            writers, [partial(api.create, thing(f"t{at}", 1) | {"kind": "ConfigMap"}, "n") for at in range(64)]
        )
    assert 1 <= server.asked.count("POST configmaps") <= 4


def test_a_coordinator_that_was_restarted_waits_for_the_server(
    server: Server, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "AGAIN_SECONDS", 0.05)
    server.kuberay = False
    server.away = 3
    with pytest.raises(ApiUnavailable, match="cannot answer now"):
        KubeAdapter(api, "n", "gangs", patience=-1)
    with pytest.raises(NotFound, match="KubeRay"):  # it was asked until it answered
        KubeAdapter(api, "n", "gangs", patience=math.inf)
    assert server.away == 0


@pytest.mark.parametrize(("missing", "said"), [("new", r"Kubernetes 1\.34"), ("kuberay", "KubeRay")])
def test_an_old_server_and_one_without_kuberay_are_told_apart(
    server: Server, api: KubernetesApi, missing: str, said: str
) -> None:
    setattr(server, missing, False)
    with pytest.raises(NotFound, match=said):
        KubeAdapter(api, "n", "gangs")
