"""Programs that are run beside the tests: examples/unchanged, and what was planned for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ray_dra.processes.calls import ask, coordinator
from ray_dra.simulated.cluster import LocalCluster

PROGRAMS = Path(__file__).parents[3] / "examples" / "unchanged"


Look = Callable[[], None]


def run(*command: str, address: str, token: str = "", look: Look = lambda: None, seconds: float = 200) -> str:
    """What a program prints. `token`: the cluster's, where Ray itself connects it; `look`: called while it runs;
    `seconds`: after which it hangs."""
    environment = {**os.environ, "RAY_ADDRESS": address}
    if token:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token}
    until = time.monotonic() + seconds
    with subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        try:
            while True:
                try:
                    said, errors = program.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    assert time.monotonic() < until, "it does not end"
                    look()
        finally:
            program.kill()
    assert program.returncode == 0, said[-2000:] + errors[-3000:]
    return said


def ours(
    program: str, cluster: LocalCluster, *arguments: str, locality: str = "", look: Look = lambda: None
) -> list[str]:
    """What it prints through ray-dra."""
    address = f"ray_dra://{cluster.address}" + (f"?locality={locality}" if locality else "")
    return lines(run(str(PROGRAMS / program), *arguments, address=address, look=look))


def rays(program: str, cluster: LocalCluster) -> list[str]:
    """What it prints as Ray has it."""
    return lines(run(str(PROGRAMS / program), address=cluster.address, token=str(cluster.token)))


class Plans:
    """The gangs that there are while a program runs: the GPUs of each bundle, as workers see them, and its node."""

    def __init__(self, *before: str) -> None:
        self.found: dict[str, list[str]] = {}
        self.nodes: dict[str, tuple[str, ...]] = {}
        self._before = before

    def __call__(self) -> None:
        for status in ask(coordinator().gangs.remote()):
            if status.allocation is not None and status.gang not in self._before:
                bundles = status.allocation.bundles
                self.nodes[status.gang] = status.allocation.nodes
                self.found[status.gang] = [",".join(str(grant.index) for grant in each.grants) for each in bundles]

    def only(self) -> list[str]:
        (plan,) = self.found.values()
        return plan


def lines(text: str) -> list[str]:
    """Those of the program, without what Ray and its libraries print."""
    return [
        line
        for line in text.splitlines()
        if re.match(r"(group|rank|trial|replica|gang|actor|start|\d+ (clique|workers))", line)
    ]
