"""Ray's own processes for simulated machines, without what makes them slow to start: used by the supervisor.

Ray starts a node and waits until its dashboard agent and its runtime_env agent have imported what they need, which is
three seconds a node and, on a loaded machine, more than Ray waits. Nobody looks at a dashboard here, so there is none,
an agent that does nothing (`idle_agent.py`), and the other agent's port is chosen beforehand, so that nobody waits.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray._private.services as services
import ray._private.utils
from ray._private.node import Node
from ray._private.parameter import RayParams

from ray_dra.errors import SimulationError
from ray_dra.simulated import idle_agent

OBJECT_STORE = 100 << 20
TRIES = 3
AGENT_OPTION = "--dashboard_agent_command="
SYSTEM = {
    # A raylet that was killed shows after two to three seconds instead of fourteen.
    "health_check_initial_delay_ms": 3000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 5,
    # On a loaded machine Python takes minutes to import what an agent or a worker needs.
    "agent_register_timeout_ms": 600_000,
    "worker_register_timeout_seconds": 600,
}
Started = TypeVar("Started")
logger = logging.getLogger("ray_dra")


def prepare_ray() -> None:
    """Change this process's Ray: no dashboard agents, and no word to other programs of this user that a Ray runs here
    (`ray.init("auto")` must not find this cluster)."""
    start = services.start_ray_process

    def start_with_idle_agent(command: list[str], *arguments: Any, **options: Any) -> Any:
        idle = AGENT_OPTION + subprocess.list2cmdline([sys.executable, "-I", "-S", idle_agent.__file__])
        kept = [idle if part.startswith(AGENT_OPTION) else part for part in command]
        return start(kept, *arguments, **options)

    services.start_ray_process = start_with_idle_agent
    ray._private.utils.write_ray_address = lambda *arguments, **options: None


class RayletNode(Node):  # type: ignore[misc]
    """A Ray node whose raylet can be started again: another Ray node with the same address, labels and resources."""

    def start_api_server(self, **_: Any) -> None:
        """None: there is no dashboard."""

    def start_raylet(self, *arguments: Any, **options: Any) -> None:
        self._started_with = (arguments, options)
        native = ray._raylet
        for port in (
            native.METRICS_AGENT_PORT_NAME,
            native.METRICS_EXPORT_PORT_NAME,
            native.DASHBOARD_AGENT_LISTEN_PORT_NAME,
        ):
            native.persist_port(self._session_dir, self._node_id, port, -1)  # as a dashboard agent without servers does
        self._ray_params.runtime_env_agent_port = _free_port(self._node_ip_address)
        super().start_raylet(*arguments, **options)

    @property
    def process_id(self) -> int:
        return int(self._raylet().pid)

    @property
    def ended(self) -> int | None:
        """The exit status of a raylet that has ended, or was not started; None while it lives."""
        code = self._raylet().poll() if "raylet" in self.all_processes else -1
        return None if code is None else int(code)

    def end_raylet(self) -> None:
        """Kill the raylet, if it lives; its workers and agents end by themselves."""
        if "raylet" in self.all_processes:
            self._kill_process_type("raylet", check_alive=False, allow_graceful=False, wait=True)

    def start_again(self) -> None:
        """Start another raylet in place of one that has ended."""
        self.end_raylet()
        self._node_id = ray.NodeID.from_random().hex()
        self._plasma_store_socket_name = self._prepare_socket_file(None, "plasma_store")
        self._raylet_socket_name = self._prepare_socket_file(None, "raylet")
        for port in ("node_manager_port", "metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port"):
            setattr(self._ray_params, port, 0)
        arguments, options = self._started_with
        self.start_raylet(*arguments, **options)

    def _raylet(self) -> Any:
        return self.all_processes["raylet"][0].process


def start_head(address: str, folder: Path, env_vars: dict[str, str]) -> RayletNode:
    """The control store, and a raylet without resources that programs connect to; `env_vars` are its workers', too."""
    return persist(
        "the head",
        folder,
        lambda: _node(
            address,
            folder,
            head=True,
            num_cpus=0,
            num_gpus=0,
            include_dashboard=False,
            no_monitor=True,
            _system_config=SYSTEM,
            env_vars=env_vars,
        ),
    )


def start_machine(name: str, address: str, folder: Path, control_store: str, **parameters: Any) -> RayletNode:
    """The raylet of a simulated machine."""
    return persist(
        f"the raylet of {name}",
        folder,
        lambda: _node(address, folder, head=False, gcs_address=control_store, include_log_monitor=False, **parameters),
    )


def _node(address: str, folder: Path, *, head: bool, **parameters: Any) -> RayletNode:
    chosen = RayParams(
        node_ip_address=address,
        temp_dir=str(folder / "ray"),
        object_store_memory=OBJECT_STORE,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        **parameters,
    )
    return RayletNode(chosen, head=head, shutdown_at_exit=False, spawn_reaper=False)


def persist(what: str, folder: Path, start: Callable[[], Started]) -> Started:
    """Start, and where that fails (Ray waits 30 s for a raylet), try again.

    Raises:
        SimulationError: the last try failed, too.
    """
    for left in reversed(range(TRIES)):
        began = time.monotonic()
        try:
            return start()
        except Exception as error:  # Ray raises bare Exceptions here
            logger.warning("%s did not start within %.0f s: %s", what, time.monotonic() - began, error)
            if not left:
                raise SimulationError(
                    f"Ray did not start {what} in {TRIES} tries.",
                    place=str(folder),
                    wanted=f"{what} known to Ray's control store within 30 s",
                    available=f"{error}",
                ) from error
    raise AssertionError("unreachable")


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
