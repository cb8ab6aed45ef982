"""Placement groups on KubeRay, end to end: planned, allocated, seen by NVML and by each rank are the same devices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from ray_dra.errors import NotAllowed
from ray_dra.simulated.dra import DOMAIN_LABEL
from ray_dra.translate.names import ATTEMPT_LABEL
from ray_dra.translate.vendors import NVIDIA
from tests.cluster.cluster import Cluster
from tests.cluster.head import EXAMPLE, Head, claimed, installation, told, when
from tests.cluster.world import CONTAINER_CONTEXT, POD_CONTEXT, Namespace, request

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
        assert {label[NVIDIA.clique_label] for label in labels} == set(gang["cliques"])
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


def test_a_box_without_a_clique_label_is_a_clique_of_its_own(head: Head) -> None:
    """The testbed's H100 box: no ComputeDomain, one worker with all that the gang has there, 1.5 CPUs among it."""
    (found,) = head.run(
        """
bundles = [{"GPU": 4, "CPU": 0.75}] * 2
gang = ray_dra.placement_group(bundles, product="NVIDIA H100 80GB HBM3", locality=ray_dra.same_clique())
gang.wait(200)
tell(nodes=list(gang.allocation.nodes), planned=planned(gang), ranks=ranks(gang))
"""
    )
    assert found["nodes"] == ["head", "head"]
    assert [rank["seen"] for rank in found["ranks"]] == found["planned"]
    assert not head.api.items("ComputeDomain", head.namespace.name)
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
    assert "2.60.0; here it is 2.60.0" in told_
    assert re.search("token authentication of the RayCluster +on", told_)
    # Without the roles, it says which, and ends with 1.
    cluster.kubectl("delete", *at, "rolebinding", "ray-dra")
    told_ = cluster.kubectl("exec", *at, head.pod, "-c", "ray-head", "--", "ray-dra", "check", check=False)
    assert "may not list, watch, create, patch, delete: kubectl apply -k kube/, with" in told_
    assert f"`namespace: {head.namespace.name}` in it" in told_
    assert "exit code 1" in told_
    # So does a program, at once.
    program = head.start("tell()")
    printed, _ = program.communicate(timeout=120)
    assert program.returncode != 0
    assert "This identity may not do that; see the roles under kube/" in printed
    cluster.kubectl("apply", "-k", str(installation(head.namespace)))


def test_a_gang_ends_with_its_program_and_with_its_cluster(cluster: Cluster, head: Head) -> None:
    head.run("gang = racks(2); gang.wait(200); tell(id=gang.id)")
    head.wait_nothing_left()
    process = head.start("gang = racks(2); gang.wait(200); tell(id=gang.id); time.sleep(600)")
    told(process)
    assert head.left()
    cluster.kubectl("delete", "-n", head.namespace.name, "-k", str(EXAMPLE), "--wait=false")
    head.wait_nothing_left()


def test_a_device_taken_in_between_moves_the_whole_gang(cluster: Cluster, head: Head) -> None:
    """Another pod gets a planned device before the gang's pods are let in: all is given back and planned elsewhere."""
    namespace = head.namespace

    def planned_here() -> list[str]:
        claims = namespace.api.items("ResourceClaim", namespace.name, labels=ATTEMPT_LABEL)
        exactly = [claim["spec"]["devices"]["requests"][0]["exactly"] for claim in claims]
        return [each["selectors"][0]["cel"]["expression"] for each in exactly if "selectors" in each]

    def take() -> None:
        namespace.claim("thief", request(count=1, cel=planned_here()[:1]))
        namespace.pod("thief", "thief")
        namespace.running("thief")
        release.close()

    with ExitStack() as release:
        release.enter_context(nobody_is_let_in(cluster, namespace))  # until the thief is there, and not by luck
        thread = when(cluster, lambda: bool(planned_here()), take)
        told_ = head.run(
            "gang = racks(2); gang.wait(240); tell(planned=planned(gang), moves=gang._refresh().moves,"
            " ranks=ranks(gang)); gang.remove()"
        )
        thread.join()
    assert told_[0]["moves"] >= 1
    stolen = namespace.uuids("thief")
    assert len(stolen) == 1
    assert not stolen & {uuid for bundle in told_[0]["planned"] for uuid in bundle}
    assert [rank["seen"] for rank in told_[0]["ranks"]] == told_[0]["planned"]
    namespace.delete("Pod", "thief")
    namespace.delete("ResourceClaim", "thief")
    head.wait_nothing_left()


@contextmanager
def nobody_is_let_in(cluster: Cluster, namespace: Namespace) -> Iterator[None]:
    """A policy that keeps the scheduling gates of a namespace's pods closed."""
    name, api = f"closed-{namespace.name}", "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods"]}
    kept = "!has(oldObject.spec.schedulingGates) || has(object.spec.schedulingGates)"
    policy = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": kept, "reason": "Forbidden"}],
    }
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": here}
    kind = "ValidatingAdmissionPolicy"
    for thing, spec in ((kind, policy), (f"{kind}Binding", binding)):
        made = {"apiVersion": api, "kind": thing, "metadata": {"name": name}, "spec": spec}
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(made))
    try:
        cluster.wait(lambda: not _opens(namespace), 30, "the policy")
        yield
    finally:
        cluster.kubectl("delete", f"{kind}Binding,{kind}", name)


def _opens(namespace: Namespace) -> bool:
    """Whether the gate of a pod can be opened; the pod never runs."""
    container = {"name": "main", "image": "localhost/none", "securityContext": CONTAINER_CONTEXT}
    spec = {"containers": [container], "securityContext": POD_CONTEXT, "schedulingGates": [{"name": "a"}]}
    spec["nodeSelector"] = {"no": "node"}
    namespace.api.create(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gated"}, "spec": spec}, namespace.name
    )
    try:
        namespace.api.patch("Pod", "gated", {"spec": {"schedulingGates": None}}, namespace.name)
        return True
    except NotAllowed:
        return False
    finally:
        namespace.delete("Pod", "gated", grace=0)


def test_a_coordinator_killed_at_every_stage_goes_on(cluster: Cluster, head: Head) -> None:
    """One gang, whose coordinator is killed three times; each write of its own, before and after, on the fakes."""
    at = head.namespace.name

    def there(stage: str) -> bool:
        pods = head.api.items("Pod", at, labels=ATTEMPT_LABEL)
        bound = [pod for pod in pods if pod["spec"].get("nodeName")]
        return bool(
            {"pods": pods, "bound": bound}.get(stage) or any(p["status"].get("phase") == "Running" for p in pods)
        )

    def kill_at_each() -> None:
        for stage in ("pods", "bound", "running"):
            cluster.wait(lambda stage=stage: there(stage), 120, stage)  # type: ignore[misc]
            head.kill_coordinator()

    thread = when(cluster, lambda: True, kill_at_each)
    told_ = head.run("gang = racks(2); gang.wait(240); tell(planned=planned(gang), ranks=ranks(gang)); gang.remove()")
    thread.join()
    assert [rank["seen"] for rank in told_[0]["ranks"]] == told_[0]["planned"]
    head.wait_nothing_left()


@pytest.mark.by_hand  # 55 s; test_failures.py has nodes that die
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
