"""Starts the coordinator: one detached actor on the head node, which Ray starts again wherever it dies."""

from __future__ import annotations

from typing import Any

import ray

from ray_dra.processes.address import Kubernetes
from ray_dra.processes.coordinator_actor import CoordinatorActor
from ray_dra.processes.node_agent import NAME, NAMESPACE, our_environment
from ray_dra.translate.names import HEAD_RESOURCE

TASK_RETRIES = 3  # a call that was under way when the coordinator died is sent again; one that kills it, not for ever
CALLS = 1_000_000  # at a time; what waits is bounded in `waits.py`, so that it never keeps out what works


def start_coordinator(kubernetes: Kubernetes | None = None) -> Any:
    """The cluster's coordinator; started on the head node by whoever comes first.

    Args:
        kubernetes: the RayCluster to which it adds workers; None: gangs lie on the raylets that are there.
    """
    return (
        ray.remote(CoordinatorActor)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            resources={
                HEAD_RESOURCE: 0.001
            },  # the head, whichever raylet it has: one that died comes back by another id
            max_restarts=-1,
            max_task_retries=TASK_RETRIES,
            max_concurrency=CALLS,
            **our_environment(),
        )
        .remote(kubernetes)
    )
