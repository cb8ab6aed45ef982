"""What admission lets a RayCluster's head make, asked of a real API server: its gangs' workers and claims."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import NotAllowed, Rejected
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.claims import shared_by
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.ray.devices import mps, time_slicing
from ray_dra.translate.vendors import NVIDIA
from tests.cluster.cluster import Cluster
from tests.cluster.head import EXAMPLE, Head, installation
from tests.cluster.world import Account, Namespace, opaque
from tests.translate.kube.objects import BOXES, allocate, gang

LABEL = "ray-dra.io/raycluster"
Change = Callable[[dict[str, Any]], object]


def test_the_heads_account_can_do_what_gangs_need_and_no_more(cluster: Cluster, head: Head, account: Account) -> None:
    at, ours = head.namespace.name, account("ray-dra", head.namespace, head.pod)
    elsewhere = account("ray-dra", head.namespace)  # its token is no head's
    read = read_raycluster(head.api.get("RayCluster", "gangs", at))
    box = allocate(BOXES, gang([{"GPU": 8}]), compute_domains=False)
    attempt = attempt_of(box, read, compute_domains=False)
    (slot,) = attempt.slots.values()

    def makes(change: Change, api: KubernetesApi = ours) -> None:
        pod = attempt.pod(slot)
        change(pod)
        api.create(pod, at, dry_run=True)

    nothing: Change = lambda pod: None  # noqa: E731
    makes(nothing)
    makes(lambda pod: pod["spec"]["containers"][0]["env"].append({"name": "A", "value": "b"}))
    with pytest.raises(NotAllowed, match="from a RayCluster's head"):
        makes(nothing, elsewhere)
    labels: tuple[Change, ...] = (
        lambda pod: pod["metadata"]["labels"].update({LABEL: "another"}),
        lambda pod: pod["metadata"]["labels"].pop(LABEL),
    )
    for change in labels:
        with pytest.raises(NotAllowed, match="from a RayCluster's head"):
            makes(change)
    owners: tuple[Change, ...] = (
        lambda pod: pod["metadata"].pop("ownerReferences"),
        lambda pod: pod["metadata"]["ownerReferences"][0].update(name="another"),
        lambda pod: pod["metadata"]["ownerReferences"][0].update(kind="RayJob"),
        lambda pod: pod["metadata"]["ownerReferences"][0].update(controller=False),
        lambda pod: pod["metadata"]["ownerReferences"].append(
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt", "uid": "u"}
        ),
        lambda pod: pod["spec"].update(nodeName="n", schedulingGates=[]),
    )
    for change in owners:  # of policies that say no, any may speak
        with pytest.raises(NotAllowed, match=r"is its RayCluster's, and is placed|being deleted"):
            makes(change)
    with pytest.raises(NotAllowed, match="being deleted"):
        makes(lambda pod: pod["metadata"]["ownerReferences"][0].update(uid="another"))
    claims: tuple[Change, ...] = (
        lambda pod: pod["metadata"].update(name="gangs-head-abcde"),
        lambda pod: pod["spec"]["resourceClaims"].append({"name": "c", "resourceClaimName": "anothers"}),
        lambda pod: pod["spec"]["resourceClaims"].append(
            {"name": "c", "resourceClaimTemplateName": "ray-dra-topology"}
        ),
    )
    for change in claims:
        with pytest.raises(NotAllowed, match="is named after its attempt, and has no claims but its own"):
            makes(change)
    named: tuple[Change, ...] = (
        lambda pod: pod["metadata"]["labels"].update(app="database"),
        lambda pod: pod["metadata"]["labels"].update({"ray.io/cluster": "another"}),
        lambda pod: pod["metadata"]["labels"].update({"ray.io/node-type": "head"}),
        lambda pod: pod["metadata"]["labels"].update({"ray.io/identifier": "another-head"}),
        lambda pod: pod["metadata"].update(annotations={"k8s.v1.cni.cncf.io/networks": "another"}),
        lambda pod: pod["metadata"].update(finalizers=["example.org/stay"]),
    )
    for change in named:
        with pytest.raises(NotAllowed, match="no labels, annotations and finalizers"):
            makes(change)
    by_kai = attempt_of(box, read, compute_domains=False, queue="kai/team-a").pod(slot)
    ours.create(by_kai, at, dry_run=True)
    by_kai["metadata"]["annotations"]["pod-group-name"] = "another"
    with pytest.raises(NotAllowed, match="no labels, annotations and finalizers"):
        ours.create(by_kai, at, dry_run=True)
    secret = {"secretKeyRef": {"name": "another", "key": "auth_token"}}
    suffix = {"secretKeyRef": {"name": "bangs", "key": "auth_token"}}  # ends as the RayCluster does
    host = {"host": "169.254.169.254", "port": 80}
    mixed = {"sources": [{"secret": {"name": "another"}}]}
    more: tuple[tuple[str, Change], ...] = (
        ("copies", lambda spec: spec.update(serviceAccountName="ray-dra")),
        ("copies", lambda spec: spec.pop("automountServiceAccountToken")),
        ("copies", lambda spec: spec.update(hostNetwork=True)),
        ("copies", lambda spec: spec.update(hostPID=True)),
        ("copies", lambda spec: spec.pop("securityContext")),
        ("copies", lambda spec: spec["securityContext"].update(runAsUser=1)),
        ("copies", lambda spec: spec["containers"].append({"name": "more", "image": "localhost/evil"})),
        ("copies", lambda spec: spec["initContainers"].append({"name": "more", "image": "localhost/evil"})),
        ("copies", lambda spec: spec["initContainers"][0].update(image="localhost/evil")),
        ("copies", lambda spec: spec["initContainers"][0].pop("securityContext")),
        ("copies", lambda spec: spec["containers"][0].update(image="localhost/evil")),
        ("copies", lambda spec: spec["containers"][0].pop("securityContext")),
        ("copies", lambda spec: spec["containers"][0].update(envFrom=[{"secretRef": {"name": "another"}}])),
        ("no Secrets", lambda spec: spec["containers"][0]["env"].append({"name": "A", "valueFrom": secret})),
        (
            "copies",
            lambda spec: spec["initContainers"].append({"name": "wait-for-tls-ip-san", "image": "localhost/evil"}),
        ),
        ("no priority", lambda spec: spec.update(priorityClassName="system-node-critical")),
        ("no priority", lambda spec: spec.update(tolerations=[{"operator": "Exists"}])),
        ("no priority", lambda spec: spec.update(terminationGracePeriodSeconds=1 << 30)),
        ("no priority", lambda spec: spec["containers"][0]["resources"]["limits"].update({"example.org/kvm": "1"})),
        ("no priority", lambda spec: spec["containers"][0]["ports"].append({"containerPort": 9, "hostPort": 9})),
        ("no priority", lambda spec: spec["containers"][0].update(livenessProbe={"httpGet": host})),
        ("no priority", lambda spec: spec["containers"][0].update(lifecycle={"postStart": {"httpGet": host}})),
        ("no Secrets", lambda spec: spec["containers"][0]["env"].append({"name": "A", "valueFrom": suffix})),
        ("no Secrets", lambda spec: spec["containers"][0]["env"].append({"name": "NVIDIA_VISIBLE_DEVICES"})),
        ("no volumes", lambda spec: spec["volumes"].append({"name": "kube-api-access-1", "projected": mixed})),
        ("no volumes", lambda spec: spec["volumes"].append({"name": "ray-tls", "secret": {"secretName": "another"}})),
        ("no Secrets", lambda spec: spec["initContainers"][0]["env"].append({"name": "A", "valueFrom": secret})),
        ("no volumes", lambda spec: spec["volumes"].append({"name": "s", "secret": {"secretName": "another"}})),
        ("no volumes", lambda spec: spec["volumes"].append({"name": "s", "configMap": {"name": "another"}})),
        ("no volumes", lambda spec: spec["volumes"].append({"name": "h", "hostPath": {"path": "/"}})),
        ("no volumes", lambda spec: spec["volumes"].append(projected_token("ray-token"))),
        ("no volumes", lambda spec: spec["volumes"].append(projected_token("kube-api-access-1"))),
    )
    for said, wrong in more:
        with pytest.raises((NotAllowed, Rejected), match=f"{said}|violates PodSecurity"):
            makes(partial(_in_spec, wrong))
    # Pods and claims of others; the head's is one.
    with pytest.raises(NotAllowed, match="gangs' workers only"):
        ours.patch("Pod", head.pod, {"metadata": {"labels": {LABEL: "gangs"}}}, at)
    with pytest.raises(NotAllowed, match="gangs' workers only"):
        ours.delete("Pod", head.pod, at)
    made = ours.create(attempt.pod(slot), at)
    ours.patch("Pod", slot.name, {"spec": {"schedulingGates": None}}, at, dry_run=True)
    patches: tuple[Any, ...] = (
        {"metadata": {"labels": {"app": "database"}}},
        {"metadata": {"annotations": {"a": "b"}}},
        {"metadata": {"finalizers": ["example.org/stay"]}},
        [{"op": "add", "path": "/spec/tolerations/-", "value": {"operator": "Exists"}}],
        {"metadata": {"labels": {LABEL: None}}},
        {"metadata": {"labels": {LABEL: "another"}}},
        {"spec": {"containers": [{**made["spec"]["containers"][0], "image": "localhost/evil"}]}},
        {"metadata": {"ownerReferences": None}},
    )
    for patch in patches:
        with pytest.raises(
            NotAllowed, match=r"gangs' workers only|changes nothing else in them|which their label names"
        ):
            ours.patch("Pod", slot.name, patch, at)
    with pytest.raises(NotAllowed, match="from a RayCluster's head"):
        elsewhere.delete("Pod", slot.name, at)
    claim = attempt.claims(slot, made["metadata"]["uid"])[slot.name]
    bare = {**claim, "metadata": {**claim["metadata"], "labels": {}}}
    orphan = {**claim, "metadata": {**claim["metadata"], "ownerReferences": []}}
    (asked,) = claim["spec"]["devices"]["requests"]
    admin = {**asked, "exactly": {**asked["exactly"], "adminAccess": True}}
    channel = {**asked, "exactly": {**asked["exactly"], "deviceClassName": "compute-domain-default-channel.nvidia.com"}}
    either = {"name": "gpus", "firstAvailable": [{"name": "one", "deviceClassName": "gpu.nvidia.com"}]}
    users = {"strategy": "MPS", "mpsConfig": {"multiUser": True}}
    settings = (
        opaque({"kind": "VfioDeviceConfig"}),
        opaque({"kind": "GpuConfig"}, driver="another.com"),
        opaque({"kind": "GpuConfig", "sharing": users}),
    )
    configured = [{"devices": {**claim["spec"]["devices"], "config": [setting]}} for setting in settings]
    for wrong_claim, said in (
        (bare, "gangs' claims only"),
        (orphan, "is its pod's"),
        ({**claim, "metadata": {**claim["metadata"], "name": "another"}}, "is its pod's"),
        ({**claim, "spec": {"devices": {"requests": [admin]}}}, "is its pod's|admin"),
        ({**claim, "spec": {"devices": {"requests": [channel]}}}, "is its pod's"),
        ({**claim, "spec": {"devices": {"requests": [either]}}}, "is its pod's"),
        *(({**claim, "spec": spec}, "is its pod's") for spec in configured),
    ):
        with pytest.raises((NotAllowed, Rejected), match=said):
            ours.create(wrong_claim, at, dry_run=True)
    for sharing in (mps(), mps(memory="20Gi", threads=25), time_slicing("Short")):
        devices = {**claim["spec"]["devices"], "config": [shared_by(sharing, NVIDIA)]}
        ours.create({**claim, "spec": {"devices": devices}}, at, dry_run=True)
    domain: dict[str, Any] = {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "ComputeDomain",
        "metadata": {"name": "rd-1-d0", "namespace": at, "labels": claim["metadata"]["labels"]},
        "spec": {
            "numNodes": 0,
            "channel": {"resourceClaimTemplate": {"name": "rd-1-d0-channel"}, "allocationMode": "Single"},
        },
    }
    ours.create(domain, at, dry_run=True)
    domains: tuple[Change, ...] = (
        lambda thing: thing["metadata"].update(labels={}),
        lambda thing: thing["metadata"].update(labels={LABEL: "another"}),
        lambda thing: thing["spec"]["channel"]["resourceClaimTemplate"].update(name="ray-dra-topology"),
    )
    for change in domains:
        wrong_domain = copy.deepcopy(domain)
        change(wrong_domain)
        with pytest.raises(NotAllowed, match=r"ComputeDomain|for that RayCluster alone|which their label names"):
            ours.create(wrong_domain, at, dry_run=True)
    for name in ("operator", "ray-dra-another"):
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": at}}
        with pytest.raises(NotAllowed, match=r"leases that are named|for that RayCluster alone"):
            ours.create(lease, at, dry_run=True)
    ours.create(claim, at)
    head.api.create({**bare, "metadata": {"name": "others", "namespace": at}}, at)
    with pytest.raises(NotAllowed, match="gangs' claims only"):
        ours.delete("ResourceClaim", "others", at)
    head.api.delete("ResourceClaim", "others", at)
    ours.delete("ResourceClaim", slot.name, at)
    ours.delete("Pod", slot.name, at)
    # Its RayCluster it only reads.
    with pytest.raises(NotAllowed):
        ours.patch("RayCluster", "gangs", {"metadata": {"annotations": {"a": "b"}}}, at, dry_run=True)
    head.wait_nothing_left()


def test_heads_whose_names_begin_alike_and_one_that_is_being_deleted(
    cluster: Cluster, namespace: Namespace, account: Account
) -> None:
    """A head has 50 characters of its RayCluster's name; of a RayCluster that is gone no policy sees the groups."""
    cluster.kubectl("apply", "-k", str(installation(namespace)))
    at, alike = namespace.name, "m" * 51
    (built,) = (thing for thing in cluster.built(EXAMPLE) if thing["kind"] == "RayCluster")
    for name in (f"{alike}a", f"{alike}b"):
        thing = copy.deepcopy(built)
        thing["metadata"] = {"name": name}
        thing["spec"]["headGroupSpec"]["template"]["spec"]["nodeSelector"] = {"no": "where"}
        namespace.api.create(thing, at)

    def head_of(name: str) -> str:
        found = namespace.api.items("Pod", at, labels=f"ray.io/cluster={name},ray.io/node-type=head")
        return found[0]["metadata"]["name"] if found else ""

    cluster.wait(lambda: bool(head_of(f"{alike}a") and head_of(f"{alike}b")), 60, "both heads")
    made = head_of(f"{alike}a")
    ours = account("ray-dra", namespace, made)
    pods = {}
    for name in (f"{alike}a", f"{alike}b"):
        read = read_raycluster(namespace.api.get("RayCluster", name, at))
        attempt = attempt_of(allocate(BOXES, gang([{"GPU": 8}]), compute_domains=False), read, compute_domains=False)
        pods[name] = attempt.pod(next(iter(attempt.slots.values())))
    ours.create(pods[f"{alike}a"], at, dry_run=True)
    nobodys = copy.deepcopy(pods[f"{alike}b"])
    nobodys["metadata"]["labels"][LABEL] = nobodys["metadata"]["ownerReferences"][0]["name"] = f"{alike}c"

    def refused(pod: dict[str, Any]) -> bool:
        try:
            ours.create(pod, at, dry_run=True)
        except NotAllowed as error:
            return "for that RayCluster" in str(error)
        return False

    # The API server takes a second or two to heed a policy that was just applied, and to see what it asks.
    for pod in (pods[f"{alike}b"], nobodys):
        cluster.wait(partial(refused, pod), 20, "another RayCluster's worker to be refused")
    namespace.api.patch("Pod", made, {"metadata": {"finalizers": ["example.org/stay"]}}, at)
    try:
        namespace.api.delete("RayCluster", f"{alike}a", at)
        ended: Callable[[], bool] = lambda: "deletionTimestamp" in namespace.api.get("Pod", made, at)["metadata"]  # noqa: E731
        cluster.wait(ended, 60, "the head to be deleted")
        with pytest.raises(NotAllowed, match="a head that is being deleted makes no workers"):
            ours.create(pods[f"{alike}a"], at, dry_run=True)
    finally:
        namespace.api.patch("Pod", made, {"metadata": {"finalizers": None}}, at)
        cluster.kubectl("delete", "-k", str(installation(namespace)))


def _in_spec(change: Change, pod: dict[str, Any]) -> None:
    change(pod["spec"])


def projected_token(name: str) -> dict[str, Any]:
    return {"name": name, "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
