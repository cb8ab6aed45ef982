"""Commands that say what would fit: `plan`, `capacity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ray_dra.cli import connection
from ray_dra.cli.connection import Address
from ray_dra.cli.exit_codes import NO
from ray_dra.cli.terminal import Output, OutputOption, refuse_idle, said_options, say, say_lines, say_plain

NOT_OF_THE_GANG = {"cluster", "--request", "--slurm", "--gpus-per-node", "--address", "--output", "--json"}
"""Options of `plan` that do not say what the gang asks for."""


def plan(
    context: typer.Context,
    cluster: Annotated[Path | None, typer.Argument(help=connection.SNAPSHOT)] = None,
    gpus: Annotated[int, typer.Option(metavar="COUNT", help="GPUs of each bundle.")] = 1,
    cpus: Annotated[float, typer.Option(metavar="COUNT", help="CPUs of each bundle.")] = 0.0,
    bundles: Annotated[int, typer.Option(metavar="COUNT", help="How many bundles.")] = 1,
    request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The gang as a file (JSON or YAML) instead of options.")
    ] = None,
    same_clique: Annotated[bool, typer.Option("--same-clique", help="All bundles in one NVLink clique.")] = False,
    segment: Annotated[
        int | None, typer.Option(metavar="COUNT", help="So many consecutive bundles in one clique.")
    ] = None,
    at_most_cliques: Annotated[
        int | None, typer.Option(metavar="COUNT", help="The gang on so many cliques at most.")
    ] = None,
    at_most: Annotated[
        str | None, typer.Option(metavar="LEVEL=COUNT", help="So many leaves or spines at most, where that can be.")
    ] = None,
    exclusive: Annotated[bool, typer.Option("--exclusive", help="The gang's cliques are its alone.")] = False,
    linked: Annotated[bool, typer.Option("--linked", help="The GPUs of a bundle are linked to each other.")] = False,
    product: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A GPU product that will do; may be repeated.")
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="CONDITION", help='Memory of each GPU, e.g. ">=80G".')] = None,
    compute_capability: Annotated[
        str | None, typer.Option(metavar="CONDITION", help='Compute capability of each GPU, e.g. ">=9.0".')
    ] = None,
    driver_version: Annotated[
        str | None, typer.Option(metavar="CONDITION", help='NVIDIA\'s driver on the node, e.g. ">=580".')
    ] = None,
    mig_profile: Annotated[
        str | None,
        typer.Option("--mig", metavar="PROFILE", help="Each bundle has a part of a GPU of this profile, e.g. 1g.10gb."),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Each bundle has such a share of a GPU, e.g. 0.25, by --mps or --time-slices."
        ),
    ] = None,
    by_mps: Annotated[bool, typer.Option("--mps", help="Shares by MPS.")] = False,
    mps_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory that a process has by MPS, e.g. 20Gi.")
    ] = None,
    mps_threads: Annotated[
        int | None, typer.Option(metavar="PERCENT", help="Percent of the threads that it has by MPS.")
    ] = None,
    time_slices: Annotated[
        str | None, typer.Option(metavar="LENGTH", help="Shares by time slices: Default, Short, Medium or Long.")
    ] = None,
    slurm: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Slurm's topology.conf in place of a cluster; its blocks are cliques, all free."
        ),
    ] = None,
    whole_nodes: Annotated[
        int | None,
        typer.Option("--nodes", "-N", metavar="COUNT", help="With --slurm: so many whole nodes, as sbatch -N."),
    ] = None,
    gpus_per_node: Annotated[int, typer.Option(metavar="COUNT", help="With --slurm: GPUs of each node.")] = 4,
    confidential: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="Each bundle in a confidential virtual machine, in this mode: on or ppcie."),
    ] = None,
    strategy: Annotated[
        str, typer.Option(metavar="STRATEGY", help="PACK, SPREAD, STRICT_PACK or STRICT_SPREAD.")
    ] = "PACK",
    priority: Annotated[
        int, typer.Option(metavar="NUMBER", help="Only gangs of at most this priority may have to leave.")
    ] = 0,
    address: Address = "",
    output: OutputOption = Output.TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
) -> None:
    """Say where a gang would go; or why not, and what is nearest to a yes. Holds nothing.

    After a no it tells what would fit instead, and whose leaving would help. Ends with 1 where the gang does not fit.
    """
    from ray_dra.core.explain.whatif import answer_of
    from ray_dra.core.model.allocation import Allocation
    from ray_dra.core.model.locality import Connect, Locality
    from ray_dra.core.model.request import MAX_BUNDLES
    from ray_dra.core.model.topology import Topology
    from ray_dra.translate.clique_names import clique_names
    from ray_dra.translate.files.slurm import read_slurm
    from ray_dra.translate.files.snapshot import Snapshot, inventory_of, read_request
    from ray_dra.translate.ray.bundles import request_from_bundles
    from ray_dra.translate.ray.devices import gpu, mig, mps, time_slicing
    from ray_dra.translate.text import explain_answer, plain_answer

    if same_clique and at_most_cliques not in (None, 1):
        both = f"one clique, or {at_most_cliques} at most: say one of the two"
        raise typer.BadParameter(both, param_hint="--same-clique, --at-most-cliques")
    if as_json and output not in (Output.TABLE, Output.JSON):
        raise typer.BadParameter(f"JSON or {output.value}: say one of the two", param_hint="--json, -o")
    by_mps = by_mps or mps_memory is not None or mps_threads is not None
    if by_mps and time_slices is not None:
        raise typer.BadParameter("a GPU is shared in one way: say one of the two", param_hint="--mps, --time-slices")
    if (whole_nodes is not None) and slurm is None:
        raise typer.BadParameter("whole nodes are asked for with --slurm alone", param_hint="--nodes")
    if slurm is not None and cluster is not None:
        raise typer.BadParameter("a snapshot, or Slurm's file: say one of the two", param_hint="--slurm")
    said = said_options(context)
    if request is not None:
        refuse_idle(said, sorted(said - NOT_OF_THE_GANG), "--request says what the gang asks for")
    if whole_nodes is not None:
        refuse_idle(said, ["--gpus", "--bundles"], "-N asks for whole nodes; --gpus-per-node says how large they are")
    if slurm is None:
        refuse_idle(said, ["--gpus-per-node"], "it belongs to --slurm")
    if slurm is not None or cluster is not None:
        refuse_idle(said, ["--address"], "the cluster is read from a file")
    as_near = whole_nodes is not None and segment is None and not same_clique and at_most_cliques is None
    level, domains = _level(at_most)
    if whole_nodes is not None:
        bundles, gpus = whole_nodes, gpus_per_node
    if request is not None:
        asked = read_request(request)
    else:
        if bundles < 1:
            hint = "--bundles" if whole_nodes is None else "--nodes"
            raise typer.BadParameter(f"a gang has at least one bundle, not {bundles}", param_hint=hint)
        asked = request_from_bundles(
            [{"GPU": gpus if share is None else share, **({"CPU": cpus} if cpus else {})}]
            * min(bundles, MAX_BUNDLES + 1),
            strategy=strategy,
            locality=Locality(
                cliques=1 if (same_clique and segment is None) or as_near else at_most_cliques,
                required=not as_near,
                segment=segment,
                exclusive=exclusive,
                connect=Connect.REQUIRED if linked else Connect.PREFERRED,
                level=level,
                domains=domains,
            ),
            devices=gpu(
                memory=memory, compute_capability=compute_capability, driver_version=driver_version, product=product
            ),
            part=mig(mig_profile) if mig_profile is not None else None,
            sharing=mps(memory=mps_memory, threads=mps_threads)
            if by_mps
            else (time_slicing(time_slices) if time_slices is not None else None),
            confidential=confidential if confidential is not None else False,
            priority=priority,
        )
    names: dict[str, str] = {}
    if slurm is not None:
        snapshot: Snapshot | None = Snapshot(read_slurm(slurm, gpus_per_node))
    elif cluster is not None:
        snapshot = connection.read_cluster(cluster)
    else:
        snapshot = None
    if snapshot is not None:
        answer = answer_of(inventory_of(snapshot), asked)
        names = clique_names(Topology.of(snapshot.nodes))
    else:
        connection.connect(address)
        answer = connection.ask_coordinator("plan", asked)
        if isinstance(answer, Allocation):
            names = connection.ask_coordinator("clique_names")
    output = Output.JSON if as_json else output
    if output.plain:
        say_plain(plain_answer(answer), output)
    elif output is not Output.NAME:
        say(explain_answer(answer, asked, names, fold=output is Output.TABLE))
    elif isinstance(answer, Allocation):
        say_lines(answer.nodes)
    if not isinstance(answer, Allocation):
        raise typer.Exit(NO)


def _level(said: str | None) -> tuple[str, int | None]:
    """A level, and how many of its domains; ("", None) where nothing is said."""
    if said is None:
        return "", None
    level, _, count = said.rpartition("=")
    if not level or not count.isdecimal():
        raise typer.BadParameter(f"a level and a number, as in leaf=2, not {said!r}", param_hint="--at-most")
    return level, int(count)


def capacity(
    context: typer.Context,
    cluster: Annotated[Path | None, typer.Argument(help=connection.SNAPSHOT)] = None,
    address: Address = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Say which shapes the cluster could serve now: whole GPUs, whole cliques, and parts of each profile.

    The most that one more gang could have, each line alone; with the priority 0, and no CPUs asked for.
    """
    from ray_dra.core.explain.capacity import capacity_now
    from ray_dra.core.model.parts import profile_text
    from ray_dra.translate.capacity_text import capacity_table, plain_capacity
    from ray_dra.translate.files.snapshot import inventory_of

    found = capacity_now(inventory_of(connection.snapshot_of(context, cluster, address)))
    if output.plain:
        say_plain(plain_capacity(found), output)
    elif output is Output.NAME:
        say_lines(["GPU"] * bool(found.gpus) + [profile_text(parts.profile).replace(" ", "-") for parts in found.parts])
    else:
        say(capacity_table(found))
