"""From outside the cluster: jobs by the kubeconfig, the RayJob of the example, events."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from ray_dra.errors import KubernetesError, NotFound
from ray_dra.program import submit_job as submission
from ray_dra.translate.names import GANG_LABEL, LOCALITY_VARIABLE
from tests.cluster.binaries import PROJECT
from tests.cluster.cluster import Cluster
from tests.cluster.head import EXAMPLE, PRELUDE, Head, installation
from tests.cluster.world import Namespace

UNCHANGED = {"groups": "", "train": "RAY_ADDRESS='ray_dra://kubernetes?locality=same_clique'"}
"""Programs of examples/unchanged, and how they come to ray-dra."""
JOB = """
gang = racks(2)
gang.wait(200)
made = len(ranks(gang))
while gang.phase.value != "ready":  # a gang that ends before the coordinator has looked is never told to be ready
    time.sleep(0.1)
tell(ranks=made)
"""


def test_jobs_are_submitted_through_the_api_server(
    cluster: Cluster, head: Head, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    at = f"ray_dra://kubernetes?namespace={head.namespace.name}&raycluster="
    with pytest.raises(NotFound, match="no such object"):
        JobSubmissionClient(f"{at}nobody")
    # The head's own account may look, and may not forward ports; that is said at once.
    account = cluster.account_kubeconfig("ray-dra", head.namespace.name).read_text()
    (tmp_path / "account").write_text(account.replace(cluster.server, cluster.api.server))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "account"))
    with pytest.raises(KubernetesError, match="pods/portforward"):
        JobSubmissionClient(f"{at}gangs")
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    with pytest.raises(AuthenticationError, match="Missing authentication token"):
        JobSubmissionClient(f"{at}gangs").submit_job(entrypoint="true")
    secret = head.api.get("Secret", "gangs", head.namespace.name)["data"]["auth_token"]
    token = base64.b64decode(secret).decode()
    client = JobSubmissionClient(f"{at}gangs", headers={"Authorization": f"Bearer {token}"})
    try:
        text = PRELUDE + JOB
        before = len(events(head))
        job = client.submit_job(entrypoint=f"python3 -c '{text}'")
        cluster.wait(lambda: client.get_job_status(job).is_terminal(), 200, "the job to end")
        printed = client.get_job_logs(job)
        assert 'TOLD {"ranks": 2}' in printed, printed
    finally:
        submission.close_tunnels()
    head.wait_nothing_left()
    reasons = [event["reason"] for event in events(head)[before:]]
    wanted = ["GangPlanned", "GangApplied", "GangLetIn", "GangBound", "GangStarted", "GangVerified", "GangReady"]
    assert [reason for reason in reasons if reason in wanted] == [r for r in wanted if r in reasons]
    assert {"GangPlanned", "GangLetIn", "GangVerified", "GangReady"} <= set(reasons)


def events(head: Head) -> list[dict[str, str]]:
    found = head.api.items("Event", head.namespace.name, fields="involvedObject.name=gangs")
    ours = [event for event in found if event["source"].get("component") == "ray-dra"]
    return sorted(ours, key=lambda event: int(event["metadata"]["resourceVersion"]))


def test_the_examples_rayjob_trains(cluster: Cluster, namespace: Namespace) -> None:
    """By the commands of the example's README; and after it, in the same RayJob, programs that know nothing of ray-dra:
    one by an environment variable of the RayJob's, one by an address of ours. No GPU worker is there before."""
    at = ("-n", namespace.name)
    cluster.kubectl("apply", "-k", str(installation(namespace)))
    names = ("train_nvlink_gang.py", "tensor_parallel.py", *(f"unchanged/{program}.py" for program in UNCHANGED))
    files = [f"--from-file={PROJECT / 'examples' / name}" for name in names]
    cluster.kubectl("create", *at, "configmap", "train", *files)
    things = cluster.built(EXAMPLE / "rayjob")
    (job,) = (thing["spec"] for thing in things if thing["kind"] == "RayJob")
    variables = {LOCALITY_VARIABLE: "same_clique", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "200"}
    job["runtimeEnvYAML"] = json.dumps({"env_vars": variables})
    programs = [job["entrypoint"], *(f"{by} python3 /train/{program}.py" for program, by in UNCHANGED.items())]
    job["entrypoint"] = f'sh -c "{" && ".join(programs)}"'
    cluster.kubectl("apply", *at, "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": things}))
    status: dict[str, Any] = {}
    gangs: dict[str, set[str]] = {}  # gang -> nodes of which it has devices

    def ended() -> bool:
        for claim in namespace.api.items("ResourceClaim", namespace.name, labels=GANG_LABEL):
            results = ((claim.get("status") or {}).get("allocation") or {}).get("devices", {}).get("results", ())
            gangs.setdefault(claim["metadata"]["labels"][GANG_LABEL], set()).update(r["pool"] for r in results)
        status.update(namespace.api.get("RayJob", "train", namespace.name).get("status") or {})
        return status.get("jobDeploymentStatus") in ("Complete", "Failed")

    cluster.wait(ended, 300, f"the RayJob to end: {status}")
    printed = cluster.kubectl("logs", *at, "job/train")
    assert status["jobStatus"] == "SUCCEEDED", printed
    assert "every rank saw exactly its planned GPUs" in printed
    lines = [line for line in printed.splitlines() if re.match(r"(group|rank) \d: |1 clique", line)]
    assert [re.sub(r"\d(,\d)+", lambda gpus: f"{len(gpus[0]) // 2 + 1} GPUs", line) for line in lines] == [
        *(f"group {number}: 1 clique, GPUs 4 GPUs and 4 GPUs" for number in range(2)),
        *(f"rank {rank}: GPUs 2 GPUs" for rank in range(4)),
        "1 clique",
    ], lines
    assert len(gangs) == 4, gangs
    assert all(len({node.partition("-")[0] for node in nodes}) == 1 for nodes in gangs.values()), gangs
    deadline = time.monotonic() + 60
    while namespace.api.items("ResourceClaim", namespace.name) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not namespace.api.items("ResourceClaim", namespace.name)


@pytest.mark.by_hand  # tests/operate/map has all but the cluster itself; a job takes long to start on two cores
def test_the_map_is_opened_from_outside(cluster: Cluster, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a laptop with a kubeconfig: the map runs on the head as a job, and ends with the command."""
    secret = head.api.get("Secret", "gangs", head.namespace.name)["data"]["auth_token"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", base64.b64decode(secret).decode())
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    at = ("--raycluster", "gangs", "--namespace", head.namespace.name)
    command = [sys.executable, "-m", "ray_dra.cli", "map", *at, "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            assert serving.stderr is not None
            said = serving.stdout.readline()
            found = re.search(r"at (http://127\.0\.0\.1:\d+/)", said)
            assert found, said + serving.stderr.read()
            with urllib.request.urlopen(f"{found[1]}events", timeout=100) as events:
                assert events.readline() == b"event: state\n"
                events.readline()
                state = json.loads(events.readline().removeprefix(b"data: "))
            assert set(state["nodes"]) == {each["spec"]["nodeName"] for each in head.api.items("ResourceSlice")}
            assert state["figures"]["gpus"]["free"] > 0
            serving.send_signal(signal.SIGINT)
            assert serving.wait(60) == 0
        finally:
            serving.kill()
    client = JobSubmissionClient(
        f"ray_dra://kubernetes?namespace={head.namespace.name}&raycluster=gangs",
        headers={"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"},
    )
    try:
        maps = [job for job in client.list_jobs() if "ray_dra.cli map" in job.entrypoint]
        assert len(maps) == 1
        cluster.wait(
            lambda: client.get_job_status(str(maps[0].submission_id)).is_terminal(), 60, "the map's job to end"
        )
    finally:
        submission.close_tunnels()
