"""The drain plugin: a gang's pods are its coordinator's to end, others' are evicted, and the request is answered once
nothing of it is there."""

from __future__ import annotations

import copy
from typing import Any

from ray_dra.errors import Conflict, KubernetesError, NotFound
from ray_dra.processes.drain_plugin import look
from tests.translate.kube.test_drain_requests import ASKED, pod


class Api:
    """An API server in memory: requests and pods, by namespace and name."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self.requests = {"drain-t0-6650f2": copy.deepcopy(ASKED)}
        self.pods = {(each["metadata"]["namespace"], each["metadata"]["name"]): each for each in pods}
        self.evicted: list[str] = []
        self.budget: set[str] = set()
        self.writes = 0

    def items(self, kind: str, namespace: str | None = None) -> list[dict[str, Any]]:
        assert (kind, namespace) == ("DrainRequest", "nvsentinel")
        return copy.deepcopy(list(self.requests.values()))

    def find(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        assert kind == "Pod"
        return copy.deepcopy(self.pods.get((namespace or "", name)))

    def post(self, kind: str, name: str, subresource: str, body: dict[str, Any], namespace: str | None = None) -> None:
        assert (kind, subresource) == ("Pod", "eviction")
        assert body["metadata"] == {"namespace": namespace, "name": name}
        if name in self.budget:
            raise KubernetesError("no", available="Cannot evict pod as it would violate the pod's disruption budget.")
        if self.pods.pop((namespace or "", name), None) is None:
            raise NotFound("no")
        self.evicted.append(name)

    def patch(
        self, kind: str, name: str, change: dict[str, Any], namespace: str | None = None, *, subresource: str = ""
    ) -> None:
        assert (kind, namespace, subresource) == ("DrainRequest", "nvsentinel", "status")
        found = self.requests[name]
        if change["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            raise Conflict("It has changed since.")
        self.writes += 1
        found["metadata"]["resourceVersion"] = str(int(found["metadata"]["resourceVersion"]) + 1)
        found["status"] = copy.deepcopy(change["status"])

    @property
    def said(self) -> tuple[str, str]:
        (condition,) = self.requests["drain-t0-6650f2"]["status"]["conditions"]
        return condition["status"], condition["reason"]


def looks(api: Api, count: int = 1) -> list[str]:
    said: list[str] = []
    for _ in range(count):
        look(api, "nvsentinel", lambda: 0.0, said.append)
    return said


def test_the_gang_leaves_by_itself_others_are_evicted_and_then_it_is_complete() -> None:
    mine = [pod(f"rd-gang-0-{at}", gang="train") for at in (1, 2)]
    api = Api(*mine, pod("front-x", "web"), pod("stranger", "web"))
    looks(api, 3)
    assert api.evicted == ["front-x"], "no gang's, and none that the request does not name"
    assert api.said == ("False", "GangsRun")
    assert api.writes == 2, "once for each thing that it says"
    del api.pods["ray", "rd-gang-0-1"]
    api.pods["ray", "rd-gang-0-2"]["spec"]["nodeName"] = "t7"
    looks(api, 3)
    assert api.said == ("True", "Drained")
    assert api.writes == 3
    api.pods["ray", "rd-gang-0-1"] = mine[0]
    looks(api)
    assert api.writes == 3, "what is complete is left alone"


def test_a_budget_that_is_against_it_is_said_and_asked_again() -> None:
    api = Api(pod("front-x", "web"))
    api.budget.add("front-x")
    assert any("disruption budget" in line for line in looks(api, 2))
    assert api.said == ("False", "PodsEnd")
    api.budget.clear()
    looks(api, 2)
    assert api.said == ("True", "Drained")


def test_a_pod_that_ends_is_waited_for_and_not_evicted_again() -> None:
    api = Api(pod("front-x", "web", meta={"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    looks(api, 2)
    assert not api.evicted
    assert api.said == ("False", "PodsEnd")


def test_one_that_cannot_be_read_or_answered_keeps_no_other_from_its_answer() -> None:
    api = Api()
    api.requests = {"odd": {"metadata": {"name": "odd"}, "spec": 7}, **api.requests}
    stale = copy.deepcopy(ASKED)
    stale["metadata"]["name"] = "late"
    api.requests["late"] = stale
    items = api.items

    def late(kind: str, namespace: str | None = None) -> list[dict[str, Any]]:
        found = items(kind, namespace)
        found[-1]["metadata"]["resourceVersion"] = "1"  # it has changed since
        return found

    api.items = late  # type: ignore[method-assign]
    said = looks(api)
    assert any(line.startswith("odd: it cannot be read") for line in said)
    assert any("has changed" in line for line in said)
    assert api.said == ("True", "Drained")
    assert "status" not in api.requests["late"]
    api.items = items  # type: ignore[method-assign]
    looks(api)
    assert api.requests["late"]["status"]["conditions"][0]["status"] == "True"


def test_one_that_is_being_deleted_is_left_alone() -> None:
    api = Api(pod("front-x", "web"))
    api.requests["drain-t0-6650f2"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    looks(api)
    assert not api.writes
    assert not api.evicted
