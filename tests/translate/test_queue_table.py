"""Queues of teams as rows. The whole table: tests/test_docs.py, tests/test_cli.py."""

from __future__ import annotations

from ray_dra.core.gangs.standing import TeamStanding
from ray_dra.translate.queue_table import QUEUE_HEADERS, plain_queue, queue_row


def team(**given: object) -> TeamStanding:
    usual = {
        "name": "a",
        "declared": True,
        "guarantee": 16.0,
        "weight": 1.0,
        "limit": None,
        "used": 0.0,
        "borrowed": 0.0,
        "waiting": 0,
        "wanted": 0.0,
        "limited": False,
    }
    return TeamStanding(**{**usual, **given})  # type: ignore[arg-type]


def test_a_queue_is_a_row_of_gpus_and_of_what_waits() -> None:
    row = dict(zip(QUEUE_HEADERS, queue_row(team(used=0.5, waiting=1, wanted=2.5, weight=0.25)), strict=True))
    assert row["GUARANTEE"] == "16"
    assert (row["USED"], row["WEIGHT"], row["LIMIT"]) == ("0.5", "0.25", "")
    assert row["WAITING"] == "1 gang, 2.5 GPUs"
    assert queue_row(team())[-2:] == ["0", ""]
    assert queue_row(team(limit=0.0, limited=True))[-1] == "waits for its limit"
    assert "not declared any more" in queue_row(team(declared=False, limited=True))[-1]


def test_for_programs_it_is_values() -> None:
    assert plain_queue(team(limit=8.0))["limit"] == 8.0
    assert plain_queue(team())["limit"] is None
