"""Commands that look at machines: `topology`, `snapshot`, `profiles`, `probe`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_dra.cli import connection
from ray_dra.cli.connection import Address
from ray_dra.cli.terminal import (
    STANDARD,
    Output,
    OutputOption,
    refuse_idle,
    said_options,
    say,
    say_as_it_is,
    say_lines,
    say_plain,
    write_file,
)
from ray_dra.translate.lines import several

if TYPE_CHECKING:
    from ray_dra.core.model.topology import Topology
    from ray_dra.translate.files.snapshot import Snapshot


def topology(
    file: Annotated[Path | None, typer.Argument(help=connection.SNAPSHOT)] = None,
    address: Address = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Draw the cluster's cliques, nodes and GPUs; letters mark the GPUs of gangs.

    More than 36 nodes are a line a clique; with -o wide every node is drawn.
    """
    from ray_dra.core.model.topology import Topology
    from ray_dra.translate.drawing import OTHER_WORK, draw, mark_names
    from ray_dra.translate.files.snapshot import inventory_of

    called: dict[str, str] = {}
    if file is not None:
        found = connection.read_cluster(file)
        inventory_of(found)  # it is one that can be
    else:
        connection.connect(address)
        found = connection.ask_coordinator("snapshot")
        called = {status.gang: status.name for status in connection.ask_coordinator("gangs")}
    there = Topology.of(found.nodes)
    if output is Output.NAME:
        say_lines(there.nodes)
        return
    holders = [called.get(gang.gang) or gang.gang for gang in found.gangs]
    if output.plain:
        say_plain(_plain_topology(there, found, holders), output)
        return
    marks: dict[str, str] = {}
    for name, others in found.others.items():
        devices = there.nodes[name].devices if name in there.nodes else ()
        marks |= {devices[at].uuid or "": OTHER_WORK for at in others.devices if at < len(devices)}
    letters = dict(zip(holders, mark_names(), strict=False))
    for gang, holder in zip(found.gangs, holders, strict=True):
        marks |= {grant.uuid or "": letters[holder] for grant in gang.grants}
    marks.pop("", None)
    by_letter = {letter: holder for holder, letter in letters.items()}
    say(draw(there, marks, by_letter, whole=output is Output.WIDE))


def _plain_topology(there: Topology, found: Snapshot, holders: list[str]) -> dict[str, Any]:
    """Cliques and nodes, with who has each GPU."""
    from ray_dra.translate.clique_names import clique_names

    names = clique_names(there)
    held = {g.device: holder for gang, holder in zip(found.gangs, holders, strict=True) for g in gang.grants}
    return {
        "cliques": [
            {"id": c.id, "name": names[c.id], "kind": c.fabric_kind.value, "nodes": list(c.nodes), "gpus": c.devices}
            for c in there.cliques.values()
        ],
        "nodes": [
            {
                "name": node.name,
                "clique": node.clique,
                "ready": node.ready,
                "reason": node.reason,
                "gpus": [
                    {
                        "index": device.index,
                        "uuid": device.uuid,
                        "product": device.product,
                        "clique": device.clique,
                        "health": device.health.value,
                        "gang": held.get(device.id),
                        "other_work": node.name in found.others and at in found.others[node.name].devices,
                    }
                    for at, device in enumerate(node.devices)
                ],
            }
            for node in there.nodes.values()
        ],
    }


def snapshot(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="The file to write; - or without it, standard output.")] = None,
    address: Address = "",
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Simulated machines of this profile instead of a running cluster."),
    ] = None,
    nodes: Annotated[int | None, typer.Option(metavar="COUNT", help="With --profile: how many machines.")] = None,
    cliques: Annotated[int | None, typer.Option(metavar="COUNT", help="With --profile: in how many cliques.")] = None,
    slurm: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The machines of Slurm's topology.conf instead; its blocks are cliques."),
    ] = None,
    gpus_per_node: Annotated[int, typer.Option(metavar="COUNT", help="With --slurm: GPUs of each node.")] = 4,
    tree: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Slurm's topology.conf with a tree of switches: the levels above cliques."),
    ] = None,
) -> None:
    """Write the cluster as the planner sees it, as YAML: nodes, gangs, other work.

    For `ray-dra plan FILE`, `ray-dra topology FILE` and bug reports.
    """
    from ray_dra.translate.files.snapshot import Snapshot, dump_snapshot

    said = said_options(context)
    if profile is None:
        refuse_idle(said, ["--nodes", "--cliques"], "it belongs to --profile")
    if slurm is None:
        refuse_idle(said, ["--gpus-per-node"], "it belongs to --slurm")
    if profile is not None or slurm is not None:
        refuse_idle(said, ["--address"], "no running cluster is read")
    if slurm is not None:
        from ray_dra.translate.files.slurm import read_slurm

        if profile is not None:
            raise typer.BadParameter("a profile, or Slurm's file: say one of the two", param_hint="--slurm")
        found = Snapshot(read_slurm(slurm, gpus_per_node))
    elif profile is not None:
        from ray_dra.simulated.topology import simulated_topology

        found = Snapshot(simulated_topology(profile, nodes=nodes, cliques=cliques))
    else:
        connection.connect(address)
        found = connection.ask_coordinator("snapshot")
    if tree is not None:
        from ray_dra.translate.files.slurm_tree import hung_in, read_tree
        from ray_dra.translate.levels import TIERS

        found = replace(found, nodes=hung_in(found.nodes, read_tree(tree), str(tree)), levels=TIERS)
    text = dump_snapshot(found)
    if file is None or file == STANDARD:
        say_as_it_is(text)
        return
    write_file(file, text.encode())
    say(f"{several(len(found.nodes), 'node')}, {several(len(found.gangs), 'gang')} in {file}")


def levels(
    tree: Annotated[Path, typer.Argument(help="Slurm's topology.conf with a tree of switches, or topograph's.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """List the labels that say which switches a node hangs at, for `ray start --labels` or `kubectl label node`."""
    from ray_dra.translate.files.slurm_tree import labels_of, read_tree

    found = {node: labels_of(switches) for node, switches in read_tree(tree).items()}
    if output is Output.NAME:
        say_lines(found)
    elif output.plain:
        say_plain([{"node": node, "labels": labels} for node, labels in found.items()], output)
    else:
        say_lines(
            f"{node} {','.join(f'{name}={value}' for name, value in labels.items())}" for node, labels in found.items()
        )


def profiles(
    name: Annotated[str | None, typer.Argument(help="Print this profile's file, byte for byte.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the simulated machines that ship with the package."""
    from ray_dra.simulated.profile import load_profile, profile_bytes, profile_names

    if name is not None:
        say_as_it_is(profile_bytes(name))
    elif output is Output.NAME:
        say_lines(profile_names())
    elif output.plain:
        say_plain([{"name": each, "about": load_profile(each).about} for each in profile_names()], output)
    else:
        say_lines(f"{each:<20} {load_profile(each).about}" for each in profile_names())


def probe() -> None:
    """Print what NVML says about this node, as one line of JSON."""
    import json
    from dataclasses import asdict

    from ray_dra.adapters import nvml

    say(json.dumps(asdict(nvml.probe())))
