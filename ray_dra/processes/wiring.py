"""What the coordinator's process is made of: the store, the adapters of Ray and Kubernetes, and its log."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler

import ray

from ray_dra.adapters.otel import traces_of
from ray_dra.adapters.ray import KvStore, RayAdapter, cluster_id, log_folder
from ray_dra.adapters.ray_metrics import RayMetrics
from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.ports.kubernetes import Kube
from ray_dra.ports.metrics import Metrics
from ray_dra.ports.store import Store
from ray_dra.processes.address import Kubernetes
from ray_dra.processes.log_format import formatter
from ray_dra.translate.fault_policy import fault_rules_of
from ray_dra.translate.files.team_queues import queues_of
from ray_dra.translate.levels import levels_of
from ray_dra.translate.names import DEFAULT_ON_FAULT_VARIABLE
from ray_dra.translate.schedule import schedule_of
from ray_dra.translate.settings import discipline_of

LOG_NAME, LOG_BYTES = "ray-dra-coordinator.log", 10 << 20
logger = logging.getLogger("ray_dra")


def store_here() -> Store:
    return KvStore()


def coordinator_on(store: Store, kubernetes: Kubernetes | None, changed: Callable[[], object]) -> Coordinator:
    """`changed` is called, from any thread, when Kubernetes has changed. Without `kubernetes`, gangs lie on the raylets
    that are there."""
    metrics = RayMetrics()
    return Coordinator(
        store,
        RayAdapter(),
        time.monotonic,
        kube_of(kubernetes, changed, metrics),
        metrics=metrics,
        discipline=discipline_of(os.environ),
        on_fault=fault_rules_of(os.environ, DEFAULT_ON_FAULT_VARIABLE),
        queues=queues_of(os.environ),
        schedule=schedule_of(os.environ),
        levels=levels_of(os.environ),
        traces=traces_of(os.environ),
    )


def kube_of(target: Kubernetes | None, changed: Callable[[], object], metrics: Metrics) -> Kube | None:
    """The Kubernetes adapter, or None without Kubernetes; imported only when needed."""
    if target is None:
        return None
    from ray_dra.adapters.kube_watch import SYNC_SECONDS, KubeAdapter
    from ray_dra.adapters.kubernetes import KubernetesApi

    holder = f"ray-{cluster_id()}"  # the same when Ray starts the coordinator again
    # Ray gives up an actor whose start fails. The first program is told why; a restarted coordinator has gangs.
    again = ray.get_runtime_context().was_current_actor_reconstructed
    sync_seconds = math.inf if again else SYNC_SECONDS
    api = KubernetesApi(metrics=metrics)
    return KubeAdapter(
        api,
        target.namespace,
        target.raycluster,
        holder=holder,
        changed=changed,
        sync_seconds=sync_seconds,
        metrics=metrics,
    )


def log_decisions() -> None:
    """Each decision, one a line, beside Ray's own logs (`ray logs ray-dra-coordinator.log`). Programs see warnings."""
    folder = log_folder()
    if folder is None:
        return
    try:
        log = RotatingFileHandler(folder / LOG_NAME, maxBytes=LOG_BYTES, backupCount=1)
    except OSError as error:
        logger.warning("decisions are not logged: %s", error)
        return
    log.setFormatter(formatter(os.environ))
    warnings = logging.StreamHandler()
    warnings.setLevel(logging.WARNING)
    logger.handlers = [log, warnings]
    logger.propagate = False
    logger.setLevel(logging.INFO)
