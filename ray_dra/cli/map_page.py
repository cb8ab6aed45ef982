"""`ray-dra map`."""

from __future__ import annotations

import contextlib
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_dra.cli import connection
from ray_dra.cli.connection import Address
from ray_dra.cli.elsewhere import Asked, Context, found_raycluster, of_kubectl
from ray_dra.cli.exit_codes import USAGE
from ray_dra.cli.terminal import refuse_idle, said_options, say, warn

if TYPE_CHECKING:
    from ray_dra.operate.map.sources import Source

LOOPBACK, PORT = "127.0.0.1", 8266
ANSWER_SECONDS = 10.0


def map_page(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help=connection.SNAPSHOT)] = None,
    address: Address = "",
    raycluster: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="From elsewhere, by the kubeconfig: the RayCluster's name; the map runs on its head."
        ),
    ] = "",
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace", "-n", metavar="NAME", help="With --raycluster: its namespace; else that of the kubeconfig."
        ),
    ] = "",
    kubeconfig: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --raycluster; without it $KUBECONFIG.")
    ] = None,
    kube_context: Context = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=65535, help=f"The page's port; without it {PORT}, or another that is free."
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="HOST", help="The address to serve at. Whoever reaches it can look; nobody is asked who they are."
        ),
    ] = LOOPBACK,
    name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A host name by which browsers call it; may be repeated.")
    ] = None,
    browser: Annotated[
        bool | None, typer.Option("--browser/--no-browser", help="Open it; without either, where this is a terminal.")
    ] = None,
) -> None:
    """Serve a web page with the map of the cluster: racks, gangs, the queue, what-if. Until ctrl-C.

    It can be looked at and changes nothing. Needs the extra: pip install 'ray-dra[map]'.
    """
    if raycluster or (of_kubectl(context) and file is None and not address):
        if file is not None or address or port is not None or host != LOOPBACK or name:
            said = "with --raycluster the map is the head's, at a port of its own here"
            raise typer.BadParameter(said, param_hint="FILE, --address, --host, --port, --name")
        _by_tunnel(Asked(raycluster, namespace, kubeconfig, kube_context), browser)
        return
    if file is not None:
        refuse_idle(said_options(context), ["--address"], "the cluster is read from a file")
    if not host:  # to bind to it would serve at every address of the machine
        raise typer.BadParameter("an address is missing; without --host it is this machine alone", param_hint="--host")
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
    _tell(source.about, url, browser)
    with contextlib.suppress(KeyboardInterrupt):
        server_of(app_of(source, name or ())).run(sockets=[at])


def _tell(about: str, url: str, browser: bool | None) -> None:
    say(f"the map of {about} is at {url}; ctrl-C ends it")
    sys.stdout.flush()
    if browser or (browser is None and sys.stdout.isatty()):
        webbrowser.open(url)


def _by_tunnel(asked: Asked, browser: bool | None) -> None:
    """The map on a RayCluster's head, until ctrl-C."""
    connection.silence()
    from ray_dra.adapters.kubernetes import KubernetesApi
    from ray_dra.adapters.tunnel import Tunnel
    from ray_dra.operate.map import remote
    from ray_dra.program.submit_job import DASHBOARD_PORT, head_pod

    api = KubernetesApi(asked.kubeconfig, asked.context)
    api.await_answer()
    namespace, raycluster = found_raycluster(api, asked)

    def head() -> str:
        return head_pod(api, namespace, raycluster)

    with contextlib.ExitStack() as opened:
        tunnels = [Tunnel(api, namespace, head, each) for each in (DASHBOARD_PORT, remote.PORT)]
        for tunnel in tunnels:
            opened.callback(tunnel.close)
        tunnels[0].open().close()  # what is missing is said now; later a connection would only break
        opened.enter_context(remote.map_on_head(tunnels[0].address, tunnels[1].address))
        _tell(f"{namespace}/{raycluster}", f"http://{tunnels[1].address}/", browser)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def _source(file: Path | None, address: str) -> Source:
    from ray_dra.operate.map.sources import ClusterSource, SnapshotSource

    if file is not None:
        return SnapshotSource(file)
    connection.connect(address)

    def ask(call: str, *arguments: object) -> object:
        return connection.ask_coordinator(call, *arguments, timeout=ANSWER_SECONDS)

    return ClusterSource(address or "the cluster on this machine", ask)
