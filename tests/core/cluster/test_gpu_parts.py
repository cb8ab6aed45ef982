"""Which parts of a GPU go together: all multisets of profiles, and all orders of claims, against plain search."""

from __future__ import annotations

import random
from itertools import combinations_with_replacement, permutations

import pytest

from ray_dra.core.cluster.gpu_parts import GpuParts, PartTable, capacity, fits, table_of
from ray_dra.core.model.parts import Part, PartedGpu, profile_order
from tests.core.parted import GIGABYTE, H100, SMALL, Table, allocated, parted, together

GPU = parted("n", 0)


def brute(gpu: PartedGpu, taken: list[Part], profiles: tuple[str, ...]) -> bool:
    """Whether some placement of all profiles goes with what is taken."""
    if not profiles:
        return True
    return any(
        together(gpu, [*taken, part]) and brute(gpu, [*taken, part], profiles[1:])
        for part in gpu.parts
        if part.profile == profiles[0]
    )


def wanted(table: PartTable, profiles: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(table.of_profile(profile) for profile in sorted(profiles, key=profile_order))


def parts_of(gpu: PartedGpu, mask: int) -> list[Part]:
    return [part for at, part in enumerate(gpu.parts) if mask >> at & 1]


@pytest.mark.parametrize("kinds", [H100, SMALL], ids=["H100", "small"])
def test_every_multiset_of_profiles_on_one_gpu(kinds: Table) -> None:
    """Up to eight parts: a yes is a placement, a no is true, and the parts are those that the allocator would give."""
    gpu = parted("n", 0, kinds)
    table, answers = table_of(gpu), {True: 0, False: 0}
    for count in range(1, 9):
        for profiles in combinations_with_replacement([profile for profile, *_ in kinds], count):
            given = table.first_fit(0, wanted(table, profiles))
            in_order = tuple(sorted(profiles, key=profile_order))
            assert (given is not None) is brute(gpu, [], in_order), profiles
            answers[given is not None] += 1
            if given is not None:
                parts = [gpu.parts[mask.bit_length() - 1] for mask in given]
                assert together(gpu, parts)
                assert parts == allocated(gpu, [], in_order)
    assert min(answers.values()) > 5


@pytest.mark.parametrize("seed", range(4))
def test_every_order_of_claims_beside_what_is_taken(seed: int) -> None:
    """300 a seed."""
    dice, answers = random.Random(seed), {True: 0, False: 0}
    table = table_of(GPU)
    for _ in range(300):
        taken: list[Part] = []
        for part in dice.sample(GPU.parts, dice.randint(0, 2)):
            taken += [part] if together(GPU, [*taken, part]) else []
        mask = sum(1 << GPU.parts.index(part) for part in taken)
        weights = (6, 1, 2, 2, 2, 1)
        claims = [
            tuple(sorted(dice.choices([p for p, *_ in H100], weights, k=dice.choice((1, 1, 2, 3))), key=profile_order))
            for _ in range(dice.randint(1, 3))
        ]
        right = True
        for order in permutations(claims):
            have = list(taken)
            for claim in order:
                got = allocated(GPU, have, claim)
                right = right and got is not None
                have += got or []
        asked = tuple(wanted(table, claim) for claim in claims)
        assert table.every_order(mask, asked) is right, (claims, [part.id.device for part in taken])
        assert fits((table, mask, asked[:-1]), asked[-1]) is right
        answers[right] += 1
    assert min(answers.values()) > 50


def test_what_the_real_allocator_answered() -> None:
    """facts: separate claims of 3g, then 4g: yes, no. 4g, then 3g: yes, yes. Both in one: yes."""
    table = table_of(GPU)
    three, four, one = (wanted(table, (profile,)) for profile in ("3g.40gb", "4g.40gb", "1g.10gb"))
    assert not table.every_order(0, (three, four))
    assert table.every_order(0, (wanted(table, ("3g.40gb", "4g.40gb")),))
    given = table.first_fit(0, four)
    assert given is not None
    assert table.every_order(sum(given), (three,))
    assert not table.every_order(0, (one, four))
    assert table.first_fit(0, wanted(table, ("1g.10gb", "2g.20gb", "4g.40gb"))) is not None
    assert capacity((table, 0, ()), table.of_profile("1g.10gb"), 64) == 7
    assert table.open(table.everything) == 0


def test_the_smallest_profile_with_so_much_memory() -> None:
    table = table_of(GPU)
    assert table.at_least(10 * GIGABYTE) == table.of_profile("1g.10gb")
    assert table.at_least(20 * GIGABYTE) == table.of_profile("1g.20gb")
    assert table.at_least(21 * GIGABYTE) == table.of_profile("3g.40gb")
    assert table.at_least(81 * GIGABYTE) == 0
    there = table_of(parted("n", 0, static=("3g.40gb", "1g.20gb", "1g.10gb")))
    assert there.at_least(20 * GIGABYTE) == 0b011
    assert there.first_fit(0, (0b011,)) == (0b010,)  # the least that will do
    assert there.first_fit(0b010, (0b011,)) == (0b001,)
    assert there.first_fit(0b011, (0b011,)) is None


def test_who_has_which_part() -> None:
    gpu = GpuParts(0, GPU)
    assert not gpu.broken
    gpu.see(gpu.mask_of([GPU.parts[0].id.device]), {})
    assert gpu.broken
    assert gpu.taken == 1
    assert gpu.pending == ()
    static = GpuParts(0, parted("n", 0, static=("1g.10gb",)))
    assert static.broken  # it is not offered whole
