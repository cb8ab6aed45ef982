"""What is left of a gang after a fault: whole segments that are well, on the devices that they have."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.repair import OnFault, Way, on_fault, segment_of, without
from ray_dra.core.gangs.shapes import sense_of_shrunk, shrinks
from ray_dra.core.gangs.shrinking import shrunk_to
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.gpu_sharing import GpuSharing, SharingKind
from ray_dra.core.model.imex import imex_counter
from ray_dra.core.model.locality import Locality
from ray_dra.errors import InvalidRequest
from ray_dra.translate.kube.slots import slot_labels
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.core.gangs.test_replacing import placed
from tests.core.machines import gang

SIZES = [(4, 4, 4, 4), (2, 2, 2, 2, 4, 4), (1,) * 12, (4, 2, 2, 4), (2, 4, 4, 2)]


def brute(faulty: set[int], nodes: tuple[str, ...], size: int, *, whole_nodes: bool) -> list[int]:
    """Segments that a chain of shared nodes joins to a faulty one go, too."""
    reached, found = set(faulty), True
    while found:
        near = {
            rank
            for rank, node in enumerate(nodes)
            for other in reached
            if rank // size == other // size or (whole_nodes and node == nodes[other])
        }
        found, reached = not near <= reached, reached | near
    return [rank for rank in range(len(nodes)) if rank not in reached]


@given(
    sizes=st.sampled_from(SIZES),
    locality=st.sampled_from([Locality(), Locality(segment=2), Locality(cliques=1, exclusive=True)]),
    own_workers=st.booleans(),
    data=st.data(),
)
def test_whole_segments_that_are_well_stay_as_they_are(
    sizes: tuple[int, ...], locality: Locality, own_workers: bool, data: st.DataObject
) -> None:
    _, _, asked = placed(*sizes, locality=locality)
    held = asked.allocation
    if held is None:
        return
    for again in range(2):
        count = len(asked.request.bundles)
        faulty = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
        least = data.draw(st.integers(1, count))
        asked = replace(asked, on_fault=OnFault((Way.SHRINK,), 5.0, least))
        left = brute(faulty, held.nodes, segment_of(asked.request), whole_nodes=own_workers)
        found = shrunk_to(asked, faulty, own_workers=own_workers)
        assert (found is None) is (len(left) < least or not left)
        if found is None:
            return
        now, shrunk = found.allocation, found.shrunk
        assert now.bundles == tuple(held.bundles[rank] for rank in left)
        assert now.epoch == held.epoch
        assert shrunk is not None
        assert sense_of_shrunk(shrunk, found.request) == ""
        assert shrinks(asked.shrunk, asked.request, shrunk)
        assert found.request.bundles == tuple(asked.request.bundles[rank] for rank in left)
        assert {c for c in now.counters if c[0][1] != "imex"} == {c for c in held.counters if c[0][1] != "imex"}
        for node in {*held.nodes}:
            joined = (imex_counter(node), 1)
            assert (joined in now.counters) is (joined in held.counters and node in now.nodes)
        if own_workers:
            labels = slot_labels(held)
            assert slot_labels(now) == {node: labels[node] for node in labels if node in now.nodes}
            assert not {held.nodes[rank] for rank in range(count) if rank not in left} & {*now.nodes}
        assert again or len(shrunk.whole.bundles) == count
        asked, held = replace(asked, request=found.request, allocation=now, shrunk=shrunk), now


def test_bundles_without_gpus_alone_are_no_gang() -> None:
    request = request_from_bundles([{"GPU": 4}, {"CPU": 1}])
    _, _, asked = placed(4, 4, locality=Locality())
    assert isinstance(asked.allocation, Allocation)
    asked = replace(asked, request=replace(request, gang="g"), on_fault=on_fault("shrink", min_bundles=1))
    assert shrunk_to(asked, {0}, own_workers=False) is None
    assert shrunk_to(asked, {1}, own_workers=False) is not None


@pytest.mark.parametrize(
    ("ways", "least"),
    [
        ("shrink", None),
        ("restart", 1),
        ("shrink", 0),
        ("shrink", -1),
        ("shrink", True),
        ("shrink", 1.5),
        ("shrink", "1"),
        ("shrink", 100_001),
        (("shrink", "shrink"), 1),
        (("degrade", "shrink"), 1),
        (("restart", "shrink"), 1),
    ],
)
def test_what_cannot_be_declared_is_refused(ways: object, least: object) -> None:
    with pytest.raises(InvalidRequest):
        on_fault(ways, min_bundles=least)


@pytest.mark.parametrize(
    ("least", "segment", "may"),
    [
        (4, None, False),
        (3, None, True),
        (5, None, False),
        (1, 2, False),
        (2, 2, True),
        (3, 2, False),
        (4, 2, False),
        (4, 4, False),
        (2, 4, False),
    ],
)
def test_enough_are_whole_segments_and_fewer_than_all(least: int, segment: int | None, may: bool) -> None:
    request = gang(4, 4, 4, 4, name="g", locality=Locality(segment=segment))
    declared = on_fault(("replace", "shrink"), min_bundles=least)
    if may:
        Order(request, on_fault=declared)
        return
    with pytest.raises(InvalidRequest, match="min_bundles"):
        Order(request, on_fault=declared)


def test_shares_of_gpus_do_not_shrink() -> None:
    request = request_from_bundles([{"GPU": 0.5}] * 4, sharing=GpuSharing(SharingKind.TIME_SLICING, interval="Default"))
    with pytest.raises(InvalidRequest, match="shares"):
        Order(replace(request, gang="g"), on_fault=on_fault("shrink", min_bundles=1))


def test_where_a_gang_cannot_shrink_the_way_is_left_out() -> None:
    declared = on_fault(("replace", "shrink", "restart"), 3.0, min_bundles=1)
    assert without(declared, Way.REPLACE) == on_fault(("shrink", "restart"), 3.0, min_bundles=1)
    assert without(declared, Way.SHRINK) == on_fault(("replace", "restart"), 3.0)


def test_an_ordinary_placement_group_keeps_its_bundles() -> None:
    group = "0" * 36
    request = gang(4, 4, name=group)
    with pytest.raises(InvalidRequest, match="ordinary"):
        Order(request, ordinary=OrdinaryGroup(group), on_fault=on_fault("shrink", min_bundles=1))
