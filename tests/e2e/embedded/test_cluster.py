"""The embedded cluster beside what a real one has: labels, addresses, tokens, the command line."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import psutil
import pytest
import ray

import ray_dra
from ray_dra.simulated.cluster import LocalCluster
from ray_dra.simulated.profile import machine_address

pytestmark = pytest.mark.ray


def test_labels_and_topology(free: LocalCluster) -> None:
    topology = ray_dra.topology()
    assert len(topology.nodes) == 4
    assert [c.devices for c in topology.cliques.values()] == [8, 8]
    labels = {n["Labels"]["ray-dra.io/node"]: n["Labels"] for n in ray.nodes() if "ray-dra.io/node" in n["Labels"]}
    for name, node in topology.nodes.items():
        assert labels[name]["ray.io/gpu-domain"] == node.clique
        assert labels[name]["ray.io/accelerator-type"] == "GB200"
        assert [d.uuid for d in node.devices] == [free.machine(name).node.uuid(i) for i in range(4)]


def test_each_node_has_an_address_and_an_accelerator_type(free: LocalCluster) -> None:
    """As real nodes do: libraries count machines by their address, and tasks may ask for a type."""
    nodes = ray.nodes()
    addresses = {n["NodeManagerAddress"] for n in nodes}
    assert len(addresses) == len(nodes) == 5
    for node in nodes:
        if kind := node["Labels"].get("ray.io/accelerator-type"):
            assert node["Resources"][f"accelerator_type:{kind}"] == 1
    where = ray.remote(ray.util.get_node_ip_address)
    found = ray.get(
        where.options(label_selector={"ray-dra.io/node": free.nodes[3].name}, accelerator_type="GB200").remote()
    )
    assert found == machine_address(3)


STRANGER = """
import grpc, ray, sys
from ray._private.internal_api import node_stats
from ray_dra.adapters.ray import GcsStore
host, _, port = sys.argv[2].rpartition(":")
try:
    print("raylet", bool(node_stats(host, int(port), include_memory_info=False)))
except grpc.RpcError as error:
    print("raylet refused" if error.code() is grpc.StatusCode.UNAUTHENTICATED else error)
try:
    print("keys", GcsStore(sys.argv[1]).get("no such key"))
except ray.exceptions.AuthenticationError:
    print("keys refused")
try:
    ray.init(sys.argv[1], logging_level="CRITICAL", log_to_driver=False, _node_ip_address="127.0.0.2")
    print("task", ray.get(ray.remote(lambda: 42).remote(), timeout=60))
except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError):
    print("task refused")
"""


def test_the_cluster_is_closed_to_whoever_has_no_token(free: LocalCluster) -> None:
    """From the machine's other address, on which Ray's servers listen, too; each program has its own state of Ray."""
    addresses = [a.address for each in psutil.net_if_addrs().values() for a in each if a.family is socket.AF_INET]
    others = [address for address in addresses if not address.startswith("127.")]
    if not others:
        pytest.skip("this machine has no other address")
    address = f"{others[0]}:{free.address.rpartition(':')[2]}"
    node = next(n for n in ray.nodes() if n["NodeManagerAddress"] == machine_address(0))
    raylet = f"{others[0]}:{node['NodeManagerPort']}"
    own = {n: v for n, v in os.environ.items() if not n.startswith("RAY_AUTH")}
    environments: list[dict[str, str]] = [
        {"HOME": "/nonexistent"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(free.token)},
    ]
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", STRANGER, address, raylet],
            stdout=subprocess.PIPE,
            text=True,
            env={**own, "RAY_gcs_server_request_timeout_seconds": "3", **environment},
        )
        for environment in environments
    ]
    none, wrong, right = [p.communicate(timeout=120)[0].splitlines() for p in programs]
    assert none == wrong == ["raylet refused", "keys refused", "task refused"]
    assert right == ["raylet True", "keys None", "task 42"]
    assert free.folder.stat().st_mode & 0o777 == 0o700


def test_the_programs_own_token_settings_are_left_alone(free: LocalCluster) -> None:
    """Its environment has no token while it is connected, and its workers have the cluster's."""
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert os.environ.get("RAY_AUTH_MODE") != "token"
    found = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN_PATH"]).remote())
    assert found == str(free.token)


def test_the_command_line_connects_beside_the_program(free: LocalCluster) -> None:
    command = [sys.executable, "-m", "ray_dra.cli", "topology", "--address", free.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert all(node.name in done.stdout for node in free.nodes)


def test_the_command_line_tells_a_gangs_history_and_the_log_has_it(free: LocalCluster) -> None:
    with ray_dra.placement_group([{"GPU": 4}], name="told") as gang:
        assert gang.wait(30)
        command = [sys.executable, "-m", "ray_dra.cli", "gangs", "told", "--address", free.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        first, *history, times = done.stdout.splitlines()
        assert first.split()[:2] == ["told", "ready"]
        assert [line.split("  ")[2].split(" -> ")[-1] for line in history] == ["placing", "ready"]
        assert re.fullmatch(r"  ready [0-9.]+ s after the call: .*placed [0-9.]+", times)
    (log,) = {path.resolve() for path in free.folder.rglob("ray-dra-coordinator.log")}
    decisions = [line.split(" INFO ")[1] for line in log.read_text().splitlines() if "gang told: " in line]
    assert decisions[0] == "gang told: placing: submitted; devices are held"
    assert decisions[-1].startswith("gang told: gone: ")
