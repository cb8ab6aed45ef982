"""By what a gang shares its GPUs: what can be asked, and that every mix that cannot be is refused with what can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ray_dra
from ray_dra.core.model.gpu_sharing import MIB, MOST_CLIENTS, GpuSharing, SharingKind
from ray_dra.core.model.locality import Gpus, Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, check_request
from ray_dra.errors import InvalidRequest
from ray_dra.translate.files.snapshot import load_request
from ray_dra.translate.ray.bundles import ray_bundles, request_from_bundles

MPS = ray_dra.mps(memory="20Gi", threads=25)


def test_what_is_asked_is_what_is_written() -> None:
    assert GpuSharing(SharingKind.MPS, 25, 20 << 30) == MPS
    assert ray_dra.mps() == GpuSharing(SharingKind.MPS)
    assert ray_dra.mps(memory=MIB).mebibytes == 1
    assert ray_dra.time_slicing() == GpuSharing(SharingKind.TIME_SLICING, interval="Default")
    assert ray_dra.time_slicing("Short").interval == "Short"
    request = request_from_bundles([{"GPU": 0.25, "CPU": 1}] * 3 + [{"CPU": 2}], sharing=MPS)
    assert [bundle.share for bundle in request.bundles] == [250, 250, 250, None]
    assert request.sharing == MPS
    assert ray_bundles(request)[0] == {"GPU": 1.0, "CPU": 1.0}, (
        "one of the GPUs that its raylet offers: nothing to pack"
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"bundles": [{"GPU": 1.5}], "sharing": MPS}, '{"GPU": 1}, {"GPU": 2}'),
        ({"bundles": [{"GPU": 1.5}]}, '{"GPU": 1}, {"GPU": 2}'),
        ({"bundles": [{"GPU": 0.5}]}, "sharing=ray_dra.mps"),
        ({"bundles": [{"GPU": 1}], "sharing": MPS}, "whole GPUs without `sharing`"),
        ({"bundles": [{"GPU": 1}, {"GPU": 0.5}], "sharing": MPS}, "in a gang of their own"),
        ({"bundles": [{"GPU": 1 / 3}], "sharing": MPS}, '{"GPU": 0.333}'),
        ({"bundles": [{"GPU": 0.0004}], "sharing": MPS}, '{"GPU": 0.001}'),
        ({"bundles": [{"GPU": 0.9999}], "sharing": MPS}, '{"GPU": 0.999}'),
        ({"bundles": [{"CPU": 1}], "sharing": MPS}, 'bundles with {"GPU": 0.5}'),
        ({"bundles": [{"GPU": 0.5}], "sharing": MPS, "locality": ray_dra.same_clique()}, "no locality, or whole GPUs"),
        ({"bundles": [{"GPU": 0.5}], "sharing": MPS, "locality": ray_dra.linked_devices()}, "no locality"),
        ({"bundles": [{"GPU": 0.5}], "sharing": MPS, "locality": Locality(gpus=Gpus.SAME)}, "STRICT_PACK"),
        ({"bundles": [{"GPU": 1}], "sharing": MPS, "part": ray_dra.mig("1g.10gb")}, "without `sharing`"),
        ({"bundles": [{"GPU": 0.5}], "part": ray_dra.mig("1g.10gb")}, '{"GPU": 1}'),
        ({"bundles": [{"GPU": 0.5}], "sharing": "MPS"}, "mps(...) or time_slicing(...)"),
        ({"bundles": [{"GPU": 0.5}], "sharing": ray_dra.mig("1g.10gb")}, "mps(...) or time_slicing(...)"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(asked: Mapping[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        request_from_bundles(**asked)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ray_dra.mps(threads=0),
        lambda: ray_dra.mps(threads=101),
        lambda: ray_dra.mps(threads=True),
        lambda: ray_dra.mps(memory="1Ki"),
        lambda: ray_dra.mps(memory=0),
        lambda: ray_dra.mps(memory="much"),
        lambda: ray_dra.mps(memory=2.5),  # type: ignore[arg-type]
        lambda: ray_dra.time_slicing("short"),
        lambda: ray_dra.time_slicing(2),  # type: ignore[arg-type]
        lambda: GpuSharing(SharingKind.TIME_SLICING, threads=5, interval="Short").check(),
        lambda: GpuSharing(SharingKind.MPS, interval="Short").check(),
        lambda: GpuSharing("MPS").check(),  # type: ignore[arg-type]
    ],
)
def test_limits_that_can_be_none_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidRequest):
        make()


def test_what_another_process_made_is_checked() -> None:
    """Two settings on the GPUs of one gang, or none at all, would fail or be nobody's on a node."""
    two = tuple(
        Bundle((DeviceRequest(1, share=500, sharing=sharing),)) for sharing in (MPS, ray_dra.time_slicing("Long"))
    )
    with pytest.raises(InvalidRequest, match="a gang for each"):
        GangRequest("g", two)
    with pytest.raises(InvalidRequest, match="says by what it is shared"):
        check_request(GangRequest("g", (Bundle((DeviceRequest(1, share=500),)),)))
    wrong = GangRequest("g", (Bundle((DeviceRequest(1, share=500, sharing=GpuSharing(SharingKind.MPS, 500)),)),))
    with pytest.raises(InvalidRequest, match="threads"):
        check_request(wrong)
    check_request(request_from_bundles([{"GPU": 0.5}], sharing=MPS))


@given(st.integers(1, 1 << 50), st.integers(0, 1 << 50))
def test_no_gpu_holds_more_limits_than_memory(limit: int, memory: int) -> None:
    sharing = GpuSharing(SharingKind.MPS, memory=limit * MIB)
    most = sharing.most_on(memory)
    assert most * sharing.mebibytes * MIB <= memory
    assert most == MOST_CLIENTS or (most + 1) * sharing.mebibytes * MIB > memory
    assert sharing.most_on(None) == 0, "what does not say how much it has is not known to be enough"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("mps", ray_dra.mps()),
        ("time_slicing", ray_dra.time_slicing()),
        ("{mps: {memory: 20Gi, threads: 25}}", MPS),
        ("{time_slicing: {interval: Short}}", ray_dra.time_slicing("Short")),
    ],
)
def test_a_file_says_it_by_the_functions_name(said: str, meant: GpuSharing) -> None:
    assert load_request(f"{{bundles: [{{GPU: 0.5}}], sharing: {said}}}").sharing == meant
    with pytest.raises(ray_dra.InvalidSnapshot, match="mps"):
        load_request("{bundles: [{GPU: 0.5}], sharing: {mps: {speed: 5}}}")
