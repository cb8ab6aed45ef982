"""Faults of ordinary placement groups: a group is never moved under its program. Its lost workers are replaced where
that was said; it ends for a fault only by its program's own word, and its place is kept for what the program asks for
then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_dra.core.gangs.drains import FLAP_SECONDS
from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.repair import DEGRADE, FaultRule, on_fault
from ray_dra.errors import GangGone
from ray_dra.translate.names import ON_FAULT_LABEL
from tests.core.machines import gang, group_id

from .fault_worlds import GRACE, NAME, ONE_CLIQUE, KubeWorld, World
from .world import Phase

RESTART = on_fault("restart", GRACE)
BOTH = on_fault(("replace", "restart"), GRACE)
NEXT = group_id("next")


def on_raylets(declared: object = None) -> World:
    world = World()
    world.ray.jobs |= {"job", "other"}
    world.submit(gang(4, 4, name=NAME, locality=ONE_CLIQUE), on_fault=declared, ordinary=OrdinaryGroup(NAME))
    world.pass_time(3)
    assert world.status.phase is Phase.READY
    return world


def ended(world: World | KubeWorld, name: str = NAME) -> bool:
    try:
        world.coordinator.status(name)
    except GangGone:
        return True
    return False


def test_it_ends_by_its_programs_word_and_the_program_finds_its_clique_again() -> None:
    world = on_raylets(RESTART)
    held = world.nodes
    world.submit(gang(4, 4, name=group_id("fills"), locality=ONE_CLIQUE), ordinary=OrdinaryGroup(group_id("fills")))
    world.pass_time(3)
    world.report(min(held), xids=(79,))
    world.pass_time(1)
    notice = world.status.notice
    assert notice is not None
    assert (notice.ranks, notice.faulty) == ((0, 1), (0,))
    assert world.ray.groups[NAME].state == "CREATED"
    world.pass_time(GRACE + 2)
    world.ray.settle()
    world.pass_time(2)
    assert ended(world)
    assert world.ray.groups[NAME].state == "REMOVED"
    later = world.coordinator.submit(Order(gang(4, name=group_id("later")), owner="other"))  # another's, and first
    assert later.phase is Phase.QUEUED
    world.submit(gang(4, name=NEXT, locality=ONE_CLIQUE), ordinary=OrdinaryGroup(NEXT))
    world.pass_time(3)
    allocation = world.coordinator.status(NEXT).allocation
    assert allocation is not None
    assert set(allocation.nodes) == {max(held)}, "what is well of its own clique, before the queue"
    world.pass_time(KEPT_SECONDS)


@pytest.mark.parametrize("said", ["nothing", "the cluster", "degrade"])
def test_it_is_not_ended_by_anybody_elses_word(said: str) -> None:
    world = World()
    world.coordinator._on_fault = (FaultRule("", RESTART),) if said == "the cluster" else ()
    world.ray.jobs.add("job")
    declared = DEGRADE if said == "degrade" else None
    world.submit(gang(4, 4, name=NAME, locality=ONE_CLIQUE), on_fault=declared, ordinary=OrdinaryGroup(NAME))
    world.pass_time(3)
    held = world.nodes
    world.report(min(held), xids=(79,))
    world.pass_time(GRACE + FLAP_SECONDS + 5)
    assert (world.status.phase, world.nodes, world.status.moves) == (Phase.DEGRADED, held, 0)
    assert world.ray.groups[NAME].state == "CREATED"


def test_the_clusters_word_has_rules_by_name() -> None:
    world = World()
    world.coordinator._on_fault = (FaultRule("serve*", RESTART), FaultRule("", DEGRADE))
    world.submit(gang(4, name="a"), name="serve-1")
    world.submit(gang(4, name="b"), name="train-1")
    declared = {gang.name: gang.on_fault for gang in world.coordinator.gangs.values()}
    assert declared == {"serve-1": RESTART, "train-1": DEGRADE}


def test_what_is_only_to_be_drained_runs_on_until_there_is_another_place() -> None:
    world = KubeWorld()  # two racks of two trays
    asked = world.order(on_fault=RESTART)
    world.coordinator.submit(replace(asked, request=replace(asked.request, gang=NAME), ordinary=OrdinaryGroup(NAME)))
    assert world.until_ready() is Phase.READY
    other = world.coordinator.submit(world.order()).gang
    world.drive(other)
    world.kube.cordon(world.nodes[1])
    world.later(int(FLAP_SECONDS + GRACE) + 3)
    assert world.status.moves == 0
    assert world.ray.groups[NAME].state == "CREATED"
    world.coordinator.release(other)
    for _ in range(60):
        world.turn()
        if ended(world):
            break
    assert ended(world)
    assert world.ray.groups[NAME].state == "REMOVED"
    world.settle()


def test_the_raycluster_says_it_by_name_and_replaces_an_ordinary_group_without_ever_ending_it() -> None:
    world = KubeWorld()
    world.kube.annotate_raycluster({ON_FAULT_LABEL: f"train*=replace,restart,grace={GRACE:g};degrade"})
    world.turn()
    asked = world.order(name="train")
    world.coordinator.submit(replace(asked, request=replace(asked.request, gang=NAME), ordinary=OrdinaryGroup(NAME)))
    assert world.until_ready() is Phase.READY
    assert world.coordinator.gangs[NAME].on_fault == on_fault("replace", GRACE)
    held = world.nodes
    world.kube.taint(held[1], "NoExecute")  # no free node in its rack: the other rack is not its
    for _ in range(80):
        world.turn()
    assert world.nodes == held
    assert world.ray.groups[NAME].state != "REMOVED"


def test_where_its_workers_cannot_be_replaced_it_ends_if_its_program_says_so() -> None:
    world = KubeWorld()
    asked = world.order(on_fault=BOTH)
    world.coordinator.submit(replace(asked, request=replace(asked.request, gang=NAME), ordinary=OrdinaryGroup(NAME)))
    assert world.until_ready() is Phase.READY
    world.kube.taint(world.nodes[1], "NoExecute")
    for _ in range(80):
        world.turn()
        if ended(world):
            break
    assert ended(world)
    assert any("restart: lost" in message for reason, message in world.kube.told if reason == "GangRepair")
    world.settle()
