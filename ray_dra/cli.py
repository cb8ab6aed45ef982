"""`ray-dra`: look at machines, cliques and gangs, ask what would fit, and give a gang back by hand."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from ray_dra.errors import InvalidSnapshot, RayDraError
from ray_dra.translate.names import CLUSTER_NAME_VARIABLE, CLUSTER_NAMESPACE_VARIABLE, GANG_KEY

if TYPE_CHECKING:
    from ray_dra.coordinator.status import Status


def _speak() -> None:
    """What the terminal's encoding lacks is written as \\udcff: a file's name, a gang's on an ASCII terminal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, callback=_speak)
console = Console(highlight=False, emoji=False)  # :100: is a part of a name, no picture
ADVICE = "connect its program by ray_dra://HOST:PORT, or have it say a policy (docs/unchanged.md)"
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
def snapshot(
    file: Annotated[Path | None, typer.Argument(help="Where to write; standard output by default.")] = None,
    address: Address = "",
    profile: Annotated[str | None, typer.Option(help="Simulated machines instead of a running cluster.")] = None,
    nodes: Annotated[int | None, typer.Option(help="How many of them.")] = None,
    cliques: Annotated[int | None, typer.Option(help="In how many cliques.")] = None,
) -> None:
    """The cluster as the planner sees it, as YAML: nodes, gangs, other work. For `ray-dra plan` and bug reports."""
    from ray_dra.translate.files.snapshot import Snapshot, dump_snapshot

    if profile is not None:
        from ray_dra.simulated.topology import simulated_topology

        found = Snapshot(simulated_topology(profile, nodes=nodes, cliques=cliques))
    else:
        import ray_dra

        _connect(address)
        found = ray_dra.snapshot()
    text = dump_snapshot(found)
    if file is None:
        sys.stdout.write(text)
    else:
        try:
            file.write_text(text)
        except (OSError, ValueError) as error:
            raise InvalidSnapshot("The file cannot be written.", place=str(file), available=str(error)) from error
        console.print(f"{len(found.nodes)} nodes, {len(found.gangs)} gangs in {file}", markup=False)


@app.command()
def plan(
    cluster: Annotated[Path | None, typer.Argument(help="A snapshot; by default the running cluster.")] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of a bundle.")] = 1,
    cpus: Annotated[float, typer.Option(help="CPUs of a bundle.")] = 0.0,
    bundles: Annotated[int, typer.Option(help="How many bundles.")] = 1,
    request: Annotated[Path | None, typer.Option(help="The gang as a file (JSON or YAML) instead of options.")] = None,
    same_clique: Annotated[bool, typer.Option("--same-clique", help="All in one NVLink clique.")] = False,
    segment: Annotated[int | None, typer.Option(help="So many consecutive bundles in one clique.")] = None,
    at_most_cliques: Annotated[int | None, typer.Option(help="On so many cliques at most.")] = None,
    exclusive: Annotated[bool, typer.Option("--exclusive", help="Cliques to itself.")] = False,
    linked: Annotated[bool, typer.Option("--linked", help="The GPUs of a bundle linked to each other.")] = False,
    product: Annotated[list[str] | None, typer.Option(help="GPU product that will do; may be repeated.")] = None,
    memory: Annotated[str | None, typer.Option(help='Of a GPU, e.g. ">=80G".')] = None,
    compute_capability: Annotated[str | None, typer.Option(help='Of a GPU, e.g. ">=9.0".')] = None,
    driver_version: Annotated[str | None, typer.Option(help='NVIDIA\'s, e.g. ">=580".')] = None,
    mig_profile: Annotated[str | None, typer.Option("--mig", help="A part of a GPU a bundle, e.g. 1g.10gb.")] = None,
    strategy: Annotated[str, typer.Option(help="PACK, SPREAD, STRICT_PACK or STRICT_SPREAD.")] = "PACK",
    priority: Annotated[int, typer.Option(help="Only gangs of at most this priority may have to leave.")] = 0,
    address: Address = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Where a gang would go; or why not, what would fit instead, and whose leaving would help. Holds nothing.

    Ends with 1 where the gang does not fit.
    """
    from ray_dra.core.explain.whatif import plan_and_explain
    from ray_dra.core.model.allocation import Allocation
    from ray_dra.core.model.locality import Connect, Locality
    from ray_dra.core.model.request import MAX_BUNDLES
    from ray_dra.translate.files.snapshot import inventory_of, read_request, read_snapshot
    from ray_dra.translate.ray.bundles import request_from_bundles
    from ray_dra.translate.ray.devices import gpu, mig
    from ray_dra.translate.text import answer_as_json, explain_answer

    if request is not None:
        asked = read_request(request)
    else:
        asked = request_from_bundles(
            [{"GPU": gpus, **({"CPU": cpus} if cpus else {})}] * min(max(bundles, 0), MAX_BUNDLES + 1),
            strategy=strategy,
            locality=Locality(
                cliques=1 if same_clique and segment is None else at_most_cliques,
                segment=segment,
                exclusive=exclusive,
                connect=Connect.REQUIRED if linked else Connect.PREFERRED,
            ),
            devices=gpu(
                memory=memory, compute_capability=compute_capability, driver_version=driver_version, product=product
            ),
            part=mig(mig_profile) if mig_profile is not None else None,
            priority=priority,
        )
    if cluster is not None:
        answer = plan_and_explain(inventory_of(read_snapshot(cluster)), asked)
    else:
        from ray_dra.processes.calls import ask, coordinator

        _connect(address)
        answer = ask(coordinator().plan.remote(asked))
    text = answer_as_json(answer) if as_json else explain_answer(answer, asked)
    console.print(text, markup=False, soft_wrap=True)
    if not isinstance(answer, Allocation):
        raise typer.Exit(1)


@app.command()
def topology(address: Address = "") -> None:
    """The cluster's cliques, nodes and GPUs; letters mark the GPUs of gangs."""
    import ray_dra
    from ray_dra.processes.calls import ask, coordinator
    from ray_dra.translate.drawing import draw_topology

    _connect(address)
    marks: dict[str, str] = {}
    for at, status in enumerate(ask(coordinator().gangs.remote())):
        for grant in status.allocation.grants if status.allocation else ():
            marks[grant.uuid or ""] = chr(ord("A") + at % 26)
    console.print(draw_topology(ray_dra.topology(), held=marks), markup=False)


@app.command()
def gangs(
    gang: Annotated[
        str, typer.Argument(help="Name or id of one gang: also its history, what it came to and why.")
    ] = "",
    address: Address = "",
) -> None:
    """Every gang: its phase, where it lies, what it waits for. And placement groups that wait in Ray without a plan,
    and records that cannot be read and were set aside."""
    from ray_dra.processes.calls import ask, coordinator
    from ray_dra.translate.lines import on_one_line

    _connect(address)
    found = ask(coordinator().gangs.remote())
    if gang:
        _show_histories([s for s in found if gang in (s.name, s.gang)], gang)
        return
    for problem in ask(coordinator().unseen.remote()):
        console.print(on_one_line(f"Kubernetes: {problem}"), markup=False, soft_wrap=True, style="red")
    for question in ask(coordinator().asks.remote()):
        console.print(on_one_line(question), markup=False, soft_wrap=True, style="red")
    for status in found:
        _show_gang(status)
    if not found:
        console.print("no gangs")
    for group, job, gpus in ask(coordinator().unplanned.remote()):
        what = (
            f"waits in Ray for {gpus:g} GPUs, made by job {job or 'unknown'}, which ray-dra does not plan for: {ADVICE}"
        )
        console.print(on_one_line(f"{group:<34} {'unplanned':<12} {what}"), markup=False, soft_wrap=True)
    for key, why in ask(coordinator().unread.remote()):
        console.print(on_one_line(f"{key:<34} {'set aside':<12} {why}"), markup=False, soft_wrap=True)


def _show_gang(status: Status) -> None:
    from ray_dra.translate.lines import on_one_line
    from ray_dra.translate.text import explain_standing

    nodes = ", ".join(dict.fromkeys(status.allocation.nodes)) if status.allocation else "-"
    why = "; ".join([*status.lost, *map(str, status.waits_for), *filter(None, [status.said, status.failed])])
    why += f"; other work has {'; '.join(status.other_work)}" if status.other_work else ""
    why += "".join(f"; {line}" for line in explain_standing(status.standing))
    console.print(
        on_one_line(f"{status.name or status.gang:<34} {status.phase.value:<12} {nodes}  {why}"),
        markup=False,
        soft_wrap=True,
    )


def _show_histories(chosen: list[Status], gang: str) -> None:
    from ray_dra.translate.text import explain_history, explain_notice, explain_times

    if not chosen:
        _no_such_gang(gang)
    for status in chosen:
        _show_gang(status)
        if status.notice is not None:
            bundles = len(status.allocation.bundles) if status.allocation is not None else 0
            console.print(f"  {explain_notice(status.notice, bundles)}", markup=False, soft_wrap=True)
        for line in (*explain_history(status.history), *explain_times(status.times)):
            console.print(f"  {line}", markup=False, soft_wrap=True)


def _no_such_gang(gang: str) -> NoReturn:
    console.print(f"there is no gang {gang!r}; `ray-dra gangs` lists them", markup=False)
    raise typer.Exit(1)


@app.command()
def check(
    namespace: Annotated[str, typer.Option(envvar=CLUSTER_NAMESPACE_VARIABLE, help="Of the RayCluster.")] = "default",
    raycluster: Annotated[str, typer.Option(envvar=CLUSTER_NAME_VARIABLE, help="Its name.")] = "",
    kubeconfig: Annotated[str | None, typer.Option(help="Default: $KUBECONFIG, or the pod's service account.")] = None,
) -> None:
    """Whether a RayCluster on Kubernetes can be given gangs: rights, what is served, drivers, templates. Ends with 1
    where something is missing that cannot be done without."""
    from ray_dra.adapters.kubernetes import KubernetesApi
    from ray_dra.operate.check import findings

    if not raycluster:
        raise typer.BadParameter("outside a KubeRay pod the RayCluster has to be named", param_hint="--raycluster")
    wrong = False
    api = KubernetesApi(kubeconfig)
    api.await_answer()
    for finding in findings(api, namespace, raycluster):
        mark = {True: "ok", False: "NO", None: "--"}[finding.ok]
        wrong |= finding.ok is False
        console.print(f"{mark}  {finding.what:<34} {' '.join(finding.said.split())}", markup=False, soft_wrap=True)
    if wrong:
        raise typer.Exit(1)


@app.command()
def release(gang: Annotated[str, typer.Argument(help="Name or id of the gang.")], address: Address = "") -> None:
    """Give a gang back, whoever owns it."""
    from ray_dra.processes.calls import ask, coordinator

    _connect(address)
    actor = coordinator()
    chosen = [s for s in ask(actor.gangs.remote()) if gang in (s.name, s.gang)]
    if not chosen and any(key in (gang, GANG_KEY + gang) for key, _ in ask(actor.unread.remote())):
        ask(actor.release.remote(gang, 30.0), timeout=60)
        console.print(f"let go the record of {gang}", markup=False)
        return
    if not chosen:
        _no_such_gang(gang)
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
