"""Mirrors over a server that sends anything: no thread ends, one bad object costs no other, and after good answers come
again the mirror has what is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_dra.adapters import mirror as mirrors
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.mirror import Mirror
from ray_dra.translate.kube.slices import read_node
from tests.adapters.garbage import answers
from tests.adapters.kubeconfig import kubeconfig
from tests.adapters.servers import Answer, NodeServer, end, node, until


@pytest.fixture(scope="module")
def server() -> Iterator[NodeServer]:
    made = NodeServer()
    yield made
    made.closing.set()
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(scope="module")
def api(server: NodeServer, tmp_path_factory: pytest.TempPathFactory) -> KubernetesApi:
    return KubernetesApi(kubeconfig(server.http, tmp_path_factory.mktemp("garbage")))


def hang_up(mirror: Mirror) -> None:
    """Its first watch breaks, once."""
    assert mirror._hang_up is not None
    mirror._hang_up()


def names(mirror: Mirror) -> set[str]:
    return {each.name for each in mirror.items()}


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.lists(answers, min_size=1, max_size=8), late=st.booleans())
def test_nothing_that_a_server_sends_ends_a_mirror(
    server: NodeServer, api: KubernetesApi, garbage: list[Answer], late: bool
) -> None:
    server.nodes = {"a": node("a"), "b": node("b", cpu="5n")}
    server.garbage = [] if late else list(garbage)
    server.expired = not late  # of all lies the last list is the truth
    mirror = Mirror(api, "Node", keep=read_node)
    try:
        if late:
            until(lambda: names(mirror) == {"a", "b"} and mirror._hang_up is not None)
            server.nodes["c"] = node("c")
            server.garbage = list(garbage)
            server.expired = True
            hang_up(mirror)
        until(lambda: not server.garbage and not server.expired and names(mirror) == server.nodes.keys())
        assert mirror.thread.is_alive()
        until(lambda: mirror.problems() == [])
    finally:
        server.garbage = []
        end(mirror)


@pytest.mark.parametrize(
    "line",
    [
        b"<html>503</html>",
        b'{"type": "MODIFIED"',
        b'{"type": "MODIFIED", "object": {"status": {}}}',
        b'{"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "101"}}}',
        b'{"type": "MODIFIED", "object": {"metadata": {"name": "a", "resourceVersion": 101}}}',
        b'{"type": "ERROR", "object": "no status"}',
        b"[" * 100_000,
        b"\xff\xfe",
        b"null",
    ],
)
def test_a_line_that_is_none_is_noted_and_everything_listed_anew(
    server: NodeServer, api: KubernetesApi, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.nodes = {"a": node("a")}
    mirror = Mirror(api, "Node", keep=read_node)
    noted: list[str] = []
    note = mirror._note

    def noting(error: Exception) -> None:
        note(error)
        noted.extend(mirror.problems())

    monkeypatch.setattr(mirror, "_note", noting)
    try:
        until(lambda: names(mirror) == {"a"} and mirror._hang_up is not None)
        server.nodes["b"] = node("b")  # behind the watcher's back
        server.garbage = [(200, line + b"\n")]
        hang_up(mirror)
        until(lambda: names(mirror) == {"a", "b"})
        assert any("Nodes cannot be watched" in text for text in noted)
    finally:
        end(mirror)


def test_a_bad_object_is_left_out_with_its_reason_and_no_other(server: NodeServer, api: KubernetesApi) -> None:
    good = {"whole": "8", "micro": "100u", "nano": "5n", "exa": "1E", "kilo": "1e3"}
    bad = {"none": "", "word": "many", "minus": "-1", "odd": {"a": 1}}
    server.nodes = {name: node(name, cpu=cpu) for name, cpu in {**good, **bad}.items()}
    server.nodes["nameless"] = {"metadata": {"resourceVersion": "1"}}
    server.nodes["text"] = "no object"  # type: ignore[assignment]
    mirror = Mirror(api, "Node", keep=read_node)
    try:
        until(lambda: names(mirror) == good.keys() and mirror._hang_up is not None)
        said = mirror.problems()
        assert len(said) == len(bad) + 2
        assert all(any(f"Node {name} is left out" in text for text in said) for name in bad)
        server.nodes = {name: node(name, 2) for name in (*good, *bad)}
        del server.nodes["whole"]
        server.events = [{"type": "MODIFIED", "object": node(name, 2)} for name in bad]
        server.events += [{"type": "MODIFIED", "object": node("nano", 3, cpu="x")}]
        server.events += [{"type": "DELETED", "object": node("whole", 4)}]
        hang_up(mirror)
        until(lambda: names(mirror) == {*good, *bad} - {"whole", "nano"})
        assert [text.split(":")[0] for text in mirror.problems() if "name" not in text] == ["Node nano is left out"]
    finally:
        end(mirror)


def test_a_view_that_has_heard_nothing_for_too_long_says_so(
    server: NodeServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.nodes = {"a": node("a")}
    mirror = Mirror(api, "Node", keep=read_node)
    try:
        until(lambda: names(mirror) == {"a"})
        assert mirror.problems() == []
        monkeypatch.setattr(mirrors, "SILENT_SECONDS", 0.05)
        until(lambda: any("no word of Nodes" in text for text in mirror.problems()))
        assert mirrors.WATCH_SECONDS + 60 == 360
    finally:
        end(mirror)
