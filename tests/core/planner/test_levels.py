"""Levels above the clique: a gang over several cliques stays in a domain of the lowest level that holds it, and a no is
as true as without levels. Against exhaustive search over the domains' nodes, which knows nothing of levels."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import GangRequest, Strategy
from ray_dra.core.plan import plan
from ray_dra.core.planner.levels import check_level, level_named
from ray_dra.errors import InvalidRequest
from tests.core.brute import Brute, World
from tests.core.machines import gang, node

LEVELS = ("leaf", "spine")


def cliques_of(nodes: Sequence[Node], answer: Allocation) -> set[str]:
    by_name = {each.name: each.clique or "" for each in nodes}
    return {by_name[name] for name in answer.nodes}


def domains(nodes: Sequence[Node], level: str) -> dict[str, list[Node]]:
    """The nodes of cliques that are wholly in one domain of a level."""
    by_clique: dict[str, list[Node]] = {}
    for each in nodes:
        by_clique.setdefault(each.clique or "", []).append(each)
    found: dict[str, list[Node]] = {}
    for members in by_clique.values():
        names = {each.labels.get(level) for each in members}
        if len(names) == 1 and (name := names.pop()) is not None:
            found.setdefault(name, []).extend(members)
    return found


def level_of(nodes: Sequence[Node], answer: Allocation) -> int:
    """The lowest level of which one domain has all of it; len(LEVELS) for none."""
    inside = set(answer.nodes)
    for at, level in enumerate(LEVELS):
        if any(inside <= {each.name for each in there} for there in domains(nodes, level).values()):
            return at
    return len(LEVELS)


# -- every small case of equal bundles, by counting

TREE = (("l1", "s1"), ("l1", "s1"), ("l2", "s1"), ("l3", "s2"))
"""Four cliques: two in one leaf, a third under the same spine, the fourth under another."""


def fewest(capacities: Sequence[int], total: int, segment: int, most: int | None) -> int | None:
    """The least number of cliques that hold so many bundles in whole segments, of every choice of them."""
    segments, rest = divmod(total, segment)
    for count in range(1, len(capacities) + 1):
        if most is not None and count > most:
            return None
        for chosen in combinations(capacities, count):
            if any(
                sum(c // segment for c in chosen[:at])
                + sum(c // segment for c in chosen[at + 1 :])
                + (chosen[at] - rest) // segment
                >= segments
                for at in range(count)
                if chosen[at] >= rest
            ):  # the clique at `at` has what is left of the last segment
                return count
    return None


def small(capacities: Sequence[int]) -> list[Node]:
    """Cliques with so many free nodes of one GPU."""
    return [
        node(f"c{at}-{tray}", 1, clique=f"c{at}", order=tray, labels={"leaf": leaf, "spine": spine})
        for at, ((leaf, spine), capacity) in enumerate(zip(TREE, capacities, strict=True))
        for tray in range(capacity)
    ]


def least(capacities: Sequence[int], total: int, segment: int, most: int | None) -> tuple[int, int] | None:
    """(level, cliques) that the answer has to have; level -1: in one clique."""
    if max(capacities) >= total:
        return -1, 1
    for level in range(len(LEVELS) + 1):
        names = {path[level] for path in TREE} if level < len(LEVELS) else {""}
        counts = [
            count
            for name in names
            if (
                count := fewest(
                    [
                        c
                        for c, path in zip(capacities, TREE, strict=True)
                        if level == len(LEVELS) or path[level] == name
                    ],
                    total,
                    segment,
                    most,
                )
            )
            is not None
        ]
        if counts:
            return level, min(counts)
    return None


@pytest.mark.parametrize(("segment", "most"), [(1, None), (2, None), (1, 2), (2, 2), (3, None)])
def test_every_small_case_has_the_lowest_level_and_there_the_fewest_cliques(segment: int, most: int | None) -> None:
    seen = set()
    for capacities in product(range(4), repeat=4):
        nodes = small(capacities)
        inventory = Inventory(nodes, level_labels=LEVELS)
        for total in range(segment, sum(capacities) + 1):
            locality = Locality(cliques=most) if segment == 1 and most else Locality(segment=segment)
            if segment > 1 and most:
                locality = Locality(cliques=most, segment=segment)
            if segment == 1 and most is None:
                locality = Locality()
            if total % segment:
                continue
            answer = plan(inventory, gang(*[1] * total, locality=locality))
            wanted = least(capacities, total, 1 if total == segment else segment, 1 if total == segment > 1 else most)
            if wanted is None:
                assert not isinstance(answer, Allocation), (capacities, total)
                continue
            assert isinstance(answer, Allocation), (capacities, total)
            used = len(cliques_of(nodes, answer))
            level = -1 if used == 1 else level_of(nodes, answer)
            assert (level, used) == wanted, (capacities, total)
            seen.add(level)
    assert seen >= {-1, 0, 1, 2}


# -- random ones, of several sizes


def random_case(dice: random.Random) -> tuple[World, GangRequest]:
    nodes = []
    spines = [f"s{at}" for at in range(dice.randint(1, 2))]
    leaves = [(f"l{at}", dice.choice(spines)) for at in range(dice.randint(2, 3))]
    for clique in range(dice.randint(2, 4)):
        leaf, spine = dice.choice(leaves)
        for tray in range(dice.randint(1, 2)):
            here, above = dice.choice(leaves) if dice.random() < 0.1 else (leaf, spine)  # over two leaves
            labels = {"leaf": here, "spine": above} if dice.random() < 0.95 else {"spine": above}
            cpus = {"CPU": float(dice.choice([2, 64]))}
            nodes.append(
                node(
                    f"c{clique}-{tray}",
                    dice.randint(1, 3),
                    clique=f"c{clique}",
                    order=tray,
                    labels=labels,
                    resources=cpus,
                )
            )
    busy = {each.name: dice.getrandbits(len(each.devices)) for each in nodes if dice.random() < 0.4}
    sizes = (
        [dice.randint(1, 2)] * dice.randint(2, 4)
        if dice.random() < 0.5
        else [dice.randint(1, 3) for _ in range(dice.randint(2, 4))]
    )
    locality = dice.choice([Locality(), Locality(cliques=2), Locality(cliques=3, segment=1)])
    if len(sizes) % 2 == 0 and dice.random() < 0.3:
        locality = Locality(segment=2)
    strategy = dice.choice([Strategy.PACK, Strategy.STRICT_SPREAD])
    return World(nodes, busy=busy), gang(*sizes, locality=locality, strategy=strategy)


def holding(world: World, request: GangRequest) -> Iterator[tuple[int, bool]]:
    """Level by level, whether one of its domains alone holds the gang."""
    for at, level in enumerate(LEVELS):
        there = domains(world.nodes, level).values()
        yield at, any(Brute(replace(world, nodes=some), request).fits() for some in there)


@pytest.mark.parametrize("seed", range(2))
def test_what_one_domain_of_a_level_holds_does_not_leave_it(seed: int) -> None:
    """And the answer is a yes exactly where it is one without levels; what is in one clique is the same."""
    dice = random.Random(seed)
    several = 0
    for _ in range(600):
        world, request = random_case(dice)
        plain = plan(world.inventory(), request)
        inventory = world.inventory(LEVELS)
        answer = plan(inventory, request)
        assert isinstance(answer, Allocation) is isinstance(plain, Allocation), (world, request)
        if not isinstance(answer, Allocation) or not isinstance(plain, Allocation):
            continue
        inventory.hold(answer)
        if len(cliques_of(world.nodes, plain)) == 1:
            assert answer == plain
            continue
        several += 1
        level = level_of(world.nodes, answer)
        lowest = next((at for at, holds in holding(world, request) if holds), len(LEVELS))
        assert level == lowest, (world, request, answer)
    assert several > 100


# -- at most so many domains


def fits_in(capacities: Sequence[int], names: Sequence[str], total: int, segment: int, most: int | None) -> bool:
    """Whether the cliques of these leaves hold it."""
    there = [c for c, path in zip(capacities, TREE, strict=True) if path[0] in names]
    return fewest(there, total, segment, most) is not None


def wanted_at_most(capacities: Sequence[int], total: int, segment: int, most: int | None, limit: int) -> str:
    """Where a gang that no clique holds lies, in words: the first of these that holds it, of every choice of leaves."""
    above = dict(TREE)
    for count in range(1, limit + 1):
        chosen = [c for c in combinations(above, count) if fits_in(capacities, c, total, segment, most)]
        if count == 1 and chosen:
            return "leaf"
        if any(len({above[leaf] for leaf in c}) == 1 for c in chosen):
            return f"{count} leaves of one spine"
    for count in range(2, limit + 1):
        if any(fits_in(capacities, c, total, segment, most) for c in combinations(above, count)):
            return f"{count} leaves"
    return "elsewhere"


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize(("segment", "most"), [(1, None), (2, None), (1, 2), (2, 2), (1, 3)])
def test_every_small_case_lies_in_the_fewest_leaves(segment: int, most: int | None, limit: int) -> None:
    """Exact: in one leaf, else in as few of one spine as are allowed, else in as few of any; a no stays one."""
    above = dict(TREE)
    seen = set()
    for capacities in product(range(4), repeat=4):
        nodes = small(capacities)
        inventory = Inventory(nodes, level_labels=LEVELS)
        for total in range(2 * segment, sum(capacities) + 1, segment):
            if max(capacities) >= total:
                continue
            near = Locality(cliques=most, segment=segment if segment > 1 else None)
            plain = plan(inventory, gang(*[1] * total, locality=near))
            answer = plan(inventory, gang(*[1] * total, locality=near & Locality(level="leaf", domains=limit)))
            assert isinstance(answer, Allocation) is isinstance(plain, Allocation)
            if not isinstance(answer, Allocation):
                continue
            wanted = wanted_at_most(capacities, total, segment, most, limit)
            seen.add(wanted)
            leaves = {leaf for at, (leaf, _) in enumerate(TREE) if f"c{at}" in cliques_of(nodes, answer)}
            spines = {above[leaf] for leaf in leaves}
            found = "leaf" if len(leaves) == 1 else f"{len(leaves)} leaves"
            if len(leaves) > 1 and len(spines) == 1:
                found += " of one spine"
            if wanted == "elsewhere":
                assert len(leaves) > limit, (capacities, total, answer)
            else:
                assert found == wanted, (capacities, total, answer)
    assert {"leaf", "2 leaves of one spine", "2 leaves"} - (
        {"2 leaves of one spine", "2 leaves"} if limit == 1 else set()
    ) <= seen


@pytest.mark.parametrize("seed", range(2))
def test_what_so_many_domains_hold_stays_in_them(seed: int) -> None:
    """Bundles of all sizes, against exhaustive search over the nodes of every choice of leaves."""
    dice = random.Random(seed)
    several = 0
    for _ in range(400):
        world, request = random_case(dice)
        limit = dice.randint(1, 2)
        request = replace(request, locality=request.locality & Locality(level="leaf", domains=limit))
        plain = plan(world.inventory(), request)
        inventory = world.inventory(LEVELS)
        answer = plan(inventory, request)
        assert isinstance(answer, Allocation) is isinstance(plain, Allocation), (world, request)
        if not isinstance(answer, Allocation) or len(cliques_of(world.nodes, answer)) == 1:
            continue
        there = domains(world.nodes, "leaf")
        least = next(
            (
                count
                for count in range(1, limit + 1)
                for chosen in combinations(there.values(), count)
                if Brute(replace(world, nodes=[node for some in chosen for node in some]), request).fits()
            ),
            None,
        )
        if least is None:
            continue
        several += least > 1
        inside = set(answer.nodes)
        used = [name for name, some in there.items() if inside & {each.name for each in some}]
        assert inside <= {each.name for some in there.values() for each in some}
        assert len(used) <= limit, (world, request, answer)
        assert least > 1 or len(used) == 1
    assert several > 10


def test_a_level_is_named_by_its_label_or_by_what_follows_its_last_slash() -> None:
    labels = ("a.example/leaf", "b.example/spine", "c.example/spine", "core")
    assert [level_named(labels, name) for name in ("leaf", "a.example/leaf", "c.example/spine", "core")] == [0, 0, 2, 3]
    assert level_named(labels, "spine") is None  # which of the two?
    inventory = Inventory([node("n", 1)], level_labels=labels)
    for name in ("spine", "rack", "example/leaf"):
        with pytest.raises(InvalidRequest) as refused:
            check_level(inventory, Locality(level=name, domains=1))
        assert refused.value.place == "locality.level"
        assert "b.example/spine" in str(refused.value)
    check_level(inventory, Locality(level="leaf", domains=1))
    check_level(inventory, Locality())


def test_a_limit_of_a_level_that_is_gone_says_nothing() -> None:
    nodes = small((1, 1, 1, 1))
    request = gang(1, 1, 1, locality=Locality(level="pod", domains=1))
    assert plan(Inventory(nodes, level_labels=LEVELS), request) == plan(
        Inventory(nodes, level_labels=LEVELS), replace(request, locality=Locality())
    )


def test_without_such_labels_every_answer_is_what_it_was() -> None:
    dice = random.Random(7)
    for _ in range(200):
        world, request = random_case(dice)
        bare = [replace(each, labels={}) for each in world.nodes]
        assert plan(Inventory(bare, level_labels=LEVELS), request) == plan(Inventory(bare), request)


def test_a_node_that_is_labelled_anew_is_in_its_new_domain() -> None:
    nodes = [node(f"c{at}", 1, clique=f"c{at}", labels={"leaf": leaf}) for at, leaf in enumerate(("a", "b", "a", "b"))]
    inventory = Inventory(nodes, level_labels=("leaf",))

    def planned() -> set[str]:
        answer = plan(inventory, gang(1, 1, locality=Locality()))
        assert isinstance(answer, Allocation)
        return set(answer.nodes)

    assert planned() == {"c0", "c2"}
    inventory.put_node(replace(nodes[2], labels={"leaf": "b"}))
    inventory.put_node(replace(nodes[1], labels={"leaf": "a"}))
    assert planned() == {"c0", "c1"}


def test_a_clique_over_two_leaves_is_in_none_and_counts_above_them() -> None:
    nodes = [
        node("a0", 1, clique="a", labels={"leaf": "x", "spine": "s"}),
        node("a1", 1, clique="a", labels={"leaf": "y", "spine": "s"}),
        node("b0", 1, clique="b", labels={"leaf": "x", "spine": "s"}),
        node("c0", 1, clique="c", labels={"leaf": "z", "spine": "t"}),
    ]
    inventory = Inventory(nodes, level_labels=LEVELS)
    names = {clique.name: inventory.above(clique) for clique in inventory.clique_states.values()}
    assert names == {"a": (None, "s"), "b": ("x", "s"), "c": ("z", "t")}
    answer = plan(inventory, gang(1, 1, 1, locality=Locality()))
    assert isinstance(answer, Allocation)
    assert set(answer.nodes) == {"a0", "a1", "b0"}
