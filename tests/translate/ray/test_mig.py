"""What is asked of parts of GPUs: `mig(...)`, and every mix that cannot be, refused before anything is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

import ray_dra
from ray_dra.core.model.locality import Gpus, Locality
from ray_dra.core.model.parts import PartCriteria
from ray_dra.core.model.request import check_request
from ray_dra.errors import InvalidRequest
from ray_dra.translate.files.snapshot import load_request
from ray_dra.translate.ray.bundles import ray_bundles, request_from_bundles
from ray_dra.translate.ray.devices import gpu, mig
from tests.edge.hostile import answers_or_refuses, hostile

ONE = mig("1g.10gb")


@pytest.mark.parametrize(
    ("made", "is_"),
    [
        (lambda: mig("1g.10gb"), PartCriteria("1g.10gb")),
        (lambda: mig("1c.3g.40gb"), PartCriteria("1c.3g.40gb")),
        (lambda: mig("1g.10gb+me"), PartCriteria("1g.10gb+me")),
        (lambda: mig("1g.24gb-me"), PartCriteria("1g.24gb-me")),  # an RTX PRO 6000's
        (lambda: mig(memory="20Gi"), PartCriteria(memory=20 << 30)),
        (lambda: mig(memory=10), PartCriteria(memory=10)),
    ],
)
def test_a_part_is_named_by_profile_or_memory(made: Callable[[], PartCriteria], is_: PartCriteria) -> None:
    assert made() == is_
    is_.check()


@pytest.mark.parametrize(
    "made",
    [
        lambda: mig(),
        lambda: mig("1g.10gb", memory="10Gi"),
        lambda: mig("1g"),
        lambda: mig("MIG-1g.10gb"),
        lambda: mig('1g.10gb" || true'),
        lambda: mig(""),
        lambda: mig(memory="lots"),
        lambda: mig(memory=0),
        lambda: mig(memory="80m"),
        lambda: mig(memory=True),
        lambda: mig(7),  # type: ignore[arg-type]
        lambda: mig(memory=1 << 63),
        lambda: request_from_bundles([{"GPU": 1}], part=PartCriteria(["1g.10gb"])),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_part_is_refused(made: Callable[[], object]) -> None:
    with pytest.raises(InvalidRequest):
        made()


@given(hostile())
def test_anything_in_place_of_a_profile_or_a_memory(value: Any) -> None:
    answers_or_refuses(lambda: mig(value))
    answers_or_refuses(lambda: mig(memory=value))
    answers_or_refuses(lambda: request_from_bundles([{"GPU": 1}], part=value))


@pytest.mark.parametrize(
    ("bundles", "more", "nearest"),
    [
        ([{"GPU": 2}], {}, "as many bundles as parts"),
        ([{"GPU": 1}, {"CPU": 1}], {}, "a gang of its own"),
        ([{"GPU": 1}], {"locality": ray_dra.same_clique()}, "same_gpu(), spread_gpus()"),
        ([{"GPU": 1}], {"locality": ray_dra.at_most_cliques(2)}, "same_gpu(), spread_gpus()"),
        ([{"GPU": 1}], {"locality": ray_dra.linked_devices()}, "same_gpu(), spread_gpus()"),
        ([{"GPU": 1}], {"topology_strategy": {"ray.io/gpu-domain": "STRICT_PACK"}}, "same_gpu(), spread_gpus()"),
        ([{"GPU": 1}], {"devices": gpu(memory=">=10G")}, "mig(memory="),
        ([{"GPU": 1}], {"devices": gpu(device_class="mig.nvidia.com")}, ""),
        ([{"GPU": 0.5}], {}, '{"GPU": 1}'),
        ([{"MIG-2g.20gb": 1}], {}, "or no part"),
        ([{"MIG-1g.10gb": 1}], {"part": mig(memory="9G")}, "or no part"),
        ([{"MIG-1g.10gb": 2}], {"part": None}, "as many bundles as parts"),
        ([{"MIG-1g.10gb": 0.5}], {"part": None}, "as many bundles as parts"),
        ([{"MIG-1g.10gb": -1}], {"part": None}, "as many bundles as parts"),
        ([{"MIG-1g.10gb": 1, "MIG-2g.20gb": 1}], {"part": None}, "as many bundles as parts"),
        ([{"GPU": 2, "MIG-2g.20gb": 1}], {"part": None}, "as many bundles as parts"),
        ([{"MIG-GPU": 1}], {"part": None}, "1g.10gb and its like"),
        ([{"MIG-1g.10gb": 1}, {"GPU": 1}], {"part": None}, "a gang for each of the two"),
        ([{"MIG-1g.10gb": 1}], {"part": None, "locality": ray_dra.same_clique()}, "same_gpu(), spread_gpus()"),
        ([{"GPU": 1}], {"part": None, "locality": ray_dra.same_gpu()}, "part=ray_dra.mig(...)"),
        ([{"GPU": 1}], {"part": "1g.10gb"}, "mig(...)"),
        ([{"CPU": 1}], {}, ""),
    ],
)
def test_every_mix_that_cannot_be_says_what_is_nearest(
    bundles: list[dict[str, float]], more: dict[str, Any], nearest: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        request_from_bundles(bundles, **({"part": ONE} | more))
    assert nearest in str(refused.value)


def test_the_localities_of_parts_are_one_or_the_other() -> None:
    assert ray_dra.same_gpu() == Locality(gpus=Gpus.SAME)
    assert str(ray_dra.spread_gpus()) == "each part on another GPU"
    assert (ray_dra.same_gpu() & ray_dra.best_connected()).gpus is Gpus.SAME
    with pytest.raises(InvalidRequest, match="on one GPU in one and on different ones in the other"):
        ray_dra.same_gpu() & ray_dra.spread_gpus()


def test_a_request_for_parts_is_for_ray_as_many_gpus() -> None:
    request = request_from_bundles([{"GPU": 1, "CPU": 2}] * 3, part=ONE, product="NVIDIA H100 80GB HBM3")
    assert check_request(request) is request
    assert ray_bundles(request) == [{"GPU": 1.0, "MIG-1g.10gb": 1.0, "CPU": 2.0}] * 3
    assert request.whole_devices == 0
    assert request.device_count == 3


def test_a_bundle_names_its_part_by_rays_resource() -> None:
    """Bundles may so have different parts."""
    bundles = [{"MIG-3g.40gb": 1}, {"GPU": 1, "MIG-1g.10gb": 1, "CPU": 2}, {"GPU": 0, "MIG-1g.10gb": 1}]
    request = request_from_bundles(bundles)
    assert [bundle.part for bundle in request.bundles] == [mig("3g.40gb"), ONE, ONE]
    assert ray_bundles(request) == [
        {"GPU": 1.0, "MIG-3g.40gb": 1.0},
        {"GPU": 1.0, "MIG-1g.10gb": 1.0, "CPU": 2.0},
        {"GPU": 1.0, "MIG-1g.10gb": 1.0},
    ]
    assert request_from_bundles([{"MIG-1g.10gb": 1}], part=ONE).bundles[0].part == ONE
    assert ray_bundles(request_from_bundles([{"GPU": 1}], part=mig(memory="9G"))) == [{"GPU": 1.0}]
    assert load_request("bundles: [{MIG-1g.10gb: 1}]\ncount: 7").bundles[6].part == ONE


def test_a_gangs_file_says_it() -> None:
    said = load_request("bundles: [{GPU: 1}]\ncount: 7\npart: 1g.10gb\nlocality: {gpus: same}")
    assert said.bundles[0].part == ONE
    assert said.locality.gpus is Gpus.SAME
    assert load_request("bundles: [{GPU: 1}]\npart: {memory: 20Gi}").bundles[0].part == mig(memory="20Gi")
