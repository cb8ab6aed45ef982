"""kill -9 at bad moments: the cluster heals, and no device is readied twice."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.cluster import Cluster, is_ready
from tests.cluster.world import WAIT, Namespace, prepared, prepared_twice

NODE = "r0-t0"


VICTIMS = {"driver": NODE, "kubelet": "r0-t1", "containerd": "r0-t2"}


def start_two(namespace: Namespace, tag: str, node: str = NODE) -> list[str]:
    """Two pods on one node, two GPUs each: all that the node has."""
    names = [f"{tag}-a", f"{tag}-b"]
    for name in names:
        namespace.claim(name, {"name": "gpus", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 2}})
        namespace.pod(name, name, node=node)
    return names


def end(namespace: Namespace, names: list[str]) -> None:
    for name in names:
        namespace.delete("Pod", name)
        namespace.delete("ResourceClaim", name)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("preparing", marks=pytest.mark.by_hand),
        "running",
        pytest.param("unpreparing", marks=pytest.mark.by_hand),
    ],
)
def test_killed_processes_of_nodes(cluster: Cluster, namespace: Namespace, moment: str) -> None:
    """Another one on each of three nodes, at the same time."""
    with ThreadPoolExecutor(len(VICTIMS)) as beside:
        kills = [beside.submit(kill_one, cluster, namespace, *each, moment) for each in VICTIMS.items()]
    for done in kills:
        done.result()
    assert not prepared_twice(cluster)


def kill_one(cluster: Cluster, namespace: Namespace, victim: str, node: str, moment: str) -> None:
    chosen = random.Random(f"{victim} {moment}")
    names = start_two(namespace, f"first-{victim}", node)
    if moment == "preparing":
        time.sleep(chosen.uniform(0.05, 0.6))
        cluster.kill(victim, node)
    seen = {name: set(namespace.seen(name, 120)["gpus"]) for name in names}
    if moment == "running":
        cluster.kill(victim, node)
        time.sleep(2)
        assert all(namespace.phase(name) == "Running" for name in names)
    end(namespace, names)
    if moment == "unpreparing":
        time.sleep(chosen.uniform(0.05, 0.6))
        cluster.kill(victim, node)
    # The same devices are free for others, once these are gone, and meanwhile belong to one claim each.
    again = start_two(namespace, f"second-{victim}", node)
    deadline = time.monotonic() + 150
    while not all(namespace.phase(name) == "Running" for name in again):
        assert not prepared_twice(cluster)
        assert time.monotonic() < deadline, cluster.logs()
        time.sleep(0.1)
    after = {name: set(namespace.seen(name)["gpus"]) for name in again}
    assert sum(map(len, seen.values())) == sum(map(len, after.values())) == 4
    assert set.union(*seen.values()) == set.union(*after.values())
    assert not prepared_twice(cluster)


def test_a_killed_api_server_and_etcd(cluster: Cluster, namespace: Namespace) -> None:
    names = start_two(namespace, "before")
    # Not while these are allocated: the scheduler can lose sight of one then, and give its devices to the other, too
    # (the driver readies them for one; a gang that meets this is planned again).
    cluster.wait(lambda: all(namespace.devices(name) for name in names), 60, "both claims to be allocated")
    cluster.kill("apiserver")
    cluster.wait_api()
    for name in names:
        namespace.seen(name, 120)
    cluster.kill("etcd")
    cluster.kill("apiserver")
    cluster.wait_api()
    assert all(namespace.phase(name) == "Running" for name in names)
    end(namespace, names)
    cluster.kill("apiserver")
    cluster.wait_api()
    cluster.wait(lambda: not prepared(cluster, NODE), 90, "the devices to come back")


def test_a_node_that_loses_power_and_comes_back(cluster: Cluster, namespace: Namespace) -> None:
    node = "r1-t1"
    namespace.claim("one", {"name": "gpus", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 4}})
    namespace.pod("one", "one", node=node)
    namespace.seen("one")
    cluster.kill_node(node)
    cluster.wait(lambda: not is_ready(namespace.api.get("Node", node)), 90, "the node to be NotReady")
    namespace.delete("Pod", "one", grace=0)
    namespace.delete("ResourceClaim", "one")
    cluster.start_node(node)
    cluster.wait_nodes([node])
    # What it had readied is undone, though nobody told it before the power went.
    cluster.wait(lambda: not prepared(cluster, node), 60, "the device to come back")
    namespace.claim("two", {"name": "gpus", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 4}})
    namespace.pod("two", "two", node=node)
    assert len(namespace.seen("two", 120)["gpus"]) == 4


def test_containers_end_when_told(cluster: Cluster, namespace: Namespace) -> None:
    """A pod that waits is ended by its grace, not by the node's death: the tests' own hygiene."""
    namespace.claim("one", {"name": "gpus", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 1}})
    namespace.pod("one", "one", command=WAIT, node=NODE)
    namespace.running("one")
    namespace.delete("Pod", "one")
    cluster.wait(lambda: namespace.phase("one") == "gone", 30, "the pod to end")
