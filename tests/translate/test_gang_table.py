"""Gangs as rows: when they were asked for, and how long ago. Whole rows and descriptions: tests/test_cli.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.coordinator.status import Status
from ray_dra.core.gangs.gang import Change
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.stages import READY, StageTimes
from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.device import DeviceId
from ray_dra.translate.gang_table import age, asked_at, gang_row

NO_TIMES = StageTimes()


def status(times: StageTimes = NO_TIMES, history: tuple[Change, ...] = (), cliques: int = 0) -> Status:
    placed = tuple(Placed(f"n{at}", (_grant(f"c{at}"),)) for at in range(cliques))
    allocation = Allocation("id", placed) if cliques else None
    return Status("id", Phase.READY, "train", allocation, (), None, 0, (), (), history=history, times=times)


def _grant(clique: str) -> Grant:
    return Grant("n", 0, DeviceId("d", "n", "gpu-0"), None, 0, clique)


@given(
    st.floats(0, 1e9),
    st.lists(st.tuples(st.sampled_from([None, "queued", "placed", "joined", READY]), st.floats(0, 1e4)), max_size=9),
)
def test_a_gang_was_asked_for_when_its_first_stage_began(began: float, steps: list[tuple[str | None, float]]) -> None:
    """However often it was degraded or planned again, and though its history has forgotten."""
    times, _ = StageTimes().entered("queued", began)
    wall = began
    for stage, seconds in steps:
        wall += seconds
        times, _ = times.entered(stage, wall)
    assert asked_at(status(times)) == pytest.approx(began, abs=1e-3)


def test_without_stages_its_history_tells() -> None:
    assert asked_at(status()) is None
    assert asked_at(status(history=(Change(7.0, None, Phase.QUEUED, ""),))) == 7.0


def test_ages_are_short() -> None:
    told = [age(seconds) for seconds in (-5, 0, 119.9, 120, 7_199, 7_200, 172_799, 172_800, 1e7)]
    assert told == ["0s", "0s", "119s", "2m", "119m", "2h", "47h", "2d", "115d"]


def test_a_row_names_some_cliques_and_a_wide_one_all() -> None:
    many = status(cliques=5)
    assert gang_row(many, {"c1": "rack-1"}, 0.0)[5] == "c0,rack-1,c2,2 more"
    assert gang_row(many, {}, 0.0, wide=True)[5] == "c0,c1,c2,c3,c4"


def test_a_row_says_that_a_gang_ends() -> None:
    notice = Notice("preempted by high, of priority 5", 60.0, (0,), 30.0)
    told = replace(status(cliques=1), notice=notice, bundles=1)
    assert gang_row(told, {}, 0.0)[-1].endswith("1970-01-01 00:01:00 UTC on: preempted by high, of priority 5")
    assert gang_row(status(cliques=1), {}, 0.0)[-1] == ""
