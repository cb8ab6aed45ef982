"""What a pod says of itself, and the patch that lets it in."""

from __future__ import annotations

from typing import Any

import pytest

from ray_dra.ports.kube_objects import NO_IMAGE, ComputeDomain, Pod
from ray_dra.translate.kube.pods import gate_opened, imex_readiness, read_pod, signs
from ray_dra.translate.kube.shapes import UNREADABLE, read_domain
from ray_dra.translate.names import ATTEMPT_LABEL, CLUSTER_LABEL, GATE

META = {"name": "p", "namespace": "n", "uid": "u"}


def pod(spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **meta: Any) -> Pod:
    return read_pod({"metadata": {**META, **meta}, "spec": spec or {}, "status": status or {}})


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def test_a_pods_names_and_place() -> None:
    labels = {ATTEMPT_LABEL: "rd-0-0", CLUSTER_LABEL: "gangs"}
    found = pod({"nodeName": "n1"}, {"phase": "Running"}, labels=labels, deletionTimestamp="now")
    assert found == Pod(
        "p",
        "n",
        attempt="rd-0-0",
        raycluster="gangs",
        deleting=True,
        uid="u",
        node="n1",
        pending="p to be scheduled",
    )
    assert (pod().node, pod().attempt, pod().deleting) == (None, None, False)


def test_our_gate_is_opened_and_others_stay_closed() -> None:
    both = pod({"schedulingGates": [{"name": "their/gate"}, {"name": GATE}]})
    assert (both.gated, both.gates) == (True, ("their/gate",))
    assert gate_opened(both) == {"metadata": {"uid": "u"}, "spec": {"schedulingGates": [{"name": "their/gate"}]}}
    assert gate_opened(pod({"schedulingGates": [{"name": GATE}]}))["spec"] == {"schedulingGates": None}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({}, "its containers to start"),
        ({"phase": "Pending", "initContainerStatuses": [waiting("Init", "first")]}, "Init first"),
        ({"phase": "Pending", "containerStatuses": [{"state": {}}, waiting("ContainerCreating")]}, "ContainerCreating"),
        ({"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}, ""),
        ({"phase": "Succeeded"}, ""),
    ],
)
def test_why_it_has_not_started(status: dict[str, Any], said: str) -> None:
    assert pod(status=status).waiting == said
    assert not pod(status=status).no_image


@pytest.mark.parametrize(
    ("conditions", "prepared"),
    [
        ([], False),
        ([{"type": "PodReadyToStartContainers", "status": "False"}], False),
        ([{"type": "Initialized", "status": "True"}], False),
        ([{"type": "Initialized", "status": "False"}, {"type": "PodReadyToStartContainers", "status": "True"}], True),
    ],
)
def test_a_pod_is_prepared_once_its_containers_can_be_made(conditions: list[dict[str, str]], prepared: bool) -> None:
    assert pod(status={"phase": "Pending", "conditions": conditions}).prepared is prepared


@pytest.mark.parametrize("reason", NO_IMAGE)
def test_an_image_that_cannot_be_had_is_told_from_one_that_is_pulled(reason: str) -> None:
    assert pod(status={"phase": "Pending", "containerStatuses": [waiting(reason, "of mine:1")]}).no_image


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"phase": "Running", "message": "no"}, ""),
        ({"phase": "Failed"}, "no reason given"),
        ({"phase": "Failed", "message": " "}, "no reason given"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
        ({"phase": "Failed", "message": "disk", "reason": "Evicted"}, "disk"),
        ({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"message": "NVML"}}}]}, "NVML"),
        (
            {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"reason": "Error", "exitCode": 3}}}]},
            "Error, exit code 3",
        ),
    ],
)
def test_why_it_has_failed_is_never_empty(status: dict[str, Any], said: str) -> None:
    assert pod(status=status).failed == said


def test_why_it_is_not_bound() -> None:
    unbound = {"type": "PodScheduled", "status": "False", "message": "cannot allocate all claims"}
    assert pod(status={"conditions": [unbound]}).pending == "p: cannot allocate all claims"
    assert (
        pod(status={"conditions": [{**unbound, "message": "", "reason": "Unschedulable"}]}).pending
        == "p: Unschedulable"
    )


def test_signs_of_progress_are_counted() -> None:
    gated = pod({"schedulingGates": [{"name": GATE}]})
    assert signs([gated, pod(), pod({"nodeName": "n"}), pod({"nodeName": "n"}, {"phase": "Running"})]) == (4, 3, 2, 1)


def test_the_nodes_on_which_imex_is_not_ready_are_named() -> None:
    nodes = [{"name": "a", "status": "Ready"}, {"name": "b", "status": "NotReady"}, {"name": "c"}]
    domain = read_domain({"metadata": {"name": "d", "namespace": "n"}, "status": {"nodes": nodes}})
    assert domain == ComputeDomain("d", "n", waiting=("b", "c"))
    assert imex_readiness([domain]) == "; IMEX is not ready on b, c"
    assert imex_readiness([ComputeDomain("d")]) == ""


@pytest.mark.parametrize("wrong", [{"uid": 5}, {"labels": {"a": 5}}, {"name": None}, {"namespace": []}])
def test_a_name_that_is_no_text_is_unreadable(wrong: dict[str, Any]) -> None:
    with pytest.raises(UNREADABLE):
        pod(**wrong)
