"""A worker's pod as KubeRay builds it: what differs from case to case, as reviewed, and what its init containers do.

That it is KubeRay's own is held on the real operator, with the same cases (tests/cluster/test_kuberay_pod.py).
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import KubeRay
from ray_dra.translate.kube.kuberay_pod import worker_pod
from ray_dra.translate.kube.raycluster import read_raycluster
from tests.translate.kube.kuberay_cases import CASES

GOLDEN = Path(__file__).parent.parent / "golden" / "kuberay-pods.txt"
NEWER = KubeRay("v1.7.0", tls=True)


def made(case: dict[str, Any], kuberay: KubeRay | None = None) -> dict[str, Any]:
    """Of a RayCluster whose name says nothing of the case."""
    case = copy.deepcopy(case)
    name = case["metadata"]["name"]
    case["metadata"] |= {
        "name": name if len(name) > 50 else "c",
        "namespace": "team",
        "uid": "u",
        "resourceVersion": "1",
    }
    cluster = replace(read_raycluster(case), kuberay=kuberay or KubeRay("v1.6.2"))
    return worker_pod(cluster, case["spec"]["workerGroupSpecs"][0], "pod")


def written(pod: dict[str, Any]) -> list[str]:
    return yaml.safe_dump(json.loads(json.dumps(pod)), width=1000).splitlines()


def test_pods_are_as_reviewed() -> None:
    plain = written(made(CASES["plain"]))
    lines = [*plain]
    several = [(name, made(case)) for name, case in CASES.items()] + [("KubeRay 1.7", made(CASES["token"], NEWER))]
    several += [("another domain", made(CASES["plain"], KubeRay(domain="here.org")))]
    for name, pod in several:
        lines += ["", f"# {name}", *list(difflib.unified_diff(plain, written(pod), n=0, lineterm=""))[2:]]
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        GOLDEN.write_text("\n".join(lines) + "\n")
    assert lines == GOLDEN.read_text().splitlines()


def test_the_group_stays_as_it_is() -> None:
    for case in CASES.values():
        before = copy.deepcopy(case)
        made_of = copy.deepcopy(case) | {
            "metadata": {**case["metadata"], "namespace": "n", "uid": "u", "resourceVersion": "1"}
        }
        pod = worker_pod(read_raycluster(made_of), made_of["spec"]["workerGroupSpecs"][0], "pod")
        pod["spec"]["containers"][0]["env"].clear()
        pod["metadata"]["labels"].clear()
        assert made_of["spec"] == before["spec"]


def test_a_flag_that_newer_kuberays_pass_on() -> None:
    case = copy.deepcopy(CASES["plain"])
    case["spec"]["workerGroupSpecs"][0]["rayStartParams"] = {"include-log-monitor": "false"}
    assert "log-monitor" not in made(case)["spec"]["containers"][0]["args"][0]
    assert "--include-log-monitor=false" in made(case, NEWER)["spec"]["containers"][0]["args"][0]


def test_an_amount_that_is_none_is_refused() -> None:
    case = copy.deepcopy(CASES["plain"])
    case["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "-1"}}
    with pytest.raises(InvalidRequest, match="no amount"):
        made(case)


def init(pod: dict[str, Any], name: str) -> tuple[list[str], str]:
    (container,) = [each for each in pod["spec"]["initContainers"] if each["name"] == name]
    return container["command"], container["args"][0]


def run(command: list[str], script: str, folder: Path, **programs: str) -> list[str]:
    """What a script calls, with programs of these bodies in place of the real ones."""
    for name, body in {"sleep": "", **programs}.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "POD_IP": "10.0.0.1", "LOG": str(folder / "log")}
    (folder / "log").touch()
    subprocess.run([*command, script], env=environment, check=True, timeout=30, capture_output=True)
    return (folder / "log").read_text().splitlines()


TWICE = 'echo "$@" >> $LOG; [ $(wc -l < $LOG) -ge 3 ]'


def test_it_waits_until_the_gcs_answers(tmp_path: Path) -> None:
    """At an address where nothing listens, by Ray; where something does, without."""
    command, script = init(made(CASES["plain"]), "wait-gcs-ready")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        local = script.replace("c-head-svc.team.svc.cluster.local", "127.0.0.1").replace("6379", port)
        assert run(command, local, tmp_path, ray=TWICE) == []
    assert run(command, local, tmp_path, ray=TWICE) == [f"health-check --address 127.0.0.1:{port}"] * 3


def test_it_waits_until_the_certificate_names_the_pod(tmp_path: Path) -> None:
    command, script = init(made(CASES["plain"], NEWER), "wait-for-tls-ip-san")
    other = "echo '    DNS:localhost, IP Address:127.0.0.1, IP Address:10.0.0.11, DNS:10.0.0.1'"
    own = "echo '    DNS:localhost, IP Address:10.0.0.1, IP Address:127.0.0.1'"
    calls = run(command, script, tmp_path, openssl=f'echo "$@" >> $LOG; [ $(wc -l < $LOG) -ge 3 ] && {own} || {other}')
    assert calls == ["x509 -in /etc/ray/tls/tls.crt -noout -text"] * 3
