"""A Sandbox has the claims of its gang's worker, and nothing that its template asks for besides."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_dra.core.model.node import Node
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import KubeNode
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.kube.sandboxes import (
    is_ready,
    read_sandbox_template,
    read_template,
    said_of,
    sandbox_name,
    sandbox_object,
)
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.kube.slots import Slot, slots_of
from ray_dra.translate.ray.devices import mig
from tests.translate.kube.objects import BOXES, allocate, gang, read

GOLDEN = Path(__file__).parent.parent / "golden"
TEMPLATE: dict[str, Any] = {
    "podTemplate": {
        "metadata": {"labels": {"app": "agent", "ray-dra.io/raycluster": "c", "ray-dra.io/attempt": "rd-1"}},
        "spec": {
            "runtimeClassName": "gvisor",
            "containers": [
                {"name": "agent", "image": "agent:1", "resources": {"requests": {"cpu": "2"}}},
                {"name": "proxy", "image": "proxy:1"},
            ],
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
        },
    },
    "shutdownPolicy": "Delete",
}


def parted() -> Node:
    machine = simulated_nodes("hgx-h100", nodes=1)[0]
    published = slices(gpu_pool(machine, {}, frozenset({"DynamicMIG"})), "n0", 1)
    return node_from_slices(KubeNode("n0", cpus=64, memory=64 << 30), read(published))


def slot_on(node: Node, **more: Any) -> Slot:
    (slot,) = slots_of(allocate([node], gang([{"GPU": 1}], **more), compute_domains=False)).values()
    return slot


def test_a_sandbox_is_as_reviewed() -> None:
    template = copy.deepcopy(TEMPLATE)
    content = [
        sandbox_object(read_template(template), "gang-1", slot, "uid-1", "team")
        for slot in (slot_on(parted(), part=mig("1g.10gb")), slot_on(BOXES[0]))
    ]
    assert template == TEMPLATE, "the template is the user's"
    golden = GOLDEN / "sandboxes.yaml"
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text(yaml.safe_dump_all(json.loads(json.dumps(content)), sort_keys=False, width=120))
    assert content == list(yaml.safe_load_all(golden.read_text()))


def test_its_claims_are_those_of_the_worker_and_its_pod_is_no_workers() -> None:
    slot = slot_on(parted(), part=mig("1g.10gb"))
    made = sandbox_object(read_template(TEMPLATE), "g", slot, "u", "team")
    pod = made["spec"]["podTemplate"]
    assert [each["resourceClaimName"] for each in pod["spec"]["resourceClaims"]] == list(slot.claims)
    assert [each.get("resources", {}).get("claims") for each in pod["spec"]["containers"]] == [
        [{"name": "gpus-g0"}],
        None,
    ]
    assert pod["metadata"]["labels"] == {"app": "agent"}, "by our labels the coordinator would take it for a worker"
    assert sandbox_name(slot) == made["metadata"]["name"] != slot.name
    assert pod["spec"]["automountServiceAccountToken"] is False
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("Pod", "u", False)


def changed(path: str, value: Any) -> dict[str, Any]:
    made = copy.deepcopy(TEMPLATE)
    at: Any = made
    *steps, last = path.split(".")
    for step in steps:
        at = at[int(step)] if step.isdigit() else at[step]
    at[last] = value
    return made


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (5, "no spec of a Sandbox"),
        ({}, "no spec of a Sandbox"),
        ({"podTemplate": {"spec": {"containers": []}}}, "no spec of a Sandbox"),
        (changed("podTemplate.spec.containers", [5]), "no spec of a Sandbox"),
        (changed("podTemplate.spec.resourceClaims", [{"name": "x"}]), "asks for devices"),
        (changed("podTemplate.spec.nodeName", "n1"), "asks for devices or a node"),
        (changed("podTemplate.spec.containers.1.resources", {"limits": {"nvidia.com/gpu": "1"}}), "asks for devices"),
        (changed("podTemplate.spec.initContainers", [{"resources": {"requests": {"amd.com/gpu": 1}}}]), "amd.com/gpu"),
        (changed("podTemplate.spec.containers.0.resources", {"claims": [{"name": "x"}]}), "asks for devices"),
    ],
    ids=str,
)
def test_a_template_that_has_devices_past_the_planner_is_refused(template: object, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_template(template)


def test_a_sandbox_template_whose_network_policy_would_not_hold_is_refused() -> None:
    thing = {"metadata": {"name": "t"}, "spec": {**TEMPLATE, "envVarsInjectionPolicy": "Allowed"}}
    for managed in (None, "Managed"):
        thing["spec"]["networkPolicyManagement"] = managed
        with pytest.raises(InvalidRequest, match="network policy would not hold"):
            read_sandbox_template(thing)
    thing["spec"]["networkPolicyManagement"] = "Unmanaged"
    assert read_sandbox_template(thing) == TEMPLATE  # what is the template's alone is left out


def test_readiness_is_what_the_controller_says() -> None:
    def thing(*conditions: dict[str, str]) -> dict[str, Any]:
        return {"status": {"conditions": list(conditions)}}

    waits = {"type": "Ready", "status": "False", "reason": "DependenciesNotReady", "message": "Pod is Pending"}
    assert [is_ready(each) for each in ({}, thing(), thing(waits))] == [False] * 3
    assert is_ready(thing({"type": "PodScheduled", "status": "False"}, {"type": "Ready", "status": "True"}))
    assert [said_of(each) for each in ({}, thing(waits))] == ["", "Pod is Pending"]
