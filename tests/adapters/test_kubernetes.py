"""The client: what an API server's answers become."""

from __future__ import annotations

import pytest

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import ApiUnavailable
from tests.adapters.servers import ConfigMapServer


def test_an_answer_without_retry_after_is_an_error_that_says_so(server: ConfigMapServer, api: KubernetesApi) -> None:
    server.refuse = [(500, {})]
    with pytest.raises(ApiUnavailable, match="cannot answer now"):
        api.items("ConfigMap", "n")
