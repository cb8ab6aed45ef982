"""A Ray cluster of simulated machines on this one, and the handle to break it.

Each simulated node is a real raylet whose processes see, through the simulated NVML library, that node's
GPUs and nothing else; its labels are read by NVML like a real node's.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from ray_dra.errors import SimulationError, shown
from ray_dra.simulated.library import library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import SimulatedNode, simulated_nodes
from ray_dra.simulated.supervisor import ADDRESS, TOKEN
from ray_dra.translate.names import (
    AUTH_MODE_VARIABLE,
    AUTH_TOKEN_PATH_VARIABLE,
    AUTH_TOKEN_VARIABLE,
    NO_IMPORT_WARNING_VARIABLE,
    RAY_ADDRESS_VARIABLE,
    START_HOOK_VARIABLE,
    VISIBLE_VARIABLE,
    WORKER_HOOK_VARIABLE,
)

PREFIX = "ray-dra-"
SILENCE_SECONDS = 240.0  # a part of the start that takes longer is given up


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
        cls,
        profile: str,
        *,
        nodes: int | None = None,
        cliques: int | None = None,
        cpus: int | None = None,
        waiting: Callable[[str], None] = lambda what: None,
    ) -> LocalCluster:
        """Start the cluster and wait until every raylet is up. `waiting` hears what is waited for.

        Raises:
            InvalidAddress: an unknown profile, or numbers that do not fit it.
            SimulationError: no compiler, or Ray did not come up; says what was waited for and where the logs are.
        """
        return cls._start(simulated_nodes(profile, nodes=nodes, cliques=cliques), cpus, waiting=waiting)

    @classmethod
    def _start(
        cls,
        nodes: Sequence[SimulatedNode],
        cpus: int | None,
        *,
        plain: bool = False,
        waiting: Callable[[str], None] = lambda what: None,
    ) -> LocalCluster:
        """`plain`: as a Ray that ray-dra did not start, without its labels and hooks."""
        library = library_folder()
        folder = Path("/tmp") / f"{PREFIX}{secrets.token_hex(4)}"  # Ray's sockets need a short path
        process = subprocess.Popen(
            [sys.executable, "-m", "ray_dra.simulated.supervisor", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(folder),
            start_new_session=True,  # Ctrl-C is the program's; and Ray's reaper ends its own group only
        )
        try:
            config = {
                "nodes": [n.model_dump(mode="json") for n in nodes],
                "cpus": cpus,
                "library": str(library),
                "plain": plain,
            }
            _tell(process, config)
            awaited = "its supervisor"
            waiting(awaited)
            while "address" not in (answer := _read(process, SILENCE_SECONDS)):
                if "waiting" not in answer:
                    raise SimulationError(
                        f"The embedded Ray cluster did not start; it was waiting for {awaited}.",
                        place="this machine",
                        available=str(answer.get("error")),
                    )
                awaited = str(answer["waiting"])
                waiting(awaited)
            return cls(nodes, folder, process, str(answer["address"]))
        except BaseException:
            _end(process)
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def machine(self, node: str) -> Machine:
        """The simulated machine of a node, to inject faults."""
        return Machine(self.folder / "nodes" / self._known(node))

    def kill_node(self, node: str) -> None:
        """End a node's raylet and workers at once, as when its power fails. It stays down until `add_node`; a raylet
        that dies otherwise is started again."""
        self._ask(do="kill", node=self._known(node))

    def add_node(self, node: str) -> None:
        """Start the raylet of a killed node again."""
        self._ask(do="add", node=self._known(node))

    def raylets(self) -> dict[str, int]:
        """The process ids of the raylets that live, by the name of their machine; the head's is ""."""
        return {str(name): int(pid) for name, pid in self._ask(do="processes").items()}

    @property
    def token(self) -> Path:
        """The file with Ray's token for this cluster."""
        return self.folder / TOKEN

    def stop(self) -> None:
        """End everything; harmless when it has ended."""
        _end(self._process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _known(self, node: object) -> str:
        names = [each.name for each in self.nodes]
        if not isinstance(node, str) or node not in names:
            raise SimulationError(
                "The embedded cluster has no such node.",
                place="node",
                wanted=shown(node),
                available=", ".join(names),
            )
        return node

    def _ask(self, **request: str) -> Any:
        with self._lock:
            _tell(self._process, request)
            answer = _read(self._process, 60.0)
        if "error" in answer:
            raise SimulationError(
                "The embedded cluster could not do that.", place=str(request), available=answer["error"]
            )
        return answer["done"]


def _environment(folder: Path) -> dict[str, str]:
    """The supervisor's: with the cluster's token, without what would lead its raylets to another cluster or GPU."""
    dropped = {RAY_ADDRESS_VARIABLE, VISIBLE_VARIABLE, START_HOOK_VARIABLE, AUTH_TOKEN_VARIABLE, WORKER_HOOK_VARIABLE}
    return {
        **{k: v for k, v in os.environ.items() if k not in dropped},
        AUTH_MODE_VARIABLE: "token",
        AUTH_TOKEN_PATH_VARIABLE: str(folder / TOKEN),
        "RAY_gcs_server_port_wait_time_s": "120",
        NO_IMPORT_WARNING_VARIABLE: "1",
        "PYTHONUNBUFFERED": "1",
    }


def token_of(address: str) -> Path | None:
    """The token of this user's embedded cluster at `address`; None where there is none."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid == os.getuid() and (folder / ADDRESS).read_text() == address:
                return folder / TOKEN
        except OSError:
            continue  # another user's, one that starts, or one that ended just now
    return None


def _tell(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
    except OSError:
        pass  # it has ended, which is what its answer will say


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
