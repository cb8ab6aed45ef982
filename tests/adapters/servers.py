"""HTTP servers that stand for an API server: one that misbehaves as API servers do, and one that sends anything."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, bytes]  # status and body


def node(name: str, version: int = 1, cpu: object = "8") -> dict[str, Any]:
    meta = {"name": name, "resourceVersion": str(version)}
    return {"metadata": meta, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi"}}}


class NodeServer:
    """Nodes, listed and watched; `garbage` is what the next requests get instead, and `events` the next good watch."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.garbage: list[Answer] = []
        self.events: list[dict[str, Any]] = []
        self.expired = False  # the next good watch is too old
        self.lists = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None: ...

            def do_GET(self) -> None:
                outer.answer(self, "watch" in parse_qs(urlsplit(self.path).query))

        self.closing = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, watching: bool) -> None:
        good = not self.garbage
        if not good:
            status, body = self.garbage.pop(0)
        elif watching and self.expired:
            self.expired = False
            status, body = 410, b'{"kind": "Status", "code": 410, "reason": "Expired"}'
        elif watching:
            status, body = 200, b"".join(json.dumps(event).encode() + b"\n" for event in self.events)
            self.events = []
        else:
            self.lists += 1
            listed = {"items": list(self.nodes.values()), "metadata": {"resourceVersion": "100"}}
            status, body, watching = 200, json.dumps(listed).encode(), False
        streams = good and watching and status == 200
        handler.send_response(status)
        if streams:
            handler.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        handler.end_headers()
        handler.wfile.write(body)
        handler.wfile.flush()
        if streams:
            self.closing.wait(30)


def thing(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n", "resourceVersion": str(version)}, "data": {"at": str(version)}}


class ConfigMapServer:
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


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Threaded(Protocol):
    thread: threading.Thread

    def stop(self) -> None: ...


def end(each: Threaded) -> None:
    """It ends at once, also in the middle of a watch that says nothing."""
    each.stop()
    each.thread.join(10)
    assert not each.thread.is_alive()
