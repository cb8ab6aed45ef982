"""Every answer of the planner against exhaustive search: yes, no, what would fit instead, and whose leaving helps."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import pytest

from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import Strategy
from ray_dra.core.plan import plan
from tests.core.brute import Brute, World, broken, out_of_cliques, random_domains, random_request, random_world, told


@pytest.mark.parametrize("seed", range(4))
def test_every_answer_is_right(seed: int) -> None:
    """600 a seed. A yes breaks nothing, a no is true."""
    dice = random.Random(seed)
    answers = {True: 0, False: 0}
    for _ in range(600):
        world, request = random_world(dice), random_request(dice)
        world.domains = random_domains(dice, world)
        answer = plan(world.inventory(), request)
        possible = Brute(world, request).fits()
        if isinstance(answer, Allocation):
            assert not broken(world, request, answer), (broken(world, request, answer), told(world, request), answer)
            world.inventory().hold(answer)
        else:
            assert answer.shortfalls
            assert answer.proven
        assert isinstance(answer, Allocation) is possible, (told(world, request), answer)
        answers[possible] += 1
    assert min(answers.values()) > 100, "both answers have to be common for this to say anything"


@pytest.mark.parametrize("seed", range(2))
def test_what_is_preferred_is_met_wherever_it_could_be_required(seed: int) -> None:
    """500 a seed: `strict` is a yes where `required` is, and the answer without it is the same then; but for SPREAD on
    linked GPUs of one node, which are near, while what need not be near is rather spread."""
    dice = random.Random(1000 + seed)
    met = 0
    for _ in range(500):
        world, request = random_world(dice), random_request(dice)
        locality = request.locality
        if locality.exclusive or not locality.within_cliques:
            continue
        preferred = replace(request, locality=replace(locality, required=False))
        required = replace(request, locality=replace(locality, required=True))
        strict, answer = plan(world.inventory(), preferred, strict=True), plan(world.inventory(), preferred)
        if Brute(world, required).fits():
            assert isinstance(strict, Allocation), (told(world, required), strict)
            met += 1
        if isinstance(strict, Allocation):
            nearby = linked_on_one_node(world, strict)
            assert strict == answer or (nearby and request.strategy is Strategy.SPREAD), told(world, preferred)
            assert not broken(world, preferred, strict), (told(world, preferred), strict)
            assert nearby or not out_of_cliques(world, required, strict), (told(world, required), strict)
        else:
            assert strict.shortfalls
    assert met > 100


def linked_on_one_node(world: World, answer: Allocation) -> bool:
    """All the gang's devices, as near as can be without a clique."""
    if len({g.node for g in answer.grants}) != 1:
        return False
    links = next(n.links for n in world.nodes if n.name == answer.grants[0].node)
    return all(links[a.position][b.position] for a, b in combinations(answer.grants, 2))
