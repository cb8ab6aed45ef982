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

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import KubernetesError
from ray_dra.processes.probe_loop import run_agent
from ray_dra.translate.files.readings import reading_from_bytes
from ray_dra.translate.kube.published_links import topology_map
from ray_dra.translate.names import POD_NAME_VARIABLE, POD_NAMESPACE_VARIABLE, POD_NODE_VARIABLE, POD_UID_VARIABLE

AGAIN_SECONDS = 5.0


def main() -> None:
    """Until SIGTERM. NODE_NAME, POD_NAMESPACE, POD_NAME and POD_UID come from the downward API."""
    node, namespace = os.environ[POD_NODE_VARIABLE], os.environ[POD_NAMESPACE_VARIABLE]
    name, uid = os.environ[POD_NAME_VARIABLE], os.environ[POD_UID_VARIABLE]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
    api = KubernetesApi()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    def publish(reading: bytes | None) -> None:
        if reading is None:
            return
        made = topology_map(node, namespace, reading_from_bytes(reading), owner)
        while made is not None and not ended.is_set():
            try:
                api.apply(made, owner="ray-dra-topology", namespace=namespace)
                print(f"published {made['metadata']['name']}", flush=True)
                return
            except KubernetesError as error:
                print(error, file=sys.stderr, flush=True)
                ended.wait(AGAIN_SECONDS)

    run_agent(publish, stopped=ended.is_set)


if __name__ == "__main__":
    main()
