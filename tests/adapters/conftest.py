"""A server that misbehaves as API servers do, a client of it, and nothing that waits long before it tries again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_dra.adapters import kube_watch, lease, mirror
from ray_dra.adapters.kubernetes import KubernetesApi
from tests.adapters.kubeconfig import kubeconfig
from tests.adapters.servers import ConfigMapServer


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, seconds in (
        (mirror, "AGAIN_SECONDS", 0.001),
        (mirror, "MOST_AGAIN_SECONDS", 0.01),
        (kube_watch, "AGAIN_SECONDS", 0.001),
        (lease, "ASK_SECONDS", 0.002),
        (lease, "RENEW_SECONDS", 0.002),
    ):
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def server() -> Iterator[ConfigMapServer]:
    made = ConfigMapServer()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def api(server: ConfigMapServer, tmp_path: Path) -> KubernetesApi:
    return KubernetesApi(kubeconfig(server.http, tmp_path))
