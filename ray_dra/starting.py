"""Starts the coordinator: one detached actor on the head node, which Ray starts again wherever it dies."""

from __future__ import annotations

from typing import Any

import ray

from ray_dra.actors import CoordinatorActor
from ray_dra.adapters.ray import HEAD
from ray_dra.agents import NAME, NAMESPACE, our_environment
from ray_dra.settings import Kubernetes
from ray_dra.translate.labels import RAY_NODE_ID


def start_coordinator(kubernetes: Kubernetes | None = None) -> Any:
    """The cluster's coordinator; started on the head node by whoever comes first.

    Args:
        kubernetes: the RayCluster to which it adds workers; None: gangs lie on the raylets that are there.
    """
    head = next((n["NodeID"] for n in ray.nodes() if n["Alive"] and HEAD in n["Resources"]), None)
    options: dict[str, Any] = {} if head is None else {"label_selector": {RAY_NODE_ID: head}}
    return (
        ray.remote(CoordinatorActor)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            **options,
            **our_environment(),
        )
        .remote(kubernetes)
    )
