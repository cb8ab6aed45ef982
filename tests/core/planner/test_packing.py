"""A "no" is true and a "yes" is right: every small case against brute force.

The brute force tries every node for every bundle and knows nothing of the planner's shortcuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, combinations_with_replacement, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from tests.core.brute import linked_by_hand
from tests.core.checks import check
from tests.core.machines import gang, node

FREE = range(5)


SIZES = range(1, 5)


def fits_by_hand(
    free: Sequence[int], cliques: Sequence[str | None], sizes: Sequence[int], locality: Locality, strategy: Strategy
) -> bool:
    """Whether some node for each bundle meets every demand."""
    for where in product(range(len(free)), repeat=len(sizes)):
        used = [0] * len(free)
        for size, n in zip(sizes, where, strict=True):
            used[n] += size
        if any(u > f for u, f in zip(used, free, strict=True)):
            continue
        if strategy is Strategy.STRICT_PACK and len(set(where)) > 1:
            continue
        if strategy is Strategy.STRICT_SPREAD and len(set(where)) < len(where):
            continue
        if locality.within_cliques and locality.required:
            at = [cliques[n] for n in where]
            if None in at:
                continue
            if locality.cliques is not None and len(set(at)) > locality.cliques:
                continue
            step = locality.segment or 1
            if any(len(set(at[i : i + step])) > 1 for i in range(0, len(at), step)):
                continue
        return True
    return False


LOCALITIES = [Locality(), Locality(cliques=1), Locality(cliques=2), Locality(cliques=1, required=False)]


def cluster(free: Sequence[int], cliques: Sequence[str | None]) -> Inventory:
    return Inventory(node(f"n{i}", f, clique=c) for i, (f, c) in enumerate(zip(free, cliques, strict=True)))


@pytest.mark.parametrize("cliques", [("a", "a", "a"), ("a", "a", "b"), ("a", None, None)], ids=str)
def test_all_cases_of_three_nodes_and_five_bundles(cliques: tuple[str | None, ...]) -> None:
    """All multisets of up to 5 bundles of 1-4 GPUs on 1-3 nodes with 0-4 free GPUs, four localities."""
    cases = 0
    for free in combinations_with_replacement(FREE, 3):
        inventory = cluster(free, cliques)
        for count in range(1, 6):
            for sizes in combinations_with_replacement(SIZES, count):
                if sum(sizes) > 12:
                    continue
                for locality in LOCALITIES:
                    request = gang(*reversed(sizes), locality=locality)
                    answer = plan(inventory, request)
                    possible = fits_by_hand(free, cliques, sizes, locality, Strategy.PACK)
                    assert isinstance(answer, Allocation) is possible, (free, sizes, locality, answer)
                    if isinstance(answer, Allocation):
                        check(answer, inventory, request)
                    else:
                        assert answer.shortfalls
                        assert answer.proven
                    cases += 1
    assert cases > 10_000


@given(
    free=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    cliques=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=5, max_size=5),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    segment=st.sampled_from([None, 1, 2, 3]),
    limit=st.sampled_from([None, 1, 2]),
    required=st.booleans(),
    strategy=st.sampled_from(list(Strategy)),
)
@settings(max_examples=600, deadline=None)
def test_any_mix_against_brute_force(
    free: list[int],
    cliques: list[str | None],
    sizes: list[int],
    segment: int | None,
    limit: int | None,
    required: bool,
    strategy: Strategy,
) -> None:
    if segment is not None and len(sizes) % segment:
        sizes = sizes * segment
        sizes = sizes[: len(sizes) // segment * segment][:6]
    if segment is not None and (len(sizes) % segment or (strategy is Strategy.STRICT_PACK and segment < len(sizes))):
        segment = None
    locality = Locality(cliques=limit, segment=segment, required=required)
    inventory = cluster(free, cliques[: len(free)])
    request = gang(*sizes, locality=locality, strategy=strategy)
    answer = plan(inventory, request)
    assert isinstance(answer, Allocation) is fits_by_hand(free, cliques, sizes, locality, strategy), answer
    if isinstance(answer, Allocation):
        check(answer, inventory, request)


@st.composite
def partly_linked(draw: st.DrawFn) -> Node:
    """A node of up to 5 GPUs with any links, alone or in a rack, with few CPUs."""
    size = draw(st.integers(1, 5))
    pairs = list(combinations(range(size), 2))
    there = draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    linked = {pair for pair, link in zip(pairs, there, strict=True) if link}
    links = tuple(tuple(int((i, j) in linked or (j, i) in linked) for j in range(size)) for i in range(size))
    name = f"n{draw(st.integers(0, 99)):02}"
    clique = draw(st.sampled_from([None, None, "rack"]))
    return node(name, size, links=links, clique=clique, resources={"CPU": float(draw(st.integers(0, 8)))})


@given(
    nodes=st.lists(partly_linked(), min_size=1, max_size=4, unique_by=lambda n: n.name),
    busy=st.lists(st.integers(0, 31), min_size=4, max_size=4),
    size=st.integers(1, 3),
    count=st.integers(1, 5),
    cpus=st.sampled_from([0.0, 1.0, 3.0]),
    connect=st.sampled_from([Connect.REQUIRED, Connect.REQUIRED, Connect.PREFERRED]),
    strategy=st.sampled_from([Strategy.PACK, Strategy.STRICT_PACK, Strategy.STRICT_SPREAD]),
    limits=st.sampled_from([Limits(), Limits(True, 2)]),
)
@settings(max_examples=500, deadline=None)
def test_linked_bundles_with_cpus_on_partly_connected_nodes(
    nodes: list[Node],
    busy: list[int],
    size: int,
    count: int,
    cpus: float,
    connect: Connect,
    strategy: Strategy,
    limits: Limits,
) -> None:
    inventory = Inventory(nodes, limits)
    capacities = []
    for each, mask in zip(nodes, busy, strict=False):
        inventory.set_others(each.name, mask & (1 << len(each.devices)) - 1, {})
        free = {i for i in range(len(each.devices)) if not mask >> i & 1}
        links = each.links if connect is Connect.REQUIRED else [[1] * len(each.devices)] * len(each.devices)
        capacities.append(
            max(n for n in range(6) if linked_by_hand(links, free, (size,) * n) and n * cpus <= each.resources["CPU"])
        )
    request = gang(*(size,) * count, locality=Locality(connect=connect), strategy=strategy, resources={"CPU": cpus})
    answer = plan(inventory, request)
    if strategy is Strategy.PACK:
        possible = sum(capacities) >= count
    elif strategy is Strategy.STRICT_PACK:
        possible = max(capacities) >= count
    else:
        possible = sum(map(bool, capacities)) >= count
    assert isinstance(answer, Allocation) is possible, answer
    if isinstance(answer, Allocation):
        check(answer, inventory, request)
        by_name = {each.name: each for each in nodes}
        for placed in answer.bundles if connect is Connect.REQUIRED else ():
            for a, b in combinations([g.position for g in placed.grants], 2):
                assert by_name[placed.node].links[a][b], "two devices of a bundle without a link"
    else:
        assert answer.shortfalls


def test_a_greedy_planner_would_refuse_this() -> None:
    """Best fit decreasing puts 3 on the 4, and then 2+2+2 no longer fit on 1 + 5."""
    inventory = cluster((4, 5), ("a", "a"))
    answer = plan(inventory, gang(3, 2, 2, 2, locality=Locality(cliques=1)))
    assert isinstance(answer, Allocation)


def test_slurms_case_of_segments() -> None:
    """3 blocks of 17 nodes, 36 nodes in segments of 12: one segment in each block."""
    inventory = Inventory(node(f"{b}-{i:02}", 1, clique=b, order=i) for b in ("b0", "b1", "b2") for i in range(17))
    answer = plan(inventory, gang(*[1] * 36, locality=Locality(segment=12)))
    assert isinstance(answer, Allocation)
    assert [answer.cliques[i] for i in (0, 12, 24)] == ["b0", "b1", "b2"]
    assert all(len(set(answer.cliques[i : i + 12])) == 1 for i in (0, 12, 24))
    assert isinstance(plan(inventory, gang(*[1] * 48, locality=Locality(segment=12))), Unsatisfiable)


def test_resources_count_too() -> None:
    nodes: list[Node] = [node("a", 8, box=True, resources={"CPU": 8}), node("b", 8, box=True, resources={"CPU": 32})]
    inventory = Inventory(nodes)
    answer = plan(inventory, gang(2, 2, 2, resources={"CPU": 8}, locality=Locality(cliques=1)))
    assert isinstance(answer, Allocation)
    assert set(answer.nodes) == {"b"}
    inventory.hold(answer)
    refused = plan(inventory, gang(1, 1, name="h", resources={"CPU": 8}, locality=Locality(cliques=1)))
    assert isinstance(refused, Unsatisfiable)
    inventory.release("g")
    placed: Placed = answer.bundles[0]
    assert placed.resources == {"CPU": 8}
    assert inventory.node_states["b"].left("CPU") == 32


def test_a_node_of_which_others_have_more_than_there_is_still_has_its_gpus() -> None:
    """A raylet that came back with fewer CPUs, or a snapshot: what is left of them is nothing, and not less."""
    nodes = [node("a", 4, resources={"CPU": 1}), node("b", 1, resources={"CPU": 4})]
    inventory = Inventory(nodes)
    inventory.set_others("a", 0, {"CPU": 2.0})
    for locality in (Locality(), Locality(cliques=1)):
        bundles = (
            Bundle((DeviceRequest(1),), {"CPU": 2.0}),
            Bundle((DeviceRequest(3),)),
            Bundle(resources={"CPU": 1.0}),
        )
        same = [replace(n, devices=tuple(replace(d, domains=("c",)) for d in n.devices)) for n in nodes]
        for each in same if locality.cliques else ():
            inventory.put_node(each)
        assert isinstance(plan(inventory, GangRequest("g", bundles, locality)), Allocation)
