"""`ray-dra validate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ray_dra.cli import connection
from ray_dra.cli.connection import Address
from ray_dra.cli.exit_codes import NO
from ray_dra.cli.terminal import Output, OutputOption, say, say_plain
from ray_dra.translate.lines import several


def validate(
    clique: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this clique, or node without one; may be repeated.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="For each gang to be ready, and to answer.")
    ] = 300.0,
    address: Address = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Place a gang on the free GPUs of each clique, and see whether its ranks have what was planned.

    Each rank looks at its GPUs by NVML, at the fabric's state and its IMEX channels, and all of a gang pass a sum
    around over the network. One clique after another; each gang is given back before the next. Ends with 1 where a
    check fails.
    """
    connection.connect(address)
    from ray_dra.api import placement_group
    from ray_dra.operate import validate as checks
    from ray_dra.translate.files.snapshot import inventory_of

    snapshot = connection.ask_coordinator("snapshot")
    found = list(checks.targets(inventory_of(snapshot)))
    names = connection.ask_coordinator("clique_names")
    if clique:
        known = {target.clique: target for target in found} | {names.get(t.clique, ""): t for t in found}
        absent = [name for name in clique if name not in known]
        if absent:
            said = f"there is no {', '.join(absent)}; there are {', '.join(sorted(filter(None, known)))}"
            raise typer.BadParameter(said, param_hint="--clique")
        found = [known[name] for name in dict.fromkeys(clique)]
    reports = []
    for target in found:
        report = checks.validate(target, timeout, placement_group, domains=snapshot.limits.compute_domains)
        reports.append(report)
        if output is Output.NAME:
            say(report.clique)
        elif not output.plain:
            called = names.get(report.clique, report.clique)
            size = f"{several(report.gpus, 'GPU')} on {several(len(report.nodes), 'node')}, {report.seconds:g} s"
            say(f"{called}: {size}")
            for verdict in report.verdicts:
                mark = {True: "ok", False: "NO", None: "--"}[verdict.ok]
                say(f"  {mark}  {verdict.what:<7} {verdict.said}")
    failed = [names.get(report.clique, report.clique) for report in reports if report.ok is False]
    if output.plain:
        say_plain({"ok": not failed, "cliques": [{**asdict(each), "ok": each.ok} for each in reports]}, output)
    elif output is not Output.NAME:
        unseen = sum(report.ok is None for report in reports)
        rest = f", {unseen} not validated" if unseen else ""
        well = f"{len(reports) - unseen - len(failed)} of {several(len(reports), 'clique')} well"
        say(f"{'NO' if failed else 'ok'}: {well}{rest}")
    if failed:
        raise typer.Exit(NO)
