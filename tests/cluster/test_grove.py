"""A Ray gang beside a Grove inference set, on the same racks: real objects, nodes and kubelets, without Grove itself.

What Grove would make of the example's PodCliqueSet, its ComputeDomain and pods, is made here, as its source has it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head
from tests.cluster.world import Namespace, request

EXAMPLE = PROJECT / "examples" / "grove" / "inference.yaml"
GROUP = "grove.io/mnnvl-group"
ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podcliquesets.grove.io"},
    "spec": {
        "group": "grove.io",
        "scope": "Namespaced",
        "names": {"kind": "PodCliqueSet", "plural": "podcliquesets", "singular": "podcliqueset"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": ANYTHING}}},
            }
        ],
    },
}
NEAR = """
def near(count, gpus):
    return ray_dra.placement_group([{"GPU": gpus}] * count, product="NVIDIA GB200", locality=ray_dra.same_clique())
def nodes(*wanted):
    gangs = [near(*each) for each in wanted]
    found = [gang.wait(200) and sorted(gang.allocation.nodes) for gang in gangs]
    for gang in gangs: gang.remove()
    return found
"""


@pytest.fixture
def theirs(cluster: Cluster) -> Iterator[Namespace]:
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(DEFINITION))
    made = Namespace(cluster, f"t-{uuid.uuid4().hex[:8]}")
    yield made
    made.end()
    cluster.kubectl("delete", "crd", "podcliquesets.grove.io", "--wait=false")


def as_grove_makes_it(namespace: Namespace, thing: dict[str, Any], nodes: list[str]) -> None:
    """The ComputeDomain of each group and the pods of each clique, one on each of the nodes, with both claims."""
    name = thing["metadata"]["name"]
    for clique in thing["spec"]["template"]["cliques"]:
        group = clique["annotations"][GROUP]
        domain = f"{name}-0-{group}"
        channel = {"resourceClaimTemplate": {"name": domain}}
        at = {"metadata": {"name": domain, "labels": {GROUP: group}}, "spec": {"numNodes": 0, "channel": channel}}
        namespace.api.create(
            {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "ComputeDomain", **at}, namespace.name
        )
        (container,) = clique["spec"]["podSpec"]["containers"]
        gpus = {"devices": {"requests": [request(count=int(container["resources"]["limits"]["nvidia.com/gpu"]))]}}
        template = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "gpus"}}
        namespace.api.create({**template, "spec": {"spec": gpus}}, namespace.name)

        def there(domain: str = domain) -> bool:
            return namespace.api.find("ResourceClaimTemplate", domain, namespace.name) is not None

        namespace.cluster.wait(there, 20, "the channel's template")
        assert len(nodes) == clique["spec"]["replicas"]
        for rank, node in enumerate(nodes):
            pod = f"{name}-0-{clique['name']}-{rank}"
            namespace.pod(pod, templates=["gpus", domain], node=node, command=("sleep", "infinity"))
            namespace.running(pod)


@pytest.mark.by_hand  # 78 s; tests/coordinator/backends/kubernetes knows others' domains
def test_a_gang_takes_no_tray_of_an_inference_sets_domain(cluster: Cluster, head: Head, theirs: Namespace) -> None:
    """The rack of two trays is the tightest place for two workers; while decoders are on it in a domain of their own, a
    gang of two nodes goes to the other rack, and gangs of one node fill what is left beside the decoders."""
    wanted = yaml.safe_load(EXAMPLE.read_text())
    wanted["metadata"]["namespace"] = theirs.name
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(wanted))
    kept = theirs.api.raw(
        f"/apis/grove.io/v1alpha1/namespaces/{theirs.name}/podcliquesets/{wanted['metadata']['name']}"
    )
    as_grove_makes_it(theirs, json.loads(kept), ["r1-t0", "r1-t1"])
    (found,) = head.run(NEAR + "tell(two=nodes((2, 2))[0], single=nodes((1, 2), (1, 2)))")
    assert all(node.startswith("r0-") for node in found["two"])
    assert len(found["two"]) == 2
    assert sorted(found["single"]) == [["r1-t0"], ["r1-t1"]]
    for rank in range(2):
        theirs.delete("Pod", f"inference-0-decode-{rank}", grace=0)
    theirs.delete("ComputeDomain", "inference-0-decode")
    (after,) = head.run(NEAR + "tell(two=nodes((2, 4))[0])")
    assert after["two"] == ["r1-t0", "r1-t1"]
    head.wait_nothing_left()
