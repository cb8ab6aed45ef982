"""Pods with DRA claims that a real control plane binds a second, on paper nodes, beside the same pods without claims.

A real etcd, API server, controller manager and scheduler on this machine (tests/cluster), no kubelets. Each pod asks
for the 4 GPUs of a whole node. `pinned` names the devices by UUID and the node by affinity, as ray-dra does.
The time runs from the first request to create until the last pod is bound; and for freeing, until no claim is left.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from figures import parser, write

sys.path.insert(0, str(Path(__file__).parents[1]))
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.simulated.profile import SimulatedNode
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import Options
from tests.cluster.paper import add_paper_nodes

NAMESPACE = "bench"
WRITERS = 16
A_TEMPLATE = 128  # nodes whose devices fit one expression of 10 KiB, by 8 characters of each UUID


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--nodes", type=int, nargs="+", default=[500, 2000])
    arguments.add_argument("--pods", type=int, default=256, help="a gang of so many pods, 4 GPUs each")
    options = arguments.parse_args()
    rows = []
    heads = (("nodes", 6), ("limits", 8), ("case", 7), ("bound in", 9), ("pods/s", 7), ("of plain", 8), ("freed in", 9))
    print(*(f"{head:>{width}}" for head, width in heads))
    for nodes in options.nodes:
        for limits in ("default", "raised"):
            with control_plane(nodes, limits) as (api, machines):
                plain = 0.0
                for case in ("plain", "claims", "pinned"):
                    bound, freed = gang(api, machines[: options.pods], case)
                    rate = options.pods / bound
                    plain = plain or rate
                    print(
                        f"{nodes:>6} {limits:>8} {case:>7} {bound:>7.1f} s {rate:>7.0f} {rate / plain:>8.2f}"
                        f" {freed:>7.1f} s",
                        flush=True,
                    )
                    row = {"nodes": nodes, "pods": options.pods, "limits": limits, "case": case, "bound_s": bound}
                    rows.append({**row, "pods_per_s": rate, "of_plain": rate / plain, "freed_s": freed})
    write(options.json, rows)


@contextmanager
def control_plane(nodes: int, limits: str) -> Iterator[tuple[KubernetesApi, list[SimulatedNode]]]:
    """A fresh one with so many paper nodes. `raised`: scheduler 2,000 and controllers 500 requests a second."""
    raised = Options(grace=3600, scheduler_qps=2000, controllers_qps=500)
    cluster = Cluster.up(
        f"bench-{os.getpid()}",
        nodes=(),
        operator=False,
        real=False,
        options=raised if limits == "raised" else Options(grace=3600),
        say=lambda text: None,
    )
    try:
        machines = add_paper_nodes(cluster.api, nodes)
        cluster.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        wait(lambda: cluster.api.find("ServiceAccount", "default", NAMESPACE) is not None)
        yield cluster.api, machines
    finally:
        cluster.down()


def gang(api: KubernetesApi, machines: list[SimulatedNode], case: str) -> tuple[float, float]:
    """Seconds until all pods are bound, and until all is free again."""
    for at in range(0, len(machines), A_TEMPLATE):
        api.create(template(at // A_TEMPLATE, machines[at : at + A_TEMPLATE] if case == "pinned" else []), NAMESPACE)
    pods = [pod(at, case, machine) for at, machine in enumerate(machines)]
    began = time.perf_counter()
    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(lambda each: api.create(each, NAMESPACE), pods))
        wait(lambda: sum("nodeName" in each["spec"] for each in api.items("Pod", NAMESPACE)) == len(pods))
        bound = time.perf_counter() - began
        began = time.perf_counter()
        list(writers.map(lambda each: api.delete("Pod", each["metadata"]["name"], NAMESPACE, grace=0), pods))
        wait(lambda: not api.items("ResourceClaim", NAMESPACE) and not api.items("Pod", NAMESPACE))
        freed = time.perf_counter() - began
    for each in api.items("ResourceClaimTemplate", NAMESPACE):
        api.delete("ResourceClaimTemplate", each["metadata"]["name"], NAMESPACE)
    return bound, freed


def template(number: int, machines: list[SimulatedNode]) -> dict[str, Any]:
    """A claim of 4 GPUs; with machines, of exactly their devices."""
    exactly: dict[str, Any] = {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": 4}
    parts = [machine.uuid(gpu)[4:12] for machine in machines for gpu in range(4)]
    if parts:
        listed = ",".join(f'"{part}"' for part in parts)
        expression = f'device.attributes["gpu.nvidia.com"].uuid.substring(4,12) in [{listed}]'
        exactly["selectors"] = [{"cel": {"expression": expression}}]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": f"gpus-{number}"},
        "spec": {"spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}}},
    }


def pod(at: int, case: str, machine: SimulatedNode) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "8"}}}
    spec: dict[str, Any] = {"containers": [container], "automountServiceAccountToken": False}
    if case != "plain":
        container["resources"]["claims"] = [{"name": "gpus"}]
        spec["resourceClaims"] = [{"name": "gpus", "resourceClaimTemplateName": f"gpus-{at // A_TEMPLATE}"}]
    if case == "pinned":
        field = {"key": "metadata.name", "operator": "In", "values": [machine.name]}
        required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{case}-{at}"}, "spec": spec}


def wait(condition: Any, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the control plane did not get there")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
