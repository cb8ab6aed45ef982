"""A gang's trace in a whole coordinator: told once, when it is gone, and the same as its history."""

from __future__ import annotations

from dataclasses import replace

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode

from ray_dra.adapters.otel import OtelTraces
from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.core.gangs.phases import Phase
from ray_dra.translate.traces import trace_of
from tests.coordinator.kubernetes_world import World


def traced() -> tuple[World, InMemorySpanExporter]:
    world, told = World(), InMemorySpanExporter()
    traces = OtelTraces(SimpleSpanProcessor(told))
    world.coordinator = Coordinator(
        world.store, world.ray, world.clock, world.kube, wall=lambda: 1e9 + world.clock.now, traces=traces
    )
    return world, told


def seconds(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time / 1e9, span.end_time / 1e9


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def test_a_gang_is_one_trace_with_a_span_for_each_phase_of_its_history() -> None:
    world, told = traced()
    gang = world.coordinator.submit(world.order()).gang
    assert world.drive(gang) is Phase.READY
    assert told.get_finished_spans() == (), "while it lives"
    status = world.coordinator.status(gang)
    world.coordinator.release(gang)
    releasing = world.coordinator.records.gangs.get(gang)
    last = releasing.history if releasing is not None else ()
    world.settle()
    *below, whole = told.get_finished_spans()
    assert whole.parent is None
    assert whole.attributes is not None
    assert whole.attributes["ray_dra.gang"] == gang
    assert whole.attributes["ray_dra.gpus"] == 8
    for stage, spent in status.times.spent:
        assert whole.attributes[f"ray_dra.stage.{stage}_seconds"] == round(spent, 3)
    assert {context(span).trace_id for span in (*below, whole)} == {context(whole).trace_id}
    assert all(span.parent and span.parent.span_id == context(whole).span_id for span in below)
    history = last or status.history
    names = [span.name for span in below]
    assert names[: len(history)] == [change.to.value for change in history]
    assert [span.attributes and span.attributes["ray_dra.why"] for span in below][: len(history)] == [
        change.why for change in history
    ]
    times = [seconds(span) for span in below]
    assert [ended for _, ended in times[:-1]] == [began for began, _ in times[1:]], "one after the other"
    assert (times[0][0], times[-1][1]) == seconds(whole)
    assert whole.status.status_code is StatusCode.UNSET


def test_a_trace_that_is_told_twice_has_the_same_ids_and_a_failed_gangs_says_why() -> None:
    """A coordinator that was killed between the trace and the record's end tells it again."""
    world, told = traced()
    gang = world.coordinator.submit(world.order()).gang
    record = world.coordinator.records.gangs[gang]
    traces = OtelTraces(SimpleSpanProcessor(told))
    trace = trace_of(replace(record, failed="its pods\ncould not start"), "given up", 2e9)
    traces.tell(trace)
    first = [context(span) for span in told.get_finished_spans()]
    told.clear()
    OtelTraces(SimpleSpanProcessor(told)).tell(trace)
    again = told.get_finished_spans()
    assert [context(span) for span in again] == first
    assert len({each.span_id for each in first}) == len(first)
    assert again[-1].status.status_code is StatusCode.ERROR
    assert again[-1].status.description == trace.whole.failed != ""
    assert "\n" not in trace.whole.failed
