"""`ray-dra top`, on a snapshot and on a running cluster, as docs/command-line.md shows it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from ray_dra import cli
from ray_dra.cli import connection
from ray_dra.cli.exit_codes import INTERRUPTED, USAGE, YES
from ray_dra.cli.top import ORDERS, Order
from ray_dra.coordinator.status import Status
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import Bundle, DeviceRequest
from ray_dra.core.plan import plan
from ray_dra.translate.files.snapshot import Snapshot, dump_snapshot, snapshot_of
from tests.core.machines import gang, rack

PAGE = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text()
NOW = 1e9


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.app, [*words])


@pytest.fixture
def held() -> Snapshot:
    inventory = Inventory([*rack("gb200-r0", 2), *rack("gb200-r1", 2)])
    share = gang(2, 1, name="eval")
    share = replace(share, bundles=(share.bundles[0], Bundle((DeviceRequest(1, share=500),))))
    for request in (gang(4, 4, name="train"), share):
        answer = plan(inventory, request)
        assert isinstance(answer, Allocation)
        inventory.hold(answer)
    return snapshot_of(inventory)


@pytest.fixture
def file(held: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("held.yaml").write_text(dump_snapshot(held))
    return "held.yaml"


def test_the_docs_show_it_as_it_is(file: str) -> None:
    for things in ("gangs", "cliques"):
        done = run("top", things, file)
        assert done.exit_code == YES, done.output
        assert f"$ ray-dra top {things} held.yaml\n{done.stdout}" in PAGE
    assert run("top", "gangs", file).stdout != run("top", "nodes", file).stdout


def status(id: str, name: str, held_for: float) -> Status:
    times = StageTimes((("queued", 100.0),), "", NOW - held_for)
    return Status(id, Phase.READY, name, None, (), None, 0, (), (), owner="02000000", times=times, priority=7)


def test_of_a_running_cluster_gangs_have_their_names_phases_and_ages(
    held: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {
        "snapshot": held,
        "gangs": [status("train", "pretraining", 11_000), status("eval", "", 20), status("waits", "waits", 5)],
    }
    monkeypatch.setattr(connection, "connect", lambda address: None)
    monkeypatch.setattr(connection, "ask_coordinator", lambda call: told[call])
    monkeypatch.setattr("ray_dra.cli.top.time.time", lambda: NOW)
    rows = [line.split() for line in run("top").stdout.splitlines()]
    assert rows[1] == ["pretraining", "ready", "8", "0", "0", "0", "2", "gb200-r0", "02000000", "3h"]
    assert rows[2][0] == "eval"
    assert [row[0] for row in rows].count("waits") == 0, "it has nothing"
    assert "7" in run("top", "-o", "wide").stdout.splitlines()[1].split()
    assert run("top", "-o", "name").stdout.split() == ["pretraining", "eval"]
    told["gangs"][1] = status("eval", "", 90_000)
    assert run("top", "--sort-by", "age", "-o", "name").stdout.split() == ["eval", "pretraining"], "the older one"
    nodes = run("top", "nodes", "-o", "name").stdout.split()
    assert nodes == ["gb200-r0-t0", "gb200-r0-t1", "gb200-r1-t0", "gb200-r1-t1"]
    assert "pretraining" in run("top", "nodes").stdout


@pytest.mark.parametrize(
    ("things", "column", "wanted"),
    [
        ("gangs", "name", ["eval", "train"]),
        ("gangs", "nodes", ["train", "eval"]),
        ("cliques", "free", ["gb200-r1", "gb200-r0"]),
        ("cliques", "name", ["gb200-r0", "gb200-r1"]),
        ("nodes", "free", ["gb200-r1-t1", "gb200-r1-t0", "gb200-r0-t0", "gb200-r0-t1"]),
    ],
)
def test_lines_are_ordered_by_the_column_asked_for(file: str, things: str, column: str, wanted: list[str]) -> None:
    assert run("top", things, file, "--sort-by", column, "-o", "name").stdout.split() == wanted
    said = json.loads(run("top", things, file, "--sort-by", column, "-o", "json").stdout)
    names = [each.get("name") or each.get("node") or each["clique"]["name"] for each in said]
    assert names == wanted, "for programs, too"


def test_each_order_is_one_that_the_things_have(file: str) -> None:
    for things, orders in ORDERS.items():
        whole = run("top", things.value, file)
        assert run("top", things.value, file, "--sort-by", orders[0].value).stdout == whole.stdout
        for order in Order:
            done = run("top", things.value, file, "--sort-by", order.value)
            known = order in orders and order is not Order.AGE
            assert done.exit_code == (YES if known else USAGE), (things, order)
            if known:
                assert sorted(done.stdout.splitlines()) == sorted(whole.stdout.splitlines()), (things, order)


def test_it_goes_on_until_ctrl_c_and_is_printed_again_when_it_changes(
    held: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = replace(held, gangs=held.gangs[:1])
    looks = iter([held, held, later, later])

    def ask(call: str) -> Any:
        return next(looks) if call == "snapshot" else [status("train", "", NOW), status("eval", "", 20)]

    clock = itertools.count(NOW, 20_000)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(connection, "connect", lambda address: None)
    monkeypatch.setattr(connection, "ask_coordinator", ask)
    monkeypatch.setattr("ray_dra.cli.top.time.sleep", sleep)
    monkeypatch.setattr("ray_dra.cli.top.time.time", lambda: next(clock))  # that gangs grow older is no change
    done = run("top", "--watch", "--sort-by", "name")
    assert done.exit_code == INTERRUPTED, done.output
    first, second = done.stdout.split("\n\n")
    assert [line.split()[0] for line in first.splitlines()] == ["GANG", "eval", "train", "16"]
    assert [line.split()[0] for line in second.splitlines()] == ["GANG", "train", "16"]


def test_for_programs(file: str) -> None:
    gangs = json.loads(run("top", "gangs", file, "-o", "json").stdout)
    assert [(g["name"], g["gpus"], g["shares"], g["phase"]) for g in gangs] == [
        ("train", 8, 0.0, None),
        ("eval", 2, 0.5, None),
    ]
    cliques = yaml.safe_load(run("top", "cliques", file, "-o", "yaml").stdout)
    assert [(c["clique"]["name"], c["gpus"], c["held"], c["shared"], c["used"]) for c in cliques] == [
        ("gb200-r0", 8, 8, 0, 1.0),
        ("gb200-r1", 8, 2, 1, 3 / 8),
    ]
    assert sum(n["free"] for n in json.loads(run("top", "nodes", file, "-o", "json").stdout)) == 5


def test_nothing_there_and_wrong_usage(file: str) -> None:
    Path("empty.yaml").write_text("nodes: []")
    assert run("top", "gangs", "empty.yaml").stdout.splitlines() == ["no gangs with GPUs", "0 GPUs: 0 free"]
    assert run("top", "pods", file).exit_code == USAGE
    assert run("top", "gangs", file, "--address", "127.0.0.1:1").exit_code == USAGE
    assert run("top", "gangs", file, "-w").exit_code == USAGE
