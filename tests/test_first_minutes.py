"""What people met in their first minutes with it, each with the test that keeps it away.

A row is what was met; behind it stand the tests that fail should it come back. Those that fit nowhere else are here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from ray_dra import cli
from ray_dra.cli.exit_codes import USAGE, WRONG_FILE, YES
from tests.manifests import PROJECT

TESTS = Path(__file__).parent
HERE = "test_first_minutes.py"
KEPT_AWAY: dict[str, tuple[str, ...]] = {
    "an address where nobody answers: minutes of Ray's warnings and no end": (
        "test_cli.py::test_where_nobody_answers_it_ends_with_3_and_says_so_alone",
    ),
    "an image that is nowhere published, to be edited in ten places": (
        "test_manifests.py::test_one_place_has_the_image_and_its_version",
        "test_manifests.py::test_a_pod_runs_the_one_image_and_its_version_is_elsewhere",
        "cluster/test_chart.py::test_what_is_asked_for_beside_the_rights_is_there",
    ),
    "an embedded cluster that does not start on a busy machine, with its logs deleted": (
        "simulated/test_start.py::test_a_start_that_fails_is_tried_again",
        "simulated/test_start.py::test_a_start_that_always_fails_says_what_it_waited_for_and_keeps_the_logs",
    ),
    "errors on stdout, so that they are written into files": (
        "test_cli.py::test_a_gang_that_is_not_there_is_a_no_on_stderr",
        "edge/test_command_line.py::test_an_error_is_said_without_a_traceback",
    ),
    "one exit code for a no, no file and no cluster": (
        "test_cli.py::test_every_error_has_its_exit_code",
        "test_docs.py::test_the_docs_tell_every_command_and_exit_code",
    ),
    "a profile that is printed wrapped, and so is no YAML any more": (
        "test_cli.py::test_a_profile_is_printed_byte_for_byte",
        "test_cli.py::test_a_profile_is_the_same_bytes_whatever_the_terminals_encoding",
    ),
    "a drawing that has a degraded GPU in its clique, or takes linked pairs for a full box": (
        "translate/test_drawing.py::test_each_profile_is_drawn_as_it_is_linked",
        "translate/test_drawing.py::test_what_is_linked_in_part_is_not_drawn_as_if_it_were_linked",
        "translate/test_drawing.py::test_every_gpu_is_drawn_once_inside_its_clique_or_outside_of_all",
    ),
    "no word of arm64, which GB200 is": (
        "test_image.py::test_every_locked_package_has_a_wheel",
        "test_image.py::test_the_simulated_library_compiles",
        f"{HERE}::test_the_install_page_says_what_a_gb200_needs",
    ),
    "a worker's limit that ends real training for memory, and tainted nodes": (
        f"{HERE}::test_the_install_page_says_what_a_gb200_needs",
    ),
    "rights for every service account": (
        "test_manifests.py::test_rights_go_to_accounts_by_name_and_nothing_is_granted_by_a_star",
    ),
    "from a laptop only one command works": (
        "test_cli_elsewhere.py::test_of_kubectl_every_command_asks_the_head_but_of_a_file",
        "test_cli_elsewhere.py::test_any_command_travels_as_it_is",
        "cluster/test_command_line.py::test_a_gang_is_seen_asked_and_given_back_from_outside",
    ),
    "an embedded program runs, and no output says where": (
        "program/test_progress.py::test_a_terminal_sees_what_an_embedded_cluster_waits_for_and_then_where_it_is",
        "e2e/embedded/test_cluster.py::test_the_command_line_connects_beside_the_program",
    ),
    "no version, no completion, no watching, no formats": (
        "test_cli.py::test_help_tells_the_exit_codes_and_the_version_is_told",
        "test_cli.py::test_a_shell_completes_commands",
        "test_cli.py::test_watching_tells_each_change_once_and_that_a_gang_has_gone",
        f"{HERE}::test_every_list_has_every_format",
    ),
    "an error that hides its cause, wants [] where 0 was said, or stands below a library's line": (
        f"{HERE}::test_an_error_has_its_cause_and_what_was_said",
        "test_cli.py::test_noise_of_others_is_kept_out_of_stderr",
    ),
    "help in halves of sentences": (f"{HERE}::test_help_is_sentences_that_stand_alone",),
    "a wait that says nothing for minutes": (
        "program/test_progress.py::test_in_a_terminal_a_line_tells_what_is_waited_for_and_is_gone_at_the_end",
    ),
    "decisions that no log has": (
        "coordinator/test_coordinator.py::test_the_log_tells_the_end_of_a_gang_by_its_name_else_by_its_id",
        "processes/test_log_format.py::test_as_json_a_decision_is_one_line_with_its_parts",
    ),
    "a command of the docs that finds two heads in one namespace": (
        f"{HERE}::test_what_is_run_on_a_head_says_of_which_cluster",
    ),
    "nodes of a snapshot that do not say their clique, and a file whose fields nobody tells": (
        "translate/files/test_snapshot.py::test_a_file_says_the_clique_of_each_node_beside_its_name",
        "translate/files/test_schema.py::test_every_field_is_told",
    ),
    "a first command without a word of how long it takes": (f"{HERE}::test_the_first_commands_say_how_long_they_take",),
}


@pytest.mark.parametrize("met", KEPT_AWAY)
def test_each_has_tests_that_are_there(met: str) -> None:
    for named in KEPT_AWAY[met]:
        file, _, test = named.partition("::")
        assert re.search(rf"^(async )?def {test}\(", (TESTS / file).read_text(), re.MULTILINE), named


def commands() -> dict[str, click.Command]:
    group: Any = typer.main.get_command(cli.app)
    return dict(group.commands)


def test_help_is_sentences_that_stand_alone() -> None:
    for name, command in commands().items():
        sentences = [command.help or "", *(getattr(each, "help", None) or "" for each in command.params)]
        for said in sentences:
            assert re.match(r"[A-Z0-9]", said), f"{name}: {said!r}"
            assert said.rstrip().endswith("."), f"{name}: {said!r}"
        usage = CliRunner().invoke(cli.app, [name, "-h"], prog_name="ray-dra").output
        assert f"Usage: ray-dra {name}" in usage


TYPES = re.compile(r"<[a-z ]*>|\b(TEXT|INTEGER|FLOAT|PATH|BOOLEAN|list)\b", re.ASCII)


def test_help_says_what_an_option_takes_in_words_and_loses_none_of_its_own() -> None:
    """Not Python's types; and brackets in a text are no marks: `pip install 'ray-dra[map]'`."""
    for name, command in {"": None, **commands()}.items():
        said = CliRunner().invoke(cli.app, [*([name] if name else []), "-h"], prog_name="ray-dra", terminal_width=200)
        assert said.exit_code == YES
        assert not TYPES.search(said.output.replace("List", "")), f"{name}: {TYPES.search(said.output)}"
        for word in (command.help or "").split() if command is not None else ():
            assert word in said.output, f"{name}: {word}"
        for option in command.params if command is not None else ():
            takes = not getattr(option, "is_flag", False)
            assert bool(option.metavar) is takes or option.param_type_name == "argument", f"{name} {option.opts}"


def test_every_list_has_every_format() -> None:
    shows = {name for name, command in commands().items() if any("-o" in each.opts for each in command.params)}
    # what gives back, serves or writes a file has nothing to list; a probe is JSON already
    assert commands().keys() - shows == {"release", "map", "snapshot", "probe"}


def test_an_error_has_its_cause_and_what_was_said(tmp_path: Path) -> None:
    missing = CliRunner().invoke(cli.app, ["plan", str(tmp_path / "none.yaml")])
    assert cli.exit_codes.exit_code(missing.exception) == WRONG_FILE  # type: ignore[arg-type]
    assert "No such file or directory" in str(missing.exception)
    none = CliRunner().invoke(cli.app, ["plan", str(tmp_path), "--bundles", "0"])
    assert none.exit_code == USAGE
    assert "not 0" in " ".join(none.output.split())


def test_the_install_page_says_what_a_gb200_needs() -> None:
    page = (PROJECT / "docs" / "install.md").read_text()
    assert "linux/amd64,linux/arm64" in page
    assert "-gpu" in page
    (text,) = (each for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "workerGroupSpecs" in each)
    (group,) = yaml.safe_load(text)["workerGroupSpecs"]
    (example,) = yaml.safe_load((PROJECT / "examples/kubernetes/raycluster.yaml").read_text())["spec"][
        "workerGroupSpecs"
    ]
    assert group["groupName"] == example["groupName"]
    spec = group["template"]["spec"]
    assert spec["containers"][0]["name"] == example["template"]["spec"]["containers"][0]["name"]
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    limit = spec["containers"][0]["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Gi")) >= 100


def test_what_is_run_on_a_head_says_of_which_cluster() -> None:
    pages = [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md"), *(PROJECT / "examples").rglob("*.md")]
    heads = [line for page in pages for line in page.read_text().splitlines() if "ray.io/node-type=head" in line]
    assert len(heads) > 3
    assert [line for line in heads if "ray.io/cluster=" not in line] == []


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_first_commands_say_how_long_they_take(target: str) -> None:
    (said,) = re.findall(rf"^make {target} +# (.*)$", (PROJECT / "README.md").read_text(), re.MULTILINE)
    assert re.search(r"minute|second|hour", said)
