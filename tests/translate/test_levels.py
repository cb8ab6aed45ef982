"""Which labels name the levels above cliques, and that they are read where a coordinator runs and in a snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import ray_dra
from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.order import Order
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.errors import InvalidRequest, InvalidSnapshot
from ray_dra.translate.files.snapshot import Snapshot, inventory_of, snapshot_of
from ray_dra.translate.levels import TIERS, levels_of
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator.kubernetes_world import World
from tests.core.machines import node


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        ("", TIERS),
        (" ", TIERS),
        ("off", ()),
        ("example.com/leaf, example.com/spine", ("example.com/leaf", "example.com/spine")),
        ("rack", ("rack",)),
    ],
)
def test_topographs_labels_are_levels_unless_others_are_named(said: str, labels: tuple[str, ...]) -> None:
    assert levels_of({"RAY_DRA_LEVELS": said}) == labels
    assert levels_of({}) == TIERS
    assert TIERS[:2] == ("fabric.topograph.run/tier-0", "fabric.topograph.run/tier-1")


@pytest.mark.parametrize("said", ["a,a", "a,,b", "a b", "-x", ",".join("abcdefghi"), "x" * 400, "é"])
def test_what_is_no_list_of_labels_is_refused_by_its_name(said: str) -> None:
    with pytest.raises(InvalidRequest, match="RAY_DRA_LEVELS"):
        levels_of({"RAY_DRA_LEVELS": said})


def test_a_coordinator_keeps_a_gang_over_several_cliques_in_one_leaf() -> None:
    """The two racks that it would take otherwise are in two leaves here."""
    world = World(nodes=8, cliques=4)
    racks: dict[str, list[str]] = {}
    for name in sorted(world.kube.nodes):
        racks.setdefault(name.rpartition("-")[0], []).append(name)

    def planned(levels: tuple[str, ...]) -> tuple[set[str], Coordinator]:
        coordinator = Coordinator(world.store, world.ray, world.clock, world.kube, levels=levels)
        answer = coordinator.plan(request_from_bundles([{"GPU": 4.0}] * 4, locality=Locality()))
        assert isinstance(answer, Allocation)
        return {name.rpartition("-")[0] for name in answer.nodes}, coordinator

    first, second = sorted(planned(())[0])
    leaves = [{first, min(racks.keys() - {first, second})}, racks.keys() - {first, min(racks.keys() - {first, second})}]
    for leaf, members in enumerate(leaves):
        for name in (name for rack in members for name in racks[rack]):
            world.kube.label(name, leaf=str(leaf))
    assert planned(())[0] == {first, second}
    found, coordinator = planned(("leaf",))
    assert found in leaves
    again = inventory_of(snapshot_of(coordinator.inventory))
    assert again.level_labels == ("leaf",)


def test_a_level_that_the_cluster_does_not_have_is_refused_before_anything_is_held() -> None:
    world = World(nodes=4, cliques=2)
    coordinator = Coordinator(world.store, world.ray, world.clock, world.kube, levels=("example.com/leaf",))
    for level, known in (("leaf", True), ("example.com/leaf", True), ("spine", False)):
        asked = request_from_bundles([{"GPU": 4.0}] * 2, locality=ray_dra.at_most(level, 1))
        order = Order(replace(asked, gang=f"g-{level}"), owner="job")
        if known:
            assert isinstance(coordinator.plan(order.request), Allocation)
            continue
        with pytest.raises(InvalidRequest, match=r"example\.com/leaf") as refused:
            coordinator.plan(order.request)
        assert refused.value.place == "locality.level"
        with pytest.raises(InvalidRequest, match=r"example\.com/leaf"):
            coordinator.submit(order)
        assert not coordinator.gangs


@pytest.mark.parametrize("levels", ["leaf", ("a", "a"), (5,), tuple("abcdefghijklmnopqrs")])
def test_a_snapshot_whose_levels_are_none_is_refused(levels: Any) -> None:
    with pytest.raises(InvalidSnapshot, match="levels"):
        inventory_of(Snapshot((node("n", 1),), levels=levels))


def test_a_snapshot_of_nodes_without_such_labels_names_none() -> None:
    assert snapshot_of(Inventory([node("n", 1)], level_labels=("leaf",))).levels == ()
