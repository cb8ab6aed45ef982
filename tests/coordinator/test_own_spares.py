"""placement_group(..., spares=n): free nodes of its cliques are held for one gang's repairs, and for nobody else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.repair import OnFault, on_fault
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.errors import InvalidRequest
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.text import explain_gang
from tests.core.machines import gang

from .fault_worlds import GRACE, HERE, NAME, ONE_CLIQUE, KubeWorld, World
from .world import Phase

WAYS = {
    "replace": on_fault("replace", GRACE),
    "restart": on_fault("restart", GRACE),
    "shrink": on_fault("shrink", GRACE, min_bundles=1),
}


def kube_world(declared: OnFault, *, spares: int = 1, cliques: int = 2) -> KubeWorld:
    """Racks of three trays with a gang on two of one."""
    world = KubeWorld(nodes=3 * cliques, cliques=cliques)
    asked = world.order(2, on_fault=declared, name="train", spares=spares)
    world.coordinator.submit(replace(asked, request=replace(asked.request, gang=NAME), maker=HERE))
    assert world.drive(NAME) is Phase.READY
    world.later(1)
    return world


def spares_of(world: KubeWorld) -> list[str]:
    return list(world.status.spares)


def until_well(world: KubeWorld, moves: int, turns: int = 160) -> None:
    for _ in range(turns):
        world.turn()
        status = world.status
        if status.moves >= moves and status.phase is Phase.READY and not status.shrunk:
            return
    raise AssertionError(f"not well again: {world.status.history}")


@pytest.mark.parametrize("way", WAYS)
def test_its_repair_has_the_node_that_nobody_else_got(way: str) -> None:
    world = kube_world(WAYS[way])
    [spare] = spares_of(world)
    rack = spare[: spare.rindex("-")]
    assert {*world.nodes, spare} == {name for name in world.kube.nodes if name.startswith(rack)}
    assert f"spares of its own: {spare}" in explain_gang(world.status, world.coordinator.gangs[NAME].request)
    others = [world.coordinator.submit(world.order(count, name=f"o{count}")).gang for count in (3, 1)]
    assert world.drive(others[0]) is Phase.READY
    assert world.coordinator.status(others[1]).phase is Phase.QUEUED
    before, lost = world.nodes, world.nodes[0]
    world.kube.taint(lost, "NoExecute")
    until_well(world, 2 if way == "shrink" else 1)
    assert {*world.nodes} == {spare, before[1]}
    assert spares_of(world) == []
    world.kube.taint(lost, "")
    world.later(3)
    assert spares_of(world) == [lost], "what is well again is its spare"
    assert world.coordinator.status(others[1]).phase is Phase.QUEUED
    world.restart()
    world.later(2)
    assert spares_of(world) == [lost], "a coordinator that starts again chooses anew, before the queue"
    assert world.coordinator.status(others[1]).phase is Phase.QUEUED
    world.coordinator.release(NAME)
    assert world.drive(others[1]) is Phase.READY
    for name in others:
        world.coordinator.release(name)
    world.settle()
    assert not world.coordinator.records.own_spares.holding()


@pytest.mark.parametrize("spares", [0, 1, 3])
def test_as_many_as_there_are(spares: int) -> None:
    world = World(nodes=8)  # racks of four
    world.with_gang(spares=spares)
    racks = world.racks
    kept = world.status.spares
    assert len(kept) == min(spares, 2)
    assert {racks[node] for node in kept} <= {racks[node] for node in world.nodes}
    world.check()
    world.submit(gang(*[4] * (6 - len(kept)), name="all others"))
    world.place("all others")
    assert world.status.spares == kept
    node = min(world.nodes)
    world.report(node, xids=(79,))
    world.pass_time(GRACE + 3)
    status = world.status
    assert status.phase is (Phase.READY if spares else Phase.QUEUED)
    assert spares == 0 or world.nodes & {*kept}
    world.check()
    world.coordinator.release(NAME)
    world.coordinator.release("all others")
    world.pass_time(70)
    world.check_empty()


def test_a_gang_that_is_only_to_be_replaced_has_none_where_nobody_can() -> None:
    world = World(nodes=8)
    world.with_gang(WAYS["replace"], spares=2)
    assert (world.status.spares, world.coordinator.gangs[NAME].spares) == ((), 0)
    world = World(nodes=8)
    world.with_gang(on_fault(("replace", "restart"), GRACE), spares=2)
    assert len(world.status.spares) == 2


def test_foreign_work_and_faults_end_a_spare_and_another_is_chosen() -> None:
    world = World(nodes=10)
    world.with_gang(spares=1)
    (first,) = world.status.spares
    world.report(first, xids=(79,))
    world.pass_time(2)
    (second,) = world.status.spares
    assert second != first
    world.ray.start_task(world.raylet(second), gpus=1)
    world.pass_time(3)
    (third,) = world.status.spares
    assert third not in (first, second)
    world.check()


def test_who_waits_with_a_higher_priority_has_it() -> None:
    world = World(nodes=6)
    world.with_gang(spares=1)
    world.submit(gang(4, 4, 4, 4, name="equal"))
    world.pass_time(3)
    assert (world.coordinator.status("equal").phase, len(world.status.spares)) == (Phase.QUEUED, 1)
    world.coordinator.release("equal")
    world.submit(gang(4, 4, 4, 4, name="higher", priority=1))
    world.pass_time(3)
    assert (world.coordinator.status("higher").phase, world.status.spares) == (Phase.HELD, ())
    world.check()


def test_who_would_fit_without_it_is_told_so_of_the_gang_alone() -> None:
    world = World(nodes=6)
    world.with_gang(spares=1)
    world.submit(gang(*[4] * 6, name="all"))
    world.pass_time(3)
    answer = world.coordinator.engine.planning.explained(world.coordinator.gangs["all"].request)
    assert isinstance(answer, Unsatisfiable)
    assert f"gangs=({NAME!r},)" in repr(answer)
    world.check()


def test_a_team_has_no_spares_beyond_its_limit() -> None:
    for limit, count in ((8, 0), (12, 1), (16, 2)):
        world = World(nodes=8)
        world.queues = f"{{team: {{limit: {limit}}}}}"
        world.come_back()
        world.with_gang(spares=3, team="team")
        assert len(world.status.spares) == count
        world.check()


def test_boxes_that_are_cliques_of_their_own_have_another_box_to_spare() -> None:
    world = World(nodes=4)
    world.racks = {name: f"{rack[:-2]}{at:02x}" for at, (name, rack) in enumerate(world.racks.items())}
    world.come_back()
    world.submit(gang(4, 4, name=NAME, locality=Locality()), on_fault=WAYS["restart"], maker=HERE, spares=1)
    world.pass_time(3)
    assert len(world.status.spares) == 1
    assert not {*world.status.spares} & world.nodes


@pytest.mark.parametrize("spares", [-1, 18, True, 1.5, "1"])
def test_a_number_that_cannot_be_is_refused(spares: Any) -> None:
    with pytest.raises(InvalidRequest, match="spares"):
        Order(gang(4, 4, name="g"), spares=spares)


def test_gangs_that_cannot_have_any_are_told() -> None:
    whole = gang(4, 4, name="0" * 36)
    share = request_from_bundles([{"GPU": 0.5}], pool="notebooks")
    orders: tuple[dict[str, Any], ...] = (
        {"request": replace(whole, locality=Locality(cliques=1, exclusive=True))},
        {"request": whole, "on_fault": on_fault("degrade")},
        {"request": whole, "ordinary": OrdinaryGroup("0" * 36)},
        {"request": replace(share, gang="g")},
    )
    for order in orders:
        Order(**order)
        with pytest.raises(InvalidRequest, match="spares"):
            Order(**order, spares=1)
    Order(whole, spares=1)
    Order(replace(whole, locality=ONE_CLIQUE), spares=17, on_fault=WAYS["replace"])
