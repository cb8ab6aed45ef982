"""Commands about gangs: `gangs`, `describe`, `events`, `queues`, `pools`, `release`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

from ray_dra.cli import connection
from ray_dra.cli.connection import Address
from ray_dra.cli.exit_codes import INTERRUPTED, NO
from ray_dra.cli.terminal import Output, OutputOption, say, say_lines, say_plain, warn
from ray_dra.translate.names import GANG_KEY

if TYPE_CHECKING:
    from ray_dra.coordinator.status import Status

ADVICE = "connect its program by ray_dra://HOST:PORT, or have it say a policy (docs/unchanged.md)"
WATCH_SECONDS = 1.0
Gang = Annotated[str, typer.Argument(help="The gang's name or id.")]


class Seen(NamedTuple):
    """What the coordinator says of gangs, and of what is no gang yet or none any more."""

    gangs: list[Status]
    names: dict[str, str]
    unplanned: list[tuple[str, str, float]]
    unread: list[tuple[str, str]]
    problems: tuple[str, ...]


def gangs(
    gang: Annotated[
        str, typer.Argument(help="Name or id of one gang: also its history, what it came to and why.")
    ] = "",
    address: Address = "",
    output: OutputOption = Output.TABLE,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on, with a line for each change.")] = False,
) -> None:
    """List every gang: its phase, its cliques, what it waits for.

    And placement groups that wait in Ray without a plan, and records that cannot be read and were set aside.
    """
    connection.connect(address)
    if watch:
        _watch(gang, output)
    if gang and output in (Output.TABLE, Output.WIDE):
        _show_histories(_chosen(gang), output)
        return
    seen = _look()
    if gang:
        seen = seen._replace(gangs=_chosen(gang), unplanned=[], unread=[])
    _show(seen, output)


def describe(gang: Gang, address: Address = "", output: OutputOption = Output.TABLE) -> None:
    """Tell all that is known of a gang: who asked, its devices, its times, its history."""
    from ray_dra.translate.gang_table import describe_gang, plain_gang

    connection.connect(address)
    chosen, names = _chosen(gang), connection.ask_coordinator("clique_names")
    if output.plain:
        say_plain([plain_gang(status, names) for status in chosen], output)
    elif output is Output.NAME:
        say_lines(status.name or status.gang for status in chosen)
    else:
        for at, status in enumerate(chosen):
            say_lines([*([""] if at else []), *describe_gang(status, names, time.time())])


def events(
    gang: Annotated[str, typer.Argument(help="Name or id of one gang; without it, of all that are there.")] = "",
    address: Address = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """List gangs' changes of phase by time, with their reasons.

    Of each gang that is there, the last 20.
    """
    from ray_dra.translate.gang_table import EVENT_HEADERS, event_rows, plain_events
    from ray_dra.translate.lines import table

    connection.connect(address)
    found = _chosen(gang) if gang else connection.ask_coordinator("gangs")
    if output.plain:
        say_plain(plain_events(found), output)
    elif output is Output.NAME:
        say_lines(dict.fromkeys(row[1] for row in event_rows(found)))
    else:
        say_lines(table(EVENT_HEADERS, event_rows(found)))


def queues(address: Address = "", output: OutputOption = Output.TABLE) -> None:
    """List the queues of teams: what each is guaranteed, uses, borrows and waits for.

    In GPUs. There are none unless the operator declares some.
    """
    from ray_dra.translate.lines import on_one_line
    from ray_dra.translate.queue_table import QUEUE_HEADERS, plain_queue, queue_row

    connection.connect(address)
    teams = connection.ask_coordinator("teams")
    for problem in connection.ask_coordinator("asks"):
        warn(on_one_line(problem))
    none = "no queues of teams are declared: gangs wait in one queue"
    _list_named(teams, plain_queue, (QUEUE_HEADERS, queue_row), none, output)


def pools(address: Address = "", output: OutputOption = Output.TABLE) -> None:
    """List the pools of shared GPUs: what each has, and what gangs have of it.

    In GPUs. A pool is made by `ray_dra.pool(...)`, and given back as a gang is.
    """
    from ray_dra.translate.pool_table import POOL_HEADERS, plain_pool, pool_row

    connection.connect(address)
    found = connection.ask_coordinator("pools")
    none = "there are no pools: ray_dra.pool(...) makes one"
    _list_named(found, plain_pool, (POOL_HEADERS, pool_row), none, output)


def _list_named(
    things: Sequence[Any],
    plain: Callable[[Any], dict[str, Any]],
    row: tuple[Sequence[str], Callable[[Any], Sequence[str]]],
    none: str,
    output: Output,
) -> None:
    """Things with names, as `output` has it. `row`: the table's headers, and a thing's line; `none`: said of none."""
    from ray_dra.translate.lines import table

    headers, line = row
    if output.plain:
        say_plain([plain(thing) for thing in things], output)
    elif output is Output.NAME:
        say_lines(thing.name for thing in things)
    elif things:
        say_lines(table(headers, map(line, things)))
    else:
        say(none)


def release(gang: Gang, address: Address = "") -> None:
    """Give a gang back, whoever owns it."""
    connection.connect(address)
    chosen = [status for status in connection.ask_coordinator("gangs") if gang in (status.name, status.gang)]
    if not chosen and any(key in (gang, GANG_KEY + gang) for key, _ in connection.ask_coordinator("unread")):
        connection.ask_coordinator("release", gang, 30.0, timeout=60)
        say(f"let go the record of {gang}")
        return
    if not chosen:
        _no_such_gang(gang)
    for status in chosen:
        connection.ask_coordinator("release", status.gang, 30.0, timeout=60)
        say(f"gave back {status.name or status.gang}")


def _look() -> Seen:
    found = connection.ask_coordinator("gangs")
    names = connection.ask_coordinator("clique_names") if any(status.allocation for status in found) else {}
    return Seen(
        found,
        names,
        connection.ask_coordinator("unplanned"),
        connection.ask_coordinator("unread"),
        (
            *(f"Kubernetes: {problem}" for problem in connection.ask_coordinator("unseen")),
            *connection.ask_coordinator("asks"),
        ),
    )


def _chosen(gang: str) -> list[Status]:
    """The gangs of this name or id; where there is none, the command ends."""
    found = [status for status in connection.ask_coordinator("gangs") if gang in (status.name, status.gang)]
    if not found:
        _no_such_gang(gang)
    return found


def _no_such_gang(gang: str) -> NoReturn:
    warn(f"ray-dra: there is no gang {gang!r}; `ray-dra gangs` lists them")
    raise typer.Exit(NO)


def _show(seen: Seen, output: Output) -> None:
    from ray_dra.translate.gang_table import HEADERS, WIDE_HEADERS, plain_gang
    from ray_dra.translate.lines import on_one_line, table

    if output.plain:
        say_plain(
            {
                "gangs": [plain_gang(status, seen.names) for status in seen.gangs],
                "unplanned": [{"group": group, "job": job, "gpus": gpus} for group, job, gpus in seen.unplanned],
                "set_aside": [{"key": key, "why": why} for key, why in seen.unread],
                "problems": list(seen.problems),
            },
            output,
        )
        return
    for problem in seen.problems:
        warn(on_one_line(problem))
    rows = _rows(seen, wide=output is Output.WIDE)
    if output is Output.NAME:
        say_lines(row[0] for row in rows[: len(seen.gangs)])
    elif rows:
        say_lines(table(WIDE_HEADERS if output is Output.WIDE else HEADERS, rows))
    else:
        say("no gangs")


def _rows(seen: Seen, *, wide: bool) -> list[list[str]]:
    from ray_dra.translate.gang_table import HEADERS, WIDE_HEADERS, gang_row

    now = time.time()
    headers = WIDE_HEADERS if wide else HEADERS

    def other(**cells: str) -> list[str]:
        return [cells.get(header, "") for header in headers]

    rows = [gang_row(status, seen.names, now, wide=wide) for status in seen.gangs]
    for group, job, gpus in seen.unplanned:
        why = (
            f"waits in Ray for {gpus:g} GPUs, made by job {job or 'unknown'}, which ray-dra does not plan for: {ADVICE}"
        )
        rows.append(other(NAME=group, PHASE="unplanned", GPUS=f"{gpus:g}", OWNER=job, REASON=why))
    rows += [other(NAME=key, PHASE="set aside", REASON=why) for key, why in seen.unread]
    return rows


def _show_histories(chosen: list[Status], output: Output) -> None:
    """One gang as its row without headers, then its notice, its history and its times."""
    from ray_dra.translate.gang_table import gang_reason
    from ray_dra.translate.lines import on_one_line
    from ray_dra.translate.text import explain_history, explain_notice, explain_times

    for status in chosen:
        nodes = ", ".join(dict.fromkeys(status.allocation.nodes)) if status.allocation else "-"
        say(on_one_line(f"{status.name or status.gang:<34} {status.phase.value:<12} {nodes}  {gang_reason(status)}"))
        if status.notice is not None:
            say(f"  {explain_notice(status.notice, status.bundles)}")
        say_lines(f"  {line}" for line in (*explain_history(status.history), *explain_times(status.times)))


def _watch(gang: str, output: Output) -> NoReturn:
    """Print the gangs and then each that changes, until ctrl-C; one that has gone, once more as gone."""
    from ray_dra.core.gangs.phases import Phase
    from ray_dra.translate.gang_table import HEADERS, WIDE_HEADERS, gang_row, plain_gang
    from ray_dra.translate.lines import aligned, widths_of

    wide = output is Output.WIDE
    headers = WIDE_HEADERS if wide else HEADERS
    known: dict[str, tuple[list[str], Status]] = {}
    names: dict[str, str] = {}
    widths: list[int] = []
    try:
        while True:
            found = [s for s in connection.ask_coordinator("gangs") if not gang or gang in (s.name, s.gang)]
            if any(clique and clique not in names for s in found if s.allocation for clique in s.allocation.cliques):
                names = connection.ask_coordinator("clique_names")
            gone = known.keys() - {status.gang for status in found}
            found += [replace(known.pop(id)[1], phase=Phase.GONE, said="", waits_for=()) for id in sorted(gone)]
            changed = []
            for status in found:
                row = gang_row(status, names, time.time(), wide=wide)
                facts = [cell for cell, header in zip(row, headers, strict=True) if header != "AGE"]
                if status.gang not in known or known[status.gang][0] != facts:
                    changed.append((row, status))
                if status.phase is not Phase.GONE:
                    known[status.gang] = (facts, status)
            if output in (Output.TABLE, Output.WIDE):
                if not widths:
                    widths = widths_of([headers, *(row for row, _ in changed)])
                    say(aligned(headers, widths))
                say_lines(aligned(row, widths) for row, _ in changed)
            for row, status in changed:
                if output is Output.NAME:
                    say_lines([row[0]])
                elif output.plain:
                    say_plain(plain_gang(status, names), output)
                    say_lines(["---"] if output is Output.YAML else [])
            sys.stdout.flush()
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
