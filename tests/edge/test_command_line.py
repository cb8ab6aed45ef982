"""The command line with anything in its options: an answer, an error of ours, or typer's own for the usage."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ray_dra import cli
from ray_dra.cli import connection
from ray_dra.cli.exit_codes import USAGE, WRONG_FILE
from ray_dra.errors import ClusterUnavailable, InvalidSnapshot, RayDraError
from ray_dra.translate.files.snapshot import Snapshot, dump_snapshot
from tests.core.machines import node, rack
from tests.edge.hostile import MEGABYTE, TEXTS, answers_or_refuses

WORDS = [
    *(text for text in TEXTS if len(text) < MEGABYTE and "\x00" not in text),
    *(
        "0",
        "-1",
        "2",
        "1e308",
        "-inf",
        "5e-324",
        "9" * 400,
        "4.5",
        "0x1",
        "--",
        "-",
        "--help",
        "~",
        "/dev/null",
        "/",
        ".",
    ),
]
OPTIONS = {
    "plan": [
        *("--gpus", "--cpus", "--bundles", "--segment", "--at-most-cliques", "--product", "--strategy", "--priority"),
        *("--at-most", "--request", "--address", "-o"),
    ],
    "snapshot": ["--profile", "--nodes", "--cliques", "--address"],
    "gangs": ["--address", "-o"],
    "describe": ["--address", "-o"],
    "events": ["--address", "-o"],
    "topology": ["--address", "-o"],
    "top": ["--address", "-o", "--sort-by"],
    "release": ["--address"],
    "profiles": ["-o"],
    "map": ["--address", "--host", "--port", "--name", "--raycluster", "--kubeconfig"],
    "check": ["--namespace", "--raycluster", "--kubeconfig", "-o"],
}
CASES = [(command, option) for command, options in OPTIONS.items() for option in [*options, ""]]


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(dump_snapshot(Snapshot((*rack("a", 2), node("box", 8, box=True)))))
    return path


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster to connect to, and no file written elsewhere."""

    def connect(address: str) -> None:
        raise ClusterUnavailable("Nobody is there.", place=address)

    monkeypatch.setattr(connection, "connect", connect)
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_CLUSTER_NAME", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)


def run(*words: str) -> None:
    """The command, judged."""

    def call() -> None:
        done = CliRunner().invoke(cli.app, [*words])
        done.output.encode()
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code in (0, 1, 2), done.output

    answers_or_refuses(call)


@pytest.mark.parametrize(("command", "option"), CASES)
def test_each_option_given_the_worst(command: str, option: str, cluster: Path) -> None:
    simulated = ["--profile", "hgx-h100", *([] if option == "--nodes" else ["--nodes", "1"])]
    files = ["", ".", "/", "/dev/null", "a\udcffb", "\n", "a" * 5000]
    for word in files if (command, option) == ("snapshot", "") else WORDS:
        words = [command, str(cluster)] if command == "plan" and option else [command]
        run(*words, *([option, word] if option else [word]))
        if command == "snapshot" and option not in ("--address", "--profile"):
            run(*words, *simulated, *([option, word] if option else [word]))


@given(
    st.lists(
        st.sampled_from([*OPTIONS["plan"], "--exclusive", "--same-clique", "--linked", "--json", *WORDS]), max_size=6
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_plan_with_any_words(cluster: Path, words: list[str]) -> None:
    run("plan", str(cluster), *words)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli.app, ["snapshot", str(tmp_path / "no" / "such"), "--profile", "hgx-h100", "--nodes", "1"]
    )
    assert isinstance(done.exception, InvalidSnapshot)


def test_an_error_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, as the shell gives it: file names of other encodings come with lone surrogates."""
    for words, code in (
        (["profiles", "a\udcff"], USAGE),
        (["plan", "a\udcff.yaml"], WRONG_FILE),
        (["plan", "--request", "\udcff"], WRONG_FILE),
        (["topology", "a\udcff.yaml"], WRONG_FILE),
    ):
        monkeypatch.setattr("sys.argv", ["ray-dra", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == code
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("ray-dra: ")
        assert "\\udcff" in said.err


def test_every_error_is_ours(cluster: Path) -> None:
    """What `main` turns into a line; others would be tracebacks."""
    done = CliRunner().invoke(cli.app, ["plan", str(cluster), "--bundles", str(10**9)])
    assert isinstance(done.exception, RayDraError)
