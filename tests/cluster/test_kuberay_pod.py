"""A worker's pod of ours is KubeRay's, field by field: both of the same RayCluster, as the API server has them. And the
admission policies under kube/ let a gang's worker of each of them through."""

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
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import KubeRay
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.kuberay_operator import problems_of, read_kuberay
from ray_dra.translate.kube.kuberay_pod import worker_pod
from ray_dra.translate.kube.raycluster import read_raycluster, worker_template
from ray_dra.translate.kube.warm import WarmImages
from ray_dra.translate.names import TEMPLATE_ANNOTATION, WARM_ANNOTATION
from tests.cluster.binaries import Say, program
from tests.cluster.cluster import Cluster
from tests.cluster.head import installation_in
from tests.cluster.machine import free_ports
from tests.cluster.supervise import Program
from tests.translate.kube.kuberay_cases import CASES, NAMESPACE
from tests.translate.kube.objects import BOXES, allocate, gang
from tests.translate.kube.test_kuberay_pod import NEWER, TWICE, init, run

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
    made.kubectl("apply", "-k", str(installation_in(made, NAMESPACE)))
    for case in CASES.values():
        made.api.create(for_gangs(case), NAMESPACE)
    yield made
    made.down()


def for_gangs(case: dict[str, Any]) -> dict[str, Any]:
    """The RayCluster, with the head and the annotations that gangs ask for."""
    case = copy.deepcopy(case)
    case["metadata"]["annotations"] |= {TEMPLATE_ANNOTATION: "workers", WARM_ANNOTATION: "true"}
    case["spec"]["headGroupSpec"]["template"]["spec"]["serviceAccountName"] = "ray-dra"
    return case


def takes_gangs(case: dict[str, Any]) -> bool:
    """Whether its worker group asks for no devices itself."""
    made = for_gangs(case)
    made["metadata"] |= {"namespace": NAMESPACE, "uid": "u", "resourceVersion": "1"}
    try:
        worker_template(read_raycluster(made))
    except InvalidRequest:
        return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_the_pod_is_kuberays(control_plane: Cluster, name: str) -> None:
    api, cluster = control_plane.api, CASES[name]["metadata"]["name"]
    chosen = NAMED.format(cluster)
    control_plane.wait(lambda: bool(api.items("Pod", NAMESPACE, labels=chosen)), 60, f"a worker of {cluster}")
    (theirs,) = api.items("Pod", NAMESPACE, labels=chosen)
    ours = worker_of(api, cluster)
    assert seen(api.create(ours, NAMESPACE, dry_run=True)) == seen(theirs)


@pytest.mark.parametrize("name", [*(name for name, case in CASES.items() if takes_gangs(case)), "certificates"])
def test_the_policies_let_a_gangs_worker_through(control_plane: Cluster, name: str) -> None:
    """Made by the head's account from the head; so is the pod that has a node pull its images."""
    api, cluster = control_plane.api, CASES["plain" if name == "certificates" else name]["metadata"]["name"]
    chosen = f"ray.io/cluster={cluster},ray.io/node-type=head"
    control_plane.wait(lambda: bool(api.items("Pod", NAMESPACE, labels=chosen)), 60, f"the head of {cluster}")
    (head,) = api.items("Pod", NAMESPACE, labels=chosen)
    kuberay: KubeRay = NEWER if name == "certificates" else read_kuberay(head)
    read = replace(read_raycluster(api.get("RayCluster", cluster, NAMESPACE)), kuberay=kuberay)
    attempt = attempt_of(allocate(BOXES, gang([{"GPU": 8}]), compute_domains=False), read, compute_domains=False)
    (slot,) = attempt.slots.values()
    ours = KubernetesApi(str(control_plane.account_kubeconfig("ray-dra", NAMESPACE, head["metadata"]["name"])))
    try:
        ours.create(attempt.pod(slot), NAMESPACE, dry_run=True)
        ours.create(WarmImages(read).pod("a-node"), NAMESPACE, dry_run=True)
    finally:
        ours.close()


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
