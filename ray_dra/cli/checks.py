"""`ray-dra check`."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_dra.cli.connection import silence
from ray_dra.cli.exit_codes import NO
from ray_dra.cli.terminal import Output, OutputOption, say, say_plain
from ray_dra.translate.names import CLUSTER_NAME_VARIABLE, CLUSTER_NAMESPACE_VARIABLE


def check(
    namespace: Annotated[
        str, typer.Option(envvar=CLUSTER_NAMESPACE_VARIABLE, help="The RayCluster's namespace.")
    ] = "default",
    raycluster: Annotated[str, typer.Option(envvar=CLUSTER_NAME_VARIABLE, help="The RayCluster's name.")] = "",
    kubeconfig: Annotated[
        str | None, typer.Option(help="A kubeconfig; without it $KUBECONFIG, or the pod's service account.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say whether a RayCluster on Kubernetes can be given gangs: rights, what is served, drivers, templates.

    Ends with 1 where something is missing that cannot be done without.
    """
    silence()
    from ray_dra.adapters.kubernetes import KubernetesApi
    from ray_dra.operate.check import findings

    if not raycluster:
        raise typer.BadParameter("outside a KubeRay pod the RayCluster has to be named", param_hint="--raycluster")
    api = KubernetesApi(kubeconfig)
    api.await_answer()
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
    if any(each.ok is False for each in found):
        raise typer.Exit(NO)
