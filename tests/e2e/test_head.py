"""The head's raylet is lost while the control store goes on, as under load or with a new head pod: Ray starts the
coordinator again on the raylet that takes its place, though that one has another id."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys, time
import ray
from ray._private import resource_and_label_spec
from ray.cluster_utils import Cluster
from ray_dra.processes.coordinator_actor import CoordinatorActor
from ray_dra.translate.names import HEAD_RESOURCE as HEAD
from ray_dra.processes.node_agent import NAME, NAMESPACE
from ray_dra.processes.calls import ask, coordinator
from ray_dra.errors import CoordinatorUnavailable
from ray_dra.simulated.raylets import SYSTEM
from ray_dra.processes.start_coordinator import greet

cluster = Cluster(shutdown_at_exit=True)

def add(address, **options):
    return cluster.add_node(wait=False, node_ip_address=address, num_cpus=0, num_gpus=0, include_dashboard=False,
                            object_store_memory=100 << 20, temp_dir=sys.argv[1], **options)

def nodes(alive=True):
    return {n["NodeID"] for n in ray.nodes() if HEAD in n["Resources"] and n["Alive"] == alive}

def replace_head(raylet, address):
    os.kill(raylet.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    while nodes():
        time.sleep(0.1)
    try:
        ask(coordinator().pid.remote(), timeout=1)
        print("ours: answered by nobody")
    except CoordinatorUnavailable:
        pass
    # Ray itself gives the resource to the raylet that comes with a control store, and lets no other have it.
    resource_and_label_spec.HEAD_NODE_RESOURCE_NAME = "node:another"
    raylet = add(address, resources={HEAD: 1.0})
    while not nodes():
        time.sleep(0.1)
    return raylet

head = add("127.0.0.2", no_monitor=True, _system_config=SYSTEM)
add("127.0.0.3")
ray.init(cluster.gcs_address, _node_ip_address="127.0.0.3", log_to_driver=False, logging_level="ERROR")

greet(None)
first = ask(coordinator().pid.remote())
head = replace_head(head, "127.0.0.4")
print("ours: another process", ask(coordinator().pid.remote(), timeout=90) != first, flush=True)

ray.kill(coordinator())
time.sleep(1)
pinned = {"ray.io/node-id": nodes().pop()}  # as 0.1.0 did
options = dict(name=NAME, namespace=NAMESPACE, lifetime="detached", num_cpus=0, max_restarts=-1, max_task_retries=-1)
ray.remote(CoordinatorActor).options(**options, label_selector=pinned).remote(None)
greet(None)
head = replace_head(head, "127.0.0.5")
greet(None)
print("ours: made anew", bool(ask(coordinator().pid.remote(), timeout=90)), flush=True)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
def test_the_coordinator_comes_back_on_another_raylet_of_the_head() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-dra-", dir="/tmp") as folder:
        Path(folder, "ray").mkdir()  # Ray's test cluster writes its address there, and does not make the folder
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, folder],
            capture_output=True,
            text=True,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT)},
            timeout=280,
            check=False,
        )
    said = [line for line in done.stdout.split("\n") if line.startswith("ours: ")]  # Ray tells of its raylets' ends
    assert said == ["ours: another process True", "ours: made anew True"], done.stderr[-3000:]
