"""`serve deploy` on a Ray that was started with our start hook alone: no program has an address of ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_dra.simulated.library import library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.names import START_HOOK_VARIABLE, VISIBLE_VARIABLE, WORKER_HOOK_VARIABLE

pytestmark = [pytest.mark.ray, pytest.mark.by_hand]

APPLICATION = """
from ray import serve

@serve.deployment(
    ray_actor_options={"num_cpus": 0.1, "num_gpus": 2},
    placement_group_bundles=[{"CPU": 0.1, "GPU": 2}],
)
class Model:
    def __call__(self):
        return "ok"

app = Model.bind()
"""
CONFIG = """
applications:
  - name: model
    import_path: application:app
    route_prefix: /
    deployments:
      - name: Model
        placement_group_bundle_label_selector: [{ray-dra.io/locality: same_clique}]
"""


def eventually(tells: Callable[[], str], wanted: str, seconds: float = 200.0) -> str:
    until = time.monotonic() + seconds
    while wanted not in (told := tells()):
        assert time.monotonic() < until, told
        time.sleep(2.0)
    return told


@pytest.mark.timeout(390)
def test_serves_controller_of_the_dashboard_gets_a_planned_gang(tmp_path: Path) -> None:
    (node,) = simulated_nodes("gb200-nvl72", nodes=1)
    machine = Machine.create(tmp_path / "node", node)
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "serve.yaml").write_text(CONFIG)
    own = {name: value for name, value in os.environ.items() if name not in (VISIBLE_VARIABLE, WORKER_HOOK_VARIABLE)}
    environment = {
        **own,
        **machine.environment,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, (str(library_folder()), own.get("LD_LIBRARY_PATH")))),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), own.get("PYTHONPATH")))),
        START_HOOK_VARIABLE: "ray_dra.hooks.start",
    }
    folder = Path(sys.executable).parent
    sessions = Path(f"/tmp/ray-dra-serve-{os.getpid()}")  # Ray's sockets need a short path
    start = [str(folder / "ray"), "start", "--head", "--block", "--port=26379", "--dashboard-port=28265"]
    start += ["--num-gpus=4", "--num-cpus=4", "--disable-usage-stats", f"--temp-dir={sessions}"]
    with open(tmp_path / "ray.log", "w") as log:
        head = subprocess.Popen(start, env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)

    def run(*command: str) -> str:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
        )
        return done.stdout + done.stderr

    try:
        dashboard = "http://127.0.0.1:28265"
        eventually(lambda: run(str(folder / "serve"), "deploy", "serve.yaml", "-a", dashboard), "Sent deploy request")
        eventually(lambda: run(str(folder / "serve"), "status", "-a", dashboard), "RUNNING")
        gangs = [sys.executable, "-m", "ray_dra.cli", "gangs", "--address", "127.0.0.1:26379"]
        told = eventually(lambda: run(*gangs), "SERVE_REPLICA::model#Model#")
        assert "ready" in told
        assert "set aside" not in told
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(sessions, ignore_errors=True)
