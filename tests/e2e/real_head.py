"""A head with Ray's own dashboard and agents, as `ray start` makes it with our start hook, on a simulated machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_dra.simulated.library import library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.names import RAY_ADDRESS_VARIABLE, START_HOOK_VARIABLE, VISIBLE_VARIABLE, WORKER_HOOK_VARIABLE

ROOT = Path(__file__).parents[2]
FOLDER = Path(sys.executable).parent


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
        self.folder, self.port, self.dashboard, self.metrics = folder, free_port(), free_port(), free_port()
        self.environment = {
            **own,
            **machine.environment,
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, (str(library_folder()), own.get("LD_LIBRARY_PATH")))),
            "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
            "RAY_AUTH_MODE": "disabled",
            "RAY_metrics_report_interval_ms": "1000",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{self.dashboard}",
            "SEEN": str(folder / "seen"),
            START_HOOK_VARIABLE: "ray_dra.hooks.start",
        }
        start = [str(FOLDER / "ray"), "start", "--head", "--block", f"--port={self.port}"]
        start += [f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={free_port()}"]
        start += [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={sessions}", "--disable-usage-stats"]
        start += [f"--metrics-export-port={self.metrics}"]
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


@contextmanager
def real_head(folder: Path) -> Iterator[Head]:
    sessions = tempfile.mkdtemp(prefix="ray-dra-", dir="/tmp")  # Ray's sockets need a short path
    found = Head(folder, sessions)
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
