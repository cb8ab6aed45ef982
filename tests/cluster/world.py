"""What the cluster's tests say often: pods with claims, what they see, what is taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_dra.adapters.kube_answers import Object
from ray_dra.adapters.kubernetes import KubernetesApi
from tests.cluster.cluster import Cluster
from tests.cluster.image import image_name

Account = Callable[..., KubernetesApi]  # by its name, its namespace, and the pod whose token it has

# Prints what NVML shows, and stays.
SEE = """
import json, os, pynvml, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
def each(count, handle):
    found = []
    for i in range(count):
        try:
            found.append(handle(i))
        except pynvml.NVMLError:
            pass
    return found
try:
    pynvml.nvmlInit()
    gpus = each(pynvml.nvmlDeviceGetCount(), pynvml.nvmlDeviceGetHandleByIndex)
except pynvml.NVMLError:
    gpus = []  # no claim brought the library
migs = [mig for gpu in gpus for mig in each(
    pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu), lambda i: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, i))]
channels = "/dev/nvidia-caps-imex-channels"
print(json.dumps({
    "gpus": [pynvml.nvmlDeviceGetUUID(gpu) for gpu in gpus],
    "migs": [pynvml.nvmlDeviceGetUUID(mig) for mig in migs],
    "channels": sorted(os.listdir(channels)) if os.path.isdir(channels) else [],
    "env": {k: v for k, v in os.environ.items() if k.startswith(("NVIDIA_", "CUDA_"))},
}), flush=True)
signal.pause()
"""
# What Pod Security's level `restricted` asks of a pod and of each of its containers.
POD_CONTEXT = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_CONTEXT = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
WAIT = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]


def request(
    device_class: str = "gpu.nvidia.com", count: int = 1, name: str = "gpus", cel: Sequence[str] = ()
) -> dict[str, Any]:
    exactly: dict[str, Any] = {"deviceClassName": device_class, "allocationMode": "ExactCount", "count": count}
    if cel:
        exactly["selectors"] = [{"cel": {"expression": expression}} for expression in cel]
    return {"name": name, "exactly": exactly}


def opaque(parameters: Mapping[str, Any], *, driver: str = "gpu.nvidia.com") -> dict[str, Any]:
    return {"opaque": {"driver": driver, "parameters": {"apiVersion": "resource.nvidia.com/v1beta1", **parameters}}}


def outside(cluster: Cluster, kubeconfig: Path, folder: Path) -> Path:
    """An account's kubeconfig names the server as seen within the cluster; one that names it as seen from here."""
    config = json.loads(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = cluster.api.server
    (folder / kubeconfig.name).write_text(json.dumps(config))
    return folder / kubeconfig.name


class Namespace:
    """A namespace on the cluster, and what one does in it. Its pods are those that Pod Security calls restricted."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.api: KubernetesApi = cluster.api
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
        # Before that, admission refuses every pod.
        cluster.wait(lambda: self.api.find("ServiceAccount", "default", name) is not None, 30, f"{name}'s account")

    def claim(self, name: str, *requests: Mapping[str, Any], config: Sequence[Mapping[str, Any]] = ()) -> Object:
        devices: dict[str, Any] = {"requests": [dict(r) for r in requests] or [request()]}
        if config:
            devices["config"] = [dict(c) for c in config]
        thing = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": name},
            "spec": {"devices": devices},
        }
        return self.api.create(thing, self.name)

    def pod(
        self,
        name: str,
        *claims: str,
        templates: Sequence[str] = (),
        command: Sequence[str] = ("python3", "-c", SEE),
        node: str | None = None,
    ) -> Object:
        """A pod that holds these claims; on `node`, by affinity, so that the scheduler still allocates."""
        named = [{"name": f"c{i}", "resourceClaimName": claim} for i, claim in enumerate(claims)]
        named += [{"name": f"t{i}", "resourceClaimTemplateName": each} for i, each in enumerate(templates)]
        container: dict[str, Any] = {
            "name": "main",
            "image": image_name(),
            "imagePullPolicy": "IfNotPresent",
            "securityContext": CONTAINER_CONTEXT,
            "command": list(command),
            "resources": {"claims": [{"name": each["name"]} for each in named]},
        }
        spec: dict[str, Any] = {
            "containers": [container],
            "securityContext": POD_CONTEXT,
            "resourceClaims": named,
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": False,
        }
        if node is not None:
            field = {"key": "metadata.name", "operator": "In", "values": [node]}
            terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
            spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
        thing = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        return self.api.create(thing, self.name)

    def running(self, name: str, seconds: float = 60) -> Object:
        self.cluster.wait(lambda: self.phase(name) == "Running", seconds, f"pod {name} to run")
        return self.api.get("Pod", name, self.name)

    def phase(self, name: str) -> str:
        found = self.api.find("Pod", name, self.name)
        return "gone" if found is None else str(found["status"].get("phase"))

    def seen(self, name: str, seconds: float = 60) -> dict[str, Any]:
        """What the pod's container sees of the hardware (the program SEE)."""
        self.running(name, seconds)
        text: list[str] = []

        def printed() -> bool:
            text[:] = [self.api.raw(f"/api/v1/namespaces/{self.name}/pods/{name}/log")]
            return text[0].endswith("}\n")

        self.cluster.wait(printed, seconds, f"pod {name} to print")
        return dict(json.loads(text[0].splitlines()[-1]))

    def devices(self, claim: str) -> list[tuple[str, str]]:
        """(node, device) of an allocated claim."""
        found = self.api.get("ResourceClaim", claim, self.name)
        allocation = found.get("status", {}).get("allocation") or {}
        return [(r["pool"], r["device"]) for r in allocation.get("devices", {}).get("results", ())]

    def uuids(self, claim: str) -> set[str]:
        """The GPUs' UUIDs of an allocated claim, from the slices."""
        known = published_uuids(self.api)
        return {known[device] for device in self.devices(claim)}

    def events(self, about: str) -> list[str]:
        """`reason: message` of the events about an object, by name."""
        found = self.api.items("Event", self.name, fields=f"involvedObject.name={about}")
        return [f"{event['reason']}: {event.get('message', '')}" for event in found]

    def delete(self, kind: str, name: str, grace: int | None = None) -> None:
        self.api.delete(kind, name, self.name, grace=grace)

    def end(self) -> None:
        """Until no pod and no claim is left; the rest of the namespace goes in the background.

        Kubernetes begins five seconds after the namespace was deleted. From then on nobody can make anything in it, so
        that here no pod and no claim is missed.
        """
        self.api.delete("Namespace", self.name)

        def held() -> list[tuple[str, str]]:
            kinds = ("Pod", "ResourceClaim")
            return [(kind, thing["metadata"]["name"]) for kind in kinds for thing in self.api.items(kind, self.name)]

        for kind, name in held():
            self.delete(kind, name, grace=2 if kind == "Pod" else None)  # Ray on a head waits for programs, else

        def free() -> bool:
            return not held()

        self.cluster.wait(free, 120, f"namespace {self.name} to be empty")


def published_uuids(api: KubernetesApi) -> dict[tuple[str, str], str]:
    """UUID of each published device that has one, by (pool, device)."""
    return {
        (s["spec"]["pool"]["name"], device["name"]): device["attributes"]["uuid"]["string"]
        for s in api.items("ResourceSlice")
        for device in s["spec"].get("devices", ())
        if "uuid" in device.get("attributes", {})
    }


def prepared(cluster: Cluster, node: str, driver: str = "gpu.nvidia.com") -> dict[str, set[str]]:
    """What a node's driver has readied, by the claim's uid: read from its checkpoint, as a restart would."""
    file = cluster.nodes[node].folder / "lib" / "ray-dra-simulated" / driver / "checkpoint.json"
    if not file.exists():
        return {}
    claims = json.loads(file.read_text())["claims"]
    return {uid: {d["device"] for d in entry["devices"] if not d.get("admin")} for uid, entry in claims.items()}


def prepared_twice(cluster: Cluster) -> set[tuple[str, str]]:
    """(node, device) that are readied for two claims: the invariant is that there are none."""
    twice = set()
    for node in cluster.nodes:
        seen: set[str] = set()
        for devices in prepared(cluster, node).values():
            twice |= {(node, device) for device in devices & seen}
            seen |= devices
    return twice
