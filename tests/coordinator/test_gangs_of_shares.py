"""Gangs with shares of GPUs: on Kubernetes from the call to raylets and back, through kills, and refused elsewhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import ray_dra
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.gpu_sharing import GpuSharing
from ray_dra.errors import UnsatisfiableError
from ray_dra.translate.files.records import gang_from_bytes, gang_to_bytes
from ray_dra.translate.files.shared_records import map_from_bytes, slot_from_bytes
from ray_dra.translate.names import MAP_KEY, SLOT_KEY
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.text import explain_gang
from tests.coordinator.kubernetes_world import World
from tests.coordinator.world import Crash
from tests.coordinator.world import World as Raylets

MPS = ray_dra.mps(memory="20Gi", threads=25)


def world(gates: frozenset[str] = frozenset()) -> World:
    made = World(1, None, "hgx-b200", gates)
    made.coordinator.observe()
    return made


def asking(amounts: list[float], sharing: GpuSharing = MPS, **more: Any) -> Order:
    return Order(request_from_bundles([{"GPU": amount} for amount in amounts], sharing=sharing), owner="job", **more)


def test_sixteen_quarters_have_four_gpus_of_their_own() -> None:
    here = world()
    status = here.coordinator.submit(asking([0.25] * 16))
    assert here.drive(status.gang) is Phase.READY
    status = here.coordinator.status(status.gang)
    assert status.allocation is not None
    assert len(here.kube.claimed()) == 4
    assert here.coordinator.inventory.free_devices == 4
    data = here.store.get(f"{MAP_KEY}{status.group}")
    assert data is not None
    mapped = [device for (device,) in map_from_bytes(data)]
    (label,) = here.coordinator.backend.slots(status.allocation)
    slot = slot_from_bytes(here.store.get(SLOT_KEY + label) or b"")
    assert slot.mps == (25, 20 << 10)
    assert Counter(slot.shares) == Counter(dict.fromkeys(slot.uuids, 4))
    for (position, uuid, _, _), grant in zip(mapped, status.allocation.grants, strict=True):
        assert uuid == grant.uuid == slot.shares[position]
    assert "0.25 of GPU" in explain_gang(status, here.coordinator.gangs[status.gang].request)
    (raylet,) = (node for node in here.ray.nodes.values() if node.alive and label in node.labels.values())
    assert raylet.total["GPU"] == 16, "which the group's bundles have all of"
    with pytest.raises(UnsatisfiableError, match=r"16 shares of 0\.3"):
        here.coordinator.submit(asking([0.3] * 16, wait=False))
    other = here.coordinator.submit(asking([0.5] * 8, ray_dra.time_slicing())).gang
    assert here.drive(other) is Phase.READY
    assert len(set(here.kube.claimed())) == 8
    for gang in (status.gang, other):
        here.coordinator.release(gang)
    here.settle()
    assert here.coordinator.inventory.free_devices == 8


def test_a_record_says_what_is_shared_and_no_other_says_so() -> None:
    here = world()
    gang = here.coordinator.submit(asking([0.6, 0.4, 0.5])).gang
    assert here.drive(gang) is Phase.READY
    record = here.coordinator.gangs[gang]
    assert gang_from_bytes(gang_to_bytes(record)) == record
    assert record.allocation is not None
    bundles = record.allocation.bundles
    for wrong in ({"amount": 500}, {"own": False}, {"amount": None}):
        grants = (bundles[0].grants[0]._replace(**wrong),)
        other = record.allocation._replace(bundles=(bundles[0]._replace(grants=grants), *bundles[1:]))
        with pytest.raises(ray_dra.RayDraError):
            gang_to_bytes(replace(record, allocation=other))
    on_one = bundles[0].grants[0]
    crowded = tuple(placed._replace(grants=(on_one._replace(amount=placed.grants[0].amount),)) for placed in bundles)
    with pytest.raises(ray_dra.RayDraError):
        gang_to_bytes(replace(record, allocation=record.allocation._replace(bundles=crowded)))


def test_where_parts_are_made_mps_is_refused_and_time_slices_are_not() -> None:
    here = world(frozenset({"DynamicMIG"}))
    with pytest.raises(UnsatisfiableError, match="which excludes MPS") as refused:
        here.coordinator.submit(asking([0.25] * 4))
    assert here.coordinator.gangs == {}
    assert here.kube.writes == 0
    assert "MPS" in str(refused.value)
    sliced = here.coordinator.submit(asking([0.25] * 4, ray_dra.time_slicing("Long"))).gang
    assert here.drive(sliced) is Phase.READY
    here.coordinator.release(sliced)
    here.settle()


def test_raylets_that_are_there_have_no_shares_to_give() -> None:
    here = Raylets()
    with pytest.raises(UnsatisfiableError, match="offers whole GPUs"):
        here.coordinator.submit(asking([0.5, 0.5]))
    assert here.coordinator.gangs == {}


def writes(release: bool) -> int:
    here = world()
    gang = here.coordinator.submit(asking([0.5] * 3)).gang
    assert here.drive(gang) is Phase.READY
    if release:
        here.coordinator.release(gang)
        here.settle()
    return here.kube.writes


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(writes(True)))
def test_a_coordinator_killed_at_any_write_goes_on(number: int, after: bool) -> None:
    here = world()
    here.kube.die_at(number, after=after)
    gang = here.coordinator.submit(asking([0.5] * 3)).gang
    assert here.drive(gang) is Phase.READY
    assert here.coordinator.status(gang).moves == 0
    try:
        here.coordinator.release(gang)
    except Crash:
        here.restart()
    here.settle()
    assert here.coordinator.inventory.free_devices == 8
