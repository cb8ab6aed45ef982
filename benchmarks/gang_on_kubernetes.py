"""A gang's workers on a real control plane with KubeRay's operator, beside the same pods and claims made by hand.

On paper nodes: etcd, API server, controller manager, scheduler and operator run here, pods are bound and never start.
Ours is the coordinator's own code (plan, objects, gates, reconcile) over its real adapter, from the request until every
claim is allocated and every pod bound. Beside each its writes a pod, which the API server counts (but for events and
leases). By hand: a worker group with an unpinned claim template (`kuberay`), bare pods of one container with claims
(`bare`), and bare pods with all that KubeRay gives a worker's pod: init container, probes, environment, volumes
(`alike`). All in turns in the same run, each on a free cluster; medians.
"""

from __future__ import annotations

import copy
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from figures import parser, write

sys.path.insert(0, str(Path(__file__).parents[1]))
from ray_dra.adapters.kube_watch import KubeAdapter
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.mirror import Mirror
from ray_dra.coordinator.aside import Aside
from ray_dra.coordinator.backends.kubernetes.backend import KubernetesBackend
from ray_dra.coordinator.backends.kubernetes.machines import Machines
from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.coordinator.pace import LEAST_SECONDS, LOOK_SECONDS, pause
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.imex import NO_LIMITS
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.simulated.fakes import MemoryStore
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import Options
from tests.cluster.paper import add_paper_nodes

NAMESPACE, RAYCLUSTER, TEMPLATE = "bench", "gangs", "by-hand"
CASES = ("ray-dra", "kuberay", "bare", "alike")
POD_FIELDS = ("initContainers", "containers", "volumes", "resourceClaims", "restartPolicy")
WRITERS = 16
CONTAINER = {"name": "ray-worker", "image": "none", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--pods", type=int, nargs="+", default=[18, 512])
    arguments.add_argument("--limits", nargs="+", default=["default", "raised"], choices=["default", "raised"])
    options = arguments.parse_args()
    rows = []
    print(
        f"{'pods':>5} {'nodes':>6} {'limits':>8} {'ray-dra':>9} {'kuberay':>9} {'bare':>9} {'alike':>9}"
        "  of kuberay  of bare  of alike  freed"
    )
    for pods in options.pods:
        nodes, rounds = (18, options.rounds) if pods <= 18 else (540, 1)
        for limits in options.limits:
            raised = Options(grace=3600, scheduler_qps=2000, controllers_qps=500)
            cluster = Cluster.up(
                f"bench-{os.getpid()}",
                nodes=(),
                real=False,
                options=raised if limits == "raised" else Options(grace=3600),
                say=lambda text: None,
            )
            try:
                bench = Bench(cluster, pods, nodes)
                took = bench.run(rounds)
            finally:
                cluster.down()
            ours, kuberay, bare, alike = (statistics.median(took[name]) for name in CASES)
            freed = statistics.median(took["freed"])
            print(
                f"{pods:>5} {nodes:>6} {limits:>8} {ours:>7.2f} s {kuberay:>7.2f} s {bare:>7.2f} s {alike:>7.2f} s"
                f"  {ours / kuberay:>10.2f}  {ours / bare:>7.2f}  {ours / alike:>8.2f}  {freed:.1f} s"
                f"  a no {max(bench.refusals):.3f} s",
                flush=True,
            )
            writes = {name: statistics.median(bench.writes[name]) / pods for name in CASES}
            print("      writes a pod:", *(f"{name} {count:.1f}" for name, count in writes.items()), flush=True)
            name = f"gang{pods}"
            rows.append(
                {
                    "pods": pods,
                    "nodes": nodes,
                    "limits": limits,
                    f"{name}_ratio": ours / bare,
                    f"{name}_kuberay_ratio": ours / kuberay,
                    f"{name}_alike_ratio": ours / alike,
                    "refusal_s": max(bench.refusals),
                    "writes": writes,
                    "seconds": {key: [round(value, 3) for value in values] for key, values in took.items()},
                }
            )
    write(options.json, rows)


class Bench:
    def __init__(self, cluster: Cluster, pods: int, nodes: int) -> None:
        self.api: KubernetesApi = cluster.api
        self.pods = pods
        add_paper_nodes(self.api, nodes)
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self.until(lambda: self.api.find("ServiceAccount", "default", NAMESPACE) is not None)
        self.api.create(raycluster(), NAMESPACE)
        self.api.create(template(), NAMESPACE)
        self.writers = ThreadPoolExecutor(WRITERS)
        self.worker: dict[str, Any] = {}  # what KubeRay made of the group's pod template
        self.changed = threading.Event()
        self.kube = KubeAdapter(self.api, NAMESPACE, RAYCLUSTER, changed=self.changed.set)
        self.kube.compute_domains = False  # the channels would need kubelets
        self.seen: Mirror | None = None  # the baselines look by a watch, too: lists would burden them
        self.clock = time.monotonic
        self.writes: dict[str, list[float]] = {name: [] for name in CASES}
        self.refusals: list[float] = []  # seconds for the same gang again, for which there is no room

    def run(self, rounds: int) -> dict[str, list[float]]:
        took: dict[str, list[float]] = {name: [] for name in (*CASES, "freed")}
        cases = dict(zip(CASES, (self.ours, self.by_group, self.by_hand, self.alike), strict=True))
        for number in range(rounds):
            for name, case in cases.items():
                self.seen = None if name == "ray-dra" else Mirror(self.api, "Pod", NAMESPACE)
                if self.seen is not None:
                    self.seen.synced.wait(30)
                before, began = self.written(), self.clock()
                free = case(number)
                took[name].append(self.clock() - began)
                self.writes[name].append(self.written() - before)
                began = self.clock()
                free()
                self.until(self.free)
                if self.seen is not None:
                    self.seen.stop()
                if name == "ray-dra":
                    took["freed"].append(self.clock() - began)
        return took

    def ours(self, number: int) -> Callable[[], None]:
        """The coordinator's own steps, woken by its watches as in the actor."""
        inventory = Inventory(limits=NO_LIMITS)
        store, clock = MemoryStore(), self.clock
        raylets = Nodes(store, inventory, clock, Aside(store))
        workers = KubernetesBackend(self.kube, store, inventory, clock, Machines(inventory, clock), raylets)
        workers.look(())
        request = request_from_bundles([{"GPU": 4}] * self.pods, locality=Locality(segment=1))
        answer = plan(inventory, request)
        assert isinstance(answer, Allocation), answer
        inventory.hold(answer)
        while True:
            self.changed.clear()
            began, worked = time.monotonic(), time.thread_time()
            workers.look([answer])
            progress = workers.make(request, answer, set(), grouped=True)
            assert not progress.failed, progress.failed
            if sum(pod.node is not None for pod in workers.view.pods) == self.pods:
                break
            least = pause(time.monotonic() - began, time.thread_time() - worked)
            time.sleep(least)
            self.changed.wait(LOOK_SECONDS - least)

        began = self.clock()
        workers.look([answer])
        refused = plan(inventory, request_from_bundles([{"GPU": 4}] * self.pods, locality=Locality(segment=1)))
        assert isinstance(refused, Unsatisfiable), refused
        assert refused.shortfalls
        self.refusals.append(self.clock() - began)

        def free() -> None:
            while True:
                workers.look(())
                workers.undo(())
                for pod in workers.view.pods:  # no kubelet ends them
                    if pod.deleting:
                        self.api.delete("Pod", pod.name, NAMESPACE, grace=0)
                if not workers.found:
                    return
                time.sleep(0.05)

        return free

    def by_group(self, number: int) -> Callable[[], None]:
        name = f"hand-{number}"
        group = {**worker_group(name), "replicas": self.pods, "minReplicas": self.pods, "maxReplicas": self.pods}
        group["template"]["spec"]["resourceClaims"] = [{"name": "gpus", "resourceClaimTemplateName": TEMPLATE}]
        group["template"]["spec"]["containers"][0]["resources"]["claims"] = [{"name": "gpus"}]
        path = "/spec/workerGroupSpecs"
        self.api.patch("RayCluster", RAYCLUSTER, [{"op": "add", "path": f"{path}/-", "value": group}], NAMESPACE)
        self.until(lambda: self.bound(self.listed("ray.io/group", name)))
        spec = self.listed("ray.io/group", name)[0]["spec"]
        self.worker = {field: spec[field] for field in POD_FIELDS if field in spec}

        def free() -> None:
            change = [{"op": "add", "path": f"{path}/1/suspend", "value": True}]
            self.api.patch("RayCluster", RAYCLUSTER, change, NAMESPACE)
            while self.listed("ray.io/group", name):
                self.delete_pods("ray.io/group", name)
                time.sleep(0.1)
            self.api.patch("RayCluster", RAYCLUSTER, [{"op": "remove", "path": f"{path}/1"}], NAMESPACE)

        return free

    def by_hand(self, number: int) -> Callable[[], None]:
        claims = [{"name": "gpus", "resourceClaimTemplateName": TEMPLATE}]
        container = {**CONTAINER, "resources": {**CONTAINER["resources"], "claims": [{"name": "gpus"}]}}  # type: ignore[dict-item]
        spec = {"containers": [container], "resourceClaims": claims, "automountServiceAccountToken": False}
        return self.pods_by_hand(f"bare-{number}", spec)

    def alike(self, number: int) -> Callable[[], None]:
        """As the group's pods are, without the operator; `by_group` ran before."""
        return self.pods_by_hand(f"alike-{number}", {**self.worker, "automountServiceAccountToken": False})

    def pods_by_hand(self, name: str, spec: dict[str, Any]) -> Callable[[], None]:
        things = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"{name}-{at}", "labels": {"case": name}},
                "spec": spec,
            }
            for at in range(self.pods)
        ]
        list(self.writers.map(lambda thing: self.api.create(thing, NAMESPACE), things))
        self.until(lambda: self.bound(self.listed("case", name)))
        return lambda: self.delete_pods("case", name)

    def listed(self, label: str, value: str) -> list[Any]:
        assert self.seen is not None
        return [pod for pod in self.seen.items() if pod["metadata"].get("labels", {}).get(label) == value]

    def delete_pods(self, label: str, value: str) -> None:
        names = [pod["metadata"]["name"] for pod in self.listed(label, value)]
        list(self.writers.map(lambda name: self.api.delete("Pod", name, NAMESPACE, grace=0), names))

    def bound(self, pods: Any) -> bool:
        """A pod is bound only after its claim is allocated."""
        return sum(bool(pod["spec"].get("nodeName")) for pod in pods) == self.pods

    def written(self) -> float:
        """Writes that the API server has answered."""
        found = 0.0
        for line in self.api.raw("/metrics").splitlines():
            if line.startswith("apiserver_request_total{"):
                labels, _, count = line.rpartition(" ")
                write = any(f'verb="{verb}"' in labels for verb in ("POST", "PUT", "PATCH", "APPLY", "DELETE"))
                beside = any(f'resource="{kind}"' in labels for kind in ("events", "leases"))
                found += float(count) if write and not beside else 0.0
        return found

    def free(self) -> bool:
        return not self.api.items("ResourceClaim", NAMESPACE)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("the control plane did not get there")
            time.sleep(LEAST_SECONDS)


def worker_group(name: str) -> dict[str, Any]:
    spec = {"containers": [copy.deepcopy(CONTAINER)], "automountServiceAccountToken": False}
    return {
        "groupName": name,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": 0,
        "rayStartParams": {"num-gpus": "4"},
        "template": {"spec": spec},
    }


def raycluster() -> dict[str, Any]:
    head = {"containers": [{"name": "ray-head", "image": "none"}], "nodeSelector": {"no": "where"}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": RAYCLUSTER},
        "spec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": {"rayStartParams": {}, "template": {"spec": head}},
            "workerGroupSpecs": [worker_group("ray-dra")],
        },
    }


def template() -> dict[str, Any]:
    exactly = {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": 4}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": TEMPLATE},
        "spec": {"spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}}},
    }


if __name__ == "__main__":
    main()
