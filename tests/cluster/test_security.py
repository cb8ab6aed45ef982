"""What docs/security.md promises, asked of a real API server with its admission, and of Ray with a token."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import NotAllowed, Rejected
from ray_dra.operate.check import RIGHTS, may_not
from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, installation
from tests.cluster.test_api import outside
from tests.cluster.world import Namespace
from tests.manifests import containers, pods_in

LABEL = "ray-dra.io/raycluster"
BUILT = ("kube/simulated-gpus", "kube/topology-agent", *(f"examples/{e}" for e in ("kubernetes", "kubernetes/rayjob")))
Account = Callable[[str, Namespace], KubernetesApi]


@pytest.fixture
def account(cluster: Cluster, tmp_path: Path) -> Iterator[Account]:
    """The API server as seen by a service account."""
    made: list[KubernetesApi] = []

    def api(name: str, namespace: Namespace) -> KubernetesApi:
        made.append(KubernetesApi(str(outside(cluster, cluster.account_kubeconfig(name, namespace.name), tmp_path))))
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
    """Two namespaces; one is taken away, and the other's account keeps every right and both policies."""
    first, second = installation(namespace), installation(other)
    cluster.kubectl("apply", "-k", str(first))
    cluster.kubectl("apply", "-k", str(second))
    ours, theirs = account("ray-dra", namespace), account("ray-dra", other)
    assert lacks(ours, namespace) == lacks(theirs, other) == set()
    assert lacks(ours, other) == EVERY - EVERYWHERE, "it reads the cluster, and has nothing in another's namespace"
    assert lacks(account("default", namespace), namespace) == EVERY
    cluster.kubectl("delete", "-k", str(second))
    assert lacks(ours, namespace) == set()
    kinds = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
    left = cluster.kubectl("get", kinds, "-o", "name")
    assert other.name not in left
    assert left.count(namespace.name) == 6
    cluster.kubectl("delete", "-k", str(first))
    assert namespace.name not in cluster.kubectl("get", kinds, "-o", "name")


def test_the_opt_ins(cluster: Cluster, namespace: Namespace, account: Account) -> None:
    chosen = installation(namespace, "all-accounts", "one-raycluster")
    cluster.kubectl("apply", "-k", str(chosen))
    try:
        assert lacks(account("default", namespace), namespace) == EVERY - EVERYWHERE
        ours = account("ray-dra", namespace)
        assert lacks(ours, namespace, "gangs") == set()
        refused = {f"{verb} rayclusters" for verb in ("get", "list", "watch", "patch")}
        assert lacks(ours, namespace, "another") == refused
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
    at, ours = head.namespace.name, account("ray-dra", head.namespace)
    group = head.api.get("RayCluster", "gangs", at)["spec"]["workerGroupSpecs"][0]
    template = group["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "made"}, "spec": template["spec"]}
    ours.create(pod, at, dry_run=True)
    with pytest.raises(NotAllowed, match="in dry runs only"):
        ours.create(pod, at)
    # Pods of others; the head's is one.
    with pytest.raises(NotAllowed, match="gangs' workers only"):
        ours.patch("Pod", head.pod, {"metadata": {"labels": {LABEL: "gangs"}}}, at)
    with pytest.raises(NotAllowed, match="gangs' workers only"):
        ours.delete("Pod", head.pod, at)
    gated = {**template["spec"], "schedulingGates": [{"name": "ray-dra.io/gang"}]}
    head.api.create({**pod, "metadata": {"name": "worker", "labels": {LABEL: "gangs"}}, "spec": gated}, at)
    ours.patch("Pod", "worker", {"metadata": {"annotations": {"a": "b"}}}, at)
    ours.delete("Pod", "worker", at)
    # Its own RayCluster: copies of a group, and nothing that a group had not before.
    for path, value in (
        ("headGroupSpec/template/spec/containers/0/image", "localhost/evil"),
        ("headGroupSpec/template/spec/serviceAccountName", "default"),
        ("authOptions/mode", "disabled"),
        ("autoscalerOptions", {"image": "localhost/evil"}),
    ):
        evil = [{"op": "add", "path": f"/spec/{path}", "value": value}]
        with pytest.raises(NotAllowed, match="does not change the head"):
            ours.patch("RayCluster", "gangs", evil, at, dry_run=True)

    def add(change: Callable[[dict[str, Any]], object]) -> None:
        made = copy.deepcopy(group) | {"groupName": "rd-0"}
        change(made["template"]["spec"])
        ours.patch(
            "RayCluster", "gangs", [{"op": "add", "path": "/spec/workerGroupSpecs/-", "value": made}], at, dry_run=True
        )

    add(lambda spec: spec["containers"][0].setdefault("env", []).append({"name": "A", "value": "b"}))
    secret = {"secretKeyRef": {"name": "gangs", "key": "auth_token"}}
    more: tuple[Callable[[dict[str, Any]], object], ...] = (
        lambda spec: spec.update(serviceAccountName="ray-dra"),
        lambda spec: spec.pop("automountServiceAccountToken"),
        lambda spec: spec.update(hostNetwork=True),
        lambda spec: spec.pop("securityContext"),
        lambda spec: spec["volumes"].append({"name": "s", "secret": {"secretName": "another"}}),
        lambda spec: spec["containers"].append({"name": "more", "image": "localhost/evil"}),
        lambda spec: spec["containers"][0].update(image="localhost/evil"),
        lambda spec: spec["containers"][0].pop("securityContext"),
        lambda spec: spec["containers"][0].update(envFrom=[{"secretRef": {"name": "another"}}]),
        lambda spec: spec["containers"][0].update(env=[{"name": "A", "valueFrom": secret}]),
    )
    for change in more:
        with pytest.raises(NotAllowed, match="copies of one there"):
            add(change)


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
