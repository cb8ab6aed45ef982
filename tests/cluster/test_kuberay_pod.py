"""A worker's pod of ours is KubeRay's, field by field: both of the same RayCluster, as the API server has them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.translate.kube.kuberay_operator import problems_of, read_kuberay
from ray_dra.translate.kube.kuberay_pod import worker_pod
from ray_dra.translate.kube.raycluster import read_raycluster
from tests.cluster.binaries import Say, program
from tests.cluster.cluster import Cluster
from tests.cluster.machine import free_ports
from tests.cluster.supervise import Program
from tests.translate.kube.kuberay_cases import CASES, NAMESPACE
from tests.translate.kube.test_kuberay_pod import TWICE, init, run

AT = {"fieldRef": {"fieldPath": "spec.nodeName", "apiVersion": "v1"}}
QUIET: Say = lambda text: None  # noqa: E731
NAMED = "ray.io/cluster={},ray.io/node-type=worker"
OF_THE_SERVER = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Cluster]:
    """All RayClusters at once; no node, so that their pods stay as they were made."""
    made = Cluster.up(f"pods-{os.getpid()}", nodes=(), real=False, say=QUIET)
    made.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    made.wait(lambda: made.api.find("ServiceAccount", "default", NAMESPACE) is not None, 30, "the account")
    made.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "mine"}}, NAMESPACE)
    for case in CASES.values():
        made.api.create(copy.deepcopy(case), NAMESPACE)
    yield made
    made.down()


@pytest.mark.parametrize("name", CASES)
def test_the_pod_is_kuberays(control_plane: Cluster, name: str) -> None:
    api, cluster = control_plane.api, CASES[name]["metadata"]["name"]
    chosen = NAMED.format(cluster)
    control_plane.wait(lambda: bool(api.items("Pod", NAMESPACE, labels=chosen)), 60, f"a worker of {cluster}")
    (theirs,) = api.items("Pod", NAMESPACE, labels=chosen)
    ours = worker_of(api, cluster)
    assert seen(api.create(ours, NAMESPACE, dry_run=True)) == seen(theirs)


def test_both_init_containers_ask_alike(control_plane: Cluster, tmp_path: Path) -> None:
    """Until the head answers, where nothing listens yet."""
    api = control_plane.api
    control_plane.wait(lambda: bool(api.items("Pod", NAMESPACE, labels=NAMED.format("plain"))), 60, "a worker")
    calls = []
    for pod in (*api.items("Pod", NAMESPACE, labels=NAMED.format("plain")), worker_of(api, "plain")):
        command, script = init(pod, "wait-gcs-ready")
        local = script.replace(f"plain-head-svc.{NAMESPACE}.svc.cluster.local", "127.0.0.1").replace("6379", "9")
        folder = tmp_path / pod["metadata"]["name"]
        folder.mkdir()
        calls.append(run(command, local, folder, ray=TWICE))
    assert calls == [["health-check --address 127.0.0.1:9"] * 3] * 2


def worker_of(api: KubernetesApi, name: str) -> dict[str, Any]:
    """As the coordinator would make it, which reads the operator's settings off the head's pod."""
    raycluster = api.get("RayCluster", name, NAMESPACE)
    (head,) = api.items("Pod", NAMESPACE, labels=f"ray.io/cluster={name},ray.io/node-type=head")
    kuberay = read_kuberay(head)
    assert problems_of(kuberay) == ()
    cluster = replace(read_raycluster(raycluster), kuberay=kuberay)
    return worker_pod(cluster, raycluster["spec"]["workerGroupSpecs"][0], f"{name}-ours")


@pytest.mark.parametrize("name", ["plain", "own-env"])
def test_settings_of_the_operator_are_followed(control_plane: Cluster, set_operator: None, name: str) -> None:
    api, case = control_plane.api, copy.deepcopy(CASES["redis-and-token"])
    case["metadata"]["name"] = f"set-{name}"
    case["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "HEADS", "value": "1"}]
    if name == "own-env":
        ray = case["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
        ray["env"] = [{"name": "PROXY", "value": "mine"}]
    api.create(case, NAMESPACE)
    chosen = NAMED.format(f"set-{name}")
    control_plane.wait(lambda: bool(api.items("Pod", NAMESPACE, labels=chosen)), 60, "its worker")
    (theirs,) = api.items("Pod", NAMESPACE, labels=chosen)
    ray = theirs["spec"]["containers"][0]
    assert ray["command"][1] == "-cl"  # the operator is set so
    assert "readinessProbe" not in ray
    assert "PROXY" in {entry["name"] for entry in ray["env"]}
    assert seen(api.create(worker_of(api, f"set-{name}"), NAMESPACE, dry_run=True)) == seen(theirs)


@pytest.fixture(scope="module")
def set_operator(control_plane: Cluster) -> None:
    """The operator anew, with settings, once it has made the pods of all cases."""
    api = control_plane.api
    workers = "ray.io/node-type=worker"
    control_plane.wait(lambda: len(api.items("Pod", NAMESPACE, labels=workers)) >= len(CASES), 60, "all workers")
    control_plane.supervisor.stop("operator")
    run, metrics, health = control_plane.run, *map(str, free_ports(2))
    config = {
        "apiVersion": "config.ray.io/v1alpha1",
        "kind": "Configuration",
        "metricsAddr": f"127.0.0.1:{metrics}",
        "probeAddr": f"127.0.0.1:{health}",
        "enableLeaderElection": False,
        "defaultContainerEnvs": [{"name": "PROXY", "value": "p"}, {"name": "AT", "valueFrom": AT}],
    }
    (run / "operator.yaml").write_text(yaml.safe_dump(config))
    command = [program("kuberay-operator"), f"--kubeconfig={run}/operator.kubeconfig", f"--config={run}/operator.yaml"]
    settings = {"ENABLE_LOGIN_SHELL": "true", "ENABLE_PROBES_INJECTION": "false"}
    control_plane.supervisor.add(Program("operator-with-settings", command, settings))


def seen(pod: dict[str, Any]) -> dict[str, Any]:
    """Without what the API server sets, names chosen at random, and what the init container runs, which is ours."""
    pod = copy.deepcopy(dict(pod))
    pod.pop("status", None)
    for field in ("name", "generateName", *OF_THE_SERVER):
        pod["metadata"].pop(field, None)
    spec = pod["spec"]
    tokens = {volume["name"] for volume in spec.get("volumes", ()) if volume["name"].startswith("kube-api-access-")}
    spec["volumes"] = [volume for volume in spec.get("volumes", ()) if volume["name"] not in tokens]
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        mounts = container.get("volumeMounts", ())
        container["volumeMounts"] = [mount for mount in mounts if mount["name"] not in tokens]
        if container["name"] == "wait-gcs-ready":
            container.pop("args")
    return pod
