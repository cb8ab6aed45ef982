"""Kubernetes events about gangs, on their RayCluster. Pure."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any

from ray_dra.ports.kube_objects import RayCluster
from ray_dra.translate.names import RAY_API

MOST = 1024  # bytes of an event's message that the API takes


def event_about(cluster: RayCluster, reason: str, message: str, *, warning: bool = False) -> dict[str, Any]:
    """`reason` in one CamelCase word, as Kubernetes' own."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{cluster.name}.{uuid.uuid4().hex[:16]}", "namespace": cluster.namespace},
        "involvedObject": {
            "apiVersion": RAY_API,
            "kind": "RayCluster",
            "name": cluster.name,
            "namespace": cluster.namespace,
            "uid": cluster.uid,
        },
        "reason": reason,
        "message": message.encode(errors="replace")[:MOST].decode(errors="ignore"),
        "type": "Warning" if warning else "Normal",
        "source": {"component": "ray-dra"},
        "reportingComponent": "ray-dra",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
