"""The port `Kube` over a server that is old, hangs or comes back, and its writes while the lease lapses."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_dra.adapters import kubernetes, lease
from ray_dra.adapters.kube_watch import KubeAdapter
from ray_dra.adapters.kubernetes import KubernetesApi
from ray_dra.adapters.write_limits import Writers
from ray_dra.errors import ApiUnavailable, KubernetesError, NotAllowed, NotFound, NotLeading
from ray_dra.ports.kube_objects import DeviceTaintRule, RayService, WriteLimits
from ray_dra.translate.names import KUBERAY_ORIGIN_LABEL, KUBERAY_ORIGIN_NAME_LABEL
from tests.adapters.memory_api import Api
from tests.adapters.servers import ConfigMapServer, thing, until
from tests.translate.kube.objects import cluster as raycluster
from tests.translate.kube.test_kuberay_operator import head


def test_a_server_that_hangs_holds_nobody_up_for_long(
    server: ConfigMapServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write is tried once, and those that have not begun when the first is given up are not tried at all."""
    monkeypatch.setattr(kubernetes, "WRITE_SECONDS", 0.3)
    with pytest.raises(ApiUnavailable, match="did not answer"):
        api.delete("ConfigMap", "a", "n")
    assert server.asked == ["DELETE a"]
    with ThreadPoolExecutor(4) as writers, pytest.raises(ApiUnavailable, match="did not answer"):
        Writers(writers, lambda: WriteLimits(at_once=4)).together(
            [partial(api.create, thing(f"t{at}", 1) | {"kind": "ConfigMap"}, "n") for at in range(64)]
        )
    assert 1 <= server.asked.count("POST configmaps") <= 4


def test_a_coordinator_that_was_restarted_waits_for_the_server(
    server: ConfigMapServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.kuberay = False
    server.away = 3
    with pytest.raises(ApiUnavailable, match="cannot answer now"):
        KubeAdapter(api, "n", "gangs", sync_seconds=-1)
    with pytest.raises(NotFound, match="KubeRay"):  # it was asked until it answered
        KubeAdapter(api, "n", "gangs", sync_seconds=math.inf)
    assert server.away == 0


@pytest.mark.parametrize(("missing", "said"), [("new", r"Kubernetes 1\.34"), ("kuberay", "KubeRay")])
def test_an_old_server_and_one_without_kuberay_are_told_apart(
    server: ConfigMapServer, api: KubernetesApi, missing: str, said: str
) -> None:
    setattr(server, missing, False)
    with pytest.raises(NotFound, match=said):
        KubeAdapter(api, "n", "gangs")


def test_no_write_begins_after_the_lease_has_lapsed() -> None:
    """It lapses in the middle of a thousand writes; those that have begun end, and no other begins."""
    api: Any = Api()
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    begun, after = [0], [0]
    lapsed = threading.Event()

    def create(thing: Any, namespace: str) -> Any:
        if thing["kind"] == "Lease":
            return thing
        after[0] += lapsed.is_set()
        begun[0] += 1
        if begun[0] == 300:
            adapter._lease.stop()
            adapter._lease.thread.join(10)
            clock = adapter._lease._clock
            adapter._lease._clock = lambda: clock() + lease.SAFE_SECONDS
            lapsed.set()
        time.sleep(0.0005)
        return {"metadata": {"uid": "u"}}

    api.create = create
    thing = {"kind": "Pod", "metadata": {"name": "p"}}
    try:
        with pytest.raises(NotLeading):
            adapter.together([partial(adapter.create, thing)] * 1000)
        assert after[0] < WriteLimits().at_once  # between the question and the write
        for write in (adapter.create, partial(adapter.patch, "Pod", "p"), partial(adapter.delete, "Pod")):
            with pytest.raises(NotLeading):
                write({} if write is not adapter.create else thing)
    finally:
        adapter.close()
    for mirror in adapter._mirrors.values():
        mirror.thread.join(10)
        assert not mirror.thread.is_alive()


@pytest.mark.parametrize("there", [True, False])
def test_what_the_heads_pod_says_of_kuberay_is_seen_and_told(tmp_path: Path, there: bool) -> None:
    resolver = tmp_path / "resolv.conf"
    if there:
        resolver.write_text("search n.svc.here.org svc.here.org here.org\n")

    class Headed(Api):
        def pages(self, kind: str, *arguments: Any, **more: Any) -> Iterator[Any]:
            items = {
                "RayCluster": [raycluster()],
                "Pod": [head("v1.9.0")] if more["labels"] == "ray.io/cluster=gangs,ray.io/node-type=head" else [],
            }
            yield items.get(kind, []), "1"

    api: Any = Headed()
    adapter = KubeAdapter(api, "n", "gangs", holder="me", resolver=resolver)
    try:
        cluster = adapter.view().raycluster
        assert cluster is not None
        assert cluster.kuberay.version == "v1.9.0"
        assert cluster.kuberay.domain == ("here.org" if there else "cluster.local")
        (problem,) = adapter.problems()
        assert "KubeRay makes pods differently" in problem
    finally:
        adapter.close()


def test_an_adapter_that_cannot_begin_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Api):
        def pages(self, *arguments: Any, **more: Any) -> Iterator[Any]:
            raise KubernetesError("no")

    before = set(threading.enumerate())
    api: Any = Refusing()
    with pytest.raises(KubernetesError, match="no"):
        KubeAdapter(api, "n", "gangs", holder="me")
    until(lambda: not {t for t in threading.enumerate() if t not in before and t.is_alive()})


@pytest.mark.parametrize("may_list", [True, False])
def test_the_rayservice_of_a_raycluster_is_watched_by_its_name(may_list: bool) -> None:
    """Once the RayCluster says which made it; without the right to, that is a problem that is told, and no more."""
    asked: list[dict[str, Any]] = []
    named = {KUBERAY_ORIGIN_LABEL: "RayService", KUBERAY_ORIGIN_NAME_LABEL: "serve"}
    made = raycluster()
    made["metadata"]["labels"] = named
    status = {"activeServiceStatus": {"rayClusterName": "c"}, "pendingServiceStatus": {"rayClusterName": "next"}}
    service = {"metadata": {"name": "serve", "namespace": "n"}, "spec": {}, "status": status}

    class Serving(Api):
        def pages(self, kind: str, *arguments: Any, **more: Any) -> Iterator[Any]:
            if kind == "RayService":
                asked.append(more)
                if not may_list:
                    raise NotAllowed("This identity may not do that.", wanted="list rayservices")
            yield {"RayCluster": [made], "RayService": [service]}.get(kind, []), "1"

    api: Any = Serving()
    adapter = KubeAdapter(api, "n", "c", holder="me")
    try:
        assert adapter.view().raycluster is not None
        until(lambda: bool(adapter.view().rayservice or adapter.problems()))
        assert asked[0] == {"labels": "", "fields": "metadata.name=serve"}
        if may_list:
            assert adapter.view().rayservice == RayService("serve", active="c", pending="next", delay=60)
            assert adapter.problems() == ()
        else:
            assert adapter.view().rayservice is None
            assert adapter.problems() == ("RayServices cannot be watched: This identity may not do that.",)
    finally:
        adapter.close()


@pytest.mark.parametrize("case", ["may", "may not", "not served"])
def test_taint_rules_are_watched_where_they_are_served_and_gangs_can_do_without(case: str) -> None:
    taint = {"key": "repair", "effect": "NoExecute"}
    rule = {"metadata": {"name": "r"}, "spec": {"deviceSelector": {"pool": "n1"}, "taint": taint}}
    listed: list[str] = []

    class Ruled(Api):
        def serves(self, kind: str) -> bool:
            return kind != "DeviceTaintRule" or case != "not served"

        def pages(self, kind: str, *arguments: Any, **more: Any) -> Iterator[Any]:
            listed.append(kind)
            if kind == "DeviceTaintRule" and case == "may not":
                raise NotAllowed("This identity may not do that.", wanted="list devicetaintrules")
            yield [rule] if kind == "DeviceTaintRule" else [], "1"

    api: Any = Ruled()
    adapter = KubeAdapter(api, "n", "c", holder="me")
    try:
        said = ("DeviceTaintRules cannot be watched: This identity may not do that.",)
        wanted = (DeviceTaintRule("r", ("repair= (DeviceTaintRule r)", "NoExecute"), pool="n1"),)
        assert adapter.view().taint_rules == (wanted if case == "may" else ()), "at the first look"
        assert adapter.problems() == (said if case == "may not" else ())
        assert ("DeviceTaintRule" in listed) is (case != "not served")
    finally:
        adapter.close()


@pytest.mark.parametrize(("found", "gone"), [([], True), ([{"metadata": {"name": "c"}, "spec": 5}], False)])
def test_a_raycluster_that_cannot_be_read_is_not_gone(found: list[Any], gone: bool) -> None:
    class Some(Api):
        def pages(self, kind: str, *arguments: Any, **more: Any) -> Iterator[Any]:
            yield found if kind == "RayCluster" else [], "1"

    api: Any = Some()
    adapter = KubeAdapter(api, "n", "c", holder="me")
    try:
        view = adapter.view()
        assert (view.raycluster, view.raycluster_gone) == (None, gone)
    finally:
        adapter.close()


def test_kueues_objects_are_read_once_somebody_asks_for_them() -> None:
    """Who needs no queue needs no right to them; and until they have been listed, nobody takes a request for gone. They
    are asked for once at the start, for those that an earlier coordinator has left."""
    listed: list[str] = []
    gate = threading.Event()

    class Some(Api):
        def pages(self, kind: str, *arguments: Any, **more: Any) -> Iterator[tuple[list[Any], str]]:
            listed.append(kind)
            if kind == "ResourceFlavor":
                gate.wait(30)
                yield [{"metadata": {"name": "racks"}, "spec": {"nodeLabels": {"pool": "a"}}}], "1"
            elif kind == "Workload":
                yield [{"metadata": {"name": "rd-1-q0", "namespace": "n"}, "status": {}}], "1"
            else:
                yield [], "1"

    api: Any = Some()
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    try:
        assert adapter.kueue
        assert adapter.view().workloads is None
        assert adapter.requests_left
        assert listed.count("Workload") == 1
        adapter.watch_queues()
        adapter.watch_queues()
        until(lambda: adapter._mirrors["workloads"].synced.is_set())
        assert adapter.view().workloads is None
        gate.set()
        until(lambda: adapter.view().workloads is not None)
        view = adapter.view()
        assert view.workloads is not None
        assert [workload.name for workload in view.workloads] == ["rd-1-q0"]
        assert {name: dict(flavor.labels) for name, flavor in view.flavors.items()} == {"racks": {"pool": "a"}}
        assert (listed.count("Workload"), listed.count("ResourceFlavor")) == (2, 1)
    finally:
        adapter.close()


@pytest.mark.parametrize("left", [False, True])
def test_kais_pod_groups_are_read_once_somebody_asks_for_them_or_where_some_were_left(left: bool) -> None:
    class Some(Api):
        def pages(self, kind: str, *arguments: Any, **more: Any) -> Iterator[tuple[list[Any], str]]:
            yield ([{"metadata": {"name": "rd-1-0-u", "namespace": "n"}}] if kind == "PodGroup" and left else []), "1"

    api: Any = Some()
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    try:
        assert adapter.kai
        if not left:
            assert adapter.view().pod_groups is None
            adapter.watch_pod_groups()
            adapter.watch_pod_groups()
        until(lambda: adapter.view().pod_groups is not None)
        assert [group.name for group in adapter.view().pod_groups or ()] == ["rd-1-0-u"] * left
    finally:
        adapter.close()


def test_without_the_right_to_read_requests_there_are_none_of_an_earlier_coordinator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors: list[KubernetesError] = [ApiUnavailable("Later."), NotAllowed("No.", wanted="list workloads")]
    monkeypatch.setattr("ray_dra.adapters.kube_watch.AGAIN_SECONDS", 0.01)

    class Some(Api):
        def pages(self, kind: str, *arguments: Any, **more: Any) -> Iterator[tuple[list[Any], str]]:
            if kind == "Workload":
                raise errors.pop(0)
            yield [], "1"

    api: Any = Some()
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    try:
        assert not errors
        assert not adapter.requests_left
    finally:
        adapter.close()
