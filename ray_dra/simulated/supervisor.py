"""The process that owns an embedded cluster: `python -m ray_dra.simulated.supervisor FOLDER`.

It starts one raylet for each simulated node, and ends them all when it is told to or when its standard
input closes, which is what happens however the program that started it dies. The raylets are
tied to it by the kernel in turn. Speaks JSON lines: a request on standard input, an answer on standard
output. Started by `simulated.cluster.LocalCluster`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from ray_dra.simulated.profile import LOOPBACK

HEALTH = {
    # A raylet that was killed shows after two to three seconds instead of fourteen.
    "health_check_initial_delay_ms": 3000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 5,
}


class Supervisor:
    """The raylets of a simulated cluster. Used from the main thread alone: a raylet dies with the thread that
    started it."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.config = json.loads((folder / "cluster.json").read_text())
        self.cluster = Cluster(shutdown_at_exit=True)
        self.raylets: dict[str, Any] = {}

    def start(self) -> str:
        """Everything up; the address of the control store."""
        import ray._private.utils

        # Not for other programs of this user: `ray.init("auto")` must not find this cluster.
        ray._private.utils.write_ray_address = lambda *args, **kwargs: None
        self.cluster.add_node(
            wait=False,
            num_cpus=0,
            num_gpus=0,
            include_dashboard=False,
            no_monitor=True,
            temp_dir=str(self.folder / "ray"),
            node_ip_address=LOOPBACK,
            object_store_memory=self.config["object_store"],
            _system_config=HEALTH,
        )
        for name in self.config["nodes"]:
            self.add(name)
        self.cluster.wait_for_nodes(timeout=120)
        return str(self.cluster.gcs_address)

    def add(self, name: str) -> None:
        node = self.config["nodes"][name]
        self.raylets[name] = self.cluster.add_node(
            wait=False,
            num_cpus=node["cpus"],
            num_gpus=node["gpus"],
            labels=node["labels"],
            resources={},
            node_ip_address=LOOPBACK,
            temp_dir=str(self.folder / "ray"),
            object_store_memory=self.config["object_store"],
            env_vars=node["environment"],
        )

    def kill(self, name: str) -> None:
        """The node is gone at once, as when its power fails."""
        raylet = self.raylets.pop(name)
        self.cluster.remove_node(raylet, allow_graceful=False)

    def stop(self) -> None:
        for raylet in [*self.raylets.values(), self.cluster.head_node]:
            if raylet is not None:
                raylet.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        _end_orphans()
        shutil.rmtree(self.folder, ignore_errors=True)


def _adopt_orphans() -> None:
    """Become the parent of what our raylets leave behind (their agents, workers and probes)."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _end_orphans() -> None:
    """Kill and reap every process that descends from this one."""
    own = os.getpid()
    while True:
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        if not children:
            return
        for child in children:
            try:
                os.kill(int(child), signal.SIGKILL)
                os.waitpid(int(child), 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def main() -> None:
    folder = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever Ray prints is no answer
    supervisor: Supervisor | None = None
    _adopt_orphans()

    def answer(**fields: Any) -> None:
        try:
            answers.write(json.dumps(fields) + "\n")
        except BrokenPipeError:
            pass  # nobody listens any more; the end of standard input says so too

    try:
        supervisor = Supervisor(folder)
        answer(address=supervisor.start())
        for line in sys.stdin:
            request = json.loads(line)
            if request["do"] == "stop":
                break
            try:
                {"kill": supervisor.kill, "add": supervisor.add}[request["do"]](request["node"])
                answer(done=request["do"])
            except Exception as error:  # said to whoever asked; the cluster goes on
                answer(error=repr(error))
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")
    finally:
        if supervisor is not None:
            supervisor.stop()
        else:
            shutil.rmtree(folder, ignore_errors=True)
        answer(done="stop")


if __name__ == "__main__":
    main()
