"""A Ray cluster of simulated machines on this one, and the handle to break it.

Each simulated node is a real raylet whose processes see, through the simulated NVML library, that node's
GPUs and nothing else; its labels are read by NVML like a real node's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from ray_dra.adapters.ray import WORKER_HOOK
from ray_dra.errors import SimulationError
from ray_dra.hooks import labels_here
from ray_dra.simulated.library import library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import SimulatedNode, simulated_nodes

INSTALL = "ray_dra.hooks.install_worker"
OBJECT_STORE = 100 << 20
PREFIX = "ray-dra-"
START_SECONDS = 240.0


class LocalCluster:
    """A running embedded cluster. Ends with `stop()`, or with the process that started it.

    Attributes:
        address: host:port of Ray's control store.
        nodes: the simulated nodes, in order.
    """

    def __init__(
        self, nodes: Sequence[SimulatedNode], folder: Path, process: subprocess.Popen[str], address: str
    ) -> None:
        self.nodes = tuple(nodes)
        self.address = address
        self.folder = folder
        self._process = process
        self._lock = threading.Lock()

    @classmethod
    def start(
        cls, profile: str, *, nodes: int | None = None, cliques: int | None = None, cpus: int | None = None
    ) -> LocalCluster:
        """Start the cluster and wait until every raylet is up (about 2 s a node on two cores).

        Raises:
            InvalidAddress: an unknown profile, or numbers that do not fit it.
            SimulationError: no compiler, or Ray did not come up.
        """
        chosen = simulated_nodes(profile, nodes=nodes, cliques=cliques)
        library = library_folder()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))  # Ray's sockets need a short path
        process: subprocess.Popen[str] | None = None
        try:
            config = _configuration(chosen, folder, library, cpus)
            (folder / "cluster.json").write_text(json.dumps(config))
            process = subprocess.Popen(
                [sys.executable, "-m", "ray_dra.simulated.supervisor", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=open(folder / "supervisor.log", "w"),
                text=True,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is the program's; and Ray's reaper ends its own group only
            )
            answer = _read(process, START_SECONDS)
            if "address" not in answer:
                raise _failed(answer, folder)
            return cls(chosen, folder, process, str(answer["address"]))
        except BaseException:
            if process is not None:
                _end(process)
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def machine(self, node: str) -> Machine:
        """The simulated machine of a node, to inject faults."""
        return Machine(self.folder / "nodes" / node)

    def kill_node(self, node: str) -> None:
        """End a node's raylet and workers at once."""
        self._ask(do="kill", node=node)

    def add_node(self, node: str) -> None:
        """Start the raylet of a killed node again."""
        self._ask(do="add", node=node)

    def stop(self) -> None:
        """End everything; harmless when it has ended."""
        _end(self._process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ask(self, **request: str) -> None:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = _read(self._process, 60.0)
        if "error" in answer:
            raise SimulationError(
                "The embedded cluster could not do that.", place=str(request), available=answer["error"]
            )


def _configuration(nodes: Sequence[SimulatedNode], folder: Path, library: Path, cpus: int | None) -> dict[str, Any]:
    machines = [Machine.create(folder / "nodes" / n.name, n) for n in nodes]
    path = os.pathsep.join(filter(None, (str(library), os.environ.get("LD_LIBRARY_PATH"))))
    environments = [{"LD_LIBRARY_PATH": path, WORKER_HOOK: INSTALL, **m.environment} for m in machines]

    def labels(at: int) -> dict[str, str]:
        return labels_here(nodes[at].name, environment={**os.environ, **environments[at]})

    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        found = list(pool.map(labels, range(len(nodes))))
    return {
        "object_store": OBJECT_STORE,
        "nodes": {
            n.name: {
                "cpus": cpus or n.profile.cpus,
                "gpus": n.profile.gpus,
                "labels": found[i],
                "environment": environments[i],
            }
            for i, n in enumerate(nodes)
        },
    }


def _environment() -> dict[str, str]:
    """The supervisor's: without what would lead its raylets to another cluster or another GPU."""
    dropped = {"RAY_ADDRESS", "CUDA_VISIBLE_DEVICES", "RAY_START_HOOK", WORKER_HOOK}
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    return {"RAY_AUTH_MODE": "disabled", **kept, "RAY_DISABLE_IMPORT_WARNING": "1", "PYTHONUNBUFFERED": "1"}


def _read(process: subprocess.Popen[str], timeout: float) -> dict[str, Any]:
    """One answer, or {"error": ...} when none comes."""
    assert process.stdout is not None
    box: list[str] = []
    stream: IO[str] = process.stdout
    reader = threading.Thread(target=lambda: box.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(timeout)
    if not box:
        return {"error": f"no answer within {timeout:g} s"}
    if not box[0]:
        return {"error": "the supervisor ended"}
    answer: dict[str, Any] = json.loads(box[0])
    return answer


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        try:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=30)
        except (subprocess.TimeoutExpired, OSError):
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _failed(answer: dict[str, Any], folder: Path) -> SimulationError:
    log = (folder / "supervisor.log").read_text(errors="replace")[-1500:]
    return SimulationError(
        "The embedded Ray cluster did not start.", place="this machine", available=f"{answer.get('error')}\n{log}"
    )
