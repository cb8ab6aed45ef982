"""What can be asked of a pool, and what no pool is."""

from __future__ import annotations

from typing import Any

import pytest

import ray_dra
from ray_dra.core.model.gpu_sharing import PoolTerms
from ray_dra.core.model.locality import Locality
from ray_dra.errors import InvalidRequest
from ray_dra.translate.ray.bundles import ray_bundles, request_from_bundles
from ray_dra.translate.ray.devices import time_slicing
from ray_dra.translate.ray.pools import pool_request

SLICES = time_slicing("Short")


def test_a_pool_is_a_gang_with_a_bundle_on_each_gpu() -> None:
    request = pool_request("p", gpus=3, sharing=SLICES, tasks=0.25, per_gang=0.5, resources={"CPU": 2})
    assert request.sharing is not None
    assert request.sharing.pool == PoolTerms(500, 0)
    assert (request.pool, request.in_pool, request.sharing.most_on(None)) == ("p", False, 1)
    assert ray_bundles(request) == [{"GPU": 1.0, "CPU": 2.0}] * 3
    assert request_from_bundles([{"GPU": 0.5}], pool="p").in_pool


SHARES: list[tuple[list[dict[str, float]], dict[str, Any]]] = [
    ([{"GPU": 1}], {}),
    ([{"GPU": 0.25}], {"sharing": SLICES}),
    ([{"GPU": 0.25}], {"locality": Locality(cliques=1)}),
    ([{"GPU": 0.25}], {"preemptible": True}),
]


@pytest.mark.parametrize(("bundles", "more"), SHARES)
def test_what_no_share_of_a_pool_can_be(bundles: list[dict[str, float]], more: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        request_from_bundles(bundles, pool="notebooks", **more)


@pytest.mark.parametrize(
    "wrong",
    [{"name": ""}, {"sharing": None}, {"tasks": 1.0}, {"gpus": 0}, {"resources": {"GPU": 1.0}}, {"per_gang": 0}],
)
def test_what_no_pool_can_be(wrong: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"name": "p", "gpus": 1, "sharing": SLICES, "tasks": 0.5, **wrong}
    with pytest.raises(InvalidRequest):
        pool_request(asked.pop("name"), **asked)


def test_a_file_knows_no_pools() -> None:
    with pytest.raises(InvalidRequest, match="which pools there are"):
        ray_dra.plan([{"GPU": 0.5}], pool="p", cluster="rack.yaml")
