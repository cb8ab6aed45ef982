"""What a claim on a part of a GPU takes, on slices shaped like those of NVIDIA's driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.coordinator.backends.kubernetes.machines import Machines
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.ports.kube_objects import KubeNode, Placing, ResourceSlice
from ray_dra.ports.kubernetes import KubeView
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.kube.parts import parts_of
from ray_dra.translate.kube.slices import read_slice
from ray_dra.translate.vendors import NVIDIA

PROFILES = (("1g.10gb", 19, (0, 1, 2, 3, 4, 5, 6)), ("3g.40gb", 9, (0, 4)), ("7g.80gb", 0, (0,)))


def attributes(gpu: int, kind: str, **more: str) -> dict[str, Any]:
    found = {"type": kind, "productName": "NVIDIA H100 80GB HBM3", **more}
    return {name: {"string": value} for name, value in found.items()} | {
        "resource.kubernetes.io/numaNode": {"int": gpu // 4},
        "resource.kubernetes.io/pciBusID": {"string": f"0000:{gpu:02x}:00.0"},
    }


def whole(gpu: int, *, dynamic: bool, shared: bool) -> dict[str, Any]:
    device: dict[str, Any] = {
        "name": f"gpu-{gpu}",
        "attributes": attributes(gpu, "gpu", uuid=f"GPU-{gpu}"),
        "capacity": {"memory": {"value": "80Gi"}},
    }
    if dynamic:
        device["consumesCounters"] = consumed(gpu, range(8))
    if shared:
        device["allowMultipleAllocations"] = True
    return device


def consumed(gpu: int, slices: range) -> list[dict[str, Any]]:
    return [
        {
            "counterSet": f"gpu-{gpu}-counter-set",
            "counters": {f"memory-slice-{i}": {"value": "1"} for i in slices},
        }
    ]


def partition(gpu: int, at: int, start: int, *, dynamic: bool, hints: frozenset[str]) -> dict[str, Any]:
    """`hints`: what of it tells its GPU."""
    profile, number, _ = PROFILES[at]
    size = int(profile[0])
    name = f"gpu-{gpu}-mig-{profile.replace('.', '')}-{number}-{start}" if "name" in hints else f"p{gpu}{at}{start}"
    device: dict[str, Any] = {"name": name, "attributes": attributes(gpu, "mig", profile=profile)}
    if "parent" in hints:
        device["attributes"]["parentUUID"] = {"string": f"GPU-{gpu}"}
    if "bus" not in hints:
        del device["attributes"]["resource.kubernetes.io/pciBusID"]
    if dynamic and "counters" in hints:
        device["consumesCounters"] = consumed(gpu, range(start, start + size))
    return device


def slices_of(groups: list[list[dict[str, Any]]], generation: int = 1) -> list[dict[str, Any]]:
    """One slice a group of devices, in one pool."""
    pool = {"name": "n", "generation": generation, "resourceSliceCount": len(groups)}
    return [
        {
            "metadata": {"name": f"n-{generation}-{i}", "resourceVersion": f"{generation}-{i}"},
            "spec": {"driver": NVIDIA.driver, "nodeName": "n", "pool": pool, "devices": devices},
        }
        for i, devices in enumerate(groups)
    ]


def claim(name: str, *devices: str, **more: Any) -> dict[str, Any]:
    results = [{"request": "r", "driver": NVIDIA.driver, "pool": "n", "device": device, **more} for device in devices]
    return {
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "theirs", "uid": name},
        "status": {"allocation": {"devices": {"results": results}}},
    }


def read(slices: list[dict[str, Any]]) -> tuple[ResourceSlice, ...]:
    return tuple(map(read_slice, slices))


def look(slices: list[dict[str, Any]], *raw: Mapping[str, Any]) -> tuple[Machines, Inventory]:
    inventory, claims = Inventory(), tuple(map(read_claim, raw))
    machines = Machines(inventory, lambda: 0.0)
    node = KubeNode("n", cpus=8, memory=64 << 30)
    machines.put(KubeView(nodes={"n": node}, slices=read(slices), claims=claims), Placing())
    machines.mark_taken(claims, lambda claim: False)
    return machines, inventory


ANY_HINTS = st.frozensets(st.sampled_from(["name", "parent", "bus", "counters"]))


@given(
    gpus=st.integers(1, 4),
    dynamic=st.booleans(),
    shared=st.booleans(),
    parts=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 6), ANY_HINTS), max_size=6),
    published=st.lists(st.booleans(), min_size=6, max_size=6),
    wholes=st.lists(st.integers(0, 3), max_size=3),
    admin=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_a_gpu_is_taken_with_any_part_of_it(
    gpus: int,
    dynamic: bool,
    shared: bool,
    parts: list[tuple[int, int, int, frozenset[str]]],
    published: list[bool],
    wholes: list[int],
    admin: bool,
) -> None:
    """Claims on GPUs and on parts, published with whatever tells their GPU, or no more published: exactly the GPUs of
    which somebody has something are taken; all of them where nothing tells."""
    groups = [[whole(gpu, dynamic=dynamic, shared=shared)] for gpu in range(gpus)]
    busy, unknown = 0, False
    claims: list[dict[str, Any]] = []
    seen = set()
    for (gpu, at, start, hints), shown in zip(parts, published, strict=False):
        start = PROFILES[at][2][start % len(PROFILES[at][2])]
        device = partition(gpu % gpus, at, start, dynamic=dynamic, hints=hints)
        if device["name"] in seen:
            continue
        seen.add(device["name"])
        if shown:
            groups[gpu % gpus].append(device)
        claims.append(claim(f"part-{len(claims)}", device["name"], **({"adminAccess": True} if admin else {})))
        telling = hints if dynamic else hints - {"counters"}
        if admin:
            continue
        if telling if shown else "name" in hints:
            busy |= 1 << gpu % gpus
        else:
            unknown = True
    for i, gpu in enumerate(wholes):
        share = {"shareID": f"s{i}", "consumedCapacity": {"memory": "10Gi"}} if shared else {}
        claims.append(claim(f"whole-{i}", f"gpu-{gpu % gpus}", **share))
        busy |= 1 << gpu % gpus
    machines, inventory = look(slices_of(groups), *claims)
    everything = (1 << gpus) - 1
    assert inventory.node_states["n"].busy == (everything if unknown else busy)
    assert bool(machines.problems()) is unknown
    machines.mark_taken([], lambda claim: False)
    assert inventory.node_states["n"].busy == 0
    assert not machines.problems()


def test_what_is_no_part_of_any_gpu_is_named() -> None:
    machines, inventory = look(slices_of([[whole(0, dynamic=False, shared=False)]]), claim("odd", "fpga-7"))
    assert inventory.node_states["n"].free == 0
    (problem,) = machines.problems()
    assert "theirs/odd" in problem
    assert "fpga-7" in problem
    assert "all GPUs of n count as taken" in problem


def test_a_partition_of_a_gpu_that_is_not_offered_whole_takes_nothing_of_the_others() -> None:
    """Static MIG: GPU 1 is published by its partitions alone."""
    static = partition(1, 0, 3, dynamic=False, hints=frozenset({"name", "parent", "bus"}))
    published = slices_of([[whole(0, dynamic=False, shared=False), static]])
    machines, inventory = look(published, claim("theirs", static["name"]))
    assert inventory.node_states["n"].busy == 0
    assert not machines.problems()
    assert parts_of(read(published)).taken_with(static["name"]) == frozenset()
    static["name"] = "gpu-0-mig-1g10gb-19-3"  # where two things that tell disagree, both count
    assert parts_of(read(published)).taken_with(static["name"]) == frozenset({"gpu-0"})


def test_the_same_gpu_passed_through_and_a_claim_older_than_the_pool() -> None:
    twin = {"name": "gpu-vfio-1", "attributes": attributes(1, "vfio")}
    gpus = [whole(i, dynamic=False, shared=False) for i in range(3)]
    old = partition(2, 0, 0, dynamic=True, hints=frozenset({"parent"}))
    parts = parts_of(read(slices_of([[*gpus, old]]) + slices_of([[*gpus, twin]], generation=2)))
    assert parts.taken_with("gpu-vfio-1") == frozenset({"gpu-1"})
    assert parts.taken_with(old["name"]) == frozenset({"gpu-2"})
    assert parts.taken_with("gpu-2-mig-1g10gb-19-5") == frozenset({"gpu-2"})
    assert parts.taken_with("gpu-7-mig-1g10gb-19-5") is None
