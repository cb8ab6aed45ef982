"""What one rank of a validation sees and does: its GPUs by NVML, IMEX channels, and a sum over all ranks.

Runs in the workers of a gang. `validate.py` starts the ranks, and judges what they say.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from ray_dra.ports.nvml import NodeReading
from ray_dra.translate.files.readings import reading_from_bytes
from ray_dra.translate.names import VISIBLE_VARIABLE

CHANNELS = Path("/dev/nvidia-caps-imex-channels")
NVML_SECONDS = 60.0  # a driver that hangs answers never
LENGTH = 1 << 20  # bytes that each rank passes on, once to each other rank
PROBE = (sys.executable, "-m", "ray_dra.adapters.nvml", "once")


@dataclass(frozen=True, slots=True)
class RankView:
    """What a rank saw.

    Attributes:
        visible: CUDA_VISIBLE_DEVICES, in order.
        reading: of NVML, in the worker; its `error` says why there are no GPUs in it.
        channels: IMEX channels in /dev.
    """

    host: str
    visible: tuple[str, ...]
    reading: NodeReading
    channels: int

    @property
    def uuids(self) -> tuple[str | None, ...]:
        """Of the visible GPUs, in order, as NVML has them."""
        gpus = self.reading.gpus
        by_name = {str(gpu.index): gpu.uuid for gpu in gpus} | {gpu.uuid: gpu.uuid for gpu in gpus if gpu.uuid}
        return tuple(by_name.get(name) for name in self.visible)


class Rank:
    """An actor in one bundle."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("", 0))

    def view(self) -> RankView:
        visible = tuple(filter(None, os.environ.get(VISIBLE_VARIABLE, "").split(",")))
        channels = len(list(CHANNELS.glob("channel*")))  # none where the folder is not there
        return RankView(socket.gethostname(), visible, _reading(), channels)

    def address(self) -> tuple[str, int]:
        return ray.util.get_node_ip_address(), self._listener.getsockname()[1]

    def sum_over(self, following: tuple[str, int], ranks: int, mine: int, timeout: float) -> tuple[int, float]:
        """The sum of what all ranks have (`mine`), passed around a ring over TCP with LENGTH bytes each time, and the
        seconds that it took.

        Raises:
            OSError: a neighbour is not reached, or does not answer in time.
        """
        self._listener.settimeout(timeout)
        began, total, passing = time.monotonic(), mine, mine
        with socket.create_connection(following, timeout=timeout) as after, self._listener.accept()[0] as before:
            before.settimeout(timeout)
            told = before.makefile("rb")
            for _ in range(ranks - 1):
                said = struct.pack("!q", passing).ljust(LENGTH, b"\0")
                sender = threading.Thread(target=after.sendall, args=(said,), daemon=True)
                sender.start()  # else two that send to each other wait for each other
                heard = told.read(LENGTH)
                if len(heard) < LENGTH:
                    raise ConnectionError("the rank before has hung up")
                passing = struct.unpack_from("!q", heard)[0]
                sender.join(timeout)
                total += passing
        return total, time.monotonic() - began


def _reading() -> NodeReading:
    """By a child process, which may hang in the driver where this one must not."""
    try:
        done = subprocess.run(PROBE, capture_output=True, timeout=NVML_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return NodeReading(error=f"NVML has not answered for {NVML_SECONDS:.0f} s")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return NodeReading(error=lines[-1] if lines else f"the probe ended with {done.returncode}")
    return reading_from_bytes(done.stdout)
