"""`ray_dra.gpu(...)`: each demand as it is meant, and everything else refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ray_dra
from ray_dra.core.model.device_selector import DeviceCriteria
from ray_dra.errors import InvalidRequest
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import gpu


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({"memory": ">=80Gi"}, "memory >= 80Gi"),
        ({"memory": 80 * 10**9}, "memory >= 80G"),
        ({"memory": np.int64(80 * 10**9)}, "memory >= 80G"),
        ({"memory": 2**62 - 1}, f"memory >= {2**62 - 1}"),
        ({"memory": ">=1.5k"}, "memory >= 1500"),
        ({"memory": [">=40G", " < 80Gi "]}, "memory >= 40G, memory < 80Gi"),
        ({"memory": "80Gi"}, "memory == 80Gi"),
        ({"compute_capability": ">=9.0"}, "computeCapability >= 9.0.0"),
        ({"driver_version": ">=580"}, "driverVersion >= 580.0.0"),
        ({"driver_version": "!=580.95.05"}, "driverVersion != 580.95.5"),
        ({"product": "NVIDIA H200"}, "NVIDIA H200"),
        ({"product": ["A", "B"], "memory": ">1G"}, "A or B, memory > 1G"),
        ({"device_class": "mig.nvidia.com"}, "mig.nvidia.com"),
        ({"device_class": "gpu.nvidia.com"}, "gpu.nvidia.com"),
        ({}, ""),
    ],
    ids=str,
)
def test_each_demand(asked: dict[str, Any], meant: str) -> None:
    assert str(gpu(**asked)) == meant
    request = request_from_bundles([{"GPU": 1}, {"CPU": 1}], devices=gpu(**asked))
    assert (request.bundles[0].criteria or DeviceCriteria()) == gpu(**asked)
    assert request.bundles[1].criteria is None


@pytest.mark.parametrize(
    "asked",
    [
        {"memory": ">=much"},
        {"memory": "=>80G"},
        {"memory": ""},
        {"memory": 1.5},
        {"memory": True},
        {"memory": -5},
        {"memory": ">=1e30"},
        pytest.param({"memory": 10**5000}, id="5001 digits"),
        {"memory": ">=80m"},  # thousandths of a byte, which every GPU has
        {"memory": "<0.5"},
        {"memory": [">=1G"] * 9},
        {"compute_capability": 9.0},
        {"compute_capability": ">=9.0.0.0"},
        {"driver_version": ">=v580"},
        {"product": 5},
        {"device_class": "h100.example.com"},
        {"device_class": 5},
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused_with_its_place(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        gpu(**asked)
    assert caught.value.place


@given(st.one_of(st.none(), st.text(max_size=20), st.integers(), st.floats(), st.binary(), st.lists(st.text())))
def test_anything_is_read_or_refused(value: Any) -> None:
    for name in ("memory", "compute_capability", "driver_version", "product", "device_class"):
        try:
            assert isinstance(gpu(**{name: value}), DeviceCriteria)
        except InvalidRequest:
            pass


def test_a_number_where_a_comparison_was_meant_is_told_so() -> None:
    """YAML reads 9.0 as a number."""
    with pytest.raises(InvalidRequest, match="compute_capability is a comparison") as caught:
        gpu(compute_capability=9.0)  # type: ignore[arg-type]
    assert caught.value.available == '">=9.0", "==580.95.05"'


def test_criteria_made_by_hand_of_lists_are_taken() -> None:
    by_hand = DeviceCriteria(products=["A"], selectors=list(gpu(memory=">=1G").selectors))  # type: ignore[arg-type]
    request = request_from_bundles([{"GPU": 1}], devices=by_hand)
    assert request.bundles[0].criteria == gpu(product="A", memory=">=1G")


def test_the_shorthand_and_what_it_is_short_for() -> None:
    named = request_from_bundles([{"GPU": 1}], product="A")
    assert named.bundles == request_from_bundles([{"GPU": 1}], devices=ray_dra.gpu(product="A")).bundles
    both = request_from_bundles([{"GPU": 1}], product="A", devices=gpu(memory=">=1G"))
    assert str(both.bundles[0].criteria) == "A, memory >= 1G"
    with pytest.raises(InvalidRequest, match="twice"):
        request_from_bundles([{"GPU": 1}], product="A", devices=gpu(product="B"))
    with pytest.raises(InvalidRequest, match="gpu"):
        request_from_bundles([{"GPU": 1}], devices={"memory": 5})  # type: ignore[arg-type]
