"""One node's agent: keeps a probe process alive and passes on what it says.

The probe calls NVML and may hang in the driver for ever; the agent gives it a deadline, kills it, and
says so. Nothing here calls NVML, and nothing heavy is imported: there is one of these on every node.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from ray_dra.ports.nvml import NodeReading

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

    def next(self) -> bytes | None:
        """The next reading, as the probe wrote it (JSON); None when nothing changed. Bound by the deadline.

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
                return _failed(f"NVML did not answer within {DEADLINE_SECONDS:g} s; the probe was killed")
            readable, _, _ = select.select([self._process.stdout], [], [], left)
            if readable:
                data = os.read(self._process.stdout.fileno(), 1 << 16)
                if not data:
                    code = self._process.wait()
                    self.stop()
                    return _failed(f"the NVML probe ended with code {code}")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self._answered = True
        return line or None

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def run_agent(send: Callable[[bytes | None], None], *, stopped: Callable[[], bool]) -> None:
    """Send every reading that differs from the last, and None as a sign of life in between, until `stopped`."""
    probe = ProbeProcess()
    try:
        while not stopped():
            reading = probe.next()
            send(reading)
            if reading is not None and b'"error": null' not in reading:
                time.sleep(0.5)
    finally:
        probe.stop()


def _failed(why: str) -> bytes:
    return json.dumps(asdict(NodeReading(error=why))).encode()
