"""Under a policy a no stays true."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.plan import plan
from ray_dra.core.policy.base import Policy
from ray_dra.core.policy.fgd import Demand, FragmentationGradient
from tests.core.checks import check
from tests.core.random_cases import random_case


@pytest.mark.parametrize(
    "make", [Policy, lambda: FragmentationGradient([Demand(0.5, 1), Demand(0.5, 4)])], ids=["best-fit", "gradient"]
)
def test_a_no_stays_true_under_a_policy(make: Callable[[], Policy]) -> None:
    """A policy chooses among places; whether there is one does not depend on it."""
    dice = random.Random(99)
    for _ in range(400):
        inventory, *_, request, _ = random_case(dice)
        without = plan(inventory, request)
        answer = plan(inventory, request, policy=make())
        assert type(answer) is type(without), (request, answer)
        if isinstance(answer, Allocation):
            check(answer, inventory, request)
