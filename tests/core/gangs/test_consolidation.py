"""A gang that has GPUs enough and no clique has others moved: by hand, against exhaustive search, and over time."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.consolidation import Answer, Consolidation, gangs_to_move
from ray_dra.core.gangs.events import ReleaseAsked
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from tests.core.gangs.test_preemption import GRACE, GRACEFUL, ONE_CLIQUE, look, pass_time, runs, told
from tests.core.gangs.world import World
from tests.core.machines import gang, picture, rack

AT_ONCE = Consolidation(restart=10.0, least_run=0.0)


def scattered(settings: Consolidation = AT_ONCE, **more: Any) -> World:
    """Two racks of two trays of four; a movable gang has a tray of each."""
    world = World(machines=[*rack("a", 2), *rack("b", 2)], consolidation=settings)
    for name in ("one", "fills", "two"):
        world.submit(4, name=name, **{"movable": True, "on_fault": GRACEFUL, "locality": ONE_CLIQUE, **more})
    world.act(ReleaseAsked("fills"))
    look(world)
    assert {clique_of(world, "one"), clique_of(world, "two")} == {"a", "b"}
    return world


def clique_of(world: World, name: str) -> str:
    held = world.gangs[name].allocation
    assert held is not None
    (clique,) = {grant.clique for grant in held.grants}
    assert clique is not None
    return clique


def waits(world: World, **more: Any) -> None:
    world.submit(4, 4, name="waits", locality=more.pop("locality", ONE_CLIQUE), **more)


def test_one_is_moved_with_notice_and_the_other_has_its_clique() -> None:
    world = scattered()
    waits(world)
    pass_time(world, 60.0)  # the longer it waits, the more is gained
    (moved,) = told(world) or {name for name, each in world.gangs.items() if each.consolidated}
    pass_time(world, 40.0)
    assert runs(world, "waits")
    victim = world.gangs[moved]
    assert (victim.consolidated, victim.restarts, victim.moves, victim.preempted) == (1, 1, 1, 0)
    assert clique_of(world, "one") == clique_of(world, "two") != clique_of(world, "waits")
    assert not told(world)
    whys = [change.why for change in victim.history]
    assert "notice: moved to other GPUs, so that waits has its clique" in whys


def test_the_notice_has_the_grace() -> None:
    world = scattered()
    waits(world)
    while not told(world):
        pass_time(world, 1.0)
        assert world.now < 200
    (name,) = told(world)
    notice = world.gangs[name].notice
    assert notice is not None
    assert (notice.deadline, notice.ranks) == (notice.since + GRACE, (0,))
    pass_time(world, GRACE - 1.0)
    assert world.gangs[name].moves == 0
    pass_time(world, 2.0)
    assert world.gangs[name].moves == 1


@pytest.mark.parametrize(
    "why", ["not movable", "off", "too few GPUs", "more is lost than gained", "no clique asked for"]
)
def test_nobody_is_moved(why: str) -> None:
    off, dear = Consolidation(times=0, least_run=0.0), Consolidation(restart=1e6, least_run=0.0)
    world = scattered({"off": off, "more is lost than gained": dear}.get(why, AT_ONCE), movable=why != "not movable")
    if why == "too few GPUs":
        world.submit(1, name="small")
    if why != "no clique asked for":
        waits(world)
    else:
        world.submit(4, 4, 4, name="waits")
    pass_time(world, 300.0)
    assert not runs(world, "waits")
    assert not any(each.consolidated or each.eviction for each in world.gangs.values())


def test_a_gang_is_moved_so_often_and_no_more() -> None:
    world = scattered(Consolidation(times=1, restart=1.0, least_run=0.0))
    waits(world)
    pass_time(world, 100.0)
    assert runs(world, "waits")
    world.act(ReleaseAsked("waits"))
    look(world)
    world.submit(4, name="fills", locality=ONE_CLIQUE)
    (moved,) = (name for name, each in world.gangs.items() if each.consolidated)
    world.engine.records.notes[moved].checkpoint = world.now  # it would be the cheaper one
    other = {"one": "two", "two": "one"}[moved]
    before = world.gangs[moved].allocation
    world.submit(4, 4, name="again", locality=ONE_CLIQUE)
    pass_time(world, 200.0)
    assert world.gangs[moved].consolidated == 1
    assert world.gangs[moved].allocation == before
    assert world.gangs[other].consolidated <= 1


def test_what_cannot_be_any_more_at_the_deadline_moves_nobody() -> None:
    world = scattered()
    waits(world)
    while not told(world):
        pass_time(world, 1.0)
    world.submit(4, name="urgent", priority=9)
    assert runs(world, "urgent")
    pass_time(world, 2 * GRACE)
    assert not told(world)
    assert not any(each.moves for each in world.gangs.values())


@pytest.mark.parametrize("ends", ["waits", "one"])
def test_who_is_not_needed_any_more_goes_on(ends: str) -> None:
    world = scattered()
    waits(world)
    while not told(world):
        pass_time(world, 1.0)
    (name,) = told(world)
    other = {"one": "two", "two": "one"}[name]
    world.act(ReleaseAsked("waits" if ends == "waits" else other))
    pass_time(world, 2 * GRACE)
    assert not told(world)
    assert world.gangs[name].moves == 0


def test_a_gang_that_could_start_slowly_moves_others_for_what_it_gains() -> None:
    """It says how long it runs, and waits for its clique as long as that is worth it."""
    world = scattered()
    waits(world, locality=Locality(cliques=1, required=False, patience=None), runs_for=1000.0)
    pass_time(world, 3 * GRACE)
    assert runs(world, "waits")
    assert sum(each.consolidated for each in world.gangs.values()) == 1


# -- against exhaustive search


def random_case(dice: random.Random) -> tuple[Inventory, GangRequest, dict[str, GangRequest], dict[str, int]]:
    inventory = Inventory([n for c in range(dice.randint(2, 3)) for n in rack(f"c{c}", dice.randint(2, 3), 4)])
    asked: dict[str, GangRequest] = {}
    for at in range(dice.randint(2, 9)):
        request = gang(*[dice.choice((1, 2, 4))] * dice.choice((1, 1, 2)), name=f"g{at}", locality=ONE_CLIQUE)
        answer = plan(inventory, request)
        if isinstance(answer, Allocation):
            inventory.hold(answer)
            asked[request.gang] = request
    for name in [name for name in asked if dice.random() < 0.4]:
        inventory.release(name)
        del asked[name]
    wants = gang(*[4] * dice.randint(1, 3), name="wants", locality=ONE_CLIQUE)
    return inventory, wants, asked, {name: dice.randint(1, 60) for name in asked if dice.random() < 0.8}


def test_the_least_is_lost_and_every_one_has_its_clique_again() -> None:
    """As exhaustive search over all sets of three finds, which moves them in the same order."""
    dice, moved, by_count = random.Random(11), 0, [0, 0, 0, 0]
    for _ in range(1_500):
        inventory, wants, asked, lost = random_case(dice)
        if isinstance(plan(inventory, wants), Allocation):
            continue

        def place() -> Answer:
            return plan(inventory, wants)  # noqa: B023

        def place_other(name: str, nodes: frozenset[str]) -> Answer:
            return plan(inventory, replace(asked[name], exclude=nodes))  # noqa: B023

        before = picture(inventory), inventory.changes
        gained = float(dice.choice((20, 60, 1000)))
        found = gangs_to_move(inventory, wants, lost, gained, 3, place, place_other)
        assert (picture(inventory), inventory.changes) == before
        wanted = exhaustive(inventory, wants, asked, lost, gained)
        assert found == wanted
        by_count[len(found)] += 1
        moved += bool(found)
    assert moved > 30
    assert all(by_count[1:3])


def exhaustive(
    inventory: Inventory, wants: GangRequest, asked: dict[str, GangRequest], lost: dict[str, int], gained: float
) -> tuple[str, ...]:
    if inventory.free_devices < wants.whole_devices:
        return ()
    sets = list(chain.from_iterable(combinations(sorted(lost), n) for n in (1, 2, 3)))
    sets.sort(key=lambda each: (sum(lost[g] for g in each), len(each), each))
    for each in sets:
        if sum(lost[gang_id] for gang_id in each) < gained and _goes(inventory, wants, asked, each):
            return each
    return ()


def _goes(inventory: Inventory, wants: GangRequest, asked: dict[str, GangRequest], gangs: tuple[str, ...]) -> bool:
    there = Inventory([state.node for state in inventory.node_states.values()])
    for name in inventory.gangs:
        held = inventory.allocation(name)
        if held is not None and name not in gangs:
            there.hold(held)
    first = plan(there, wants)
    if not isinstance(first, Allocation):
        return False
    for name in gangs:
        held = inventory.allocation(name)
        assert held is not None
        there.hold(held)
    for name in gangs:
        there.release(name)
        answer = plan(there, replace(asked[name], exclude=frozenset(first.nodes)))
        if not isinstance(answer, Allocation):
            return False
        assert len({grant.clique for grant in answer.grants}) == 1
        there.hold(answer)
    return isinstance(plan(there, wants), Allocation)


def test_over_time_nobody_is_moved_more_often_than_may_be_nor_for_nothing() -> None:
    dice = random.Random(3)
    moved = 0
    for _ in range(6):
        world = World(machines=[*rack("a", 2), *rack("b", 2), *rack("c", 2)], consolidation=AT_ONCE)
        for step in range(400):
            if dice.random() < 0.3 and len(world.gangs) < 9:
                sizes = [4] * dice.choice((1, 1, 2))
                world.submit(
                    *sizes,
                    name=f"g{step}",
                    movable=dice.random() < 0.7,
                    preemptible=dice.random() < 0.3,
                    priority=dice.randint(0, 1),
                    on_fault=on_fault("degrade", float(dice.randint(0, 3))),
                    locality=ONE_CLIQUE,
                )
            elif dice.random() < 0.15 and world.gangs:
                world.act(ReleaseAsked(dice.choice(sorted(world.gangs))))
            before = dict(world.gangs)
            look(world, 5.0)
            for name, each in world.gangs.items():
                was = before.get(name)
                if was is not None and each.consolidated > was.consolidated:
                    moved += 1
                    assert was.eviction is not None
                    assert was.eviction.moves
                    assert world.now >= was.eviction.deadline
                    assert clique_of(world, name)
                    assert each.movable
                    assert each.consolidated <= 2
    assert moved > 3
