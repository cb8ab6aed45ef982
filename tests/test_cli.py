"""`ray-dra` as it is typed: what it prints where, and with what it ends. With the worst input:
tests/edge/test_command_line.py."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import ray_dra
from ray_dra import cli, errors
from ray_dra.cli import connection
from ray_dra.cli.exit_codes import (
    EXIT_CODES,
    FAULT,
    INTERRUPTED,
    NO,
    NO_READER,
    UNREACHABLE,
    USAGE,
    WRONG_FILE,
    YES,
    exit_code,
)
from ray_dra.coordinator.status import Status
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.capacity import capacity_now
from ray_dra.core.gangs.gang import Change
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.gangs.standing import PoolStanding, TeamStanding
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.errors import (
    ClusterUnavailable,
    CoordinatorUnavailable,
    InvalidAddress,
    InvalidRequest,
    InvalidSnapshot,
    RayDraError,
)
from ray_dra.simulated.profile import profile_names
from ray_dra.translate.files.snapshot import Others, Snapshot, dump_snapshot, snapshot_of
from ray_dra.translate.names import CLUSTER_NAME_VARIABLE, CLUSTER_NAMESPACE_VARIABLE
from tests.core.machines import gang, node, rack
from tests.core.parted import bundle, parted_node

app = cli.app
HISTORY = (
    Change(0.0, None, Phase.QUEUED, "submitted; waits for room"),
    Change(61.5, Phase.QUEUED, Phase.HELD, "its turn: devices are held"),
)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


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


Tell = Callable[..., dict[str, Any]]


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Has the coordinator answer so; without one of its own, the usual empty answer."""

    def answer(**answers: Any) -> dict[str, Any]:
        told: dict[str, Any] = {
            "gangs": [],
            "clique_names": {},
            "unplanned": [],
            "unread": [],
            "unseen": (),
            "asks": (),
            "teams": (),
            "pools": (),
        }
        told |= answers
        monkeypatch.setattr(connection, "connect", lambda address: None)
        monkeypatch.setattr(connection, "ask_coordinator", lambda call, *arguments, **_: told[call])
        return told

    return answer


# -- plan, snapshot, profiles


def test_plan_on_a_file(file: Path, tmp_path: Path) -> None:
    yes = run("plan", str(file), "--gpus", "4", "--same-clique")
    assert yes.exit_code == YES
    assert "fits: 1 bundle, 4 GPUs, one clique" in yes.stdout
    no = run("plan", str(file), "--gpus", "4", "--bundles", "2", "--same-clique")
    assert no.exit_code == NO
    assert "room for 1: 4 on 1 node" in no.stdout
    assert "would fit now: 1 of the 2 bundles (on 1 node, 1 clique)" in no.stdout
    assert "would fit without: left (4 GPUs; the smallest set)" in no.stdout
    wish = tmp_path / "gang.yaml"
    wish.write_text("bundles: [{GPU: 4}]\ncount: 2\nlocality: {cliques: 1}")
    words = ("plan", str(file), "--request", str(wish))
    plain = json.loads(run(*words, "--json").stdout)
    assert plain["leaving"] == {"gangs": ["left"], "gpus": 4, "smallest": True}
    assert plain["shortfalls"][0]["kind"] == "room in one clique"
    assert plain == json.loads(run(*words, "-o", "json").stdout) == yaml.safe_load(run(*words, "-o", "yaml").stdout)
    names = run("plan", str(file), "--gpus", "4", "--bundles", "2", "-o", "name")
    assert (names.stdout.splitlines(), names.exit_code) == (["a-t1", "b-t1"], YES)
    for two in (("--same-clique", "--at-most-cliques", "2"), ("--json", "-o", "yaml")):
        both = run("plan", str(file), *two)
        assert (both.exit_code, "say one of the two" in " ".join(both.stderr.split())) == (USAGE, True)
    for level, said in (("leaf", "a level and a number"), ("=2", "a level and a number"), ("leaf=x", "and a number")):
        wrong = run("plan", str(file), "--at-most", level)
        assert (wrong.exit_code, said in " ".join(wrong.stderr.split())) == (USAGE, True)
    unknown = run("plan", str(file), "--at-most", "leaf=2")
    assert isinstance(unknown.exception, InvalidRequest)
    missing = run("plan", str(tmp_path / "none.yaml"))
    assert isinstance(missing.exception, InvalidSnapshot)
    assert "No such file" in str(missing.exception)


def test_a_plan_of_shares_and_of_confidential_machines(file: Path, tmp_path: Path) -> None:
    """By options as by a file. Each kind of no is the model's own: that the option came through."""
    quarters = ("plan", str(file), "--share", "0.25", "--bundles", "5")
    answer = run(*quarters, "--time-slices", "Short")
    assert answer.exit_code == YES
    assert "5 bundles" in answer.stdout
    wish = tmp_path / "shares.yaml"
    wish.write_text('{bundles: [{"GPU": 0.25}], count: 5, sharing: {time_slicing: {interval: Short}}}')
    assert run("plan", str(file), "--request", str(wish)).stdout == answer.stdout
    assert "says by what it is shared" in str(run(*quarters).exception)
    assert run(*quarters, "--mps").exit_code == YES
    assert "MPS counts memory in mebibytes" in str(run(*quarters, "--mps-memory", "1k").exception)
    assert "threads" in str(run(*quarters, "--mps-threads", "101").exception)
    assert run(*quarters, "--mps", "--time-slices", "Short").exit_code == USAGE
    most = run(*quarters, "--mps-memory", "1Ti")
    assert most.exit_code == NO
    assert "1024Gi each" in most.stdout
    refused = run("plan", str(file), "--confidential", "on")
    assert refused.exit_code == NO
    assert "cc.mode" in refused.stdout
    wish.write_text("{bundles: [{GPU: 1}], confidential: true}")
    assert run("plan", str(file), "--request", str(wish)).stdout == refused.stdout
    assert "is a mode" in str(run("plan", str(file), "--confidential", "off").exception)


def test_slurms_blocks_are_planned_on_as_a_cluster(tmp_path: Path) -> None:
    conf = tmp_path / "topology.conf"
    conf.write_text("BlockName=a Nodes=n[1-4]\nBlockName=b Nodes=n[5-8]\nBlockSizes=4")
    words = ("plan", "--slurm", str(conf))
    assert run(*words, "-N", "4", "--segment", "2", "-o", "name").stdout.split() == ["n1", "n2", "n3", "n4"]
    near = run(*words, "-N", "6")
    assert (near.exit_code, "24 GPUs" in near.stdout) == (YES, True)
    assert run(*words, "-N", "6", "--same-clique").exit_code == NO
    assert "6 GPUs" in run(*words, "-N", "3", "--gpus-per-node", "2").stdout
    written = tmp_path / "cluster.yaml"
    assert run("snapshot", str(written), "--slurm", str(conf)).exit_code == YES
    assert run("plan", str(written), "--gpus", "4", "--bundles", "4", "--same-clique").exit_code == YES
    for wrong in (("plan", "-N", "2"), (*words, str(written)), ("snapshot", "--slurm", str(conf), "--profile", "x")):
        assert run(*wrong).exit_code == USAGE
    assert "--nodes" in run(*words, "-N", "0").stderr


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        ("plan FILE --request WISH --gpus 4 --strategy SPREAD", "--gpus, --strategy"),
        ("plan FILE --request WISH -N 2 --slurm FILE", "one of the two"),
        ("plan --slurm FILE --request WISH -N 2", "--nodes"),
        ("plan --slurm FILE -N 2 --bundles 3", "--bundles"),
        ("plan FILE --gpus-per-node 8", "--gpus-per-node"),
        ("plan FILE --address 127.0.0.1:1", "--address"),
        ("capacity FILE --address 127.0.0.1:1", "--address"),
        ("snapshot --nodes 3", "--nodes"),
        ("snapshot --slurm FILE --cliques 3", "--cliques"),
        ("snapshot --profile hgx-h100 --gpus-per-node 4", "--gpus-per-node"),
        ("snapshot --profile hgx-h100 --address 127.0.0.1:1", "--address"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(file: Path, words: str, idle: str) -> None:
    """Before any file is read: WISH is none."""
    said = run(*words.replace("FILE", str(file)).split())
    assert (said.exit_code, idle in " ".join(said.stderr.split())) == (USAGE, True), said.stderr


def test_capacity_tells_which_shapes_could_be_served(file: Path, tmp_path: Path, tell: Tell) -> None:
    said = run("capacity", str(file))
    assert said.exit_code == YES
    assert said.stdout.splitlines() == [
        "SHAPE          MOST   OF WHICH",
        "GPU            8      on one node 4, in one clique 4",
        "whole clique   0      none that nobody has anything of",
    ]
    inventory = Inventory([parted_node("n", 2)])
    one = plan(inventory, GangRequest("g", (bundle("3g.40gb"),)))
    assert isinstance(one, Allocation)
    inventory.hold(one)
    snapshot = snapshot_of(inventory)
    tell(snapshot=snapshot)
    assert "MIG 3g.40gb    3      1 without breaking a whole GPU" in run("capacity").stdout.splitlines()
    assert run("capacity", "-o", "name").stdout.split()[:2] == ["GPU", "MIG-7g.80gb"]
    values = json.loads(run("capacity", "-o", "json").stdout)
    assert values["gpus"] == values["on_one_node"] == 1
    assert values["parts"][0] == {"profile": "7g.80gb", "most": 1, "unbroken": 0}
    assert ray_dra.capacity(cluster=snapshot) == capacity_now(inventory)


def test_a_plan_names_racks_and_folds_bundles_that_are_alike(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    id = "3f2a9c1e-4e54-59d9-a1ac-ad6ed7d5e7b7.32766"
    path.write_text(dump_snapshot(Snapshot(tuple(rack(id, 18, prefix="gb200-r0")))))
    words = ("plan", str(path), "--gpus", "4", "--bundles", "16", "--same-clique")
    assert run(*words).stdout.splitlines() == [
        "fits: 16 bundles, 64 GPUs, one clique",
        "  clique gb200-r0",
        "    bundles 0 to 15, a node each, gb200-r0-t0 to gb200-r0-t15: GPU 0, 1, 2, 3 of each",
    ]
    assert len(run(*words, "-o", "wide").stdout.splitlines()) == 18


def test_a_name_is_printed_as_it_is(file: Path) -> None:
    """A name between colons is no picture, least of all for programs."""
    for extra in ([], ["--json"]):
        said = run("plan", str(file), "--product", "a:on:b [red] :smile:", *extra).stdout
        assert "a:on:b [red] :smile:" in said
    assert json.loads(said)["shortfalls"][0]["wanted"] == ["a:on:b [red] :smile:"]


def test_simulated_machines_as_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "rack.yaml"
    done = run("snapshot", str(path), "--profile", "gb200-nvl72", "--nodes", "3")
    assert done.exit_code == YES, done.output
    answer = ray_dra.plan([{"GPU": 4}] * 3, locality=ray_dra.same_clique(), cluster=path)
    assert isinstance(answer, Allocation)
    assert [n[-2:] for n in answer.nodes] == ["00", "01", "02"]
    refused = ray_dra.plan([{"GPU": 4}] * 4, locality=ray_dra.same_clique(), cluster=str(path))
    assert isinstance(refused, Unsatisfiable)
    assert refused.counterfactual is not None
    assert refused.counterfactual.instead[0].change == "3 of the 4 bundles"


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_is_printed_byte_for_byte(name: str) -> None:
    shipped = (resources.files("ray_dra.simulated") / "profiles" / f"{name}.yaml").read_bytes()
    assert run("profiles", name).stdout_bytes == shipped


def test_a_profile_is_the_same_bytes_whatever_the_terminals_encoding() -> None:
    """That of a DGX-1 has letters beyond ASCII."""
    command = [sys.executable, "-m", "ray_dra.cli", "profiles", "dgx-v100"]
    done = subprocess.run(command, capture_output=True, check=True, env={"PYTHONIOENCODING": "ascii", **_path()})
    assert done.stdout == (resources.files("ray_dra.simulated") / "profiles" / "dgx-v100.yaml").read_bytes()


def test_profiles_are_listed() -> None:
    assert run("profiles", "-o", "name").stdout.split() == list(profile_names())
    assert {each["name"] for each in json.loads(run("profiles", "-o", "json").stdout)} == set(profile_names())


# -- topology


def test_a_topology_tells_who_has_which_gpus(file: Path, tell: Tell) -> None:
    drawn = run("topology", str(file)).stdout.splitlines()
    assert drawn[:6] == [
        "clique a: 2 nodes, 8 GPUs",
        "  a-t0  [ A A | A A ]",
        "  a-t1  [ 0 1 | 2 3 ]",
        "clique b: 2 nodes, 8 GPUs",
        "  b-t0  [ B B | B B ]",
        "  b-t1  [ 0 1 | 2 3 ]",
    ]
    assert "held by: A left, B right" in drawn
    assert drawn[-1] == "16 GPUs on 4 nodes, 2 cliques: 8 free, 8 held"
    plain = json.loads(run("topology", str(file), "-o", "json").stdout)
    assert [gpu["gang"] for gpu in plain["nodes"][0]["gpus"]] == ["left"] * 4
    assert [clique["name"] for clique in plain["cliques"]] == ["a", "b"]
    assert run("topology", str(file), "-o", "name").stdout.split() == ["a-t0", "a-t1", "b-t0", "b-t1"]
    # Of the running cluster, by the gangs' names; others' work beside them.
    inventory = Inventory([node("n", 4, box=True)])
    held = plan(inventory, gang(2, name="id"))
    assert isinstance(held, Allocation)
    found = Snapshot((node("n", 4, box=True),), (held,), {"n": Others((3,))})
    tell(snapshot=found, gangs=[Status("id", Phase.READY, "train", held, (), None, 0, (), ())])
    told = run("topology").stdout
    assert "  n  [ A A | 2 * ]" in told
    assert "held by: A train" in told
    assert "*: other work" in " ".join(told.split())


# -- gangs


def test_gangs_are_a_table(tell: Tell) -> None:
    places = (Placed("r0-t0", ()), Placed("r0-t1", ()))
    status = Status(
        "id", Phase.PLACING, "train", Allocation("id", places), (), "group", 0, (), (), "so far", namespace="team",
        owner="0200", bundles=2, gpus=8, priority=3, times=StageTimes((("queued", 5.0),), "placed", 1e12),
    )  # fmt: skip
    waits = Status("w", Phase.QUEUED, "", None, (), None, 0, (), (), other_work=("4 GPUs on t0: theirs",))
    told = tell(gangs=[status, waits], unplanned=[("blocker", "02", 8.0)], unread=[("gang/x", "torn")])
    headers, train, queued, group, aside = run("gangs").stdout.splitlines()
    assert headers.split() == ["NAME", "PHASE", "STAGE", "BUNDLES", "GPUS", "CLIQUES", "OWNER", "AGE", "REASON"]
    cells = ["train", "placing", "placed", "2", "8", "-", "0200", "0s", "so"]
    assert train.split()[:9] == cells
    assert [at.start() for at in re.finditer(r"\S+", headers)] == [
        at.start() for at in itertools.islice(re.finditer(r"\S+", train), len(cells))
    ]
    assert queued.endswith("-     other work has 4 GPUs on t0: theirs")
    assert group.split()[:2] == ["blocker", "unplanned"]
    assert "8 GPUs" in group
    assert "ray_dra://HOST:PORT" in group
    assert aside.split()[:3] == ["gang/x", "set", "aside"]
    wide = run("gangs", "-o", "wide").stdout.splitlines()
    assert wide[0].split()[8:] == ["PRIORITY", "NAMESPACE", "ID", "NODES", "REASON"]
    assert "r0-t0,r0-t1" in wide[1]
    assert run("gangs", "-o", "name").stdout.split() == ["train", "w"]
    plain = json.loads(run("gangs", "-o", "json").stdout)
    assert plain == yaml.safe_load(run("gangs", "-o", "yaml").stdout)
    assert [(g["id"], g["phase"], g["gpus"], g["owner"]) for g in plain["gangs"]] == [
        ("id", "placing", 8, "0200"),
        ("w", "queued", 0, ""),
    ]
    assert plain["unplanned"] == [{"group": "blocker", "job": "02", "gpus": 8.0}]
    assert plain["set_aside"] == [{"key": "gang/x", "why": "torn"}]
    told.update(gangs=[], unplanned=[], unread=[], unseen=("a watch\nis old",))
    nobody = run("gangs")
    assert (nobody.stdout, nobody.stderr) == ("no gangs\n", "Kubernetes: a watch is old\n")


def test_pools_are_a_table_values_or_none(tell: Tell) -> None:
    tell()
    assert run("pools").stdout == "there are no pools: ray_dra.pool(...) makes one\n"
    tell(pools=(PoolStanding("notebooks", "id", "time slices, Short", 4, True, 1.0, 1.5, 2, 1, 0.5, None),))
    assert run("pools").stdout.split("\n")[1].split() == (
        ["notebooks", "4", "time", "slices,", "Short", "1", "1.5", "(2", "gangs)", "1.5", "1", "ready"]
    )
    (values,) = json.loads(run("pools", "-o", "json").stdout)
    assert (values["shared"], values["per_gang"], values["per_program"]) == (1.5, 0.5, None)
    assert run("pools", "-o", "name").stdout == "notebooks\n"


def test_queues_are_a_table_values_or_none(tell: Tell) -> None:
    tell()
    none = run("queues")
    assert (none.stdout, none.exit_code) == ("no queues of teams are declared: gangs wait in one queue\n", YES)
    team = TeamStanding("team-a", True, 16.0, 2.0, None, 24.0, 8.0, 0, 0.0, False)
    tell(teams=(team,), asks=("queues of teams: wrong",))
    table = run("queues")
    assert table.stdout.splitlines()[1].split() == ["team-a", "16", "2", "-", "24", "8", "0", "-"]
    assert table.stderr == "queues of teams: wrong\n"
    assert json.loads(run("queues", "-o", "json").stdout)[0]["borrowed"] == 8.0
    assert run("queues", "-o", "name").stdout == "team-a\n"


def test_gangs_name_tells_what_the_gang_came_to_and_why(tell: Tell) -> None:
    told = [Status(f"id-{n}", Phase.HELD, n, None, (), None, 0, (), (), history=HISTORY) for n in ("train", "other")]
    tell(gangs=told)
    for name in ("train", "id-train"):
        done = run("gangs", name)
        assert done.exit_code == YES, done.output
        first, *lines = done.stdout.splitlines()
        assert first.split()[:2] == ["train", "held"]
        assert lines == [
            "  1970-01-01 00:00:00  queued                     submitted; waits for room",
            "  1970-01-01 00:01:01  queued -> held             its turn: devices are held",
        ]
    odd = Change(0.0, None, Phase.QUEUED, "waits\nfor \x1b[2Jroom\u2028here")
    given = Notice("RayCluster gangs is being deleted", 60.0, (0,), 60.0)
    allocation = Allocation("id", (Placed("t0", ()), Placed("t1", ())))
    told[:] = [
        Status("id", Phase.READY, "train", allocation, (), None, 0, (), (), history=HISTORY, notice=given, bundles=2)
    ]
    _, notice, *_ = run("gangs", "train").stdout.splitlines()
    assert notice == "  notice: bundle 0 will end from 1970-01-01 00:01:00 UTC on: RayCluster gangs is being deleted"
    told[:] = [Status("id", Phase.QUEUED, "a\n\x1b[31mb", None, (), None, 0, (), (), said="a\rb:100:c", history=(odd,))]
    done = run("gangs", "id")
    assert all(letter.isprintable() for line in done.stdout.split("\n") for letter in line)
    assert len(done.stdout.split("\n")) == 3
    assert "a b:100:c" in done.stdout
    for command in ("gangs", "describe", "events"):
        for words in ([command], [command, "-o", "yaml"]):
            assert all(
                letter.isprintable() for line in run(*words[:1], "id", *words[1:]).stdout.split("\n") for letter in line
            )
    assert all(letter.isprintable() for line in run("gangs").stdout.split("\n") for letter in line)


@pytest.mark.parametrize("command", ["gangs", "describe", "events", "release"])
def test_a_gang_that_is_not_there_is_a_no_on_stderr(command: str, tell: Tell) -> None:
    tell()
    missing = run(command, "none")
    assert (missing.exit_code, missing.stdout) == (NO, "")
    assert "there is no gang 'none'" in missing.stderr


def test_describe_tells_all_of_a_gang(tell: Tell) -> None:
    inventory = Inventory(rack("c", 1))
    held = plan(inventory, gang(2, name="id", locality=Locality(cliques=1)))
    assert isinstance(held, Allocation)
    status = Status(
        "id", Phase.READY, "train", held, (), "0a", 1, (), (), history=HISTORY, namespace="team", owner="0200",
        bundles=1, gpus=2, locality="one clique", times=StageTimes((("queued", 61.5),), "", 61.5),
    )  # fmt: skip
    tell(gangs=[status], clique_names={"c": "rack-7"})
    lines = run("describe", "train").stdout.splitlines()
    for line in (
        "Name:       train",
        "Owner:      job 0200",
        "Phase:      ready",
        "Locality:   one clique",
        "Cliques:    rack-7",
        "Moves:      1",
        "Times:      ready 61.5 s after the call: queued 61.5",
        "  clique rack-7",
        "    bundle 0 on c-t0: GPU 0 (GPU-c-t0-0), 1 (GPU-c-t0-1)",
        "  1970-01-01 00:01:01  queued -> held             its turn: devices are held",
    ):
        assert line in lines
    assert any(line.startswith("Asked for:  1970-01-01 00:00:00 UTC (") for line in lines)
    (plain,) = json.loads(run("describe", "train", "-o", "json").stdout)
    assert plain["cliques"] == [{"id": "c", "name": "rack-7"}]
    assert plain["asked_at"] == 0.0
    assert plain["allocation"][0]["node"] == "c-t0"
    row = run("gangs").stdout.splitlines()[1]
    assert "rack-7" in row.split()


def test_events_are_the_gangs_changes_by_time(tell: Tell) -> None:
    late = (Change(30.0, None, Phase.QUEUED, "submitted"),)
    tell(
        gangs=[Status(n, Phase.HELD, n, None, (), None, 0, (), (), history=h) for n, h in (("a", HISTORY), ("b", late))]
    )
    assert run("events").stdout.splitlines() == [
        "TIME (UTC)            GANG   PHASE            REASON",
        "1970-01-01 00:00:00   a      queued           submitted; waits for room",
        "1970-01-01 00:00:30   b      queued           submitted",
        "1970-01-01 00:01:01   a      queued -> held   its turn: devices are held",
    ]
    assert len(run("events", "b").stdout.splitlines()) == 2
    plain = json.loads(run("events", "-o", "json").stdout)
    assert [(each["at"], each["gang"], each["to"]) for each in plain] == [
        (0.0, "a", "queued"),
        (30.0, "b", "queued"),
        (61.5, "a", "held"),
    ]


def test_watching_tells_each_change_once_and_that_a_gang_has_gone(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    queued, ready = (Status("a", phase, "train", None, (), None, 0, (), ()) for phase in (Phase.QUEUED, Phase.READY))
    other = Status("b", Phase.QUEUED, "other", None, (), None, 0, (), ())
    looks = [[queued, other], [queued, other], [ready, other], [other]]

    def turn(seconds: float) -> None:
        if not looks:
            raise KeyboardInterrupt
        told["gangs"] = looks.pop(0)

    monkeypatch.setattr("ray_dra.cli.gangs.time.sleep", turn)
    for words, wanted in (
        (["-w"], [["NAME", "PHASE"], ["train", "queued"], ["other", "queued"], ["train", "ready"], ["train", "gone"]]),
        (["train", "-w"], [["NAME", "PHASE"], ["train", "queued"], ["train", "ready"], ["train", "gone"]]),
    ):
        looks[:] = [[queued, other], [queued, other], [ready, other], [other]]
        told = tell(gangs=looks.pop(0))
        done = run("gangs", *words)
        assert done.exit_code == 130
        assert [line.split()[:2] for line in done.stdout.splitlines()] == wanted
    looks[:] = [[ready], []]
    told = tell(gangs=[queued])
    lines = run("gangs", "--watch", "-o", "json").stdout.splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["queued", "ready", "gone"]


# -- errors, exit codes, the version


def kinds(of: type[RayDraError] = RayDraError) -> list[type[RayDraError]]:
    return [of, *(each for below in of.__subclasses__() for each in kinds(below))]


CODES = {
    "UnsatisfiableError": NO,
    "GangGone": NO,
    "GangTimeout": NO,
    "InvalidRequest": USAGE,
    "InvalidAddress": USAGE,
    "NameTaken": USAGE,
    "InvalidSnapshot": WRONG_FILE,
}


def test_every_error_has_its_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in kinds():
        if kind.__module__ != errors.__name__:
            continue
        assert exit_code(kind("why")) == CODES.get(kind.__name__, UNREACHABLE), kind

    def fails(error: BaseException) -> int:
        def connect(address: str) -> None:
            raise error

        monkeypatch.setattr(connection, "connect", connect)
        monkeypatch.setattr("sys.argv", ["ray-dra", "gangs"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        assert said.out == ""
        assert str(error) in said.err
        assert isinstance(caught.value.code, int)
        return caught.value.code

    assert fails(CoordinatorUnavailable("why so")) == UNREACHABLE
    assert fails(RuntimeError("why so")) == FAULT
    assert fails(KeyboardInterrupt()) == INTERRUPTED


@pytest.mark.parametrize(
    "words", [["gangs"], ["describe"], ["--nope"], ["plan", "--bundles", "0"], ["gangs", "-o", "x"]]
)
def test_wrong_usage_ends_with_2(words: list[str], tell: Tell) -> None:
    tell()
    done = run(*words)
    if words == ["gangs"]:
        assert done.exit_code == YES
    else:
        assert (done.exit_code, done.stdout) == (USAGE, "")


@pytest.mark.parametrize("words", [["topology"], ["snapshot"], ["profiles", "gb200-nvl72"]])
@pytest.mark.parametrize(("reader", "code"), [("pipe", NO_READER), ("full", WRONG_FILE)])
def test_an_answer_that_cannot_be_written_is_no_no_and_no_fault(
    words: list[str], reader: str, code: int, file: Path
) -> None:
    given = {"topology": [str(file)], "snapshot": ["--profile", "hgx-h100", "--nodes", "1"]}
    if reader == "pipe":
        read, out = os.pipe()
        os.close(read)
    else:
        out = os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, "-m", "ray_dra.cli", *words, *given.get(words[0], [])]
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    os.close(out)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("ray-dra: The answer cannot be written." if reader == "full" else "")


def test_an_error_that_cannot_be_told_keeps_its_exit_code() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "ray_dra.cli", "topology", "no such file"], stderr=full)
    assert done.returncode == WRONG_FILE


def test_names_do_not_steer_the_terminal(file: Path) -> None:
    evil = file.with_name("evil.yaml")
    evil.write_text(file.read_text().replace("a-t0", r'"a-t0\e[31m\n\u202e"'))
    said = run("topology", str(evil), "-o", "name").stdout
    assert said.splitlines()[0] == r"a-t0\x1b[31m\n\u202e"
    said = run("plan", str(file), "--product", "a\x1b[2J").stdout
    assert r"wanted a\x1b[2J" in said
    assert "\x1b" not in said


def test_help_tells_the_exit_codes_and_the_version_is_told() -> None:
    for words in (["--help"], ["-h"], ["plan", "-h"], ["gangs", "--help"]):
        told = " ".join(run(*words).stdout.split())
        for part in EXIT_CODES.split(", "):
            assert part.split(" (")[0] in told
    assert run("--version").stdout == f"ray-dra {ray_dra.__version__}\n"
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'\nversion = "{ray_dra.__version__}"\n' in project


def test_a_dash_is_standard_output_and_standard_input(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    one = ("snapshot", "--profile", "gb200-nvl72", "--nodes", "1")
    assert run(*one, "-").stdout == run(*one).stdout != ""
    assert not Path("-").exists()
    for command in (["topology"], ["top", "nodes"], ["plan"], ["capacity"]):
        from_file = run(*command, str(file))
        piped = CliRunner().invoke(app, [*command, "-"], input=file.read_bytes())
        assert (piped.exit_code, piped.stdout) == (from_file.exit_code, from_file.stdout)
        assert piped.stdout
    nothing = CliRunner().invoke(app, ["topology", "-"], input="gangs: 1\n")
    assert isinstance(nothing.exception, InvalidSnapshot)


def test_in_a_pod_of_kuberays_a_command_connects_as_programs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes first starts the coordinator, and one that does not know Kubernetes would serve programs, too."""
    asked: list[str] = []
    monkeypatch.setattr("ray.init", lambda address, **_: asked.append(address))
    monkeypatch.setenv(CLUSTER_NAME_VARIABLE, "gangs")
    monkeypatch.delenv(CLUSTER_NAMESPACE_VARIABLE, raising=False)
    connection.connect("")
    monkeypatch.setenv(CLUSTER_NAMESPACE_VARIABLE, "ray")
    connection.connect("")
    connection.connect("127.0.0.1:6379")
    assert asked == ["ray_dra://", "ray_dra://kubernetes", "ray_dra://127.0.0.1:6379"]


def test_without_a_cluster_on_this_machine_nobody_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that was typed wrong is another matter."""

    def refuse(address: str, **_: object) -> None:
        raise InvalidAddress("There is none here.", place="address")

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(ClusterUnavailable, match="no Ray cluster here"):
        connection.connect("")
    with pytest.raises(InvalidAddress):
        connection.connect("nowhere")


def _path() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}


def test_where_nobody_answers_it_ends_with_3_and_says_so_alone() -> None:
    """A real process, a port where nobody listens: no line is Ray's or gRPC's."""
    command = [sys.executable, "-m", "ray_dra.cli", "gangs", "--address", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (UNREACHABLE, "")
    first, *rest = done.stderr.splitlines()
    assert first.startswith("ray-dra: No Ray cluster answers at this address")
    assert [line.split(":")[0].strip() for line in rest] == ["where", "wanted", "available"]


def test_a_shell_completes_commands() -> None:
    words = {"_RAY_DRA_COMPLETE": "complete_bash", "COMP_WORDS": "ray-dra ga", "COMP_CWORD": "1", **_path()}
    command = [sys.executable, "-m", "ray_dra.cli"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, env=words).stdout.split() == ["gangs"]


NOISY = """
import logging, os, sys
from ray_dra.cli import connection
connection.silence()
os.write(2, b"what a library in C prints\\n")
logging.getLogger("urllib3").warning("what a library in Python warns of")
print("ours: \\udcff", file=sys.stderr)
"""


def test_noise_of_others_is_kept_out_of_stderr() -> None:
    def said(**environment: str) -> list[str]:
        command = [sys.executable, "-c", NOISY]
        environment = {"PYTHONIOENCODING": "utf-8", **environment, **_path()}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stderr.splitlines()

    assert said() == ["ours: \\udcff"]
    assert said(RAY_BACKEND_LOG_LEVEL="warning")[0] == "what a library in C prints"


def test_the_map_of_a_file_is_served_until_ctrl_c(tmp_path: Path) -> None:
    """The command itself, as a browser meets it; ctrl-C ends it without a word, a browser that listens or not."""
    path = tmp_path / "rack.yaml"
    path.write_text(dump_snapshot(Snapshot(tuple(rack("r", 2)))))
    command = [sys.executable, "-m", "ray_dra.cli", "map", str(path), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            said = serving.stdout.readline()
            found = re.fullmatch(r"the map of rack\.yaml is at (http://127\.0\.0\.1:\d+/); ctrl-C ends it\n", said)
            assert found, said
            with urllib.request.urlopen(found[1], timeout=60) as page:
                assert b"<title>ray-dra map</title>" in page.read()
            with urllib.request.urlopen(found[1] + "events", timeout=60) as events:
                assert events.readline() == b"event: state\n"
                serving.send_signal(signal.SIGINT)
                assert serving.wait(60) == YES
            assert serving.stderr is not None
            assert serving.stderr.read() == ""
        finally:
            serving.kill()


def test_the_map_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rack.yaml"
    path.write_text(dump_snapshot(Snapshot(tuple(rack("r", 1)))))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("map", str(path), "--port", str(taken.getsockname()[1]), "--no-browser")
    assert done.exit_code == USAGE
    assert "cannot be served" in done.stderr
    for words in (("--host", ""), ("--address", "127.0.0.1:1")):  # an empty one would be every address there is
        done = run("map", str(path), *words)
        assert (done.exit_code, words[0] in done.stderr) == (USAGE, True)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "ray_dra.operate.map.server", raising=False)
    done = run("map", str(path))
    assert done.exit_code == USAGE
    assert "pip install 'ray-dra[map]'" in done.stderr


def test_a_map_from_elsewhere_is_the_heads_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = run("map", "--raycluster", "gangs", "--port", "80")
    assert done.exit_code == USAGE
    assert "at a port of its own here" in " ".join(done.stderr.replace("\u2502", " ").split())
