"""Queues of teams over a coordinator's life: a file that changes, breaks and comes back; kills; and what is told."""

from __future__ import annotations

import pytest

from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.coordinator.declared_queues import KEY
from ray_dra.errors import InvalidRequest
from ray_dra.simulated.fakes import MemoryStore
from tests.coordinator.kills import failing_at_each_write, lived
from tests.core.machines import gang

from .world import Phase, World


class File:
    """What an operator's file says."""

    def __init__(self, text: str) -> None:
        self.text: str | None = text

    def __call__(self) -> str:
        if self.text is None:
            raise InvalidRequest("The file cannot be read.", place="file")
        return self.text


class TeamWorld(World):
    """Two racks of two trays with four GPUs each; teams by a file."""

    def __init__(self, text: str = "a: {guarantee: 8}\nb: {guarantee: 4, limit: 8}", store: MemoryStore | None = None):
        super().__init__(store=store)
        self.file = File(text)
        self.restart()
        for name in self.names:
            self.report(name)

    def restart(self) -> None:
        wall = self.coordinator._wall
        self.coordinator = Coordinator(self.store, self.ray, self.clock, wall=wall, queues=getattr(self, "file", None))

    def used(self, name: str) -> float:
        (found,) = (each.used for each in self.coordinator.teams() if each.name == name)
        return found


def test_the_file_is_read_at_each_look_and_holds_from_the_next_on() -> None:
    world = TeamWorld()
    world.submit(gang(4, 4, name="two"), team="b")
    assert world.submit(gang(4, name="over"), team="b").phase is Phase.QUEUED
    (why,) = world.coordinator.status("over").waits_for
    assert str(why) == "limit in the queue b: wanted 4 GPUs, available 0 of at most 8 (8 used)"
    world.file.text = "b: {limit: 12}"
    world.pass_time(1)
    assert world.coordinator.status("over").phase is Phase.HELD
    assert world.used("b") == 12.0
    with pytest.raises(InvalidRequest, match="no such queue"):
        world.submit(gang(1, name="new"), team="a")
    world.check()


def test_guarantees_beyond_the_cluster_are_told() -> None:
    """16 GPUs."""
    world = TeamWorld("a: {guarantee: 8}\nb: {guarantee: 8}")
    assert world.coordinator.problem_of_queues() == ""
    world.file.text = "a: {guarantee: 8}\nb: {guarantee: 8.5}"
    world.pass_time(1)
    assert "16.5 GPUs are guaranteed together, and the cluster has 16:" in world.coordinator.problem_of_queues()
    world.file.text = ""
    world.pass_time(1)
    assert world.coordinator.problem_of_queues() == ""


@pytest.mark.parametrize("text", ["a: {guarantee: many}", None])
def test_what_cannot_be_read_changes_nothing_also_after_a_restart(text: str | None) -> None:
    world = TeamWorld()
    assert world.coordinator.declared_queues.problem == ""
    world.file.text = text
    for _ in range(2):
        world.pass_time(1)
        assert "what was before does" in world.coordinator.declared_queues.problem
        assert [each.name for each in world.coordinator.teams()] == ["a", "b", "default"]
        world.submit(gang(4, 4, 4, name="large"), team="a")
        world.restart()
    world.file.text = "c:"
    world.pass_time(1)
    assert world.coordinator.declared_queues.problem == ""
    assert [each.name for each in world.coordinator.teams() if each.declared] == ["c", "default"]


def test_what_cannot_be_read_when_nothing_held_before_is_said_at_once() -> None:
    with pytest.raises(InvalidRequest, match="guarantee"):
        TeamWorld("a: {guarantee: many}")


def test_without_the_setting_nothing_is_left_of_the_queues() -> None:
    world = TeamWorld()
    assert world.store.get(KEY) is not None
    del world.file
    world.restart()
    assert world.store.get(KEY) is None
    assert not world.coordinator.teams()


def script(world: World) -> None:
    """A life of two teams; every step may be repeated after a kill."""
    assert isinstance(world, TeamWorld)
    for name, team, sizes in (("a1", "a", (4, 4)), ("b1", "b", (4, 4)), ("b2", "b", (4,)), ("a2", "a", (4,))):
        world.submit(gang(*sizes, name=name), team=team)
    for name in ("a1", "b1"):
        status = world.coordinator.status(name)
        if status.allocation is not None and status.group is None:
            world.place(name)
    world.file.text = "a: {guarantee: 8}\nb: {guarantee: 4, limit: 8, weight: 2}"
    world.pass_time(1)
    world.coordinator.release("a1")
    world.pass_time(1)
    world.coordinator.release("b1")
    world.pass_time(1)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_write_no_team_is_over_its_limit(after: bool) -> None:
    """And each gang is in its team's queue, as it said."""
    for world in failing_at_each_write(script, after=after, make=TeamWorld):
        lived(world, script, back=lambda world: world.restart())
        assert isinstance(world, TeamWorld)
        world.check()
        assert world.used("b") <= 8.0
        kept = {name: each.team for name, each in world.coordinator.gangs.items()}
        assert kept == {name: name[0] for name in kept}
        assert {name for name, each in world.coordinator.gangs.items() if each.allocation} == {"b2", "a2"}
        world.restart()
        assert {name: each.team for name, each in world.coordinator.gangs.items()} == kept
        for name in ("a1", "a2", "b1", "b2"):
            world.coordinator.release(name)
        world.pass_time(80)
        world.check_empty()
