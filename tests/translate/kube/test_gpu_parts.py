"""GPUs in parts out of ResourceSlices: which parts there are, what strangers have of them, and unsafe nodes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from ray_dra.coordinator.backends.kubernetes.machines import Machines
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.device import DeviceId, Health
from ray_dra.core.model.node import Node
from ray_dra.ports.kube_objects import KubeNode
from ray_dra.ports.kubernetes import KubeView
from ray_dra.simulated.dra.devices import NO_MIG, gpu_pool, slices
from ray_dra.simulated.mig import MigState
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.files.sense import check_nodes
from ray_dra.translate.files.snapshot import dump_snapshot, inventory_of, load_snapshot, snapshot_of
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.kube.slices import ANYWHERE, node_from_slices, read_slice
from ray_dra.translate.vendors import NVIDIA
from tests.translate.kube.objects import read
from tests.translate.kube.test_parts import claim

H100 = simulated_nodes("hgx-h100", nodes=1)[0]
DYNAMIC = frozenset({"DynamicMIG"})
KUBE_NODE = KubeNode(H100.name, cpus=64, memory=512 << 30)


def published(mig: MigState = NO_MIG, gates: frozenset[str] = DYNAMIC) -> list[dict[str, Any]]:
    return slices(gpu_pool(H100, {}, gates, mig), H100.name, 1)


def made(raw: list[dict[str, Any]]) -> Node:
    node = node_from_slices(KUBE_NODE, read(raw))
    check_nodes([node])
    return node


def static(gpu: int, *parts: tuple[str, int]) -> MigState:
    """What an administrator has made of a GPU: (profile, start)."""
    state = NO_MIG.with_mode(gpu, True, now=True)
    for at, (profile, start) in enumerate(parts):
        state, _ = state.with_part(H100.profile, gpu, H100.profile.mig_profile(profile), start, f"MIG-{gpu}-{at}")
    return state


def test_every_part_that_could_be_made_is_known_with_what_it_consumes() -> None:
    node = made(published())
    assert len(node.devices) == 8
    assert [gpu.uuid for gpu in node.parted] == sorted(device.uuid or "" for device in node.devices)
    for gpu in node.parted:
        assert gpu.position is not None
        assert node.devices[gpu.position].uuid == gpu.uuid
        assert sum(1 for _ in gpu.parts) == sum(len(mig.starts) for mig in H100.profile.mig)
        assert {part.profile for part in gpu.parts} == {mig.profile for mig in H100.profile.mig}
        assert all(part.uuid is None and part.memory > 0 for part in gpu.parts)
        assert [part.id.device for part in gpu.parts] == sorted(part.id.device for part in gpu.parts)
        assert {f"memory-slice-{at}" for at in range(8)} <= {name for name, _ in gpu.counters}
        for part in gpu.parts:
            assert {name for name, _ in part.consumes} <= {name for name, _ in gpu.counters}
            assert sum(name.startswith("memory-slice-") for name, _ in part.consumes) == next(
                mig.span for mig in H100.profile.mig if mig.profile == part.profile
            )


def test_parts_that_are_there_have_uuids_and_their_gpu_is_not_offered_whole() -> None:
    node = made(published(static(3, ("3g.40gb", 0), ("1g.10gb", 4)), frozenset()))
    assert len(node.devices) == 7
    (gpu,) = node.parted
    assert (gpu.uuid, gpu.position, gpu.counters) == (H100.uuid(3), None, ())
    assert sorted((part.profile, part.uuid) for part in gpu.parts) == [("1g.10gb", "MIG-3-1"), ("3g.40gb", "MIG-3-0")]
    assert gpu.attributes["product"] == H100.profile.product


def test_parts_of_which_nobody_can_tell_how_many_there_can_be_are_left_out() -> None:
    raw = published()
    for each in raw:
        each["spec"].pop("sharedCounters", None)
    assert made(raw).parted == ()
    assert len(made(raw).devices) == 8


@pytest.mark.parametrize("twice", ["devices", "sharedCounters"])
def test_a_pool_that_names_a_thing_twice_is_left_out(twice: str) -> None:
    raw = published()
    listed = next(each["spec"][twice] for each in raw if each["spec"].get(twice))
    listed.append(copy.deepcopy(listed[0]))
    assert not made(raw).ready
    assert "of one name" in made(raw).reason


def test_a_pool_without_counters_that_its_devices_use_up_is_left_out() -> None:
    raw = published()
    counters = next(each["spec"]["sharedCounters"] for each in raw if each["spec"].get("sharedCounters"))
    lost = counters.pop()["name"]
    assert made(raw).reason == f"its devices use up counters that its pool lacks ({lost})"


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec["pool"].update(name="another"),  # whose claims would name it
        lambda spec: spec["devices"][-1]["capacity"]["memory"].update(value="-1Gi"),
    ],
    ids=["the pool of another name", "a part of less than nothing"],
)
def test_a_slice_that_can_be_none_is_left_out_alone(change: Callable[[dict[str, Any]], None]) -> None:
    """Where it is read, and not while all nodes are looked at."""
    raw = next(each for each in published() if each["spec"].get("devices"))
    raw["metadata"]["resourceVersion"] = "1"
    assert raw["spec"]["devices"][-1]["attributes"]["type"] == {"string": "mig"}
    read_slice(raw)
    change(raw["spec"])
    with pytest.raises(ValueError, match=r"pool|amount"):
        read_slice(raw)


def test_a_taint_that_keeps_nobody_away_is_no_fault() -> None:
    raw = published(gates=frozenset())
    taints = [{"key": "gpu.nvidia.com/xid", "value": "31", "effect": effect} for effect in ("None", "NoExecute")]
    raw[0]["spec"]["devices"][0]["taints"] = taints[:1]
    assert all(device.health is Health.OK for device in made(raw).devices)
    raw[0]["spec"]["devices"][0]["taints"] = taints
    (sick,) = [device for device in made(raw).devices if device.health is not Health.OK]
    assert sick.health_reason == "gpu.nvidia.com/xid=31"


MEMORY = {"default": "80Gi", "validRange": {"min": "1Mi", "max": "80Gi", "step": "1Mi"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"allowMultipleAllocations": True, "capacity": {"memory": {"value": "80Gi", "requestPolicy": MEMORY}}}, ""),
        (
            {
                "allowMultipleAllocations": True,
                "capacity": {"memory": {"value": "80Gi", "requestPolicy": {**MEMORY, "default": "0"}}},
            },
            "at the same time (gpu-",
        ),
        (
            {
                "allowMultipleAllocations": True,
                "capacity": {
                    "memory": {"value": "80Gi", "requestPolicy": {"default": "0"}},
                    "shares": {"value": "4", "requestPolicy": {"default": "1", "validRange": {"min": "1", "max": "4"}}},
                },
            },
            "at the same time (gpu-",
        ),
        ({"allowMultipleAllocations": True}, "at the same time (gpu-"),
        ({}, ""),
    ],
    ids=["memory: all of it", "unlimited", "four shares", "no policy", "not shared"],
)
def test_a_node_whose_gpus_others_could_have_beside_us_is_left_out_and_named(change: dict[str, Any], said: str) -> None:
    raw = published(gates=frozenset())
    raw[0]["spec"]["devices"] = [{**device, **change} for device in raw[0]["spec"]["devices"]]
    node = made(raw)
    assert node.ready is not bool(said)
    assert said in node.reason


def test_a_node_of_which_only_certain_sets_of_gpus_can_be_had_is_left_out_and_named() -> None:
    raw = published(gates=frozenset())
    raw[0]["spec"]["devices"][0]["attributes"] |= {"partition2": {"int": 1}, "gpuModuleID": {"int": 1}}
    assert not made(raw).ready
    assert "Fabric Manager's partitions" in made(raw).reason


def look(raw: list[dict[str, Any]], *claims: dict[str, Any]) -> tuple[Machines, Inventory]:
    inventory = Inventory()
    machines = Machines(inventory, lambda: 0.0)
    machines.put(KubeView(nodes={H100.name: KUBE_NODE}, slices=tuple(read(raw))), ANYWHERE)
    mark(machines, *claims)
    return machines, inventory


def mark(machines: Machines, *claims: dict[str, Any], ours: str = "") -> None:
    read_claims = [read_claim(each) for each in on_h100(*claims)]
    machines.mark_taken(read_claims, lambda each: each.name == ours, lambda each: "our gang")


def on_h100(*claims: dict[str, Any]) -> list[dict[str, Any]]:
    found = copy.deepcopy(list(claims))
    for each in found:
        for result in each["status"]["allocation"]["devices"]["results"]:
            result["pool"] = H100.name
    return found


def part(node: Node, gpu: int, profile: str, at: int = 0) -> str:
    parted = next(each for each in node.parted if each.uuid == H100.uuid(gpu))
    return [each.id.device for each in parted.parts if each.profile == profile][at]


def test_what_strangers_have_of_a_gpu_is_known_part_by_part() -> None:
    node = made(published())
    small, large = part(node, 2, "1g.10gb", 3), part(node, 5, "4g.40gb")
    machines, inventory = look(published(), claim("a", small), claim("b", large, "gpu-6"))
    state = inventory.node_states[H100.name]
    assert state.free == 0b10011011
    by_gpu = {gpu.gpu.uuid: gpu for gpu in state.parts}
    assert by_gpu[H100.uuid(2)].others == by_gpu[H100.uuid(2)].names[small]
    assert by_gpu[H100.uuid(5)].others == by_gpu[H100.uuid(5)].names[large]
    assert by_gpu[H100.uuid(6)].others == by_gpu[H100.uuid(6)].table.everything
    assert by_gpu[H100.uuid(0)].others == 0
    again = inventory_of(load_snapshot(dump_snapshot(snapshot_of(inventory))))  # a file of it says the same
    assert [gpu.others for gpu in again.node_states[H100.name].parts] == [gpu.others for gpu in state.parts]
    mark(machines, claim("a", small), ours="a")
    assert state.free == 0xFF  # of our own gangs' parts, the inventory has the hold
    assert by_gpu[H100.uuid(2)].placed == {"our gang": by_gpu[H100.uuid(2)].names[small]}
    assert not any(gpu.others for gpu in state.parts)
    mark(machines, claim("odd", "fpga-0"))
    assert all(gpu.others == gpu.table.everything for gpu in state.parts)
    mark(machines)
    assert not any(gpu.others or gpu.placed for gpu in state.parts)


def test_a_part_that_is_there_and_is_a_strangers() -> None:
    raw = published(static(3, ("3g.40gb", 0), ("1g.10gb", 4)), frozenset())
    name = part(made(raw), 3, "3g.40gb")
    _, inventory = look(raw, claim("a", name))
    (gpu,) = inventory.node_states[H100.name].parts
    assert gpu.others == gpu.names[name]
    assert inventory.node_states[H100.name].free == 0x7F


def test_a_part_is_named_as_the_planner_names_devices() -> None:
    parts = [each for gpu in made(published()).parted for each in gpu.parts]
    assert all(each.id == DeviceId(NVIDIA.driver, H100.name, each.id.device) for each in parts)
