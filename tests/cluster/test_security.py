"""What docs/security.md promises, asked of a real API server with its admission, and of Ray with a token."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import NotAllowed, Rejected
from ray_dra.operate.check import RIGHTS, may_not
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.raycluster import read_raycluster
from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster
from tests.cluster.head import EXAMPLE, Head, installation
from tests.cluster.test_api import outside
from tests.cluster.world import CONTAINER_CONTEXT, POD_CONTEXT, Namespace, opaque
from tests.manifests import containers, pods_in
from tests.translate.kube.objects import BOXES, allocate, gang

LABEL = "ray-dra.io/raycluster"
BUILT = ("kube/simulated-gpus", "kube/topology-agent", *(f"examples/{e}" for e in ("kubernetes", "kubernetes/rayjob")))
Account = Callable[..., KubernetesApi]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def account(cluster: Cluster, tmp_path: Path) -> Iterator[Account]:
    """The API server as seen by a service account."""
    made: list[KubernetesApi] = []

    def api(name: str, namespace: Namespace, pod: str = "") -> KubernetesApi:
        config = cluster.account_kubeconfig(name, namespace.name, pod=pod)
        made.append(KubernetesApi(str(outside(cluster, config, tmp_path))))
        return made[-1]

    yield api
    for each in made:
        each.close()


@pytest.fixture
def other(cluster: Cluster) -> Iterator[Namespace]:
    made = Namespace(cluster, f"t-{uuid.uuid4().hex[:8]}")
    yield made
    made.end()


def lacks(api: KubernetesApi, namespace: Namespace, name: str = "gangs") -> set[str]:
    """Every right of ours that an account has not."""
    return {f"{verb} {right.resource}" for right in RIGHTS for verb in may_not(api, right, namespace.name, name)}


EVERY = {f"{verb} {right.resource}" for right in RIGHTS for verb in right.verbs}
EVERYWHERE = {f"{verb} {right.resource}" for right in RIGHTS for verb in right.verbs if right.everywhere}


def test_installations_share_nothing_and_others_get_nothing(
    cluster: Cluster, namespace: Namespace, other: Namespace, account: Account
) -> None:
    """Two namespaces; one is taken away, and the other's account keeps every right and every policy."""
    first, second = installation(namespace), installation(other)
    cluster.kubectl("apply", "-k", str(first))
    cluster.kubectl("apply", "-k", str(second))
    ours, theirs = account("ray-dra", namespace), account("ray-dra", other)
    assert lacks(ours, namespace) == lacks(theirs, other) == set()
    assert lacks(ours, other) == EVERY - EVERYWHERE, "it reads the cluster, and has nothing in another's namespace"
    assert lacks(account("default", namespace), namespace) == EVERY
    # Nor are others held to anything, where there is no RayCluster yet.
    container = {"name": "main", "image": "none", "securityContext": CONTAINER_CONTEXT}
    spec = {"securityContext": POD_CONTEXT, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "somebodys"}, "spec": spec}
    namespace.api.create(pod, namespace.name, dry_run=True)
    cluster.kubectl("delete", "-k", str(second))
    assert lacks(ours, namespace) == set()
    kinds = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
    left = cluster.kubectl("get", kinds, "-o", "name")
    assert other.name not in left
    assert left.count(namespace.name) == 10
    cluster.kubectl("delete", "-k", str(first))
    assert namespace.name not in cluster.kubectl("get", kinds, "-o", "name")


def test_the_opt_ins(cluster: Cluster, namespace: Namespace, account: Account) -> None:
    chosen = installation(namespace, "all-accounts", "one-raycluster")
    cluster.kubectl("apply", "-k", str(chosen))
    try:
        assert lacks(account("default", namespace), namespace) == EVERY - EVERYWHERE
        ours = account("ray-dra", namespace)
        services = {f"{verb} rayservices" for verb in ("list", "watch")}
        assert lacks(ours, namespace, "gangs") == services
        refused = {f"{verb} rayclusters" for verb in ("get", "list", "watch")}
        assert lacks(ours, namespace, "another") == refused | services
        # As the coordinator lists and watches it: by its name.
        assert ours.items("RayCluster", namespace.name, fields="metadata.name=gangs") == []
        with pytest.raises(NotAllowed):
            ours.items("RayCluster", namespace.name)
    finally:
        cluster.kubectl("delete", "-k", str(chosen))


def test_pod_security_admits_everything_but_the_node_driver(cluster: Cluster, namespace: Namespace) -> None:
    """Every pod of every kustomization that ships, in a namespace labelled restricted."""
    admitted, refused = set(), set()
    for folder in BUILT:
        for thing in cluster.built(PROJECT / folder):
            for _, spec in pods_in(thing):
                name = containers(spec)[0]["name"]
                spec = {**spec, "serviceAccountName": "default"}
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
                try:
                    namespace.api.create({**pod, "metadata": {"name": name}}, namespace.name, dry_run=True)
                    admitted.add(name)
                except (Rejected, NotAllowed) as error:
                    assert isinstance(error, Rejected), error
                    assert "violates PodSecurity" in str(error.available)
                    refused.add(name)
    assert admitted == {"controller", "agent", "ray-head", "ray-worker", "submitter"}
    assert refused == {"driver"}


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
    claim = attempt.claim(slot, made["metadata"]["uid"])
    assert claim is not None
    bare = {**claim, "metadata": {**claim["metadata"], "labels": {}}}
    orphan = {**claim, "metadata": {**claim["metadata"], "ownerReferences": []}}
    (asked,) = claim["spec"]["devices"]["requests"]
    admin = {**asked, "exactly": {**asked["exactly"], "adminAccess": True}}
    channel = {**asked, "exactly": {**asked["exactly"], "deviceClassName": "compute-domain-default-channel.nvidia.com"}}
    either = {"name": "gpus", "firstAvailable": [{"name": "one", "deviceClassName": "gpu.nvidia.com"}]}
    settings = opaque({"kind": "GpuConfig"})
    for wrong_claim, said in (
        (bare, "gangs' claims only"),
        (orphan, "is its pod's"),
        ({**claim, "metadata": {**claim["metadata"], "name": "another"}}, "is its pod's"),
        ({**claim, "spec": {"devices": {"requests": [admin]}}}, "is its pod's|admin"),
        ({**claim, "spec": {"devices": {"requests": [channel]}}}, "is its pod's"),
        ({**claim, "spec": {"devices": {"requests": [either]}}}, "is its pod's"),
        ({**claim, "spec": {"devices": {**claim["spec"]["devices"], "config": [settings]}}}, "is its pod's"),
    ):
        with pytest.raises((NotAllowed, Rejected), match=said):
            ours.create(wrong_claim, at, dry_run=True)
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


def test_ray_asks_for_the_token_and_no_worker_has_kubernetes(cluster: Cluster, head: Head) -> None:
    """The control store and jobs are open with the token and shut without, from the head's own container, too."""
    probe = """
import grpc, os, urllib.error, urllib.request
def jobs(**headers):
    try:
        return urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8265/api/jobs/", headers=headers)).status
    except urllib.error.HTTPError as error:
        return error.code
def store(**metadata):
    call = grpc.insecure_channel("127.0.0.1:6379").unary_unary("/ray.rpc.InternalKVGcsService/InternalKVKeys")
    try:
        return "open" if isinstance(call(b"", timeout=20, metadata=tuple(metadata.items())), bytes) else "?"
    except grpc.RpcError as error:
        return error.code().name
bearer = "Bearer " + os.environ["RAY_AUTH_TOKEN"]
print(jobs(), jobs(Authorization="Bearer x"), jobs(Authorization=bearer))
print(store(), store(authorization="Bearer x"), store(authorization=bearer))
"""
    at = ("-n", head.namespace.name)
    said = cluster.kubectl("exec", *at, head.pod, "-c", "ray-head", "--", "python3", "-c", probe)
    assert said.split() == ["401", "403", "200", "UNAUTHENTICATED", "UNAUTHENTICATED", "open"]
    (found,) = head.run(
        """
gang = racks(2); gang.wait(200)
@ray.remote(num_gpus=4, num_cpus=0)
def mine():
    token = os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token")
    return token, os.getuid(), os.access("/", os.W_OK), bool(os.environ.get("RAY_AUTH_TOKEN"))
tell(seen=ray.get(mine.options(scheduling_strategy=Strategy(gang.placement_group, 0)).remote()))
gang.remove()
"""
    )
    assert found["seen"] == [False, 1000, False, True]
    # A worker group that Pod Security does not take: said before anything is made.
    path = "/spec/workerGroupSpecs/0/template/spec/containers/0/securityContext"
    head.api.patch("RayCluster", "gangs", [{"op": "remove", "path": path}], head.namespace.name)
    (refused,) = head.run(
        """
try:
    racks(2).wait(200)
except ray_dra.UnsatisfiableError as error:
    tell(said=str(error))
"""
    )
    assert "violates PodSecurity" in refused["said"]
    head.wait_nothing_left()
