"""The line that `gang.wait()` shows in a terminal while it waits: phase, stage, seconds, what is waited for.

Nothing is shown where stderr is no terminal, or RAY_DRA_PROGRESS is 0, nor of a gang that is ready within a second.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from types import TracebackType
from typing import TextIO

from ray_dra.coordinator.status import Status
from ray_dra.translate.lines import shortened
from ray_dra.translate.names import PROGRESS_VARIABLE
from ray_dra.translate.text import explain_wait

QUIET_SECONDS = 1.0
_CLEAR = "\r\x1b[K"


class ProgressLine:
    """A context manager that leaves no line behind."""

    def __init__(self, name: str) -> None:
        self._name, self._began, self._drawn = name, time.monotonic(), False
        self._stream = _terminal()

    @property
    def on(self) -> bool:
        """Whether anybody would see it, so that it is worth asking for news."""
        return self._stream is not None

    def show(self, status: Status | None) -> None:
        """The gang as it was last heard of."""
        seconds = time.monotonic() - self._began
        if self._stream is None or status is None or seconds < QUIET_SECONDS:
            return
        width = max(20, shutil.get_terminal_size().columns - 1)
        self._write(f"{_CLEAR}{shortened(explain_wait(status, self._name, seconds), width)}")
        self._drawn = True

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._write(_CLEAR)

    def _write(self, text: str) -> None:
        try:
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
        except (OSError, ValueError):  # a terminal that was closed, or has no such letters: the gang matters more
            self._stream = None


def _terminal() -> TextIO | None:
    """Stderr where it is a terminal, and nobody has switched the line off."""
    if os.environ.get(PROGRESS_VARIABLE, "").strip().lower() in ("0", "false", "no", "off"):
        return None
    try:
        return sys.stderr if sys.stderr.isatty() else None
    except (AttributeError, ValueError):  # a program without one, or that has closed it
        return None
