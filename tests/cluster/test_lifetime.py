"""Clusters come up side by side, without root, with other gates; and nothing is left of any."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster, sweep
from tests.cluster.control_plane import Options
from tests.cluster.machine import PREFIX
from tests.cluster.nodes import BRIDGE, NodeSpec
from tests.cluster.paper import add_paper_nodes
from tests.cluster.world import CONTAINER_CONTEXT, POD_CONTEXT, Namespace, request

GANGS = {"GenericWorkload": True, "TopologyAwareWorkloadScheduling": True}


def traces(name: str) -> list[str]:
    """What of a cluster is still on this machine: processes, mounts, interfaces, cgroups, files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{PREFIX}{name}/" in command and "pytest" not in command:
            found.append(f"process {process.name}: {command}")
    found += [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if f"{PREFIX}{name}" in line]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"**/{PREFIX}{name}")]
    found += [f"file {path}" for path in Path("/tmp").glob(f"{PREFIX}{name}*")]
    return found


def interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def test_pods_that_come_and_go_do_not_cut_others_off_the_api(cluster: Cluster) -> None:
    """A bridge without an address of its own takes the lowest of its ports', which a pod takes along when it ends."""

    def gateway() -> str:
        shown = subprocess.run([*cluster.inside(), "ip", "-o", "link", "show", BRIDGE], capture_output=True, check=True)
        return shown.stdout.decode().partition("link/ether ")[2].split()[0]

    before = gateway()
    for command in (
        "ip link add low address 02:00:00:00:00:01 type veth peer name low-pod",
        f"ip link set low master {BRIDGE} up",
        "ip link del low",
    ):
        subprocess.run([*cluster.inside(), *command.split()], capture_output=True, check=True)
        assert gateway() == before


def test_two_clusters_side_by_side_and_nothing_is_left_of_one(cluster: Cluster, namespace: Namespace) -> None:
    before = interfaces()
    name = f"beside-{os.getpid()}"
    other = Cluster.up(name, nodes=[NodeSpec("head", profile="l40s-pcie")], operator=False)
    try:
        assert other.api.server != cluster.api.server
        there = Namespace(other, namespace.name)
        for each in (namespace, there):
            each.claim("one", request())
            each.pod("one", "one", node="head")
        assert len(namespace.seen("one")["gpus"]) == len(there.seen("one")["gpus"]) == 1
        assert traces(name)
    finally:
        other.down()
    assert traces(name) == []
    assert interfaces() == before
    assert namespace.phase("one") == "Running"


def test_a_cluster_ends_with_the_program_that_was_killed(cluster: Cluster) -> None:
    before = interfaces()
    name = f"killed-{os.getpid()}"
    code = (
        "import time; from tests.cluster.cluster import Cluster; from tests.cluster.nodes import BRIDGE, NodeSpec;"
        f"Cluster.up({name!r}, nodes=[NodeSpec('n')], operator=False); print('up', flush=True); time.sleep(600)"
    )
    program = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    lines = iter(program.stdout.readline, "")
    assert any(line.startswith("up") for line in lines)
    program.send_signal(signal.SIGKILL)
    program.wait()
    deadline = time.monotonic() + 30
    while any(not each.startswith(("file", "cgroup")) for each in traces(name)):
        assert time.monotonic() < deadline, traces(name)
        time.sleep(0.1)
    sweep()
    assert traces(name) == []
    assert interfaces() == before


@pytest.fixture(scope="module")
def gangs() -> Iterator[Cluster]:
    """A control plane without namespaces, as for those who are not root, with the gates for gangs."""
    made = Cluster.up(
        f"gangs-{os.getpid()}",
        nodes=(),
        operator=False,
        real=False,
        options=Options(gates=GANGS, runtime_config=("scheduling.k8s.io/v1beta1=true",), grace=600),
    )
    yield made
    made.down()
    assert traces(f"gangs-{os.getpid()}") == []


def test_in_tree_gangs_are_served_with_their_gates(gangs: Cluster) -> None:
    """All or nothing, on paper nodes: with one GPU too few none of the pods is bound."""
    api = gangs.api
    add_paper_nodes(api, 2)
    served = api.raw("/apis/scheduling.k8s.io/v1beta1")
    assert '"podgroups"' in served
    namespace = Namespace(gangs, "gang")
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "three"},
        "spec": {"spec": {"devices": {"requests": [request(count=3)]}}},
    }
    api.create(template, namespace.name)

    def gang(name: str, pods: int) -> None:
        group = {
            "apiVersion": "scheduling.k8s.io/v1beta1",
            "kind": "PodGroup",
            "metadata": {"name": name},
            "spec": {"schedulingPolicy": {"gang": {"minCount": pods}}},
        }
        gangs.kubectl("apply", "-n", namespace.name, "-f", "-", stdin=json.dumps(group))
        for at in range(pods):
            thing = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"{name}-{at}"},
                "spec": {
                    "containers": [
                        {
                            "name": "main",
                            "image": "none",
                            "resources": {"claims": [{"name": "gpus"}]},
                            "securityContext": CONTAINER_CONTEXT,
                        }
                    ],
                    "securityContext": POD_CONTEXT,
                    "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "three"}],
                    "schedulingGroup": {"podGroupName": name},
                    "automountServiceAccountToken": False,
                },
            }
            api.create(thing, namespace.name)

    def bound(name: str) -> int:
        pods = api.items("Pod", namespace.name)
        return sum("nodeName" in p["spec"] for p in pods if p["metadata"]["name"].startswith(name))

    gang("large", 3)
    gangs.wait(lambda: any("chedul" in e for e in namespace.events("large-0")), 30, "a word on the large gang")
    time.sleep(2)
    assert bound("large") == 0
    gang("small", 2)
    gangs.wait(lambda: bound("small") == 2, 60, "the gang that fits")
    assert bound("large") == 0
