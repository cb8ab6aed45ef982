"""The command `top`: who uses how much of the cluster."""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

from ray_dra.cli import connection
from ray_dra.cli.connection import SNAPSHOT, Address
from ray_dra.cli.exit_codes import INTERRUPTED
from ray_dra.cli.terminal import Output, OutputOption, refuse_idle, said_options, say, say_lines, say_plain

if TYPE_CHECKING:
    from ray_dra.coordinator.status import Status
    from ray_dra.translate.files.snapshot import Snapshot

WATCH_SECONDS = 2.0


class Things(str, enum.Enum):
    """Of what it is told."""

    GANGS = "gangs"
    CLIQUES = "cliques"
    NODES = "nodes"


class Order(str, enum.Enum):
    """By which column lines are ordered: most first, the longest there first, or names as people count."""

    GPUS = "gpus"
    USED = "used"
    FREE = "free"
    NODES = "nodes"
    AGE = "age"
    NAME = "name"


ORDERS: Mapping[Things, tuple[Order, ...]] = {
    Things.GANGS: (Order.GPUS, Order.NODES, Order.AGE, Order.NAME),
    Things.CLIQUES: (Order.USED, Order.FREE, Order.GPUS, Order.NODES, Order.NAME),
    Things.NODES: (Order.USED, Order.FREE, Order.GPUS, Order.NAME),
}
"""What each can be ordered by; the first where nothing is said."""


class Told(NamedTuple):
    """An answer: for programs, and for people, with the line below the table."""

    plain: list[dict[str, Any]]
    names: list[str]
    lines: list[str]
    totals: str


def top(
    context: typer.Context,
    what: Annotated[Things, typer.Argument(help="Of what: gangs, cliques or nodes.")] = Things.GANGS,
    file: Annotated[Path | None, typer.Argument(help=SNAPSHOT)] = None,
    address: Address = "",
    output: OutputOption = Output.TABLE,
    sort_by: Annotated[
        Order | None,
        typer.Option(
            metavar="|".join(each.value for each in Order),
            help="The column by which lines are ordered; without it gpus of gangs, and used of the others.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on, and print it again when it changes.")] = False,
) -> None:
    """Say who has how many GPUs, whoever has most first: of each gang, each clique, or each node.

    That is what is given out. How busy a GPU is, the node's own metrics say.
    """
    order = _order(what, sort_by, file)
    if file is not None:
        refuse_idle(said_options(context), ["--watch"], "a snapshot stays as it is")
    snapshot = connection.snapshot_of(context, file, address)
    if watch:
        _watch(what, order, output, snapshot)
    asked: list[Status] = connection.ask_coordinator("gangs") if file is None else []
    _show(_told(what, order, snapshot, asked, wide=output is Output.WIDE), output)


def _order(what: Things, said: Order | None, file: Path | None) -> Order:
    """The order that was asked for. Raises BadParameter where these things have no such column."""
    if said is None:
        return ORDERS[what][0]
    if said not in ORDERS[what]:
        can = ", ".join(each.value for each in ORDERS[what])
        raise typer.BadParameter(f"{what.value} are ordered by {can}", param_hint="--sort-by")
    if said is Order.AGE and file is not None:
        raise typer.BadParameter("a snapshot has no ages", param_hint="--sort-by")
    return said


def _told(what: Things, order: Order, snapshot: Snapshot, asked: list[Status], *, wide: bool) -> Told:
    from ray_dra.core.model.topology import Topology
    from ray_dra.translate import top_table
    from ray_dra.translate.clique_names import clique_names
    from ray_dra.translate.files.snapshot import inventory_of
    from ray_dra.translate.lines import table

    gangs = {status.gang: status for status in asked}
    inventory = inventory_of(snapshot)
    names = clique_names(Topology.of(snapshot.nodes))
    called = {id: status.name or id for id, status in gangs.items()}
    by_node = what is Things.NODES
    places = top_table.place_uses(inventory, names, by_node=by_node)
    if what is Things.GANGS:
        uses = top_table.gangs_by(order.value, top_table.gang_uses(snapshot.gangs, called), gangs, called)
        headers = top_table.WIDE_GANG_HEADERS if wide else top_table.GANG_HEADERS
        now = time.time()
        rows = [top_table.gang_use_row(use, gangs.get(use.gang), names, called, now, wide=wide) for use in uses]
        plain = [top_table.plain_gang_use(use, gangs.get(use.gang), names, called) for use in uses]
    else:
        shown = top_table.places_by(order.value, places)
        headers = top_table.place_headers(by_node=by_node, wide=wide)
        rows = [top_table.place_use_row(use, names, called, by_node=by_node, wide=wide) for use in shown]
        plain = [top_table.plain_place_use(use, names, called, by_node=by_node) for use in shown]
    lines = list(table(headers, rows)) if rows else [f"no {what.value} with GPUs"]
    return Told(plain, [row[0] for row in rows], lines, top_table.totals(places))


def _show(told: Told, output: Output) -> None:
    if output.plain:
        say_plain(told.plain, output)
    elif output is Output.NAME:
        say_lines(told.names)
    else:
        say_lines(told.lines)
        say(told.totals)


def _watch(what: Things, order: Order, output: Output, snapshot: Snapshot) -> NoReturn:
    """Print it, and again whenever another GPU is given out, until ctrl-C. That ages grow is no change."""
    before: tuple[object, str] | None = None
    try:
        while True:
            told = _told(what, order, snapshot, connection.ask_coordinator("gangs"), wide=output is Output.WIDE)
            if before != (now := (told.plain, told.totals)):
                if before is not None and output is not Output.JSON:
                    say_lines(["---" if output is Output.YAML else ""])
                _show(told, output)
                sys.stdout.flush()
                before = now
            time.sleep(WATCH_SECONDS)
            snapshot = connection.ask_coordinator("snapshot")
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
