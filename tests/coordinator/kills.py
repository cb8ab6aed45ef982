"""A coordinator that is killed, or failed by the store, at each single step of a life, and brought back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ray_dra.core.gangs.phases import Phase
from ray_dra.errors import GangGone, RayDraError
from ray_dra.ports.ray import GroupAnswer, NewGroup
from ray_dra.simulated.fakes import FakeRay
from tests.coordinator.world import Crash, CrashingStore, World

Life = Callable[[World], None]
READY_SECONDS = 10  # that what is left to be done takes at most, once a gang is ready


class Broken(RuntimeError):
    """As Ray's store fails: what was asked may have been done."""


class SilentRay(FakeRay):
    """Does not answer when it is asked for a group; `took`: it has made it all the same."""

    silent = True
    took = False

    def make_group(self, new: NewGroup, *, again: bool) -> GroupAnswer:
        if self.silent:
            if self.took:
                super().make_group(new, again=again)
            raise RayDraError("Ray's control store did not answer.")
        return super().make_group(new, again=again)


class MortalRay(FakeRay):
    """The coordinator is killed when it is about to do something to a placement group, or just has: so many such things
    from now on."""

    left: int | None = None
    after = False

    def die_at(self, thing: int, *, after: bool) -> None:
        self.left, self.after = thing, after

    def make_group(self, new: NewGroup, *, again: bool) -> GroupAnswer:
        self._die(after=False)
        answer = super().make_group(new, again=again)
        self._die(after=True)
        return answer

    def remove_group(self, group: str) -> None:
        self._die(after=False)
        super().remove_group(group)
        self._die(after=True)

    def _die(self, *, after: bool) -> None:
        if self.left is not None and after is self.after:
            self.left = self.left - 1 if self.left else None
            if self.left is None:
                raise Crash


def writes_of(life: Life, make: Callable[[], World] = World) -> int:
    """How many writes to the store a life takes."""
    world = make()
    assert isinstance(world.store, CrashingStore)
    before = world.store.writes
    life(world)
    return world.store.writes - before


def failing_at_each_write(
    life: Life, *, after: bool, error: type[BaseException] = Crash, make: Callable[[], World] = World
) -> Iterator[World]:
    """A world for each write that the life takes, whose store fails before or after that write."""
    count = writes_of(life, make)
    assert count >= 15
    for at in range(count):
        world = make()
        assert isinstance(world.store, CrashingStore)
        world.store.left, world.store.after, world.store.error = at, after, error
        yield world


def lived(world: World, life: Life, *, back: Callable[[World], None] = World.restart) -> None:
    """The life, from its beginning where something fails in it: every step of it may be repeated. `back`: what brings
    the coordinator back."""
    for _ in range(3):
        try:
            life(world)
            return
        except (Crash, Broken):
            back(world)
            world.check()
        except GangGone:
            pass  # the step before was done already


def die_at(world: World, place: str, write: int | None, *, after: bool = False) -> None:
    """The coordinator is killed before or after so many more writes to the "store" or to "ray"; None: it is not."""
    if place == "store":
        assert isinstance(world.store, CrashingStore)
        world.store.left, world.store.after = write, after
    else:
        assert isinstance(world.ray, MortalRay)
        world.ray.left, world.ray.after = write, after


def spare(world: World) -> None:
    """The coordinator is killed nowhere any more."""
    for place in ("store", "ray"):
        die_at(world, place, None)


def placed_all_the_same(world: World, name: str, seconds: int, ask: Callable[[], object] = lambda: None) -> bool:
    """So many seconds in which a gang is asked for, if `ask` does that, and gets its place; fewer once it has been
    ready for a while. Returns whether the coordinator was killed meanwhile; it is no more."""
    died, asked, ready = False, False, 0
    for _ in range(seconds):
        if ready == READY_SECONDS:
            break
        try:
            if not asked:
                ask()
                asked = True
            world.pass_time(1)
            if world.coordinator.status(name).phase is Phase.HELD:
                spare(world)  # it has what it needs
                world.place(name)
            ready = ready + 1 if world.coordinator.status(name).phase is Phase.READY else 0
        except Crash:
            died = True
            world.come_back()
    spare(world)
    return died
