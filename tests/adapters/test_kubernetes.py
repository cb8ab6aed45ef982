"""The client: what an API server's answers become."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import ApiUnavailable
from tests.adapters.kubeconfig import kubeconfig
from tests.adapters.servers import ConfigMapServer


@pytest.fixture
def server() -> Iterator[ConfigMapServer]:
    made = ConfigMapServer()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def api(server: ConfigMapServer, tmp_path: Path) -> KubernetesApi:
    return KubernetesApi(kubeconfig(server.http, tmp_path))


def test_an_answer_without_retry_after_is_an_error_that_says_so(server: ConfigMapServer, api: KubernetesApi) -> None:
    server.refuse = [(500, {})]
    with pytest.raises(ApiUnavailable, match="cannot answer now"):
        api.items("ConfigMap", "n")
