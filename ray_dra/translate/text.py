"""Gangs and answers in words, as plain text and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Protocol

from ray_dra.core.gangs.forecast import Expected
from ray_dra.core.gangs.gang import Change
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.gangs.stages import READY, StageTimes
from ray_dra.core.gangs.standing import Standing
from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.device_selector import DeviceCriteria, Selector
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Shortfall, Unsatisfiable
from ray_dra.translate.lines import on_one_line, several

MOST_NAMED = 5  # gangs after which another starts
MOST_UNFOLDED = 12  # bundles of an allocation that are a line each in any case
LEAST_FOLDED = 3  # bundles in one line


class GangStatus(Protocol):
    """The facts of a gang that people are told; `coordinator.status.Status` has them."""

    @property
    def phase(self) -> Phase: ...
    @property
    def allocation(self) -> Allocation | None: ...
    @property
    def moves(self) -> int: ...
    @property
    def preempted(self) -> int: ...
    @property
    def consolidated(self) -> int: ...
    @property
    def lost(self) -> tuple[str, ...]: ...
    @property
    def waits_for(self) -> tuple[Shortfall, ...]: ...
    @property
    def said(self) -> str: ...
    @property
    def times(self) -> StageTimes: ...
    @property
    def other_work(self) -> tuple[str, ...]: ...
    @property
    def notice(self) -> Notice | None: ...
    @property
    def standing(self) -> Standing | None: ...
    @property
    def reshape(self) -> ReshapeStage | None: ...
    @property
    def shape_failed(self) -> str: ...
    @property
    def shrunk(self) -> str: ...
    @property
    def spares(self) -> tuple[str, ...]: ...


def explain_gang(status: GangStatus, request: GangRequest, expected: Expected | None = None) -> str:
    """The gang's phase, what of it will end, where each bundle lies, what is lost, what it waits for. `expected`: when
    one that waits should start."""
    lines = [
        f"{status.phase.value}: {len(request.bundles)} bundles, {request.device_count} {_kind(request)}s,"
        f" {request.locality}"
        + (f", planned again {status.moves} times" if status.moves else "")
        + (f", preempted {several(status.preempted, 'time')}" if status.preempted else "")
        + (f", moved {several(status.consolidated, 'time')} for others" if status.consolidated else "")
    ]
    if status.phase in (Phase.PROVISIONING, Phase.PLACING, Phase.REPAIRING) and status.said:
        lines.append(f"  {status.said}")
    if status.notice is not None:
        lines.append(f"  {explain_notice(status.notice, len(request.bundles))}")
    lines += [f"  {line}" for line in explain_reshape(status.reshape, status.shape_failed, status.shrunk)]
    if status.spares:
        lines.append(on_one_line(f"  spares of its own: {', '.join(status.spares)}"))
    lines += [f"  lost: {text}" for text in status.lost]
    lines += [f"  other work has {text}" for text in status.other_work]
    if status.allocation is None:
        lines += [f"  waits for {shortfall}" for shortfall in status.waits_for]
        standing = status.standing
        told = expected if standing is None or not standing.takes else None  # else it is known better
        lines += [f"  {line}" for line in (explain_expected(told) if told is not None else explain_standing(standing))]
    else:
        lines += explain_allocation(status.allocation)
    return "\n".join([*lines, *(f"  {line}" for line in explain_times(status.times))])


def explain_expected(expected: Expected) -> list[str]:
    """The turn of a gang that waits, when it should start and why then, and what would make it sooner."""
    ahead, now = expected.ahead, expected.now
    named = ", ".join(f"{on_one_line(name)} ({gpus} GPUs)" for name, gpus in expected.first)
    more = f", and {ahead - len(expected.first)} more" if ahead > len(expected.first) else ""
    lines = [f"turn {ahead + 1} in the queue" + (f", after {named}{more}" if ahead else "")]
    if expected.starts is not None and expected.takes:
        taken = f"GPUs of {_some(expected.takes)}, which would end for it"
        lines.append(f"should start by {utc(expected.starts)} UTC, with {taken}")
    elif expected.starts is not None:
        once = f", once {_some(expected.after)} ended" if expected.after else ""
        lines.append(f"should start by {utc(expected.starts)} UTC{once}, if all run as long as they said")
    elif expected.silent:
        lines.append(f"nobody can tell when it starts: {_some(expected.silent)} did not say how long they run")
    elif expected.limit is not None:
        lines.append("nobody can tell when it starts: it is not known when its team has so much of its limit left")
    else:
        lines.append("nobody can tell when it starts: it is too far behind, or does not fit")
    if expected.starts is not None and expected.unreckoned:
        lines.append(f"not reckoned with: {'; '.join(each.value for each in expected.unreckoned)}")
    if isinstance(now, Allocation):
        lines += ["sooner: it fits now, and waits for its turn"] if ahead and expected.limit is None else []
    elif now.counterfactual is not None:
        lines += [f"sooner: would fit now: {each.change}" for each in now.counterfactual.instead]
        leaving = now.counterfactual.leaving
        lines += [f"sooner: would fit without {leaving}"] if leaving is not None else []
    if ahead and not expected.guessed:
        lines.append("sooner: could start before its turn if it said how long it runs (runs_for=)")
    return lines


def _some(names: tuple[str, ...]) -> str:
    return on_one_line(", ".join(names[:MOST_NAMED])) + (" and others" if len(names) > MOST_NAMED else "")


def explain_standing(standing: Standing | None) -> list[str]:
    """When a gang that waits should start, and why then; what would make it sooner."""
    if standing is None:
        return []
    if standing.takes and standing.starts is not None:
        named = ", ".join(standing.takes[:MOST_NAMED]) + (" and others" if len(standing.takes) > MOST_NAMED else "")
        return [
            f"should start by {utc(standing.starts)} UTC, with GPUs of {on_one_line(named)}, which end or move for it"
        ]
    if standing.starts is not None:
        named = ", ".join(standing.after[:MOST_NAMED]) + (" and others" if len(standing.after) > MOST_NAMED else "")
        once = f", once {on_one_line(named)} ended" if named else ""
        return [f"should start by {utc(standing.starts)} UTC{once}, if all run as long as they said"]
    if standing.ahead and not standing.guessed:
        return ["could start before its turn if it said how long it runs (runs_for=)"]
    return []


def explain_wait(status: GangStatus, name: str, seconds: float) -> str:
    """What a gang that is waited for is at, on one line: `train: queued, 12 s so far: ...`."""
    stage = status.times.stage
    at = status.phase.value + (f" ({stage})" if stage and stage != status.phase.value else "")
    found = [*status.lost, *map(str, status.waits_for[:1]), *filter(None, [status.said])]
    found += [f"other work has {status.other_work[0]}"] if status.other_work else []
    return on_one_line(": ".join([name, f"{at}, {seconds:.0f} s so far", *filter(None, ["; ".join(found)])]))


def explain_notice(notice: Notice, bundles: int) -> str:
    """What of a gang of so many bundles will end, when and why, on one line."""
    some = "bundle" if len(notice.ranks) == 1 else "bundles"
    who = "the gang" if len(notice.ranks) == bundles else f"{some} {', '.join(map(str, notice.ranks))}"
    when = "" if notice.deadline is None else f" from {utc(notice.deadline)} UTC on"
    return on_one_line(f"notice: {who} will end{when}: {notice.reason}")


def explain_reshape(stage: ReshapeStage | None, failed: str, shrunk: str = "") -> list[str]:
    """How far a gang's change of shape has come; nothing where none was, or the last one is done. `shrunk`: how many of
    its bundles a gang has that faults have shrunk."""
    lines = [on_one_line(f"has shrunk to {shrunk} after a fault, and grows back once there is room")] if shrunk else []
    said = {
        None: f"has its old shape, as the next one could not be had: {failed}" if failed else "",
        ReshapeStage.DRAINS: "changes its shape: what runs in the old one has time to end",
        ReshapeStage.COMES: "changes its shape: Ray is to place the next one",
        ReshapeStage.RETURNS: f"gets its old shape back: {failed}",
    }[stage]
    return [*lines, on_one_line(said)] if said else lines


def explain_times(times: StageTimes) -> list[str]:
    """Where the time from the call to readiness went; nothing until a stage is over."""
    if not times.spent:
        return []
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in times.spent)
    if times.stage == READY:
        since = "its restart" if times.again else "the call"
        return [f"ready {times.total:.1f} s after {since}: {parts}"]
    return [f"{times.total:.1f} s so far: {parts}; now {times.stage}"]


def explain_history(history: Iterable[Change]) -> list[str]:
    """One line a change: when (UTC), from what to what, and why."""
    lines = []
    for change in history:
        was = f"{change.was.value} -> " if change.was is not None else ""
        lines.append(f"{utc(change.at)}  {was + change.to.value:<26} {on_one_line(change.why)}")
    return lines


def utc(at: float) -> str:
    """A Unix time as people read it."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def explain_allocation(
    allocation: Allocation, names: Mapping[DomainId, str] | None = None, *, fold: bool = False
) -> list[str]:
    """One line a bundle, under its clique. `names`: what cliques are called. `fold`: in a large gang bundles that
    follow each other and have the same GPUs of a node each are one line."""
    lines: list[str] = []
    clique: DomainId | object | None = object()
    bundles, at = allocation.bundles, 0
    while at < len(bundles):
        placed = bundles[at]
        if placed.clique != clique:
            clique = placed.clique
            lines.append(
                "  in no clique"
                if placed.clique is None
                else f"  clique {(names or {}).get(placed.clique, placed.clique)}"
            )
        alike = _alike(bundles[at:]) if fold and len(bundles) > MOST_UNFOLDED else 1
        if alike < LEAST_FOLDED:
            lines.append(f"    bundle {at} on {placed.node}: {_devices(placed.grants)}")
            at += 1
        else:
            last = bundles[at + alike - 1].node
            gpus = ", ".join(str(grant.index) for grant in placed.grants)
            lines.append(
                f"    bundles {at} to {at + alike - 1}, a node each, {placed.node} to {last}: GPU {gpus} of each"
            )
            at += alike
    kept = allocation.kept.placed if allocation.kept is not None else ()
    lines += [f"  kept for another shape on {p.node}: {_devices(p.grants)}" for p in kept if p.grants]
    return lines


def _alike(bundles: Sequence[Placed]) -> int:
    """How many of the first bundles lie in one clique on a node each, with the same GPUs of it."""
    first, nodes = bundles[0], set()
    gpus = [grant.index for grant in first.grants]
    if not gpus or any(grant.part is not None or grant.amount is not None for grant in first.grants):
        return 1
    for at, each in enumerate(bundles):
        same = each.clique == first.clique and [grant.index for grant in each.grants] == gpus
        if not same or each.node in nodes or any(g.part is not None or g.amount is not None for g in each.grants):
            return at
        nodes.add(each.node)
    return len(bundles)


def _devices(grants: Sequence[Grant]) -> str:
    parts = [f"{g.part.profile} of {g.part.parent[:12]}" for g in grants if g.part is not None]
    if parts:
        return ", ".join(parts)
    whole = [f"{g.index} ({(g.uuid or 'no uuid')[:12]})" for g in grants]
    share = f"{grants[0].amount / 1000:g} of " if grants and grants[0].amount is not None else ""
    return f"{share}GPU {', '.join(whole) or 'no GPU'}"


def explain_answer(
    answer: Allocation | Unsatisfiable,
    request: GangRequest,
    names: Mapping[DomainId, str] | None = None,
    *,
    fold: bool = False,
) -> str:
    """An answer of `plan`: where each bundle lies, or why not and what is nearest to a yes. `names`, `fold`: as in
    `explain_allocation`."""
    size = f"{several(len(request.bundles), 'bundle')}, {several(request.device_count, _kind(request))}"
    what = f"{size}, {request.locality}"
    if isinstance(answer, Allocation):
        return "\n".join([f"fits: {what}", *explain_allocation(answer, names, fold=fold)])
    lines = [f"does not fit{'' if answer.proven else ' (not found within the bound)'}: {what}"]
    lines += [f"  {shortfall}" for shortfall in answer.shortfalls]
    found = answer.counterfactual
    if found is not None:
        for each in found.instead:
            cliques = len({c for c in each.allocation.cliques if c is not None})
            where = f"on {several(len(set(each.allocation.nodes)), 'node')}, {several(cliques, 'clique')}"
            lines.append(f"  would fit now: {each.change} ({where})")
        if found.leaving is not None:
            lines.append(f"  would fit without: {found.leaving}")
    return "\n".join(lines)


def answer_as_json(answer: Allocation | Unsatisfiable) -> str:
    """The same for programs, on one line."""
    return json.dumps(plain_answer(answer))


def plain_answer(answer: Allocation | Unsatisfiable) -> dict[str, Any]:
    """An answer of `plan` as plain values."""
    if isinstance(answer, Allocation):
        return {"fits": True, "bundles": plain_bundles(answer)}
    plain: dict[str, Any] = {
        "fits": False,
        "proven": answer.proven,
        "shortfalls": [plain_shortfall(s) for s in answer.shortfalls],
    }
    found = answer.counterfactual
    if found is not None:
        plain["instead"] = [{"change": i.change, "bundles": plain_bundles(i.allocation)} for i in found.instead]
        if found.leaving is not None:
            leaving = found.leaving
            plain["leaving"] = {"gangs": leaving.gangs, "gpus": leaving.devices, "smallest": leaving.smallest}
    return plain


def plain_shortfall(found: Shortfall) -> dict[str, Any]:
    """The values, and the sentence."""
    place = {"kind": found.place.kind.value, "id": found.place.id}
    facts = {
        name: str(value) if isinstance(value, Locality | Selector | DeviceCriteria) else value
        for name, value in found.detail
    }
    wanted, available = found.wanted, found.available
    return {
        "kind": found.kind.value,
        "place": place,
        "wanted": wanted,
        "available": available,
        "detail": facts,
        "text": str(found),
    }


def plain_bundles(allocation: Allocation) -> list[dict[str, Any]]:
    """Where each bundle lies, for programs."""
    return [
        {"node": p.node, "clique": p.clique, "gpus": [_plain_device(g) for g in p.grants]} for p in allocation.bundles
    ]


def plain_kept(allocation: Allocation) -> list[dict[str, Any]]:
    """What the gang keeps beside its bundles, for programs."""
    kept = allocation.kept.placed if allocation.kept is not None else ()
    return [{"node": placed.node, "gpus": [_plain_device(g) for g in placed.grants]} for placed in kept]


def _plain_device(grant: Grant) -> dict[str, Any]:
    plain: dict[str, Any] = {"index": grant.index, "uuid": grant.uuid}
    if grant.amount is not None:
        plain["share"] = grant.amount / 1000
    return plain if grant.part is None else {**plain, "profile": grant.part.profile, "parent": grant.part.parent}


def _kind(request: GangRequest) -> str:
    """GPUs, or parts or shares of GPUs."""
    if request.sharing is not None:
        return "share"
    return "GPU" if request.bundles[0].part is None else "part"
