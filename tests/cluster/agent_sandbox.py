"""agent-sandbox on the testbed: its CRDs and its controller, as administrator.

Only tests by hand use it, where the cache has it (`python -m tests.cluster build --agent-sandbox`).
"""

from __future__ import annotations

import json

import yaml

from tests.cluster.binaries import folder, program
from tests.cluster.cluster import Cluster
from tests.cluster.machine import free_ports
from tests.cluster.supervise import Program

VERSION = "v1beta1"


def missing() -> str:
    """Why it cannot run here; "" where it can."""
    there = folder("agent-sandbox").exists()
    return "" if there else "agent-sandbox is not built: python -m tests.cluster build --agent-sandbox"


def install(cluster: Cluster) -> None:
    """Its own CRDs, of the version that is stored: without its webhook nothing can be asked for in another."""
    for name in ("agents.x-k8s.io_sandboxes", "extensions.agents.x-k8s.io_sandboxtemplates"):
        crd = yaml.safe_load((folder("agent-sandbox") / f"{name}.yaml").read_text())
        crd["spec"].pop("conversion", None)
        crd["spec"]["versions"] = [each for each in crd["spec"]["versions"] if each["name"] == VERSION]
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(crd))
    kubeconfig = cluster.authority.kubeconfig(
        cluster.run / "agent-sandbox.kubeconfig", cluster.server, "agent-sandbox", "system:masters"
    )
    metrics, probes = free_ports(2)
    start = [
        program("agent-sandbox-controller"),
        "--enable-webhook=false",
        "--leader-elect=false",
        f"--metrics-bind-address=127.0.0.1:{metrics}",
        f"--health-probe-bind-address=127.0.0.1:{probes}",
    ]
    cluster.supervisor.add(Program("agent-sandbox", start, {"KUBECONFIG": str(kubeconfig)}))
