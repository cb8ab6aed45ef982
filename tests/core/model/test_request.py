"""What a request may say; the rest is refused with its place."""

from __future__ import annotations

import pytest

from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.errors import InvalidRequest
from ray_dra.translate.ray.bundles import bundle_from_resources


def test_a_share_is_of_one_device_and_less_than_whole() -> None:
    for count, share in ((2, 500), (1, 0), (1, 1000), (1, -3)):
        with pytest.raises(InvalidRequest):
            GangRequest("g", (Bundle((DeviceRequest(count, share=share),)),))


@pytest.mark.parametrize(
    "bad", [{}, {"GPU": 0}, {"GPU": -2}, {"GPU": 0.5}, {"GPU": float("nan")}, {"GPU": "1"}, {"CPU": 0}]
)
def test_bad_bundles(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        bundle_from_resources(bad, index=3)
    assert "bundles[3]" in caught.value.place
