"""Shares, products and cliques that a gang has for itself: random clusters against brute force."""

from __future__ import annotations

import random

import pytest

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.plan import plan
from ray_dra.core.policy.base import Policy
from ray_dra.core.policy.fgd import Demand, FragmentationGradient
from tests.core.brute_shares import check_counterfactual, possible, random_cluster, random_request, valid
from tests.core.machines import picture

POLICIES = (Policy, lambda: FragmentationGradient([Demand(0.5, 1), Demand(0.3, 1, 400), Demand(0.2, 1, 300, ("A",))]))


@pytest.mark.parametrize("seed", range(6))
def test_random_clusters_against_brute_force(seed: int) -> None:
    """Every yes is valid and every no true, without and with a policy; what would fit instead, and who had to leave."""
    dice = random.Random(seed)
    answers = {True: 0, False: 0}
    for _ in range(400):
        cluster, request = random_cluster(dice), random_request(dice)
        inventory = cluster.inventory()
        before = picture(inventory)
        truth = possible(cluster, request)
        for policy in (None, *(make() for make in POLICIES)):
            answer = plan(inventory, request, policy=policy)
            assert isinstance(answer, Allocation) is truth, (policy, cluster, request, answer)
            if isinstance(answer, Allocation):
                assert valid(cluster, request, answer)
                inventory.hold(answer)
                inventory.release("new")
                assert picture(inventory) == before
            else:
                assert answer.proven
                assert answer.shortfalls
        if not truth:
            check_counterfactual(cluster, inventory, request)
        answers[truth] += 1
    assert min(answers.values()) > 80, answers
