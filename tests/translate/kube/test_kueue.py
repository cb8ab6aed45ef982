"""A gang as Kueue's Workload, and what Kueue says of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ray_dra.core.gangs.quota import Answer, Quota, Said
from ray_dra.core.model.parts import PartCriteria
from ray_dra.errors import InvalidRequest
from ray_dra.ports.kube_objects import ResourceFlavor
from ray_dra.translate.kube.kueue import answer_of, read_flavor, read_workload, request_name, workload
from ray_dra.translate.kube.raycluster import read_raycluster
from ray_dra.translate.ray.devices import gpu, mig
from tests.translate.kube.objects import CLUSTER, cluster, gang

QUOTA = Quota("kueue/team-a")
FLAVORS = {"racks": ResourceFlavor("racks", {"pool": "a"}), "cpus": ResourceFlavor("cpus", {"zone": "z"})}


def made_of(bundles: list[dict[str, float]], **more: Any) -> dict[str, Any]:
    return workload(gang(bundles, **more), QUOTA, CLUSTER)


def test_a_gangs_workload_says_what_its_workers_will_ask_for() -> None:
    found = made_of([{"GPU": 4, "CPU": 8, "memory": 2.0**33}] * 3 + [{"CPU": 2}], priority=7)
    name = request_name("g", 0)
    assert found["metadata"] == {
        "name": name,
        "namespace": "team",
        "labels": {"ray-dra.io/gang": "g", "ray-dra.io/attempt": name, "ray-dra.io/raycluster": "c"},
        "ownerReferences": [
            {"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": "c", "uid": "u-1", "blockOwnerDeletion": False}
        ],
    }
    spec = found["spec"]
    assert {field: spec[field] for field in ("active", "queueName", "priority")} == {
        "active": True,
        "queueName": "team-a",
        "priority": 7,
    }
    first, second = spec["podSets"]
    assert (first["name"], first["count"], second["name"], second["count"]) == ("bundles-0", 3, "bundles-1", 1)
    pod = first["template"]["spec"]
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    (container,) = pod["containers"]
    memory = str(2**33 + (1 << 30))
    assert container == {
        "name": "ray-worker",
        "image": "mine:1",
        "resources": {
            "requests": {"cpu": "8250m", "memory": memory, "nvidia.com/gpu": "4"},
            "limits": {"cpu": "8250m", "memory": memory},
        },
    }
    (other,) = second["template"]["spec"]["containers"]
    assert other["resources"] == {"requests": {"cpu": "2250m"}, "limits": {"cpu": "2250m", "memory": "2Gi"}}


def test_devices_of_another_class_are_counted_under_its_name_and_labels_choose_the_flavour() -> None:
    asked = gpu(device_class="mig.nvidia.com")
    request = gang([{"GPU": 2}], devices=asked)
    labelled = tuple(replace(b, labels={"pool": "a", "zone": "in(x,y)", "rack": "!r"}) for b in request.bundles)
    pod = workload(replace(request, bundles=labelled), QUOTA, CLUSTER)["spec"]["podSets"][0]["template"]["spec"]
    assert pod["containers"][0]["resources"]["requests"] == {"mig.nvidia.com": "2"}
    assert pod["nodeSelector"] == {"pool": "a"}


@pytest.mark.parametrize(
    ("part", "counted"),
    [
        (mig("1g.12gb"), "nvidia.com/mig-1g.12gb"),
        (mig("1g.12gb+me"), "nvidia.com/mig-1g.12gb.me"),
        (mig(memory="20Gi"), "mig.nvidia.com"),
    ],
)
def test_parts_are_counted_by_their_profile(part: PartCriteria, counted: str) -> None:
    pod = workload(gang([{"GPU": 1}] * 2, part=part), QUOTA, CLUSTER)["spec"]["podSets"][0]["template"]["spec"]
    assert pod["containers"][0]["resources"]["requests"] == {counted: "1"}


def test_containers_beside_rays_are_counted_and_nothing_else_of_them_is_told() -> None:
    raycluster = cluster()
    spec = raycluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    spec["containers"].append({"name": "log", "image": "l", "env": [], "resources": {"requests": {"cpu": "1"}}})
    spec["initContainers"] = [{"name": "side", "image": "s", "restartPolicy": "Always", "command": ["x"]}]
    pod = workload(gang([{"GPU": 1}]), QUOTA, read_raycluster(raycluster))["spec"]["podSets"][0]["template"]["spec"]
    assert pod["containers"][1] == {"name": "log", "image": "l", "resources": {"requests": {"cpu": "1"}}}
    assert pod["initContainers"] == [{"name": "side", "image": "s", "resources": {}, "restartPolicy": "Always"}]


def test_of_a_queued_raycluster_it_is_owned_where_kueue_does_not_look() -> None:
    raycluster = cluster()
    raycluster["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "heads"}
    (owner,) = workload(gang([{"GPU": 1}]), QUOTA, read_raycluster(raycluster))["metadata"]["ownerReferences"]
    assert owner["apiVersion"] == "ray.io/v1alpha1"


def test_more_kinds_of_bundles_than_a_workload_can_say_are_refused() -> None:
    made_of([{"GPU": 1, "CPU": float(n)} for n in range(1, 19)])
    with pytest.raises(InvalidRequest, match="19 kinds of bundles"):
        made_of([{"GPU": 1, "CPU": float(n)} for n in range(1, 20)])


# -- what Kueue says


def said(*conditions: tuple[str, str, str, str], **more: Any) -> dict[str, Any]:
    """A Workload with (type, status, reason, message)."""
    told = [{"type": t, "status": s, "reason": r, "message": m} for t, s, r, m in conditions]
    return {
        "metadata": {"name": "w", "namespace": "team", **more.pop("metadata", {})},
        "spec": {"active": more.pop("active", True), "queueName": "team-a"},
        "status": {"conditions": told, **more},
    }


def assigned(*flavors: str) -> dict[str, Any]:
    sets = [{"name": "bundles-0", "flavors": {f"r{at}": flavor for at, flavor in enumerate(flavors)}}]
    return {"admission": {"clusterQueue": "q", "podSetAssignments": sets}}


RESERVED = ("QuotaReserved", "True", "QuotaReserved", "Quota reserved in ClusterQueue q")
ADMITTED = ("Admitted", "True", "Admitted", "The workload is admitted")
EVICTED = ("Evicted", "True", "Preempted", "Preempted to accommodate a workload (UID: u)")
CHECKS = ("Admitted", "False", "NoChecks", "The workload has not all checks ready")
PENDING = (
    "QuotaReserved",
    "False",
    "Pending",
    "couldn't assign flavors to pod set bundles-0: insufficient unused quota for nvidia.com/gpu in flavor racks, "
    "4 more needed",
)


@pytest.mark.parametrize(
    ("thing", "answer"),
    [
        (said(), Answer(Said.WAITS, "Kueue has said nothing of it yet, for the LocalQueue team-a")),
        (said(PENDING), Answer(Said.WAITS, PENDING[3])),
        (said(RESERVED, CHECKS), Answer(Said.WAITS, CHECKS[3])),
        (said(PENDING, ("Admitted", "False", "NoReservation", "no reservation")), Answer(Said.WAITS, PENDING[3])),
        (said(RESERVED, ADMITTED, **assigned("racks")), Answer(Said.ADMITTED, "", ((("pool", "a"),),))),
        (
            said(RESERVED, ADMITTED, **assigned("racks", "cpus", "racks")),
            Answer(Said.ADMITTED, "", ((("pool", "a"), ("zone", "z")),)),
        ),
        (
            said(RESERVED, ADMITTED, **assigned("gone")),
            Answer(Said.WAITS, "admitted with the ResourceFlavor gone, which is not there"),
        ),
        (said(RESERVED, ADMITTED, EVICTED, **assigned("racks")), Answer(Said.EVICTED, f"Preempted: {EVICTED[3]}")),
        (
            said(RESERVED, ADMITTED, ("Evicted", "True", "Deactivated", "off"), **assigned("racks")),
            Answer(Said.REFUSED, "Deactivated: off"),
        ),
        (
            said(RESERVED, ADMITTED, active=False, **assigned("racks")),
            Answer(Said.REFUSED, f"Deactivated: {ADMITTED[3]}"),
        ),
        (
            said(RESERVED, ADMITTED, ("Evicted", "True", "PodsReadyTimeout", "late"), **assigned("racks")),
            Answer(
                Said.REFUSED,
                "PodsReadyTimeout: late; the gang's own pods are not known to Kueue: turn waitForPodsReady off for"
                " this queue",
            ),
        ),
        (
            said(RESERVED, ADMITTED, ("Finished", "True", "ByHand", "done"), **assigned("racks")),
            Answer(Said.EVICTED, "ByHand: done"),
        ),
        (
            said(RESERVED, ADMITTED, ("Evicted", "False", "", ""), **assigned("racks")),
            Answer(Said.ADMITTED, "", ((("pool", "a"),),)),
        ),
        (
            said(RESERVED, ADMITTED, metadata={"deletionTimestamp": "now"}, **assigned("racks")),
            Answer(Said.WAITS, "the request is being deleted"),
        ),
    ],
)
def test_evicted_is_read_before_admitted_and_the_words_are_kueues(thing: dict[str, Any], answer: Answer) -> None:
    assert answer_of(read_workload(thing), QUOTA, gang([{"GPU": 1}]), FLAVORS) == answer


def test_what_was_granted_stays_though_a_flavour_is_gone() -> None:
    granted = replace(QUOTA, granted=((("pool", "old"),),))
    found = read_workload(said(RESERVED, ADMITTED, **assigned("gone")))
    assert answer_of(found, granted, gang([{"GPU": 1}]), {}) == Answer(Said.ADMITTED, granted=granted.granted or ())


def test_a_flavours_labels_are_its_nodes() -> None:
    thing = {"metadata": {"name": "racks"}, "spec": {"nodeLabels": {"pool": "a"}, "nodeTaints": []}}
    assert read_flavor(thing) == FLAVORS["racks"]
    assert read_flavor({"metadata": {"name": "any"}}) == ResourceFlavor("any")
