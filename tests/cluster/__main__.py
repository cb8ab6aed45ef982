"""`python -m tests.cluster up | down | build`: what `make cluster` and `make cluster-down` run."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from tests.cluster import binaries, image
from tests.cluster.cluster import WITH_HEALTH, Cluster, sweep
from tests.cluster.paper import add_paper_nodes
from tests.cluster.supervise import Program

app = typer.Typer(add_completion=False, help="A real Kubernetes cluster on this machine.")
Name = Annotated[str, typer.Option(help="Several clusters may run side by side under different names.")]


@app.command()
def up(
    name: Name = "default",
    paper: Annotated[int, typer.Option(help="Paper nodes besides the real ones.")] = 0,
    real: Annotated[bool, typer.Option(help="Real nodes, which need root.")] = True,
) -> None:
    """Bring the cluster up; it runs until `down`."""
    found = Cluster.load(name)
    if found is not None and found.alive:
        print(f"it runs already\nexport KUBECONFIG={found.kubeconfig}")
        return
    cluster = Cluster.up(name, nodes=WITH_HEALTH if real else (), tied=False)
    if paper:
        add_paper_nodes(cluster.api, paper)
        keep = [sys.executable, "-m", "tests.cluster.paper", str(cluster.kubeconfig)]
        cluster.supervisor.add(Program("paper", keep, {"PYTHONPATH": str(binaries.PROJECT)}))
    print(f"export KUBECONFIG={cluster.kubeconfig}")


@app.command()
def down(name: Name = "default") -> None:
    """End it and leave nothing but the cache."""
    found = Cluster.load(name)
    if found is not None:
        found.down()
    sweep()
    print("nothing is left" if found is not None else f"there was no cluster {name!r}")


@app.command()
def build(
    kueue: Annotated[bool, typer.Option(help="Kueue, too, for the tests by hand beside it: some 20 minutes.")] = False,
    agent_sandbox: Annotated[bool, typer.Option(help="agent-sandbox, too, for its test by hand.")] = False,
    helm: Annotated[bool, typer.Option(help="Helm, too, for the chart's tests: some 3 minutes.")] = False,
    allocator: Annotated[bool, typer.Option(help="Kubernetes' allocator of devices, too, for its tests.")] = False,
    custom_resources: Annotated[
        bool, typer.Option(help="What says whether custom resources are valid, too, for the ComputeDomains' test.")
    ] = False,
    prometheus_rules: Annotated[bool, typer.Option(help="Prometheus' engine for rules, too, for the alerts'.")] = False,
) -> None:
    """Fill the cache: the programs from Go modules, and the container image."""
    binaries.build()
    if kueue:
        binaries.build(only=("kueue",))
    if agent_sandbox:
        binaries.build(only=("agent-sandbox",))
    if helm:
        binaries.build(only=("helm",))
    if allocator:
        binaries.build(only=("allocator",))
    if custom_resources:
        binaries.build(only=("custom-resources",))
    if prometheus_rules:
        binaries.build(only=("prometheus-rules",))
    if os.geteuid() == 0:
        image.build()
    else:
        print("not root: no container image, since real nodes need root")


app()
