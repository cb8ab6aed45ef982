"""A "no" is true where brute force cannot go: thousands of random clusters against CP-SAT (`oracle.py`)."""

from __future__ import annotations

import random

import pytest

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.plan import plan
from tests.core.checks import check
from tests.core.oracle import modelled
from tests.core.random_cases import random_case


@pytest.mark.parametrize("seed", range(8))
def test_random_clusters_against_cp_sat(seed: int) -> None:
    """500 a seed: bundles equal and mixed, cliques, segments, at most k, IMEX limits, strategies."""
    dice = random.Random(seed)
    answers = {True: 0, False: 0}
    for _ in range(500):
        inventory, free, cliques, busy, request, limits = random_case(dice)
        answer = plan(inventory, request)
        possible = modelled(free, cliques, busy, request, limits).solve() is not None
        if isinstance(answer, Allocation):
            check(answer, inventory, request)
        else:
            assert answer.proven, "the bound was reached"
            assert answer.shortfalls
        assert isinstance(answer, Allocation) is possible, (free, cliques, busy, request, limits, answer)
        answers[possible] += 1
    assert min(answers.values()) > 75, "both answers have to be common for this to say anything"
