"""NVSentinel's DrainRequests: what one asks for, and the answer to it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ray_dra.translate.kube.drain_requests import COMPLETE, answer, eviction, read_drain_request, remaining
from ray_dra.translate.kube.shapes import UNREADABLE
from ray_dra.translate.names import GANG_LABEL, NVSENTINEL_API
from tests.manifests import PROJECT

NOW, EARLIER = "2026-11-28T10:00:00Z", "2026-11-28T09:00:00Z"

# As the node drainer makes one by the template that NVSentinel ships, and with what its documentation adds.
ASKED: dict[str, Any] = {
    "apiVersion": NVSENTINEL_API,
    "kind": "DrainRequest",
    "metadata": {"name": "drain-t0-6650f2", "namespace": "nvsentinel", "resourceVersion": "41", "uid": "u"},
    "spec": {
        "nodeName": "t0",
        "checkName": "GpuXidError",
        "recommendedAction": "COMPONENT_RESET",
        "errorCode": ["79"],
        "healthEventID": "6650f2",
        "entitiesImpacted": [{"type": "GPU_UUID", "value": "GPU-1"}],
        "metadata": {"k": "v"},
        "reason": "XID 79",
        "podsToDrain": {"ray": ["rd-gang-0-1", "rd-gang-0-2"], "web": ["front-x"]},
    },
}


def pod(name: str, namespace: str = "ray", *, node: str = "t0", gang: str = "", **more: Any) -> dict[str, Any]:
    labels = {GANG_LABEL: gang} if gang else {}
    meta = {"name": name, "namespace": namespace, "labels": labels, **more.pop("meta", {})}
    return {"metadata": meta, "spec": {"nodeName": node}, "status": {"phase": "Running", **more}}


def test_it_is_read_as_the_node_drainer_writes_it() -> None:
    request = read_drain_request(ASKED)
    assert (request.namespace, request.name, request.version, request.node) == (
        "nvsentinel",
        "drain-t0-6650f2",
        "41",
        "t0",
    )
    assert request.pods == (("ray", "rd-gang-0-1"), ("ray", "rd-gang-0-2"), ("web", "front-x"))
    assert not request.complete
    least = {**ASKED, "spec": {"nodeName": "t0"}}
    assert read_drain_request(least).pods == ()


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"nodeName": 7},
        {"nodeName": "t0", "podsToDrain": ["a"]},
        {"nodeName": "t0", "podsToDrain": {"n": [1]}},
        {"nodeName": "t0", "podsToDrain": {"n": "front-x"}},
    ],
)
def test_what_is_none_is_not_read(spec: Any) -> None:
    with pytest.raises(UNREADABLE):
        read_drain_request({**ASKED, "spec": spec})


def test_what_is_elsewhere_or_has_ended_is_not_left() -> None:
    request = read_drain_request(ASKED)
    there = [
        pod("rd-gang-0-1", gang="train"),
        pod("rd-gang-0-2", gang="train", node="t9"),
        pod("front-x", "web", phase="Succeeded"),
        pod("unbound", node=""),
    ]
    assert [(left.name, left.gang, left.ending) for left in remaining(request, there)] == [
        ("rd-gang-0-1", "train", False)
    ]
    ending = pod("front-x", "web", meta={"deletionTimestamp": EARLIER})
    (left,) = remaining(request, [ending])
    assert left.ending
    assert eviction(left) == {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": "web", "name": "front-x"},
    }


def test_the_answers() -> None:
    request = read_drain_request(ASKED)
    left = remaining(request, [pod("rd-gang-0-1", gang="train"), pod("front-x", "web")])
    first = answer(request, left, EARLIER)
    assert first == {
        "metadata": {"resourceVersion": "41"},
        "status": {
            "conditions": [
                {
                    "type": "DrainComplete",
                    "status": "False",
                    "reason": "GangsRun",
                    "message": "to be evicted: web/front-x; gang ray/train has ray/rd-gang-0-1 here; a gang leaves by"
                    " what it declares about faults (on_fault), or at its end",
                    "lastTransitionTime": EARLIER,
                }
            ]
        },
    }
    conditions = first["status"]["conditions"]
    again = read_drain_request({**ASKED, "status": {"conditions": conditions}})
    assert answer(again, left, NOW) is None, "it says so already"
    fewer = answer(again, left[:1], NOW)
    assert fewer is not None
    assert fewer["status"]["conditions"][0]["lastTransitionTime"] == EARLIER, "the status is the same"
    others = {"type": "Other", "status": "True"}
    with_others = read_drain_request({**ASKED, "status": {"conditions": [others, *conditions]}})
    done = answer(with_others, [], NOW)
    assert done is not None
    kept, complete = done["status"]["conditions"]
    assert kept == others, "a merge patch replaces the list"
    assert (complete["status"], complete["reason"], complete["lastTransitionTime"]) == ("True", "Drained", NOW)
    finished = read_drain_request({**ASKED, "status": done["status"]})
    assert finished.complete
    assert answer(finished, left, NOW) is None, "once complete, it stays"


def test_a_crowd_is_said_shortly() -> None:
    pods = [pod(f"p{at}", gang=f"g{at % 20}") for at in range(200)]
    request = read_drain_request({**ASKED, "spec": {"nodeName": "t0", "podsToDrain": {"ray": []}}})
    found = answer(request, remaining(request, pods), NOW)
    assert found is not None
    assert len(found["status"]["conditions"][0]["message"]) < 2000


def test_the_definition_that_ships_has_every_field_and_the_condition() -> None:
    """Fields that it lacked, the API server would take out; a condition that it did not allow, it would refuse."""
    definition = yaml.safe_load((PROJECT / "kube" / "nvsentinel" / "crd.yaml").read_text())
    group, _, version = NVSENTINEL_API.partition("/")
    (served,) = definition["spec"]["versions"]
    assert (definition["spec"]["group"], served["name"]) == (group, version)
    assert definition["metadata"]["name"] == f"drainrequests.{group}"
    fields = served["schema"]["openAPIV3Schema"]["properties"]
    assert fields["spec"]["properties"].keys() == ASKED["spec"].keys()
    condition = fields["status"]["properties"]["conditions"]["items"]["properties"]
    found = answer(read_drain_request(ASKED), [], NOW)
    assert found is not None
    assert found["status"]["conditions"][0].keys() <= condition.keys()
    assert COMPLETE in str(served["additionalPrinterColumns"])
