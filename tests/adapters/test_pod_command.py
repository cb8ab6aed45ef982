"""A command in a pod: its streams kept apart, its exit code, and what becomes of a connection that breaks."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.pod_command import run_in_pod
from ray_dra.errors import ApiUnavailable, KubernetesError
from tests.adapters.kubeconfig import kubeconfig_of

Frame = tuple[int, bytes]
FAILED = {"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "4"}]}}


class ExecServer:
    """An API server that answers `exec` over a WebSocket with these frames, once it has read so many bytes of input."""

    def __init__(
        self, *frames: Frame, after: int = 0, status: str = "101 Switching Protocols", close: bool = True
    ) -> None:
        self.given = b""
        self.query: dict[str, list[str]] = {}
        self._frames, self._after, self._status, self._close = frames, after, status, close
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, connection.makefile("rb") as read:
            path = read.readline().split()[1].decode()
            self.query = parse_qs(urlsplit(path).query)
            headers = dict(line.decode().strip().split(": ", 1) for line in iter(read.readline, b"\r\n"))
            key = {name.lower(): value for name, value in headers.items()}.get("sec-websocket-key", "")
            accepted = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
            said = ["HTTP/1.1 " + self._status, "Upgrade: websocket", "Connection: Upgrade", "Content-Length: 0"]
            said += [f"Sec-WebSocket-Accept: {accepted.decode()}", "Sec-WebSocket-Protocol: v5.channel.k8s.io"]
            connection.sendall("\r\n".join([*said, "", ""]).encode())
            while len(self.given) < self._after:
                self.given += self._input(read)
            for channel, data in self._frames:
                body = bytes([channel]) + data
                size = struct.pack("!H", len(body)) if len(body) > 125 else b""
                connection.sendall(bytes([0x82, 126 if size else len(body)]) + size + body)
            if self._close:
                connection.sendall(b"\x88\x00")

    @staticmethod
    def _input(read: Any) -> bytes:
        """The bytes of one frame of standard input."""
        size = read.read(2)[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", read.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", read.read(8))
        mask, body = read.read(4), read.read(size)
        plain = bytes(byte ^ mask[at % 4] for at, byte in enumerate(body))
        assert plain[:1] == b"\x00"
        return plain[1:]


def ran(server: ExecServer, tmp_path: Path, given: bytes = b"") -> tuple[int, bytes, bytes]:
    out: list[bytes] = []
    err: list[bytes] = []
    api = KubernetesApi(kubeconfig_of(server.port, tmp_path))
    command = ["sh", "-c", "a script"]
    code = run_in_pod(api, "ray", "head", "ray-head", command, given=given, out=out.append, err=err.append)
    return code, b"".join(out), b"".join(err)


def test_what_it_prints_comes_apart_and_its_exit_code(tmp_path: Path) -> None:
    frames = [(1, b"\xff first"), (2, b"an error\n"), (1, b" last" * 100), (3, json.dumps(FAILED).encode())]
    server = ExecServer(*frames)
    assert ran(server, tmp_path) == (4, b"\xff first" + b" last" * 100, b"an error\n")
    assert server.query["command"] == ["sh", "-c", "a script"]
    assert server.query["container"] == ["ray-head"]


def test_what_is_given_arrives_before_it_answers(tmp_path: Path) -> None:
    given = bytes(range(256)) * 500
    server = ExecServer((1, b"read"), (3, b'{"status": "Success"}'), after=len(given))
    assert ran(server, tmp_path, given) == (0, b"read", b"")
    assert server.given == given


@pytest.mark.parametrize(
    ("server", "kind", "said"),
    [
        (lambda: ExecServer(status="403 Forbidden"), KubernetesError, "create pods/exec"),
        (lambda: ExecServer((1, b"half")), ApiUnavailable, "ended before it did"),
        (lambda: ExecServer((1, b"half"), close=False), ApiUnavailable, "ended before it did"),
        (lambda: ExecServer((3, b'"no status"')), ApiUnavailable, "ended before it did"),
        (lambda: ExecServer((3, b'{"status": "Failure", "message": "no sh"}')), KubernetesError, "no sh"),
    ],
)
def test_what_cannot_be_is_an_error_of_ours(
    server: Any, kind: type[KubernetesError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said) as caught:
        ran(server(), tmp_path)
    assert type(caught.value) is kind


def test_the_namespace_is_that_of_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(kubeconfig_of(1, tmp_path))
    assert KubernetesApi(str(path)).namespace == "default"
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert KubernetesApi().namespace == "default"
    path.write_text(path.read_text().replace('"user": ', '"namespace": "ray", "user": '))
    assert KubernetesApi(str(path)).namespace == "ray"
