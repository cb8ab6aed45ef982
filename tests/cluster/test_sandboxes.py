"""Sandboxes by the real agent-sandbox, its CRD and its controller, with the devices that the planner gave."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from ray_dra.simulated.machine import Machine
from ray_dra.translate.names import ATTEMPT_LABEL
from tests.cluster import agent_sandbox
from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, told
from tests.cluster.image import image_name
from tests.cluster.nodes import NodeSpec
from tests.cluster.world import CONTAINER_CONTEXT, POD_CONTEXT, SEE

pytestmark = [pytest.mark.by_hand, pytest.mark.skipif(bool(agent_sandbox.missing()), reason=agent_sandbox.missing())]

PROGRAM = """
import json
with ray_dra.placement_group([{"GPU": 2}], bundle_label_selector=[{"kubernetes.io/hostname": "mig"}]) as gang:
    gang.wait(200)
    with ray_dra.sandbox(json.loads(TEMPLATE), part=ray_dra.mig("1g.10gb"), near=gang) as box:
        box.wait(100)
        (grant,) = box.devices
        tell(gang=gang.allocation.nodes, node=grant.node, parent=grant.part.parent, name=box.name, owner=box.gang.id)
        hold()
    tell(gone=str(box.gang.phase))
    box = ray_dra.sandbox(json.loads(TEMPLATE), part=ray_dra.mig("1g.10gb"), near=gang)
    box.wait(100)
    tell(name=box.name, owner=box.gang.id)
    hold()
gang.remove()  # the Sandbox ends with it
tell(ended=True)
hold()
"""


def template() -> dict[str, Any]:
    container = {
        "name": "agent",
        "image": image_name(),
        "imagePullPolicy": "IfNotPresent",
        "securityContext": CONTAINER_CONTEXT,
        "command": ["python3", "-c", SEE],
    }
    spec = {"containers": [container], "securityContext": POD_CONTEXT, "terminationGracePeriodSeconds": 5}
    return {"podTemplate": {"spec": spec}}


def test_a_sandbox_sees_the_part_that_was_planned_and_ends_with_its_gang(cluster: Cluster, head: Head) -> None:
    agent_sandbox.install(cluster)
    for thing in yaml.safe_load_all((PROJECT / "kube" / "sandboxes" / "roles.yaml").read_text()):
        head.api.create(thing, head.namespace.name)
    cluster.wait(lambda: head.api.serves("Sandbox"), 30, "Sandboxes to be served")
    if "mig" not in cluster.nodes:
        cluster.add_node(NodeSpec("mig", profile="hgx-h100", gates="DynamicMIG"))
    machine = Machine(cluster.nodes["mig"].machine)
    process = head.start(f"TEMPLATE = {json.dumps(json.dumps(template()))}\n{PROGRAM}")
    found = told(process)
    assert found["gang"] == [found["node"]] == ["mig"]
    (part,) = machine.mig_state().parts
    seen = head.namespace.seen(found["name"])
    assert seen["migs"] == [part.uuid], "the container sees the part that the gang's claim has"
    claims = head.api.items("ResourceClaim", head.namespace.name, labels=ATTEMPT_LABEL)
    holders = {claim["metadata"]["name"]: len(claim["status"]["reservedFor"]) for claim in claims}
    assert sorted(holders.values()) == [1, 2], "the Sandbox has the claim of its gang's worker, and none of its own"
    head.let_go()
    assert told(process)["gone"] == "Phase.GONE"
    second = told(process)
    made = head.api.get("Sandbox", second["name"], head.namespace.name)
    assert made["spec"]["podTemplate"]["spec"]["resourceClaims"], "the CRD keeps claims"
    head.let_go()
    assert told(process)["ended"]
    cluster.wait(
        lambda: head.api.find("Sandbox", second["name"], head.namespace.name) is None, 60, "the Sandbox to end"
    )
    cluster.wait(lambda: not machine.mig_state().parts, 60, "the parts to be destroyed")
    head.let_go()
    process.wait(60)
    head.wait_nothing_left()
