"""Raylets with parts of GPUs and no gang, as a RayCluster's own workers whose pods carry claims: by the start hook
alone Ray offers each part as a GPU and by its profile, and each task sees a part of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ray_dra.simulated.library import library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import simulated_nodes

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, sys, time
import ray
from ray._private.parameter import RayParams
from ray_dra.hooks import start
from ray_dra.simulated.raylets import RayletNode
from ray_dra.translate.names import NODE_VARIABLE, PART_PROFILES_VARIABLE, VISIBLE_VARIABLE
from ray_dra.adapters.ray import UNIT_INSTANCES_VARIABLE

def raylet(name, address, gpu, **more):
    for variable in (PART_PROFILES_VARIABLE, UNIT_INSTANCES_VARIABLE):
        os.environ.pop(variable, None)
    os.environ[VISIBLE_VARIABLE], os.environ[NODE_VARIABLE] = gpu, name
    params = RayParams(node_ip_address=address, temp_dir=sys.argv[1], object_store_memory=100 << 20, num_cpus=4,
                       min_worker_port=0, max_worker_port=0, node_manager_port=0, include_dashboard=False,
                       include_log_monitor=False, no_monitor=True, **more)
    start(params, "gcs_address" not in more)
    return RayletNode(params, head="gcs_address" not in more, shutdown_at_exit=True, spawn_reaper=False)

gpus = sys.argv[2].split(",")
alike = raylet("alike", "127.0.0.2", gpus[0])
mixed = raylet("mixed", "127.0.0.3", gpus[1], gcs_address=alike.gcs_address)
ray.init(alike.gcs_address, _node_ip_address="127.0.0.2", log_to_driver=False, logging_level="ERROR")
while len(ray.nodes()) < 2:
    time.sleep(0.1)

class Look:
    def look(self):
        return os.environ["CUDA_VISIBLE_DEVICES"], [str(gpu) for gpu in ray.get_gpu_ids()]

def looked(count, node, **resources):
    actor = ray.remote(Look).options(num_cpus=0, label_selector={"ray-dra.io/node": node}, **resources)
    actors = [actor.remote() for _ in range(count)]
    found = ray.get([each.look.remote() for each in actors], timeout=120)
    for each in actors:
        ray.kill(each)
    return found

class Unnamed(Look):
    def why(self):
        import ray_dra
        try:
            ray_dra.get_devices()
        except Exception as error:
            return str(error)

def unnamed():
    there = {"ray-dra.io/node": "mixed"}
    actor = ray.remote(Unnamed).options(num_cpus=0, num_gpus=1, label_selector=there).remote()
    return ray.get([actor.look.remote(), actor.why.remote()], timeout=60)

by_profile = lambda profile: {"resources": {"MIG-" + profile: 1}, "num_gpus": 1}
print("ours: " + json.dumps({
    "offered": {n["Labels"]["ray-dra.io/node"]: n["Resources"] for n in ray.nodes()},
    "alike": looked(7, "alike", num_gpus=1),
    "halves": looked(4, "alike", num_gpus=0.5),
    "large": looked(1, "mixed", **by_profile("3g.40gb")),
    "small": looked(2, "mixed", **by_profile("1g.10gb")),
    "unnamed": unnamed(),
}), flush=True)
ray.shutdown()
for node in (mixed, alike):
    node.kill_all_processes(check_alive=False, allow_graceful=False)
"""


@pytest.mark.ray
def test_tasks_on_own_workers_see_parts(tmp_path: Path) -> None:
    machine = Machine.create(tmp_path / "m", simulated_nodes("hgx-h100")[0])
    alike = [part.uuid for part in machine.mig(0, *["1g.10gb"] * 7)]
    large, *small = [part.uuid for part in machine.mig(1, "3g.40gb", "1g.10gb", "1g.10gb")]
    with tempfile.TemporaryDirectory(prefix="ray-dra-", dir="/tmp") as folder:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, folder, f"{machine.node.uuid(0)},{machine.node.uuid(1)}"],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "RAY_AUTH_MODE": "disabled",
                "PYTHONPATH": str(ROOT),
                "LD_LIBRARY_PATH": str(library_folder()),
                **machine.environment,
            },
            timeout=280,
            check=False,
        )
    said = [line.removeprefix("ours: ") for line in done.stdout.split("\n") if line.startswith("ours: ")]
    assert said, done.stderr[-5000:]
    found = json.loads(said[0])
    assert found["offered"]["alike"]["GPU"] == found["offered"]["alike"]["MIG-1g.10gb"] == 7
    mixed = found["offered"]["mixed"]
    assert (mixed["GPU"], mixed["MIG-3g.40gb"], mixed["MIG-1g.10gb"]) == (3, 1, 2)
    assert sorted(visible for visible, _ in found["alike"]) == sorted(alike), "each actor has a part of its own"
    halves = [visible for visible, _ in found["halves"]]
    assert set(halves) <= set(alike)
    assert all(halves.count(each) <= 2 for each in halves)
    assert [visible for visible, _ in found["large"]] == [large]
    assert sorted(visible for visible, _ in found["small"]) == sorted(small)
    for key in ("alike", "halves", "large", "small"):
        assert all([visible] == ids for visible, ids in found[key])
    (visible, _), why = found["unnamed"]
    assert visible == "ray-dra-no-part-is-named", "CUDA shows it nothing"
    assert "names the one that it wants" in why
