"""The commands put together, and what becomes of their errors."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Annotated

import typer

import ray_dra
from ray_dra.cli.checks import check
from ray_dra.cli.cluster import levels, probe, profiles, snapshot, topology
from ray_dra.cli.elsewhere import KUBECTL, Files, reaching
from ray_dra.cli.exit_codes import EXIT_CODES, FAULT, exit_code
from ray_dra.cli.gangs import describe, events, gangs, pools, queues, release
from ray_dra.cli.map_page import map_page
from ray_dra.cli.planning import capacity, plan
from ray_dra.cli.terminal import say, warn, write_what_the_terminal_lacks
from ray_dra.cli.top import top
from ray_dra.cli.usage import Command, Group
from ray_dra.cli.validation import validate
from ray_dra.errors import RayDraError


def _version(asked: bool) -> None:
    if asked:
        say(f"ray-dra {ray_dra.__version__}")
        raise typer.Exit()


def _begin(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    write_what_the_terminal_lacks()


app = typer.Typer(
    cls=Group,
    help="Look at machines, cliques and gangs, ask what would fit, and give a gang back by hand.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    callback=_begin,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
FILES: dict[Callable[..., None], Files] = {
    topology: Files(instead=("file",)),
    top: Files(instead=("file",)),
    plan: Files(instead=("cluster", "slurm"), read=("request",)),
    capacity: Files(instead=("cluster",)),
    snapshot: Files(instead=("profile", "slurm"), read=("tree",), written="file"),
}
OF_A_CLUSTER: tuple[Callable[..., None], ...] = (
    *(gangs, describe, events, top, queues, pools, release, topology, plan, capacity, snapshot, validate),
)
OTHERS: tuple[Callable[..., None], ...] = (levels, check, profiles, probe)
for command in OF_A_CLUSTER:
    app.command(cls=Command, epilog=EXIT_CODES)(reaching(command, FILES.get(command)))
for command in OTHERS:
    app.command(cls=Command, epilog=EXIT_CODES)(command)
app.command("map", cls=Command, epilog=EXIT_CODES)(map_page)


def main(name: str = "ray-dra") -> None:
    """Errors of ours are for people: the reason on stderr, no traceback, and an exit code by the kind of error."""
    write_what_the_terminal_lacks()
    try:
        app(prog_name=name)
    except RayDraError as error:
        warn(f"ray-dra: {error}")
        raise SystemExit(exit_code(error)) from None
    except Exception:  # not 1, which is a no
        traceback.print_exc()
        raise SystemExit(FAULT) from None


def kubectl() -> None:
    """`kubectl ray-dra ...`: kubectl finds this program by its name, kubectl-ray_dra."""
    main(KUBECTL)
