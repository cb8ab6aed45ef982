"""Clusters come up side by side, and nothing is left of any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster, sweep
from tests.cluster.machine import PREFIX
from tests.cluster.nodes import BRIDGE, NodeSpec
from tests.cluster.world import Namespace, request


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


@pytest.mark.by_hand  # 33 s
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
