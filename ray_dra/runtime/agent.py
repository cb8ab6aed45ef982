"""One node's agent: keeps a probe process alive and passes on what it says.

The probe calls NVML and may hang in the driver for ever; the agent gives it a deadline, kills it, and
says so. Nothing here calls NVML.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from ray_dra.ports import NodeReading
from ray_dra.translate.records import reading_from_bytes

DEADLINE_SECONDS = 3.0  # a driver call that takes longer counts as hung
FIRST_SECONDS = 20.0  # the first reading: starting Python and NVML
COMMAND = (sys.executable, "-m", "ray_dra.adapters.nvml", "watch")


class ProbeProcess:
    """A probe in a child process that is killed when it stops answering, and dies with its parent."""

    def __init__(self, command: tuple[str, ...] = COMMAND) -> None:
        self._command = (*command, str(os.getpid()))
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._answered = False

    def next(self) -> NodeReading | None:
        """The next reading; None when nothing changed. Never takes longer than the deadline.

        A probe that hangs or dies gives a reading with an error, and is started again by the next call.
        """
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
            self._buffer, self._answered = b"", False
        deadline = time.monotonic() + (DEADLINE_SECONDS if self._answered else FIRST_SECONDS)
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                self.stop()
                return NodeReading(error=f"NVML did not answer within {DEADLINE_SECONDS:g} s; the probe was killed")
            readable, _, _ = select.select([self._process.stdout], [], [], left)
            if readable:
                data = os.read(self._process.stdout.fileno(), 1 << 16)
                if not data:
                    code = self._process.wait()
                    self.stop()
                    return NodeReading(error=f"the NVML probe ended with code {code}")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self._answered = True
        return reading_from_bytes(line) if line else None

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def run_agent(send: Callable[[NodeReading | None], None], *, stopped: Callable[[], bool], visible: str | None) -> None:
    """Send every change, and None as a sign of life in between, until `stopped`.

    Args:
        visible: the raylet's CUDA_VISIBLE_DEVICES; only those GPUs are Ray's to give.
    """
    probe = ProbeProcess()
    try:
        while not stopped():
            reading = probe.next()
            send(None if reading is None else only_visible(reading, visible))
            if reading is not None and reading.error is not None:
                time.sleep(0.5)
    finally:
        probe.stop()


def only_visible(reading: NodeReading, visible: str | None) -> NodeReading:
    """The GPUs that CUDA_VISIBLE_DEVICES names, in its order; indices or UUIDs, None or empty for all."""
    if not visible:
        return reading
    by_name = {str(g.index): g for g in reading.gpus} | {g.uuid: g for g in reading.gpus if g.uuid}
    chosen = []
    for name in visible.split(","):
        found = by_name.get(name) or next((g for u, g in by_name.items() if u.startswith(name)), None)
        if found is not None and found not in chosen:
            chosen.append(found)
    at = [reading.gpus.index(g) for g in chosen]

    def narrowed(matrix: tuple[tuple[object, ...], ...]) -> tuple[tuple[object, ...], ...]:
        return tuple(tuple(matrix[i][j] for j in at) for i in at)

    return replace(
        reading,
        gpus=tuple(chosen),
        p2p=narrowed(reading.p2p),  # type: ignore[arg-type]
        ancestors=narrowed(reading.ancestors),  # type: ignore[arg-type]
    )
