"""The agent actor: one on every node, so this module stays light."""

from __future__ import annotations

import os
import threading
import time

import ray

from ray_dra.runtime.agent import run_agent

NAME = "ray_dra_coordinator"
NAMESPACE = "ray_dra"
HEARTBEAT_SECONDS = 2.0


class AgentActor:
    """A node's agent; the probe runs in a child process of it, which dies with it."""

    def __init__(self, raylet: str) -> None:
        self._raylet = raylet
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        self._said = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        run_agent(self._send, stopped=lambda: False)

    def _send(self, reading: bytes | None) -> None:
        now = time.monotonic()
        if reading is None and now - self._said < HEARTBEAT_SECONDS:
            return
        self._said = now
        try:
            coordinator = ray.get_actor(NAME, namespace=NAMESPACE)
        except ValueError:
            return  # it retired; this agent is ended too
        coordinator.report.remote(self._raylet, reading, self._visible)

    def pid(self) -> int:
        return os.getpid()
