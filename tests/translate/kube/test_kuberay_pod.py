"""A worker's pod as KubeRay builds it; that it is KubeRay's own is held on the real operator (tests/cluster)."""

from __future__ import annotations

from typing import Any

from ray_dra.translate.kube.kuberay_pod import worker_pod
from ray_dra.translate.kube.raycluster import read_raycluster
from tests.translate.kube.objects import cluster


def made(container: dict[str, Any] | None = None, group: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    raw = cluster(**spec)
    first = raw["spec"]["workerGroupSpecs"][0] | (group or {})
    first["template"]["spec"]["containers"][0] |= container or {}
    return worker_pod(read_raycluster(raw), first, "c-w-1")


def test_the_group_is_not_changed() -> None:
    raw = cluster()
    group = raw["spec"]["workerGroupSpecs"][0]
    before = repr(raw)
    worker_pod(read_raycluster(raw), group, "a")
    assert repr(raw) == before


def test_a_plain_worker() -> None:
    pod = made()
    ray = pod["spec"]["containers"][0]
    start = (
        "ray start  --address=c-head-svc.team.svc.cluster.local:6379  --block  --dashboard-agent-listen-port=52365 "
        " --memory=2147483648  --metrics-export-port=8080  --num-cpus=1 "
    )
    assert ray["args"] == [f"ulimit -n 65536; {start}"]
    assert pod["metadata"]["ownerReferences"][0]["controller"] is True
