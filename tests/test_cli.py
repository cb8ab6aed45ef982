"""`ray-dra snapshot` and `ray-dra plan`, as they are typed. With the worst input: tests/edge/test_command_line.py."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import ray_dra
from ray_dra.cli import app
from ray_dra.coordinator.status import Status
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.lifecycle import Change, Phase
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidSnapshot
from ray_dra.translate.files.snapshot import dump_snapshot, snapshot_of
from tests.core.machines import gang, rack


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    inventory = Inventory([*rack("a", 2), *rack("b", 2)])
    for name, sizes in (("left", (4,)), ("right", (4,))):
        answer = plan(inventory, gang(*sizes, name=name, locality=Locality(cliques=1, exclusive=True)))
        assert isinstance(answer, Allocation)
        inventory.hold(answer._replace(counters=()))
    path.write_text(dump_snapshot(snapshot_of(inventory)))
    return path


def test_plan_on_a_file(file: Path, tmp_path: Path) -> None:
    run = CliRunner()
    yes = run.invoke(app, ["plan", str(file), "--gpus", "4", "--same-clique"])
    assert yes.exit_code == 0
    assert "fits: 1 bundle, 4 GPUs, one clique" in yes.stdout
    no = run.invoke(app, ["plan", str(file), "--gpus", "4", "--bundles", "2", "--same-clique"])
    assert no.exit_code == 1
    assert "room for 1: 4 on 1 node" in no.stdout
    assert "would fit now: 1 of the 2 bundles (on 1 node, 1 clique)" in no.stdout
    assert "would fit without: left (4 GPUs; the smallest set)" in no.stdout
    wish = tmp_path / "gang.yaml"
    wish.write_text("bundles: [{GPU: 4}]\ncount: 2\nlocality: {cliques: 1}")
    plain = json.loads(run.invoke(app, ["plan", str(file), "--request", str(wish), "--json"]).stdout)
    assert plain["leaving"] == {"gangs": ["left"], "gpus": 4, "smallest": True}
    assert plain["shortfalls"][0]["kind"] == "room in one clique"
    missing = run.invoke(app, ["plan", str(tmp_path / "none.yaml")])
    assert isinstance(missing.exception, InvalidSnapshot)


def test_a_name_is_printed_as_it_is(file: Path) -> None:
    """A name between colons is no picture, least of all for programs."""
    for extra in ([], ["--json"]):
        said = CliRunner().invoke(app, ["plan", str(file), "--product", "a:on:b [red] :smile:", *extra]).stdout
        assert "a:on:b [red] :smile:" in said
    assert json.loads(said)["shortfalls"][0]["wanted"] == ["a:on:b [red] :smile:"]


def test_simulated_machines_as_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "rack.yaml"
    done = CliRunner().invoke(app, ["snapshot", str(path), "--profile", "gb200-nvl72", "--nodes", "3"])
    assert done.exit_code == 0, done.output
    answer = ray_dra.plan([{"GPU": 4}] * 3, locality=ray_dra.same_clique(), cluster=path)
    assert isinstance(answer, Allocation)
    assert [n[-2:] for n in answer.nodes] == ["00", "01", "02"]
    refused = ray_dra.plan([{"GPU": 4}] * 4, locality=ray_dra.same_clique(), cluster=str(path))
    assert isinstance(refused, Unsatisfiable)
    assert refused.counterfactual is not None
    assert refused.counterfactual.instead[0].change == "3 of the 4 bundles"


def test_gangs_tells_of_groups_without_a_plan_and_of_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Status("id", Phase.QUEUED, "train", None, (), None, 0, (), (), other_work=("4 GPUs on t0: theirs",))
    answers: dict[str, object] = {
        "gangs": [waits],
        "unseen": (),
        "asks": (),
        "unplanned": [("blocker", "02", 8.0)],
        "unread": [],
    }
    remotes = {name: SimpleNamespace(remote=lambda answer=answer: answer) for name, answer in answers.items()}
    monkeypatch.setattr("ray_dra.cli._connect", lambda address: None)
    monkeypatch.setattr("ray_dra.processes.calls.coordinator", lambda: SimpleNamespace(**remotes))
    monkeypatch.setattr("ray_dra.processes.calls.ask", lambda answer: answer)
    gang, group = CliRunner().invoke(app, ["gangs"]).stdout.splitlines()
    assert gang.endswith("other work has 4 GPUs on t0: theirs")
    assert group.split()[:2] == ["blocker", "unplanned"]
    assert "8 GPUs" in group
    assert "ray_dra://HOST:PORT" in group


def test_gangs_name_tells_what_the_gang_came_to_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    history = (
        Change(0.0, None, Phase.QUEUED, "submitted; waits for room"),
        Change(61.5, Phase.QUEUED, Phase.HELD, "its turn: devices are held"),
    )
    told = [Status(f"id-{n}", Phase.HELD, n, None, (), None, 0, (), (), history=history) for n in ("train", "other")]
    asked: SimpleNamespace = SimpleNamespace(remote=lambda: told)
    monkeypatch.setattr("ray_dra.cli._connect", lambda address: None)
    monkeypatch.setattr("ray_dra.processes.calls.coordinator", lambda: SimpleNamespace(gangs=asked))
    monkeypatch.setattr("ray_dra.processes.calls.ask", lambda answer: answer)
    for name in ("train", "id-train"):
        done = CliRunner().invoke(app, ["gangs", name])
        assert done.exit_code == 0, done.output
        first, *lines = done.stdout.splitlines()
        assert first.split()[:2] == ["train", "held"]
        assert lines == [
            "  1970-01-01 00:00:00  queued                     submitted; waits for room",
            "  1970-01-01 00:01:01  queued -> held             its turn: devices are held",
        ]
    odd = Change(0.0, None, Phase.QUEUED, "waits\nfor \x1b[2Jroom\u2028here")
    given = Notice("RayCluster gangs is being deleted", 60.0, (0,), 60.0)
    allocation = Allocation("id", (Placed("t0", ()), Placed("t1", ())))
    told[:] = [Status("id", Phase.READY, "train", allocation, (), None, 0, (), (), history=history, notice=given)]
    _, notice, *_ = CliRunner().invoke(app, ["gangs", "train"]).stdout.splitlines()
    assert notice == "  notice: bundle 0 will end from 1970-01-01 00:01:00 UTC on: RayCluster gangs is being deleted"
    told[:] = [Status("id", Phase.QUEUED, "a\n\x1b[31mb", None, (), None, 0, (), (), said="a\rb:100:c", history=(odd,))]
    done = CliRunner().invoke(app, ["gangs", "id"])
    assert all(letter.isprintable() for line in done.stdout.split("\n") for letter in line)
    assert len(done.stdout.split("\n")) == 3
    assert "a b:100:c" in done.stdout
    missing = CliRunner().invoke(app, ["gangs", "none"])
    assert missing.exit_code == 1
    assert "there is no gang 'none'" in missing.output
