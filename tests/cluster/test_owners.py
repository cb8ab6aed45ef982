"""RayClusters that others write all the time: a RayService with its upgrade, Ray's autoscaler, GitOps, Recreate."""

from __future__ import annotations

import copy
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ray_dra.translate.names import CLUSTER_LABEL, GANG_LABEL, LOCALITY_LABEL
from tests.cluster.cluster import Cluster
from tests.cluster.head import EXAMPLE, OURS, Head, claimed, installation, told
from tests.cluster.world import CONTAINER_CONTEXT, Namespace

APPLICATION = """
import ray, ray_dra
from ray import serve
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy

@ray.remote(num_gpus=4, num_cpus=0)
def rank():
    import os, pynvml
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return os.uname().nodename, [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]

@ray.remote(num_cpus=0)
def heard():
    notice = ray_dra.get_notice()
    return notice and notice.reason

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Gang:
    def __init__(self):
        gang = ray_dra.placement_group([{"GPU": 4}] * 2, product="NVIDIA GB200", locality=ray_dra.same_clique())
        gang.wait(200)
        planned = [sorted(grant.uuid for grant in placed.grants) for placed in gang.allocation.bundles]
        at = [Strategy(gang.placement_group, bundle) for bundle in range(2)]
        ranks = ray.get([rank.options(scheduling_strategy=each).remote() for each in at], timeout=100)
        self.gang, self.at, self.answer = gang, at, {"id": gang.id, "planned": planned, "ranks": ranks}

    def __call__(self, request):
        notice = self.gang.notice()
        told = [notice.reason, notice.deadline, notice.ranks] if notice else None
        in_gang = ray.get(heard.options(scheduling_strategy=self.at[1]).remote(), timeout=60) if notice else None
        return {**self.answer, "notice": told, "heard": in_gang}

application = Gang.bind()
"""

# One that knows nothing of ray-dra: Serve makes a placement group for its replica. It names a node, so that there is
# room for the next one in an upgrade.
UNCHANGED = """
import ray
from ray import serve
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy

def look():
    import os, pynvml
    pynvml.nvmlInit()
    uuids = [pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    return os.uname().nodename, [uuids[int(i)] for i in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]

@serve.deployment(
    ray_actor_options={"num_cpus": 0, "num_gpus": 2},
    placement_group_bundles=[{"GPU": 2}] * 2,
    placement_group_bundle_label_selector=[{"kubernetes.io/hostname": "head"}] * 2,
)
class Replica:
    def __init__(self):
        group = ray.util.get_current_placement_group()
        there = ray.remote(num_gpus=2, num_cpus=0)(look).options(scheduling_strategy=Strategy(group, 1)).remote()
        self.answer = {"id": group.id.hex(), "ranks": [look(), ray.get(there)]}

    def __call__(self, request):
        return self.answer

application = Replica.bind()
"""


def example(cluster: Cluster) -> dict[str, Any]:
    """The example's RayCluster, with a head that is soon gone."""
    (found,) = (thing for thing in cluster.built(EXAMPLE) if thing["kind"] == "RayCluster")
    found["spec"]["headGroupSpec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 3
    return found


def of(head: Head, raycluster: str) -> list[str]:
    """What is there of a RayCluster's gangs."""
    kinds = (*OURS, "Pod")
    found = {kind: head.api.items(kind, head.namespace.name, labels=f"{CLUSTER_LABEL}={raycluster}") for kind in kinds}
    return [f"{kind} {thing['metadata']['name']}" for kind, things in found.items() for thing in things]


def events_of(head: Head, raycluster: str) -> list[dict[str, Any]]:
    """What was told of a RayCluster."""
    found = head.api.items("Event", head.namespace.name, fields=f"involvedObject.name={raycluster}")
    return [event for event in found if event["source"].get("component") == "ray-dra"]


def rayservice(cluster: Cluster) -> dict[str, Any]:
    """The example's RayCluster as a RayService's, with an application that asks for a gang, and one for whose
    replica Serve makes a placement group."""
    spec = example(cluster)["spec"]
    for template in (spec["headGroupSpec"]["template"], spec["workerGroupSpecs"][0]["template"]):
        container = template["spec"]["containers"][0]
        container["env"] = [*container.get("env", ()), {"name": "PYTHONPATH", "value": "/serve"}]
        container["volumeMounts"].append({"name": "serve", "mountPath": "/serve"})
        template["spec"]["volumes"].append({"name": "serve", "configMap": {"name": "serve"}})
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"].append({"containerPort": 8000, "name": "serve"})
    applications = [
        {"name": "gang", "import_path": "application:application", "route_prefix": "/"},
        {"name": "unchanged", "import_path": "unchanged:application", "route_prefix": "/unchanged"},
    ]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "serve", "annotations": {LOCALITY_LABEL: "same_clique"}},
        "spec": {
            "serveConfigV2": json.dumps({"applications": applications}),
            "rayClusterDeletionDelaySeconds": 15,  # in which its head hears of the end and tells it
            "rayClusterConfig": spec,
        },
    }


def test_a_rayservice_has_a_gang_and_the_next_one_before_the_old_one_goes(
    cluster: Cluster, namespace: Namespace
) -> None:
    """An upgrade makes another RayCluster, whose application gets a gang beside the old one's; then the old RayCluster
    goes, with its gang, whose program and workers have heard of it. So it is with the placement group that Serve makes
    for an application that knows of nothing."""
    at = namespace.name
    cluster.kubectl("apply", "-k", str(installation(namespace)))
    files = (f"--from-literal=application.py={APPLICATION}", f"--from-literal=unchanged.py={UNCHANGED}")
    cluster.kubectl("create", "-n", at, "configmap", "serve", *files)
    wanted = rayservice(cluster)

    def serving(but: str = "") -> str:
        """The RayCluster that serves."""
        cluster.kubectl("apply", "-n", at, "-f", "-", stdin=json.dumps(wanted))
        found: list[str] = []

        def active() -> bool:
            path = "jsonpath={.status.activeServiceStatus.rayClusterName}"
            found[:] = [cluster.kubectl("get", "-n", at, "rayservice", "serve", "-o", path)]
            return found[0] not in ("", but)

        cluster.wait(active, 240, "the RayService to serve")
        return found[0]

    def said_by(head: Head, route: str) -> dict[str, Any]:
        ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/{route}').read().decode())"
        said = cluster.kubectl("exec", "-n", at, head.pod, "-c", "ray-head", "--", "python3", "-c", ask)
        return dict(json.loads(said))

    def of_serve(raycluster: str) -> list[str]:
        """The GPUs of the replica for which Serve made a group: all that the claim of its one pod says."""
        head = Head(namespace, raycluster)
        found = said_by(head, "unchanged")
        ((pod, uuids),) = claimed(head, found["id"]).items()
        seen = [uuid for where, uuids in found["ranks"] for uuid in uuids if where == pod]
        assert sorted(seen) == uuids
        assert len(seen) == 4
        return seen

    def answer(raycluster: str) -> dict[str, Any]:
        """What the application says, asked on the head; its gang is what was planned, and what the claims say."""
        head = Head(namespace, raycluster)
        found = said_by(head, "")
        allocated = claimed(head, found["id"])
        assert len(found["ranks"]) == 2
        for planned, (pod, seen) in zip(found["planned"], found["ranks"], strict=True):
            assert planned == sorted(seen) == allocated[pod]
        return found

    first = serving()
    before, serves_before = answer(first), of_serve(first)
    container = wanted["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "VERSION", "value": "2"})
    cluster.kubectl("apply", "-n", at, "-f", "-", stdin=json.dumps(wanted))
    cluster.wait(lambda: answer(first)["notice"], 60, "the program of the first gang to hear that it will end")
    warned = answer(first)
    assert warned["heard"] == warned["notice"][0]
    assert warned["notice"][1:] == [None, [0, 1]]
    assert "RayService serve is being upgraded" in warned["notice"][0]
    second = serving(but=first)
    after, serves = answer(second), of_serve(second)
    assert before["notice"] is None is after["notice"]
    assert not {*serves_before} & {*serves}
    assert not {u for bundle in before["planned"] for u in bundle} & {u for bundle in after["planned"] for u in bundle}
    old = Head(namespace, first)
    cluster.wait(lambda: not of(old, first), 60, f"the old RayCluster's gang to go: {of(old, first)}")
    assert answer(second) == after
    told = [e["message"] for e in events_of(old, first) if e["reason"] == "GangNotice"]
    assert any(f"has gone over to RayCluster {second}" in said for said in told), told
    asked = [event for event in cluster.asked("ray-dra", at) if "rayservices" in event["requestURI"]]
    assert {event["verb"] for event in asked} == {"list", "watch"}, "a right that other heads need not"
    cluster.kubectl("delete", "-n", at, "rayservice", "serve", "--wait=false")
    cluster.wait(lambda: not of(old, second), 60, f"the gang to go with the RayService: {of(old, second)}")


@contextmanager
def applied_again(cluster: Cluster, namespace: Namespace, wanted: dict[str, Any]) -> Iterator[list[int]]:
    """Something like GitOps: what is wanted is applied every second, and is news each time. Yields what it saw: how
    many workers Ray's autoscaler wanted of all but the last group."""
    seen: list[int] = []
    ended = threading.Event()

    def apply() -> None:
        while not ended.wait(1):
            wanted["metadata"]["annotations"] = {"applied": uuid.uuid4().hex, LOCALITY_LABEL: "same_clique"}
            wanted["spec"]["workerGroupSpecs"][0]["template"].setdefault("metadata", {})["annotations"] = {
                "applied": str(len(seen) % 2)
            }
            cluster.kubectl("apply", "-n", namespace.name, "-f", "-", stdin=json.dumps(wanted))
            groups = namespace.api.get("RayCluster", "gangs", namespace.name)["spec"]["workerGroupSpecs"]
            seen.extend(group.get("replicas") or 0 for group in groups[:-1])

    thread = threading.Thread(target=apply)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.mark.by_hand  # 177 s
def test_a_raycluster_that_scales_itself_and_is_applied_again_every_second(
    cluster: Cluster, namespace: Namespace
) -> None:
    """Ray's autoscaler makes and ends what it is there for, beside gangs; it makes nothing for a gang that waits, nor
    for an ordinary placement group that is made, or that never fits, and takes nothing of one. A change under
    `Recreate` ends the gang with everything else, and nothing of it is left."""
    at = namespace.name
    cluster.kubectl("apply", "-k", str(installation(namespace)))
    wanted = example(cluster)
    wanted["metadata"]["annotations"] = {LOCALITY_LABEL: "same_clique"}
    spec, (group,) = wanted["spec"], wanted["spec"]["workerGroupSpecs"]
    interval = [{"name": "AUTOSCALER_UPDATE_INTERVAL_S", "value": "1"}]
    spec["autoscalerOptions"] = {"securityContext": CONTAINER_CONTEXT, "idleTimeoutSeconds": 4, "env": interval}
    spec["enableInTreeAutoscaling"] = True
    group["maxReplicas"] = 2
    del group["replicas"]  # as in what GitOps applies beside an autoscaler
    # One whose workers would be what a waiting gang asks for, and one for what else the program asks.
    for name, params in (("gpus", {"num-gpus": "4"}), ("theirs", {"resources": "'{\"theirs\": 1}'"})):
        spec["workerGroupSpecs"].append({**copy.deepcopy(group), "groupName": name, "rayStartParams": params})
    cluster.kubectl("apply", "-n", at, "-f", "-", stdin=json.dumps(wanted))
    head = Head(namespace)
    cluster.wait(head.ready, 150, "the head with the autoscaler")

    def groups() -> list[str]:
        pods = head.api.items("Pod", at, labels="ray.io/cluster=gangs,ray.io/node-type=worker")
        return [pod["metadata"]["labels"]["ray.io/group"] for pod in pods]

    with applied_again(cluster, namespace, wanted) as seen:
        process = head.start(
            """
@ray.remote(num_cpus=0, resources={"theirs": 1})
def other(): return os.uname().nodename
gang = racks(2)
never = ray.util.placement_group([{"GPU": 4}] * 40)
ordinary = ray.util.placement_group([{"GPU": 4}] * 2, bundle_label_selector=[{"kubernetes.io/hostname": "head"}] * 2)
worker = other.remote()
gang.wait(200)
tell(id=gang.id, planned=planned(gang), ranks=ranks(gang), worker=ray.get(worker, timeout=100))
ray.get(ordinary.ready(), timeout=100)
tell(id=ordinary.id.hex(), states=[ray.util.placement_group_table(each)["state"] for each in (ordinary, never)])
hold()
tell(ranks=len(ranks(gang)))
time.sleep(600)
"""
        )
        gang = told(process)
        assert [rank["seen"] for rank in gang["ranks"]] == gang["planned"]
        assert gang["worker"].startswith("gangs-theirs-worker-")
        pods = set(claimed(head, gang["id"]))
        ordinary = told(process)
        assert ordinary["states"] == ["CREATED", "PENDING"]
        (uuids,) = claimed(head, ordinary["id"]).values()
        assert len(uuids) == 8
        cluster.wait(lambda: not groups(), 60, "the idle worker of the autoscaler to go")
        head.let_go()
        assert told(process) == {"ranks": 2}
        assert set(claimed(head, gang["id"])) == pods
    assert len(seen) > 5
    assert set(seen) == {0}, "Ray's autoscaler made workers for a gang"
    said = cluster.kubectl("logs", "-n", at, head.pod, "-c", "autoscaler")
    assert "not managed by autoscaler" in said, "it has seen the gang's raylets"
    assert "Traceback" not in said
    # The next change of the spec, under Recreate.
    before = head.pod
    spec["upgradeStrategy"] = {"type": "Recreate"}
    cluster.kubectl("apply", "-n", at, "-f", "-", stdin=json.dumps(wanted))
    cluster.wait(lambda: head.pod not in ("", before) and head.ready(), 150, "the new head")
    head.wait_nothing_left(120)
    assert head.api.items("Pod", at, labels=GANG_LABEL) == []
