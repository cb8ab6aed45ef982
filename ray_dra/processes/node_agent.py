"""The agent's actor, one on every node, so this module stays light; and how the coordinator starts and ends it."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import ray

from ray_dra.processes.probe_loop import run_agent
from ray_dra.translate.names import RAY_NODE_ID, VISIBLE_VARIABLE, WORKER_HOOK_VARIABLE

NAME = "ray_dra_coordinator"
NAMESPACE = "ray_dra"
HEARTBEAT_SECONDS = 2.0
logger = logging.getLogger("ray_dra")


class AgentActor:
    """A node's agent; the probe runs in a child process of it, which dies with it."""

    def __init__(self, raylet: str) -> None:
        self._raylet = raylet
        self._visible = os.environ.get(VISIBLE_VARIABLE)
        self._said = 0.0
        self._last: bytes | None = None  # sent once; readings that are as the last are not
        self._count = time.time_ns()  # with each reading one more; an agent after this one begins beyond
        self._again = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                run_agent(self._send, stopped=lambda: False)
            except Exception:  # no process to be had, or Ray does not answer: a node without a voice is lost to gangs
                logger.exception("the agent of raylet %s begins anew", self._raylet)
                time.sleep(HEARTBEAT_SECONDS)

    def say_again(self) -> None:
        """The last reading once more, with the next sign of life: the coordinator does not have it any more."""
        self._again = True

    def _send(self, reading: bytes | None) -> None:
        now = time.monotonic()
        if reading is not None:
            self._last = reading
            self._count += 1
        elif self._again:
            reading = self._last
        if reading is None and now - self._said < HEARTBEAT_SECONDS:
            return
        self._said, self._again = now, False
        try:
            coordinator = ray.get_actor(NAME, namespace=NAMESPACE)
        except ValueError:
            return  # it retired; this agent is ended too
        coordinator.report.remote(self._raylet, reading, self._visible, self._count)

    def pid(self) -> int:
        return os.getpid()


def our_environment() -> dict[str, Any]:
    """The runtime_env of our own actors: they outlive the program that starts them, so they do not run its worker
    hook."""
    hooked = WORKER_HOOK_VARIABLE in (ray.get_runtime_context().runtime_env.get("env_vars") or {})
    return {"runtime_env": {"env_vars": {WORKER_HOOK_VARIABLE: "ray_dra.hooks.install_worker"}}} if hooked else {}


def _name(raylet: str) -> str:
    return f"ray_dra_agent_{raylet}"


def start_agent(raylet: str) -> None:
    """Start an agent on the raylet, unless one lives there."""
    ray.remote(AgentActor).options(
        name=_name(raylet),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        label_selector={RAY_NODE_ID: raylet},
        **our_environment(),
    ).remote(raylet)


def ask_again(raylet: str) -> None:
    """Ask the agent for its last reading again."""
    try:
        ray.get_actor(_name(raylet), namespace=NAMESPACE).say_again.remote()
    except ValueError:
        pass  # it ended with its node


def stop_agent(raylet: str) -> None:
    try:
        ray.kill(ray.get_actor(_name(raylet), namespace=NAMESPACE))
    except ValueError:
        pass  # it ended with its node
