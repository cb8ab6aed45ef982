"""Whether an API server takes pods into PodGroups of Kubernetes' own: asked once, and said once where it does not."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from ray_dra.adapters.gang_scheduling import pod_group_api, why_ungrouped
from ray_dra.adapters.kube_kinds import kind_of_object, path_for, path_of
from ray_dra.adapters.kube_watch import KubeAdapter
from ray_dra.errors import ApiUnavailable, KubernetesError, NotAllowed, OverQuota, Rejected
from ray_dra.translate.kube.gang_scheduling import grouped_probe
from ray_dra.translate.names import POD_GROUP_APIS
from tests.adapters.memory_api import Api
from tests.translate.kube.objects import CLUSTER

PROBE = grouped_probe(CLUSTER)
NEWEST, OLDER = (f"{api} PodGroup" for api in POD_GROUP_APIS)


class Server(Api):
    """One that serves these kinds of PodGroups, and keeps the field or not."""

    def __init__(self, *served: str, keeps: bool = True, error: KubernetesError | None = None) -> None:
        super().__init__()
        self.served, self.keeps, self.error = served, keeps, error
        self.asked: list[Any] = []
        self.listed: list[str] = []
        self.left: list[dict[str, Any]] = []
        self.may_list = True
        self.create = self._create

    def serves(self, kind: str) -> bool:
        return kind in self.served if kind in (NEWEST, OLDER) else True

    def _create(self, thing: Any, namespace: str, *, dry_run: bool = False) -> Any:
        assert dry_run
        self.asked.append(thing)
        if self.error is not None:
            raise self.error
        made = copy.deepcopy(thing)
        if not self.keeps:
            del made["spec"]["schedulingGroup"]
        return made

    def pages(self, kind: str, *arguments: Any, **more: Any) -> Iterator[tuple[list[Any], str]]:
        self.listed.append(kind)
        if kind in (NEWEST, OLDER) and not self.may_list:
            raise NotAllowed("No.", wanted="list podgroups")
        yield self.left if kind in (NEWEST, OLDER) else [], "1"


def group(api: str) -> dict[str, Any]:
    return {"apiVersion": api, "kind": "PodGroup", "metadata": {"name": "rd-1-0", "namespace": "n"}}


def test_pod_groups_of_two_groups_and_versions_have_paths_of_their_own() -> None:
    assert [path_for(group(api), None) for api in (*POD_GROUP_APIS, "scheduling.run.ai/v2alpha2")] == [
        "/apis/scheduling.k8s.io/v1beta1/namespaces/n/podgroups/rd-1-0",
        "/apis/scheduling.k8s.io/v1alpha2/namespaces/n/podgroups/rd-1-0",
        "/apis/scheduling.run.ai/v2alpha2/namespaces/n/podgroups/rd-1-0",
    ]
    assert kind_of_object(group("scheduling.run.ai/v2alpha2")) == "PodGroup"
    assert path_of(NEWEST, "n", "x") == "/apis/scheduling.k8s.io/v1beta1/namespaces/n/podgroups/x"


@pytest.mark.parametrize(
    ("served", "api"),
    [((), ""), ((OLDER,), POD_GROUP_APIS[1]), ((OLDER, NEWEST), POD_GROUP_APIS[0])],
)
def test_the_newest_version_that_is_served_is_taken(served: tuple[str, ...], api: str) -> None:
    server: Any = Server(*served)
    assert pod_group_api(server) == api
    assert bool(why_ungrouped(server, api, PROBE, "n")) is not bool(api)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (Server(), "no scheduling.k8s.io/v1beta1 or scheduling.k8s.io/v1alpha2 with PodGroups is served"),
        (Server(NEWEST, keeps=False), "schedulingGroup is dropped from pods: the gate GenericWorkload is off"),
        (Server(NEWEST, error=Rejected("No.", available="not here")), "a pod that names one is refused: not here"),
        (Server(NEWEST, error=NotAllowed("Not you.", wanted="x")), "a pod that names one is refused: Not you."),
    ],
)
def test_what_is_lacking_is_asked_once_and_said_once(
    server: Server, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    api: Any = server
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    try:
        with caplog.at_level(logging.WARNING, "ray_dra"):
            assert [adapter.gang_scheduling(PROBE) for _ in range(3)] == ["", "", ""]
        assert [r.getMessage() for r in caplog.records if "PodGroup" in r.getMessage()] == [
            f"Kubernetes: gangs are in no PodGroup of its scheduler's: {said}"
        ]
        assert len(server.asked) <= 1
        assert adapter.view().gang_pod_groups == ()
        assert adapter.problems() == ()
    finally:
        adapter.close()


@pytest.mark.parametrize("error", [ApiUnavailable("Later."), OverQuota("No room.")])
def test_what_may_be_answered_otherwise_later_is_asked_again(error: KubernetesError) -> None:
    server = Server(NEWEST, error=error)
    api: Any = server
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    try:
        with pytest.raises(type(error)):
            adapter.gang_scheduling(PROBE)
        server.error = None
        assert adapter.gang_scheduling(PROBE) == POD_GROUP_APIS[0]
    finally:
        adapter.close()


def test_what_is_served_since_the_coordinator_began_is_taken() -> None:
    server = Server()
    api: Any = server
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    try:
        server.served = (NEWEST,)
        assert adapter.gang_scheduling(PROBE) == POD_GROUP_APIS[0]
    finally:
        adapter.close()


def test_they_are_in_the_view_once_somebody_asks() -> None:
    server = Server(NEWEST)
    api: Any = server
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    try:
        assert server.listed.count(NEWEST) == 1, "whether some were left"
        server.left = [group(POD_GROUP_APIS[0])]
        assert adapter.view().gang_pod_groups == ()
        assert [adapter.gang_scheduling(PROBE) for _ in range(2)] == [POD_GROUP_APIS[0]] * 2
        assert server.listed.count(NEWEST) == 2
        (found,) = adapter.view().gang_pod_groups
        assert (found.name, found.kind) == ("rd-1-0", NEWEST)
    finally:
        adapter.close()


def test_those_that_were_left_are_in_the_first_view() -> None:
    server = Server(OLDER)
    server.left = [group(POD_GROUP_APIS[1])]
    api: Any = server
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    try:
        assert [each.kind for each in adapter.view().gang_pod_groups] == [OLDER]
        assert not server.asked
    finally:
        adapter.close()


def test_without_the_right_to_read_them_there_are_none_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(NEWEST)
    server.may_list = False
    api: Any = server
    adapter = KubeAdapter(api, "n", "gangs", holder="me")
    try:
        with caplog.at_level(logging.WARNING, "ray_dra"):
            assert adapter.gang_scheduling(PROBE) == ""
        assert any("scheduling.k8s.io/v1beta1 PodGroups cannot be read" in r.getMessage() for r in caplog.records)
    finally:
        adapter.close()
