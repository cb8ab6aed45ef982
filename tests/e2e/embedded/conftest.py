"""One embedded cluster for all modules of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_dra.core.model.device import Health
from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster
from ray_dra.translate.names import PREEMPTION_VARIABLE
from tests.e2e.conftest import connected, eventually, health


@pytest.fixture(scope="package")
def cluster() -> Iterator[LocalCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PREEMPTION_VARIABLE, "least_run=0, restart=0")
        with connected() as found:
            yield found


@pytest.fixture
def free(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster with nothing held and every GPU well, before and after: a test that leaves an XID fails itself."""
    for machine in cluster.nodes:
        cluster.machine(machine.name).heal()
    yield cluster
    for status in ask(coordinator().gangs.remote()):
        ask(coordinator().release.remote(status.gang, 20.0), timeout=40)
    eventually(lambda: health() == [Health.OK] * 16, 60)
