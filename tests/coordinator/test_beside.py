"""Gangs that go with another: near it, if that can be, and ended with it, also by a coordinator that starts again."""

from __future__ import annotations

from typing import Any

import pytest

from ray_dra.core.gangs.gang import Beside
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.locality import Locality
from ray_dra.errors import GangGone, InvalidRequest
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import mig
from tests.coordinator.kubernetes_world import World


def one(gpus: float = 1.0, beside: Beside | None = None, **more: Any) -> Order:
    return Order(request_from_bundles([{"GPU": gpus}], **more), owner="job", beside=beside)


def place(world: World, order: Order) -> frozenset[str]:
    status = world.coordinator.submit(order)
    assert status.allocation is not None
    return frozenset(clique for clique in status.allocation.cliques if clique is not None)


def test_it_is_planned_in_the_cliques_of_the_other_if_that_can_be() -> None:
    """Though the tightest place is in another."""
    for wanted in (0, 1):
        world = World()
        racks = sorted({s.node.clique or "" for s in world.coordinator.inventory.node_states.values()})
        first, second = (one(3.0, selectors=[{"nvidia.com/gpu.clique": rack}]) for rack in racks)
        assert place(world, first) == {racks[0]}
        assert place(world, second) == {racks[1]}
        partner = (first, second)[wanted].request.gang
        for _ in range(5):  # 5 GPUs of its 8 are left there
            assert place(world, one(beside=Beside(partner))) == {racks[wanted]}
        assert place(world, one(beside=Beside(partner))) == {racks[1 - wanted]}, "it goes elsewhere, and does not wait"
        assert place(world, one(beside=Beside(partner, near=False))) == {racks[1 - wanted]}


def test_a_part_of_a_gpu_is_planned_near_a_gang() -> None:
    world = World(nodes=2, cliques=None, profile="hgx-h100", gates=frozenset({"DynamicMIG"}))
    whole = world.coordinator.submit(one(2.0, locality=Locality(cliques=1)))
    assert whole.allocation is not None
    for _ in range(3):
        status = world.coordinator.submit(one(part=mig("1g.10gb"), beside=Beside(whole.gang)))
        assert status.allocation is not None
        assert status.allocation.nodes == whole.allocation.nodes[:1]


@pytest.mark.parametrize("restart", [False, True])
def test_it_ends_with_the_other_or_does_not(restart: bool) -> None:
    world = World()
    partner = world.coordinator.submit(one())
    ends = world.coordinator.submit(one(beside=Beside(partner.gang)))
    stays = world.coordinator.submit(one(beside=Beside(partner.gang, ends=False)))
    for status in (partner, ends, stays):
        assert world.drive(status.gang) is Phase.READY
    if restart:
        world.restart()
    world.coordinator.release(partner.gang)
    for _ in range(20):
        world.turn()
    assert set(world.coordinator.gangs) == {stays.gang}
    assert len(world.kube.claimed()) == 1
    world.coordinator.release(stays.gang)
    world.settle()


def test_one_that_waits_ends_with_the_other_too() -> None:
    world = World(nodes=1, cliques=1)
    partner = world.coordinator.submit(one(4.0))
    waits = world.coordinator.submit(one(beside=Beside(partner.gang)))
    assert waits.phase is Phase.QUEUED
    assert world.drive(partner.gang) is Phase.READY
    world.coordinator.release(partner.gang)
    for _ in range(20):
        world.turn()
        assert world.coordinator.gangs.keys() <= {partner.gang, waits.gang}
        assert all(g.allocation is None or g.id == partner.gang for g in world.coordinator.gangs.values())
    assert not world.coordinator.gangs
    world.settle()


def test_nothing_goes_with_a_gang_that_is_not_there() -> None:
    world = World()
    with pytest.raises(GangGone, match="goes with"):
        world.coordinator.submit(one(beside=Beside("nobody")))
    assert not world.coordinator.gangs
    partner = world.coordinator.submit(one())
    world.coordinator.release(partner.gang)
    with pytest.raises(GangGone, match="goes with"):
        world.coordinator.submit(one(beside=Beside(partner.gang)))
    for odd in (5, Beside(""), Beside("g", near=1)):  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest):
            one(beside=odd)  # type: ignore[arg-type]
