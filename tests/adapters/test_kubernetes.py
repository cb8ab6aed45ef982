"""The client: what an API server's answers become."""

from __future__ import annotations

import json

import pytest

from ray_dra.adapters.kube_answers import error_of
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import ApiUnavailable, KubernetesError, NotAllowed, OverQuota, Rejected
from tests.adapters.servers import ConfigMapServer


def test_an_answer_without_retry_after_is_an_error_that_says_so(server: ConfigMapServer, api: KubernetesApi) -> None:
    server.refuse = [(500, {})]
    with pytest.raises(ApiUnavailable, match="cannot answer now"):
        api.items("ConfigMap", "n")


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        (
            'pods is forbidden: User "a" cannot create resource "pods" in API group "" in the namespace "n"',
            NotAllowed,
            "",
        ),
        (
            "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'ray-dra-pods.n' with binding 'ray-dra-pods.n' denied"
            " request: the account ray-dra makes gangs' workers only",
            NotAllowed,
            "",
        ),
        ("", NotAllowed, ""),
        (
            'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3',
            OverQuota,
            "Quota",
        ),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', Rejected, "Security"),
        ('pods "x" is forbidden: maximum cpu usage per Container is 1, but limit is 4', Rejected, "LimitRange"),
        ('pods "x" is forbidden: memory max limit to request ratio per Pod is 2, but ...', Rejected, "LimitRange"),
        ('admission webhook "v.example.com" denied the request: no', Rejected, "webhook"),
    ],
)
def test_what_is_forbidden_for_another_reason_than_a_missing_role_says_so(
    message: str, kind: type[KubernetesError], said: str
) -> None:
    error = error_of(403, json.dumps({"message": message}).encode(), "POST /api/v1/namespaces/n/pods")
    assert type(error) is kind
    assert said in str(error)
    assert ("roles" in str(error)) == (kind is NotAllowed)
    assert error.status == 403


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            422,
            "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'ray-dra-copies.n' denied request: failed to configure"
            " policy: failed to find resource referenced by paramKind: 'ray.io/v1, Kind=RayCluster'",
        ),
        (403, "paramKind kind `ray.io/v1, Kind=RayCluster` not yet synced to use for admission"),
    ],
)
def test_a_server_whose_policies_cannot_be_asked_yet_is_asked_again(status: int, message: str) -> None:
    """It has just started: a gang whose pod it refuses so is not given up."""
    error = error_of(status, json.dumps({"message": message}).encode(), "POST /api/v1/namespaces/n/pods")
    assert type(error) is ApiUnavailable
