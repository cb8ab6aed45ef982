"""One cluster for all tests of this folder, a namespace for each; both leave nothing."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_dra.adapters.kubernetes import KubernetesApi
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, Heads
from tests.cluster.world import Account, Namespace, outside


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def missing_for_nodes() -> str:
    """Why there can be no real nodes here; empty where they can."""
    if os.geteuid() != 0:
        return "real nodes need root"
    needed = ("runc", "ip", "unshare", "nsenter", "setpriv", "debootstrap")
    absent = [name for name in needed if shutil.which(name) is None]
    return f"real nodes need {', '.join(absent)}: sh tests/cluster/apt.sh" if absent else ""


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """Six real nodes, default feature gates."""
    if missing_for_nodes():
        pytest.skip(missing_for_nodes())
    made = Cluster.up(f"tests-{os.getpid()}")
    yield made
    made.down(keep_logs="RAY_DRA_KEEP_LOGS" in os.environ)


@pytest.fixture(scope="package")
def api(cluster: Cluster) -> KubernetesApi:
    return cluster.api


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace of its own, gone afterwards with all that it held; every device is free then."""
    made = Namespace(cluster, f"t-{uuid.uuid4().hex[:8]}")
    yield made
    made.end()


@pytest.fixture(scope="package")
def heads(cluster: Cluster) -> Iterator[Heads]:
    made = Heads(cluster)
    yield made
    made.end()


@pytest.fixture
def head(heads: Heads) -> Iterator[Head]:
    """The example's RayCluster, installed as a user does; the same for all tests that leave it as they found it."""
    lent = heads.lend()
    yield lent
    heads.take_back(lent)


@pytest.fixture
def account(cluster: Cluster, tmp_path: Path) -> Iterator[Account]:
    """The API server as seen by a service account."""
    made: list[KubernetesApi] = []

    def api(name: str, namespace: Namespace, pod: str = "") -> KubernetesApi:
        config = cluster.account_kubeconfig(name, namespace.name, pod=pod)
        made.append(KubernetesApi(str(outside(cluster, config, tmp_path))))
        return made[-1]

    yield api
    for each in made:
        each.close()
