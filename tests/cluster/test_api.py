"""The Kubernetes adapter on a real API server: every verb, and every error by its type."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ray_dra.adapters.kube_kinds import KINDS
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.errors import (
    AlreadyThere,
    ApiUnavailable,
    Conflict,
    KubernetesError,
    NotAllowed,
    NotFound,
    Rejected,
    WatchExpired,
)
from ray_dra.translate.kube.shapes import kind_in
from ray_dra.translate.names import POD_GROUP_APIS
from tests.cluster.cluster import Cluster
from tests.cluster.world import Namespace, opaque, outside, request


def settings(name: str, **data: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def test_objects_come_and_go(namespace: Namespace) -> None:
    api, at = namespace.api, namespace.name
    made = api.create(settings("a", x="1"), at)
    assert api.get("ConfigMap", "a", at)["data"] == {"x": "1"}
    assert api.find("ConfigMap", "b", at) is None
    api.patch("ConfigMap", "a", {"data": {"y": "2"}}, at)
    api.patch("ConfigMap", "a", [{"op": "replace", "path": "/data/x", "value": "3"}], at)
    assert api.get("ConfigMap", "a", at)["data"] == {"x": "3", "y": "2"}
    api.apply(settings("c", z="1"), namespace=at)
    assert api.apply(settings("c", z="2"), namespace=at)["data"] == {"z": "2"}
    api.create(settings("dry"), at, dry_run=True)
    assert api.find("ConfigMap", "dry", at) is None
    names = {each["metadata"]["name"] for each in api.items("ConfigMap", at)}
    assert {"a", "c"} <= names
    listed, _ = api.listed("ConfigMap", at, fields="metadata.name=c")
    assert [(each["kind"], each["apiVersion"]) for each in listed] == [("ConfigMap", "v1")]
    with pytest.raises(Conflict):
        api.replace({**made, "metadata": {**made["metadata"], "namespace": at}})
    api.delete("ConfigMap", "a", at)
    api.delete("ConfigMap", "a", at)
    with pytest.raises(NotFound):
        api.delete("ConfigMap", "a", at, missing_ok=False)


def test_errors_have_their_types(namespace: Namespace, cluster: Cluster, tmp_path: Path) -> None:
    api, at = namespace.api, namespace.name
    api.create(settings("a"), at)
    with pytest.raises(AlreadyThere):
        api.create(settings("a"), at)
    with pytest.raises(Rejected, match="Invalid value"):
        api.create(settings("Not A Name"), at)
    with pytest.raises(Conflict, match="changed in between"):
        api.patch("ConfigMap", "a", [{"op": "test", "path": "/metadata/name", "value": "b"}], at)
    with pytest.raises(Conflict):
        api.delete("ConfigMap", "a", at, uid="another")
    nobody = KubernetesApi(str(outside(cluster, cluster.account_kubeconfig("default", at), tmp_path)))
    with pytest.raises(NotAllowed, match="pods") as refused:
        nobody.items("Pod", at)
    assert refused.value.status == 403
    config = json.loads(cluster.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    with pytest.raises(ApiUnavailable, match="did not answer"):
        KubernetesApi(str(tmp_path / "kubeconfig")).items("Pod")
    with pytest.raises(KubernetesError, match="no way to the Kubernetes API"):
        KubernetesApi(str(tmp_path / "none"))


def test_a_watch_tells_what_happens_from_a_version_on(namespace: Namespace) -> None:
    api, at = namespace.api, namespace.name
    _, version = api.listed("ConfigMap", at)

    def happen() -> None:
        api.create(settings("w", x="1"), at)
        api.patch("ConfigMap", "w", {"data": {"x": "2"}}, at)
        api.delete("ConfigMap", "w", at)

    threading.Timer(0.5, happen).start()
    seen = []
    for kind, thing in api.watch("ConfigMap", at, version=version, fields="metadata.name=w", seconds=20):
        if kind != "BOOKMARK":
            seen.append((kind, thing["data"]["x"]))
        if kind == "DELETED":
            break
    assert seen == [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")]
    assert list(api.watch("ConfigMap", at, version=version, fields="metadata.name=none", seconds=1)) == []


def test_a_watch_from_before_what_is_kept_says_so(cluster: Cluster, namespace: Namespace) -> None:
    """etcd forgets old versions; events are watched there, without the API server's cache."""
    _, version = namespace.api.listed("Event", namespace.name)
    url, body = "http://127.0.0.1:2379/v3/kv/compaction", json.dumps({"revision": version})
    forget = f"import urllib.request as u; u.urlopen({url!r}, {body!r}.encode())"
    subprocess.run([*cluster.inside(), sys.executable, "-c", forget], check=True)
    with pytest.raises(WatchExpired):
        list(namespace.api.watch("Event", namespace.name, version="1", seconds=5))


def test_a_claim_with_parameters_can_be_patched_afterwards(namespace: Namespace) -> None:
    """The server compares the bytes of opaque parameters: sent with blanks, nothing of the object could change."""
    config = opaque({"kind": "GpuConfig", "sharing": {"strategy": "TimeSlicing"}})
    namespace.claim("one", request(), config=[config])
    namespace.api.patch("ResourceClaim", "one", {"metadata": {"labels": {"a": "b"}}}, namespace.name)
    assert namespace.api.get("ResourceClaim", "one", namespace.name)["metadata"]["labels"] == {"a": "b"}


def test_every_kind_of_the_table_is_served_but_those_not_installed(namespace: Namespace) -> None:
    served = {kind for kind in KINDS if namespace.api.serves(kind)}
    neighbours = {"Workload", "ResourceFlavor", "PodGroup", "Sandbox", "SandboxTemplate", "DrainRequest"}
    neighbours |= {kind_in(api, "PodGroup") for api in POD_GROUP_APIS}  # off by default
    assert set(KINDS) - served == neighbours
    assert "ok" in namespace.api.raw("/livez")
