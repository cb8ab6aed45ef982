"""A gang's life as a trace, for whoever collects traces: the values, and the port by which they leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Span(NamedTuple):
    """A time with a name. `began` and `ended` are seconds since 1970; `failed`: why it ended badly, "" where it did
    not."""

    name: str
    began: float
    ended: float
    attributes: Mapping[str, str | int | float]
    failed: str = ""


class Trace(NamedTuple):
    """One gang's: the whole of it, and below it what it went through, in order. `key` tells gangs apart; the same key
    gives the same ids, so that a trace which is told twice is one."""

    key: str
    whole: Span
    below: tuple[Span, ...]


class Traces(Protocol):
    """See the module. No call raises, and none waits."""

    def tell(self, trace: Trace) -> None:
        """A gang that has ended."""


class _NoTraces:
    """Nobody collects any."""

    def tell(self, trace: Trace) -> None: ...


NO_TRACES: Traces = _NoTraces()
