"""Every phase, every victim, every write: lives of gangs that meet a fault and go through all phases, in which the
coordinator is killed at each single write, with something else lost just then; and at each write of what follows that.

However it comes, the gang is ready again, or waits with a true reason and is ready once there is room; no device is had
twice, and nothing is left in the end. In the suite some of each life; all of it by hand: `pytest -m by_hand
tests/coordinator/test_every_kill.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.repair import DEGRADE, on_fault
from ray_dra.translate.names import SPARE_LABEL
from tests.core.machines import gang, group_id

from .every_write import Noted, State
from .every_write_kube import KUBE_VICTIMS, NotedKubeWorld
from .every_write_raylets import RAYLET_VICTIMS, NotedWorld
from .fault_worlds import GRACE, HERE, NAME, ONE_CLIQUE

REPLACE, RESTART = on_fault(("replace", "restart"), GRACE), on_fault("restart", GRACE)
SHRINK = on_fault(("shrink", "restart"), GRACE, min_bundles=1)
Life = Callable[[Any], None]


def until(world: Noted, done: Callable[[], object]) -> None:
    for _ in range(200):
        world.turn()
        if done():
            return
    raise AssertionError(f"it does not come to that: {world.status.history}")


def turns(world: Noted, count: int) -> None:
    for _ in range(count):
        world.turn()


def nodes(world: Noted) -> list[str]:
    held = world.status.allocation
    assert held is not None
    return list(held.nodes)


def begun(world: Noted, declared: Any, bundles: int = 2) -> str:
    """The gang is ready, and from here on each write is remembered. Returns the node of its second bundle."""
    world.ask(declared, bundles)
    until(world, lambda: world.well)
    world.noting = True
    return nodes(world)[1]


def repaired(world: Noted) -> bool:
    return world.status.moves > 0 and world.well


def given_back(world: Noted) -> None:
    world.coordinator.release(NAME)
    until(world, lambda: NAME not in world.coordinator.gangs)
    turns(world, 4)


def replaced(world: Noted) -> None:
    """It waits for room, is made, loses a worker to the node that is free in its rack, and is given back."""
    first, _ = world.fill(), world.fill()
    world.noting = True
    world.ask(REPLACE)
    turns(world, 2)
    world.coordinator.release(first)
    until(world, lambda: world.well)
    world.strike(nodes(world)[1])
    until(world, lambda: repaired(world) or world.status.phase is Phase.QUEUED)
    given_back(world)


def moved(world: Noted) -> None:
    """It has a whole rack, and starts again in the other one."""
    world.strike(begun(world, RESTART, 3))
    until(world, lambda: repaired(world))


def queued_again(world: Noted) -> None:
    """The same where the other rack is taken: it waits with its place kept, until the node is repaired."""
    world.fill()
    node = begun(world, RESTART, 3)
    world.strike(node)
    until(world, lambda: world.status.phase is Phase.QUEUED)
    turns(world, 3)
    world.mend(node)
    until(world, lambda: world.well)


def drained(world: Noted) -> None:
    """On Kubernetes a cordon, and Ray is told of it before the worker leaves."""
    world.drain(begun(world, REPLACE))
    until(world, lambda: repaired(world))


def grown(world: Noted) -> None:
    """It shrinks, and grows back."""
    node = begun(world, SHRINK)
    world.strike(node)
    until(world, lambda: repaired(world))
    world.mend(node)
    until(world, lambda: world.well and not world.status.shrunk)


def reshaped(world: Noted) -> None:
    """Its program gives it another shape, and has work in the old one for a while."""
    begun(world, REPLACE)
    for group in world.ray.groups.values():
        group.workers.add(0)
    world.coordinator.reshape(NAME, gang(2, 2, 2, 2, name=NAME, locality=ONE_CLIQUE), 60.0, 2.0)
    until(world, lambda: repaired(world))


def degraded(world: Noted) -> None:
    """It has declared nothing."""
    node = begun(world, DEGRADE)
    world.strike(node)
    turns(world, 4)
    world.mend(node)
    turns(world, 4)
    given_back(world)


def spared(world: NotedKubeWorld) -> None:
    """A spare that is lent to another gang is taken back for a repair; the other rack is taken."""
    world.fill()
    rack = [name for name, node in world.coordinator.inventory.node_states.items() if node.free]
    world.kube.label(rack[0], **{SPARE_LABEL: "true"})
    world.turn()
    lent = world.order(bundles=1, name="lent", on_fault=on_fault("degrade", GRACE))
    request = replace(lent.request, gang=group_id("lent"), priority=9, preemptible=True)
    world.coordinator.submit(replace(lent, request=request, maker=HERE))
    assert world.drive(request.gang) is Phase.READY
    world.strike(begun(world, REPLACE))
    until(world, lambda: repaired(world))
    assert rack[0] in world.nodes


BOTH: tuple[Life, ...] = (replaced, moved, queued_again, drained, grown, reshaped, degraded)
KUBE, RAYLETS = (NotedKubeWorld, KUBE_VICTIMS, (*BOTH, spared)), (NotedWorld, RAYLET_VICTIMS, BOTH)
WORLDS: Mapping[str, tuple[Callable[[], Any], Mapping[str, Callable[[Any], None]], tuple[Life, ...]]] = {
    "kubernetes": KUBE,
    "raylets": RAYLETS,
}
LIVES = [(world, life) for world, (_, _, lives) in WORLDS.items() for life in lives]
EVERY = 4  # of the victims in each phase, in the suite
AGAIN = 2  # second kills of each life, in the suite
HOURS = 6 * 3600  # that all of one life may take
all_lives = pytest.mark.parametrize(("world", "life"), LIVES, ids=lambda each: getattr(each, "__name__", each))


@cache
def lived(world: str, life: Life) -> list[State]:
    """The states at each write of a life."""
    made = WORLDS[world][0]()
    life(made)
    return list(made.states.values())


def by_phase(states: list[State]) -> Mapping[str, list[State]]:
    found: dict[str, list[State]] = {}
    for state in states:
        found.setdefault(state.phase, []).append(state)
    return found


def back(world: str, state: State) -> Any:
    return KUBE[0].back(state) if world == "kubernetes" else RAYLETS[0].back(state)


def ends_well(world: str, state: State, victim: str, said: str) -> str:
    """Another coordinator goes on from there, with one more victim; its end, or AssertionError."""
    there = back(world, state)
    ends = there.ends or victim in ("the head", "the program")
    try:
        WORLDS[world][1][victim](there)
        return str(there.ends_well(may_be_gone=ends))
    except AssertionError as error:
        raise AssertionError(f"{said}, {state.said}, then {victim}: {error}") from error


def after(world: str, state: State, victim: str) -> Iterator[State]:
    """The states at each write of what follows a victim."""
    there = back(world, state)
    WORLDS[world][1][victim](there)
    there.noting = True
    there.until_settled()
    yield from there.states.values()


@all_lives
def test_killed_in_every_phase_with_every_victim(world: str, life: Life) -> None:
    """At one write of each phase in turn."""
    for at, states in enumerate(by_phase(lived(world, life)).values()):
        for number, victim in enumerate(WORLDS[world][1]):
            if (at + number) % EVERY == 0:
                ends_well(world, states[number % len(states)], victim, life.__name__)


@all_lives
def test_killed_again_in_what_follows_a_victim(world: str, life: Life) -> None:
    """At writes drawn at random, the same in each run."""
    draw, victims = random.Random(f"{world} {life.__name__}"), sorted(WORLDS[world][1])
    for _ in range(AGAIN):
        state, victim = draw.choice(lived(world, life)), draw.choice(victims)
        later = list(after(world, state, victim))
        if later:
            ends_well(world, draw.choice(later), "nobody", f"{life.__name__}, after {victim} {state.said}")


def test_the_lives_go_through_all_phases() -> None:
    found = {state.phase.split()[0] for world, life in LIVES for state in lived(world, life)}
    assert found == {phase.value for phase in Phase} - {"quota"}, "nobody else's queue is here"


@pytest.mark.by_hand
@pytest.mark.timeout(HOURS)
@all_lives
def test_killed_at_every_write_with_every_victim(world: str, life: Life) -> None:
    states, victims = lived(world, life), WORLDS[world][1]
    ends = Counter(ends_well(world, state, victim, life.__name__) for state in states for victim in victims)
    print(f"{world}, {life.__name__}: {len(states)} states x {len(victims)} victims: {dict(ends)}")


@pytest.mark.by_hand
@pytest.mark.timeout(HOURS)
@all_lives
def test_killed_at_every_write_of_what_follows_a_victim_in_every_phase(world: str, life: Life) -> None:
    ends: Counter[str] = Counter()
    for states in by_phase(lived(world, life)).values():
        for number, victim in enumerate(WORLDS[world][1]):
            for later in after(world, states[number % len(states)], victim):
                said = f"{life.__name__}, after {victim} {states[number % len(states)].said}"
                ends[ends_well(world, later, "nobody", said)] += 1
    print(f"{world}, {life.__name__}: {sum(ends.values())} states: {dict(ends)}")
