"""A worker's pod of ours is KubeRay's, field by field: both of the same RayCluster, as the API server has them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest

from ray_dra.translate.kube.kuberay_pod import worker_pod
from ray_dra.translate.kube.raycluster import read_raycluster
from tests.cluster.binaries import Say
from tests.cluster.cluster import Cluster
from tests.translate.kube.kuberay_cases import CASES, NAMESPACE

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
    raycluster = api.get("RayCluster", cluster, NAMESPACE)
    ours = worker_pod(read_raycluster(raycluster), raycluster["spec"]["workerGroupSpecs"][0], f"{cluster}-ours")
    taken = api.create(ours, NAMESPACE, dry_run=True)
    assert seen(taken) == seen(theirs)


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
