"""A world of fakes that remembers how it was at each single write, so that a coordinator can be killed at every one of
them and another one goes on from there; and what may befall a gang meanwhile.

What is remembered is what outlives a coordinator: Kubernetes, Ray, the store and the clock. A kill before a write finds
what the write before it left, so that states that are alike are remembered once.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

from ray_dra.coordinator.coordinator import Coordinator
from ray_dra.coordinator.status import Status
from ray_dra.core.gangs.gang import made_here
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import OnFault
from ray_dra.errors import RayDraError
from ray_dra.ports.kubernetes import Object
from ray_dra.ports.ray import GroupAnswer, NewGroup
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.simulated.fakes import FakeRay, MemoryStore
from ray_dra.translate.ray.bundles import ray_bundles
from tests.coordinator.fault_worlds import NAME
from tests.coordinator.world import Clock

PATIENCE = 800  # turns of half a second: longer than anything that a gang waits for by itself
STANDS = 2 * int(KEPT_SECONDS) + 20  # turns after which a gang that waits does so for somebody else
Mark = Callable[[], None]


class NotedKube(FakeKube):
    doubled = False
    mark: Mark

    def create(self, thing: Object) -> str:
        self.mark()
        made = super().create(thing)
        self.mark()
        return made

    def patch(self, kind: str, name: str, change: Object) -> None:
        self.mark()
        super().patch(kind, name, change)
        self.mark()

    def delete(self, kind: str, name: str) -> None:
        self.mark()
        super().delete(kind, name)
        self.mark()


class NotedRay(FakeRay):
    mark: Mark

    def make_group(self, new: NewGroup, *, again: bool) -> GroupAnswer:
        self.mark()
        answer = super().make_group(new, again=again)
        self.mark()
        return answer

    def remove_group(self, group: str) -> None:
        self.mark()
        super().remove_group(group)
        self.mark()

    def drain(self, node_id: str, why: str, deadline: float) -> None:
        self.mark()
        super().drain(node_id, why, deadline)
        self.mark()


class NotedStore(MemoryStore):
    mark: Mark

    def put(self, key: str, value: bytes) -> None:
        self.mark()
        super().put(key, value)
        self.mark()

    def delete(self, key: str) -> None:
        self.mark()
        super().delete(key)
        self.mark()


class State(NamedTuple):
    """How the world was at a write. `phase`: the gang's, with how far a change of shape had come; `said`: for whoever
    reads of a failure."""

    phase: str
    said: str
    kept: bytes


_COUNTED = ("_version", "_count", "writes", "mark")  # that differ though nothing else does


_World = TypeVar("_World", bound="Noted")


class Noted:
    """A world whose `ports`, by their names there, say each write. `states`: those at each while `noting`; `more`:
    what else of it outlives a coordinator."""

    ports: ClassVar[Mapping[str, type]]
    more: ClassVar[tuple[str, ...]] = ()
    coordinator: Coordinator
    ray: FakeRay
    store: MemoryStore
    clock: Clock

    def restart(self) -> None:
        raise NotImplementedError

    def go_on(self) -> None:
        """Everybody but the gang's program does something once."""
        raise NotImplementedError

    def ask(self, declared: OnFault, bundles: int = 2) -> None:
        """The gang, over so many whole trays of a rack."""
        raise NotImplementedError

    def fill(self, bundles: int = 3) -> str:
        """Another gang, which is ready."""
        raise NotImplementedError

    def strike(self, node: str) -> None:
        """What the gang has there is lost."""
        raise NotImplementedError

    def drain(self, node: str) -> None:
        """It is to be drained."""
        raise NotImplementedError

    def mend(self, node: str) -> None:
        """It is well again."""
        raise NotImplementedError

    def heal(self) -> None:
        """All hardware is well again, and whoever else had some has left."""
        raise NotImplementedError

    def has_room(self) -> bool:
        """Whether the gang could be placed now, by what the world says alone."""
        raise NotImplementedError

    def leftovers(self) -> list[object]:
        """What is there that no gang has."""
        raise NotImplementedError

    def begin(self) -> None:
        self.noting, self.states = False, dict[bytes, State]()
        for name, kind in self.ports.items():
            getattr(self, name).__class__ = kind
            getattr(self, name).mark = self.mark
        self.restart()

    def mark(self) -> None:
        """Remember how it is now."""
        if not self.noting:
            return
        ports = {name: dict(getattr(self, name).__dict__) for name in self.ports}
        for port in ports.values():
            del port["mark"]
        more = {name: getattr(self, name) for name in self.more}
        alike = pickle.dumps(
            [[each for each in port.items() if each[0] not in _COUNTED] for port in ports.values()] + [[*more.items()]]
        )
        if alike not in self.states:
            said = f"{self.phase} at {self.clock.now:g}"
            self.states[alike] = State(self.phase, said, pickle.dumps((ports, more, self.clock.now)))

    @classmethod
    def back(cls: type[_World], state: State) -> _World:
        """Another coordinator in the world as it was."""
        world = cls.__new__(cls)
        ports, more, now = pickle.loads(state.kept)
        for name, kind in cls.ports.items():
            port: Any = object.__new__(kind)
            port.__dict__ = ports[name]
            setattr(world, name, port)
        for name, value in more.items():
            setattr(world, name, value)
        world.clock = Clock()
        world.clock.now = now
        world.begin()
        return world

    def turn(self) -> None:
        self.mark()
        self.go_on()
        self.mark()
        self._drive()
        self.ray.settle()

    def _drive(self) -> None:
        """As its program's handle does: make the placement group where that is its turn, say so again where nobody
        answered, and remove one that is not taken."""
        gang = self.coordinator.gangs.get(NAME)
        for group in [name for name, made in self.ray.groups.items() if made.state != "REMOVED"]:
            if group in self.coordinator.records.groups:
                continue
            if gang is None or self.coordinator.commit(NAME, group, gang.moves).group != group:
                self.ray.remove_group(group)
        if gang is None or gang.allocation is None or gang.group is not None or made_here(gang):
            return
        if self.status.phase not in (Phase.PROVISIONING, Phase.RELEASING) and self.status.group is None:
            group = self.ray.create_group(ray_bundles(gang.request), self.status.selectors, "job")
            self.coordinator.commit(NAME, group, gang.moves)
            self.mark()

    @property
    def status(self) -> Status:
        return self.coordinator.status(NAME)

    @property
    def phase(self) -> str:
        gang = self.coordinator.gangs.get(NAME)
        if gang is None:
            return Phase.GONE.value
        status = self.status
        stage = status.reshape.value if status.reshape is not None else ""
        return " ".join(filter(None, [status.phase.value, stage]))

    @property
    def well(self) -> bool:
        """The gang runs, whole or shrunk, and nothing of it is about to end."""
        gang = self.coordinator.gangs.get(NAME)
        if gang is None or gang.notice is not None or gang.reshape is not None or gang.replacing:
            return False
        return self.status.phase is Phase.READY and not self.status.lost

    @property
    def why_gone(self) -> str:
        try:
            return str(self.status)
        except RayDraError as error:
            return str(error)

    def until_well(self) -> bool:
        self.until_settled()
        return self.well

    def until_settled(self) -> None:
        """Until it is well, or gone, or nothing has changed for longer than any place is kept."""
        before, since = None, 0
        for turn in range(PATIENCE):
            self.turn()
            if self.well or NAME not in self.coordinator.gangs:
                return
            now = self.status.phase, self.status.moves
            before, since = now, since if now == before else turn
            if turn - since > STANDS and now[0] in (Phase.QUEUED, Phase.DRAINING, Phase.DEGRADED):
                return

    @property
    def ends(self) -> bool:
        """Its program has given it back, was not told of it yet, or has ended."""
        gang = self.coordinator.gangs.get(NAME)
        return gang is None or gang.releasing or gang.owner not in self.ray.jobs

    def ends_well(self, *, may_be_gone: bool) -> str:
        """Everybody goes on. Returns how the gang came out of it; raises AssertionError where it did not come out well,
        or left something behind."""
        said = "ready"
        if not self.until_well() and NAME in self.coordinator.gangs:
            status = self.status
            told = f"{status.phase}, lost {status.lost}, {status.said}; {status.history}"
            if status.phase is Phase.QUEUED:
                assert status.waits_for, told
                assert not self.has_room(), told
                said = "queued"
            elif not self.coordinator.gangs[NAME].on_fault.acts:
                assert status.phase is Phase.DEGRADED, told
                assert status.lost, told
                self.leaves_nothing()
                return "degraded"
            else:  # nothing is lost, and to be drained is what has nowhere to go
                assert status.phase is Phase.DRAINING, told
                assert not status.lost, told
                assert not self.has_room(), told
                said = "draining"
            self.heal()
            assert self.until_well(), f"not well again: {self.status.phase} {self.status.history}"
        if NAME not in self.coordinator.gangs:
            assert may_be_gone, f"the gang is gone: {self.why_gone}"
            said = "gone"
        self.leaves_nothing()
        return said

    def leaves_nothing(self) -> None:
        for gang in list(self.coordinator.gangs):
            self.coordinator.release(gang)
        self.heal()
        for _ in range(PATIENCE):
            self.turn()
            if not (self.coordinator.gangs or self.leftovers()) and self.coordinator.idle:
                break
        assert not self.coordinator.gangs
        assert not self.leftovers(), self.leftovers()
        assert all(group.state == "REMOVED" for group in self.ray.groups.values())
        assert self.coordinator.idle
