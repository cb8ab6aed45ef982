"""Every call of the coordinator, the handle and the embedded cluster, given anything: an answer or an error of ours.

A Ray cluster is one tenant, so any program of it may call the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ray_dra
from ray_dra.core.gangs.order import Order
from ray_dra.core.model.topology import Topology
from ray_dra.errors import GangGone, InvalidRequest, RayDraError, SimulationError
from ray_dra.program.gang_handle import GangPlacementGroup
from ray_dra.simulated.cluster import LocalCluster
from ray_dra.simulated.profile import simulated_nodes
from tests.coordinator.world import World
from tests.core.machines import gang, group_id, rack
from tests.edge.hostile import EXTREMES, answers_or_refuses

Call = Callable[[World, Any], Any]
CALLS: dict[str, Call] = {
    "release": lambda world, value: world.coordinator.release(value),
    "status": lambda world, value: world.coordinator.status(value),
    "commit's gang": lambda world, value: world.coordinator.commit(value, group_id("g"), 0),
    "commit's group": lambda world, value: world.coordinator.commit("a", value, 0),
    "commit's moves": lambda world, value: world.coordinator.commit("a", group_id("g"), value),
    "plan": lambda world, value: world.coordinator.plan(value),
    "submit": lambda world, value: world.coordinator.submit(value),
    "raylet": lambda world, value: world.coordinator.devices_for(value, "", -1, (0,), 1),
    "group": lambda world, value: world.coordinator.devices_for("t0-0", value, -1, (0,), 1),
    "bundle": lambda world, value: world.coordinator.devices_for("t0-0", group_id("placed"), value, (0,), 1),
    "gpu_ids": lambda world, value: world.coordinator.devices_for("t0-0", "", -1, value, 1),
    "pid": lambda world, value: world.coordinator.devices_for("t0-0", "", -1, (0,), value),
    "raylet of what ended": lambda world, value: world.coordinator.foreign_work.ended(value, (0,), 1),
    "gpu_ids of what ended": lambda world, value: world.coordinator.foreign_work.ended("t0-0", value, 1),
    "pid of what ended": lambda world, value: world.coordinator.foreign_work.ended("t0-0", (0,), value),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_the_coordinator_given_the_worst(name: str) -> None:
    """It is refused and changes nothing; or what it changes can be read after a restart."""
    world = World()
    for held in ("a", "placed"):
        world.submit(gang(1, name=held))
    world.coordinator.commit("placed", group_id("placed"), 0)
    for value in EXTREMES:
        before = dict(world.store.data)
        found = answers_or_refuses(lambda value=value: CALLS[name](world, value))  # type: ignore[misc]
        if isinstance(found, InvalidRequest):
            assert world.store.data == before, repr(found)
    world.restart()
    assert not world.coordinator.aside.records
    world.check()


@pytest.mark.parametrize("call", ["release", "status", "commit's gang"])
def test_what_is_no_id_of_a_gang_is_named(call: str) -> None:
    for value in (None, 5, ["a"], b"a", "a" * 5000):
        with pytest.raises(InvalidRequest) as caught:
            CALLS[call](World(), value)
        assert caught.value.place == "gang"
    with pytest.raises(GangGone):
        World().coordinator.status("a gang that is not there")


@pytest.mark.parametrize("bundle", [-1, 1, 2.0, None, "0"])
def test_a_bundle_that_the_gang_does_not_have_is_refused(bundle: Any) -> None:
    """-1 was the last one, by Python's rule."""
    world = World()
    world.submit(gang(1, name="a"))
    world.coordinator.commit("a", group_id("g"), 0)
    with pytest.raises(InvalidRequest) as caught:
        world.coordinator.devices_for("t0-0", group_id("g"), bundle, (0,), 1)
    assert caught.value.place == "bundle"


def test_moves_are_a_number() -> None:
    """Of a gang that could be committed: what was compared only there ended in numpy's error."""
    world = World()
    world.submit(gang(1, name="a"))
    for value in EXTREMES:
        if type(value) is int and value == 0:
            continue
        found = answers_or_refuses(lambda value=value: world.coordinator.commit("a", group_id("g"), value))  # type: ignore[misc]
        assert not isinstance(found, RayDraError) or (isinstance(found, InvalidRequest) and found.place == "moves")
        assert world.coordinator.status("a").group is None
    for value in (None, "0", 1.5, True, -1, 10**400):
        with pytest.raises(InvalidRequest):
            world.coordinator.commit("a", group_id("g"), value)  # type: ignore[arg-type]


def test_how_long_to_wait_is_a_number() -> None:
    """Before the coordinator is asked; the gang is not given back for it."""
    handle = GangPlacementGroup(Order(gang(1, name="a")))
    for value in EXTREMES:
        found = answers_or_refuses(lambda value=value: handle.wait(value))  # type: ignore[misc]
        assert isinstance(found, RayDraError)
        number = isinstance(found, ray_dra.CoordinatorUnavailable)  # taken for one; no Ray is connected
        assert number or (isinstance(found, InvalidRequest) and found.place == "timeout")
    for value, number in ((None, True), (5, True), (1.5, True), ("5", False), (True, False), (float("nan"), False)):
        with pytest.raises(ray_dra.CoordinatorUnavailable if number else InvalidRequest):
            handle.wait(value)  # type: ignore[arg-type]


def test_what_is_no_order_makes_no_handle() -> None:
    for value in EXTREMES:
        assert isinstance(answers_or_refuses(lambda value=value: GangPlacementGroup(value)), InvalidRequest)  # type: ignore[misc]


def test_a_picture_of_anything() -> None:
    topology = Topology.of(rack("a", 1))
    for value in EXTREMES:
        found = answers_or_refuses(lambda value=value: ray_dra.draw_topology(value))  # type: ignore[misc]
        assert isinstance(found, InvalidRequest)
        found = answers_or_refuses(lambda value=value: ray_dra.draw_topology(topology, held=value))  # type: ignore[misc]
        assert isinstance(found, (str, InvalidRequest))
    assert "[ A 1" in ray_dra.draw_topology(topology, held={"GPU-a-t0-0": "A"})


def test_nodes_that_an_embedded_cluster_does_not_have() -> None:
    cluster = LocalCluster(simulated_nodes("gb200-nvl72", nodes=2), Path("/nonexistent"), None, "")  # type: ignore[arg-type]
    for value in EXTREMES:
        for call in (cluster.machine, cluster.kill_node, cluster.add_node):
            found = answers_or_refuses(lambda value=value, call=call: call(value))  # type: ignore[misc]
            assert isinstance(found, SimulationError)
            assert cluster.nodes[0].name in found.available
