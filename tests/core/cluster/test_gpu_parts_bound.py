"""A GPU that publishes what no GPU has does not keep the planner: which of its parts go together is searched for within
steps, counted here and not by a clock. About NVIDIA's GPUs nothing changes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ray_dra.core.cluster.gpu_parts import MOST_STEPS, GpuParts, PartTable, Spent, Wanted, capacity, table_of
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import DeviceId
from ray_dra.core.model.locality import Gpus, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.parts import Part, PartedGpu, profile_order
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.core.planner.work import STEPS, Work
from tests.core.machines import node
from tests.core.parted import H100, bundle, parted, together

MANY = 120
FILLS = {
    "counters that many share": (1, 1, 30),
    "pairs": (40, 2, 1),
    "triples": (60, 3, 1),
    "threes of two": (30, 3, 2),
}
"""(counters, how many of them a part consumes one of, how much there is of each)"""


def garbage(name: str, at: int, fill: str, seed: int) -> PartedGpu:
    """A GPU of very many tiny parts that consume counters at random."""
    dice = random.Random(seed)
    counters, each, amount = FILLS[fill]
    parts = tuple(
        Part(
            DeviceId("gpu.nvidia.com", name, f"gpu-{at}-mig-{i:03}"),
            "1g.1gb",
            consumes=tuple((f"c{c}", 1) for c in sorted(dice.sample(range(counters), each))),
        )
        for i in range(MANY)
    )
    return PartedGpu(f"GPU-{name}-{at}", parts, tuple((f"c{c}", amount) for c in range(counters)), position=at)


def garbage_node(name: str, gpus: int, fill: str) -> Node:
    return replace(node(name, gpus), parted=tuple(garbage(name, at, fill, at) for at in range(gpus)))


def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each look of any table at what could be had."""
    seen: list[int] = []
    own = PartTable.open

    def counted(table: PartTable, taken: int, among: int = -1) -> int:
        seen.append(among.bit_count())
        return own(table, taken, among)

    monkeypatch.setattr(PartTable, "open", counted)
    return seen


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("seed", range(3))
def test_a_question_is_answered_within_its_steps(fill: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A yes is a placement; how many there are at most is exact, or said not to be."""
    seen = looks(monkeypatch)
    gpu = garbage("n", 0, fill, seed)
    table, spent = table_of(gpu), Spent()
    state, everything = (table, 0, ()), table.everything
    most = capacity(state, everything, 64, spent)
    assert 10 < most < 64
    assert len(seen) <= spent.steps <= (most + 1) * (MOST_STEPS + MANY)
    given = table.first_fit(0, (everything,) * most)
    assert given is not None
    assert together(gpu, [gpu.parts[mask.bit_length() - 1] for mask in given])
    counters, each, amount = FILLS[fill]
    assert most <= counters * amount // each
    again = Spent()
    assert capacity(state, everything, 64, again) == most
    assert (again.steps, again.proven) == (spent.steps, spent.proven), "remembered answers count as much"


@pytest.mark.parametrize("fill", FILLS)
def test_claims_that_wait_are_tried_in_their_orders_within_the_steps(
    fill: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = looks(monkeypatch)
    dice = random.Random(5)
    table, spent = table_of(garbage("n", 0, fill, 5)), Spent()
    claims: tuple[Wanted, ...] = tuple(
        tuple(sum(1 << at for at in dice.sample(range(MANY), 60)) for _ in range(2)) for _ in range(7)
    )
    table.every_order(0, claims, spent)
    assert len(seen) <= spent.steps <= 2 * (MOST_STEPS + MANY)


@pytest.mark.parametrize(
    ("wanted", "locality"),
    [(40, Locality()), (2_000, Locality()), (40, Locality(gpus=Gpus.SAME)), (60, Locality(gpus=Gpus.SPREAD))],
)
def test_a_plan_on_a_rack_of_garbage_has_an_end(
    wanted: int, locality: Locality, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 GPUs, each of them unlike the others, and each question about them hard."""
    seen = looks(monkeypatch)
    inventory = Inventory([garbage_node(f"n{i}", 8, "triples") for i in range(8)])
    request = GangRequest("g", (bundle("1g.1gb"),) * wanted, locality)
    work = Work()
    answer = plan(inventory, request, work=work)
    assert work.left > -3 * MOST_STEPS
    assert len(seen) <= 4 * STEPS
    if isinstance(answer, Unsatisfiable):
        assert not answer.proven
        assert ShortfallKind.BOUND in [each.kind for each in answer.shortfalls]
    else:
        inventory.hold(answer)
    assert str(plan_and_explain(inventory, replace(request, gang="h")))


def test_a_no_within_the_steps_is_proven_and_a_plan_is_held() -> None:
    inventory = Inventory([garbage_node("n", 1, "counters that many share")])
    no = plan(inventory, GangRequest("g", (bundle("1g.1gb"),) * 31))
    assert isinstance(no, Unsatisfiable)
    assert no.proven
    yes = plan(inventory, GangRequest("g", (bundle("1g.1gb"),) * 30))
    assert isinstance(yes, Allocation)
    inventory.hold(yes)


def test_more_than_any_gpu_is_given_out_in_is_not_searched_for() -> None:
    inventory = Inventory([garbage_node("n", 1, "counters that many share")])
    no = plan(inventory, GangRequest("g", (bundle("1g.1gb"),) * 5_000, Locality(gpus=Gpus.SAME)))
    assert isinstance(no, Unsatisfiable)
    assert no.proven


def test_what_is_not_known_to_be_too_much_can_be_held() -> None:
    """Else a plan's yes could be refused because all gangs together are a harder question than one after the other."""
    gpu = GpuParts(0, garbage("n", 0, "triples", 1))
    spent = Spent()
    most = capacity(gpu.state, gpu.table.everything, 64, spent)
    assert not spent.proven
    assert gpu._together((gpu.table.everything,) * (most + 1), 0)
    assert not gpu._together((gpu.table.everything,) * (MANY + 1), 0)


def test_the_hardest_questions_about_an_h100_take_a_twentieth_of_the_steps() -> None:
    table, dice, most = table_of(parted("n", 0)), random.Random(0), 0
    profiles = [profile for profile, *_ in H100]
    for _ in range(3_000):
        taken = 0
        for at in dice.sample(range(len(table.profiles)), dice.randint(0, 3)):
            taken |= table.open(taken) & 1 << at
        claims = tuple(
            tuple(
                table.of_profile(profile)
                for profile in sorted(
                    dice.choices(profiles, (6, 3, 3, 1, 1, 1), k=dice.choice((1, 1, 2, 3, 7))), key=profile_order
                )
            )
            for _ in range(dice.randint(1, 7))
        )
        spent = Spent()
        table.every_order(taken, claims, spent)
        assert spent.proven
        most = max(most, spent.steps)
    assert 20 < most < MOST_STEPS // 20
