"""The map's server over a snapshot: the page, a gang's details, what-if; and nothing from it that is not plain text."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import GangGone, InvalidRequest, InvalidSnapshot
from ray_dra.operate.map.server import app_of, request_of
from ray_dra.operate.map.sources import ClusterSource, SnapshotSource
from ray_dra.translate.files.snapshot import Snapshot, dump_snapshot, snapshot_of
from ray_dra.translate.map.view import NOTHING_SEEN, View
from tests.core.machines import gang, held, node, rack
from tests.operate.map.asked import asked, scope_of

PAGE = resources.files("ray_dra.operate.map").joinpath("page")
ODD = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SnapshotSource:
    inventory = Inventory([*rack("r", 2), node("box", 2, box=True)])
    held(inventory, gang(4, name=ODD))
    path = tmp_path_factory.mktemp("map") / "rack.yaml"
    path.write_text(dump_snapshot(snapshot_of(inventory)))
    return SnapshotSource(path)


def test_the_page_and_its_files_are_served(source: SnapshotSource) -> None:
    app = app_of(source)
    page = asked(app, "/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for path, kind in (("map.js", "text/javascript"), ("racks.js", "text/javascript"), ("map.css", "text/css")):
        found = asked(app, f"/{path}")
        assert (found.status, found.headers["content-type"].partition(";")[0]) == (200, kind)
        assert f'"{path}"'.encode() in page.body or f'"./{path}"'.encode() in asked(app, "/map.js").body
    assert asked(app, "/icon.svg").headers["content-type"].startswith("image/svg+xml")
    for path in ("/nothing", "/../server.py", "/page/map.js", "/gangs/"):
        assert asked(app, path).status == 404


def test_whoever_wants_no_body_gets_no_events(source: SnapshotSource) -> None:
    found = asked(app_of(source), "/events", "HEAD")
    assert (found.status, found.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")


def test_the_first_event_is_all_of_the_file(source: SnapshotSource) -> None:
    app = app_of(source)

    async def first() -> dict[str, Any]:
        sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        serving = asyncio.create_task(app(scope_of("/events"), receive, sent.put))  # type: ignore[arg-type]
        start, body = await sent.get(), await sent.get()
        assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
        gone.set()
        await serving
        found: dict[str, Any] = json.loads(re.search(r"^data: (.*)$", body["body"].decode(), re.MULTILINE)[1])  # type: ignore[index]
        return found

    state = asyncio.run(first())
    assert (state["about"], state["live"], state["figures"]["gpus"]["held"]) == ("rack.yaml", False, 4)
    assert set(state["gangs"]) == {ODD}
    assert app.state.watch.browsers == 0


def test_a_gangs_details(source: SnapshotSource) -> None:
    app = app_of(source)
    found = asked(app, "/gangs/" + ODD)  # as a server has decoded the path
    assert found.status == 200
    assert found.json["ranks"][0]["node"] == "r-t0"
    gone = asked(app, "/gangs/nobody")
    assert (gone.status, "no such gang" in gone.json["error"]) == (404, True)


def test_what_if_says_where_and_why_not(source: SnapshotSource) -> None:
    app = app_of(source)
    yes = asked(app, "/what-if?gpus=4&where=one")
    assert (yes.status, yes.json["fits"], yes.json["ghost"]) == (200, True, {"r-t1": [0, 1, 2, 3]})
    no = asked(app, "/what-if?gpus=4&bundles=2&where=one").json
    assert (no["fits"], no["leaving"]) == (False, [ODD])
    assert no["ghost"] != {}
    for query in (
        "gpus=x",
        "gpus=--5",
        "bundles=0",
        "bundles=-1",
        "where=moon",
        "gpus=1e3",
        "gpus=-4",
        "gpus=999999999999",
    ):
        bad = asked(app, f"/what-if?{query}")
        assert (bad.status, bool(bad.json["error"])) == (400, True), query


@given(
    st.dictionaries(st.sampled_from(["gpus", "bundles", "where", "segment", "priority", "odd"]), st.text(max_size=12))
)
@settings(max_examples=100, deadline=None)
def test_whatever_is_asked_is_a_gang_or_refused(query: dict[str, str]) -> None:
    try:
        assert isinstance(request_of(query), GangRequest)
    except InvalidRequest as error:
        assert error.reason


def test_places_of_a_what_if() -> None:
    assert request_of({"where": "one"}).locality.cliques == 1
    assert request_of({"where": "one"}).locality.required
    assert not request_of({}).locality.required
    segmented = request_of({"where": "one", "bundles": "4", "segment": "2"}).locality
    assert (segmented.segment, segmented.cliques, segmented.required) == (2, None, True)
    assert request_of({"where": "linked", "gpus": "2"}).locality.connect.value == "required"


def test_a_file_that_is_none_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("nodes: 7")
    with pytest.raises(InvalidSnapshot):
        SnapshotSource(path)


def test_what_would_be_waited_for_without_end_is_refused(tmp_path: Path) -> None:
    """A pipe that nobody writes to, and a folder; the standard input is read where it is asked for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(InvalidSnapshot, match="no regular file"):
            SnapshotSource(path)
    with pytest.raises(InvalidSnapshot, match="cannot be read"):
        SnapshotSource(tmp_path / "absent")


def test_a_snapshot_from_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    text = dump_snapshot(Snapshot(tuple(rack("r", 2)))).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    found = SnapshotSource(Path("-"))
    assert found.about == "standard input"
    assert [row.name for row in found.look(NOTHING_SEEN).nodes] == ["r-t0", "r-t1"]


def test_a_file_is_told_once(source: SnapshotSource) -> None:
    view = source.look(NOTHING_SEEN)
    assert view.nodes
    assert source.look(view.to) == View(view.to)


def test_a_cluster_is_asked_by_the_coordinators_calls() -> None:
    asks: list[tuple[Any, ...]] = []

    def ask(*call: Any) -> Any:
        asks.append(call)
        if call[0] == "status":
            raise GangGone("The gang is not there any more.", place=call[1])
        return View(NOTHING_SEEN) if call[0] == "view" else None

    source = ClusterSource("here", ask)
    assert source.look(NOTHING_SEEN) == View(NOTHING_SEEN)
    source.plan(gang(1))
    found = asked(app_of(source), "/gangs/" + quote("g"))
    assert found.status == 404
    assert [call[0] for call in asks] == ["view", "plan", "status"]


def test_the_page_loads_nothing_from_elsewhere_and_sets_no_html() -> None:
    texts = {file.name: file.read_text() for file in PAGE.iterdir()}
    assert set(texts) == {"map.html", "map.css", "map.js", "racks.js", "icon.svg"}
    for name, text in texts.items():
        addresses = set(re.findall(r"https?://[^\s\"')]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, name
        for risky in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "srcdoc",
        ):
            assert risky not in text, f"{name}: {risky}"
    assert not re.search(r"\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)", texts["map.html"]), "the policy forbids these"
