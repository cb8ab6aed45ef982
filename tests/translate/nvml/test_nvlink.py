"""The graph of links: over switches, from GPU to GPU, and where a virtual machine hides the far ends."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.ports.nvml import GpuReading, LinkReading, NodeReading
from ray_dra.translate.nvml.nvlink import link_matrix, nvlink_graph, switched

BUS = [f"00000000:{16 + at:02x}:00.0" for at in range(8)]


def reading(links: list[list[LinkReading | None]], peers: bool | None = None) -> NodeReading:
    gpus = tuple(GpuReading(at, f"GPU-{at}", bus=BUS[at], links=tuple(each)) for at, each in enumerate(links))
    p2p = tuple(tuple(peers if i != j else None for j in range(len(gpus))) for i in range(len(gpus)))
    return NodeReading(gpus=gpus, p2p=p2p if peers is not None else ())


def to_switch(*counts: int) -> list[LinkReading | None]:
    return [LinkReading(True, "switch", f"switch-{at}") for at, count in enumerate(counts) for _ in range(count)]


def to_gpus(counts: dict[int, int]) -> list[LinkReading | None]:
    return [LinkReading(True, "gpu", BUS[at]) for at, count in counts.items() for _ in range(count)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_over_switches_two_gpus_have_what_the_smaller_has_to_each(counts: list[tuple[int, int]]) -> None:
    graph = nvlink_graph(reading([to_switch(*each) for each in counts]))
    matrix = link_matrix(graph, len(counts))
    for i, j in combinations(range(len(counts)), 2):
        assert matrix[i][j] == matrix[j][i] == sum(map(min, counts[i], counts[j]))
    assert all(matrix[i][i] == 0 for i in range(len(counts)))


@given(st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 4)), st.integers(1, 6), max_size=8))
def test_direct_links_are_counted_between_their_two(pairs: dict[tuple[int, int], int]) -> None:
    wanted = {(min(pair), max(pair)): count for pair, count in pairs.items() if pair[0] != pair[1]}
    links = [to_gpus({(set(pair) - {at}).pop(): n for pair, n in wanted.items() if at in pair}) for at in range(5)]
    graph = nvlink_graph(reading(links))
    matrix = link_matrix(graph, 5)
    assert {(i, j): matrix[i][j] for i, j in combinations(range(5), 2) if matrix[i][j]} == wanted
    assert switched(graph) == frozenset(), "GPUs that are linked one by one are no clique"


@pytest.mark.parametrize("count", range(2, 9))
def test_all_gpus_on_switches_are_one_group_and_what_is_beside_them_is_not(count: int) -> None:
    links = [to_switch(9, 9)] * (count - 1) + [list[LinkReading | None]()]
    assert switched(nvlink_graph(reading(links))) == (frozenset(range(count - 1)) if count > 2 else frozenset())


def test_of_two_groups_the_larger_is_the_clique_and_of_equal_ones_the_first() -> None:
    def on(switch: str) -> list[LinkReading | None]:
        return [LinkReading(True, "switch", switch)]

    assert switched(nvlink_graph(reading([on("a"), on("a"), on("b"), on("b"), on("b")]))) == {2, 3, 4}
    assert switched(nvlink_graph(reading([on("b"), on("b"), on("a"), on("a")]))) == {0, 1}


@pytest.mark.parametrize(("count", "peers"), [(2, True), (3, True), (8, True), (8, False), (8, None)])
def test_hidden_ends_join_peers_with_the_smaller_of_their_counts(count: int, peers: bool | None) -> None:
    """A pair may be bridged; three or more that are all peers can only be on switches."""
    links: list[list[LinkReading | None]] = [[LinkReading(True)] * (at + 1) for at in range(count)]
    graph = nvlink_graph(reading(links, peers))
    matrix = link_matrix(graph, count)
    for i, j in combinations(range(count), 2):
        assert matrix[i][j] == (min(i, j) + 1 if peers else 0)
    assert switched(graph) == (frozenset(range(count)) if peers and count > 2 else frozenset())


def test_hidden_ends_of_gpus_that_are_not_all_peers_are_no_switch() -> None:
    """A ring of four in a virtual machine: each has two peers."""
    links: list[list[LinkReading | None]] = [[LinkReading(True)] * 4] * 4
    ring = replace(reading(links), p2p=tuple(tuple((i - j) % 4 in (1, 3) for j in range(4)) for i in range(4)))
    graph = nvlink_graph(ring)
    assert link_matrix(graph, 4) == ((0, 4, 0, 4), (4, 0, 4, 0), (0, 4, 0, 4), (4, 0, 4, 0))
    assert switched(graph) == frozenset()


def test_links_that_are_down_unknown_or_lead_elsewhere_are_none() -> None:
    odd: list[LinkReading | None] = [
        None,
        LinkReading(False, "switch", "switch-0"),
        LinkReading(True, "other", "00000000:ff:00.0"),
        LinkReading(True, "gpu", "00000000:ff:00.0"),
        LinkReading(True, "switch", None),
    ]
    graph = nvlink_graph(reading([odd, odd]))
    assert link_matrix(graph, 2) == ((0, 0), (0, 0))
