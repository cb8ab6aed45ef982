"""`kubectl ray-dra` and `ray-dra --raycluster` from outside the cluster, by real kubectl and a kubeconfig alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ray_dra.cli.exit_codes import INTERRUPTED, NO, UNREACHABLE, YES
from tests.cluster.binaries import program
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, told
from tests.cluster.world import outside

SHIM = """#!/bin/sh
exec {python} -c 'import ray_dra.cli; ray_dra.cli.kubectl()' "$@"
"""


@pytest.fixture
def environment(cluster: Cluster, tmp_path: Path) -> dict[str, str]:
    """kubectl and its plug-in on the path, as an installed package has them."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "kubectl").symlink_to(program("kubectl"))
    (place / "kubectl-ray_dra").write_text(SHIM.format(python=sys.executable))
    (place / "kubectl-ray_dra").chmod(0o755)
    return {**os.environ, "PATH": f"{place}:{os.environ['PATH']}", "KUBECONFIG": str(cluster.kubeconfig)}


def test_a_gang_is_seen_asked_and_given_back_from_outside(
    cluster: Cluster, head: Head, environment: dict[str, str], tmp_path: Path
) -> None:
    at = ("-n", head.namespace.name)

    def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
        said = {**environment, **more}
        return subprocess.run(command, env=said, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)

    process = head.start("gang = racks(2, name='train'); gang.wait(200); tell(ready=True); hold()")
    assert told(process)["ready"]
    listed = run("kubectl", "ray-dra", "gangs", *at, "-o", "json")
    assert listed.returncode == YES, listed.stderr
    (gang,) = json.loads(listed.stdout)["gangs"]
    assert (gang["name"], gang["phase"], gang["gpus"]) == ("train", "ready", 8)
    ours = (sys.executable, "-m", "ray_dra.cli")
    most = run("kubectl", "ray-dra", "top", "gangs", *at, "-o", "json")
    assert most.returncode == YES, most.stderr
    assert [(each["name"], each["phase"], each["gpus"]) for each in json.loads(most.stdout)] == [("train", "ready", 8)]
    drawn = run(*ours, "topology", *at, "--raycluster", "gangs")
    assert drawn.returncode == YES, drawn.stderr
    assert "train" in drawn.stdout
    (tmp_path / "gang.yaml").write_text("bundles: [{GPU: 4}]\ncount: 4\nlocality: {cliques: 1}\n")
    asked = run("kubectl", "ray-dra", "plan", *at, "--request", "gang.yaml")
    assert asked.returncode == NO, asked.stderr
    assert "wanted" in asked.stdout
    assert run("kubectl", "ray-dra", "snapshot", "there.yaml", *at).returncode == YES
    assert run(*ours, "topology", "there.yaml").returncode == YES
    missing = run("kubectl", "ray-dra", "describe", "nobody", *at)
    assert (missing.returncode, missing.stdout) == (NO, "")
    assert "there is no gang 'nobody'" in missing.stderr

    # Whoever runs this in the background may ignore ctrl-C, and what is started here would, too.
    watch = ["env", "--default-signal=INT", *ours, "gangs", "-w", *at, "--raycluster", "gangs", "-o", "name"]

    def watched() -> bool:
        return "ray_dra.cli gangs" in cluster.kubectl(
            "exec", *at, head.pod, "-c", "ray-head", "--", "ps", "-eo", "args"
        )

    with subprocess.Popen(watch, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stdout is not None
            assert watching.stdout.readline() == "train\n"
            assert watched()
            watching.send_signal(signal.SIGINT)
            assert watching.wait(60) == INTERRUPTED
        finally:
            watching.kill()
    cluster.wait(lambda: not watched(), 30, "the watch to end with whoever asked")

    account = outside(cluster, cluster.account_kubeconfig("ray-dra", head.namespace.name), tmp_path)
    refused = run("kubectl", "ray-dra", "gangs", *at, KUBECONFIG=str(account))
    assert refused.returncode == UNREACHABLE, "the head's own account may run no commands in pods"
    assert "This identity may not do that" in refused.stderr
    assert run("kubectl", "ray-dra", "release", "train", *at).returncode == YES
    head.wait_nothing_left()
    head.let_go()
