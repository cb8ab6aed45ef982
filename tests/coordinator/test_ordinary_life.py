"""Ordinary groups on raylets that are there, whoever ends when: the coordinator at any of its writes, their program,
the actor that made them, a raylet. On Kubernetes: test_ordinary_kubernetes_life.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.order import Order
from ray_dra.core.model.locality import Locality
from ray_dra.errors import GangGone
from ray_dra.translate.names import MAP_KEY, NODE_LABEL
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator.kills import MortalRay, die_at
from tests.coordinator.world import Crash, CrashingStore, World

ACTOR = "b" * 32
PLACES = ("store", "ray")
EVERYTHING = (4, 4, 4, 4)


class MortalWorld(World):
    """Programs that make ordinary groups; calls to a coordinator that dies are sent again, as Ray does."""

    def __init__(self) -> None:
        super().__init__()
        self.ray.__class__ = MortalRay
        self.ray.jobs |= {"job", "other"}
        self.ray.actors[ACTOR] = "job"
        self.selectors: dict[str, list[dict[str, str]]] = {}  # of each group, as Ray was first told

    def die_at(self, place: str, write: int | None, *, after: bool) -> None:
        """The coordinator is killed before or after so many more writes there; None: it is not."""
        die_at(self, place, write, after=after)

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

    def make(self, number: int, *sizes: int, job: str = "job", actor: str = "", outlives: bool = False) -> str:
        group = f"{number:036x}"
        locality = Locality(cliques=1, required=False)
        request = replace(request_from_bundles([{"GPU": float(n)} for n in sizes], locality=locality), gang=group)
        order = Order(request, owner=job, ordinary=OrdinaryGroup(group, actor, outlives))
        self.ask(lambda: self.coordinator.submit(order))
        return group

    def remove(self, group: str) -> None:
        """As `ray.util.remove_placement_group` does in a program with our hook."""
        if group in self.ray.groups:
            self.ray.groups[group].state = "REMOVED"
        self.ask(lambda: self.coordinator.release(group))

    def turn(self, seconds: float = 1.0) -> None:
        for _ in range(int(seconds)):
            self.ask(lambda: self.pass_time(1.0))
        for group, told in self.ray.groups.items():
            before = self.selectors.setdefault(group, [dict(each) for each in told.selectors])
            assert [dict(each) for each in told.selectors] == before, "a registered group is never moved"
            if told.state == "CREATED":
                assert self.store.get(MAP_KEY + group) is not None, "its workers would not find their GPUs"

    def restart_raylet(self, name: str) -> None:
        self.ray.kill_node(self.raylet(name))
        self.turn()
        self.incarnation[name] += 1
        self.ray.add_node(self.raylet(name), gpus=4, labels={NODE_LABEL: name})
        self.turn()
        self.ask(lambda: self.report(name))

    def end_of_all(self) -> None:
        """Nothing is held, and nobody waits for a group that is gone."""
        for place in PLACES:
            self.die_at(place, None, after=False)
        self.turn(KEPT_SECONDS + 10)  # what was given back after a fault is kept for its program for so long
        self.check_empty()
        assert self.coordinator.inventory.free_devices == 16
        assert all(group.state == "REMOVED" for group in self.ray.groups.values())


def steps(world: MortalWorld, **owner: object) -> list[Callable[[], object]]:
    """A life: one group has all GPUs, two wait, one of them is removed, the first makes room, a raylet is lost."""

    def make(number: int, *sizes: int) -> Callable[[], object]:
        return lambda: world.make(number, *sizes, **owner)  # type: ignore[arg-type]

    return [
        make(1, *EVERYTHING),
        make(2, 4, 4),
        make(3, 2),
        world.turn,
        lambda: world.remove(f"{3:036x}"),
        lambda: world.remove(f"{1:036x}"),
        world.turn,
        make(4, 4, 4, 2),
        lambda: world.restart_raylet("t0"),
        lambda: world.turn(3),
    ]


STEPS = len(steps(MortalWorld()))


@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("kept", ["by its job", "by an actor", "by a detached actor"])
def test_whoever_ends_at_any_step_takes_its_groups_with_it(step: int, kept: str) -> None:
    """Those that wait, too; another program's stays, and has its turn."""
    world = MortalWorld()
    owner = {} if kept == "by its job" else {"actor": ACTOR, "outlives": kept == "by a detached actor"}
    for do in steps(world, **owner)[:step]:
        do()
    others = world.make(9, *EVERYTHING, job="other")
    for ends in {"by its job": ["job"], "by an actor": ["actor", "job"], "by a detached actor": ["job", "actor"]}[kept]:
        assert len(world.coordinator.gangs) > 1, "not before the last of its owners ends"
        if ends == "job":
            world.ray.jobs.remove("job")
        else:
            del world.ray.actors[ACTOR]
        world.turn(2)
    world.turn(10)
    assert world.coordinator.gangs.keys() == {others}
    assert world.ray.groups[others].state == "CREATED"
    world.ray.jobs.clear()
    world.end_of_all()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("ends", ["nobody", "the program"])
def test_a_coordinator_killed_at_any_write_goes_on(place: str, after: bool, ends: str) -> None:
    """Also while it gives back what a program that ended has left."""
    plain = MortalWorld()
    assert isinstance(plain.store, CrashingStore)
    before = plain.store.writes
    for do in steps(plain):
        do()
    for write in range(plain.store.writes - before + 2 if place == "store" else 6):
        world = MortalWorld()
        world.die_at(place, write, after=after)
        for do in steps(world):
            do()
        world.check()
        second, fourth = f"{2:036x}", f"{4:036x}"
        assert world.coordinator.gangs.keys() == {second, fourth}
        assert world.ray.groups[second].state == "CREATED"
        if ends == "nobody":
            world.remove(second)
            world.remove(fourth)
        world.ray.jobs.discard("job")
        world.end_of_all()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("held", [False, True], ids=["waits", "has its place"])
def test_a_release_that_nobody_sends_again_is_done_or_not_begun(
    held: bool, place: str, write: int, after: bool
) -> None:
    """Its program has ended by then, or another asked. What is made in Ray only to be removed is never taken for the
    group that was waited for: its GPUs would be nobody's."""
    world = MortalWorld()
    world.make(1, *EVERYTHING)
    group = world.make(2, 4)
    if held:
        world.remove(f"{1:036x}")
        world.make(3, *EVERYTHING)
    world.die_at(place, write, after=after)
    try:
        world.coordinator.release(group)
    except Crash:
        world.restart()
    for left in PLACES:
        world.die_at(left, None, after=False)
    if held:
        world.turn(KEPT_SECONDS + 5)
        assert group in world.coordinator.gangs or world.ray.groups[f"{3:036x}"].state == "CREATED"
    else:
        world.remove(f"{1:036x}")
        world.turn(5)
    if group in world.coordinator.gangs:  # as if nobody had asked
        assert world.ray.groups[group].state == "CREATED"
        world.remove(group)
    if held:
        world.remove(f"{3:036x}")
    world.end_of_all()


class Life(RuleBasedStateMachine):
    """All of it in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = MortalWorld()
        self.count = 0
        self.wanted: set[str] = set()  # groups whose owners live, and that nobody has removed
        self.made: dict[str, tuple[str, str]] = {}  # group -> its job, and what kind of actor keeps it

    @rule(
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        job=st.sampled_from(["job", "other"]),
        keeper=st.sampled_from(["", "actor", "detached"]),
    )
    def make(self, sizes: list[int], job: str, keeper: str) -> None:
        actor = ACTOR if keeper else ""
        if job in self.world.ray.jobs and (not actor or actor in self.world.ray.actors):
            self.count += 1
            group = self.world.make(self.count, *sizes, job=job, actor=actor, outlives=keeper == "detached")
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

    @rule(name=st.sampled_from(["t0", "t3"]))
    def restart_raylet(self, name: str) -> None:
        self.world.restart_raylet(name)

    @rule(seconds=st.sampled_from([1, 3, 15]))
    def time_passes(self, seconds: int) -> None:
        self.world.turn(seconds)

    @invariant()
    def no_group_is_forgotten(self) -> None:
        """Whoever waits for it would wait for ever."""
        living = {name for name, group in self.world.ray.groups.items() if group.state != "REMOVED"}
        assert self.wanted <= self.world.coordinator.gangs.keys() | living

    @invariant()
    def all_is_well(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        for place in PLACES:
            self.world.die_at(place, None, after=False)
        for group in sorted(self.wanted):
            self.world.remove(group)
        self.world.end_of_all()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
