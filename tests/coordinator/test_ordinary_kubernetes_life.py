"""Ordinary placement groups on Kubernetes, where anybody dies at any step: the coordinator at each of its writes, the
program, the actor that keeps a group. Nothing leaks, nothing is twice, and whoever waits is served or told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.model.locality import Locality
from ray_dra.errors import GangGone
from ray_dra.ports.ray import GroupAnswer, NewGroup
from ray_dra.simulated.fakes import FakeRay
from ray_dra.translate.names import MAP_KEY
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator.kubernetes_world import World
from tests.coordinator.world import Crash, CrashingStore

ACTOR = "b" * 32
PLACES = ("store", "kubernetes", "ray")


class MortalRay(FakeRay):
    """The coordinator is killed when it is about to make or remove the n-th placement group, or just has."""

    def __init__(self) -> None:
        super().__init__()
        self.writes, self.left, self.after = 0, -1, False

    def _mortally(self, do: Callable[[], Any]) -> Any:
        self.writes += 1
        due, self.left = self.left == 0, self.left - (self.left >= 0)
        if due and not self.after:
            raise Crash
        found = do()
        if due:
            raise Crash
        return found

    def make_group(self, new: NewGroup, *, again: bool) -> GroupAnswer:
        answer: GroupAnswer = self._mortally(partial(super().make_group, new, again=again))
        return answer

    def remove_group(self, group: str) -> None:
        self._mortally(partial(super().remove_group, group))


class MortalWorld(World):
    """Programs that make ordinary groups; calls to a coordinator that dies are sent again, as Ray does."""

    def __init__(self) -> None:
        super().__init__()
        self.store: CrashingStore = CrashingStore()
        self.ray: MortalRay = MortalRay()
        self.ray.jobs |= {"job", "other"}
        self.ray.actors[ACTOR] = "job"
        self.restart()
        self.selectors: dict[str, list[dict[str, str]]] = {}  # of each group, as Ray was first told

    def writes(self) -> dict[str, int]:
        return dict(zip(PLACES, (self.store.writes, self.kube.writes, self.ray.writes), strict=True))

    def die_at(self, place: str, write: int, *, after: bool) -> None:
        """The coordinator is killed before or after so many more writes there."""
        if place == "store":
            self.store.left, self.store.after = write, after
        elif place == "kubernetes":
            self.kube.die_at(write, after=after)
        else:
            self.ray.left, self.ray.after = write, after

    def restart(self) -> None:
        """It may be killed at each place once more while it starts."""
        for _ in PLACES:
            try:
                return super().restart()
            except Crash:
                pass
        super().restart()

    def ask(self, call: Callable[[], object]) -> None:
        for _ in (*PLACES, None):
            try:
                call()
                return
            except Crash:
                self.restart()
            except GangGone:  # it had been done
                return

    def make(self, number: int, bundles: int = 2, job: str = "job", actor: str = "", outlives: bool = False) -> str:
        group = f"{number:036x}"
        request = request_from_bundles([{"GPU": 4.0}] * bundles, locality=Locality(cliques=1))
        minted = OrdinaryGroup(group, actor, outlives)
        order = Order(replace(request, gang=group), owner=job, ordinary=minted)
        self.ask(lambda: self.coordinator.submit(order))
        return group

    def remove(self, group: str) -> None:
        """As `ray.util.remove_placement_group` does in a program with our hook."""
        if group in self.ray.groups:
            self.ray.groups[group].state = "REMOVED"
        self.ask(lambda: self.coordinator.release(group))

    def _pods(self) -> None:
        """Their writes are none of the coordinator's."""
        before = self.store.left, self.store.writes
        self.store.left = None
        super()._pods()
        self.store.left, self.store.writes = before

    def turn(self) -> None:
        super().turn()
        self.ray.settle()
        for group, told in self.ray.groups.items():
            before = self.selectors.setdefault(group, [dict(each) for each in told.selectors])
            assert [dict(each) for each in told.selectors] == before, "a registered group is never moved"
            if told.state == "CREATED":
                assert self.store.get(MAP_KEY + group) is not None, "its workers would not find their GPUs"

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(120):
            self.turn()
            if condition():
                return
        states = {group: self.coordinator.status(group).phase for group in self.coordinator.gangs}
        raise AssertionError(f"it did not come to be: {states}")

    def ready(self, *groups: str) -> bool:
        there = self.coordinator.gangs
        return all(group in there and self.coordinator.status(group).phase is Phase.READY for group in groups)

    def check_empty(self) -> None:
        self.settle(120)
        assert not self.kube.claimed()
        assert not self.store.keys(MAP_KEY)
        assert all(group.state == "REMOVED" for group in self.ray.groups.values())
        self.coordinator.records.kept.look((), self.clock())  # with its program ends what is kept for it
        assert self.coordinator.inventory.free_devices == 16


def life(world: MortalWorld) -> None:
    """Two groups run, a third waits for the first one's place, and the program ends."""
    first, second, third = (world.make(number) for number in (1, 2, 3))
    world.until(lambda: world.ready(first, second))
    assert third not in world.ray.groups
    world.remove(first)
    world.until(lambda: world.ready(second, third) and first not in world.coordinator.gangs)
    assert all(world.coordinator.status(group).moves == 0 for group in (second, third))
    world.ray.jobs.discard("job")
    world.check_empty()
    assert world.ray.groups.keys() == {first, second, third}


def writes_of_a_life() -> dict[str, int]:
    world = MortalWorld()
    before = world.writes()
    life(world)
    return {place: count - before[place] for place, count in world.writes().items()}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("place", PLACES)
def test_a_coordinator_killed_at_any_write_goes_on(place: str, after: bool) -> None:
    count = writes_of_a_life()[place]
    assert count >= 3
    for write in range(count):
        world = MortalWorld()
        world.die_at(place, write, after=after)
        life(world)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize("turn", range(0, 16, 3))
def test_a_coordinator_killed_while_a_group_is_given_back_tells_ray_all_the_same(
    turn: int, write: int, after: bool
) -> None:
    """Of one that Ray did not know it is told twice: that it is there, and that it is removed."""
    world = MortalWorld()
    group = world.make(1)
    for _ in range(turn):
        world.turn()
    world.die_at("ray", write, after=after)
    world.remove(group)
    world.die_at("ray", -1, after=False)
    world.check_empty()
    assert world.ray.groups[group].state == "REMOVED"


@pytest.mark.parametrize("turn", range(0, 26))
def test_a_program_that_ends_at_any_step_leaves_nothing(turn: int) -> None:
    """The one that waits, too; and another program's stays."""
    world = MortalWorld()
    for number in (1, 2):
        world.make(number)
    other = world.make(3, job="other")
    for _ in range(turn):
        world.turn()
    world.ray.jobs.discard("job")
    world.until(lambda: world.ready(other) and len(world.coordinator.gangs) == 1)
    assert world.coordinator.status(other).moves == 0
    world.ray.jobs.discard("other")
    world.check_empty()


@pytest.mark.parametrize("outlives", [False, True])
@pytest.mark.parametrize("turn", range(0, 26, 2))
def test_a_controller_that_is_lost_at_any_step_takes_its_groups_with_it(turn: int, outlives: bool) -> None:
    """One of its groups runs or is made, the other waits. Those of Train's controller end with its job, too, as in Ray;
    those of Serve's outlive the job that started it."""
    world = MortalWorld()
    kept, others = world.make(1), world.make(2, job="other")
    lost = [world.make(number, actor=ACTOR, outlives=outlives) for number in (3, 4)]
    world.until(lambda: world.ready(kept, others))
    world.remove(kept)
    for _ in range(turn):
        world.turn()
    for ends in ("job", "actor") if outlives else ("actor", "job"):
        assert set(lost) <= world.coordinator.gangs.keys(), "not before both have ended"
        if ends == "job":
            world.ray.jobs.discard("job")
        else:
            world.ray.actors.pop(ACTOR, None)
        for _ in range(4):
            world.turn()
    world.until(lambda: world.coordinator.gangs.keys() == {others})
    assert all(world.ray.groups[group].state == "REMOVED" for group in lost), "whoever waits for one is told"
    world.ray.jobs.clear()
    world.check_empty()


class Life(RuleBasedStateMachine):
    """All of it in any order, nodes that are lost included."""

    def __init__(self) -> None:
        super().__init__()
        self.world = MortalWorld()
        self.count = 0
        self.wanted: set[str] = set()  # groups whose owners live, and that nobody has removed
        self.made: dict[str, tuple[str, str]] = {}  # group -> its job, and what kind of actor keeps it

    @rule(
        bundles=st.integers(1, 2),
        job=st.sampled_from(["job", "other"]),
        keeper=st.sampled_from(["", "actor", "detached"]),
    )
    def make(self, bundles: int, job: str, keeper: str) -> None:
        if job in self.world.ray.jobs:
            self.count += 1
            actor = ACTOR if keeper else ""
            if not actor or actor in self.world.ray.actors:
                group = self.world.make(self.count, bundles, job, actor, keeper == "detached")
                self.wanted.add(group)
                self.made[group] = job, keeper

    @precondition(lambda self: self.wanted)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.wanted)))
        self.wanted.discard(group)
        self.world.remove(group)

    @rule(place=st.sampled_from(PLACES), write=st.integers(0, 3), after=st.booleans())
    def kill_coordinator_at(self, place: str, write: int, after: bool) -> None:
        self.world.die_at(place, write, after=after)

    @rule()
    def end_a_job(self) -> None:
        self.world.ray.jobs.discard("job")
        self.forget()

    @rule()
    def end_the_actor(self) -> None:
        self.world.ray.actors.pop(ACTOR, None)
        self.forget()

    def forget(self) -> None:
        """Groups whose owners have ended are nobody's any more."""
        for group in list(self.wanted):
            job, keeper = self.made[group]
            job_ended = job not in self.world.ray.jobs or keeper == "detached"
            if job_ended and (not keeper or ACTOR not in self.world.ray.actors):
                self.wanted.discard(group)

    @rule(data=st.data())
    def lose_a_node(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.kube.nodes)))
        self.world.kube.lose_node(name)
        for _ in range(data.draw(st.integers(0, 4))):
            self.world.turn()
        self.world.kube.regain_node(name)

    @rule(turns=st.sampled_from([1, 2, 5, 20]))
    def turns(self, turns: int) -> None:
        for _ in range(turns):
            self.world.turn()

    @invariant()
    def no_group_is_forgotten(self) -> None:
        """Whoever waits for it would wait for ever."""
        living = {name for name, group in self.world.ray.groups.items() if group.state != "REMOVED"}
        assert self.wanted <= self.world.coordinator.gangs.keys() | living

    def teardown(self) -> None:
        for place in PLACES:
            self.world.die_at(place, -1, after=False)
        for group in sorted(self.wanted):
            self.world.remove(group)
        self.world.check_empty()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
