"""Placement groups on KubeRay, end to end: planned, allocated, seen by NVML and by each rank are the same devices."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ray_dra.simulated.dra import CLIQUE_LABEL, DOMAIN_LABEL
from ray_dra.translate.workers import ATTEMPT_LABEL, GANG_LABEL
from tests.cluster.binaries import PROJECT, program
from tests.cluster.cluster import Cluster
from tests.cluster.world import Namespace, published_uuids, request

EXAMPLE = PROJECT / "examples" / "kubernetes"
OURS = ("ResourceClaimTemplate", "ComputeDomain", "ResourceClaim")

PRELUDE = """
import json, os, sys, time
import ray, ray_dra
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Strategy
ray.init("ray_dra://kubernetes", log_to_driver=False, logging_level="ERROR")
def tell(**what):
    print("TOLD", json.dumps(what), flush=True)
def planned(gang):
    return [[grant.uuid for grant in placed.grants] for placed in gang.allocation.bundles]
@ray.remote(num_gpus=4, num_cpus=0)
def rank():
    import pynvml
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return {"pod": os.uname().nodename, "nvml": [pynvml.nvmlDeviceGetUUID(h) for h in handles],
            "seen": [device.uuid for device in ray_dra.get_devices()]}
def ranks(gang, count=2):
    at = [Strategy(gang.placement_group, bundle) for bundle in range(count)]
    return ray.get([rank.options(scheduling_strategy=each).remote() for each in at], timeout=100)
def racks(count, **more):
    return ray_dra.placement_group([{"GPU": 4}] * count, product="NVIDIA GB200",
                                   locality=ray_dra.same_clique(), **more)
"""


class Head:
    """A RayCluster's head pod, and programs in it."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace, self.cluster, self.api = namespace, namespace.cluster, namespace.api
        self.running: list[subprocess.Popen[str]] = []

    @property
    def pod(self) -> str:
        pods = self.api.items("Pod", self.namespace.name, labels="ray.io/node-type=head")
        alive = [p for p in pods if not p["metadata"].get("deletionTimestamp")]
        return str(alive[0]["metadata"]["name"]) if alive else ""

    def ready(self) -> bool:
        found = self.api.find("Pod", self.pod, self.namespace.name) if self.pod else None
        conditions = (found or {}).get("status", {}).get("conditions", ())
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def start(self, program_text: str) -> subprocess.Popen[str]:
        """A Ray program on the head; what it tells is read by `told`."""
        command = [program("kubectl"), f"--kubeconfig={self.cluster.kubeconfig}", "exec", "-n", self.namespace.name]
        command += [self.pod, "-c", "ray-head", "--", "python3", "-u", "-c", PRELUDE + program_text]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.running.append(process)
        return process

    def run(self, program_text: str) -> list[dict[str, Any]]:
        """Everything that a program told until it ended."""
        process = self.start(program_text)
        printed, _ = process.communicate(timeout=250)
        assert process.returncode == 0, printed
        return [json.loads(line.split(" ", 1)[1]) for line in printed.splitlines() if line.startswith("TOLD ")]

    def left(self) -> list[str]:
        """Objects of gangs that are there: groups, pods, claims, templates, ComputeDomains."""
        at = self.namespace.name
        cluster = self.api.find("RayCluster", "gangs", at)
        groups = cluster["spec"].get("workerGroupSpecs", ()) if cluster else ()
        found = [f"group {g['groupName']}" for g in groups if g["groupName"] != "ray-dra"]
        for kind in (*OURS, "Pod"):
            found += [f"{kind} {t['metadata']['name']}" for t in self.api.items(kind, at, labels=ATTEMPT_LABEL)]
        return found

    def wait_nothing_left(self, seconds: float = 60) -> None:
        self.cluster.wait(lambda: not self.left(), seconds, f"nothing to be left: {self.left()}")


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next thing that a program tells."""
    printed = []
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("TOLD "):
            return dict(json.loads(line.split(" ", 1)[1]))
        printed.append(line)
    raise AssertionError("the program ended:\n" + "".join(printed[-30:]))


@pytest.fixture
def head(namespace: Namespace) -> Iterator[Head]:
    """The example's RayCluster, installed as a user does."""
    cluster = namespace.cluster
    cluster.kubectl("apply", "-n", namespace.name, "-k", str(PROJECT / "kube"))
    cluster.kubectl("apply", "-n", namespace.name, "-f", str(EXAMPLE / "raycluster.yaml"))
    made = Head(namespace)
    cluster.wait(made.ready, 120, "the head to be ready")
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def claimed(head: Head, gang: str) -> dict[str, list[str]]:
    """Pod -> UUIDs that Kubernetes allocated to it, for a gang."""
    known = published_uuids(head.api)
    found = {}
    for claim in head.api.items("ResourceClaim", head.namespace.name, labels=f"{GANG_LABEL}={gang}"):
        results = claim["status"]["allocation"]["devices"]["results"]
        uuids = [known[r["pool"], r["device"]] for r in results if r["driver"] == "gpu.nvidia.com"]
        if uuids:
            found[claim["status"]["reservedFor"][0]["name"]] = sorted(uuids)
    return found


TWO_AND_A_THIRD = """
first, second = racks(2, name="first"), racks(2, name="second")
for gang in (first, second):
    gang.wait(200)
    tell(id=gang.id, planned=planned(gang), ranks=ranks(gang), cliques=list(gang.allocation.cliques),
         nodes=list(gang.allocation.nodes), text=gang.explain())
try:
    racks(2, name="third", wait=False)
except ray_dra.UnsatisfiableError as error:
    tell(refused=str(error), shortfalls=len(error.shortfalls))
waiting = racks(2, name="third")
tell(phase=waiting.phase.value)
first.remove()
waiting.wait(200)
tell(id=waiting.id, planned=planned(waiting), ranks=ranks(waiting))
second.remove(); waiting.remove()
"""


def test_two_gangs_in_two_cliques_and_a_third_that_waits(cluster: Cluster, head: Head) -> None:
    """The racks of the testbed have three and two trays: two gangs of two trays fit, a third does not."""
    process = head.start(TWO_AND_A_THIRD)
    cliques = set()
    for _ in range(2):
        gang = told(process)
        assert len(set(gang["cliques"])) == 1
        cliques |= set(gang["cliques"])
        allocated = claimed(head, gang["id"])
        assert len(set(gang["nodes"])) == 2
        for uuids, rank in zip(gang["planned"], gang["ranks"], strict=True):
            assert rank["seen"] == uuids
            assert sorted(rank["nvml"]) == sorted(uuids) == allocated[rank["pod"]]
        labels = [head.api.get("Node", node)["metadata"]["labels"] for node in gang["nodes"]]
        assert {label[CLIQUE_LABEL] for label in labels} == set(gang["cliques"])
        assert len({label[DOMAIN_LABEL] for label in labels}) == 1
        assert gang["text"].startswith("ready: 2 bundles, 8 GPUs, one clique")
    assert len(cliques) == 2
    refused = told(process)
    assert "does not fit now" in refused["refused"]
    assert refused["shortfalls"] >= 1
    assert told(process) == {"phase": "queued"}
    third = told(process)
    allocated = claimed(head, third["id"])
    for uuids, rank in zip(third["planned"], third["ranks"], strict=True):
        assert rank["seen"] == uuids
        assert sorted(rank["nvml"]) == sorted(uuids) == allocated[rank["pod"]]
    process.wait(60)
    head.wait_nothing_left()


def test_the_example_runs_as_its_readme_says(cluster: Cluster, head: Head) -> None:
    text = (EXAMPLE / "gang.py").read_text()
    at = ("-n", head.namespace.name)
    printed = cluster.kubectl("exec", "-i", *at, head.pod, "-c", "ray-head", "--", "python3", "-", stdin=text)
    assert printed.startswith("ready: 2 bundles, 8 GPUs, one clique")
    assert printed.count("sees 4 GPUs on") == printed.count(", all as planned") == 2
    head.wait_nothing_left()


def test_check_says_what_is_there_and_what_is_missing(cluster: Cluster, head: Head) -> None:
    at = ("-n", head.namespace.name)
    told_ = cluster.kubectl("exec", *at, head.pod, "-c", "ray-head", "--", "ray-dra", "check")
    assert "NO" not in told_
    assert "workers are copies of the group ray-dra" in told_
    assert " nodes in " in told_
    # Without the roles, it says which, and ends with 1.
    cluster.kubectl("delete", *at, "rolebinding", "ray-dra")
    told_ = cluster.kubectl("exec", *at, head.pod, "-c", "ray-head", "--", "ray-dra", "check", check=False)
    assert f"may not list, watch, create, patch, delete: kubectl apply -k kube/ -n {head.namespace.name}" in told_
    assert "exit code 1" in told_


def test_a_gang_ends_with_its_program_and_with_its_cluster(cluster: Cluster, head: Head) -> None:
    head.run("gang = racks(2); gang.wait(200); tell(id=gang.id)")
    head.wait_nothing_left()
    process = head.start("gang = racks(2); gang.wait(200); tell(id=gang.id); time.sleep(600)")
    told(process)
    assert head.left()
    cluster.kubectl("delete", "-n", head.namespace.name, "-f", str(EXAMPLE / "raycluster.yaml"), "--wait=false")
    head.wait_nothing_left()


def when(cluster: Cluster, condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Do something at the moment a condition holds, beside what the test does."""

    def watch() -> None:
        cluster.wait(condition, 120, "the moment")
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_device_taken_in_between_moves_the_whole_gang(cluster: Cluster, head: Head) -> None:
    """Another pod gets a planned device before the gang's pods are let in: all is given back and planned elsewhere."""
    namespace = head.namespace

    def planned_here() -> bool:
        return bool(namespace.api.items("ResourceClaimTemplate", namespace.name, labels=ATTEMPT_LABEL))

    def take() -> None:
        template = namespace.api.items("ResourceClaimTemplate", namespace.name, labels=ATTEMPT_LABEL)[0]
        exactly = template["spec"]["spec"]["devices"]["requests"][0]["exactly"]
        expression = exactly["selectors"][0]["cel"]["expression"]
        namespace.claim("thief", request(count=1, cel=[expression]))
        namespace.pod("thief", "thief")
        namespace.running("thief")
        cluster.supervisor.signal("operator", "CONT")

    cluster.supervisor.signal("operator", "STOP")  # so that the gang's pods come after the thief, and not by luck
    thread = when(cluster, planned_here, take)
    try:
        told_ = head.run(
            "gang = racks(2); gang.wait(240); tell(planned=planned(gang), moves=gang._refresh().moves,"
            " ranks=ranks(gang)); gang.remove()"
        )
    finally:
        cluster.supervisor.signal("operator", "CONT")
        thread.join()
    assert told_[0]["moves"] >= 1
    stolen = namespace.uuids("thief")
    assert len(stolen) == 1
    assert not stolen & {uuid for bundle in told_[0]["planned"] for uuid in bundle}
    assert [rank["seen"] for rank in told_[0]["ranks"]] == told_[0]["planned"]
    head.wait_nothing_left()


@pytest.mark.parametrize("stage", ["templates", "pods", "running"])
def test_a_coordinator_killed_at_any_stage_goes_on(cluster: Cluster, head: Head, stage: str) -> None:
    at = head.namespace.name

    def there() -> bool:
        if stage == "templates":
            return bool(head.api.items("ResourceClaimTemplate", at, labels=ATTEMPT_LABEL))
        pods = head.api.items("Pod", at, labels=ATTEMPT_LABEL)
        return bool(pods) and (stage == "pods" or any(p["status"].get("phase") == "Running" for p in pods))

    def kill() -> None:
        find = "ps -eo pid,args | awk '/ray::CoordinatorActor/ && !/awk/ {print $1}' | xargs -r kill -9"
        cluster.kubectl("exec", "-n", at, head.pod, "-c", "ray-head", "--", "sh", "-c", find)

    thread = when(cluster, there, kill)
    told_ = head.run("gang = racks(2); gang.wait(240); tell(planned=planned(gang), ranks=ranks(gang)); gang.remove()")
    thread.join()
    assert [rank["seen"] for rank in told_[0]["ranks"]] == told_[0]["planned"]
    head.wait_nothing_left()


def test_a_node_that_dies_in_the_making_moves_the_gang(cluster: Cluster, head: Head) -> None:
    at = head.namespace.name
    spared = head.api.get("Pod", head.pod, at)["spec"]["nodeName"]
    victims: list[str] = []

    def nodes() -> set[str]:
        pods = head.api.items("Pod", at, labels=ATTEMPT_LABEL)
        return {p["spec"]["nodeName"] for p in pods if p["spec"].get("nodeName")} - {spared}

    def kill() -> None:
        victims.append(min(nodes()))
        cluster.kill_node(victims[0])

    thread = when(cluster, lambda: bool(nodes()), kill)
    try:
        told_ = head.run(
            "gang = racks(2); gang.wait(240); tell(nodes=list(gang.allocation.nodes),"
            " planned=planned(gang), ranks=ranks(gang)); gang.remove()"
        )
        thread.join()
        assert victims[0] not in told_[0]["nodes"]
        assert [rank["seen"] for rank in told_[0]["ranks"]] == told_[0]["planned"]
    finally:
        thread.join()
        if victims:
            cluster.start_node(victims[0])
            cluster.wait_nodes(victims)
    head.wait_nothing_left(120)


def test_the_heads_loss_ends_its_gangs_and_everything_is_given_back(cluster: Cluster, head: Head) -> None:
    process = head.start("gang = racks(2); gang.wait(200); tell(id=gang.id); time.sleep(600)")
    told(process)
    assert head.left()
    before = head.pod
    head.api.delete("Pod", before, head.namespace.name, grace=0)
    cluster.wait(lambda: head.pod not in ("", before) and head.ready(), 120, "a new head")
    head.wait_nothing_left(120)
    assert head.run("gang = racks(2); gang.wait(200); tell(ranks=len(ranks(gang))); gang.remove()") == [{"ranks": 2}]
