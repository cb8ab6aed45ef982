"""Kueue on the testbed: its CRDs, its webhooks and its manager, as administrator.

Its tests run where the cache has it: `python -m tests.cluster build --kueue`.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
from collections.abc import Mapping
from typing import Any

import yaml

from ray_dra.translate.names import CLUSTER_LABEL
from tests.cluster.binaries import OPTIONAL, folder, program
from tests.cluster.cluster import Cluster
from tests.cluster.machine import free_ports
from tests.cluster.supervise import Program

API = "kueue.x-k8s.io/v1beta2"
FRAMEWORKS = ("pod", "ray.io/raycluster", "ray.io/rayjob")
_CERTIFICATES = "/etc/kueue/metrics/certs"  # fixed in its main.go; it ends at once where they are not there


def missing() -> str:
    """Why Kueue cannot run here; "" where it can."""
    (module,) = (module for module in OPTIONAL if module.name == "kueue")
    if not folder(module.name).exists():
        return "Kueue is not built: python -m tests.cluster build --kueue"
    return "" if os.geteuid() == 0 else "Kueue's certificates lie at a fixed path, which needs a mount and so root"


def install(cluster: Cluster) -> None:
    """Its CRDs, its manager, and the webhooks of the kinds that are here. For a cluster without real nodes."""
    run, pki, (port,) = cluster.run, cluster.authority, free_ports(1)
    for path in sorted(folder("kueue").glob("kueue.x-k8s.io_*.yaml")):
        cluster.kubectl("create", "-f", str(path))
    certificates = run / "kueue"
    certificates.mkdir()
    for file, name in zip(pki.server("kueue", ["127.0.0.1"]), ("tls.crt", "tls.key"), strict=True):
        shutil.copy(file, certificates / name)
    config = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": "kueue-system",
        "health": {"healthProbeBindAddress": "0"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "integrations": {"frameworks": list(FRAMEWORKS)},
    }
    (run / "kueue.yaml").write_text(yaml.safe_dump(config))
    kubeconfig = pki.kubeconfig(run / "kueue.kubeconfig", cluster.server, "kueue", "system:masters")
    start = [program("kueue"), f"--config={run}/kueue.yaml", "--feature-gates=VisibilityOnDemand=false"]
    # A folder of its own under /etc, which nobody else on this machine sees.
    script = (
        f"mount -t tmpfs tmpfs /etc && mkdir -p {_CERTIFICATES} && cp {shlex.quote(str(certificates))}/tls.* "
        f"{_CERTIFICATES} && exec {shlex.join(start)}"
    )
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    cluster.supervisor.add(Program("kueue", command, {"KUBECONFIG": str(kubeconfig)}))
    _hook(cluster, port)


def _hook(cluster: Cluster, port: int) -> None:
    """Its webhooks for its own kinds, pods and Ray's, at the address where it listens."""
    authority = base64.b64encode((cluster.authority.folder / "ca.crt").read_bytes()).decode()
    paths = ("kueue-x-k8s-io", "mutate--v1-pod", "validate--v1-pod", "ray-io-v1-raycluster", "ray-io-v1-rayjob")
    for made in yaml.safe_load_all((folder("kueue") / "manifests.yaml").read_text()):
        hooks = []
        for hook in made["webhooks"]:
            path = hook["clientConfig"]["service"]["path"]
            if any(each in path for each in paths):
                hook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
                hooks.append(hook)
        cluster.kubectl("create", "-f", "-", stdin=json.dumps({**made, "webhooks": hooks}))
    probe = {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": "probe"}}

    def answers() -> bool:
        made = cluster.kubectl("create", "-f", "-", "--dry-run=server", stdin=json.dumps(probe), check=False)
        return "created" in made

    cluster.wait(answers, 60, "Kueue's webhooks")


def queue(
    cluster: Cluster,
    name: str,
    quotas: Mapping[str, Mapping[str, int | str]],
    *,
    namespaces: tuple[str, ...],
    labels: Mapping[str, Mapping[str, str]] | None = None,
    **spec: Any,
) -> None:
    """A ClusterQueue, its ResourceFlavors, and a LocalQueue of its name in each namespace.

    Args:
        quotas: flavour -> resource -> nominal quota.
        labels: flavour -> nodeLabels.
        spec: fields of the ClusterQueue.
    """
    for flavor in quotas:
        body: dict[str, Any] = {"nodeLabels": dict((labels or {}).get(flavor, {}))}
        apply(cluster, {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": flavor}, "spec": body})
    covered = list(next(iter(quotas.values())))
    flavors = [
        {"name": flavor, "resources": [{"name": each, "nominalQuota": amounts[each]} for each in covered]}
        for flavor, amounts in quotas.items()
    ]
    full = {
        "namespaceSelector": {},
        "resourceGroups": [{"coveredResources": covered, "flavors": flavors}],
        **spec,
    }
    apply(cluster, {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": full})
    for namespace in namespaces:
        local = {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterQueue": name}}
        apply(cluster, {"apiVersion": API, "kind": "LocalQueue", **local})


def apply(cluster: Cluster, thing: Mapping[str, Any]) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(thing))


def get(cluster: Cluster, kind: str, namespace: str) -> list[dict[str, Any]]:
    """All of a kind of Kueue's in a namespace."""
    found = json.loads(cluster.kubectl("get", f"{kind}.kueue.x-k8s.io", "-n", namespace, "-o", "json"))
    return list(found["items"])


def conditions(workload: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Type -> (status, reason) of a Workload's conditions."""
    found = (workload.get("status") or {}).get("conditions") or ()
    return {each["type"]: (each["status"], each["reason"]) for each in found}


def of(cluster: Cluster, namespace: str, raycluster: str) -> list[str]:
    """The names of the requests that a RayCluster's gangs have made."""
    found = get(cluster, "workloads", namespace)
    named = [w["metadata"] for w in found]
    return [meta["name"] for meta in named if (meta.get("labels") or {}).get(CLUSTER_LABEL) == raycluster]
