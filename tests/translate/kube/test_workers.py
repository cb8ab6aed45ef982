"""A gang's worker group is the user's, but for what would act on the gang, and for what the gang needs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.errors import InvalidRequest
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.kube.workers import DROPPED
from ray_dra.translate.names import GATE, START_HOOK_VARIABLE
from ray_dra.translate.quantity import quantity
from tests.translate.kube.objects import BOXES, CLUSTER, RACKS, allocate, cluster, gang, node


@pytest.mark.parametrize("name", ["$(reboot)", "`id`", "a;b", "a b", "'", '"', "\\", "é", "a\nb", "x" * 254])
def test_no_resource_says_anything_to_a_shell(name: str) -> None:
    """KubeRay passes `rayStartParams` through a shell in double quotes, where $ and ` still act."""
    machine = replace(
        node(simulated_nodes("hgx-h100", nodes=1)[0]), resources={"CPU": 8.0, name: 4.0, "ok.x/y-1:_z": 1.0}
    )
    fine = allocate([machine], gang([{"GPU": 1, "ok.x/y-1:_z": 1}]), compute_domains=False)
    assert "ok.x/y-1:_z" in attempt_of(fine, CLUSTER, compute_domains=False).groups[0]["rayStartParams"]["resources"]
    asked = GangRequest("g", (Bundle((DeviceRequest(1),), {name: 1.0}),))
    with pytest.raises(InvalidRequest, match="shell"):
        attempt_of(allocate([machine], asked, compute_domains=False), CLUSTER, compute_domains=False)


def test_what_a_worker_offers_is_written_the_same_whatever_order_it_was_asked_in() -> None:
    machine = replace(BOXES[0], resources={"CPU": 8.0, "b": 4.0, "a": 4.0})
    said = set()
    for resources in ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}):
        attempt = attempt_of(
            allocate([machine], gang([{"GPU": 1, **resources}]), compute_domains=False), CLUSTER, compute_domains=False
        )
        said.add(attempt.groups[0]["rayStartParams"]["resources"])
    assert [json.loads(json.loads(text)) for text in said] == [{"a": 1.0, "b": 2.0}]


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
    required = made.groups[0]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = required["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert len(terms) == 4
    assert all(len(term["matchExpressions"]) == len(term["matchFields"]) == 1 for term in terms)


@given(st.lists(st.sampled_from((0.0001, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 3.0)), min_size=1, max_size=12))
def test_bundles_of_fractional_cpus_fit_the_worker_made_for_them(cpus: list[float]) -> None:
    """`ray start --num-cpus` takes whole numbers; the pod asks for exactly what the bundles and the raylet need."""
    bundles = [{"GPU": 1.0, "CPU": cpus[0], "memory": 1000.5}, *({"CPU": n} for n in cpus[1:])]
    wide = [replace(BOXES[0], resources={"CPU": 64.0, "memory": float(1 << 40)})]
    attempt = attempt_of(allocate(wide, gang(bundles), compute_domains=False), CLUSTER, compute_domains=False)
    (group,) = attempt.groups
    offered, wanted = group["rayStartParams"], sum(cpus)
    assert wanted - 1e-9 <= int(offered["num-cpus"]) < wanted + 1
    assert int(offered["memory"]) == 1001
    requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert quantity(requests["cpu"]) == pytest.approx(wanted + 0.25, abs=0.00051)
    assert int(requests["memory"]) == 1001 + (1 << 30)


@pytest.mark.parametrize(("cpus", "offered", "asked"), [(0.5, "1", "750m"), (1.5, "2", "1750m"), (2.5, "3", "2750m")])
def test_half_a_cpu_is_offered_as_a_whole_one(cpus: float, offered: str, asked: str) -> None:
    attempt = attempt_of(
        allocate(BOXES, gang([{"GPU": 1, "CPU": cpus}]), compute_domains=False), CLUSTER, compute_domains=False
    )
    (group,) = attempt.groups
    assert group["rayStartParams"]["num-cpus"] == offered
    assert group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == asked


def test_each_field_that_is_not_copied_is_named_here() -> None:
    """A copied one of these would end the gang's pods, or tell Ray's autoscaler something else than is offered."""
    theirs = {
        "scaleStrategy": {"workersToDelete": ["a-pod"]},
        "suspend": True,
        "idleTimeoutSeconds": 60,
        "resources": {"GPU": "8"},
    }
    ours = {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "labels", "template"}
    kept = {"topologySpread": {"any": "thing"}, "labels": {"team": "a"}, "rayStartParams": {"block": "true"}}
    raw = cluster()
    group = raw["spec"]["workerGroupSpecs"][0]
    group |= {**theirs, **kept}
    (made,) = attempt_of(
        allocate(BOXES, gang([{"GPU": 1}]), compute_domains=False), read_raycluster(raw), compute_domains=False
    ).groups
    assert group.keys() - made.keys() == theirs.keys() == {*DROPPED}
    assert made.keys() - group.keys() <= ours
    assert {name: made[name] for name in kept.keys() - ours} == {"topologySpread": {"any": "thing"}}
    assert made["labels"]["team"] == "a"
    assert made["rayStartParams"]["block"] == "true"
    assert group["suspend"] is True, "the user's group itself is left as it is"


def test_of_the_users_pod_everything_is_kept_but_what_binds_it() -> None:
    """Each field that is changed or replaced is named here; all others are as the user wrote them."""
    raw = cluster()
    template = raw["spec"]["workerGroupSpecs"][0]["template"]
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
    (made,) = attempt_of(
        allocate(BOXES, gang([{"GPU": 1}]), compute_domains=False), read_raycluster(raw), compute_domains=False
    ).groups
    pod, metadata = made["template"]["spec"], made["template"]["metadata"]
    changed = {name for name in {*pod, *template["spec"]} if pod.get(name) != template["spec"].get(name)}
    assert changed == {"restartPolicy", "schedulingGates", "affinity", "resourceClaims", "containers"}
    assert pod["restartPolicy"] == "Never"
    assert pod["schedulingGates"] == [{"name": "their/gate"}, {"name": GATE}]
    assert metadata["annotations"] == {"note": "b"}
    assert metadata["labels"]["team"] == "a"
    ray, beside = pod["containers"]
    assert beside == sidecar
    assert {name for name in {*ray, *container} if ray.get(name) != container.get(name)} == {"env", "resources"}
    env = {entry["name"]: entry for entry in ray["env"]}
    assert len(env) == len(ray["env"])
    assert env["MINE"]["value"] == "1"
    assert env[START_HOOK_VARIABLE]["value"] == "ray_dra.hooks.start", "a raylet without our hook would join unproven"
