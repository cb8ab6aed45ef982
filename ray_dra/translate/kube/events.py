"""Kubernetes events about gangs, on their RayCluster. Pure."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any

from ray_dra.ports.kubernetes import Object

MOST = 1024  # bytes of an event's message that the API takes


def event_about(thing: Object, reason: str, message: str, *, warning: bool = False) -> dict[str, Any]:
    """`reason` in one CamelCase word, as Kubernetes' own."""
    meta = thing["metadata"]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{uuid.uuid4().hex[:16]}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": thing.get("apiVersion", ""),
            "kind": thing.get("kind", ""),
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta.get("uid", ""),
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
