"""Pods that pull images: what of a worker's they have, and how images of two spellings are known as one."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ray_dra.ports.kube_objects import KubeNode
from ray_dra.translate.kube.images import full_name, images_on
from ray_dra.translate.kube.pods import read_pod
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.kube.slices import read_node
from ray_dra.translate.kube.warm import WarmImages
from ray_dra.translate.names import CLUSTER_LABEL, WARM_ANNOTATION, WARM_LABEL
from tests.translate.kube.objects import cluster

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("written", "listed"),
    [
        ("ray", "docker.io/library/ray:latest"),
        ("rayproject/ray:2.60.0", "docker.io/rayproject/ray:2.60.0"),
        ("localhost/ray-dra", "localhost/ray-dra:latest"),
        ("quay.io/a/b:1", "quay.io/a/b:1"),
        ("registry:5000/a", "registry:5000/a:latest"),
        ("registry:5000/a:1", "registry:5000/a:1"),
        (f"rayproject/ray:2.60.0@{DIGEST}", f"docker.io/rayproject/ray@{DIGEST}"),
        (f"registry:5000/a@{DIGEST}", f"registry:5000/a@{DIGEST}"),
    ],
)
def test_an_image_is_named_as_nodes_list_it(written: str, listed: str) -> None:
    assert full_name(written) == listed
    assert full_name(listed) == listed


def test_what_a_node_lists_is_read() -> None:
    names = [f"docker.io/rayproject/ray@{DIGEST}", "docker.io/rayproject/ray:2.60.0"]
    node = read_node({"metadata": {"name": "n"}, "status": {"images": [{"names": names, "sizeBytes": 1}, {}]}})
    assert node.images == tuple(sorted(names))
    assert images_on([]) == ()


def warm(**changes: Any) -> dict[str, Any]:
    """A RayCluster that asks for it, its worker's pod spec with these changes."""
    made = copy.deepcopy(cluster())
    made["metadata"] = {**made["metadata"], "annotations": {WARM_ANNOTATION: "true"}, "resourceVersion": "1"}
    made["spec"]["workerGroupSpecs"][0]["template"]["spec"] |= changes
    return made


RICH = {
    "serviceAccountName": "workers",
    "automountServiceAccountToken": False,
    "imagePullSecrets": [{"name": "registry"}],
    "securityContext": {"runAsNonRoot": True},
    "runtimeClassName": "nvidia",
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "nodeSelector": {"pool": "gpus"},
    "priorityClassName": "high",
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "x"}]}},
    "initContainers": [{"name": "first", "image": "busybox", "restartPolicy": "Always", "command": ["sleep", "9"]}],
    "containers": [
        {
            "name": "ray-worker",
            "image": "rayproject/ray:2.60.0",
            "imagePullPolicy": "IfNotPresent",
            "securityContext": {"allowPrivilegeEscalation": False},
            "envFrom": [{"secretRef": {"name": "s"}}],
            "env": [{"name": "A", "value": "b"}],
            "resources": {"requests": {"cpu": "8"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "readinessProbe": {"exec": {"command": ["true"]}},
        }
    ],
}


def test_the_pod_has_all_by_which_a_workers_images_are_had_and_nothing_by_which_it_is_a_worker() -> None:
    images = WarmImages(read_raycluster(warm(**RICH)))
    assert images.images == {"docker.io/library/busybox:latest", "docker.io/rayproject/ray:2.60.0"}
    pod = images.pod("n1")
    spec = pod["spec"]
    for same in ("serviceAccountName", "automountServiceAccountToken", "imagePullSecrets", "securityContext"):
        assert spec[same] == RICH[same]
    for same in ("runtimeClassName", "tolerations", "nodeSelector"):
        assert spec[same] == RICH[same]
    assert not {"volumes", "resourceClaims", "priorityClassName", "schedulingGates"} & spec.keys()
    assert spec["restartPolicy"] == "Never"
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]
    assert spec["affinity"].keys() == {"nodeAffinity"}
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["command"] == ["true"]
        assert not {"env", "volumeMounts", "readinessProbe", "restartPolicy", "args", "lifecycle"} & container.keys()
        assert "claims" not in container["resources"]
    assert spec["containers"][0]["envFrom"] == [{"secretRef": {"name": "s"}}]  # the admission policy compares them
    assert pod["metadata"]["labels"].keys() == {CLUSTER_LABEL, WARM_LABEL}
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["controller"]) == ("RayCluster", True)
    read = read_pod({**pod, "metadata": {**pod["metadata"], "uid": "u"}})
    assert (read.attempt, read.warm) == (None, images.key)


def test_another_image_is_another_key_and_each_node_has_a_pod_of_its_own() -> None:
    one, other = (WarmImages(read_raycluster(warm(containers=[{"name": "r", "image": i}]))) for i in ("a:1", "a:2"))
    assert one.key != other.key
    assert len({one.name("n1"), one.name("n2"), other.name("n1")}) == 3
    assert one.there(KubeNode("n", images=("docker.io/library/a:1", "docker.io/library/b:1")))
    assert not one.there(KubeNode("n", images=("docker.io/library/a:2",)))


@pytest.mark.parametrize(
    "raycluster",
    [
        cluster(),
        {**warm(), "spec": {**warm()["spec"], "workerGroupSpecs": []}},
        warm(containers=[{"name": "r", "image": "a", "imagePullPolicy": "Never"}]),
    ],
    ids=["nobody asks", "no worker group", "never pulled"],
)
def test_where_there_is_nothing_to_pull_there_is_no_key(raycluster: dict[str, Any]) -> None:
    raycluster["metadata"].setdefault("resourceVersion", "1")
    assert WarmImages(read_raycluster(raycluster)).key == ""
    assert WarmImages(None).key == ""


@pytest.mark.parametrize(
    ("status", "pulled", "ended"),
    [
        ({}, False, False),
        ({"phase": "Pending", "containerStatuses": [{"imageID": ""}]}, False, False),
        ({"phase": "Succeeded", "containerStatuses": [{"imageID": "x"}]}, True, True),
        ({"phase": "Failed", "containerStatuses": [{"imageID": "x"}]}, True, True),  # the image has no `true`
        ({"phase": "Failed", "initContainerStatuses": [{"imageID": "x"}], "containerStatuses": [{}]}, False, True),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "CreateContainerConfigError"}}}]}, True, False),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]}, False, False),
    ],
)
def test_a_pod_has_pulled_what_its_containers_were_made_of(status: dict[str, Any], pulled: bool, ended: bool) -> None:
    meta = {"name": "p", "uid": "u", "labels": {WARM_LABEL: "k"}}
    found = read_pod({"metadata": meta, "spec": {}, "status": status})
    assert (found.pulled, found.ended, found.warm) == (pulled, ended, "k")
