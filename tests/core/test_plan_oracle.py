"""A "no" is true where brute force cannot go: thousands of random clusters against CP-SAT.

The model says what an allocation must fulfil (devices, cliques, segments, one IMEX domain a node and at
most so many nodes in one) and knows nothing of how the planner looks for it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from ortools.sat.python import cp_model

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.request import GangRequest, Strategy
from ray_dra.core.plan import plan
from tests.core.checks import check
from tests.core.random_cases import Cliques, random_case


def fits_by_model(
    free: Sequence[int],
    cliques: Cliques,
    busy_imex: set[int],
    request: GangRequest,
    limits: Limits,
) -> bool:
    """Whether CP-SAT finds an allocation."""
    model = cp_model.CpModel()
    sizes = [b.count for b in request.bundles]
    bundles, nodes = range(len(sizes)), range(len(free))
    locality = request.locality
    within = locality.within_cliques and locality.required
    at = [[model.new_bool_var(f"b{b}n{n}") for n in nodes] for b in bundles]
    used = [model.new_bool_var(f"n{n}") for n in nodes]
    for b in bundles:
        model.add_exactly_one(at[b])
        for n in nodes:
            model.add_implication(at[b][n], used[n])
            if within and cliques[n] is None:
                model.add(at[b][n] == 0)
    for n in nodes:
        model.add(sum(sizes[b] * at[b][n] for b in bundles) <= free[n])
        model.add(used[n] <= sum(at[b][n] for b in bundles))
    names = sorted({c for c in cliques if c is not None})
    members = {c: [n for n in nodes if cliques[n] == c] for c in names}
    if request.strategy is Strategy.STRICT_PACK:
        model.add(sum(used) == 1)
    if request.strategy is Strategy.STRICT_SPREAD:
        for n in nodes:
            model.add(sum(at[b][n] for b in bundles) <= 1)
    if locality.exclusive:
        taken = {cliques[n] for n in busy_imex}
        for n in nodes:
            if cliques[n] in taken:
                model.add(used[n] == 0)
    if within:
        in_clique = {c: model.new_bool_var(c) for c in names}
        for c in names:
            for n in members[c]:
                model.add_implication(used[n], in_clique[c])
        if locality.cliques is not None:
            model.add(sum(in_clique.values()) <= locality.cliques)
        step = locality.segment or (len(sizes) if locality.cliques == 1 else 1)
        for start in range(0, len(sizes), step):
            for b in range(start + 1, start + step):
                for c in names:
                    model.add(sum(at[b][n] for n in members[c]) == sum(at[start][n] for n in members[c]))
        if limits.compute_domains:
            for c in names:
                several = model.new_bool_var(f"several-{c}")
                count = sum(used[n] for n in members[c])
                model.add(count >= 2).only_enforce_if(several)
                model.add(count <= 1).only_enforce_if(several.negated())
                model.add(count <= limits.domain_nodes).only_enforce_if(several)
                for n in members[c]:
                    if n in busy_imex:
                        model.add(used[n] == 0).only_enforce_if(several)
                if limits.one_per_clique and busy_imex & set(members[c]):
                    model.add(several == 0)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = 30.0
    status = solver.solve(model)
    assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.INFEASIBLE), "the oracle gave up"
    return bool(status != cp_model.INFEASIBLE)


@pytest.mark.parametrize("seed", range(8))
def test_random_clusters_against_cp_sat(seed: int) -> None:
    """500 a seed: bundles equal and mixed, cliques, segments, at most k, IMEX limits, strategies."""
    dice = random.Random(seed)
    answers = {True: 0, False: 0}
    for _ in range(500):
        inventory, free, cliques, busy, request, limits = random_case(dice)
        answer = plan(inventory, request)
        possible = fits_by_model(free, cliques, busy, request, limits)
        if isinstance(answer, Allocation):
            check(answer, inventory, request)
        else:
            assert answer.proven, "the bound was reached"
            assert answer.shortfalls
        assert isinstance(answer, Allocation) is possible, (free, cliques, busy, request, limits, answer)
        answers[possible] += 1
    assert min(answers.values()) > 75, "both answers have to be common for this to say anything"
