"""Addresses with anything in them, and hosts that do not answer."""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra import cli
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.reach import await_cluster
from ray_dra.errors import ApiUnavailable, ClusterUnavailable, InvalidAddress, KubernetesError, RayDraError
from ray_dra.processes.address import Target, parse_address
from ray_dra.program.connect import ClientBuilder
from tests.edge.hostile import EXTREMES, answers_or_refuses, hostile

HANG_SECONDS = 60.0
NAMES = ["RAY_CLUSTER_NAMESPACE", "RAY_CLUSTER_NAME", "FQ_RAY_IP", "RAY_IP", "RAY_PORT", "RAY_GCS_ADDRESS"]


def judge(found: object) -> None:
    if isinstance(found, RayDraError):
        assert isinstance(found, InvalidAddress)
        assert found.place
        assert found.available
    else:
        assert isinstance(found, Target)


def test_the_worst_addresses() -> None:
    for value in EXTREMES:
        judge(answers_or_refuses(functools.partial(parse_address, value, {})))
        for form in (
            "embedded?nodes={}",
            "embedded?profile={}",
            "kubernetes?namespace={}&raycluster=r",
            "{}:6379",
            "h:{}",
        ):
            if isinstance(value, str):
                judge(answers_or_refuses(functools.partial(parse_address, form.format(value), {})))


PIECES = [
    "embedded",
    "kubernetes",
    "?",
    "&",
    "=",
    "nodes",
    "namespace",
    "raycluster",
    "profile",
    "%ff",
    "%00",
    ":",
    "6379",
    "[",
    "]",
]


@given(
    st.lists(st.sampled_from(PIECES) | st.text(st.characters(), max_size=3), max_size=8).map("".join),
    st.dictionaries(st.sampled_from(NAMES), st.text(max_size=6) | st.sampled_from(["6379", "head", "a:1"])),
)
@settings(max_examples=1500, deadline=None)
def test_any_address_in_any_environment(address: str, environment: dict[str, str]) -> None:
    judge(answers_or_refuses(lambda: parse_address(address, {"RAY_GCS_ADDRESS": "here:1", **environment})))


@given(hostile())
@settings(max_examples=300, deadline=None)
def test_any_value_as_an_address(value: object) -> None:
    judge(answers_or_refuses(lambda: parse_address(value, {"RAY_GCS_ADDRESS": "here:1"})))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["../../x", "A", "a b", "a/b", "x" * 254, "-a", "%2e%2e"])
def test_names_in_kubernetes_become_no_paths(bad: str) -> None:
    for query in (f"namespace={bad}&raycluster=r", f"namespace=n&raycluster={bad}"):
        with pytest.raises(InvalidAddress):
            parse_address(f"kubernetes?{query}", {})


# -- hosts


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def refused() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def chatty() -> Iterator[int]:
    """The port of something else, which answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("host", ["silent", "refused", "chatty"])
def test_a_host_that_does_not_answer(host: str, request: pytest.FixtureRequest) -> None:
    port = request.getfixturevalue(host)
    began = time.monotonic()
    with pytest.raises(ClusterUnavailable) as caught:
        await_cluster(f"127.0.0.1:{port}", 1.0)
    assert time.monotonic() - began < HANG_SECONDS
    assert caught.value.place == f"127.0.0.1:{port}"
    assert caught.value.available


def test_no_such_host() -> None:
    with pytest.raises(ClusterUnavailable):
        await_cluster("no-such-host.invalid:6379", 1.0)


def test_a_cluster_that_comes_late_is_waited_for(refused: int) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    timer = threading.Timer(1.0, lambda: (server.add_insecure_port(f"127.0.0.1:{refused}"), server.start()))
    timer.start()
    try:
        await_cluster(f"127.0.0.1:{refused}", HANG_SECONDS)
    finally:
        timer.join()
        server.stop(None)


def test_ray_init_gives_up(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would wait for minutes, and say so by an error of its own."""
    monkeypatch.setattr("ray_dra.program.connect.await_cluster", functools.partial(await_cluster, seconds=1.0))
    before = dict(os.environ)
    with pytest.raises(ClusterUnavailable):
        ClientBuilder(f"127.0.0.1:{silent}").connect()
    assert dict(os.environ) == before
    with pytest.raises(InvalidAddress):
        ClientBuilder(5).connect()  # type: ignore[arg-type]


def test_a_cluster_that_fails_while_ray_connects_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray 2.60 asserts what it reads from a control store; of one that just starts or ends it may read nothing."""

    def fail(**_: object) -> None:
        raise AssertionError("Expected str or bytes, got <class 'NoneType'>")

    monkeypatch.setattr("ray_dra.program.connect.await_cluster", lambda address: None)
    # Nobody is there to be asked, which would take Ray's client forty seconds to say.
    monkeypatch.setattr("ray_dra.adapters.ray_token._refused", lambda address: False)
    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(ClusterUnavailable) as told:
        ClientBuilder("127.0.0.1:6379").connect()
    assert isinstance(told.value.__cause__, AssertionError)
    assert "127.0.0.1:6379" in str(told.value)


def test_a_command_gives_up(silent: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all that connect, the first; the others connect by the same function."""
    monkeypatch.setattr("ray_dra.program.connect.await_cluster", functools.partial(await_cluster, seconds=1.0))
    monkeypatch.setattr("sys.argv", ["ray-dra", "gangs", "--address", f"127.0.0.1:{silent}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    printed = capsys.readouterr()
    assert "No Ray cluster answers at this address" in printed.err
    assert "Traceback" not in printed.err


# -- the Kubernetes API


def kubeconfig(port: int) -> str:
    return (
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "contexts: [{name: c, context: {cluster: k, user: u}}]\nusers: [{name: u, user: {token: t}}]\n"
        f"clusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
    )


@pytest.mark.parametrize("host", ["silent", "refused"])
def test_an_api_server_that_does_not_answer(host: str, request: pytest.FixtureRequest, tmp_path: object) -> None:
    path = f"{tmp_path}/config"
    with open(path, "w") as file:
        file.write(kubeconfig(request.getfixturevalue(host)))
    began = time.monotonic()
    with pytest.raises(ApiUnavailable):
        KubernetesApi(path).await_answer(1.0)
    assert time.monotonic() - began < HANG_SECONDS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "{}",
        "- a",
        "\x00",
        "clusters: 5",
        "current-context: c",
        kubeconfig(1).replace("user: {", "user: [{"),
        "a: &a [*a]",
    ],
)
def test_a_kubeconfig_of_anything(text: str, tmp_path: object) -> None:
    path = f"{tmp_path}/config"
    with open(path, "w") as file:
        file.write(text)
    assert isinstance(answers_or_refuses(lambda: KubernetesApi(path)), KubernetesError)
