"""What people and outages do to a gang: it is finished, repaired or undone, and nothing leaks."""

from __future__ import annotations

import time

import pytest

from ray_dra.operate.check import RIGHTS
from ray_dra.translate.names import ATTEMPT_LABEL
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, told, when

GANG = "gang = racks(2); gang.wait(240); tell(planned=planned(gang), ranks=ranks(gang)); gang.remove()"


def test_what_is_deleted_by_hand_in_the_making(cluster: Cluster, head: Head) -> None:
    """A claim, and a pod a moment later; all kinds, at every moment, on the fake."""
    at = head.namespace.name

    def first(kind: str) -> str:
        return next((str(t["metadata"]["name"]) for t in head.api.items(kind, at, labels=ATTEMPT_LABEL)), "")

    def delete_each() -> None:
        for kind in ("ResourceClaim", "Pod"):
            cluster.wait(lambda kind=kind: bool(first(kind)), 60, f"a {kind}")  # type: ignore[misc]
            head.api.delete(kind, first(kind), at)

    thread = when(cluster, lambda: bool(first("ResourceClaim")), delete_each)
    (found,) = head.run(GANG)
    thread.join()
    assert [rank["seen"] for rank in found["ranks"]] == found["planned"]
    head.wait_nothing_left()


def test_every_right_is_needed_and_none_is_lacking(cluster: Cluster, head: Head) -> None:
    at = head.namespace.name
    # Before, tests asked in the account's name, and API servers that had just started knew no roles yet.
    before = len(list(cluster.asked("ray-dra", at)))
    assert head.run(GANG)
    head.wait_nothing_left()
    cluster.kubectl("exec", "-n", at, head.pod, "-c", "ray-head", "--", "ray-dra", "check")
    asked = list(cluster.asked("ray-dra", at))
    # By the roles, that is: other tests have quotas and policies that refuse what the roles allow.
    decided = [(e["requestURI"], e.get("annotations", {}).get("authorization.k8s.io/decision")) for e in asked[before:]]
    assert "allow" in {decision for _, decision in decided}
    assert not [uri for uri, decision in decided if decision == "forbid"]
    used = {
        (e["objectRef"].get("apiGroup", ""), e["objectRef"]["resource"], e["verb"]) for e in asked if "objectRef" in e
    }
    for right in RIGHTS:
        if right.resource == "rayservices":
            continue  # only where one made the RayCluster: test_owners.py
        for verb in right.verbs:
            assert (right.group, right.resource, verb) in used, f"nobody needs to {verb} {right.resource}"


@pytest.mark.by_hand  # 65 s; test_failures.py kills it
def test_the_api_server_away_for_half_a_minute(cluster: Cluster, head: Head) -> None:
    """It hangs, which is worse than being gone; the gang in the making is ready afterwards."""
    at = head.namespace.name
    thread = when(cluster, lambda: bool(head.api.items("Pod", at, labels=ATTEMPT_LABEL)), lambda: hang(cluster))
    (found,) = head.run(GANG)
    thread.join()
    assert [rank["seen"] for rank in found["ranks"]] == found["planned"]
    head.wait_nothing_left()


def hang(cluster: Cluster, seconds: float = 30) -> None:
    cluster.supervisor.signal("apiserver", "STOP")
    try:
        time.sleep(seconds)
    finally:
        cluster.supervisor.signal("apiserver", "CONT")


def test_an_image_that_cannot_be_pulled_is_said(head: Head) -> None:
    """By the kubelets; what comes of it, after a minute and more, is on the fake."""
    at, path = head.namespace.name, "/spec/workerGroupSpecs/0/template/spec/containers/0/image"
    before = head.api.get("RayCluster", "gangs", at)["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    head.api.patch("RayCluster", "gangs", [{"op": "add", "path": path, "value": "localhost/none:latest"}], at)
    (found,) = head.run(
        """
gang, deadline = racks(2), time.monotonic() + 100
while "localhost/none:latest" not in gang.explain() and time.monotonic() < deadline:
    time.sleep(0.2)
tell(said=gang.explain(), moves=gang._refresh().moves)
gang.remove()
"""
    )
    assert "image: " in found["said"]
    assert "localhost/none:latest" in found["said"]
    assert found["moves"] == 0
    head.api.patch("RayCluster", "gangs", [{"op": "replace", "path": path, "value": before["image"]}], at)
    head.wait_nothing_left()


@pytest.mark.by_hand  # test_refused_writes.py has it on the fake
def test_a_gang_without_room_in_a_quota_says_so_and_is_served_when_there_is_some(cluster: Cluster, head: Head) -> None:
    """Room for two of its three pods."""
    at = head.namespace.name
    cluster.kubectl("create", "quota", "few", "-n", at, f"--hard=pods={len(head.api.items('Pod', at)) + 2}")
    try:
        process = head.start(
            """
gang = racks(3)
while "exceeded quota: few" not in gang.explain(): time.sleep(0.2)
tell(phase=gang.phase.value)
gang.wait(200)
tell(ranks=len(ranks(gang, 3)))
gang.remove()
"""
        )
        assert told(process) != {"phase": "ready"}
    finally:
        cluster.kubectl("delete", "quota", "few", "-n", at)
    assert told(process) == {"ranks": 3}
    assert process.wait(60) == 0
    head.wait_nothing_left()
