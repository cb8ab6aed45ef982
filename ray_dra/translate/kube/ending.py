"""When a RayCluster, and so every gang on it, is about to end, as it and its RayService say. Pure.

A RayService's upgrade: KubeRay makes a second RayCluster, `pending` until it serves; then that one is `active`, and the
first, which the status names no more, is deleted after `rayClusterDeletionDelaySeconds` (rayservice_controller.go of
1.6.2, cleanUpRayClusterInstance).
"""

from __future__ import annotations

from typing import NamedTuple

from ray_dra.ports.kube_objects import RayService
from ray_dra.ports.kubernetes import KubeView
from ray_dra.translate.kube.shapes import Raw, mapping, meta_of, text, whole

DELAY_SECONDS = 60  # KubeRay's, where the RayService says nothing


class ClusterEnding(NamedTuple):
    """Why the RayCluster will end, and in how many seconds at the earliest; None: nobody knows."""

    reason: str
    within: float | None


def read_rayservice(thing: Raw) -> RayService:
    spec, status = mapping(thing["spec"]), mapping(thing.get("status") or {})
    said, delay = meta_of(thing), spec.get("rayClusterDeletionDelaySeconds")
    return RayService(
        said.name,
        active=_raycluster(status, "activeServiceStatus"),
        pending=_raycluster(status, "pendingServiceStatus"),
        delay=DELAY_SECONDS if delay is None else whole(delay),
        deleting=said.deleting,
    )


def _raycluster(status: Raw, which: str) -> str:
    return text(mapping(status.get(which) or {}).get("rayClusterName") or "")


def ending_of(view: KubeView, raycluster: str) -> ClusterEnding | None:
    """Of the RayCluster of this name; None where nothing says that it will end."""
    cluster, service = view.raycluster, view.rayservice
    if view.raycluster_gone:
        return ClusterEnding(f"RayCluster {raycluster} was deleted", 0.0)
    if cluster is not None and cluster.deleting:
        return ClusterEnding(f"RayCluster {raycluster} is being deleted", 0.0)
    if cluster is not None and cluster.suspended:
        return ClusterEnding(f"RayCluster {raycluster} is suspended", 0.0)
    if service is None:
        return None
    if service.deleting:
        return ClusterEnding(f"RayService {service.name} is being deleted", 0.0)
    named = [name for name in (service.active, service.pending) if name]
    if named and raycluster not in named:
        return ClusterEnding(f"RayService {service.name} has gone over to RayCluster {named[0]}", service.delay)
    if service.pending and service.pending != raycluster:
        upgrade = f"RayService {service.name} is being upgraded"
        return ClusterEnding(f"{upgrade}, and goes over to RayCluster {service.pending} once that serves", None)
    return None
