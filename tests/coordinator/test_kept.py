"""What a program gives back after a fault stays its own for a while, before the queue; and no longer than that."""

from __future__ import annotations

import pytest

from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.order import Order
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from tests.core.machines import gang

from .world import Phase, World

RACK = Locality(cliques=1)


def ask(world: World, request: GangRequest, job: str) -> Phase:
    world.ray.jobs.add(job)
    return world.coordinator.submit(Order(request, owner=job)).phase


def phase(world: World, gang_id: str) -> Phase:
    return world.coordinator.status(gang_id).phase


def nodes(world: World, gang_id: str) -> set[str]:
    allocation = world.coordinator.status(gang_id).allocation
    return set(allocation.nodes) if allocation is not None else set()


def crowded() -> tuple[World, str]:
    """A training run has a rack, somebody else the other, a third waits for half a rack. Returns a node of the run."""
    world = World()
    assert ask(world, gang(4, 4, name="train", locality=RACK), "job") is Phase.HELD
    world.place("train")
    assert ask(world, gang(4, 4, name="fills", locality=RACK), "fills") is Phase.HELD
    world.place("fills")
    assert ask(world, gang(4, name="waits"), "queued") is Phase.QUEUED
    world.pass_time(2)
    return world, min(nodes(world, "train"))


def end(world: World, gang_id: str) -> None:
    """Its program removes the placement group."""
    group = world.coordinator.status(gang_id).group
    assert group is not None
    world.ray.remove_group(group)


@pytest.mark.parametrize("first", ["removes", "asks"])
def test_a_run_that_restarts_after_a_fault_finds_its_clique_again(first: str) -> None:
    world, node = crowded()
    was = nodes(world, "train")
    world.report(node, xids=(79,))
    world.pass_time(2)
    again = gang(4, name="again", locality=RACK)  # of what is well
    if first == "asks":
        assert ask(world, again, "job") is Phase.QUEUED
        end(world, "train")
    else:
        end(world, "train")
        world.pass_time(5)
        assert phase(world, "waits") is Phase.QUEUED
        assert ask(world, again, "job") is Phase.HELD
    world.pass_time(3)
    assert phase(world, "again") is Phase.HELD
    assert nodes(world, "again") == was - {node}
    assert phase(world, "waits") is Phase.QUEUED
    world.check()


def test_it_waits_there_for_the_repair() -> None:
    world, node = crowded()
    was = nodes(world, "train")
    world.report(node, xids=(79,))
    world.pass_time(2)
    end(world, "train")
    world.pass_time(2)
    assert ask(world, gang(4, 4, name="again", locality=RACK), "job") is Phase.QUEUED
    world.pass_time(20)
    assert (phase(world, "again"), phase(world, "waits")) == (Phase.QUEUED, Phase.QUEUED)
    world.report(node)
    world.pass_time(2)
    assert phase(world, "again") is Phase.HELD
    assert nodes(world, "again") == was
    world.check()


@pytest.mark.parametrize("why", ["its time is over", "the program ended", "the coordinator restarted"])
def test_a_place_is_kept_for_a_while_and_for_its_program(why: str) -> None:
    world, node = crowded()
    world.report(node, xids=(79,))
    world.pass_time(2)
    end(world, "train")
    world.pass_time(KEPT_SECONDS - 5)
    assert phase(world, "waits") is Phase.QUEUED
    assert ask(world, gang(4, name="stranger"), "stranger") is Phase.QUEUED
    world.check()
    match why:
        case "its time is over":
            world.pass_time(6)
        case "the program ended":
            world.ray.jobs.discard("job")
            world.pass_time(1)
        case "the coordinator restarted":
            world.restart()
            for name in world.names:
                world.report(name, xids=(79,) if name == node else ())
            world.pass_time(1)
    assert phase(world, "waits") is Phase.HELD
    assert not world.coordinator.records.kept.holding()
    world.check()


@pytest.mark.parametrize("why", ["no fault", "healed", "its program ended"])
def test_nothing_is_kept_of_what_met_no_fault(why: str) -> None:
    world, node = crowded()
    if why != "no fault":
        world.report(node, xids=(79,))
        world.pass_time(2)
    if why == "healed":
        world.report(node)
        world.pass_time(2)
    if why == "its program ended":
        world.ray.jobs.discard("job")
        world.ray.remove_group(world.coordinator.status("train").group or "")
    else:
        end(world, "train")
    world.pass_time(3)
    assert not world.coordinator.records.kept.holding()
    assert phase(world, "waits") is Phase.HELD
    world.check()


def test_a_place_of_one_gpu_lets_no_large_gang_pass_the_queue() -> None:
    world = World()
    assert ask(world, gang(1, name="small"), "job") is Phase.HELD
    world.place("small")
    (node,) = nodes(world, "small")
    assert ask(world, gang(*[4] * 4, name="first"), "others") is Phase.QUEUED
    world.report(node, xids=(79,))
    world.pass_time(2)
    end(world, "small")
    world.pass_time(2)
    assert world.coordinator.records.kept.owners == ["job"]
    world.report(node)
    assert ask(world, gang(4, 4, name="large"), "job") is Phase.QUEUED
    assert ask(world, gang(1, name="again"), "job") is Phase.HELD
    assert phase(world, "first") is Phase.QUEUED
    world.check()
