"""ComputeDomains on real nodes, as seen from outside: the channel's template, labels, status, one domain on a node."""

from __future__ import annotations

from typing import Any

import pytest

from ray_dra.errors import Rejected
from ray_dra.simulated.dra import DOMAIN_LABEL
from ray_dra.translate.vendors import NVIDIA
from tests.cluster.cluster import Cluster
from tests.cluster.world import Namespace, prepared


def domain(namespace: Namespace, name: str, **channel: Any) -> str:
    """A ComputeDomain; its uid."""
    thing = {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "ComputeDomain",
        "metadata": {"name": name},
        "spec": {"numNodes": 0, "channel": {"resourceClaimTemplate": {"name": f"{name}-channel"}, **channel}},
    }
    return str(namespace.api.create(thing, namespace.name)["metadata"]["uid"])


def template(namespace: Namespace, name: str) -> bool:
    return namespace.api.find("ResourceClaimTemplate", name, namespace.name) is not None


def labels(namespace: Namespace, node: str) -> dict[str, str]:
    return dict(namespace.api.get("Node", node)["metadata"]["labels"])


def test_a_domain_spans_the_nodes_of_its_pods_and_ends_with_them(cluster: Cluster, namespace: Namespace) -> None:
    uid = domain(namespace, "a")
    cluster.wait(lambda: template(namespace, "a-channel"), 10, "the channel's claim template")
    nodes = ("r0-t0", "r0-t1")
    for node in nodes:
        namespace.pod(node, templates=["a-channel"], node=node)
    for node in nodes:
        assert namespace.seen(node)["channels"] == ["channel0"]
        assert labels(namespace, node)[DOMAIN_LABEL] == uid
    status = namespace.api.get("ComputeDomain", "a", namespace.name)["status"]
    assert [(entry["name"], entry["status"], entry["index"]) for entry in status["nodes"]] in (
        [("r0-t0", "Ready", 0), ("r0-t1", "Ready", 1)],
        [("r0-t1", "Ready", 0), ("r0-t0", "Ready", 1)],
    )
    clique = labels(namespace, "r0-t0")[NVIDIA.clique_label]
    assert {entry["cliqueID"] for entry in status["nodes"]} == {clique}
    assert "Ready" in cluster.kubectl("get", "computedomains", "-n", namespace.name)
    # The last pod on a node takes the node's label along.
    namespace.delete("Pod", "r0-t0")
    cluster.wait(lambda: DOMAIN_LABEL not in labels(namespace, "r0-t0"), 30, "the first node's label to go")
    assert labels(namespace, "r0-t1")[DOMAIN_LABEL] == uid
    # The domain's end: its template and labels go, too.
    namespace.delete("Pod", "r0-t1")
    namespace.delete("ComputeDomain", "a")
    cluster.wait(lambda: not template(namespace, "a-channel"), 30, "the template to go")
    cluster.wait(lambda: DOMAIN_LABEL not in labels(namespace, "r0-t1"), 30, "the second node's label to go")
    cluster.wait(lambda: not prepared(cluster, "r0-t1", "compute-domain.nvidia.com"), 30, "the channel to come back")


def test_a_node_is_in_one_domain_at_a_time(cluster: Cluster, namespace: Namespace) -> None:
    """The scheduler gives the channel once, and where a claim was forced through, Prepare says no."""
    first, _ = domain(namespace, "first"), domain(namespace, "second")
    cluster.wait(lambda: template(namespace, "second-channel"), 10, "the claim templates")
    namespace.pod("first", templates=["first-channel"], node="r1-t0")
    namespace.seen("first")
    namespace.pod("second", templates=["second-channel"], node="r1-t0")
    cluster.wait(lambda: any("cannot allocate" in e for e in namespace.events("second")), 30, "the scheduler's no")
    # A label that another domain left makes the node refuse.
    cluster.wait(lambda: labels(namespace, "r1-t0").get(DOMAIN_LABEL) == first, 10, "the label")
    namespace.api.patch("Node", "r1-t1", {"metadata": {"labels": {DOMAIN_LABEL: "somebody-elses"}}})
    try:
        namespace.delete("Pod", "second", grace=0)
        cluster.wait(lambda: namespace.phase("second") == "gone", 30, "the second pod to go")
        namespace.pod("third", templates=["second-channel"], node="r1-t1")

        def refused() -> bool:
            return any("is in another ComputeDomain, somebody-elses" in event for event in namespace.events("third"))

        cluster.wait(refused, 40, "Prepare's message in the pod's events")
    finally:
        namespace.api.patch("Node", "r1-t1", {"metadata": {"labels": {DOMAIN_LABEL: None}}})
    # Free again, the kubelet's next try succeeds.
    assert namespace.seen("third", 120)["channels"] == ["channel0"]


def test_a_box_without_a_fabric_gets_no_channel_and_all_channels_are_2048(
    cluster: Cluster, namespace: Namespace
) -> None:
    box = domain(namespace, "box")
    domain(namespace, "all", allocationMode="All")
    cluster.wait(lambda: template(namespace, "all-channel"), 10, "the claim templates")
    namespace.pod("box", templates=["box-channel"], node="head")
    namespace.pod("all", templates=["all-channel"], node="r0-t2")
    assert namespace.seen("box")["channels"] == []
    assert labels(namespace, "head")[DOMAIN_LABEL] == box  # its daemon has nothing to join, and is waited for
    assert len(namespace.seen("all")["channels"]) == 2048


def test_the_spec_of_a_domain_cannot_change(namespace: Namespace) -> None:
    domain(namespace, "fixed")
    with pytest.raises(Rejected, match="spec is immutable"):
        namespace.api.patch("ComputeDomain", "fixed", {"spec": {"numNodes": 2}}, namespace.name)
