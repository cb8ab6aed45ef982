"""Traces of gangs by OpenTelemetry (extra `ray-dra[otel]`), where its own variables name a place for them.

The provider is ours alone: what a program or Ray does with OpenTelemetry's global one is left as it is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray_dra.ports.traces import NO_TRACES, Span, Trace, Traces
from ray_dra.translate.names import OTLP_ENDPOINT_VARIABLES, OTLP_SERVICE_VARIABLE, VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

SERVICE = "ray-dra"
logger = logging.getLogger("ray_dra")


def traces_of(environment: Mapping[str, str]) -> Traces:
    """To the collector that OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) names, over HTTP; nobody's where it
    names none, or the extra is not installed, which is said."""
    if not any(environment.get(name, "").strip() for name in OTLP_ENDPOINT_VARIABLES):
        return NO_TRACES
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning("gangs are not traced: pip install 'ray-dra[otel]' in the head's image: %s", error)
        return NO_TRACES
    return OtelTraces(BatchSpanProcessor(OTLPSpanExporter()), environment.get(OTLP_SERVICE_VARIABLE) or SERVICE)


class OtelTraces:
    """See the module, and `ports.traces.Traces`."""

    def __init__(self, processor: SpanProcessor, service: str = SERVICE) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        self._ids = _Ids()
        resource = Resource.create({"service.name": service, "service.version": VERSION})
        provider = TracerProvider(resource=resource, id_generator=self._ids.generator(), shutdown_on_exit=True)
        provider.add_span_processor(processor)
        self._tracer = provider.get_tracer(SERVICE, VERSION)

    def tell(self, trace: Trace) -> None:
        """Whatever OpenTelemetry has against it: no gang waits for a trace."""
        try:
            from opentelemetry.context import Context
            from opentelemetry.trace import set_span_in_context

            self._ids.begin(trace.key)
            whole = self._start(trace.whole, Context())
            for span in trace.below:
                self._end(self._start(span, set_span_in_context(whole, Context())), span)
            self._end(whole, trace.whole)
        except Exception:
            logger.warning("a gang was not traced", exc_info=True)

    def _start(self, span: Span, context: Any) -> Any:
        return self._tracer.start_span(
            span.name, context=context, attributes=dict(span.attributes), start_time=_nanoseconds(span.began)
        )

    @staticmethod
    def _end(started: Any, span: Span) -> None:
        from opentelemetry.trace import Status, StatusCode

        if span.failed:
            started.set_status(Status(StatusCode.ERROR, span.failed))
        started.end(end_time=_nanoseconds(span.ended))


class _Ids:
    """Ids that follow from a trace's key, one after the other."""

    def __init__(self) -> None:
        self._key, self._at = "", 0

    def begin(self, key: str) -> None:
        self._key, self._at = key, 0

    def next(self, size: int) -> int:
        made = hashlib.sha256(f"{self._key}/{self._at}".encode()).digest()[:size]
        self._at += 1
        return int.from_bytes(made, "big") or 1  # 0 is no id

    def generator(self) -> Any:
        from opentelemetry.sdk.trace.id_generator import IdGenerator

        ids = self

        class FromKey(IdGenerator):
            def generate_trace_id(self) -> int:
                return ids.next(16)

            def generate_span_id(self) -> int:
                return ids.next(8)

        return FromKey()


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
