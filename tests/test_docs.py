"""What the docs say of the code is there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ray_dra
from ray_dra import errors
from ray_dra.cli import app, connection, exit_codes
from ray_dra.coordinator.status import Status
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.gangs.standing import TeamStanding
from ray_dra.core.gangs.team_queues import TeamQueue
from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.device import DeviceId
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.translate.files.team_queues import read_team_queues
from tests.core.machines import gang, rack

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def section(heading: str) -> str:
    return re.split(r"^## ", ARCHITECTURE.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


def named(text: str) -> list[str]:
    """Files of the package that a text names by their folders."""
    return [path for path in re.findall(r"`([\w/.]+)`", text) if "/" in path.rstrip("/")]


def test_every_path_in_the_architecture_is_there() -> None:
    paths = named(ARCHITECTURE)
    assert len(paths) > 40
    assert [p for p in paths if not (ROOT / "ray_dra" / p).exists() and not (ROOT / p).exists()] == []


def test_where_to_change_what_names_what_is_there() -> None:
    rows = [line for line in section("Where to change what").splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        _, what, where, _ = row.split("|")
        path, source = None, ""
        for name in re.findall(r"`([\w/.]+)`", where):
            if "/" in name or name.endswith(".py"):
                path = ROOT / "ray_dra" / name if (ROOT / "ray_dra" / name).exists() else ROOT / name
                assert path.exists(), f"{what}: {name}"
                source = path.read_text() if path.is_file() else ""
            else:
                assert re.search(rf"^\s*(def|class) {name}\b|^{name}\b", source, re.MULTILINE), (
                    f"{what}: {name} in {path}"
                )
        assert path is not None, what


def test_every_room_is_told() -> None:
    """Each folder of the package has its paragraph; those of core and of the coordinator are told by their paths."""
    told = section("Rooms")
    package = ROOT / "ray_dra"
    for folder in (p.parent for p in package.glob("*/__init__.py")):
        assert f"**{folder.name}**" in told, folder.name
    for folder in (
        p.parent
        for room in ("core", "translate", "coordinator/backends")
        for p in (package / room).glob("*/__init__.py")
    ):
        assert re.search(rf"`(core/)?{folder.name}/`", told), folder


def test_every_module_is_told() -> None:
    told = section("Rooms")
    package = ROOT / "ray_dra"
    files = [file for file in package.rglob("*.py") if file.name != "__init__.py" and "proto" not in file.parts]
    assert len(files) > 100
    assert [str(f.relative_to(package)) for f in files if not re.search(rf"`(\w+/)*{f.name}`", told)] == []


COMMANDS = (ROOT / "docs" / "command-line.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```console\n(.*?)```", COMMANDS, re.DOTALL))
def test_a_command_prints_what_the_docs_show(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for typed in block.removeprefix("$ ").split("\n$ "):
        words, _, wanted = typed.partition("\n")
        done = CliRunner().invoke(app, shlex.split(words)[1:])
        assert done.exit_code == 0, done.output
        assert done.output.rstrip("\n") == wanted.rstrip("\n")


def test_the_docs_tell_every_command_and_exit_code() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(re.findall(r"^\| `(\w+)` \|", COMMANDS, re.MULTILINE)) == commands
    codes = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", COMMANDS, re.MULTILINE)} == codes


def test_the_docs_show_gangs_as_they_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e9
    held = Allocation(
        "t", tuple(Placed(f"n{at}", (Grant(f"n{at}", 0, DeviceId("", "", ""), "", 0, c),)) for at, c in enumerate("ab"))
    )
    inventory = Inventory(rack("r", 2))
    inventory.set_others("r-t0", 0b1111, {})
    no = plan(inventory, gang(4, 4))
    assert isinstance(no, Unsatisfiable)
    train = Status("t", Phase.READY, "train", held, (), None, 0, (), (), owner="02000000", bundles=4, gpus=16,
                   times=StageTimes((("queued", 100.0),), "", now - 11_000))  # fmt: skip
    waits = Status("e", Phase.QUEUED, "eval", None, (), None, 0, (), no.shortfalls, owner="03000000", bundles=2, gpus=8,
                   times=StageTimes((), "queued", now - 45))  # fmt: skip
    told: dict[str, Any] = {
        "gangs": [train, waits],
        "clique_names": {"a": "gb200-r0", "b": "gb200-r1"},
        "unplanned": [("blocker", "04000000", 8.0)],
        "unread": [],
        "unseen": (),
        "asks": (),
    }
    monkeypatch.setattr(connection, "connect", lambda address: None)
    monkeypatch.setattr(connection, "ask_coordinator", lambda call: told[call])
    monkeypatch.setattr("ray_dra.cli.gangs.time.time", lambda: now)
    assert f"$ ray-dra gangs\n{CliRunner().invoke(app, ['gangs']).stdout}```" in COMMANDS


def test_the_docs_show_queues_as_they_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    teams = (
        TeamStanding("default", True, 0.0, 1.0, 8.0, 4.0, 4.0, 0, 0.0, False),
        TeamStanding("team-a", True, 16.0, 2.0, 64.0, 24.0, 8.0, 2, 16.0, False),
        TeamStanding("team-b", True, 8.0, 1.0, 16.0, 16.0, 8.0, 1, 4.0, True),
    )
    monkeypatch.setattr(connection, "connect", lambda address: None)
    monkeypatch.setattr(connection, "ask_coordinator", {"teams": teams, "asks": ()}.get)
    assert f"$ ray-dra queues\n{CliRunner().invoke(app, ['queues']).stdout}```" in COMMANDS


def test_the_declaration_in_the_docs_is_one() -> None:
    (example,) = re.findall(r"```yaml\n(team-a.*?)```", (ROOT / "docs" / "queue.md").read_text(), re.DOTALL)
    found = read_team_queues(example, "docs")
    assert found.each["team-a"] == TeamQueue("team-a", 16_000, 2.0, 64_000)
    assert found.each["default"].limit == 8_000


def test_the_example_of_devices_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "ray_dra.gpu(" in block
    )
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["snapshot", "rack.yaml", "--profile", "gb200-nvl72", "--nodes", "2"])
    assert made.exit_code == 0, made.output
    exec(example, {})
    fits, refused = capsys.readouterr().out.splitlines()[:2]
    assert fits.startswith("Allocation(")
    assert refused.startswith(
        "device attribute in gb200-r0-t00 (the nearest to it): wanted memory >= 200G, available 186Gi"
    )


SITE = ROOT / "site"


def test_the_site_has_every_page_and_every_public_name() -> None:
    """`make site` fails where a page is left out or a link leads nowhere; this does without it."""
    listed = set(re.findall(r"- ((?:\w|[-/.])+\.md)$", (SITE / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("README.md")]
    assert listed == {str(page.relative_to(ROOT)) for page in pages} | {"reference.md"}
    assert all((SITE / "pages" / page).exists() for page in listed)
    told = re.findall(r"^::: ray_dra\.(\w+)$", (SITE / "pages" / "reference.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(ray_dra.__all__)


def test_the_site_is_built_without_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", "site/mkdocs.yml", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert "min_bundles" in (tmp_path / "reference.html").read_text()
    foreign = re.findall(r"(?:src|href)=.?(?:https?:)?//([^/\"> ]+)", (tmp_path / "index.html").read_text())
    assert set(foreign) <= {"squidfunk.github.io"}, "the line that names the theme; nothing else is of another host"


def test_every_error_has_its_cure() -> None:
    told = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    kinds = [n for n, e in vars(errors).items() if isinstance(e, type) and issubclass(e, errors.RayDraError)]
    assert sorted(told) == sorted(set(kinds) - {"RayDraError"})
