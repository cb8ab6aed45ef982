"""A gang's worker is one of the user's group, but for what would act on the gang, and for what the gang needs."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import KubeRay
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.kube.attempts import Attempt, attempt_of
from ray_dra.translate.kube.kuberay_pod import worker_pod
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.names import GATE, START_HOOK_VARIABLE
from ray_dra.translate.quantity import quantity
from tests.translate.kube.objects import BOXES, CLUSTER, RACKS, allocate, cluster, gang, node


def pods_of(attempt: Attempt) -> list[dict[str, Any]]:
    return [attempt.pod(slot) for slot in attempt.slots.values()]


def offered_by(attempt: Attempt) -> dict[str, str]:
    """The options that a shell gives `ray start` in the one pod."""
    (pod,) = pods_of(attempt)
    words = shlex.split(pod["spec"]["containers"][0]["args"][0])
    options = [word[2:].partition("=") for word in words if word.startswith("--")]
    return {name: value for name, _, value in options}


@pytest.mark.parametrize("name", ["$(reboot)", "`id`", "a;b", "a b", "'", '"', "\\", "é", "a\nb", "x" * 254])
def test_no_resource_says_anything_to_a_shell(name: str) -> None:
    """KubeRay passes `rayStartParams` through a shell in double quotes, where $ and ` still act."""
    machine = replace(
        node(simulated_nodes("hgx-h100", nodes=1)[0]), resources={"CPU": 8.0, name: 4.0, "ok.x/y-1:_z": 1.0}
    )
    fine = allocate([machine], gang([{"GPU": 1, "ok.x/y-1:_z": 1}]), compute_domains=False)
    assert "ok.x/y-1:_z" in offered_by(attempt_of(fine, CLUSTER, compute_domains=False))["resources"]
    asked = GangRequest("g", (Bundle((DeviceRequest(1),), {name: 1.0}),))
    with pytest.raises(InvalidRequest, match="shell"):
        pods_of(attempt_of(allocate([machine], asked, compute_domains=False), CLUSTER, compute_domains=False))


def test_what_a_worker_offers_is_written_the_same_whatever_order_it_was_asked_in() -> None:
    machine = replace(BOXES[0], resources={"CPU": 8.0, "b": 4.0, "a": 4.0})
    said = set()
    for resources in ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}):
        attempt = attempt_of(
            allocate([machine], gang([{"GPU": 1, **resources}]), compute_domains=False), CLUSTER, compute_domains=False
        )
        said.add(offered_by(attempt)["resources"])
    assert [json.loads(text) for text in said] == [{"a": 1.0, "b": 2.0}]


def test_what_kueue_wrote_into_the_group_of_a_queued_raycluster_is_not_the_gangs() -> None:
    raycluster = cluster()
    template = raycluster["spec"]["workerGroupSpecs"][0]["template"]
    kueue = {"kueue.x-k8s.io/podset": "ray-dra", "kueue.x-k8s.io/workload": "w"}
    template["metadata"] = {"labels": {"mine": "a", **kueue}, "annotations": {"mine": "b", **kueue}}
    template["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/topology"}, {"name": "mine"}]
    raycluster["spec"]["workerGroupSpecs"][0]["labels"] = {"ours": "c", "kueue.x-k8s.io/queue-name": "q"}
    box = allocate(BOXES, gang([{"GPU": 1}]), compute_domains=False)
    (pod,) = pods_of(attempt_of(box, read_raycluster(raycluster), compute_domains=False))
    assert "kueue" not in json.dumps(pod)
    assert (pod["metadata"]["labels"]["mine"], pod["metadata"]["annotations"]["mine"]) == ("a", "b")
    assert pod["metadata"]["labels"]["ours"] == "c"
    assert pod["spec"]["schedulingGates"] == [{"name": "mine"}, {"name": GATE}]


def test_the_users_affinity_is_kept_with_each_node() -> None:
    wanted = {"key": "zone", "operator": "In", "values": ["a"]}
    theirs = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [wanted]},
                    {"matchExpressions": [{**wanted, "values": ["b"]}]},
                ]
            }
        }
    }
    raycluster = cluster()
    raycluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["affinity"] = theirs
    made = attempt_of(
        allocate(RACKS, gang([{"GPU": 4}] * 2, locality=Locality(cliques=1))),
        read_raycluster(raycluster),
        compute_domains=False,
    )
    for name, pod in zip(made.slots, pods_of(made), strict=True):
        required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        terms = required["nodeSelectorTerms"]
        assert [term["matchExpressions"][0]["values"] for term in terms] == [["a"], ["b"]]
        assert all(term["matchFields"][0]["values"] == [name] for term in terms)


@given(st.lists(st.sampled_from((0.0001, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 3.0)), min_size=1, max_size=12))
def test_bundles_of_fractional_cpus_fit_the_worker_made_for_them(cpus: list[float]) -> None:
    """`ray start --num-cpus` takes whole numbers; the pod asks for exactly what the bundles and the raylet need."""
    bundles = [{"GPU": 1.0, "CPU": cpus[0], "memory": 1000.5}, *({"CPU": n} for n in cpus[1:])]
    wide = [replace(BOXES[0], resources={"CPU": 64.0, "memory": float(1 << 40)})]
    attempt = attempt_of(allocate(wide, gang(bundles), compute_domains=False), CLUSTER, compute_domains=False)
    (pod,) = pods_of(attempt)
    offered, wanted = offered_by(attempt), sum(cpus)
    assert wanted - 1e-9 <= int(offered["num-cpus"]) < wanted + 1
    assert int(offered["memory"]) == 1001
    requests = pod["spec"]["containers"][0]["resources"]["requests"]
    assert quantity(requests["cpu"]) == pytest.approx(wanted + 0.25, abs=0.00051)
    assert int(requests["memory"]) == 1001 + (1 << 30)


@pytest.mark.parametrize(("cpus", "offered", "asked"), [(0.5, "1", "750m"), (1.5, "2", "1750m"), (2.5, "3", "2750m")])
def test_half_a_cpu_is_offered_as_a_whole_one(cpus: float, offered: str, asked: str) -> None:
    attempt = attempt_of(
        allocate(BOXES, gang([{"GPU": 1, "CPU": cpus}]), compute_domains=False), CLUSTER, compute_domains=False
    )
    (pod,) = pods_of(attempt)
    assert offered_by(attempt)["num-cpus"] == offered
    assert pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == asked


def test_what_of_the_users_group_would_act_on_the_gang_is_not_taken_over() -> None:
    """Ray's autoscaler would be told something else than is offered; the rest is about the group's own pods."""
    raw = cluster()
    group = raw["spec"]["workerGroupSpecs"][0]
    (plain,) = pods_of(
        attempt_of(
            allocate(BOXES, gang([{"GPU": 1}]), compute_domains=False), read_raycluster(raw), compute_domains=False
        )
    )
    group |= {
        "scaleStrategy": {"workersToDelete": ["a-pod"]},
        "suspend": True,
        "idleTimeoutSeconds": 60,
        "resources": {"GPU": "8"},
        "numOfHosts": 4,
    }
    (made,) = pods_of(
        attempt_of(
            allocate(BOXES, gang([{"GPU": 1}]), compute_domains=False), read_raycluster(raw), compute_domains=False
        )
    )
    assert made == plain
    group |= {"labels": {"team": "a"}, "rayStartParams": {"object-store-memory": "100"}}
    attempt = attempt_of(
        allocate(BOXES, gang([{"GPU": 1}]), compute_domains=False), read_raycluster(raw), compute_domains=False
    )
    offered = offered_by(attempt)
    assert "team=a" in offered["labels"].split(",")
    assert offered["object-store-memory"] == "100"
    assert offered["num-gpus"] == "1"
    assert group["suspend"] is True, "the user's group itself is left as it is"


def test_a_gangs_worker_is_no_worker_of_kuberays() -> None:
    """The labels that Ray's autoscaler, a RayService and KubeRay's groups go by, and those by which a RayCluster is
    suspended, a NetworkPolicy lets in, and ownership ends it."""
    raw = cluster()
    raw["metadata"]["labels"] = {"ray.io/originated-from-crd": "RayService"}
    (pod,) = pods_of(
        attempt_of(
            allocate(BOXES, gang([{"GPU": 1}]), compute_domains=False), read_raycluster(raw), compute_domains=False
        )
    )
    labels = pod["metadata"]["labels"]
    assert labels["ray.io/node-type"] not in ("head", "worker", "redis-cleanup")
    assert labels["ray.io/cluster"] == "c"
    assert labels["ray.io/group"] not in {group["groupName"] for group in raw["spec"]["workerGroupSpecs"]}
    assert not {"ray.io/serve", "ray.io/worker-group-replica-index"} & labels.keys()
    assert "RAY_CLOUD_INSTANCE_ID" not in {entry["name"] for entry in pod["spec"]["containers"][0]["env"]}
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("RayCluster", "u-1", True)
    assert not owner["blockOwnerDeletion"]


def test_where_kuberay_makes_certificates_a_gangs_worker_is_one_of_those_it_names() -> None:
    """And Ray's autoscaler, which stops at a worker of a group that it does not know, must be off."""
    given = allocate(BOXES, gang([{"GPU": 1}]), compute_domains=False)
    certified = KubeRay("v1.7.0", tls=True)
    (pod,) = pods_of(attempt_of(given, replace(CLUSTER, kuberay=certified), compute_domains=False))
    assert pod["metadata"]["labels"]["ray.io/node-type"] == "worker"
    assert "RAY_CLOUD_INSTANCE_ID" not in {entry["name"] for entry in pod["spec"]["containers"][0]["env"]}
    scaled = replace(read_raycluster(cluster(enableInTreeAutoscaling=True)), kuberay=certified)
    with pytest.raises(InvalidRequest, match="leave out tlsOptions or enableInTreeAutoscaling"):
        attempt_of(given, scaled, compute_domains=False)
    attempt_of(given, replace(scaled, kuberay=KubeRay("v1.7.0")), compute_domains=False)


def test_of_the_users_pod_everything_is_kept_but_what_binds_it() -> None:
    """Each field that differs from KubeRay's pod of the user's group is named here."""
    raw = cluster()
    group = raw["spec"]["workerGroupSpecs"][0]
    template = group["template"]
    template["metadata"] = {"labels": {"team": "a"}, "annotations": {"note": "b"}}
    theirs = {
        "restartPolicy": "Always",
        "schedulingGates": [{"name": "their/gate"}],
        "priorityClassName": "high",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "hostIPC": True,
    }
    template["spec"] |= theirs
    container = template["spec"]["containers"][0]
    container |= {"env": [{"name": "MINE", "value": "1"}, {"name": START_HOOK_VARIABLE, "value": "my.hook"}]}
    sidecar = {"name": "sidecar", "image": "other", "resources": {"limits": {"cpu": "1"}}}
    template["spec"]["containers"].append(sidecar)
    read = read_raycluster(raw)
    (made,) = pods_of(
        attempt_of(allocate(BOXES, gang([{"GPU": 1}]), compute_domains=False), read, compute_domains=False)
    )
    kuberays = worker_pod(read, group, "x")
    pod, metadata = made["spec"], made["metadata"]
    changed = {name for name in {*pod, *kuberays["spec"]} if pod.get(name) != kuberays["spec"].get(name)}
    assert changed == {
        "restartPolicy",
        "schedulingGates",
        "affinity",
        "resourceClaims",
        "containers",
        "initContainers",  # has Ray's environment
    }
    assert pod["restartPolicy"] == "Never"
    assert pod["schedulingGates"] == [{"name": "their/gate"}, {"name": GATE}]
    assert metadata["annotations"] == {"note": "b"}
    assert metadata["labels"]["team"] == "a"
    ray, beside = pod["containers"]
    assert beside == sidecar
    before = kuberays["spec"]["containers"][0]
    assert {name for name in {*ray, *before} if ray.get(name) != before.get(name)} == {"env", "resources", "args"}
    env = {entry["name"]: entry for entry in ray["env"]}
    assert len(env) == len(ray["env"])
    assert env["MINE"]["value"] == "1"
    assert env[START_HOOK_VARIABLE]["value"] == "ray_dra.hooks.start", "a raylet without our hook would join unproven"
