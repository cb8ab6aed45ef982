"""With few steps to search in, a yes breaks nothing and a no that calls itself proven is true."""

from __future__ import annotations

import random

import pytest

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import ShortfallKind
from ray_dra.core.plan import plan
from ray_dra.core.planner.work import Work
from tests.core.brute import broken, random_request, random_world

STEPS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 60, 100)


@pytest.mark.parametrize("seed", range(2))
def test_a_proven_no_is_true_however_few_steps_there_are(seed: int) -> None:
    """150 requests a seed, each with every number of STEPS."""
    dice = random.Random(seed)
    told = {"yes": 0, "no": 0, "not proven": 0, "not proven, and there is room": 0}
    for _ in range(150):
        world, request = random_world(dice), random_request(dice)
        inventory = world.inventory()
        possible = isinstance(plan(inventory, request), Allocation)
        for steps in STEPS:
            answer = plan(inventory, request, work=Work(steps))
            if isinstance(answer, Allocation):
                assert not broken(world, request, answer)
                told["yes"] += 1
                continue
            assert answer.proven is (ShortfallKind.BOUND not in {s.kind for s in answer.shortfalls})
            if answer.proven:
                assert not possible, (steps, request)
                told["no"] += 1
            else:
                told["not proven, and there is room" if possible else "not proven"] += 1
    assert min(told.values()) > 20, told


def test_steps_are_counted_and_shared() -> None:
    work = Work(10)
    assert not work.spent
    work.left -= 10
    assert work.spent
