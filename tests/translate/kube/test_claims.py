"""What a gang's claim names is read back as it was written, and nothing is read of any other claim."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.model.device_selector import DeviceCriteria
from ray_dra.simulated.dra.domains import channel_template
from ray_dra.translate.kube.claims import claim_of, demands_on, expression_for, read_claim
from ray_dra.translate.kube.shapes import read_domain
from ray_dra.translate.names import ATTEMPT_LABEL, CLUSTER_LABEL, DOMAIN_DRIVER
from ray_dra.translate.vendors import NVIDIA

POD = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True}


def claim(expression: str, count: Any = 2, **more: Any) -> dict[str, Any]:
    exactly = {"count": count, "selectors": [{"cel": {"expression": expression}}]}
    meta = {
        "name": "c",
        "namespace": "n",
        "uid": "u-1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {ATTEMPT_LABEL: "rd-0-0", CLUSTER_LABEL: "gangs"},
        "ownerReferences": [POD],
    }
    spec = {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}}
    return {"metadata": {**meta, **more}, "spec": spec, "status": {}}


@given(st.lists(st.text(max_size=20), max_size=5))
def test_the_devices_are_read_as_they_were_written(uuids: list[str]) -> None:
    found = read_claim(claim(expression_for(uuids)))
    assert (found.named, found.count) == (tuple(uuids), 2)
    assert claim_of(found) == ("n", "gangs", "rd-0-0")
    assert (found.age, found.allocated, found.devices) == (("2026-01-01T00:00:00Z", "u-1"), False, ())


def test_a_products_name_is_text_whatever_it_is() -> None:
    """And no pair of surrogates, which CEL does not join."""
    names = ('"] || true || device.driver in ["', "\\", "\n\r\x00", "\U0001f600", "a in b.uuid in [1]")
    (expression,) = demands_on(DeviceCriteria(products=names))
    head, _, listed = expression.partition(" in ")
    assert head == 'device.attributes["gpu.nvidia.com"].productName'
    assert tuple(json.loads(listed)) == names
    assert not re.search(r"\\ud[89a-f]|[\n\r\x00]", listed)


@pytest.mark.parametrize(
    "expression", ["", "true", 'device.attributes["x"].uuid in [', 'device.attributes["x"].uuid in "a"', "a in [1] in"]
)
def test_an_expression_of_another_form_names_nothing(expression: str) -> None:
    assert read_claim(claim(expression)).named == ()


def test_a_claim_that_says_nonsense_has_what_it_has() -> None:
    """CEL has comments, so that the API server takes it. A claim that could not be read would hide its devices."""
    results = [{"driver": NVIDIA.driver, "pool": "n1", "device": "gpu-0"}]
    said = claim("true //.uuid in " + "[" * 10_000)
    found = read_claim({**said, "status": {"allocation": {"devices": {"results": results}}}})
    assert (found.named, found.devices) == ((), (("n1", "gpu-0"),))


def test_a_claim_tells_the_compute_domain_that_its_pod_joins() -> None:
    domain = {
        "metadata": {"name": "d", "namespace": "n", "uid": "d-uid"},
        "spec": {"channel": {"resourceClaimTemplate": {"name": "t"}}},
    }
    spec = channel_template(domain)["spec"]["spec"]
    meta = {"name": "c", "namespace": "n", "uid": "c-uid"}
    assert read_claim({"metadata": meta, "spec": spec}).domain == read_domain(domain).uid == "d-uid"
    channel = {"driver": DOMAIN_DRIVER, "pool": "n1", "device": "channel-0"}
    found = read_claim({"metadata": meta, "spec": spec, "status": {"allocation": {"devices": {"results": [channel]}}}})
    assert (found.domain_nodes, found.devices, found.domain_pod) == (("n1",), (), "")
    pod = {"apiVersion": "v1", "kind": "Pod", "controller": True, "name": "llama-0", "uid": "p"}
    for device, name in (("channel-0", "llama-0"), ("daemon-0", "")):
        status = {"allocation": {"devices": {"results": [{**channel, "device": device}]}}}
        owned = read_claim({"metadata": {**meta, "ownerReferences": [pod]}, "spec": spec, "status": status})
        assert (owned.pod, owned.domain_pod) == ("p", name)
    for parameters in ({}, {"domainID": 7}, None):
        config = [{"opaque": {"driver": DOMAIN_DRIVER, "parameters": parameters}}, {"requests": ["x"]}]
        assert read_claim({"metadata": meta, "spec": {"devices": {"config": config}}}).domain == ""


def test_a_claim_of_another_form_names_nothing() -> None:
    good = claim(expression_for(["GPU-0"]))
    exactly = good["spec"]["devices"]["requests"][0]["exactly"]
    selector = exactly["selectors"][0]
    for requests in (
        [],
        [{"name": "gpus"}],
        [{"name": "gpus", "exactly": {**exactly, "selectors": []}}],
        [{"name": "gpus", "exactly": {**exactly, "selectors": [selector, selector]}}],
        [{"name": "gpus", "exactly": {**exactly, "count": "2"}}],
        [{"name": "gpus", "exactly": exactly}] * 2,
    ):
        found = read_claim({**good, "spec": {"devices": {"requests": requests}}})
        assert (found.named, found.count) == ((), 0)
    del exactly["count"]
    assert (read_claim(good).named, read_claim(good).count) == (("GPU-0",), 1)


@pytest.mark.parametrize(
    "more",
    [
        {"labels": {}},
        {"labels": {ATTEMPT_LABEL: "rd-0-0"}},
        {"ownerReferences": []},
        {"ownerReferences": [{**POD, "kind": "Job"}]},
        {"ownerReferences": [{**POD, "controller": False}]},
    ],
)
def test_a_claim_that_no_pod_of_a_gang_owns_is_no_gangs(more: dict[str, Any]) -> None:
    """Labels can be made up; an owner that is not there gets a claim deleted."""
    assert claim_of(read_claim(claim(expression_for(["GPU-0"]), **more))) is None


def test_what_a_claim_has_is_of_our_driver_and_takes_something() -> None:
    results = [
        {"driver": NVIDIA.driver, "pool": "n1", "device": "gpu-0"},
        {"driver": NVIDIA.driver, "pool": "n1", "device": "gpu-1", "adminAccess": True},
        {"driver": "another.driver", "pool": "n1", "device": "nic-0"},
        {"driver": NVIDIA.driver, "pool": "n2", "device": "gpu-0-mig-1g10gb-19-0"},
    ]
    raw = claim(expression_for(["GPU-0"])) | {"status": {"allocation": {"devices": {"results": results}}}}
    found = read_claim(raw)
    assert found.allocated
    assert found.devices == (("n1", "gpu-0"), ("n2", "gpu-0-mig-1g10gb-19-0"))
