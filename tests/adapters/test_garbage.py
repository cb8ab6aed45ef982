"""Mirrors and leases over a server that sends anything: no thread ends, one bad object costs no other, and after good
answers come again the mirror has what is there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_dra.adapters import kube_watch as kube
from ray_dra.adapters import lease
from ray_dra.adapters.kube_watch import WRITERS, KubeAdapter, Mirror
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.lease import Lease
from ray_dra.errors import InvalidRequest, KubernetesError, NotLeading
from ray_dra.operate import check
from ray_dra.ports.kube_objects import Claim, ComputeDomain, KubeNode, Pod, RayCluster, ResourceSlice
from ray_dra.translate.kube.claims import claim_of, read_claim
from ray_dra.translate.kube.parts import parts_of
from ray_dra.translate.kube.pods import gate_opened, imex_readiness, read_pod, signs
from ray_dra.translate.kube.published_links import read_topology
from ray_dra.translate.kube.raycluster import (
    groups_added,
    groups_removed,
    groups_stopped,
    read_raycluster,
    refuse_unfit,
    worker_template,
)
from ray_dra.translate.kube.shapes import UNREADABLE, read_domain, read_template
from ray_dra.translate.kube.slices import node_from_slices, read_node, read_slice
from tests.adapters.kubeconfig import kubeconfig

Answer = tuple[int, bytes]  # status and body


def node(name: str, version: int = 1, cpu: object = "8") -> dict[str, Any]:
    meta = {"name": name, "resourceVersion": str(version)}
    return {"metadata": meta, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi"}}}


class Server:
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


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.closing.set()
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(scope="module")
def api(server: Server, tmp_path_factory: pytest.TempPathFactory) -> KubernetesApi:
    return KubernetesApi(kubeconfig(server.http, tmp_path_factory.mktemp("garbage")))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(kube, "MOST_AGAIN_SECONDS", 0.01)
    for name in ("ASK_SECONDS", "RENEW_SECONDS"):
        monkeypatch.setattr(lease, name, 0.002)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def end(each: Mirror | Lease) -> None:
    """It ends at once, also in the middle of a watch that says nothing."""
    each.stop()
    each.thread.join(10)
    assert not each.thread.is_alive()


def hang_up(mirror: Mirror) -> None:
    """Its first watch breaks, once."""
    assert mirror._hang_up is not None
    mirror._hang_up()


def names(mirror: Mirror) -> set[str]:
    return {each.name for each in mirror.items()}


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("5n")
WORDS = """metadata name namespace labels annotations resourceVersion items continue type object status spec allocatable
cpu memory conditions taints key effect code message reason devices pool driver generation resourceSliceCount uid
allocation results device requests exactly selectors cel expression workerGroupSpecs groupName template containers
schedulingGates holderIdentity leaseDurationSeconds renewTime nodes attributes capacity value"""
keys = st.sampled_from(WORDS.split()) | st.text(max_size=3)
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)
as_json = anything.map(lambda value: json.dumps(value).encode())
events = st.fixed_dictionaries(
    {"type": st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "ODD"]), "object": anything}
).map(lambda event: json.dumps(event).encode())
lists = st.fixed_dictionaries({"items": anything, "metadata": anything}).map(lambda each: json.dumps(each).encode())
lines = st.lists(as_json | events | st.binary(max_size=30), max_size=4).map(lambda each: b"\n".join([*each, b""]))
answers = st.tuples(st.sampled_from([200, 200, 200, 201, 400, 403, 404, 409, 410, 422, 500]), lines | lists | as_json)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.lists(answers, min_size=1, max_size=8), late=st.booleans())
def test_nothing_that_a_server_sends_ends_a_mirror(
    server: Server, api: KubernetesApi, garbage: list[Answer], late: bool
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
    server: Server, api: KubernetesApi, line: bytes, monkeypatch: pytest.MonkeyPatch
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


def test_a_bad_object_is_left_out_with_its_reason_and_no_other(server: Server, api: KubernetesApi) -> None:
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
    server: Server, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.nodes = {"a": node("a")}
    mirror = Mirror(api, "Node", keep=read_node)
    try:
        until(lambda: names(mirror) == {"a"})
        assert mirror.problems() == []
        monkeypatch.setattr(kube, "SILENT_SECONDS", 0.05)
        until(lambda: any("no word of Nodes" in text for text in mirror.problems()))
        assert kube.WATCH_SECONDS + 60 == 360
    finally:
        end(mirror)


READERS: tuple[Callable[[Any], Any], ...] = (
    read_claim,
    read_domain,
    read_node,
    read_pod,
    read_raycluster,
    read_slice,
    read_template,
    read_topology,
)
PLAIN: dict[str, Any] = {"str": str, "bool": bool, "int": int, "float": float, "str | None": (str, type(None))}


def has_its_types(made: Any) -> None:
    for field in fields(made):
        value = getattr(made, field.name)
        wanted = PLAIN.get(str(field.type))
        assert wanted is None or isinstance(value, wanted), field
        if str(field.type) == "tuple[str, ...]":
            assert all(isinstance(each, str) for each in value)
        if isinstance(value, tuple):
            for each in filter(is_dataclass, value):
                has_its_types(each)


def use(made: Any) -> None:
    """As the coordinator does with each kind in a look."""
    if isinstance(made, Pod):
        signs([made])
        gate_opened(made)
        assert made.no_image in (True, False)
    elif isinstance(made, Claim):
        assert made.age <= made.age
        claim_of(made)
    elif isinstance(made, ComputeDomain):
        imex_readiness([made])
    elif isinstance(made, ResourceSlice):
        node_from_slices(KubeNode("n"), [made, made])
        parts_of([made])
    elif isinstance(made, RayCluster):
        names = {group.name: [] for group in made.groups}  # type: ignore[var-annotated]
        json.dumps([*groups_added(made, []), *groups_stopped(made, names), *groups_removed(made, names)])
        with suppress(InvalidRequest):
            refuse_unfit(made)
            worker_template(made)
        node_from_slices(KubeNode("n", taints=(("a", "b", "NoSchedule"),)), [], made.tolerations)


@given(anything)
def test_whatever_a_reader_stumbles_over_is_unreadable(thing: Any) -> None:
    """Every error of a reader is one that the mirror knows; what it passes has the types it says, and can be used."""
    full = {"metadata": {"name": "x", "uid": "u", "resourceVersion": "1", "labels": {"ray-dra.io/attempt": "a"}}}
    tried = [thing, {**full, "spec": thing, "status": thing}, {**full, "spec": {"devices": thing, "pool": thing}}]
    for each in tried:
        for reader in READERS:
            try:
                made = reader(each)
            except UNREADABLE:
                continue
            assert reader(each) == made
            has_its_types(made)
            use(made)


class Api:
    """A `KubernetesApi` in memory: nothing is there but a lease, of which `told` is read."""

    server = "memory"

    def __init__(self, told: Any = None) -> None:
        self.told, self.closed = told, threading.Event()
        self.create: Callable[..., Any] = lambda thing, namespace, dry_run=False: None

    def serves(self, kind: str) -> bool:
        return True

    def pages(self, *arguments: Any, **more: Any) -> Iterator[tuple[list[Any], str]]:
        yield [], "1"

    def watch(self, *arguments: Any, began: Callable[..., None], **more: Any) -> Iterator[Any]:
        ended = threading.Event()
        began(ended.set)
        ended.wait(30)
        return iter(())

    def find(self, *arguments: Any) -> Any:
        return self.told

    def replace(self, thing: Any) -> None: ...


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    anything | st.fixed_dictionaries({"metadata": anything, "spec": anything}),
    anything | st.just("a word") | st.integers(min_value=10**300, max_value=10**310),
)
def test_nothing_that_a_server_sends_ends_a_lease(told: Any, duration: Any) -> None:
    spec = {"holderIdentity": "other", "leaseDurationSeconds": duration}
    for answer in (told, {"metadata": {"resourceVersion": "1"}, "spec": spec}):
        api: Any = Api(answer)
        made = Lease(api, "n", "gangs", "me")
        try:
            assert made.asked.wait(10)
            api.told = None
            until(lambda made=made: made.missing() == "")  # type: ignore[misc]
        finally:
            end(made)


def test_no_write_begins_after_the_lease_has_lapsed() -> None:
    """It lapses in the middle of a thousand writes; those that have begun end, and no other begins."""
    api: Any = Api()
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    begun, after = [0], [0]
    lapsed = threading.Event()

    def create(thing: Any, namespace: str, dry_run: bool = False) -> None:
        after[0] += lapsed.is_set()
        begun[0] += 1
        if begun[0] == 300:
            adapter._lease.stop()
            adapter._lease.thread.join(10)
            clock = adapter._lease._clock
            adapter._lease._clock = lambda: clock() + lease.SAFE_SECONDS
            lapsed.set()
        time.sleep(0.0005)

    api.create = create
    thing = {"kind": "Pod", "metadata": {"name": "p"}}
    try:
        with pytest.raises(NotLeading):
            adapter.together([partial(adapter.create, thing)] * 1000)
        assert after[0] < WRITERS  # between the question and the write
        for write in (adapter.create, partial(adapter.patch, "Pod", "p"), partial(adapter.delete, "Pod")):
            with pytest.raises(NotLeading):
                write({} if write is not adapter.create else thing)
    finally:
        adapter.close()
    for mirror in adapter._mirrors.values():
        mirror.thread.join(10)
        assert not mirror.thread.is_alive()


def test_an_adapter_that_cannot_begin_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Api):
        def pages(self, *arguments: Any, **more: Any) -> Iterator[Any]:
            raise KubernetesError("no")

    before = set(threading.enumerate())
    api: Any = Refusing()
    with pytest.raises(KubernetesError, match="no"):
        KubeAdapter(api, "n", "gangs", holder="me")
    until(lambda: not {t for t in threading.enumerate() if t not in before and t.is_alive()})


def test_the_lease_says_what_its_holder_cannot_see() -> None:
    api: Any = Api({"metadata": {"resourceVersion": "1"}})
    written: list[Any] = []
    api.replace = written.append
    made = Lease(api, "n", "gangs", "me", problems=lambda: ["Nodes cannot be watched: \u00e9", "\ud800" * 9000])
    try:
        until(lambda: bool(written))
        said = written[0]["metadata"]["annotations"]["ray-dra.io/problems"]
        assert said.startswith("Nodes cannot be watched: \u00e9\n")
        assert len(said.encode()) <= lease.MOST_BYTES
    finally:
        end(made)


def test_check_tells_what_cannot_be_read_and_what_the_coordinator_says() -> None:
    class Some(Api):
        def items(self, kind: str, **more: Any) -> list[Any]:
            return [node("good"), node("bad", cpu="much")] if kind == "Node" else [{"metadata": {"name": "slice"}}]

    api: Any = Some({"metadata": {}, "spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}})
    told = {finding.what: finding for finding in check._of_nodes(api, "GPUs")}
    assert told["node bad"].ok is told["ResourceSlice slice"].ok is False
    assert "much" in told["node bad"].said
    assert "node good" not in told
    (old,) = check._of_view(api, "n", "c", "view")
    assert (old.ok, "no coordinator runs" in old.said) == (None, True)
    written: list[Any] = []
    api.replace = written.append
    api.told = {"metadata": {"resourceVersion": "1"}}
    made = Lease(api, "n", "gangs", "me", problems=lambda: ("Pods cannot be watched", "Node bad is left out"))
    try:
        until(lambda: bool(written))
        api.told = written[0]
        assert [tuple(finding[::2]) for finding in check._of_view(api, "n", "c", "view")] == [
            (False, "Pods cannot be watched"),
            (False, "Node bad is left out"),
        ]
        written[0]["metadata"]["annotations"] = {}
        assert [finding.ok for finding in check._of_view(api, "n", "c", "view")] == [True]
    finally:
        end(made)
