"""The agents of all raylets with GPUs: started by the coordinator, and started again where they fall silent.

Neighbour: `node_agent.py` has the actor of each.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.ports.ray import RayView
from ray_dra.processes.node_agent import HEARTBEAT_SECONDS, start_agent, stop_agent
from ray_dra.translate.names import SLOT_LABEL

AGENT_SECONDS = 15.0  # an agent that was started and has not spoken for so long is started again
# One that is there and does not speak for so long is ended first, and the next one after twice as long: on a loaded
# machine Python takes minutes to start.
MUTE_SECONDS = 60.0
logger = logging.getLogger("ray_dra")


class Agents:
    """See the module. `nodes` know when each agent last spoke."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._started: dict[str, float] = {}  # raylet -> when its agent was last started
        self._read: dict[str, int] = {}  # raylet -> the number of its last reading that came
        self._made: dict[str, tuple[float, float]] = {}  # raylet -> since when its agent is there, and how long it may

    def keep(self, view: RayView, now: float, later: Collection[str] = ()) -> None:
        """One that speaks on every living raylet with GPUs.

        Args:
            now: by a clock in which nobody was silent while we were stopped.
            later: slots whose raylets get none yet: an agent's start takes a second of CPU, for which the gang waits.
        """
        for gone in self._started.keys() - {n.id for n in view.nodes if n.alive}:
            del self._started[gone], self._made[gone]
            self._read.pop(gone, None)
            self._nodes.heard.pop(gone, None)
        for raylet in view.nodes:
            if not raylet.alive or raylet.total.get("GPU", 0) < 1:
                continue
            if raylet.id not in self._started and raylet.labels.get(SLOT_LABEL) in later:
                continue
            spoke = max(self._nodes.heard.get(raylet.id, 0.0), self._started.get(raylet.id, 0.0) + AGENT_SECONDS)
            if raylet.id in self._started and now - spoke < HEARTBEAT_SECONDS * 3:
                continue
            self._started[raylet.id] = now
            self._end_mute(raylet.id, now)
            start_agent(raylet.id)

    def came(self, raylet: str, number: int) -> None:
        """A reading of the raylet's GPUs has come."""
        self._read[raylet] = number

    def missed(self, raylet: str, number: int) -> bool:
        """Whether the agent has a newer reading than the last that came: one that it had while no coordinator was
        there, or that one before this coordinator took."""
        return self._read.get(raylet) != number

    def _end_mute(self, raylet: str, now: float) -> None:
        """Ray can keep a detached actor for ever whose creator died in the middle of making it: `start_agent` finds
        the name taken, and nobody speaks."""
        since, patience = self._made.setdefault(raylet, (now, MUTE_SECONDS))
        if self._nodes.heard.get(raylet, 0.0) > since:
            self._made[raylet] = (now, MUTE_SECONDS)
        elif now - since >= patience:
            logger.warning("the agent of raylet %s has not spoken for %.0f s; it is replaced", raylet, now - since)
            self._made[raylet] = (now, 2 * patience)
            stop_agent(raylet)

    def stop(self) -> None:
        for raylet in self._started:
            stop_agent(raylet)
