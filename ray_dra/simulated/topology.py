"""Simulated machines as the planner sees them, without Ray: read through the simulated NVML library."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ray_dra.core.model.node import Node
from ray_dra.errors import SimulationError
from ray_dra.simulated.library import library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import SimulatedNode, simulated_nodes
from ray_dra.translate.files.readings import reading_from_bytes
from ray_dra.translate.nvml.reading import node_from_reading

PROBE_SECONDS = 30.0
CPUS = 64.0


def simulated_topology(profile: str, *, nodes: int | None = None, cliques: int | None = None) -> tuple[Node, ...]:
    """The nodes of a simulated cluster, each read by the probe that agents use.

    Raises:
        InvalidAddress: an unknown profile, or numbers that it cannot have.
        SimulationError: the probe did not answer.
    """
    path = str(library_folder())
    with tempfile.TemporaryDirectory(prefix="ray-dra-") as folder:
        found = []
        for each in simulated_nodes(profile, nodes=nodes, cliques=cliques):
            machine = Machine.create(Path(folder) / each.name, each)
            found.append(_read(each, {**os.environ, "LD_LIBRARY_PATH": path, **machine.environment}))
    return tuple(found)


def _read(node: SimulatedNode, environment: dict[str, str]) -> Node:
    command = [sys.executable, "-m", "ray_dra.adapters.nvml", "once"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=PROBE_SECONDS, check=True)
    except subprocess.SubprocessError as error:
        raise SimulationError("The probe of a simulated machine did not answer.", place=node.name) from error
    return replace(node_from_reading(node.name, reading_from_bytes(done.stdout)), resources={"CPU": CPUS})
