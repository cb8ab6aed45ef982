"""Gangs beside others: queued work in Ray, workers that are there already, other programs, other RayClusters."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, install, told
from tests.cluster.world import Namespace, request

BACKLOG = """
@ray.remote(num_gpus=1, num_cpus=0)
def short(): time.sleep(0.3); return ray_dra.get_devices()[0].uuid
@ray.remote(num_cpus=1)
def plain(): time.sleep(0.3)
@ray.remote(num_gpus=1, num_cpus=0)
class Sitter:
    def seen(self): return ray_dra.get_devices()[0].uuid
backlog = [short.remote() for _ in range(30)] + [plain.remote() for _ in range(30)]
sitters = [Sitter.remote() for _ in range(3)]
time.sleep(1)
"""


def test_a_backlog_of_others_work_cannot_break_a_gang(head: Head) -> None:
    """Tasks and actors that wait for GPUs settle on whatever has some. A gang's raylets are let in when its placement
    group waits in Ray; what was quicker all the same is named, and the gang gets new workers."""
    gang = (
        BACKLOG
        + """
gang = racks(2)
gang.wait(240)
tell(planned=planned(gang), ranks=ranks(gang), moves=gang._refresh().moves)
gang.remove()
for each in backlog + sitters: ray.kill(each) if hasattr(each, "seen") else ray.cancel(each, force=True)
"""
    )
    (found,) = head.run(gang)
    assert [rank["seen"] for rank in found["ranks"]] == found["planned"]
    head.wait_nothing_left()


def test_workers_that_are_there_are_used_first(head: Head) -> None:
    """Two GPU workers of the user's own in one clique: gangs are pinned on them as on a static cluster, and Ray's own
    topology placement works on them by the labels of our start hook; a library that counts the GPUs there are before it
    makes its groups, as verl does, gets them there. A third tray needs a worker of our making."""
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "theirs"},
        "spec": {"spec": {"devices": {"requests": [request(count=4)]}}},
    }
    head.api.create(template, head.namespace.name)
    path, at = "/spec/workerGroupSpecs", head.namespace.name
    head.api.patch("RayCluster", "gangs", [{"op": "add", "path": f"{path}/-", "value": their_group(head)}], at)
    found = head.run(
        """
from ray.util.placement_group import placement_group, remove_placement_group
deadline = time.monotonic() + 100
while sum(n["Alive"] and n["Resources"].get("GPU", 0) for n in ray.nodes()) < 8 and time.monotonic() < deadline:
    time.sleep(0.2)
def until_free():  # GPUs are known a moment after their raylet, and Ray's view lags behind a removal
    def free():
        answer = ray_dra.plan([{"GPU": 4}] * 2, product="NVIDIA GB200", locality=ray_dra.same_clique())
        return all(node.startswith("gangs-theirs") for node in answer.nodes)
    while not free() and time.monotonic() < deadline + 60:
        time.sleep(0.2)
until_free()
native = placement_group([{"GPU": 4}] * 2, topology_strategy={"ray.io/gpu-domain": "STRICT_PACK"})
tell(native=native.wait(60))
remove_placement_group(native)
def counted():
    return sum(there.get("GPU", 0) for there in ray._private.state.available_resources_per_node().values())
while counted() < 8 and time.monotonic() < deadline + 30:
    time.sleep(0.2)
ours = [{"ray-dra.io/locality": "same_clique"}] * 4
pools = [placement_group([{"GPU": 1}] * 4, strategy="STRICT_PACK", bundle_label_selector=ours) for _ in range(2)]
ray.get([pool.ready() for pool in pools], timeout=60)
@ray.remote(num_gpus=1, num_cpus=0)
def one():
    return os.uname().nodename, ray_dra.get_devices()[0].uuid
at = [Strategy(pool, bundle) for pool in pools for bundle in (0, 3)]
tell(pools=ray.get([one.options(scheduling_strategy=each).remote() for each in at], timeout=60))
for pool in pools:
    remove_placement_group(pool)
until_free()
gang = racks(2)
gang.wait(60)
tell(nodes=list(gang.allocation.nodes), planned=planned(gang), ranks=ranks(gang))
"""
    )
    assert found[0] == {"native": True}
    (pods, uuids), gang = zip(*found[1]["pools"], strict=True), found[2]
    assert pods[0] == pods[1] != pods[2] == pods[3], "a group lies on one node"
    assert len(set(uuids)) == 4
    assert all(node.startswith("gangs-theirs-worker") for node in [*gang["nodes"], *pods])
    assert [rank["seen"] for rank in gang["ranks"]] == gang["planned"]
    assert set(uuids) <= {uuid for bundle in gang["planned"] for uuid in bundle}
    assert head.left() == []
    more = head.run("gang = racks(3); gang.wait(200); tell(nodes=list(gang.allocation.nodes)); gang.remove()")
    assert sorted(more[0]["nodes"]) == ["r0-t0", "r0-t1", "r0-t2"]
    none = [{"op": "replace", "path": f"{path}/1/{name}", "value": 0} for name in ("minReplicas", "replicas")]
    head.api.patch("RayCluster", "gangs", none, at)
    theirs = "ray.io/group=theirs"
    head.cluster.wait(lambda: not head.api.items("Pod", at, labels=theirs), 60, "the user's workers to go")
    head.api.patch("RayCluster", "gangs", [{"op": "remove", "path": f"{path}/1"}], at)
    head.api.delete("ResourceClaimTemplate", "theirs", at)
    head.wait_nothing_left()


def their_group(head: Head) -> dict[str, Any]:
    group = head.group_by_hand("theirs", "theirs")
    spec = group["template"]["spec"]
    spec["containers"][0]["env"].append({"name": "RAY_START_HOOK", "value": "ray_dra.hooks.start"})
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [n]}]} for n in ("r1-t0", "r1-t1")]
    spec["affinity"] = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    }
    return group


@pytest.mark.by_hand  # 81 s; the order is the queue's, whose tests need no cluster
def test_two_programs_are_served_in_order(head: Head) -> None:
    """Only one rack has three trays: the second program waits, and is served when the first one ends."""
    first = head.start("gang = racks(3); gang.wait(200); tell(nodes=list(gang.allocation.nodes)); hold()")
    assert told(first)["nodes"] == ["r0-t0", "r0-t1", "r0-t2"]
    second = head.start(
        "gang = racks(3); tell(phase=gang.phase.value, text=gang.explain()); gang.wait(200); tell(ranks=ranks(gang, 3))"
    )
    waiting = told(second)
    assert waiting["phase"] == "queued"
    assert "waits for" in waiting["text"]
    head.let_go()
    assert first.wait(60) == 0
    assert len(told(second)["ranks"]) == 3
    assert second.wait(60) == 0
    head.wait_nothing_left()


@pytest.mark.by_hand  # 152 s
def test_two_rayclusters_that_want_the_last_clique_do_not_chase_each_other(cluster: Cluster, head: Head) -> None:
    """In two namespaces, with no right to write in each other's: one gets it, the other waits and is served then."""
    other = Namespace(cluster, f"t-{uuid.uuid4().hex[:8]}")
    second = install(other)
    try:
        want = "gang = racks(3); gang.wait(240); tell(moves=gang._refresh().moves, ranks=len(ranks(gang, 3)))"
        programs = [each.start(want) for each in (head, second)]
        found = [told(process) for process in programs]
        assert [each["ranks"] for each in found] == [3, 3]
        assert sum(each["moves"] for each in found) <= 2
        for process in programs:
            assert process.wait(100) == 0
        head.wait_nothing_left()
        second.wait_nothing_left()
    finally:
        second.uninstall()
        other.end()
