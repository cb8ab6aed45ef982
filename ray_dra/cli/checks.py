"""`ray-dra check`."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_dra.cli.connection import silence
from ray_dra.cli.elsewhere import Asked, Context, found_raycluster
from ray_dra.cli.exit_codes import NO
from ray_dra.cli.terminal import Output, OutputOption, say, say_plain
from ray_dra.translate.names import CLUSTER_NAME_VARIABLE, CLUSTER_NAMESPACE_VARIABLE


def check(
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace",
            "-n",
            metavar="NAME",
            envvar=CLUSTER_NAMESPACE_VARIABLE,
            help="The RayCluster's namespace; without it that of the kubeconfig.",
        ),
    ] = "",
    raycluster: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar=CLUSTER_NAME_VARIABLE,
            help="The RayCluster's name; without it the namespace's only one.",
        ),
    ] = "",
    kubeconfig: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A kubeconfig; without it $KUBECONFIG, or the pod's service account."),
    ] = None,
    kube_context: Context = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say whether a RayCluster on Kubernetes can be given gangs: rights, what is served, drivers, templates.

    Ends with 1 where something is missing that cannot be done without.
    """
    silence()
    from ray_dra.adapters.kubernetes import KubernetesApi
    from ray_dra.operate.check import findings

    api = KubernetesApi(kubeconfig, kube_context)
    api.await_answer()
    namespace, raycluster = found_raycluster(api, Asked(raycluster, namespace, kubeconfig, kube_context))
    found = []
    for finding in findings(api, namespace, raycluster):
        found.append(finding)
        if not output.plain and output is not Output.NAME:
            mark = {True: "ok", False: "NO", None: "--"}[finding.ok]
            say(f"{mark}  {finding.what:<34} {' '.join(finding.said.split())}")
        elif output is Output.NAME:
            say(finding.what)
    if output.plain:
        say_plain([{"what": each.what, "ok": each.ok, "said": each.said} for each in found], output)
    lacking = [each.what for each in found if each.ok is False]
    if not output.plain and output is not Output.NAME:
        ready = f"NO: {namespace}/{raycluster} is not ready for gangs: {', '.join(dict.fromkeys(lacking))}"
        say(ready if lacking else f"ok: {namespace}/{raycluster} is ready for gangs")
    if lacking:
        raise typer.Exit(NO)
