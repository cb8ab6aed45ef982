"""Every phase, every victim, every write: lives of gangs that meet a fault and go through all phases, in which the
coordinator is killed at each single write, with something else lost just then; and at each write of what follows that.

However it comes, the gang is ready again, or waits with a true reason and is ready once there is room; no device is had
twice, and nothing is left in the end. In the suite some of each life; all of it by hand: `pytest --runxfail -m by_hand
tests/coordinator/test_every_kill.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache

import pytest

from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import DEGRADE, OnFault, on_fault
from ray_dra.translate.names import SPARE_LABEL
from tests.core.machines import gang, group_id

from .every_write import VICTIMS, NotedWorld, State
from .fault_worlds import GRACE, HERE, NAME, ONE_CLIQUE

REPLACE, RESTART = on_fault(("replace", "restart"), GRACE), on_fault("restart", GRACE)
SHRINK = on_fault(("shrink", "restart"), GRACE, min_bundles=1)


def ask(world: NotedWorld, declared: OnFault, bundles: int = 2) -> None:
    asked = world.order(bundles, on_fault=declared, name="train")
    world.coordinator.submit(replace(asked, request=replace(asked.request, gang=NAME), maker=HERE))


def until(world: NotedWorld, done: Callable[[], object]) -> None:
    for _ in range(200):
        world.turn()
        if done():
            return
    raise AssertionError(f"it does not come to that: {world.status.history}")


def turns(world: NotedWorld, count: int) -> None:
    for _ in range(count):
        world.turn()


def filled(world: NotedWorld) -> str:
    """Somebody else has a rack."""
    other = world.coordinator.submit(world.order(3)).gang
    assert world.drive(other) is Phase.READY
    return other


def repaired(world: NotedWorld) -> bool:
    return world.status.moves > 0 and world.well


def replaced(world: NotedWorld) -> None:
    """It waits for room, is made, loses a worker to the node that is free in its rack, and is given back."""
    first, _ = filled(world), filled(world)
    world.noting = True
    ask(world, REPLACE)
    turns(world, 2)
    world.coordinator.release(first)
    until(world, lambda: world.well)
    world.kube.taint(world.nodes[1], "NoExecute")
    until(world, lambda: repaired(world))
    world.coordinator.release(NAME)
    until(world, lambda: NAME not in world.coordinator.gangs and not world.of_gang("Pod"))


def moved(world: NotedWorld) -> None:
    """It has a whole rack, and starts again in the other one."""
    ask(world, RESTART, 3)
    until(world, lambda: world.well)
    world.noting = True
    world.kube.taint(world.nodes[1], "NoExecute")
    until(world, lambda: repaired(world))


def queued_again(world: NotedWorld) -> None:
    """The same where the other rack is taken: it waits with its place kept, until the node is repaired."""
    filled(world)
    ask(world, RESTART, 3)
    until(world, lambda: world.well)
    node = world.nodes[1]
    world.noting = True
    world.kube.taint(node, "NoExecute")
    until(world, lambda: world.status.phase is Phase.QUEUED)
    turns(world, 3)
    world.kube.taint(node, "")
    until(world, lambda: world.well)


def drained(world: NotedWorld) -> None:
    """A cordon, which Ray is told of before the worker leaves."""
    ask(world, REPLACE)
    until(world, lambda: world.well)
    world.noting = True
    world.kube.cordon(world.nodes[1])
    until(world, lambda: repaired(world))


def grown(world: NotedWorld) -> None:
    """It shrinks, and grows back."""
    ask(world, SHRINK)
    until(world, lambda: world.well)
    node = world.nodes[1]
    world.noting = True
    world.kube.taint(node, "NoExecute")
    until(world, lambda: repaired(world))
    world.kube.taint(node, "")
    until(world, lambda: world.well and not world.status.shrunk)


def reshaped(world: NotedWorld) -> None:
    """Its program gives it another shape, and has work in the old one for a while."""
    ask(world, REPLACE)
    until(world, lambda: world.well)
    world.noting = True
    for group in world.ray.groups.values():
        group.workers.add(0)
    world.coordinator.reshape(NAME, gang(2, 2, 2, 2, name=NAME, locality=ONE_CLIQUE), 60.0, 2.0)
    until(world, lambda: repaired(world))


def spared(world: NotedWorld) -> None:
    """A spare that is lent to another gang is taken back for a repair; the other rack is taken."""
    filled(world)
    rack = [name for name, node in world.coordinator.inventory.node_states.items() if node.free]
    world.kube.label(rack[0], **{SPARE_LABEL: "true"})
    world.turn()
    lent = world.order(bundles=1, name="lent", on_fault=on_fault("degrade", GRACE))
    request = replace(lent.request, gang=group_id("lent"), priority=9, preemptible=True)
    world.coordinator.submit(replace(lent, request=request, maker=HERE))
    assert world.drive(request.gang) is Phase.READY
    ask(world, REPLACE)
    until(world, lambda: world.well)
    world.noting = True
    world.kube.taint(world.nodes[1], "NoExecute")
    until(world, lambda: repaired(world))
    assert rack[0] in world.nodes


def degraded(world: NotedWorld) -> None:
    """It has declared nothing."""
    ask(world, DEGRADE)
    until(world, lambda: world.well)
    world.noting = True
    node = world.nodes[1]
    world.kube.taint(node, "NoExecute")
    turns(world, 4)
    world.kube.taint(node, "")
    turns(world, 4)
    world.coordinator.release(NAME)
    until(world, lambda: NAME not in world.coordinator.gangs and not world.of_gang("Pod"))


EVERY = 4  # of the victims in each phase, in the suite
LIVES = (replaced, moved, queued_again, drained, grown, reshaped, spared, degraded)
PHASES = {phase.value for phase in Phase} - {"quota"}  # nobody else's queue is here


@cache
def lived(life: Callable[[NotedWorld], None]) -> list[State]:
    """The states at each write of a life."""
    world = NotedWorld()
    life(world)
    return list(world.states.values())


def by_phase(states: list[State]) -> Mapping[str, list[State]]:
    found: dict[str, list[State]] = {}
    for state in states:
        found.setdefault(state.phase, []).append(state)
    return found


def ends_well(state: State, victim: str, said: str) -> str:
    """Another coordinator goes on from there, with one more victim; its end, or AssertionError."""
    world = NotedWorld.back(state)
    ends = world.ends or victim == "the head"
    try:
        VICTIMS[victim](world)
        return world.ends_well(may_be_gone=ends)
    except AssertionError as error:
        raise AssertionError(f"{said}, {state.said}, then {victim}: {error}") from error


def after(state: State, victim: str) -> Iterator[State]:
    """The states at each write of what follows a victim."""
    world = NotedWorld.back(state)
    VICTIMS[victim](world)
    world.noting = True
    world.until_settled()
    yield from world.states.values()


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_killed_in_every_phase_with_every_victim(life: Callable[[NotedWorld], None]) -> None:
    """At one write of each phase in turn."""
    for at, states in enumerate(by_phase(lived(life)).values()):
        for number, victim in enumerate(VICTIMS):
            if (at + number) % EVERY == 0:
                ends_well(states[number % len(states)], victim, life.__name__)


def test_the_lives_go_through_all_phases() -> None:
    found = {state.phase.split()[0] for life in LIVES for state in lived(life)}
    assert found == PHASES


@pytest.mark.by_hand
@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_killed_at_every_write_with_every_victim(life: Callable[[NotedWorld], None]) -> None:
    ends = Counter(ends_well(state, victim, life.__name__) for state in lived(life) for victim in VICTIMS)
    print(f"{life.__name__}: {dict(ends)}")


@pytest.mark.by_hand
@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_killed_at_every_write_of_what_follows_a_victim_in_every_phase(life: Callable[[NotedWorld], None]) -> None:
    ends: Counter[str] = Counter()
    for states in by_phase(lived(life)).values():
        for number, victim in enumerate(VICTIMS):
            for later in after(states[number % len(states)], victim):
                ends[ends_well(later, "nobody", f"{life.__name__}, after {victim}")] += 1
    print(f"{life.__name__}: {dict(ends)}")
