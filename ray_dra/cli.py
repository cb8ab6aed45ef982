"""`ray-dra`: look at machines, cliques and gangs, and give a gang back by hand."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from ray_dra.errors import RayDraError

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
console = Console(highlight=False)
Address = Annotated[str, typer.Option(help="A running Ray cluster, HOST:PORT; by default the one on this machine.")]


def _connect(address: str) -> None:
    import ray

    ray.init(f"ray_dra://{address}", logging_level="ERROR", log_to_driver=False)


@app.command()
def profiles(name: Annotated[str | None, typer.Argument(help="Show one profile whole.")] = None) -> None:
    """The simulated machines that ship with the package."""
    from ray_dra.simulated.profile import load_profile, profile_names, profile_text

    if name is not None:
        console.print(profile_text(name), markup=False)
        return
    for each in profile_names():
        console.print(f"{each:<20} {load_profile(each).about}", markup=False)


@app.command()
def probe() -> None:
    """What NVML says about this node, as one line of JSON."""
    import json
    from dataclasses import asdict

    from ray_dra.adapters import nvml

    console.print(json.dumps(asdict(nvml.probe())), markup=False, soft_wrap=True)


@app.command()
def topology(address: Address = "") -> None:
    """The cluster's cliques, nodes and GPUs; letters mark the GPUs of gangs."""
    import ray_dra
    from ray_dra.actors import ask, coordinator
    from ray_dra.translate.explain import draw_topology

    _connect(address)
    marks: dict[str, str] = {}
    for at, status in enumerate(ask(coordinator().gangs.remote())):
        for grant in status.allocation.grants if status.allocation else ():
            marks[grant.uuid or ""] = chr(ord("A") + at % 26)
    console.print(draw_topology(ray_dra.topology(), held=marks), markup=False)


@app.command()
def gangs(address: Address = "") -> None:
    """Every gang: its phase, where it lies, what it waits for."""
    from ray_dra.actors import ask, coordinator

    _connect(address)
    found = ask(coordinator().gangs.remote())
    for status in found:
        nodes = ", ".join(dict.fromkeys(status.allocation.nodes)) if status.allocation else "-"
        why = "; ".join([*status.lost, *map(str, status.waits_for)])
        console.print(f"{status.name or status.gang:<34} {status.phase.value:<10} {nodes}  {why}", markup=False)
    if not found:
        console.print("no gangs")


@app.command()
def release(gang: Annotated[str, typer.Argument(help="Name or id of the gang.")], address: Address = "") -> None:
    """Give a gang back, whoever owns it."""
    from ray_dra.actors import ask, coordinator

    _connect(address)
    actor = coordinator()
    chosen = [s for s in ask(actor.gangs.remote()) if gang in (s.name, s.gang)]
    if not chosen:
        console.print(f"there is no gang {gang!r}; `ray-dra gangs` lists them", markup=False)
        raise typer.Exit(1)
    for status in chosen:
        ask(actor.release.remote(status.gang, 30.0), timeout=60)
        console.print(f"gave back {status.name or status.gang}", markup=False)


def main() -> None:
    """Errors of ours are for people: the reason, no traceback."""
    try:
        app()
    except RayDraError as error:
        console.print(f"ray-dra: {error}", markup=False, style="red")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
