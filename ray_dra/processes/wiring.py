"""What the coordinator's process is made of: the store and the adapters of Ray and Kubernetes, put together here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import ray

from ray_dra.adapters.ray import KvStore, RayAdapter, cluster_id
from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.ports.kubernetes import Kube
from ray_dra.ports.store import Store
from ray_dra.processes.address import Kubernetes


def store_here() -> Store:
    return KvStore()


def coordinator_on(store: Store, kubernetes: Kubernetes | None, changed: Callable[[], object]) -> Coordinator:
    """`changed` is called, from any thread, when Kubernetes has changed. Without `kubernetes`, gangs lie on the raylets
    that are there."""
    return Coordinator(store, RayAdapter(), time.monotonic, kube_of(kubernetes, changed))


def kube_of(target: Kubernetes | None, changed: Callable[[], object]) -> Kube | None:
    """The Kubernetes adapter, or None without Kubernetes; imported only when needed."""
    if target is None:
        return None
    from ray_dra.adapters.kube_watch import SYNC_SECONDS, KubeAdapter
    from ray_dra.adapters.kubernetes import KubernetesApi

    holder = f"ray-{cluster_id()}"  # the same when Ray starts the coordinator again
    # Ray gives up an actor whose start fails. The first program is told why; a restarted coordinator has gangs.
    again = ray.get_runtime_context().was_current_actor_reconstructed
    patience = math.inf if again else SYNC_SECONDS
    api = KubernetesApi()
    return KubeAdapter(api, target.namespace, target.raycluster, holder=holder, changed=changed, patience=patience)
