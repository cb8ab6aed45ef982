"""Publishes a node's NVLink topology by NVML, in a DaemonSet (kube/topology-agent).

Run as `python -m ray_dra.processes.topology_daemon`. For boxes whose GPUs are linked in part (bridged pairs, DGX-1):
neither ResourceSlices nor the product's name tell which GPUs have links. The probe is that of the agents on raylets;
what it reads goes into a ConfigMap of the agent's own namespace, which coordinators there read. The ConfigMap
belongs to the agent's pod and goes with it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.prometheus import metrics_served
from ray_dra.errors import KubernetesError
from ray_dra.ports.clock import Clock
from ray_dra.ports.metrics import (
    AGENT_ANSWERED,
    AGENT_GPUS,
    AGENT_INFO,
    AGENT_METRICS,
    AGENT_PUBLISHED,
    AGENT_READINGS,
    Metrics,
)
from ray_dra.processes.probe_loop import run_agent
from ray_dra.translate.files.readings import reading_from_bytes
from ray_dra.translate.kube.published_links import topology_map
from ray_dra.translate.names import (
    POD_NAME_VARIABLE,
    POD_NAMESPACE_VARIABLE,
    POD_NODE_VARIABLE,
    POD_UID_VARIABLE,
    VERSION,
)

AGAIN_SECONDS = 5.0


class Publisher:
    """Writes what the probe reads, and counts it.

    Args:
        owner: the agent's pod, with which the ConfigMap goes.
        apply: writes an object.
        ended: set once the agent is to end; it stops a write that is tried again.
    """

    def __init__(
        self,
        node: str,
        namespace: str,
        owner: dict[str, str],
        apply: Callable[[dict[str, Any]], object],
        metrics: Metrics,
        ended: threading.Event,
        wall: Clock = time.time,
    ) -> None:
        self._node, self._namespace, self._owner = node, namespace, owner
        self._apply, self._metrics, self._ended, self._wall = apply, metrics, ended, wall

    def publish(self, reading: bytes | None) -> None:
        """A reading, or None where nothing has changed."""
        found = reading_from_bytes(reading) if reading is not None else None
        failed = found is not None and found.error is not None
        self._metrics.count(AGENT_READINGS, "failed" if failed else "same" if found is None else "changed")
        if not failed:
            self._metrics.put(AGENT_ANSWERED, self._wall())
        if found is None:
            return
        if not failed:
            self._metrics.put(AGENT_GPUS, len(found.gpus))
        made = topology_map(self._node, self._namespace, found, self._owner)
        while made is not None and not self._ended.is_set():
            try:
                self._apply(made)
                self._metrics.put(AGENT_PUBLISHED, self._wall())
                print(f"published {made['metadata']['name']}", flush=True)
                return
            except KubernetesError as error:
                print(error, file=sys.stderr, flush=True)
                self._ended.wait(AGAIN_SECONDS)


def main() -> None:
    """Until SIGTERM. NODE_NAME, POD_NAMESPACE, POD_NAME and POD_UID come from the downward API."""
    node, namespace = os.environ[POD_NODE_VARIABLE], os.environ[POD_NAMESPACE_VARIABLE]
    name, uid = os.environ[POD_NAME_VARIABLE], os.environ[POD_UID_VARIABLE]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
    metrics = metrics_served(AGENT_METRICS, AGENT_INFO, VERSION)
    api = KubernetesApi(metrics=metrics)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    def apply(made: dict[str, Any]) -> None:
        api.apply(made, owner="ray-dra-topology", namespace=namespace)

    run_agent(Publisher(node, namespace, owner, apply, metrics, ended).publish, stopped=ended.is_set)


if __name__ == "__main__":
    main()
