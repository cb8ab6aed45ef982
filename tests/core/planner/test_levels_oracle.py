"""Levels above the clique where brute force cannot go: random ragged trees of three levels against CP-SAT. Whatever the
planner answers, there is nothing nearer: no lower level of which one domain holds the gang, no fewer domains of a level
that the gang limits, and for equal bundles no fewer cliques in one domain."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from ray_dra.core.planner.work import STEPS, Work
from tests.core.checks import check
from tests.core.oracle import Modelled, modelled
from tests.core.random_trees import LEVELS, Tree, random_tree
from tests.core.stages import Path, Stage, nearness, paths_of, stages

IN_CLIQUES = Locality(segment=1)


def model_of(case: Tree, locality: Locality) -> Modelled:
    request = replace(case.request, locality=locality)
    return modelled(case.free, [each.clique for each in case.nodes], case.busy, request, case.limits)


def met_by(case: Tree) -> Locality | None:
    """What of the request can be met as if it were required: all of it, or that cliques hold it; None: neither."""
    ways = (replace(case.request.locality, required=True), IN_CLIQUES)
    for locality in ways if case.request.locality.within_cliques else ways[1:]:
        if model_of(case, locality).solve() is not None:
            return locality
    return None


def nearest(case: Tree, locality: Locality, paths: Mapping[str, Path], order: Sequence[Stage]) -> tuple[int, int, int]:
    """(stage, domains, cliques) of the nearest place, the fewest cliques of one domain; 0 cliques where several domains
    may be used."""
    for at, stage in enumerate(order):
        made = model_of(case, locality)
        domains = used_domains(made, paths, stage.level, stage.most)
        if stage.above is not None:
            used_domains(made, paths, stage.above, 1)
        cliques = sum(made.in_clique.values()) if stage.most == 1 else 0
        made.model.minimize(100 * domains + cliques)
        if (least := made.solve()) is not None:
            return at, least // 100, least % 100
    return len(order), 0, 0


def used_domains(made: Modelled, paths: Mapping[str, Path], level: int, most: int) -> Any:
    """How many of a level are used, `most` at most; of no use is a clique that is in none."""
    names = {name for path in paths.values() if (name := path[level]) is not None}
    used = {name: made.model.new_bool_var(f"{level}-{name}") for name in sorted(names)}
    for clique, inside in made.in_clique.items():
        name = paths[clique][level]
        if name is None:
            made.model.add(inside == 0)
        else:
            made.model.add_implication(inside, used[name])
    made.model.add(sum(used.values()) <= most)
    return sum(used.values())


@pytest.mark.parametrize("seed", range(4))
def test_there_is_nothing_nearer(seed: int) -> None:
    """120 a seed."""
    dice = random.Random(seed)
    seen: Counter[str] = Counter()
    for _ in range(120):
        case = random_tree(dice)
        request, locality = case.request, case.request.locality
        order = stages(3, LEVELS.index(locality.level) if locality.level else None, locality.domains or 1)
        work = Work(STEPS)
        inventory = case.inventory()
        answer, without = plan(inventory, request, work=work), plan(case.inventory(()), without_limit(request))
        assert isinstance(answer, Allocation) is isinstance(without, Allocation), (case, answer)
        if not isinstance(answer, Allocation):
            seen["no"] += 1
            continue
        check(answer, inventory, request)
        clique_of = {each.name: each.clique or "" for each in case.nodes}
        used = {clique_of[name] for name in answer.nodes}
        if len(used) == 1:
            seen["one clique"] += 1
            continue
        met = met_by(case)
        if met is None:
            assert answer == without, "what no cliques hold knows nothing of levels"
            seen["outside"] += 1
            continue
        assert work.left > STEPS // 2, "the search was cut short"
        paths = paths_of(case.nodes, LEVELS)
        best = nearest(case, met, paths, order)
        found = nearness([paths[clique] for clique in used], order)
        assert found == best[:2], (case, answer, best)
        equal = len({bundle.count for bundle in request.bundles}) == 1
        if found[0] == len(order):
            assert answer == without, "no domain holds it"
        elif equal and order[found[0]].most == 1:
            assert len(used) == best[2], (case, answer, best)
        what = "elsewhere" if found[0] == len(order) else f"{found[1]} of {LEVELS[order[found[0]].level]}"
        seen[what + ", unequal" * (not equal)] += 1
    assert len(seen) > 9, seen
    assert seen["1 of leaf"] + seen["1 of spine"] + seen["1 of core"] > 15, seen


def without_limit(request: GangRequest) -> GangRequest:
    return replace(request, locality=replace(request.locality, level="", domains=None))
