"""One embedded cluster for all modules of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_dra.simulated.cluster import LocalCluster
from tests.e2e.conftest import connected


@pytest.fixture(scope="package")
def cluster() -> Iterator[LocalCluster]:
    with connected() as found:
        yield found
