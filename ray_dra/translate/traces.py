"""A gang's record as a trace: a span for each phase of its history (`ray-dra gangs NAME` prints the same), one trace a
gang. How long it was in each stage on its way to readiness are attributes of the whole."""

from __future__ import annotations

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.phases import Phase
from ray_dra.ports.traces import Span, Trace
from ray_dra.translate.lines import on_one_line


def trace_of(gang: Gang, why: str, now: float) -> Trace:
    """Of a gang that is gone now, for this reason. A history keeps the last changes alone, so that a trace of a long
    life may begin in its middle."""
    history = gang.history
    ends = [*(change.at for change in history[1:]), now]
    below = tuple(
        Span(change.to.value, change.at, max(change.at, end), {"ray_dra.why": on_one_line(change.why)})
        for change, end in zip(history, ends, strict=True)
        if change.to is not Phase.GONE
    )
    began = history[0].at if history else now
    about: dict[str, str | int | float] = {
        "ray_dra.gang": gang.id,
        "ray_dra.name": gang.name,
        "ray_dra.bundles": len(gang.request.bundles),
        "ray_dra.gpus": gang.request.device_count,
        "ray_dra.moves": gang.moves,
        "ray_dra.why": on_one_line(why),
    }
    if gang.team:
        about["ray_dra.queue"] = gang.team
    for stage, seconds in gang.times.spent:
        about[f"ray_dra.stage.{stage}_seconds"] = round(seconds, 3)
    whole = Span(f"gang {gang.name or gang.id}", began, max(began, now), about, on_one_line(gang.failed))
    return Trace(gang.id, whole, below)
