"""A RayCluster on the testbed, installed as its users do, and programs on its head."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_dra.translate.names import ATTEMPT_LABEL, GANG_LABEL
from tests.cluster.binaries import PROJECT, program
from tests.cluster.cluster import Cluster
from tests.cluster.world import Namespace, published_uuids

EXAMPLE = PROJECT / "examples" / "kubernetes"
OURS = ("ComputeDomain", "ResourceClaim")

PRELUDE = """
import json, os, sys, time
import ray, ray_dra
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy
ray.init("ray_dra://kubernetes", log_to_driver=False, logging_level="ERROR")
def tell(**what):
    print("TOLD", json.dumps(what), flush=True)
def planned(gang):
    return [[grant.uuid for grant in placed.grants] for placed in gang.allocation.bundles]
@ray.remote(num_gpus=4, num_cpus=0)
def rank():
    import pynvml
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return {"pod": os.uname().nodename, "nvml": [pynvml.nvmlDeviceGetUUID(h) for h in handles],
            "seen": [device.uuid for device in ray_dra.get_devices()]}
def ranks(gang, count=2):
    at = [Strategy(gang.placement_group, bundle) for bundle in range(count)]
    return ray.get([rank.options(scheduling_strategy=each).remote() for each in at], timeout=100)
def hold():
    "Until the test lets go."
    while not os.path.exists("/tmp/go"):
        time.sleep(0.1)
    os.remove("/tmp/go")
def racks(count, **more):
    return ray_dra.placement_group([{"GPU": 4}] * count, product="NVIDIA GB200",
                                   locality=ray_dra.same_clique(), **more)
"""
LASTING_RANKS = """
@ray.remote(num_gpus=4, num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Rank:
    def about(self):
        import pynvml
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return {"pod": os.uname().nodename, "pid": os.getpid(), "raylet": ray.get_runtime_context().get_node_id(),
                "nvml": [pynvml.nvmlDeviceGetUUID(h) for h in handles],
                "seen": [device.uuid for device in ray_dra.get_devices()]}
def lasting_ranks(gang, count=2):
    at = [Strategy(gang.placement_group, bundle) for bundle in range(count)]
    return [Rank.options(scheduling_strategy=each).remote() for each in at]
def about(made):
    return ray.get([each.about.remote() for each in made], timeout=100)
"""  # actors that Ray makes anew, in their bundle


class Head:
    """A RayCluster's head pod, and programs in it."""

    def __init__(self, namespace: Namespace, raycluster: str = "gangs") -> None:
        self.namespace, self.cluster, self.api = namespace, namespace.cluster, namespace.api
        self.raycluster = raycluster
        self.running: list[subprocess.Popen[str]] = []

    @property
    def pod(self) -> str:
        labels = f"ray.io/cluster={self.raycluster},ray.io/node-type=head"
        pods = self.api.items("Pod", self.namespace.name, labels=labels)
        alive = [p for p in pods if not p["metadata"].get("deletionTimestamp")]
        return str(alive[0]["metadata"]["name"]) if alive else ""

    def ready(self) -> bool:
        found = self.api.find("Pod", self.pod, self.namespace.name) if self.pod else None
        conditions = (found or {}).get("status", {}).get("conditions", ())
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def start(self, program_text: str, prelude: str = PRELUDE) -> subprocess.Popen[str]:
        """A Ray program on the head; what it tells is read by `told`."""
        command = [program("kubectl"), f"--kubeconfig={self.cluster.kubeconfig}", "exec", "-n", self.namespace.name]
        command += [self.pod, "-c", "ray-head", "--", "python3", "-u", "-c", prelude + program_text]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.running.append(process)
        return process

    def run(self, program_text: str) -> list[dict[str, Any]]:
        """Everything that a program told until it ended."""
        process = self.start(program_text)
        printed, _ = process.communicate(timeout=250)
        assert process.returncode == 0, printed
        return [json.loads(line.split(" ", 1)[1]) for line in printed.splitlines() if line.startswith("TOLD ")]

    def group_by_hand(self, name: str, template: str, workers: int = 2) -> dict[str, Any]:
        """A worker group as a person would add it: copies of the example's workers, each with a claim of a template."""
        cluster = self.api.get("RayCluster", "gangs", self.namespace.name)
        group: dict[str, Any] = cluster["spec"]["workerGroupSpecs"][0]
        spec = group["template"]["spec"]
        spec["resourceClaims"] = [{"name": "gpus", "resourceClaimTemplateName": template}]
        spec["containers"][0]["resources"]["claims"] = [{"name": "gpus"}]
        count = {"replicas": workers, "minReplicas": workers, "maxReplicas": workers}
        return {**group, "groupName": name, **count, "rayStartParams": {"num-gpus": "4"}}

    def kill_coordinator(self) -> None:
        """kill -9; Ray starts it again."""
        self._do("ps -eo pid,args | awk '/ray::CoordinatorActor/ && !/awk/ {print $1}' | xargs -r kill -9")

    def let_go(self) -> None:
        """A program that is in `hold()` goes on."""
        self._do("touch /tmp/go")

    def _do(self, command: str) -> None:
        at = ("-n", self.namespace.name)
        self.cluster.kubectl("exec", *at, self.pod, "-c", "ray-head", "--", "sh", "-c", command)

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()

    def uninstall(self) -> None:
        """For good: with what of the installation is not in the namespace, and so does not go with it."""
        self.close()
        self.cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-k", str(installation(self.namespace)))

    def left(self) -> list[str]:
        """Objects of gangs that are there: pods, claims, ComputeDomains."""
        at = self.namespace.name
        found: list[str] = []
        for kind in (*OURS, "Pod"):
            found += [f"{kind} {t['metadata']['name']}" for t in self.api.items(kind, at, labels=ATTEMPT_LABEL)]
        return found

    def wait_nothing_left(self, seconds: float = 60) -> None:
        self.cluster.wait(lambda: not self.left(), seconds, f"nothing to be left: {self.left()}")


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next thing that a program tells."""
    printed = []
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("TOLD "):
            return dict(json.loads(line.split(" ", 1)[1]))
        printed.append(line)
    raise AssertionError("the program ended:\n" + "".join(printed[-30:]))


def claimed(head: Head, gang: str) -> dict[str, list[str]]:
    """Pod -> UUIDs that Kubernetes allocated to it, for a gang."""
    known = published_uuids(head.api)
    found = {}
    for claim in head.api.items("ResourceClaim", head.namespace.name, labels=f"{GANG_LABEL}={gang}"):
        results = claim["status"]["allocation"]["devices"]["results"]
        uuids = [known[r["pool"], r["device"]] for r in results if r["driver"] == "gpu.nvidia.com"]
        if uuids:
            found[claim["status"]["reservedFor"][0]["name"]] = sorted(uuids)
    return found


def when(cluster: Cluster, condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Do something at the moment a condition holds, beside what the test does."""

    def watch() -> None:
        cluster.wait(condition, 120, "the moment")
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def installation(namespace: Namespace, *components: str) -> Path:
    return installation_in(namespace.cluster, namespace.name, *components)


def installation_in(cluster: Cluster, namespace: str, *components: str) -> Path:
    """A folder for `kubectl apply -k`: kube/kustomization.yaml for this namespace, as its users copy and change it."""
    folder = cluster.run / "installations" / namespace
    folder.mkdir(parents=True, exist_ok=True)
    way = os.path.relpath(PROJECT / "kube", folder)
    text = (PROJECT / "kube" / "kustomization.yaml").read_text()
    changes = {
        "namespace: ray\n": f"namespace: {namespace}\n",
        "  - base\n": f"  - {way}/base\n",
        "components: []": f"components: {json.dumps([f'{way}/{name}' for name in components])}",
    }
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "kustomization.yaml").write_text(text)
    return folder


def install(namespace: Namespace) -> Head:
    """The roles, and the example's RayCluster with its head ready."""
    cluster = namespace.cluster
    cluster.kubectl("apply", "-k", str(installation(namespace)))
    cluster.kubectl("apply", "-n", namespace.name, "-k", str(EXAMPLE))
    made = Head(namespace)
    cluster.wait(made.ready, 120, "the head to be ready")
    return made


class Heads:
    """One RayCluster for many tests: a head takes half a minute to come and to go.

    Whether a test left it as it found it is looked at after the test, so that no test has to say so; one that did not
    (or that failed) costs the next test a new RayCluster. Pods that are on their way out are waited for.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._kept: Head | None = None
        self._found: dict[str, object] = {}

    def lend(self) -> Head:
        if self._kept is None:
            self._kept = install(Namespace(self.cluster, f"t-{uuid.uuid4().hex[:8]}"))
            self._found = self._state(self._kept)
        return self._kept

    def take_back(self, head: Head) -> None:
        head.close()
        deadline = time.monotonic() + 20
        while (state := self._state(head)) != self._found or not head.ready():
            if state["spec"] != self._found["spec"] or time.monotonic() > deadline:
                return self.end()
            time.sleep(0.1)

    def end(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.uninstall()
            kept.namespace.end()

    def _state(self, head: Head) -> dict[str, object]:
        """What a test may not change: the RayCluster as it was written, and the names of what is in the namespace."""
        at = head.namespace.name
        cluster = head.api.find("RayCluster", "gangs", at)
        kinds = ("RoleBinding", "ServiceAccount", "ConfigMap", *OURS)
        names = {kind: sorted(t["metadata"]["name"] for t in head.api.items(kind, at)) for kind in kinds}
        pods = sorted(p["metadata"].get("labels", {}).get("ray.io/node-type", "") for p in head.api.items("Pod", at))
        return {"spec": cluster and cluster["spec"], "pods": pods, **names}
