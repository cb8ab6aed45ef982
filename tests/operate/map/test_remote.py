"""The map on a head: a job of the dashboard's, for as long as somebody looks; one that is there is left alone."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ray_dra.errors import ClusterUnavailable
from ray_dra.operate.map import remote
from ray_dra.translate.names import AUTH_TOKEN_VARIABLE


class Head:
    """A head's dashboard, and the map's port, which answers once a job runs."""

    def __init__(self, *, token: str = "", fails: bool = False, there: bool = False) -> None:
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.polls = 0
        head = self
        self.there = there

        class Dashboard(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                head.polls += 1
                if self.path.endswith("/logs"):
                    self._say({"logs": "No module named 'starlette'"})
                else:
                    head.there = head.polls > 2 and not fails
                    self._say({"status": "FAILED" if fails else "RUNNING", "message": "exit code 2"})

            def do_POST(self) -> None:
                head.asked.append(self.path)
                if token and self.headers.get("Authorization") != f"Bearer {token}":
                    self.send_error(401)
                    return
                head.bodies.append(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}"))
                self._say({"submission_id": "raysubmit_1"} if self.path == "/api/jobs/" else {"stopped": True})

            def _say(self, value: Any) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(value).encode())

            def log_message(self, *_: Any) -> None:
                """Not to stderr."""

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if head.there:  # else the connection is closed, as a pod's port that nobody listens at
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(b"<html>" + remote.TITLE)

            def log_message(self, *_: Any) -> None:
                """Not to stderr."""

        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), each) for each in (Dashboard, Page)]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.dashboard, self.page = (f"127.0.0.1:{server.server_address[1]}" for server in self.servers)


@contextlib.contextmanager
def head(**how: Any) -> Iterator[Head]:
    made = Head(**how)
    try:
        yield made
    finally:
        for server in made.servers:
            server.shutdown()
            server.server_close()


def test_a_job_serves_it_and_ends_with_the_command() -> None:
    with head() as there:
        with remote.map_on_head(there.dashboard, there.page, lambda _: None) as started:
            assert started
            assert there.bodies == [{"entrypoint": remote.JOB}]
            assert there.asked == ["/api/jobs/"]
        assert there.asked == ["/api/jobs/", "/api/jobs/raysubmit_1/stop"]


def test_one_that_is_there_is_used_and_left() -> None:
    with head(there=True) as there:
        with remote.map_on_head(there.dashboard, there.page) as started:
            assert not started
        assert there.asked == []


def test_one_that_does_not_start_says_why_and_leaves_no_job() -> None:
    with head(fails=True) as there:
        with (
            pytest.raises(ClusterUnavailable, match="No module named 'starlette'"),
            remote.map_on_head(there.dashboard, there.page, lambda _: None),
        ):
            raise AssertionError
        assert there.asked[-1].endswith("/stop")


def test_a_token_is_asked_for_and_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(AUTH_TOKEN_VARIABLE, raising=False)
    with head(token="secret") as there:
        with pytest.raises(ClusterUnavailable, match="RAY_AUTH_TOKEN"), remote.map_on_head(there.dashboard, there.page):
            raise AssertionError
        monkeypatch.setenv(AUTH_TOKEN_VARIABLE, "secret")
        with remote.map_on_head(there.dashboard, there.page, lambda _: None) as started:
            assert started


def test_a_dashboard_that_is_not_there_is_an_error_of_ours() -> None:
    with head() as there:
        pass
    with pytest.raises(ClusterUnavailable, match="does not answer"), remote.map_on_head(there.dashboard, there.page):
        raise AssertionError
