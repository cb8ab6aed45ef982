"""A minute of random kills on an embedded cluster of its own; soak.py has the longer run."""

from __future__ import annotations

import pytest

from .soak import Soak

pytestmark = pytest.mark.ray


@pytest.mark.timeout(1200)  # only a hang: what waits inside gives up before
def test_a_minute_of_random_kills() -> None:
    found = Soak(seed=1, every=2.5).run(60)
    print(found)
    assert found.ready
    assert not found.wrong, str(found)
