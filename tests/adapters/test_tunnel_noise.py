"""What the Kubernetes client's threads of a tunnel print when a connection breaks: nothing; other faults are told."""

from __future__ import annotations

import threading

import pytest

from ray_dra.adapters import tunnel


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        (f"{tunnel.PROXY}: 8266", BrokenPipeError("gone"), False),
        (f"{tunnel.PROXY}: 8266", KeyError("a fault"), True),
        ("somebody's", BrokenPipeError("gone"), True),
    ],
)
def test_only_a_broken_connection_of_a_tunnel_is_not_told(
    name: str, error: Exception, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    tunnel._keep_quiet()
    once = threading.excepthook
    tunnel._keep_quiet()
    assert threading.excepthook is once

    def end() -> None:
        raise error

    thread = threading.Thread(target=end, name=name)
    thread.start()
    thread.join()
    assert [each.exc_value for each in heard] == ([error] if told else [])
