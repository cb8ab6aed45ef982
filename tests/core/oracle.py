"""What an allocation must fulfil, as a model for CP-SAT that knows nothing of how the planner looks for it: devices,
cliques, segments, one IMEX domain a node and at most so many nodes in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ortools.sat.python import cp_model

from ray_dra.core.model.imex import Limits
from ray_dra.core.model.request import GangRequest, Strategy
from tests.core.random_cases import Cliques


class Modelled(NamedTuple):
    """`in_clique`: whether a bundle lies in the clique; empty where the request says nothing of cliques."""

    model: Any
    in_clique: dict[str, Any]

    def solve(self) -> int | None:
        """The least that the objective can be, 0 without one; None: there is no such allocation."""
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.max_time_in_seconds = 30.0
        status = solver.solve(self.model)
        assert status in (cp_model.OPTIMAL, cp_model.INFEASIBLE), f"the oracle gave up: {solver.status_name(status)}"
        return round(solver.objective_value) if status == cp_model.OPTIMAL else None


def modelled(
    free: Sequence[int], cliques: Cliques, busy_imex: set[int], request: GangRequest, limits: Limits
) -> Modelled:
    """`free`, `cliques`: of each node; `busy_imex`: those that another gang's IMEX domain has."""
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
    if not within:
        return Modelled(model, {})
    in_clique = {c: model.new_bool_var(c) for c in names}
    for c in names:
        for n in members[c]:
            model.add_implication(used[n], in_clique[c])
        # Follows from the rest; without it the solver does not see how few cliques would be too few.
        here = sum(sizes[b] * at[b][n] for b in bundles for n in members[c])
        model.add(here <= sum(free[n] for n in members[c]) * in_clique[c])
    if locality.cliques is not None:
        model.add(sum(in_clique.values()) <= locality.cliques)
    step = locality.segment or (len(sizes) if locality.cliques == 1 else 1)
    for start in range(0, len(sizes), step):
        for b in range(start + 1, start + step):
            for c in names:
                model.add(sum(at[b][n] for n in members[c]) == sum(at[start][n] for n in members[c]))
    # Of answers that are alike but for the order of equal bundles one is enough.
    place = [sum(n * at[b][n] for n in nodes) for b in bundles]
    clique = [sum(names.index(c) * at[b][n] for c in names for n in members[c]) for b in bundles]
    for b in range(1, len(sizes)):
        if sizes[b] == sizes[b - 1] and (step == 1 or b % step):
            model.add(place[b - 1] <= place[b])
        if step > 1 and not b % step and sizes[b : b + step] == sizes[b - step : b]:
            model.add(clique[b - 1] <= clique[b])
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
    return Modelled(model, in_clique)
