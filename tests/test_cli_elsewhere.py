"""Commands from a laptop: what the head is asked, and that its answer, its errors and its exit code come through."""

from __future__ import annotations

import enum
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner, Result

from ray_dra import cli
from ray_dra.cli import connection, elsewhere
from ray_dra.cli.elsewhere import FROM_HERE, KUBECTL, SCRIPT, WHERE, Asked, found_raycluster, words_of
from ray_dra.cli.entry import FILES, OF_A_CLUSTER
from ray_dra.cli.exit_codes import NO, USAGE, WRONG_FILE, YES
from ray_dra.errors import NotFound

Sent = list[tuple[Asked, list[str], bytes]]


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Notes what is asked of a head, and answers."""
    sent: Sent = []

    def ask_head(asked: Asked, words: list[str], given: bytes, out: Any) -> int:
        sent.append((asked, words, given))
        out(b"the head's answer\n")
        return NO if "train" in words else YES

    def connect(address: str) -> None:
        raise AssertionError("this machine is asked")

    monkeypatch.setattr(elsewhere, "ask_head", ask_head)
    monkeypatch.setattr(connection, "connect", connect)
    return sent


def run(*words: str, program: str = "ray-dra") -> Result:
    return CliRunner().invoke(cli.app, [*words], prog_name=program)


def test_a_head_is_asked_as_it_was_typed_and_ends_the_command(head: Sent) -> None:
    done = run("describe", "train", "-o", "json", "--raycluster", "gangs", "-n", "ray", "--context", "lab")
    assert (done.exit_code, done.stdout) == (NO, "the head's answer\n")
    assert head == [(Asked("gangs", "ray", None, "lab"), ["describe", "--output=json", "--", "train"], b"")]


def test_of_kubectl_every_command_asks_the_head_but_of_a_file(head: Sent, tmp_path: Path) -> None:
    rack = tmp_path / "rack.yaml"
    for command in OF_A_CLUSTER:
        needs = {"describe": ["train"], "release": ["train"]}.get(command.__name__, [])
        run(command.__name__, *needs, program=KUBECTL)
        assert head.pop()[1][0] == command.__name__
    assert run("snapshot", str(rack), "--profile", "gb200-nvl72", "--nodes", "1", program=KUBECTL).exit_code == YES
    assert run("topology", str(rack), program=KUBECTL).exit_code == YES
    assert run("profiles", program=KUBECTL).exit_code == YES
    assert not head


def test_what_a_command_reads_travels_and_what_it_writes_is_written_here(head: Sent, tmp_path: Path) -> None:
    request, written = tmp_path / "gang.yaml", tmp_path / "there.yaml"
    request.write_text("bundles: [{GPU: 1}]\n")
    run("plan", "--request", str(request), "--raycluster", "gangs")
    run("snapshot", str(written), "--raycluster", "gangs")
    (_, planned, sent), (_, taken, nothing) = head[:2]
    assert (planned, sent) == (["plan", f"--request={FROM_HERE}"], request.read_bytes())
    assert (taken, nothing) == (["snapshot"], b"")
    assert written.read_text() == "the head's answer\n"
    assert run("snapshot", "-", "--raycluster", "gangs").stdout == "the head's answer\n"
    assert head[-1][1] == ["snapshot"]
    assert not Path("-").exists()
    assert run("plan", "--request", "no such file", "--raycluster", "gangs").exit_code != YES
    assert run("snapshot", str(tmp_path), "--raycluster", "gangs").exit_code != YES


@pytest.mark.parametrize(
    "words",
    [
        ["gangs", "--raycluster", "gangs", "--address", "127.0.0.1:1"],
        ["gangs", "--namespace", "ray"],
        ["gangs", "--context", "lab"],
        ["topology", "rack.yaml", "--raycluster", "gangs"],
        ["plan", "--slurm", "topology.conf", "--raycluster", "gangs"],
        ["snapshot", "--profile", "gb200-nvl72", "--raycluster", "gangs"],
    ],
)
def test_two_places_or_half_of_one_are_wrong_usage(words: list[str], head: Sent) -> None:
    assert run(*words).exit_code == USAGE
    assert not head


def _value(kind: object) -> st.SearchStrategy[str]:
    """What may be typed for a parameter of this type."""
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, enum.Enum):
            return st.sampled_from([choice.value for choice in each])
    if kind in (int, float, int | None, float | None):
        return st.integers(1, 99).map(str)
    return st.text("aB 1-=\"'$\u00fc\n", min_size=1, max_size=6)


@given(data=st.data())
@settings(deadline=None)
def test_any_command_travels_as_it_is(data: st.DataObject) -> None:
    """What the head reads is what was typed: each option and argument, whatever stands in it."""
    asked = data.draw(st.sampled_from(sorted(OF_A_CLUSTER, key=lambda each: each.__name__)))
    name, hints = asked.__name__, get_type_hints(asked)
    root: Any = get_command(cli.app)
    command = root.commands[name]
    typed: list[str] = []
    last: list[str] = []
    left_out = False
    for parameter in command.params:
        argument = parameter.param_type_name == "argument"
        if (
            parameter.name in WHERE
            or (argument and left_out)
            or (not parameter.required and not data.draw(st.booleans()))
        ):
            left_out |= argument  # and with it those that follow
            continue
        value = _value(hints[parameter.name])
        if argument:
            last = [*(last or ["--"]), data.draw(value)]
        elif hints[parameter.name] is bool:
            typed.append(parameter.opts[0])
        else:
            for _ in range(data.draw(st.integers(1, 2)) if parameter.multiple else 1):
                typed += [data.draw(st.sampled_from(parameter.opts)), data.draw(value)]
    first = command.make_context(name, [*typed, *last])
    words = words_of(first, frozenset(WHERE))
    assert words[0] == name
    assert command.make_context(name, words[1:]).params == first.params
    assert {each.name for each in command.params} >= {*WHERE, *_named(name)}


def _named(command: str) -> set[str]:
    """Parameters that the table of files names of a command."""
    found = [files for each, files in FILES.items() if each.__name__ == command]
    return {name for files in found for name in (*files.instead, *files.read, files.written) if name}


class Clusters:
    """An API server with these RayClusters."""

    namespace = "home"

    def __init__(self, *names: str) -> None:
        self.names = names

    def items(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        return [{"metadata": {"name": name}} for name in self.names if namespace == "home"]


def test_the_only_raycluster_need_not_be_named() -> None:
    assert found_raycluster(Clusters("gangs"), Asked("", "", None, None)) == ("home", "gangs")
    assert found_raycluster(Clusters(), Asked("gangs", "ray", None, None)) == ("ray", "gangs")
    with pytest.raises(NotFound, match="has to be said") as several:
        found_raycluster(Clusters("b", "a"), Asked("", "", None, None))
    assert several.value.available == "a, b"
    with pytest.raises(NotFound, match="no RayCluster"):
        found_raycluster(Clusters("gangs"), Asked("", "away", None, None))


@pytest.fixture
def pod(tmp_path: Path) -> dict[str, str]:
    """An environment where python3 is a shell that notes its words and does as the first of them says."""
    python = tmp_path / "python3"
    python.write_text(
        '#!/bin/sh\nshift 2\nprintf "%s|" "$@"; echo told >&2\n'
        'case "$1" in fails) exit 7;; reads) cat /dev/stdin;; stays) echo; echo $$; exec sleep 100;; esac\n'
    )
    python.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def start(pod: dict[str, str], *words: str, given: bytes = b"") -> subprocess.Popen[bytes]:
    command = [shutil.which("sh") or "sh", "-c", SCRIPT, "ray-dra", str(len(given)), *words]
    pipe = subprocess.PIPE
    started = subprocess.Popen(command, env=pod, stdin=pipe, stdout=pipe, stderr=pipe)
    assert started.stdin is not None
    started.stdin.write(given)
    started.stdin.flush()
    return started


@pytest.mark.parametrize(
    ("words", "given", "said", "code"),
    [
        (("gangs", "a b", "$HOME", "'"), b"", b"gangs|a b|$HOME|'|", 0),
        (("fails",), b"", b"fails|", 7),
        (("reads",), b"x" * 70_000, b"reads|" + b"x" * 70_000, 0),
    ],
)
def test_in_the_pod_it_ends_with_the_command_while_input_stays_open(
    pod: dict[str, str], words: tuple[str, ...], given: bytes, said: bytes, code: int
) -> None:
    with start(pod, *words, given=given) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        assert started.stdout.read() == said
        assert started.wait(60) == code
        assert started.stderr.read() == b"told\n"


def test_in_the_pod_the_command_ends_with_whoever_asked(pod: dict[str, str]) -> None:
    with start(pod, "stays") as started:
        assert started.stdout is not None
        assert started.stdin is not None
        assert started.stdout.readline() == b"stays|\n"
        left = int(started.stdout.readline())
        started.stdin.close()
        assert started.wait(60) == 128 + signal.SIGTERM
        deadline = time.monotonic() + 60
        while Path(f"/proc/{left}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{left}").exists()


def test_kubectl_finds_the_program_by_its_name() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert '\nkubectl-ray_dra = "ray_dra.cli:kubectl"\n' in project
    command = [sys.executable, "-c", "import ray_dra.cli; ray_dra.cli.kubectl()", "topology", "no such file"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (WRONG_FILE, "")
