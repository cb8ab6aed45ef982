"""What is counted of a coordinator's doing, and that the gauges say what is so."""

from __future__ import annotations

import pytest

from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.core.model.locality import Locality
from ray_dra.errors import UnsatisfiableError
from tests.coordinator.counted import Counted
from tests.coordinator.world import World
from tests.core.machines import gang

GPUS = ("held", "shared", "others", "left_out", "unhealthy", "kept", "free")


def counting() -> tuple[World, Counted]:
    """Two cliques of two nodes of four GPUs."""
    world, counted = World(), Counted()
    world.coordinator = Coordinator(
        world.store, world.ray, world.clock, wall=lambda: 1e9 + world.clock.now, metrics=counted
    )
    world.pass_time(6)
    return world, counted


def gauge(counted: Counted, name: str, *labels: str) -> float:
    return counted.gauges[name, labels]


def test_gauges_say_how_gpus_cliques_and_the_queue_are() -> None:
    world, counted = counting()
    assert [gauge(counted, "gpus", state) for state in GPUS] == [0, 0, 0, 0, 0, 0, 16]
    assert (gauge(counted, "largest_gang_gpus"), gauge(counted, "fragmentation_ratio")) == (8, 0)
    world.place(world.submit(gang(2)).gang)
    world.pass_time(6)
    assert [gauge(counted, "gpus", state) for state in GPUS] == [2, 0, 0, 0, 0, 0, 14]
    assert [gauge(counted, "cliques", state) for state in ("free", "partly", "full")] == [1, 1, 0]
    assert gauge(counted, "largest_gang_gpus") == 8
    assert gauge(counted, "fragmentation_ratio") == 6 / 14
    assert gauge(counted, "queue_gangs") == 0
    world.submit(gang(4, 4, 4, 4, name="a", locality=Locality(cliques=None)))
    world.submit(gang(1, name="b"))
    world.pass_time(20)
    assert (gauge(counted, "queue_gangs"), gauge(counted, "queue_gpus")) == (2, 17)
    assert 15 <= gauge(counted, "queue_longest_wait_seconds") <= 20
    assert gauge(counted, "gangs", "queued") == 2


def test_each_team_is_counted_and_one_that_is_gone_is_at_zero() -> None:
    said = ["a: {guarantee: 4}\nb: {limit: 8}"]
    world, counted = World(), Counted()
    world.coordinator = Coordinator(world.store, world.ray, world.clock, metrics=counted, queues=lambda: said[0])
    world.pass_time(6)
    held = world.submit(gang(4, 2, name="held"), team="a").gang
    world.submit(gang(4, 4, 4, name="waits"), team="a")
    world.pass_time(6)
    states = ("guaranteed", "used", "borrowed", "wanted")
    assert [gauge(counted, "team_gpus", "a", state) for state in states] == [4, 6, 2, 12]
    assert (gauge(counted, "team_queue_gangs", "a"), gauge(counted, "team_queue_gangs", "b")) == (1, 0)
    said[0] = "b: {limit: 8}"
    world.coordinator.release(held)
    world.coordinator.release("waits")
    world.pass_time(12)
    assert [gauge(counted, "team_gpus", "a", state) for state in states] == [0, 0, 0, 0]
    assert gauge(counted, "team_queue_gangs", "a") == 0


def test_what_happens_is_counted_once() -> None:
    world, counted = counting()
    with pytest.raises(UnsatisfiableError):
        world.submit(gang(99))
    first = world.submit(gang(4, 4)).gang
    assert counted.counts["refusals_total", ("UnsatisfiableError",)] == 1
    assert counted.counts["plan_seconds", ("refused",)] == 1
    assert counted.counts["plan_seconds", ("placed",)] == 1
    world.coordinator.release(first)
    world.pass_time(5)
    assert counted.counts["gang_ends_total", ("released",)] == 1


def test_a_silent_agent_and_a_node_that_is_left_out_are_told() -> None:
    world, counted = counting()
    assert gauge(counted, "agents_silent") == 0
    for _ in range(10):  # of the others agents speak on
        for name in world.names[1:]:
            world.report(name)
        world.clock.now += 1
        world.coordinator.observe()
    assert gauge(counted, "agents_silent") == 1
    assert [gauge(counted, "gpus", state) for state in GPUS] == [0, 0, 0, 4, 0, 0, 12]
