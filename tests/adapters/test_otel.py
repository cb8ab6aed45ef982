"""Where traces go: nowhere unless OpenTelemetry's own variables say so, and never at a gang's cost."""

from __future__ import annotations

import builtins
import logging
import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from ray_dra.adapters.otel import OtelTraces, traces_of
from ray_dra.ports.traces import NO_TRACES, Span, Trace
from ray_dra.translate.names import OTLP_ENDPOINT_VARIABLES

TRACE = Trace("k", Span("gang a", 1.0, 2.0, {}), (Span("queued", 1.0, 2.0, {}),))


def test_nothing_is_imported_unless_a_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **more: Any) -> Any:
        assert not name.startswith("opentelemetry"), name
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert traces_of({}) is NO_TRACES
    assert traces_of(dict.fromkeys(OTLP_ENDPOINT_VARIABLES, " ")) is NO_TRACES


def test_a_place_without_the_extra_is_said_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setattr(logging.getLogger("ray_dra"), "propagate", True)
    with caplog.at_level("WARNING", logger="ray_dra"):
        assert traces_of({OTLP_ENDPOINT_VARIABLES[0]: "http://127.0.0.1:1"}) is NO_TRACES
    assert "pip install 'ray-dra[otel]'" in caplog.text
    NO_TRACES.tell(TRACE)


def test_what_fails_in_it_fails_no_gang(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("no room")

    monkeypatch.setattr(logging.getLogger("ray_dra"), "propagate", True)
    with caplog.at_level("WARNING", logger="ray_dra"):
        OtelTraces(Broken()).tell(TRACE)
    assert "a gang was not traced" in caplog.text
