"""Gangs as rows, as one gang's description, and as plain values: what `ray-dra gangs`, `describe` and `events` show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from ray_dra.core.gangs.gang import Change
from ray_dra.core.model.device import DomainId
from ray_dra.translate.lines import on_one_line, several
from ray_dra.translate.text import (
    GangStatus,
    explain_allocation,
    explain_history,
    explain_notice,
    explain_reshape,
    explain_standing,
    explain_times,
    plain_bundles,
    plain_kept,
    plain_shortfall,
    utc,
)

HEADERS = ("NAME", "PHASE", "STAGE", "BUNDLES", "GPUS", "CLIQUES", "OWNER", "AGE", "REASON")
WIDE_HEADERS = (*HEADERS[:-1], "PRIORITY", "NAMESPACE", "ID", "NODES", "REASON")
EVENT_HEADERS = ("TIME (UTC)", "GANG", "PHASE", "REASON")
MOST_CLIQUES = 3  # in a row; the wide one names all

Names = Mapping[DomainId, str]
"""What cliques are called (`clique_names.py`); one that is not there is called by its id."""


class ListedGang(GangStatus, Protocol):
    """The facts of a gang among others."""

    @property
    def gang(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str | None: ...
    @property
    def failed(self) -> str: ...
    @property
    def history(self) -> tuple[Change, ...]: ...
    @property
    def namespace(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def bundles(self) -> int: ...
    @property
    def gpus(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def locality(self) -> str: ...


def gang_row(status: ListedGang, names: Names, now: float, *, wide: bool = False) -> list[str]:
    """The cells under HEADERS, or under WIDE_HEADERS. `now`: the Unix time."""
    cliques = [names.get(clique, clique) for clique in _cliques(status)]
    if not wide and len(cliques) > MOST_CLIQUES:
        cliques[MOST_CLIQUES:] = [f"{len(cliques) - MOST_CLIQUES} more"]
    asked = asked_at(status)
    cells = [
        status.name or status.gang,
        status.phase.value,
        status.times.stage or "",
        str(status.bundles),
        str(status.gpus),
        ",".join(cliques),
        status.owner,
        "" if asked is None else age(now - asked),
    ]
    if wide:
        nodes = dict.fromkeys(status.allocation.nodes) if status.allocation is not None else ()
        cells += [str(status.priority), status.namespace, status.gang, ",".join(nodes)]
    ends = [explain_notice(status.notice, status.bundles)] if status.notice is not None else []
    return [*cells, "; ".join(filter(None, [*ends, gang_reason(status)]))]


def gang_reason(status: ListedGang, *, when: bool = True) -> str:
    """What is amiss with a gang, or what it waits for; `when`: and when it should start."""
    found = [*status.lost, *map(str, status.waits_for), *filter(None, [status.said, status.failed])]
    found += [f"other work has {'; '.join(status.other_work)}"] if status.other_work else []
    return "; ".join([*found, *(explain_standing(status.standing) if when else ())])


def asked_at(status: ListedGang) -> float | None:
    """The Unix time at which the gang was asked for, as far as it is known: its first stage began then."""
    if status.times.stage is not None:
        return status.times.since - status.times.total
    return status.history[0].at if status.history else None


def age(seconds: float) -> str:
    """As kubectl writes it: 90s, 12m, 5h, 3d."""
    seconds = max(0.0, seconds)
    for most, unit, name in ((120, 1, "s"), (7_200, 60, "m"), (172_800, 3_600, "h")):
        if seconds < most:
            return f"{int(seconds // unit)}{name}"
    return f"{int(seconds // 86_400)}d"


def describe_gang(status: ListedGang, names: Names, now: float) -> list[str]:
    """All that is known of a gang, a line a fact."""
    asked = asked_at(status)
    facts = [
        ("Name", status.name or "-"),
        ("Id", status.gang),
        ("Namespace", status.namespace or "-"),
        ("Owner", f"job {status.owner}" if status.owner else "-"),
        ("Phase", status.phase.value),
        ("Stage", status.times.stage or "-"),
        ("Asked for", "-" if asked is None else f"{utc(asked)} UTC ({age(now - asked)} ago)"),
        ("Bundles", f"{status.bundles}, with {several(status.gpus, 'GPU')} or parts or shares of GPUs"),
        ("Locality", status.locality or "-"),
        ("Priority", str(status.priority)),
        ("Cliques", ", ".join(names.get(c, c) for c in _cliques(status)) or "-"),
        ("Group", status.group or "-"),
        (
            "Moves",
            str(status.moves)
            + (
                f", {status.preempted + status.consolidated} for other gangs"
                if status.preempted + status.consolidated
                else ""
            ),
        ),
    ]
    lines = [f"{title + ':':<11} {on_one_line(text)}" for title, text in facts]
    if status.notice is not None:
        lines.append(f"{'Notice:':<11} {explain_notice(status.notice, status.bundles).removeprefix('notice: ')}")
    lines += [f"{'Shape:':<11} {text}" for text in explain_reshape(status.reshape, status.shape_failed, status.shrunk)]
    if status.spares:
        lines.append(f"{'Spares:':<11} {on_one_line(', '.join(status.spares))}")
    lines += [f"{'Times:':<11} {text}" for text in explain_times(status.times)]
    reason = gang_reason(status)
    lines += [f"{'Reason:':<11} {on_one_line(reason)}"] if reason else []
    if status.allocation is not None:
        lines += ["Devices:", *explain_allocation(status.allocation, names)]
    return [*lines, "History:", *(f"  {line}" for line in explain_history(status.history))]


def event_rows(statuses: Iterable[ListedGang]) -> list[list[str]]:
    """The gangs' changes of phase, by time."""
    found = [(change.at, status.name or status.gang, change) for status in statuses for change in status.history]
    found.sort(key=lambda each: each[:2])
    return [
        [utc(at), name, (f"{change.was.value} -> " if change.was is not None else "") + change.to.value, change.why]
        for at, name, change in found
    ]


def plain_events(statuses: Iterable[ListedGang]) -> list[dict[str, Any]]:
    """The same for programs."""
    found = [{"gang": s.gang, "name": s.name, **_plain_change(change)} for s in statuses for change in s.history]
    return sorted(found, key=lambda each: each["at"])


def plain_gang(status: ListedGang, names: Names) -> dict[str, Any]:
    """A gang for programs: values and ids; times are Unix times and seconds."""
    return {
        "name": status.name,
        "id": status.gang,
        "namespace": status.namespace,
        "owner": status.owner,
        "priority": status.priority,
        "phase": status.phase.value,
        "stage": status.times.stage or "",
        "asked_at": asked_at(status),
        "bundles": status.bundles,
        "gpus": status.gpus,
        "locality": status.locality,
        "moves": status.moves,
        "preempted": status.preempted,
        "consolidated": status.consolidated,
        "placement_group": status.group,
        "cliques": [{"id": clique, "name": names.get(clique, clique)} for clique in _cliques(status)],
        "allocation": None if status.allocation is None else plain_bundles(status.allocation),
        "kept": [] if status.allocation is None else plain_kept(status.allocation),
        "waits_for": [plain_shortfall(shortfall) for shortfall in status.waits_for],
        "lost": list(status.lost),
        "other_work": list(status.other_work),
        "said": status.said,
        "failed": status.failed,
        "notice": None if status.notice is None else {**asdict(status.notice), "ranks": list(status.notice.ranks)},
        "reshape": None if status.reshape is None else status.reshape.value,
        "shape_failed": status.shape_failed,
        "shrunk": status.shrunk,
        "stages": dict(status.times.spent),
        "history": [_plain_change(change) for change in status.history],
    }


def _plain_change(change: Change) -> dict[str, Any]:
    was = None if change.was is None else change.was.value
    return {"at": change.at, "was": was, "to": change.to.value, "why": change.why}


def _cliques(status: ListedGang) -> Sequence[DomainId]:
    if status.allocation is None:
        return ()
    return list(dict.fromkeys(clique for clique in status.allocation.cliques if clique is not None))
