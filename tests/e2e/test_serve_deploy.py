"""`serve deploy` on a Ray that was started with our start hook alone: no program has an address of ours, and Serve's
controller is a job of the dashboard's. By hand: the dashboard, its agent and Serve take their time to start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_dra.simulated.library import library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.names import RAY_ADDRESS_VARIABLE, START_HOOK_VARIABLE, VISIBLE_VARIABLE, WORKER_HOOK_VARIABLE

pytestmark = [pytest.mark.ray, pytest.mark.by_hand]
ROOT = Path(__file__).parents[2]
FOLDER = Path(sys.executable).parent
APPLICATION = """
import os

import ray
from ray import serve


def look():
    return os.environ["CUDA_VISIBLE_DEVICES"]


@serve.deployment(
    ray_actor_options={"num_cpus": 0.1, "num_gpus": 1},
    placement_group_bundles=[{"CPU": 0.1, "GPU": 1}, {"GPU": 1}],
)
class Model:
    def __init__(self):
        there = ray.remote(look).options(num_gpus=1, num_cpus=0).remote()
        with open(os.environ["SEEN"], "a") as file:
            print(look(), ray.get(there), file=file)


app = Model.bind()
"""
CONFIG = """
proxy_location: Disabled
applications:
  - name: model
    import_path: application:app
    deployments:
      - name: Model
        placement_group_bundles: [{CPU: 0.1, GPU: 1}, {GPU: 1}]
        placement_group_bundle_label_selector: [{ray-dra.io/locality: same_clique}, {ray-dra.io/locality: same_clique}]
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Head:
    """A head with the dashboard, on a simulated machine with four GPUs."""

    def __init__(self, folder: Path, sessions: str) -> None:
        (node,) = simulated_nodes("gb200-nvl72", nodes=1)
        machine = Machine.create(folder / "node", node)
        ours = (VISIBLE_VARIABLE, WORKER_HOOK_VARIABLE, RAY_ADDRESS_VARIABLE)
        own = {name: value for name, value in os.environ.items() if name not in ours}
        self.folder, self.port, self.dashboard = folder, free_port(), free_port()
        self.environment = {
            **own,
            **machine.environment,
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, (str(library_folder()), own.get("LD_LIBRARY_PATH")))),
            "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
            "RAY_AUTH_MODE": "disabled",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{self.dashboard}",
            "SEEN": str(folder / "seen"),
            START_HOOK_VARIABLE: "ray_dra.hooks.start",
        }
        start = [str(FOLDER / "ray"), "start", "--head", "--block", f"--port={self.port}"]
        start += [f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={free_port()}"]
        start += [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={sessions}", "--disable-usage-stats"]
        start += ["--node-ip-address=127.0.0.1", "--num-gpus=4", "--num-cpus=4", "--object-store-memory=104857600"]
        with open(folder / "ray.log", "w") as log:
            self.process = subprocess.Popen(
                start, env=self.environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
            )

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False, cwd=self.folder
        )
        return done.stdout + done.stderr

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    sessions = tempfile.mkdtemp(prefix="ray-dra-", dir="/tmp")  # Ray's sockets need a short path
    found = Head(tmp_path, sessions)
    try:
        yield found
    finally:
        found.end()
        shutil.rmtree(sessions, ignore_errors=True)


def eventually(tells: Callable[[], str], wanted: str, seconds: float = 150.0) -> str:
    until = time.monotonic() + seconds
    while wanted not in (told := tells()):
        assert time.monotonic() < until, told
        time.sleep(1.0)
    return told


@pytest.mark.timeout(390)
def test_what_serve_deploy_starts_has_planned_gangs(head: Head) -> None:
    (head.folder / "application.py").write_text(APPLICATION)
    (head.folder / "serve.yaml").write_text(CONFIG)
    serve = str(FOLDER / "serve")
    eventually(lambda: head.run(serve, "deploy", "serve.yaml"), "Sent deploy request")
    eventually(lambda: head.run(serve, "status"), "RUNNING")
    gangs = head.run(str(FOLDER / "ray-dra"), "gangs", "--address", f"127.0.0.1:{head.port}", "-o", "json")
    (gang,) = [each for each in json.loads(gangs)["gangs"] if each["name"].startswith("SERVE_REPLICA::model#Model#")]
    assert gang["phase"] == "ready"
    planned = [str(gpu["index"]) for bundle in gang["allocation"] for gpu in bundle["gpus"]]
    assert (head.folder / "seen").read_text().split() == planned, "the replica, and its second worker"
    assert len(planned) == 2
