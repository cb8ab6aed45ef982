"""What docs/security.md promises, asked of a real API server and Ray with a token; of admission: test_admission.py."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import NotAllowed, Rejected
from ray_dra.operate.check import RIGHTS, may_not
from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, installation
from tests.cluster.world import CONTAINER_CONTEXT, POD_CONTEXT, Account, Namespace
from tests.manifests import containers, pods_in

BUILT = ("kube/simulated-gpus", "kube/topology-agent", *(f"examples/{e}" for e in ("kubernetes", "kubernetes/rayjob")))


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
    before = head.api.get("RayCluster", "gangs", head.namespace.name)["spec"]["workerGroupSpecs"][0]["template"]["spec"]
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
    again = {"op": "add", "path": path, "value": before["containers"][0]["securityContext"]}
    head.api.patch("RayCluster", "gangs", [again], head.namespace.name)
    head.wait_nothing_left()
