"""What an operator sets of the queue."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_dra.core.gangs.backfill import BOUNDS, OFF, Bounds
from ray_dra.core.gangs.consolidation import CONSOLIDATION, NO_CONSOLIDATION, Consolidation
from ray_dra.core.gangs.discipline import DISCIPLINE, Discipline
from ray_dra.core.gangs.patience import WORTH, Worth
from ray_dra.core.gangs.preemption import NOBODY, PREEMPTION, Preemption
from ray_dra.errors import InvalidRequest
from ray_dra.translate.names import (
    BACKFILL_VARIABLE,
    CONSOLIDATION_VARIABLE,
    LEARN_VARIABLE,
    PATIENCE_VARIABLE,
    PREEMPTION_VARIABLE,
)
from ray_dra.translate.settings import backfill_of, consolidation_of, discipline_of, learns, preemption_of, worth_of


def test_backfill_is_on_unless_it_is_off_and_looks_as_far_as_is_said() -> None:
    assert backfill_of({}) == backfill_of({BACKFILL_VARIABLE: " "}) == BOUNDS
    assert backfill_of({BACKFILL_VARIABLE: "off"}) == backfill_of({BACKFILL_VARIABLE: "0"}) == OFF
    assert backfill_of({BACKFILL_VARIABLE: "500"}) == Bounds(waiting=500)


@pytest.mark.parametrize("said", ["on", "-1", "1.5", "10001", "9" * 5000, "\u0663", "\udcff"])
def test_what_is_no_number_of_gangs_is_refused(said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        backfill_of({BACKFILL_VARIABLE: said})
    assert refused.value.place == BACKFILL_VARIABLE


def test_preemption_is_on_unless_it_is_off() -> None:
    assert preemption_of({}) == preemption_of({PREEMPTION_VARIABLE: " "}) == PREEMPTION
    assert preemption_of({PREEMPTION_VARIABLE: "off"}) == NOBODY
    assert preemption_of({PREEMPTION_VARIABLE: "times=0"}).most == 0
    assert preemption_of({PREEMPTION_VARIABLE: "times=5"}) == Preemption(5, PREEMPTION.least_run)
    assert preemption_of({PREEMPTION_VARIABLE: "least_run=60, times = 1"}) == Preemption(1, 60.0)
    assert preemption_of({PREEMPTION_VARIABLE: "restart=0"}) == replace(PREEMPTION, restart=0.0)
    assert discipline_of({PREEMPTION_VARIABLE: "off"}).preemption == NOBODY


@pytest.mark.parametrize(
    "said", ["on", "3", "times=", "times=-1", "times=1001", "least_run=1e3", "least_run=99999999", "times=3,", "k=1"]
)
def test_what_is_no_preemption_is_refused(said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        preemption_of({PREEMPTION_VARIABLE: said})
    assert refused.value.place == PREEMPTION_VARIABLE


def test_what_a_clique_is_worth_is_said_in_part_or_is_off() -> None:
    assert worth_of({}) == worth_of({PATIENCE_VARIABLE: " "}) == WORTH
    assert worth_of({PATIENCE_VARIABLE: "off"}) is None
    assert worth_of({PATIENCE_VARIABLE: "speed=0.5"}) == Worth(speed=0.5)
    assert worth_of({PATIENCE_VARIABLE: " share = 0 , speed = 1 "}) == Worth(1.0, 0.0)
    assert discipline_of({}) == DISCIPLINE
    assert discipline_of({BACKFILL_VARIABLE: "off", PATIENCE_VARIABLE: "off"}) == Discipline(OFF, None)


@pytest.mark.parametrize(
    "said",
    ["on", "0.5", "speed=0", "speed=1.1", "share=2", "share=-1", "speed=nan", "speed", "speed=0.5,speed=0.6"],
)
def test_anything_else_that_a_clique_is_worth_is_refused(said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        worth_of({PATIENCE_VARIABLE: said})
    assert refused.value.place == PATIENCE_VARIABLE


def test_gangs_are_moved_for_others_unless_that_is_off() -> None:
    assert consolidation_of({}) == CONSOLIDATION
    assert consolidation_of({CONSOLIDATION_VARIABLE: "off"}) == NO_CONSOLIDATION
    said = {CONSOLIDATION_VARIABLE: "gangs=1, times=5, restart=60, least_run=0"}
    assert consolidation_of(said) == Consolidation(5, 1, 60.0, 0.0)
    assert discipline_of(said).consolidation == Consolidation(5, 1, 60.0, 0.0)
    for wrong in ("gangs=6", "on", "moves=3", "gangs=1, gangs=1"):
        with pytest.raises(InvalidRequest) as refused:
            consolidation_of({CONSOLIDATION_VARIABLE: wrong})
        assert refused.value.place == CONSOLIDATION_VARIABLE


def test_run_times_are_learnt_unless_it_is_off() -> None:
    assert learns({})
    assert learns({LEARN_VARIABLE: "on"})
    assert not learns({LEARN_VARIABLE: " off "})
    with pytest.raises(InvalidRequest) as refused:
        learns({LEARN_VARIABLE: "never"})
    assert refused.value.place == LEARN_VARIABLE
