"""Kubernetes' own gang scheduling, with its gate on: what the real scheduler makes of PodGroups, and gangs in them. On
paper nodes, as for those who are not root."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ray_dra.adapters.gang_scheduling import why_ungrouped
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import KubernetesError
from ray_dra.operate.check import GANG_SCHEDULING_RIGHTS, may_not
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.gang_scheduling import grouped_probe
from ray_dra.translate.kube.pods import gate_opened
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.kube.shapes import kind_in
from ray_dra.translate.names import CLUSTER_LABEL, GANG_SCHEDULING_ANNOTATION, POD_GROUP_APIS
from tests.cluster.binaries import Say
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import Options
from tests.cluster.head import installation_in
from tests.cluster.paper import add_paper_nodes
from tests.cluster.paper_gangs import Gangs, raycluster
from tests.cluster.test_lifetime import traces
from tests.cluster.world import CONTAINER_CONTEXT, POD_CONTEXT, Namespace, request
from tests.translate.kube.objects import RACKS, allocate, gang

GATES = {"GenericWorkload": True, "TopologyAwareWorkloadScheduling": True, "DRAWorkloadResourceClaims": True}
NAMESPACE, NODES = "whole", 4
POD_GROUP = kind_in(POD_GROUP_APIS[0], "PodGroup")
QUIET: Say = lambda text: None  # noqa: E731


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Cluster]:
    """Four paper nodes of four GPUs, and KubeRay."""
    options = Options(gates=GATES, runtime_config=("scheduling.k8s.io/v1beta1=true",), grace=3600)
    made = Cluster.up(f"gangs-{os.getpid()}", nodes=(), real=False, options=options, say=QUIET)
    try:
        add_paper_nodes(made.api, NODES)
        made.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        made.wait(lambda: made.api.find("ServiceAccount", "default", NAMESPACE) is not None, 30, "the account")
        made.kubectl("apply", "-k", str(installation_in(made, NAMESPACE, "gang-scheduling")))
        yield made
    finally:
        made.down(keep_logs="RAY_DRA_KEEP_LOGS" in os.environ)
    assert traces(f"gangs-{os.getpid()}") == []


@contextmanager
def running(cluster: Cluster, name: str, asked: str) -> Iterator[Gangs]:
    """A RayCluster and its coordinator, with the rights of its head."""
    made = raycluster(name, NAMESPACE)
    made["metadata"]["annotations"] = {GANG_SCHEDULING_ANNOTATION: asked}
    cluster.api.create(made, NAMESPACE)
    account = account_of(cluster, name)
    gangs = Gangs(cluster, NAMESPACE, name, account)
    try:
        yield gangs
    finally:
        gangs.close()
        account.close()
        cluster.api.delete("RayCluster", name, NAMESPACE)


def account_of(cluster: Cluster, name: str) -> KubernetesApi:
    """The account `ray-dra`, as the head has it."""
    chosen = f"ray.io/cluster={name},ray.io/node-type=head"
    cluster.wait(lambda: bool(cluster.api.items("Pod", NAMESPACE, labels=chosen)), 60, "its head")
    (head,) = cluster.api.items("Pod", NAMESPACE, labels=chosen)
    return KubernetesApi(str(cluster.account_kubeconfig("ray-dra", NAMESPACE, head["metadata"]["name"])))


def groups(gangs: Gangs) -> list[dict[str, Any]]:
    return gangs.api.items(POD_GROUP, NAMESPACE, labels=f"{CLUSTER_LABEL}={gangs.raycluster}")


def test_all_pods_of_a_pod_group_are_bound_or_none(control_plane: Cluster) -> None:
    """What is built upon: with one GPU too few none of the pods is bound."""
    cluster, api = control_plane, control_plane.api
    assert '"podgroups"' in api.raw(f"/apis/{POD_GROUP_APIS[0]}")
    namespace = Namespace(cluster, "gang")
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "three"},
        "spec": {"spec": {"devices": {"requests": [request(count=3)]}}},
    }
    api.create(template, namespace.name)

    def put(name: str, pods: int) -> None:
        group = {
            "apiVersion": POD_GROUP_APIS[0],
            "kind": "PodGroup",
            "metadata": {"name": name},
            "spec": {"schedulingPolicy": {"gang": {"minCount": pods}}},
        }
        cluster.kubectl("apply", "-n", namespace.name, "-f", "-", stdin=json.dumps(group))
        for at in range(pods):
            spec = {
                "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "three"}],
                "schedulingGroup": {"podGroupName": name},
            }
            api.create(pod(f"{name}-{at}", spec), namespace.name)

    def bound(name: str) -> int:
        pods = api.items("Pod", namespace.name)
        return sum("nodeName" in p["spec"] for p in pods if p["metadata"]["name"].startswith(name))

    put("large", NODES + 1)
    cluster.wait(lambda: any("chedul" in e for e in namespace.events("large-0")), 30, "a word on the large gang")
    time.sleep(2)
    assert bound("large") == 0
    put("small", NODES)
    cluster.wait(lambda: bound("small") == NODES, 60, "the gang that fits")
    assert bound("large") == 0
    for each in api.items("Pod", namespace.name):
        api.delete("Pod", each["metadata"]["name"], namespace.name, grace=0)
    cluster.wait(lambda: not api.items("ResourceClaim", namespace.name), 60, "the GPUs to be free")


def pod(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """One that has the devices of a claim `gpus`."""
    container = {
        "name": "main",
        "image": "none",
        "resources": {"claims": [{"name": "gpus"}]},
        "securityContext": CONTAINER_CONTEXT,
    }
    own = {"containers": [container], "securityContext": POD_CONTEXT, "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {**own, **spec}}


def test_a_gang_is_bound_in_its_pod_group_which_goes_with_it(control_plane: Cluster) -> None:
    with running(control_plane, "grouped", "true") as gangs:
        gang = gangs.submit(2)
        gangs.until(lambda: gangs.bound() == 2)
        (group,) = groups(gangs)
        named = {each["spec"]["schedulingGroup"]["podGroupName"] for each in gangs.pods()}
        assert named == {group["metadata"]["name"]}
        assert group["spec"]["schedulingPolicy"] == {"gang": {"minCount": 2}}

        def scheduled() -> bool:
            found = groups(gangs)[0].get("status", {}).get("conditions", ())
            return {each["type"]: each["status"] for each in found}.get("PodGroupInitiallyScheduled") == "True"

        gangs.until(scheduled)
        gangs.coordinator.release(gang)
        gangs.until(lambda: gangs.nothing_left() and not groups(gangs))


@pytest.mark.parametrize(("asked", "halves"), [("true", 0), ("false", 1)])
def test_where_a_device_is_taken_in_between_no_half_of_a_gang_is_bound(
    control_plane: Cluster, asked: str, halves: int
) -> None:
    """Without its PodGroup the other worker is. The coordinator, which would give all back, looks away meanwhile."""
    cluster, api = control_plane, control_plane.api
    with running(cluster, f"raced-{asked}", asked) as gangs:
        gang = gangs.submit(2)

        def made() -> bool:
            claims = api.items("ResourceClaim", NAMESPACE, labels=f"{CLUSTER_LABEL}={gangs.raycluster}")
            return len(gangs.pods()) == len(claims) == 2

        gangs.until(made)
        first = gangs.pods()[0]
        assert all(each["spec"].get("schedulingGates") for each in gangs.pods()), "it is made, and not let in yet"
        affinity = first["spec"]["affinity"]
        claim = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": "rival"},
            "spec": {"devices": {"requests": [request(count=4)]}},
        }
        api.create(claim, NAMESPACE)
        rival = {"affinity": affinity, "resourceClaims": [{"name": "gpus", "resourceClaimName": "rival"}]}
        api.create(pod("rival", rival), NAMESPACE)
        cluster.wait(lambda: "nodeName" in api.get("Pod", "rival", NAMESPACE)["spec"], 30, "the rival")
        for each in gangs.kube.view().pods:
            api.patch("Pod", each.name, gate_opened(each), NAMESPACE)

        def refused() -> bool:
            found = api.get("Pod", first["metadata"]["name"], NAMESPACE)["status"].get("conditions", ())
            return any(each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable" for each in found)

        cluster.wait(refused, 30, "a word of the scheduler's")
        time.sleep(2)
        assert sum("nodeName" in each["spec"] for each in gangs.pods()) == halves
        api.delete("Pod", "rival", NAMESPACE, grace=0)
        api.delete("ResourceClaim", "rival", NAMESPACE)
        gangs.until(lambda: gangs.bound() == 2, 90)
        gangs.coordinator.release(gang)
        gangs.until(lambda: gangs.nothing_left() and not groups(gangs))


def test_the_heads_account_makes_pod_groups_of_its_gangs_and_no_others(control_plane: Cluster) -> None:
    cluster, name = control_plane, "rights"
    cluster.api.create(raycluster(name, NAMESPACE), NAMESPACE)
    ours = account_of(cluster, name)
    read = read_raycluster(cluster.api.get("RayCluster", name, NAMESPACE))
    pair = allocate(RACKS, gang([{"GPU": 4}] * 2), compute_domains=False)
    attempt = attempt_of(pair, read, compute_domains=False, gang_scheduling=POD_GROUP_APIS[0])
    slot = next(iter(attempt.slots.values()))
    by_name = {"name": "c", "resourceClaimName": "theirs"}  # by which its pods would have others' devices
    by_template = {"name": "c", "resourceClaimTemplateName": "theirs"}

    def makes(thing: dict[str, Any] | None, change: Callable[[dict[str, Any]], object] = bool) -> None:
        made = copy.deepcopy(thing)
        assert made is not None
        change(made)
        ours.create(made, NAMESPACE, dry_run=True)

    try:
        assert [may_not(ours, right, NAMESPACE, name) for right in GANG_SCHEDULING_RIGHTS] == [[]]
        assert why_ungrouped(ours, POD_GROUP_APIS[0], grouped_probe(read), NAMESPACE) == ""
        makes(attempt.pod_group)
        makes(attempt.pod(slot))
        refused: tuple[tuple[str, Callable[[dict[str, Any]], object]], ...] = (
            ("is named after its attempt", lambda group: group["metadata"].update(name="another")),
            ("is its RayCluster's", lambda group: group["metadata"].pop("ownerReferences")),
            ("from a RayCluster's head", lambda group: group["metadata"]["labels"].update({CLUSTER_LABEL: "another"})),
            ("and has no claims", lambda group: group["spec"].update(resourceClaims=[by_name])),
            ("and has no claims", lambda group: group["spec"].update(resourceClaims=[by_template])),
        )
        for said, change in refused:
            with pytest.raises(KubernetesError, match=said):
                makes(attempt.pod_group, change)
        with pytest.raises(KubernetesError, match="in no PodGroup but its attempt's"):
            makes(attempt.pod(slot), lambda pod: pod["spec"].update(schedulingGroup={"podGroupName": "another"}))
        theirs = {**(attempt.pod_group or {}), "metadata": {"name": "theirs"}}
        cluster.api.create(theirs, NAMESPACE)
        with pytest.raises(KubernetesError, match="PodGroups, which are labelled"):
            ours.delete(POD_GROUP, "theirs", NAMESPACE)
        cluster.api.delete(POD_GROUP, "theirs", NAMESPACE)
    finally:
        ours.close()
        cluster.api.delete("RayCluster", name, NAMESPACE)
