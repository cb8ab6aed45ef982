"""Under a policy a no stays true, and what one domain of a level holds stays in it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.plan import plan
from ray_dra.core.policy.base import Policy
from ray_dra.core.policy.fgd import Demand, FragmentationGradient
from tests.core.checks import check
from tests.core.random_cases import random_case
from tests.core.random_trees import LEVELS, random_tree
from tests.core.stages import nearness, paths_of, stages


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


class Narrowing(Policy):
    """Few domains of each level, as Kueue has it."""

    narrows = True


class Blind(Policy):
    by_level = False


@pytest.mark.parametrize("make", [Policy, Narrowing])
def test_levels_hold_under_a_policy_as_without(make: Callable[[], Policy]) -> None:
    """As near as the planner's own answer, of which the oracle says that there is nothing nearer."""
    dice = random.Random(17)
    seen: Counter[int] = Counter()
    for _ in range(600):
        case = random_tree(dice)
        request, locality = case.request, case.request.locality
        inventory = case.inventory()
        own, answer = plan(inventory, request), plan(inventory, request, policy=make())
        assert type(answer) is type(own), (case, answer)
        if not isinstance(answer, Allocation) or not isinstance(own, Allocation):
            continue
        check(answer, inventory, request)
        if len({bundle.count for bundle in request.bundles}) > 1 or not locality.required:
            continue  # unequal ones are placed as without; a policy looks at what is preferred later than the planner
        order = stages(3, LEVELS.index(locality.level) if locality.level else None, locality.domains or 1)
        paths, clique = paths_of(case.nodes, LEVELS), {each.name: each.clique or "" for each in case.nodes}
        ours, by_policy = ({clique[name] for name in each.nodes} for each in (own, answer))
        if len(ours) == 1:
            assert len(by_policy) == 1
            continue
        near, found = (nearness([paths[name] for name in each], order) for each in (ours, by_policy))
        assert found == near, (case, own, answer)
        seen[near[0]] += 1
    assert len(seen) > 2, seen


def test_a_policy_that_is_blind_to_levels_goes_where_it_would_without() -> None:
    dice = random.Random(18)
    changed = 0
    for _ in range(200):
        case = random_tree(dice)
        blind = plan(case.inventory(), case.request, policy=Blind())
        without = plan(
            case.inventory(()), replace(case.request, locality=unlimited(case.request.locality)), policy=Policy()
        )
        if len({bundle.count for bundle in case.request.bundles}) == 1:
            assert blind == without or not isinstance(without, Allocation)
            changed += isinstance(blind, Allocation) and blind != plan(case.inventory(), case.request, policy=Policy())
    assert changed > 5


def unlimited(locality: Locality) -> Locality:
    return replace(locality, level="", domains=None)
