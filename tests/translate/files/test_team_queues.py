"""Queues of teams as operators write them: what is read, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.gangs.team_queues import MOST_GPUS, MOST_QUEUES, NO_QUEUES, TeamQueue, TeamQueues
from ray_dra.errors import InvalidRequest
from ray_dra.translate.files.team_queues import check_queues, queues_of, read_team_queues
from ray_dra.translate.names import QUEUES_VARIABLE

SAID = """
team-a: {guarantee: 16, weight: 2, limit: 64}
team-b:
  guarantee: 0.5
idle: {weight: 0}
default:
"""
MEANT = TeamQueues.of(
    [
        TeamQueue("team-a", 16_000, 2.0, 64_000),
        TeamQueue("team-b", 500),
        TeamQueue("idle", weight=0.0),
        TeamQueue("default"),
    ]
)


def test_a_setting_a_file_and_a_mounted_configmap_are_read_alike(tmp_path: Path) -> None:
    file = tmp_path / "queues.yaml"
    file.write_text(SAID)
    for said in (SAID, str(file)):
        read = queues_of({QUEUES_VARIABLE: said})
        assert read is not None
        assert read_team_queues(read(), QUEUES_VARIABLE) == MEANT
    assert read is not None
    file.write_text("team-b: {limit: 1}")
    assert read_team_queues(read(), "x") == TeamQueues.of([TeamQueue("team-b", limit=1000)]), "read anew each time"
    assert queues_of({}) is queues_of({QUEUES_VARIABLE: " "}) is None
    for nothing in ("", "{}", "# none", "\n"):
        assert read_team_queues(nothing, "x") == NO_QUEUES
    check_queues({QUEUES_VARIABLE: str(file)})
    check_queues({})


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("queues.yaml", "x"),
        ("[a, b]", "x"),
        ("a: {guarantee: 5", "x"),
        ("a: {guarantee: 1}\na: {guarantee: 2}", "x, line 3"),
        ("5: {}", "x"),
        ("a.b: {}", "x"),
        ("-a: {}", "x"),
        (f"{'a' * 64}: {{}}", "x"),
        ("a: 5", "x: a"),
        ("a: {guarantee: 1, limits: 2}", "x: a"),
        ("a: {5: 1}", "x: a"),
        ("a: {guarantee: -1}", "x: a.guarantee"),
        ("a: {guarantee: 0.0001}", "x: a.guarantee"),
        ("a: {guarantee: many}", "x: a.guarantee"),
        ("a: {guarantee: .nan}", "x: a.guarantee"),
        ("a: {limit: .inf}", "x: a.limit"),
        ("a: {limit: true}", "x: a.limit"),
        (f"a: {{limit: {MOST_GPUS + 1}}}", "x: a.limit"),
        (f"a: {{limit: {'9' * 5000}}}", "x"),
        ("a: {weight: -0.5}", "x: a.weight"),
        ("a: {weight: 1e300}", "x: a.weight"),
        ("a: {guarantee: 2, limit: 1}", "x: a.guarantee"),
        ("team: {}\nTeam: {}", "x"),
        ("Default: {}", "x"),
        ("\n".join(f"q{at}: {{}}" for at in range(MOST_QUEUES + 1)), "x"),
    ],
)
def test_what_is_no_queue_is_refused_with_its_line(said: str, place: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_team_queues(said, "x")
    assert refused.value.place == place


def test_a_file_that_cannot_be_read_is_said_with_the_setting(tmp_path: Path) -> None:
    missing, binary = tmp_path / "missing.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")
    for path in (missing, binary, tmp_path):
        with pytest.raises(InvalidRequest) as refused:
            check_queues({QUEUES_VARIABLE: str(path)})
        assert (refused.value.place, refused.value.wanted) == (QUEUES_VARIABLE, str(path))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from("ab:{}[],. 15-\n\"'&*!#|guarantee"), max_size=40).map("".join))
def test_any_text_is_queues_or_refused(said: str) -> None:
    try:
        found = read_team_queues(said, "x")
    except InvalidRequest as refused:
        assert refused.place
        return
    assert all(queue.name == name and queue.guarantee >= 0 for name, queue in found.each.items())


def test_a_range_is_written_as_the_file_can_say_it() -> None:
    with pytest.raises(InvalidRequest) as said:
        read_team_queues("team-a: {guarantee: 1e9}", "queues")  # a text, to YAML
    assert said.value.available == "0 to 1000000000"
    assert read_team_queues("team-a: {guarantee: 1000000000}", "queues").each["team-a"].guarantee == 10**12
