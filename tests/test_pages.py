"""Tutorials, how-tos and install pages are true: what they show a command print it prints, and their programs are
programs."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ray_dra.cli import app
from ray_dra.translate.files.team_queues import read_team_queues
from tests.cluster import newcomer

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(page for folder in ("tutorials", "how-to") for page in (ROOT / "docs" / folder).glob("*.md")),
        *(ROOT / "docs").glob("install-*.md"),
    ]
)


def blocks(page: Path, *kinds: str) -> list[tuple[str, str]]:
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [(kind, text) for kind, text in found if kind in kinds]


def named(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=named)
def test_commands_print_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one folder, with the programs between them that read what they have written."""
    monkeypatch.chdir(tmp_path)
    for kind, text in blocks(page, "console", "python"):
        if kind == "python":
            if ".yaml" in text:
                exec(text, {})
            continue
        for typed in text.removeprefix("$ ").split("\n$ "):
            words, _, wanted = typed.partition("\n")
            done = CliRunner().invoke(app, shlex.split(words)[1:])
            assert done.output.rstrip("\n") == wanted.rstrip("\n"), words
            assert done.exit_code == (1 if wanted.startswith("does not fit") else 0), words


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_rest_is_python_and_names_what_is_there(page: Path) -> None:
    for _, text in blocks(page, "python"):
        compile(text, str(page), "exec")
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for _, text in blocks(page, "bash"):
        assert set(re.findall(r"\bray-dra ([a-z]+)", text)) <= commands
        files = re.findall(r"\bpython ((?:examples|benchmarks)/\S+)", text)
        assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_laptops_program_is_the_example_that_is_run() -> None:
    ((_, text),) = blocks(ROOT / "docs" / "install-laptop.md", "python")
    assert (ROOT / "examples" / "quickstart.py").read_text().endswith(f'"""\n\n{text}')


def test_an_install_page_names_the_wheel_that_is_built() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.*)"', project, re.MULTILINE)
    extras = set(re.findall(r"^(\w+) = \[", project.split("[project.optional-dependencies]")[1], re.MULTILINE))
    for page in (ROOT / "docs").glob("install-*.md"):
        wheels = re.findall(r"ray_dra-([\w.]+)-py3-none-any\.whl(?:\[([\w,]+)\])?", page.read_text())
        assert wheels
        for found, wanted in wheels:
            assert found == version
            assert set(filter(None, wanted.split(","))) <= extras


def test_a_newcomer_runs_each_command_of_the_install_page() -> None:
    """`python -m tests.cluster.newcomer` takes them from the page; here, that it leaves none out in silence."""
    found = newcomer.sections((ROOT / "docs" / "install.md").read_text())
    assert list(found) == [*newcomer.LEFT_OUT, *newcomer.BEFORE, *newcomer.AFTER]
    shell = "\n".join(block for each in found.values() for block in each)
    done = subprocess.run(["bash", "-n"], input=shell, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"--namespace (\S+)", shell)) == {newcomer.NAMESPACE}
    seen, why, do = newcomer.symptom((ROOT / "docs" / "operations.md").read_text(), "RayDraGpusUnhealthy")
    assert "XID" in why
    assert seen
    assert do


def test_the_quotas_are_queues() -> None:
    """Of the YAML of that page, what is a declaration and no part of a pod."""
    (text,) = (text for _, text in blocks(ROOT / "docs" / "how-to" / "quotas.md", "yaml") if "guarantee" in text)
    assert read_team_queues(text, "docs").each["team-a"].guarantee == 16_000
