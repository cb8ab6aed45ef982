"""On which nodes Kubernetes places a pod, held to its documented rules; and which nodes leave alone what runs there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.model.signs import Seen, Sign
from ray_dra.ports.kube_objects import KubeNode, Placing, Toleration
from ray_dra.translate.kube.schedulable import obstacle, read_placing
from ray_dra.translate.kube.slices import read_node
from ray_dra.translate.names import NVSENTINEL_STATE_LABEL

NODE = KubeNode("n1", labels={"pool": "h100", "rank": "7", "zone": "a"})


def required(*terms: dict[str, Any], **more: Any) -> Placing:
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [*terms]}}}
    return read_placing({"affinity": affinity, **more})


def asks(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": [*values]} if values else {})}


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (asks("pool", "In", "a100", "h100"), True),
        (asks("pool", "In", "a100"), False),
        (asks("none", "In", "h100"), False),
        (asks("pool", "NotIn", "a100"), True),
        (asks("pool", "NotIn", "h100"), False),
        (asks("none", "NotIn", "h100"), True),
        (asks("pool", "Exists"), True),
        (asks("none", "Exists"), False),
        (asks("pool", "DoesNotExist"), False),
        (asks("none", "DoesNotExist"), True),
        (asks("rank", "Gt", "6"), True),
        (asks("rank", "Gt", "7"), False),
        (asks("rank", "Lt", "8"), True),
        (asks("rank", "Lt", "7"), False),
        (asks("rank", "Gt", "-1"), True),
        (asks("none", "Gt", "1"), False),
        (asks("none", "Lt", "1"), False),
        (asks("pool", "Gt", "1"), False),
        (asks("pool", "Lt", "1"), False),
        (asks("rank", "Gt", "six"), False),
        (asks("rank", "Lt", str(2**63)), False),  # no number to Kubernetes
        (asks("rank", "Gt", "1", "2"), False),
        (asks("pool", "Near", "h100"), False),
    ],
)
def test_an_expression_of_node_affinity(asked: dict[str, Any], chosen: bool) -> None:
    assert (obstacle(NODE, required({"matchExpressions": [asked]})) is None) is chosen


@pytest.mark.parametrize(
    ("terms", "chosen"),
    [
        ([{"matchExpressions": [asks("pool", "Exists"), asks("none", "Exists")]}], False),
        ([{"matchExpressions": [asks("none", "Exists")]}, {"matchExpressions": [asks("pool", "Exists")]}], True),
        ([{}], False),
        ([{}, {"matchExpressions": [asks("pool", "Exists")]}], True),
        ([{"matchFields": [asks("metadata.name", "In", "n1")]}], True),
        ([{"matchFields": [asks("metadata.name", "In", "n2")]}], False),
        ([{"matchFields": [asks("metadata.name", "NotIn", "n1")]}], False),
        ([{"matchFields": [asks("metadata.name", "In", "n1")], "matchExpressions": [asks("none", "Exists")]}], False),
    ],
)
def test_terms_are_alternatives_and_all_of_one_has_to_hold(terms: list[dict[str, Any]], chosen: bool) -> None:
    assert (obstacle(NODE, required(*terms)) is None) is chosen


def test_a_node_selector_and_an_affinity_have_to_hold_both() -> None:
    here = {"matchExpressions": [asks("zone", "In", "a")]}
    assert obstacle(NODE, required(here, nodeSelector={"pool": "h100"})) is None
    assert obstacle(NODE, required(here, nodeSelector={"pool": "a100"})) == Seen(
        Sign.NODE_NOT_CHOSEN, "the worker template's nodeSelector pool=a100 does not choose it: it has pool=h100"
    )
    assert obstacle(NODE, read_placing({"nodeSelector": {"disk": "ssd"}})) == Seen(
        Sign.NODE_NOT_CHOSEN, "the worker template's nodeSelector disk=ssd does not choose it: it has no label disk"
    )
    assert obstacle(NODE, required({"matchExpressions": [asks("zone", "In", "b", "c")]})) == Seen(
        Sign.NODE_NOT_CHOSEN,
        "the worker template's required node affinity does not choose it (zone In b, c): it has zone=a",
    )


@given(
    labels=st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy")),
    selector=st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy")),
)
def test_a_node_selector_is_an_affinity_that_names_each_label(labels: dict[str, str], selector: dict[str, str]) -> None:
    node = KubeNode("n", labels=labels)
    as_affinity = [asks(key, "In", value) for key, value in selector.items()]
    same = required({"matchExpressions": as_affinity}) if selector else Placing()
    chosen = obstacle(node, read_placing({"nodeSelector": selector})) is None
    assert chosen is (obstacle(node, same) is None) is (selector.items() <= labels.items())


# As NVSentinel documents them.
STATES = [
    "quarantined",
    "draining",
    "drain-succeeded",
    "drain-failed",
    "remediating",
    "remediation-succeeded",
    "remediation-failed",
]
WATCHES = [
    "GpuMemWatch",
    "GpuNvlinkWatch",
    "GpuPcieWatch",
    "GpuThermalWatch",
    "NVSwitchDown",
    "NVSwitchFatalError",
    "SysLogsSXIDError",
    "SysLogsXIDError",
]
WATCHED = {NVSENTINEL_STATE_LABEL: "quarantined"}
CLOSED = [
    (KubeNode("n", unschedulable=True), Placing(), Sign.NODE_CORDONED),
    (KubeNode("n", taints=(("a", "b", "NoSchedule"),)), Placing(), Sign.NODE_TAINT_NO_SCHEDULE),
    (KubeNode("n"), Placing(selector=(("a", "b"),)), Sign.NODE_NOT_CHOSEN),
    (KubeNode("n", taints=(("a", "b", "NoExecute"),)), Placing(), Sign.NODE_TAINT_NO_EXECUTE),
    (KubeNode("n", taints=(("a", "b", "NoExecute"),), unschedulable=True), Placing(), Sign.NODE_TAINT_NO_EXECUTE),
    (
        KubeNode("n", taints=(("a", "b", "NoSchedule"), ("c", "", "NoExecute"))),
        Placing(),
        Sign.NODE_TAINT_NO_EXECUTE,
    ),
    (KubeNode("n", ready=False, unschedulable=True), Placing(), Sign.NODE_NOT_READY),
    (KubeNode("n", device_plugin="nvidia.com/gpu", unschedulable=True), Placing(), Sign.DEVICE_PLUGIN),
    (KubeNode("n", labels=WATCHED, taints=(("a", "b", "NoExecute"),)), Placing(), Sign.NODE_TAINT_NO_EXECUTE),
    (KubeNode("n", labels=WATCHED, unschedulable=True), Placing(), Sign.NVSENTINEL_STATE),
    *((KubeNode("n", labels={NVSENTINEL_STATE_LABEL: state}), Placing(), Sign.NVSENTINEL_STATE) for state in STATES),
    *((KubeNode("n", conditions=(name,)), Placing(), Sign.NVSENTINEL_CONDITION) for name in WATCHES),
    (KubeNode("n", conditions=("CSPMaintenance",)), Placing(), Sign.MAINTENANCE),
]


@pytest.mark.parametrize(("node", "placing", "sign"), CLOSED)
def test_what_closes_a_node_is_a_sign(node: KubeNode, placing: Placing, sign: Sign) -> None:
    found = obstacle(node, placing)
    assert found is not None
    assert found.sign is sign


def test_what_nvsentinel_says_of_a_node_that_is_well_closes_nothing() -> None:
    conditions = [{"type": name, "status": "False"} for name in WATCHES] + [{"type": "Ready", "status": "True"}]
    labels = {NVSENTINEL_STATE_LABEL: "something new"}
    well = read_node({"metadata": {"name": "n", "labels": labels}, "status": {"conditions": conditions}})
    assert obstacle(well, Placing()) is None
    ill = [*conditions, {"type": "GpuMemWatch", "status": "True"}, {"type": "MemoryPressure", "status": "True"}]
    assert read_node({"metadata": {"name": "n"}, "status": {"conditions": ill}}).conditions == ("GpuMemWatch",)


def test_what_is_tolerated_or_only_preferred_is_no_obstacle() -> None:
    taints = (("a", "b", "NoExecute"), ("c", "d", "NoSchedule"), ("e", "f", "PreferNoSchedule"))
    assert obstacle(KubeNode("n", taints=taints), Placing((Toleration(exists=True),))) is None
