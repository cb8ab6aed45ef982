"""Which devices inside a node: what every choice must fulfil, and which of the allowed ones is taken."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.cluster.device_choice import DeviceGraph, bits, graph_of
from ray_dra.core.model.locality import Connect
from ray_dra.core.model.node import Links
from tests.core.machines import DGX1, node

NONE: Links = ()


def matrix(size: int, pairs: list[int]) -> Links:
    """A symmetric matrix of links from the numbers of its upper half."""
    rows = [[0] * size for _ in range(size)]
    for (i, j), links in zip(combinations(range(size), 2), pairs, strict=False):
        rows[i][j] = rows[j][i] = links
    return tuple(map(tuple, rows))


@st.composite
def graphs(draw: st.DrawFn) -> DeviceGraph:
    size = draw(st.integers(1, 6))
    count = size * (size - 1) // 2
    pairs = draw(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=count, max_size=count))
    near = draw(st.lists(st.sampled_from([10, 20]), min_size=count, max_size=count))
    numa = draw(st.lists(st.sampled_from([0, 1, None]), min_size=size, max_size=size))
    return DeviceGraph(matrix(size, pairs), matrix(size, near), tuple(numa))


@given(graph=graphs(), data=st.data())
@settings(max_examples=300, deadline=None)
def test_what_is_split_is_disjoint_and_fits_and_a_no_is_exact(graph: DeviceGraph, data: st.DataObject) -> None:
    everything = (1 << graph.size) - 1
    mask = data.draw(st.integers(0, everything))
    sizes = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    connect = data.draw(st.sampled_from(list(Connect)))
    allowed = data.draw(st.none() | st.tuples(*[st.integers(0, everything) for _ in sizes]))
    found = graph.split(mask, sizes, connect, allowed)
    fits = _fits(graph, mask, sizes, connect, allowed or (mask,) * len(sizes))
    assert (found is not None) is fits
    if found is None:
        return
    union = 0
    for at, (subset, size) in enumerate(zip(found, sizes, strict=True)):
        assert subset.bit_count() == size
        assert not subset & ~mask & ~union
        assert allowed is None or not subset & ~allowed[at]
        assert not subset & union
        union |= subset
        assert connect is not Connect.REQUIRED or _linked(graph, subset)
    alike = {(size, allowed[at] if allowed else None) for at, size in enumerate(sizes)}
    for one in alike:
        subsets = [s for at, s in enumerate(found) if (sizes[at], allowed[at] if allowed else None) == one]
        assert subsets == sorted(subsets, key=lambda s: bits(s)[0]), "neighbouring ranks are neighbours"


def _fits(graph: DeviceGraph, mask: int, sizes: tuple[int, ...], connect: Connect, allowed: tuple[int, ...]) -> bool:
    if not sizes:
        return True
    for chosen in combinations(bits(mask & allowed[0]), sizes[0]):
        subset = sum(1 << at for at in chosen)
        if connect is Connect.REQUIRED and not _linked(graph, subset):
            continue
        if _fits(graph, mask & ~subset, sizes[1:], connect, allowed[1:]):
            return True
    return False


def _linked(graph: DeviceGraph, subset: int) -> bool:
    return all(graph.links[i][j] for i, j in combinations(bits(subset), 2))


def _most(graph: DeviceGraph, mask: int, size: int) -> int:
    """Linked sets of a size that a mask holds at once, by trying all."""
    best = 0
    for chosen in combinations(bits(mask), size):
        subset = sum(1 << at for at in chosen)
        if _linked(graph, subset):
            best = max(best, 1 + _most(graph, mask & ~subset, size))
    return best


@given(graph=graphs(), data=st.data())
@settings(max_examples=200, deadline=None)
def test_one_bundle_takes_the_best_set_by_the_rule(graph: DeviceGraph, data: st.DataObject) -> None:
    """Linked; leaves most linked sets; most links; fewest NUMA nodes; nearest; best rest; the first."""
    mask = data.draw(st.integers(1, (1 << graph.size) - 1))
    size = data.draw(st.integers(1, mask.bit_count()))
    if graph.uniform or size == mask.bit_count():
        return
    (found,) = graph.split(mask, (size,), Connect.PREFERRED) or (0,)

    def rule(subset: int) -> tuple[object, ...]:
        pairs = list(combinations(bits(subset), 2))
        linked = _linked(graph, subset)
        return (
            not linked,
            -_most(graph, mask & ~subset, size) if linked and size > 1 else 0,
            -sum(graph.links[i][j] for i, j in pairs),
            len({graph.numa[i] for i in bits(subset)}),
            sum(graph.ancestors[i][j] for i, j in pairs),
            -sum(graph.links[i][j] for i, j in combinations(bits(mask & ~subset), 2)),
            subset,
        )

    assert found == min((sum(1 << i for i in c) for c in combinations(bits(mask), size)), key=rule)


@given(numa=st.lists(st.sampled_from([0, 1, 2, None]), min_size=1, max_size=8), data=st.data())
@settings(max_examples=200, deadline=None)
def test_where_links_say_nothing_as_few_numa_nodes_as_can_be(numa: list[int | None], data: st.DataObject) -> None:
    graph = DeviceGraph(NONE, NONE, tuple(numa))
    mask = data.draw(st.integers(1, (1 << len(numa)) - 1))
    size = data.draw(st.integers(1, mask.bit_count()))
    (found,) = graph.split(mask, (size,), Connect.PREFERRED) or (0,)
    counts: dict[int | None, int] = {}
    for at in bits(mask):
        counts[numa[at]] = counts.get(numa[at], 0) + 1
    few, left = 0, size
    for count in sorted(counts.values(), reverse=True):
        if left > 0:
            few, left = few + 1, left - count
    used = {numa[at] for at in bits(found)}
    assert found.bit_count() == size
    assert not found & ~mask
    assert len(used) == few
    if few == 1:
        (group,) = used
        assert counts[group] == min(count for count in counts.values() if count >= size), "the fullest that suffices"


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_how_many_on_every_state_of_a_dgx1(size: int) -> None:
    graph = graph_of(node("dgx", 8, links=DGX1))
    for mask in range(0, 256, 3):
        assert graph.how_many(mask, size, Connect.PREFERRED) == mask.bit_count() // size
        assert graph.how_many(mask, size, Connect.REQUIRED) == _most(graph, mask, size)


def test_a_graph_knows_whether_all_are_alike() -> None:
    assert DeviceGraph(matrix(3, [2, 2, 2]), NONE, (0, 0, 0)).linked
    assert not DeviceGraph(matrix(3, [0, 0, 0]), NONE, (0, 0, 0)).linked
    assert DeviceGraph(matrix(3, [0, 0, 0]), NONE, (0, 0, 0)).uniform
    assert not DeviceGraph(matrix(3, [2, 2, 1]), NONE, (0, 0, 0)).uniform
    assert not DeviceGraph(matrix(3, [2, 0, 0]), NONE, (0, 0, 0)).linked
    assert DeviceGraph(NONE, NONE, (0,)).uniform


@given(graph=graphs(), size=st.integers(0, 4))
def test_linked_subsets_are_all_that_are_linked(graph: DeviceGraph, size: int) -> None:
    everything = (1 << graph.size) - 1
    every = [sum(1 << i for i in chosen) for chosen in combinations(range(graph.size), size)]
    found = list(graph.linked_subsets(everything, size))
    assert sorted(found) == sorted(subset for subset in every if _linked(graph, subset))


def joined(*boxes: Links) -> DeviceGraph:
    """Boxes side by side in one node."""
    size = sum(map(len, boxes))
    rows, at = [[0] * size for _ in range(size)], 0
    for box in boxes:
        for i, row in enumerate(box):
            rows[at + i][at : at + len(row)] = row
        at += len(box)
    return DeviceGraph(tuple(map(tuple, rows)), NONE, (0,) * size)


def test_a_node_with_more_gpus_than_any_has_is_answered_too() -> None:
    """Trying all combinations of 32 GPUs took minutes, and a no all of them."""
    pairs, boxes = joined(*[((0, 1), (1, 0))] * 16), joined(*[DGX1] * 4)
    whole = (1 << 32) - 1
    assert [pairs.how_many(whole, size, Connect.REQUIRED) for size in (2, 3, 4)] == [16, 0, 0]
    assert [boxes.how_many(whole, size, Connect.REQUIRED) for size in (2, 3, 4, 5)] == [16, 8, 8, 0]
    assert boxes.pieces(whole, 3, 9, Connect.REQUIRED) is None
    (preferred,) = boxes.split(whole, (16,), Connect.PREFERRED) or ()
    assert preferred.bit_count() == 16
