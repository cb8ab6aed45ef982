"""A gang that has declared what is done about faults: the lost worker is replaced, and the others run on."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ray_dra.processes.drain_plugin import look
from tests.cluster.cluster import Cluster
from tests.cluster.head import LASTING_RANKS, PRELUDE, Head, claimed, told
from tests.manifests import PROJECT
from tests.translate.kube.test_drain_requests import ASKED

PROGRAM = """
import threading
drained = {}  # as Ray tells its libraries
def listen():
    while True:
        drained.update(ray._private.state.state.get_draining_nodes())
        time.sleep(0.1)
threading.Thread(target=listen, daemon=True).start()
gang = racks(2, on_fault=("replace", "restart"), grace=4, name="kept")
assert gang.wait(240)
made = lasting_ranks(gang)
for repairs in range(3):
    while len([c for c in gang._refresh().history if "have joined" in c.why]) < repairs or gang.phase.value != "ready":
        time.sleep(0.1)
    tell(gang=gang.id, group=gang.placement_group.id.hex(), nodes=list(gang.allocation.nodes), planned=planned(gang),
         drained=dict(drained),
         ranks=about(made))
    hold()
gang.remove()
"""


def ask_for_drain(cluster: Cluster, head: Head, node: str, pod: str) -> Callable[[], tuple[str, str]]:
    """As NVSentinel's node drainer does, by the definition that ships; with a pod that is no gang's. Returns what looks
    once as the plugin does, and says what the answer is then."""
    at = head.namespace.name
    cluster.kubectl("apply", "-f", str(PROJECT / "kube" / "nvsentinel" / "crd.yaml"))
    cluster.kubectl("wait", "--for=condition=Established", "crd/drainrequests.nvsentinel.nvidia.com", "--timeout=30s")
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "idle", "image": "localhost/none", "imagePullPolicy": "Never", "securityContext": context}
    safe = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"nodeName": node, "containers": [container], "securityContext": safe}
    head.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"}, "spec": spec}, at)
    wanted = {**ASKED["spec"], "nodeName": node, "podsToDrain": {at: [pod, "stranger"]}}
    head.api.create({**ASKED, "metadata": {"name": "drain"}, "spec": wanted}, at)
    assert head.api.get("DrainRequest", "drain", at)["spec"] == wanted, "no field was taken out"

    def look_once() -> tuple[str, str]:
        look(head.api, at, time.time, print)
        (condition,) = head.api.get("DrainRequest", "drain", at)["status"]["conditions"]
        return condition["status"], condition["reason"]

    return look_once


@pytest.mark.parametrize("lost", [1])
def test_a_lost_worker_is_replaced_and_the_other_runs_on(cluster: Cluster, head: Head, lost: int) -> None:
    """Its pod killed; then its node cordoned, for which it moves to the spare of its rack, and Ray hears of it first;
    and NVSentinel's request to drain that node is complete once it has left, with a stranger evicted."""
    at, kept = head.namespace.name, 1 - lost
    cluster.kubectl("cordon", "r1-t0")  # so that it comes to the rack with a node to spare
    try:
        process = head.start(PROGRAM, PRELUDE + LASTING_RANKS)
        first = told(process)
    finally:
        cluster.kubectl("uncordon", "r1-t0")
    try:
        head.api.delete("Pod", first["ranks"][lost]["pod"], at, grace=0)
        head.let_go()
        second = told(process)
        cluster.kubectl("cordon", second["nodes"][lost])
        asked = ask_for_drain(cluster, head, second["nodes"][lost], second["ranks"][lost]["pod"])
        assert asked() == ("False", "GangsRun")
        head.let_go()
        third = told(process)
        cluster.wait(lambda: asked() == ("True", "Drained"), 60, "the drain to be complete")
        assert head.api.find("Pod", "stranger", at) is None
        assert {first["group"], second["group"], third["group"]} == {first["group"]}
        for now in (first, second, third):
            assert now["ranks"][kept] == first["ranks"][kept], "the same process"
            assert [rank["nvml"] for rank in now["ranks"]] == [rank["seen"] for rank in now["ranks"]] == now["planned"]
        assert second["planned"] == first["planned"], "only its worker was lost"
        assert len({now["ranks"][lost]["pod"] for now in (first, second, third)}) == 3
        assert (first["drained"], second["drained"]) == ({}, {})
        assert list(third["drained"]) == [second["ranks"][lost]["raylet"]], "Ray's own notice, of its raylet alone"
        assert third["nodes"][lost] not in second["nodes"]
        assert third["nodes"][lost][:2] == second["nodes"][kept][:2], "in its rack"
        assert sorted(claimed(head, third["gang"]).values()) == sorted(map(sorted, third["planned"]))
    finally:
        cluster.kubectl("uncordon", first["nodes"][lost])
    head.let_go()
    process.communicate(timeout=100)
    head.wait_nothing_left()


SHRINKS = """
gang = racks(2, on_fault="shrink", min_bundles=1, grace=3, name="shrinks")
for count in (2, 1, 2):
    while gang.bundle_count != count or gang.phase.value != "ready":
        gang.wait(240)
        time.sleep(0.1)
    tell(gang=gang.id, group=gang.placement_group.id.hex(), nodes=list(gang.allocation.nodes), planned=planned(gang),
         ranks=ranks(gang, count), said=gang.explain())
    hold()
gang.remove()
"""


@pytest.mark.by_hand  # a minute; on the fake with every fault, and the coordinator killed at each write
def test_a_gang_shrinks_to_the_worker_that_is_well_and_grows_back(cluster: Cluster, head: Head) -> None:
    """Its node cordoned: the other's pod runs on, in a new group; uncordoned: a worker is made for what it lacks."""
    process = head.start(SHRINKS)
    first = told(process)
    lost = first["nodes"][0]
    rack = [name for name in cluster.nodes if name.startswith(lost[:2]) and name not in first["nodes"]]
    closed = [lost, *rack]  # so that it does not grow at once
    began = time.monotonic()
    cluster.kubectl("cordon", *closed)
    try:
        head.let_go()
        second = told(process)
        print(f"cordoned until it has shrunk and its program is at work: {time.monotonic() - began:.1f} s")
        assert "has shrunk to 1 of 2 bundles" in second["said"]
        assert sorted(claimed(head, second["gang"]).values()) == sorted(map(sorted, second["planned"]))
    finally:
        cluster.kubectl("uncordon", *closed)
    began = time.monotonic()
    head.let_go()
    third = told(process)
    print(f"uncordoned until it has grown and its program is at work: {time.monotonic() - began:.1f} s")
    assert second["nodes"] == first["nodes"][1:]
    assert third["nodes"][1] == first["nodes"][1]
    assert third["nodes"][0][:2] == lost[:2], "in its rack"
    for now in (first, second, third):
        assert [rank["nvml"] for rank in now["ranks"]] == [rank["seen"] for rank in now["ranks"]] == now["planned"]
        assert now["planned"][-1] == first["planned"][1]
        assert now["ranks"][-1]["pod"] == first["ranks"][1]["pod"], "the worker that is well stays"
    assert third["ranks"][0]["pod"] != first["ranks"][0]["pod"]
    assert len({now["group"] for now in (first, second, third)}) == 3
    assert sorted(claimed(head, third["gang"]).values()) == sorted(map(sorted, third["planned"]))
    head.let_go()
    process.communicate(timeout=100)
    head.wait_nothing_left()
