"""Nodes out of ResourceSlices, and quantities."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ray_dra.core.model.device import FabricKind, Health
from ray_dra.ports.kube_objects import KubeNode, Placing, PublishedDevice, ResourceSlice, Toleration
from ray_dra.simulated.dra.devices import gpu_pool, slices
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.files.sense import check_nodes
from ray_dra.translate.kube.slices import node_from_slices, read_node
from ray_dra.translate.quantity import quantity
from ray_dra.translate.ray.devices import gpu
from ray_dra.translate.vendors import BUS_ATTRIBUTE, NUMA_ATTRIBUTE, NVIDIA
from tests.translate.kube.objects import node, read


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ready": False}, "not ready"),
        ({"unschedulable": True}, "cordoned"),
        ({"device_plugin": "nvidia.com/gpu"}, "device plugin"),
        ({"taints": (("gpu", "", "NoSchedule"),)}, "taint gpu=:NoSchedule"),
    ],
)
def test_nodes_that_cannot_be_used_say_why(change: dict[str, Any], reason: str) -> None:
    made = node(simulated_nodes("hgx-h100")[0], **change)
    assert not made.ready
    assert reason in made.reason
    assert len(made.devices) == 8


def test_a_pool_counts_only_when_its_newest_generation_is_complete() -> None:
    simulated = simulated_nodes("hgx-h100")[0]
    old, new = (slices(gpu_pool(simulated, {}), simulated.name, generation)[0] for generation in (1, 2))
    new["metadata"]["name"] = "other"
    new["spec"]["pool"]["resourceSliceCount"] = 2
    made = node_from_slices(KubeNode(simulated.name), read([old, new]))
    assert (made.ready, made.reason) == (False, "its pool is being published (1 of 2 slices)")
    assert node_from_slices(KubeNode("n"), []).reason == "no ResourceSlice is published"


def test_health_tolerations_and_quantities() -> None:
    simulated = simulated_nodes("hgx-h100")[0]
    faults = {"xids": [[1, 3, 79]]}
    published = slices(gpu_pool(simulated, faults, frozenset({"NVMLDeviceHealthCheck"})), simulated.name, 1)
    taints = (("gpu", "a", "NoSchedule"), ("soft", "", "PreferNoSchedule"))
    made = node_from_slices(
        KubeNode(simulated.name, taints=taints),
        read(published),
        Placing((Toleration("gpu", value="a", effect="NoSchedule"),)),
    )
    assert made.ready
    assert [d.health for d in made.devices].count(Health.DRAIN) == 1
    assert made.devices[3].health_reason == "gpu.nvidia.com/xid=79"
    status = {
        "allocatable": {"cpu": "3500m", "memory": "2Gi", "nvidia.com/gpu": "8"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    seen = read_node({"metadata": {"name": "n"}, "status": status})
    assert (seen.cpus, seen.memory, seen.device_plugin, seen.ready) == (3.5, 2 << 30, "nvidia.com/gpu", True)
    bare = read_node({"metadata": {"name": "n"}})
    assert bare == KubeNode("n", ready=False), "what a node does not say it has, it has not"


def test_a_taint_without_effect_is_for_people() -> None:
    simulated = simulated_nodes("hgx-h100")[0]
    published = slices(gpu_pool(simulated, {}), simulated.name, 1)
    said = {"key": "gpu.nvidia.com/xid", "value": "31", "effect": "None"}
    by_name = {device["name"]: device for each in published for device in each["spec"]["devices"]}
    by_name["gpu-0"]["taints"] = [said]
    by_name["gpu-1"]["taints"] = [said, {**said, "value": "79", "effect": "NoSchedule"}]
    made = node_from_slices(KubeNode(simulated.name), read(published))
    assert [(d.health, d.health_reason) for d in made.devices[:2]] == [
        (Health.OK, ""),
        (Health.DRAIN, "gpu.nvidia.com/xid=79"),
    ]


def test_every_suffix_of_a_quantity_is_read_and_garbage_is_refused() -> None:
    assert [quantity(text) for text in ("2", "500m", "1Ki", "1k", "1.5Gi")] == [2, 0.5, 1024, 1000, 1.5 * (1 << 30)]
    decimal = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
    binary = {f"{suffix}i": 10 * at for at, suffix in enumerate("KMGTPE", 1)}
    for text, number in (("100", 100.0), ("1.5", 1.5), (".5", 0.5), ("3.", 3.0), ("+7", 7.0), ("0", 0.0)):
        for suffix, power in decimal.items():
            assert quantity(text + suffix) == pytest.approx(number * 10.0**power, rel=1e-12)
        for suffix, power in binary.items():
            assert quantity(text + suffix) == number * 2**power
        for exponent in ("e3", "E3", "e-3", "E+2"):
            assert quantity(text + exponent) == pytest.approx(float(text + exponent), rel=1e-12)
    wrong = ["", " 1", "1 ", "1e", "1Ee3", "1kk", "1K", "i", "m", ".", "0x1", "1_0", "nan", "inf", "-1", "-5m", "1e999"]
    others: list[Any] = ["9" * 400, "1\n", "\u0661", None, True, [], {}, math.nan, math.inf, -1, 10**400]
    for garbage in (*wrong, *others):
        with pytest.raises(ValueError, match=r"no quantity|no amount"):
            quantity(garbage)


@pytest.mark.parametrize(("profile", "clique"), [("hgx-h100", "box.h100-0"), ("l40s-pcie", None)])
def test_a_box_is_a_clique_where_its_gpus_are_all_joined(profile: str, clique: str | None) -> None:
    made = node(simulated_nodes(profile)[0])
    assert made.clique == clique
    assert bool(made.links) is (clique is not None)


@pytest.mark.parametrize(("profile", "kind"), [("gb200-nvl72", FabricKind.MULTI_NODE), ("hgx-h100", FabricKind.BOX)])
def test_a_device_is_as_it_was_published(profile: str, kind: FabricKind) -> None:
    simulated = simulated_nodes(profile, nodes=1)[0]
    made = node(simulated)
    raw = slices(gpu_pool(simulated, {}), simulated.name, 1)[0]["spec"]["devices"]
    published = {device["name"]: device for device in raw}
    for at, device in enumerate(made.devices):
        told = published[f"gpu-{at}"]["attributes"]
        assert (device.index, device.uuid) == (at, told["uuid"]["string"])
        assert device.attributes["product"] == told["productName"]["string"]
        assert device.attributes["pciBusID"] == told[BUS_ATTRIBUTE]["string"]
        assert device.attributes.get("numa") == (told.get(NUMA_ATTRIBUTE) or {}).get("int")
        assert device.capacity["memory"] == quantity(published[f"gpu-{at}"]["capacity"]["memory"]["value"])
        assert device.fabric_kind is kind
    bare = ResourceSlice("s", "1", NVIDIA.driver, "n", 1, 1, (PublishedDevice("gpu-0", {"type": "gpu"}),))
    (device,) = node_from_slices(KubeNode("n"), [bare]).devices
    assert (device.uuid, dict(device.attributes), dict(device.capacity)) == (None, {}, {})


def test_what_no_claim_could_compare_is_not_known() -> None:
    """CEL's semver of a text is an error, and the claim of a gang that was planned there got nothing."""
    simulated = simulated_nodes("hgx-h100", nodes=1)[0]
    raw = slices(gpu_pool(simulated, {}), simulated.name, 1)
    odd, plain = raw[0]["spec"]["devices"][:2]
    odd["attributes"]["cudaComputeCapability"] = {"string": "9.0"}
    odd["attributes"]["driverVersion"] = {"int": 580}
    odd["capacity"]["memory"]["value"] = "9223372036854775807"
    made = node_from_slices(KubeNode(simulated.name), read(raw))
    by_name = {device.id.device: device for device in made.devices}
    wanted = gpu(memory=">=80G", compute_capability=">=9.0", driver_version=">=1")
    assert [s.accepts(by_name[odd["name"]]) for s in wanted.selectors] == [True, False, False]
    assert wanted.accepts(by_name[plain["name"]])
    check_nodes([made])  # as large a number as a snapshot of it takes


@pytest.mark.parametrize(
    ("toleration", "tolerates"),
    [
        (Toleration(), False),
        (Toleration(exists=True), True),
        (Toleration("gpu", exists=True), True),
        (Toleration("other", exists=True), False),
        (Toleration("gpu", value="a"), True),
        (Toleration("gpu", value="b"), False),
        (Toleration("gpu"), False),
        (Toleration("gpu", value="a", effect="NoSchedule"), True),
        (Toleration("gpu", value="a", effect="NoExecute"), False),
        (Toleration(exists=True, effect="NoExecute"), False),
    ],
)
def test_taints_are_tolerated_by_kubernetes_rule(toleration: Toleration, tolerates: bool) -> None:
    simulated = simulated_nodes("hgx-h100", nodes=1)[0]
    tainted = KubeNode(simulated.name, taints=(("gpu", "a", "NoSchedule"),))
    published = read(slices(gpu_pool(simulated, {}), simulated.name, 1))
    assert node_from_slices(tainted, published, Placing((toleration,))).ready is tolerates
    assert node_from_slices(tainted, published, Placing((Toleration("x"), toleration))).ready is tolerates


def test_a_box_with_a_card_beside_its_switched_gpus_is_no_clique() -> None:
    simulated = simulated_nodes("hgx-h100", nodes=1)[0]
    raw = slices(gpu_pool(simulated, {}), simulated.name, 1)
    raw[0]["spec"]["devices"][7]["attributes"]["productName"]["string"] = "NVIDIA L40S"
    made = node_from_slices(KubeNode(simulated.name), read(raw))
    assert (made.clique, made.links) == (None, ())


@pytest.mark.parametrize(
    ("name", "labelled", "tray"), [("r0-t07", True, 7), ("r0-t07", False, None), ("r", True, None)]
)
def test_a_tray_is_the_number_at_the_end_of_a_name_in_a_rack(name: str, labelled: bool, tray: int | None) -> None:
    labels = {NVIDIA.clique_label: "9c6f5af3-53bf-49b5-a436-b66766c413c0.1"} if labelled else {}
    assert node_from_slices(KubeNode(name, labels=labels), []).order == tray


def test_a_taint_that_keeps_no_pod_off_is_no_illness() -> None:
    """As NVIDIA's driver marks XIDs that are the program's fault."""
    simulated = simulated_nodes("hgx-h100")[0]
    faults = {"xids": [[1, 3, 31], [2, 4, 79]]}
    published = slices(gpu_pool(simulated, faults, frozenset({"NVMLDeviceHealthCheck"})), simulated.name, 1)
    made = node_from_slices(KubeNode(simulated.name), read(published))
    assert [at for at, device in enumerate(made.devices) if device.health is not Health.OK] == [4]


def test_numa_nodes_are_read_from_a_list_too() -> None:
    simulated = simulated_nodes("hgx-h100")[0]
    published = slices(gpu_pool(simulated, {}, frozenset({"DRAListTypeAttributes"})), simulated.name, 1)
    assert [device.numa for device in node_from_slices(KubeNode(simulated.name), read(published)).devices] == [
        *[0] * 4,
        *[1] * 4,
    ]
    for device in published[0]["spec"]["devices"]:
        device["attributes"]["resource.kubernetes.io/numaNode"] = {"ints": [0, 1]}
    assert {device.numa for device in node_from_slices(KubeNode(simulated.name), read(published)).devices} == {None}
