"""`JobSubmissionClient("ray_dra://...")`: where a Ray cluster's jobs are submitted, found by Kubernetes' means.

Ray imports the package that a scheme names and calls `get_job_submission_client_cluster_info`.
"""

from __future__ import annotations

import os
from typing import Any

from ray_dra.errors import InvalidAddress, NotFound
from ray_dra.processes.address import Embedded, Kubernetes, parse_address
from ray_dra.translate.names import (
    CLUSTER_NAME_VARIABLE,
    CLUSTER_NAMESPACE_VARIABLE,
    KUBERAY_CLUSTER_LABEL,
    KUBERAY_NODE_TYPE_LABEL,
)

DASHBOARD_PORT = 8265
_tunnels: dict[tuple[str, str], Any] = {}  # (namespace, RayCluster) -> its tunnel, for this program's life


def get_job_submission_client_cluster_info(
    address: str,
    *,
    create_cluster_if_needed: bool = False,
    cookies: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    headers: dict[str, Any] | None = None,
    **more: Any,
) -> Any:
    """Where jobs go for `ray_dra://<address>`; Ray's ClusterInfo.

    `kubernetes?namespace=NAME&raycluster=NAME` is found by the kubeconfig and reached through the API server (it needs
    get and list of pods, create of pods/portforward); in one of the cluster's own pods it is the head itself.
    `HOST:PORT` is the dashboard's.

    Raises:
        InvalidAddress: an address to which jobs cannot be submitted.
        KubernetesError: there is no such RayCluster, or no way to it.
    """
    from ray.dashboard.modules.dashboard_sdk import ClusterInfo

    target = parse_address(address)
    if isinstance(target, Embedded):
        raise InvalidAddress(
            "An embedded cluster lives within a program; jobs cannot be submitted to it.",
            place="address",
            wanted=f"ray_dra://{address}",
            available="kubernetes?namespace=NAME&raycluster=NAME, or HOST:PORT of a dashboard",
        )
    at = _way_to(target) if isinstance(target, Kubernetes) else target.address
    return ClusterInfo(f"http://{at}", cookies, metadata, headers)


def _way_to(target: Kubernetes) -> str:
    """host:port of the head's dashboard."""
    if os.environ.get(CLUSTER_NAME_VARIABLE) == target.raycluster and (
        os.environ.get(CLUSTER_NAMESPACE_VARIABLE) == target.namespace
    ):
        return f"{target.address.rpartition(':')[0]}:{DASHBOARD_PORT}"
    key = (target.namespace, target.raycluster)
    if key not in _tunnels:
        from ray_dra.adapters.kubernetes import KubernetesApi
        from ray_dra.adapters.tunnel import Tunnel

        api = KubernetesApi()

        def head() -> str:
            return head_pod(api, target.namespace, target.raycluster)

        made = Tunnel(api, target.namespace, head, DASHBOARD_PORT)
        try:
            made.open().close()  # what is missing is said now; later a connection would only break
        except BaseException:
            made.close()
            raise
        _tunnels[key] = made
    return str(_tunnels[key].address)


def close_tunnels() -> None:
    """Close the tunnels that this program opened; its end closes them, too."""
    while _tunnels:
        _tunnels.popitem()[1].close()


def head_pod(api: Any, namespace: str, raycluster: str) -> str:
    """The name of a RayCluster's living head pod.

    Raises:
        NotFound: there is none.
    """
    api.get("RayCluster", raycluster, namespace)
    labels = f"{KUBERAY_CLUSTER_LABEL}={raycluster},{KUBERAY_NODE_TYPE_LABEL}=head"
    pods = api.items("Pod", namespace, labels=labels)
    running = [p for p in pods if p["status"].get("phase") == "Running" and not p["metadata"].get("deletionTimestamp")]
    if not running:
        raise NotFound(
            "The RayCluster's head does not run.",
            place=f"{namespace}/{raycluster}",
            wanted="a head pod that runs",
            available=", ".join(f"{p['metadata']['name']} {p['status'].get('phase')}" for p in pods) or "no head pod",
        )
    return str(running[0]["metadata"]["name"])
