"""Thousands of gangs in the queue: what a call costs does not grow with them. Work is counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from ray_dra.coordinator.turns import BUSY_SECONDS
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs import planning
from ray_dra.core.gangs.order import Order
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import CLUSTER, ShortfallKind, Unsatisfiable, short
from ray_dra.core.plan import plan
from ray_dra.errors import UnsatisfiableError
from ray_dra.simulated.fakes import MemoryStore
from tests.core.machines import gang

from .world import Clock, Phase, World

WRITE_SECONDS = 0.0013  # of a real store


class SlowStore(MemoryStore):
    """Each call takes as long as one to Ray's control store, by the world's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clock: Clock | None = None
        self.calls = 0

    def _pass(self) -> None:
        self.calls += 1
        if self.clock is not None:
            self.clock.now += WRITE_SECONDS

    def put(self, key: str, value: bytes) -> None:
        self._pass()
        super().put(key, value)

    def delete(self, key: str) -> None:
        self._pass()
        super().delete(key)


def work(call: Callable[[], object]) -> int:
    """How many functions of ours a call calls."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call" and "ray_dra" in frame.f_code.co_filename

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


def crowded(waiting: int, store: MemoryStore | None = None) -> World:
    world = World(store=store)
    world.ray.jobs.add("another")
    world.submit(gang(*[4] * 4, name="all"))
    world.place("all")
    for number in range(waiting):
        world.submit(gang(4, name=f"w{number}", priority=number % 3))
    return world


def test_what_a_call_costs_does_not_grow_with_the_queue() -> None:
    few, many = (calls_of(crowded(waiting)) for waiting in (20, 600))
    assert few == many


def calls_of(world: World) -> dict[str, int]:
    coordinator = world.coordinator
    for _ in range(3):
        coordinator.observe()
    group = coordinator.gangs["all"].group or ""
    made = {
        "submit": work(lambda: world.submit(gang(4, name="more"))),
        "look": work(coordinator.observe),
        "status": work(lambda: coordinator.status("w7")),
        "release": work(lambda: coordinator.release("w7")),
        "devices": work(lambda: coordinator.devices_for("t0-0", group, 0, (0,), 1)),
    }
    assert work(coordinator.statuses) < 40 * len(coordinator.gangs)  # for each gang what it says, and no look at others
    world.check()
    return made


def look(world: World) -> float:
    """One look, and the pause before it; how long the look took by the store."""
    world.ray.settle()
    for raylet in list(world.coordinator.nodes.heard):
        world.coordinator.nodes.heartbeat(raylet)
    world.clock.now += 0.25
    before = world.clock.now
    world.coordinator.observe()
    return world.clock.now - before


def test_when_their_owner_dies_no_look_takes_long_and_nobody_waits_behind_them() -> None:
    store = SlowStore()
    world = crowded(1_500, store)
    store.clock = world.clock
    assert world.coordinator.submit(Order(gang(4, name="other"), owner="another")).phase is Phase.QUEUED
    world.ray.jobs.discard("job")
    for looks in range(20):
        assert look(world) <= BUSY_SECONDS + 0.1
        left = len(world.coordinator.gangs) - 1
        assert world.coordinator.behind == bool(left)
        if looks == 3:
            assert left
            assert world.coordinator.status("other").phase is Phase.HELD, "the dead stand before nobody"
        if not left:
            break
    assert list(world.coordinator.gangs) == ["other"]
    assert all(state.node.ready for state in world.coordinator.inventory.node_states.values())
    world.check()


def test_a_kill_while_the_dead_are_forgotten_changes_nothing() -> None:
    store = SlowStore()
    world = crowded(600, store)
    store.clock = world.clock
    world.ray.jobs.discard("job")
    for _ in range(20):
        look(world)
        world.check()
        world.restart()
        world.check()
    world.check_empty()


def test_many_that_can_be_served_at_once_are_served_look_by_look_in_order() -> None:
    store = SlowStore()
    world = World(nodes=128, store=store)
    world.submit(gang(*[4] * 128, name="all"))
    for number in range(500):
        world.submit(gang(1, name=f"w{number}"))
    store.clock = world.clock
    before = world.clock.now
    world.coordinator.release("all")
    assert world.clock.now - before <= BUSY_SECONDS + 0.1
    while world.coordinator.records.first is not None:
        assert look(world) <= 2 * BUSY_SECONDS + 0.1
        held = [int(name[1:]) for name, found in world.coordinator.gangs.items() if found.allocation is not None]
        assert held == list(range(len(held)))
    world.check()


def test_a_look_at_which_nothing_has_changed_plans_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = crowded(50)
    world.pass_time(2)
    planned: list[GangRequest] = []

    def counted(inventory: Inventory, request: GangRequest, **options: bool) -> Allocation | Unsatisfiable:
        planned.append(request)
        return plan(inventory, request, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(planning, "plan", counted)
    writes = dict(world.store.data)
    world.pass_time(10)
    assert not planned
    assert world.store.data == writes
    world.coordinator.release("all")
    world.pass_time(2)
    assert world.coordinator.gangs["w2"].allocation is not None


def test_a_gang_that_is_hard_to_place_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = crowded(3)
    world.pass_time(1)
    planned = []

    def slowly(*arguments: object, **options: object) -> Unsatisfiable:
        planned.append(world.clock.now)
        world.clock.now += 0.4
        return Unsatisfiable("w2", (short(ShortfallKind.BOUND, CLUSTER, ((4, 2),), None, steps=9),), proven=False)

    monkeypatch.setattr(world.coordinator.engine.planning, "plan", slowly)
    began = world.clock.now
    while world.clock.now < began + 40:
        world.coordinator.inventory.changes += 1  # something comes or goes all the time
        look(world)
    assert 5 < len(planned) < 12
    monkeypatch.undo()
    world.coordinator.release("all")
    world.pass_time(6)
    assert world.coordinator.gangs["w2"].allocation is not None


def test_numbers_of_devices_are_compared_before_anything_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.submit(gang(4, name="first"))
    monkeypatch.setattr(planning, "plan", lambda *a, **b: pytest.fail("there is nothing to search for"))
    for wait in (True, False):
        huge = gang(*[1 + n % 4 for n in range(5_000)], name="huge")
        with pytest.raises(UnsatisfiableError, match="even if nobody else") as caught:
            world.submit(huge, wait=wait)
        assert caught.value.shortfalls == (short(ShortfallKind.DEVICES, CLUSTER, 12500, 16),)


def test_a_search_that_was_ended_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    bound = short(ShortfallKind.BOUND, CLUSTER, ((4, 2),), None, steps=9)
    monkeypatch.setattr(planning, "plan", lambda *a, **b: Unsatisfiable("g", (bound,), proven=False))
    with pytest.raises(UnsatisfiableError, match="within the bound of work") as caught:
        world.submit(gang(4, name="g"))
    assert "even if nobody else" not in str(caught.value)
    world.check_empty()


def test_a_program_has_so_many_gangs_in_the_queue_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_dra.core.gangs.admission.MOST_WAITING", 5)
    world = crowded(5)
    with pytest.raises(UnsatisfiableError, match="at most 5 gangs in the queue") as caught:
        world.submit(gang(4, name="more"))
    assert caught.value.shortfalls[0].kind is ShortfallKind.QUEUE
    assert "more" not in world.coordinator.gangs
    assert world.coordinator.submit(Order(gang(4, name="other"), owner="another")).phase is Phase.QUEUED
    world.coordinator.release("w0")
    assert world.submit(gang(4, name="more")).phase is Phase.QUEUED
    world.check()
