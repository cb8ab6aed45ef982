"""`ray-dra map`."""

from __future__ import annotations

import contextlib
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_dra.cli import connection
from ray_dra.cli.connection import Address
from ray_dra.cli.exit_codes import USAGE
from ray_dra.cli.terminal import say, warn

if TYPE_CHECKING:
    from ray_dra.operate.map.sources import Source

LOOPBACK, PORT = "127.0.0.1", 8266
ANSWER_SECONDS = 10.0


def map_page(
    file: Annotated[Path | None, typer.Argument(help="A snapshot; without it, the running cluster.")] = None,
    address: Address = "",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help=f"The page's port; without it {PORT}, or another that is free.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to serve at. Whoever reaches it can look; nobody is asked who they are.")
    ] = LOOPBACK,
    name: Annotated[
        list[str] | None, typer.Option(help="A host name by which browsers call it; may be repeated.")
    ] = None,
    browser: Annotated[
        bool | None, typer.Option("--browser/--no-browser", help="Open it; without either, where this is a terminal.")
    ] = None,
) -> None:
    """Serve a web page with the map of the cluster: racks, gangs, the queue, what-if. Until ctrl-C.

    It can be looked at and changes nothing. Needs the extra: pip install 'ray-dra[map]'.
    """
    try:
        from ray_dra.operate.map.server import app_of, listen, server_of
    except ImportError as error:
        warn(f"ray-dra: the map needs Starlette and uvicorn, pip install 'ray-dra[map]': {error}")
        raise typer.Exit(USAGE) from error
    source = _source(file, address)
    try:
        at = listen(host, PORT if port is None else port)
    except OSError as error:
        if port is not None or host != LOOPBACK:
            said = f"the page cannot be served at {host}:{PORT if port is None else port}: {error}"
            raise typer.BadParameter(said, param_hint="--host, --port") from error
        at = listen(host, 0)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{at.getsockname()[1]}/"
    say(f"the map of {source.about} is at {url}; ctrl-C ends it")
    sys.stdout.flush()
    if browser or (browser is None and sys.stdout.isatty()):
        webbrowser.open(url)
    with contextlib.suppress(KeyboardInterrupt):
        server_of(app_of(source, name or ())).run(sockets=[at])


def _source(file: Path | None, address: str) -> Source:
    from ray_dra.operate.map.sources import ClusterSource, SnapshotSource

    if file is not None:
        return SnapshotSource(file)
    connection.connect(address)

    def ask(call: str, *arguments: object) -> object:
        return connection.ask_coordinator(call, *arguments, timeout=ANSWER_SECONDS)

    return ClusterSource(address or "the cluster on this machine", ask)
