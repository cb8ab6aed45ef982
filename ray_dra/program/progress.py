"""The lines that a terminal shows while somebody waits: for a gang (`gang.wait()`: phase, stage, seconds, what is
waited for), and for an embedded cluster (what is being started, and at the end where it is).

Nothing is shown where stderr is no terminal, or RAY_DRA_PROGRESS is 0, nor of a gang that is ready within a second.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from ray_dra.coordinator.status import Status
from ray_dra.translate.lines import several, shortened
from ray_dra.translate.names import PROGRESS_VARIABLE
from ray_dra.translate.text import explain_wait

if TYPE_CHECKING:
    from typing_extensions import Self

QUIET_SECONDS = 1.0
_CLEAR = "\r\x1b[K"


class Line:
    """A context manager that leaves no line behind."""

    def __init__(self) -> None:
        self._began, self._drawn = time.monotonic(), False
        self._stream = _terminal()

    @property
    def on(self) -> bool:
        """Whether anybody would see it, so that it is worth asking for news."""
        return self._stream is not None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def draw(self, text: str) -> None:
        width = max(20, shutil.get_terminal_size().columns - 1)
        self._write(f"{_CLEAR}{shortened(text, width)}")
        self._drawn = True

    def clear(self) -> None:
        if self._drawn:
            self._write(_CLEAR)
            self._drawn = False

    def leave(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        self._write(f"{text}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def _write(self, text: str) -> None:
        try:
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
        except (OSError, ValueError):  # a terminal that was closed, or has no such letters: the gang matters more
            self._stream = None


class ProgressLine(Line):
    """Of a gang."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def show(self, status: Status | None) -> None:
        """The gang as it was last heard of."""
        seconds = self.seconds
        if self.on and status is not None and seconds >= QUIET_SECONDS:
            self.draw(explain_wait(status, self._name, seconds))


class StartLine(Line):
    """Of an embedded cluster that starts."""

    def waiting(self, what: str) -> None:
        self.draw(f"ray-dra: starting {what}, {self.seconds:.0f} s so far")

    def up(self, machines: int, address: str) -> None:
        """How to look at it from another shell."""
        said = f"{several(machines, 'simulated machine')} at {address} after {self.seconds:.0f} s"
        self.leave(f"ray-dra: {said}; in another shell: ray-dra topology --address {address}")


def _terminal() -> TextIO | None:
    """Stderr where it is a terminal, and nobody has switched the line off."""
    if os.environ.get(PROGRESS_VARIABLE, "").strip().lower() in ("0", "false", "no", "off"):
        return None
    try:
        return sys.stderr if sys.stderr.isatty() else None
    except (AttributeError, ValueError):  # a program without one, or that has closed it
        return None
