"""Other schedulers and queues on a RayCluster and on its nodes: recognised, served or refused with the cure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import Claim, PublishedDevice, ResourceSlice
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.raycluster import read_raycluster, worker_template
from ray_dra.translate.kube.schedulers import contested_nodes, given_twice, meanings
from tests.translate.kube.objects import RACKS, allocate, cluster, gang


def templated(**spec: Any) -> dict[str, Any]:
    made = cluster()
    made["spec"]["workerGroupSpecs"][0]["template"]["spec"] |= spec
    return made


@pytest.mark.parametrize(
    ("spec", "cure"),
    [
        ({"schedulerName": "kai-scheduler"}, "leave schedulerName out of it"),
        ({"schedulingGroup": {"podGroupName": "all"}}, "leave schedulingGroup out of it"),
    ],
)
def test_a_group_whose_copies_would_be_counted_with_others_is_refused_with_the_cure(
    spec: dict[str, Any], cure: str
) -> None:
    with pytest.raises(InvalidRequest, match=cure) as refused:
        worker_template(read_raycluster(templated(**spec)))
    assert refused.value.place == "RayCluster team/c, group ray-dra"
    assert refused.value.available


@pytest.mark.parametrize("name", ["volcano", "yunikorn", "default-scheduler", "mine"])
def test_any_other_scheduler_places_gangs_pods_as_the_group_says(name: str) -> None:
    assert worker_template(read_raycluster(templated(schedulerName=name)))["template"]["spec"]["schedulerName"] == name


@pytest.mark.parametrize(
    "label",
    [
        "kueue.x-k8s.io/queue-name",
        "ray.io/gang-scheduling-enabled",
        "ray.io/scheduler-name",
        "volcano.sh/queue-name",
        "yunikorn.apache.org/app-id",
        "kai.scheduler/queue",
    ],
)
def test_a_label_by_which_others_queue_or_place_the_raycluster_is_served_and_told(label: str) -> None:
    """They count the spec, which gangs never change."""
    made = cluster()
    made["metadata"]["labels"] = {label: "x", "app": "mine"}
    worker_template(read_raycluster(made))
    ((name, said),) = meanings(made["metadata"]["labels"])
    assert name == label
    assert "gangs are in none" in said


def claim(name: str, *devices: tuple[str, str], **more: Any) -> Claim:
    return Claim(name, "ns", uid=name, allocated=True, devices=devices, **more)


def published(node: str, *, several: bool) -> ResourceSlice:
    return ResourceSlice("s", "1", "gpu.nvidia.com", node, 1, 1, (PublishedDevice("a", several=several),))


def test_a_device_of_two_claims_is_seen_and_one_for_several_is_not() -> None:
    twice = [claim("x", ("n", "a"), ("n", "b")), claim("y", ("n", "a")), claim("z", ("m", "a"), ("n", "c"))]
    (found,) = given_twice(twice, [published("n", several=False)])
    assert str(found) == "a on n: given to the claims ns/x and ns/y"
    assert not given_twice(twice, [published("n", several=True)])
    assert not given_twice([claim("x", ("n", "a"), ("n", "a"))], []), "its own"


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=3), max_size=6))
def test_what_is_given_twice_is_what_two_claims_have(held: list[list[str]]) -> None:
    claims = [claim(f"c{at}", *(("n", device) for device in devices)) for at, devices in enumerate(held)]
    found = {each.device: {name for _, name in each.claims} for each in given_twice(claims, [])}
    holders = {d: {f"c{at}" for at, devices in enumerate(held) if d in devices} for d in "abcd"}
    assert found == {device: names for device, names in holders.items() if len(names) > 1}


def pod(scheduler: str | None, node: str = "n", **more: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"nodeName": node, "resourceClaims": [{"name": "gpus"}], **more.pop("spec", {})}
    spec |= {} if scheduler is None else {"schedulerName": scheduler}
    return {"metadata": more.pop("metadata", {}), "spec": spec, **more}


@pytest.mark.parametrize(
    ("pods", "mixed"),
    [
        ([pod(None), pod("kai-scheduler")], {"n": ("default-scheduler", "kai-scheduler")}),
        ([pod(None), pod("default-scheduler")], {}),
        ([pod(None), pod("kai-scheduler", "m")], {}),
        ([pod(None, "other"), pod("kai-scheduler", "other")], {}),
        ([pod(None), pod("kai-scheduler", spec={"resourceClaims": []})], {}),
        ([pod(None), pod("kai-scheduler", status={"phase": "Succeeded"})], {}),
        ([pod("kai-scheduler"), pod(None, metadata={"ownerReferences": [{"kind": "DaemonSet"}]})], {}),
    ],
)
def test_nodes_on_which_two_schedulers_place_pods_with_claims(
    pods: list[dict[str, Any]], mixed: dict[str, tuple[str, ...]]
) -> None:
    assert contested_nodes(pods, {"n", "m"}) == mixed


def test_what_the_group_says_for_its_scheduler_reaches_gangs_pods() -> None:
    made = templated(schedulerName="volcano")
    told = {"annotations": {"scheduling.volcano.sh/queue-name": "q"}, "labels": {"queue": "root.q"}}
    made["spec"]["workerGroupSpecs"][0]["template"]["metadata"] = told
    attempt = attempt_of(allocate(RACKS, gang([{"GPU": 4}])), read_raycluster(made), compute_domains=False)
    (pod,) = (attempt.pod(slot) for slot in attempt.slots.values())
    assert pod["spec"]["schedulerName"] == "volcano"
    assert pod["metadata"]["annotations"].items() >= told["annotations"].items()
    assert pod["metadata"]["labels"].items() >= told["labels"].items()
