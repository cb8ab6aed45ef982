"""What the simulated driver publishes of parts and shares, against golden files and NVIDIA's rules."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_dra.simulated.dra.devices import Pool, gpu_pool, slices
from ray_dra.simulated.mig import MigState
from ray_dra.simulated.profile import SimulatedNode, load_profile, profile_names, simulated_nodes
from ray_dra.translate.quantity import quantity

GOLDEN = Path(__file__).parent / "golden"
MACHINES = [name for name in profile_names() if not load_profile(name).cluster]
WITH_MIG = [name for name in MACHINES if load_profile(name).mig]
DYNAMIC = frozenset({"DynamicMIG"})


def two_gpus(profile: str) -> SimulatedNode:
    """A machine of two GPUs: the second shows what goes by a GPU's number."""
    node = simulated_nodes(profile)[0]
    few = node.profile.model_copy(update={"gpus": 2, "numa": node.profile.numa[:2], "pcie_switches": [[0, 1]]})
    return node.model_copy(update={"profile": few})


def mode_on(*gpus: int) -> MigState:
    return MigState(frozenset(gpus), frozenset(gpus))


def parted(node: SimulatedNode, gpu: int) -> MigState:
    """Two parts of different profiles, with UUIDs that stay for the golden files."""
    state = mode_on(gpu)
    for at, (kind, start) in enumerate([(node.profile.mig[0], 0), (node.profile.mig[4], 4)]):
        uuid = f"MIG-00000000-0000-4000-8000-{gpu:06}{at:06}"
        state, _ = state.with_part(node.profile, gpu, kind, start, uuid)
    return state


@pytest.mark.parametrize("profile", ["hgx-h100", "dgx-a100", "hgx-b200", "gb200-nvl72"])
@pytest.mark.parametrize("kind", ["static-mig", "dynamic-mig"])
def test_published_parts_are_as_reviewed(profile: str, kind: str) -> None:
    """Static: GPU 0 in two parts, GPU 1 whole. Dynamic: all that could be made; of the A100 with MIG mode on on GPU 0
    alone, since it cannot be turned on without a reset. A line a device."""
    node = two_gpus(profile)
    gates = DYNAMIC if kind == "dynamic-mig" else frozenset[str]()
    on_already = profile == "dgx-a100" or kind == "static-mig"
    made = slices(gpu_pool(node, {}, gates, parted(node, 0) if on_already else MigState()), node.name, 1)
    golden = GOLDEN / f"{kind}-{profile}.yaml"
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text("".join(map(_lines, made)))
    assert made == list(yaml.safe_load_all(golden.read_text()))


@pytest.mark.parametrize(
    ("file", "gates", "shares"),
    [
        ("shares-memory", {"ConsumableShares"}, "memory"),
        ("shares-unlimited", {"ConsumableShares"}, "unlimited"),
        ("shares-4", {"ConsumableShares"}, "4"),
        ("fabric-partitions", {"FabricManagerPartitioning", "DRAListTypeAttributes"}, ""),
    ],
)
def test_published_shares_and_partitions_are_as_reviewed(file: str, gates: set[str], shares: str) -> None:
    """Two GPUs, of which the first has two static parts; of the box that its Fabric Manager parts, all eight."""
    node = simulated_nodes("hgx-h100")[0] if file == "fabric-partitions" else two_gpus("hgx-h100")
    mig = MigState() if file == "fabric-partitions" else parted(node, 0)
    made = slices(gpu_pool(node, {}, frozenset(gates), mig, consumable_shares=shares), node.name, 1)
    golden = GOLDEN / f"{file}.yaml"
    if "RAY_DRA_WRITE_GOLDEN" in os.environ:
        golden.write_text("".join(map(_lines, made)))
    assert made == list(yaml.safe_load_all(golden.read_text()))


def _lines(made: dict[str, Any]) -> str:
    text = json.dumps(made)
    for one in (*made["spec"].get("devices", ()), *made["spec"].get("sharedCounters", ())):
        text = text.replace(json.dumps(one), f"\n  {json.dumps(one)}")
    return f"---\n{text}\n"


def test_every_gpu_with_mig_has_its_table() -> None:
    assert set(WITH_MIG) == set(MACHINES) - {"dgx-v100", "l40s-pcie"}
    for profile in map(load_profile, WITH_MIG):
        assert [mig.id for mig in profile.mig] == [19, 20, 15, 14, 9, 5, 0]
        assert [mig.index for mig in profile.mig] == [0, 7, 9, 1, 2, 3, 4]


def test_names_of_parts_are_those_of_nvidias_library() -> None:
    """Which makes them from memory alone: the part's eighths of the GPU's gigabytes."""
    for profile in map(load_profile, WITH_MIG):
        for mig in profile.mig:
            eighths = -(-mig.memory_mib * 8 // (profile.memory_gib << 10))
            gigabytes = int(eighths * profile.memory_gib / 8 + 0.5)
            assert mig.profile == f"{mig.slices}g.{gigabytes}gb" + ("+me" if mig.media else ""), profile.name


@pytest.mark.parametrize("profile", WITH_MIG)
def test_every_partition_fits_its_gpu_and_the_full_set_of_one_profile_fits_together(profile: str) -> None:
    node = simulated_nodes(profile)[0]
    mode = mode_on(*range(node.profile.gpus)) if node.profile.resets_for_mig else MigState()
    pool = gpu_pool(node, {}, DYNAMIC, mode)
    counters = {c["name"]: {k: v["value"] for k, v in c["counters"].items()} for c in pool.counters or ()}
    for device in pool.devices:
        (use,) = device.body["consumesCounters"]
        available = counters[use["counterSet"]]
        for name, value in use["counters"].items():
            assert quantity(value["value"]) <= quantity(available[name]), (device.name, name)
    for mig in node.profile.mig:
        together: Counter[str] = Counter()
        mine = [d for d in pool.devices if d.gpu == 0 and d.mig is not None and d.mig[0] == mig]
        for device in mine[: mig.most]:
            for name, value in device.body["consumesCounters"][0]["counters"].items():
                together[name] += int(quantity(value["value"]))
        assert all(total <= quantity(counters["gpu-0-counter-set"][name]) for name, total in together.items()), mig


def test_dynamic_parts_come_in_a_slice_a_gpu_after_the_counters() -> None:
    node = simulated_nodes("hgx-h100")[0]
    made = slices(gpu_pool(node, {}, DYNAMIC), node.name, 1)
    assert len(made) == 9
    assert len(made[0]["spec"]["sharedCounters"]) == 8
    for gpu, each in enumerate(made[1:]):
        names = [device["name"] for device in each["spec"]["devices"]]
        assert names == sorted(names)
        assert names[0] == f"gpu-{gpu}"
        assert len(names) == 26


def test_ampere_has_whole_gpus_or_parts_and_never_both() -> None:
    node = two_gpus("dgx-a100")
    pool = gpu_pool(node, {}, DYNAMIC, mode_on(1))
    assert [device.name for device in pool.groups[0]] == ["gpu-0"]
    assert {device.kind for device in pool.groups[1]} == {"mig"}
    assert "consumesCounters" not in pool.groups[0][0].body
    assert [each["name"] for each in pool.counters or ()] == ["gpu-1-counter-set"]
    off = slices(gpu_pool(node, {}, DYNAMIC), node.name, 1)
    assert "sharedCounters" not in off[0]["spec"]
    assert "devices" not in off[0]["spec"]  # an empty slice comes first
    assert [d["name"] for s in off[1:] for d in s["spec"]["devices"]] == ["gpu-0", "gpu-1"]


def test_mig_mode_without_parts_hides_the_gpu() -> None:
    assert names(gpu_pool(two_gpus("hgx-h100"), {}, mig=mode_on(0))) == ["gpu-1"]


def test_a_machine_without_mig_has_no_slice_for_counters() -> None:
    node = simulated_nodes("l40s-pcie")[0]
    assert [len(each["spec"]["devices"]) for each in slices(gpu_pool(node, {}, DYNAMIC), node.name, 1)] == [1] * 8


@pytest.mark.parametrize(
    ("shares", "memory", "counted"),
    [("memory", ("80Gi", "1Mi"), False), ("unlimited", ("0", "0"), False), ("4", ("0", "0"), True)],
)
def test_consumable_shares_open_gpus_and_parts(shares: str, memory: tuple[str, str], counted: bool) -> None:
    node, gate = two_gpus("hgx-h100"), frozenset({"ConsumableShares"})
    whole = gpu_pool(node, {}, gate, consumable_shares=shares).devices[0].body
    assert whole["allowMultipleAllocations"] is True
    policy = whole["capacity"]["memory"]["requestPolicy"]
    assert (policy["default"], policy["validRange"]) == (memory[0], {"min": memory[1], "max": "80Gi", "step": "1Mi"})
    assert ("shares" in whole["capacity"]) is counted
    parts = gpu_pool(node, {}, gate | DYNAMIC, consumable_shares=shares)
    assert all(device.body["allowMultipleAllocations"] for device in parts.devices)
    # Counters are of the device, however many have it.
    assert all("requestPolicy" not in str(device.body["consumesCounters"]) for device in parts.devices)
    assert all(("shares" in each["counters"]) is counted for each in parts.counters or ())  # NVIDIA's driver adds it
    assert not any("shares" in str(device.body["consumesCounters"]) for device in parts.devices)
    assert "allowMultipleAllocations" not in gpu_pool(node, {}, gate).devices[0].body
    passed = gpu_pool(node, {}, gate | {"PassthroughSupport"}, consumable_shares=shares)
    assert {d.kind: "allowMultipleAllocations" in d.body for d in passed.devices} == {"gpu": True, "vfio": False}


def test_an_event_of_a_gpu_is_not_one_of_its_parts() -> None:
    node = two_gpus("hgx-h100")
    mig = parted(node, 0)
    part = mig.of(0)[1]
    faults = {"xids": [[1, 0, 79], [2, 0, 48, part.gpu_instance, part.compute_instance], [3, 1, 79], [4, 1, 31]]}
    pool = gpu_pool(node, faults, frozenset({"NVMLDeviceHealthCheck"}), mig)
    assert {d.name: d.body.get("taints") for d in pool.devices} == {
        "gpu-0-mig-1g10gb-19-0": None,
        "gpu-0-mig-3g40gb-9-4": [{"key": "gpu.nvidia.com/xid", "value": "48", "effect": "NoSchedule"}],
        "gpu-1": [{"key": "gpu.nvidia.com/xid", "value": "31", "effect": "None"}],  # the last one stands
    }


def test_numa_nodes_may_come_in_a_list() -> None:
    device = gpu_pool(two_gpus("hgx-h100"), {}, frozenset({"DRAListTypeAttributes"})).devices[0]
    assert device.body["attributes"]["resource.kubernetes.io/numaNode"] == {"ints": [0]}


def test_a_box_that_its_fabric_manager_parts_says_the_partitions() -> None:
    gate = frozenset({"FabricManagerPartitioning"})
    found: dict[tuple[int, int], set[int]] = {}
    for device in gpu_pool(simulated_nodes("hgx-h100")[0], {}, gate).devices:
        attributes = {name: value["int"] for name, value in device.body["attributes"].items() if "int" in value}
        assert attributes["gpuModuleID"] == device.gpu + 1
        for size in (1, 2, 4, 8):
            found.setdefault((size, attributes[f"partition{size}"]), set()).add(device.gpu)
    assert all(len(gpus) == size for (size, _), gpus in found.items())
    assert len(found) == 8 + 4 + 2 + 1
    rack = simulated_nodes("gb200-nvl72")[0]
    assert gpu_pool(rack, {}, gate) == gpu_pool(rack, {})


def names(pool: Pool) -> list[str]:
    return [device.name for device in pool.devices]
