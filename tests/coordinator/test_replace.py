"""on_fault="replace": on Kubernetes lost workers are replaced in the same placement group while the others run on, with
the coordinator killed at any moment of it; and what is done where that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ray_dra.core.gangs.drains import FLAP_SECONDS
from ray_dra.core.gangs.gang import OrdinaryGroup
from ray_dra.core.gangs.lifecycle import MOST_MOVES
from ray_dra.core.gangs.repair import on_fault
from ray_dra.core.gangs.replacing import place_again
from ray_dra.errors import NotAllowed, UnsatisfiableError
from ray_dra.translate.files.shared_records import map_from_bytes
from ray_dra.translate.names import DOMAIN_DRIVER, ON_FAULT_LABEL, SPARE_LABEL, SPARES_ANNOTATION
from tests.coordinator.kills import MortalRay
from tests.core.machines import gang, group_id

from .fault_worlds import GRACE, HERE, NAME, KubeWorld, World
from .world import Phase

REPLACE = on_fault("replace", GRACE)
BOTH = on_fault(("replace", "restart"), GRACE)

FAULTS: dict[str, Callable[[KubeWorld, str], None]] = {
    "a pod killed": KubeWorld.kill_pod,
    "NoExecute": lambda world, node: world.kube.taint(node, "NoExecute"),
    "the node deleted": lambda world, node: world.kube.delete_node(node),
    "a silent kubelet": lambda world, node: world.kube.lose_node(node),
    "a device's taint NoExecute": lambda world, node: world.kube.taint_device(node, "gpu-0", "NoExecute"),
    "a cordon": lambda world, node: world.kube.cordon(node),
}


def pods(world: KubeWorld) -> dict[str, str]:
    """Node -> the uid of the pod that runs there."""
    return {pod.node or "": pod.uid for pod, _ in world.kube.running()}


def raylets(world: KubeWorld) -> set[str]:
    return {name for name, node in world.ray.nodes.items() if node.alive}


def until_moved(world: KubeWorld, moves: int = 1) -> None:
    for _ in range(int(2 * (FLAP_SECONDS + GRACE + 5))):
        world.turn()
        if world.status.moves >= moves:
            return
    raise AssertionError(f"nothing was done: {world.status.history}")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("bundle", [0, 1])
def test_the_lost_slot_gets_a_new_worker_and_the_others_run_on(fault: str, bundle: int) -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(REPLACE)
    before, was, lived = world.status, pods(world), raylets(world)
    node, other = world.nodes[bundle], world.nodes[1 - bundle]
    keeper = world.ray.groups[before.group or ""].nodes[1 - bundle]
    FAULTS[fault](world, node)
    until_moved(world)
    assert world.status.phase is Phase.REPAIRING
    assert world.status.notice is None
    assert world.until_ready() is Phase.READY
    status = world.status
    assert status.group == before.group
    assert world.ray.groups[status.group or ""].state == "CREATED"
    assert world.nodes[1 - bundle] == other
    assert (world.nodes[bundle] == node) is (
        fault in ("a pod killed", "a device's taint NoExecute") and node in world.nodes
    )
    if fault != "a pod killed":
        assert world.nodes[bundle] != node
    assert status.allocation is not None
    assert len({placed.clique for placed in status.allocation.bundles}) == 1, "in its clique"
    now = pods(world)
    assert now[other] == was[other], "the other worker was left alone"
    assert keeper in lived & raylets(world)
    assert world.ray.groups[status.group or ""].nodes[1 - bundle] == keeper
    found = {pod.node: got for pod, got in world.kube.running()}
    for placed in status.allocation.bundles:
        assert found[placed.node] == {grant.uuid for grant in placed.grants}
    mapped = map_from_bytes(world.store.data[f"map/{status.group}"])
    assert [[device[1] for device in each] for each in mapped] == [
        [grant.uuid for grant in placed.grants] for placed in status.allocation.bundles
    ]
    told = [reason for reason, _ in world.kube.told]
    assert (told.count("GangRepair"), told.count("GangNotice")) == (1, 1)
    assert "GangRepairing" in told
    whys = " ".join(change.why for change in status.history)
    assert "replace, on" in whys
    assert "have joined" in whys
    world.kube.regain_node(node) if fault == "a silent kubelet" else None
    world.coordinator.release(NAME)
    world.settle()


def test_only_the_lost_slot_has_notice() -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(REPLACE)
    world.kube.cordon(world.nodes[1])
    world.later(int(FLAP_SECONDS) + 2)
    told = world.status.notice
    assert told is not None
    assert (told.ranks, told.faulty, told.deadline) == ((1,), (1,), told.since + GRACE)
    assert world.status.phase is Phase.DRAINING


def test_two_slots_of_four_at_once() -> None:
    world = KubeWorld(nodes=12, cliques=2)
    world.with_gang(REPLACE, bundles=4)
    before, was = world.status, pods(world)
    lost = [world.nodes[0], world.nodes[2]]
    for node in lost:
        world.kube.taint(node, "NoExecute")
    until_moved(world)
    assert world.until_ready() is Phase.READY
    now = pods(world)
    assert world.status.group == before.group
    assert [now.get(node) == was.get(node) for node in world.nodes] == [False, True, False, True]
    assert not set(lost) & set(world.nodes)
    assert world.status.moves == 1
    world.coordinator.release(NAME)
    world.settle()


def test_again_and_again() -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(REPLACE)
    group = world.status.group
    for count in range(1, 8):
        node = world.nodes[count % 2]
        world.kube.taint(node, "NoExecute")
        until_moved(world, count)
        assert world.until_ready() is Phase.READY
        world.kube.taint(node, "")
        assert (world.status.moves, world.status.group) == (count, group)
    world.coordinator.release(NAME)
    world.settle()


@pytest.mark.parametrize("declared", [REPLACE, BOTH], ids=["replace", "replace, restart"])
def test_without_a_spare_in_the_clique_the_next_way_is_taken(declared: object) -> None:
    world = KubeWorld()  # two trays a rack
    world.with_gang(declared)  # type: ignore[arg-type]
    before, (first, second) = world.status, world.nodes
    world.kube.taint(second, "NoExecute")
    if declared is BOTH:
        until_moved(world)
        assert world.until_ready() is Phase.READY
        assert not {first, second} & set(world.nodes)
        assert "restart: lost" in " ".join(change.why for change in world.status.history)
        return
    for _ in range(60):
        world.turn()
    assert (world.status.phase, world.status.moves, world.nodes) == (Phase.DEGRADED, 0, (first, second))
    world.kill_pod(second)
    world.kube.taint(second, "")
    until_moved(world)
    assert world.until_ready() is Phase.READY
    assert (world.status.group, world.nodes) == (before.group, (first, second))


@pytest.mark.parametrize("declared", [REPLACE, BOTH], ids=["replace", "replace, restart"])
def test_breakage_of_our_own_while_replacing_takes_the_next_way_and_says_so(declared: object) -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(declared)  # type: ignore[arg-type]
    before, node = world.status, world.nodes[1]
    spare = next(
        name
        for name, state in world.coordinator.inventory.node_states.items()
        if name not in world.nodes and state.node.clique == before.allocation.bundles[0].clique  # type: ignore[union-attr]
    )
    world.kube.break_registry(spare)
    world.kube.taint(node, "NoExecute")
    until_moved(world)
    assert spare in world.nodes
    for _ in range(400):
        world.turn()
        if world.status.phase is not Phase.REPAIRING:
            break
    whys = " ".join(change.why for change in world.status.history)
    assert "workers in place of lost ones could not be had" in whys
    if declared is BOTH:
        assert world.until_ready(200) is Phase.READY
        assert world.status.group != before.group
        assert not {node, spare} & set(world.nodes)
    else:
        assert world.status.phase in (Phase.DEGRADED, Phase.DRAINING)
        assert world.status.group == before.group
    world.coordinator.release(NAME)
    world.settle()


def fill(world: KubeWorld, node: str) -> None:
    """Somebody else's claim gets a device of it first."""
    world.kube.take(node, "gpu-1")


def keep_imex_down(world: KubeWorld, node: str) -> None:
    """The claims of its pods are never prepared: their ComputeDomain's daemon does not come up there."""
    step = world.kube.step

    def stepped() -> None:
        step()
        for pod in world.kube._of("Pod"):
            if pod["spec"].get("nodeName") == node:
                pod["status"]["phase"] = "Pending"
                world.kube._running.discard(pod["metadata"]["name"])

    world.kube.step = stepped  # type: ignore[method-assign]


@pytest.mark.parametrize("breakage", [fill, keep_imex_down])
@pytest.mark.parametrize("declared", [REPLACE, BOTH], ids=["replace", "replace, restart"])
def test_a_node_that_is_full_or_whose_imex_does_not_come_up_takes_the_next_way_and_says_so(
    declared: object, breakage: Callable[[KubeWorld, str], None]
) -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(declared)  # type: ignore[arg-type]
    before, node, kept = world.status, world.nodes[1], pods(world)[world.nodes[0]]
    world.kube.taint(node, "NoExecute")
    until_moved(world)
    spare = world.nodes[1]
    breakage(world, spare)
    for _ in range(800):
        world.turn()
        if world.status.phase is not Phase.REPAIRING:
            break
    whys = " ".join(change.why for change in world.status.history)
    assert "workers in place of lost ones could not be had" in whys
    assert any("could not be had" in message for reason, message in world.kube.told if reason == "GangRepair")
    if declared is BOTH:
        assert world.until_ready(200) is Phase.READY
        assert world.status.group != before.group
        assert not {node, spare} & set(world.nodes)
    else:
        assert world.status.phase in (Phase.DEGRADED, Phase.DRAINING)
        assert (world.status.group, pods(world)[world.nodes[0]]) == (before.group, kept), "the other one runs on"
    world.coordinator.release(NAME)
    world.kube.__dict__.pop("step", None)
    world.settle()


def test_a_worker_that_may_not_be_made_takes_the_next_way_too() -> None:
    """The manifests that were applied do not know how such a worker is named, say."""
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(BOTH)
    before, create = world.status, world.kube.create

    def refusing(thing: Any) -> str:
        if "-r" in thing["metadata"]["name"]:
            raise NotAllowed("This identity may not do that.", place="POST pods")
        return create(thing)

    world.kube.create = refusing  # type: ignore[method-assign]
    world.kube.taint(world.nodes[1], "NoExecute")
    until_moved(world, 2)
    assert world.until_ready() is Phase.READY
    assert world.status.group != before.group
    assert "may not do that" in " ".join(change.why for change in world.status.history)


def test_who_waits_for_its_own_node_goes_on_once_a_compute_domain_of_others_has_left_it() -> None:
    """Others' pods may be bound there meanwhile; NVIDIA's driver has a node in one domain at a time. Nothing else
    changes when they go."""
    world = KubeWorld()  # two trays a rack
    world.with_gang(REPLACE)
    before, node = world.status, world.nodes[1]
    parameters = {"kind": "ComputeDomainChannelConfig", "domainID": "their-uid"}
    result = {"driver": DOMAIN_DRIVER, "pool": node, "device": "channel-0"}
    world.kube.put(
        {
            "kind": "ResourceClaim",
            "metadata": {"name": "theirs", "namespace": "other"},
            "spec": {"devices": {"config": [{"opaque": {"driver": DOMAIN_DRIVER, "parameters": parameters}}]}},
            "status": {"allocation": {"devices": {"results": [result]}}},
        }
    )
    world.kill_pod(node)
    for _ in range(40):
        world.turn()
    assert (world.status.phase, world.status.moves) == (Phase.DEGRADED, 0)
    world.kube.drop("ResourceClaim", "theirs")
    until_moved(world)
    assert world.until_ready() is Phase.READY
    assert (world.status.group, world.nodes) == (before.group, before.allocation.nodes)  # type: ignore[union-attr]
    world.coordinator.release(NAME)
    world.settle()


def test_to_look_in_vain_where_lost_slots_could_go_is_no_change() -> None:
    """Two gangs that wait so had each other, and the queue, planned anew at each look."""
    world = KubeWorld()
    world.with_gang(REPLACE)
    world.kube.taint(world.nodes[1], "NoExecute")
    for _ in range(40):
        world.turn()
    assert world.status.phase is Phase.DEGRADED
    gang, inventory = world.coordinator.gangs[NAME], world.coordinator.inventory
    before = inventory.changes
    assert place_again(world.coordinator.engine.planning, gang, (1,)) is None
    assert inventory.changes == before


def others_are_quicker(world: KubeWorld, raylets: int) -> None:
    """Work that was queued in Ray has all GPUs of the next raylets before Ray places bundles there."""
    join, place, left = world.ray.add_node, world.ray.place, [True] * raylets

    def joins(raylet: str, **more: Any) -> None:
        world.ray.place = lambda: None  # type: ignore[method-assign]
        join(raylet, **more)
        world.ray.place = place  # type: ignore[method-assign]
        if left:
            left.pop()
            world.ray.start_task(raylet, 4)
        place()

    world.ray.add_node = joins  # type: ignore[method-assign]


@pytest.mark.parametrize("declared", [REPLACE, on_fault(("replace", "shrink"), GRACE, min_bundles=1)])
def test_a_bundle_that_ray_does_not_place_on_the_new_worker_is_lost(declared: object) -> None:
    """It stood as being placed for ever, and nobody was told."""
    world = KubeWorld(nodes=6, cliques=2)
    world.with_gang(declared)  # type: ignore[arg-type]
    others_are_quicker(world, MOST_MOVES + 1)  # all of its tries, and the group is whole of the next
    world.kube.taint(world.nodes[1], "NoExecute")
    seen = list[Phase]()
    for _ in range(800):
        world.turn()
        if not seen or world.status.phase is not seen[-1]:
            seen.append(world.status.phase)
        if world.status.phase in (Phase.READY, Phase.DEGRADED):
            break
    if declared is not REPLACE:
        assert world.status.phase is Phase.READY, world.status.history
        assert world.status.shrunk, "the next way, at once"
        return
    assert seen == [Phase.DRAINING, Phase.REPAIRING, Phase.PLACING, Phase.DRAINING, Phase.DEGRADED]
    assert world.status.lost == ("bundle 1: Ray does not place it again, though its raylet is there",)
    world.kube.cordon(next(name for name in world.kube.nodes if name not in world.nodes))  # something has changed
    assert world.until_ready() is Phase.READY
    world.coordinator.release(NAME)
    world.settle()


@pytest.mark.parametrize("turns", range(1, 14))
def test_a_spare_that_is_lost_while_it_comes_is_replaced_too(turns: int) -> None:
    world = KubeWorld(nodes=8, cliques=2)
    world.with_gang(REPLACE)
    group, kept = world.status.group, pods(world)[world.nodes[0]]
    world.kube.taint(world.nodes[1], "NoExecute")
    until_moved(world)
    for _ in range(turns):
        world.turn()
    world.kube.taint(world.nodes[1], "NoExecute")
    world.kube.cordon(world.nodes[1])
    for _ in range(200):
        world.turn()
        if world.status.phase is Phase.READY and world.status.moves > 1:
            break
    assert (world.status.phase, world.status.group) == (Phase.READY, group), world.status.history
    assert pods(world)[world.nodes[0]] == kept
    world.coordinator.release(NAME)
    world.settle()


@pytest.mark.parametrize("fault", ["a pod killed", "NoExecute", "a cordon"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_the_others_run_on_all_the_same(fault: str, after: bool) -> None:
    at, died = 0, True
    while died:
        world = KubeWorld(nodes=6, cliques=2)
        world.with_gang(REPLACE)
        assert isinstance(world.ray, MortalRay)
        group, (other, node), was = world.status.group, world.nodes, pods(world)
        world.kube.die_at(at, after=after)
        FAULTS[fault](world, node)
        before = world.coordinator
        for _ in range(120):
            world.turn()
            if world.status.moves and world.status.phase is Phase.READY:
                break
        died = world.coordinator is not before
        world.kube._left = None
        assert (world.status.phase, world.status.moves) == (Phase.READY, 1), f"killed at {at}: {world.status.history}"
        assert world.status.group == group
        assert pods(world)[other] == was[other]
        world.coordinator.release(NAME)
        world.settle()
        at += 1
    assert at > 2


def marked(world: KubeWorld) -> set[str]:
    return {name for name, state in world.coordinator.inventory.node_states.items() if state.node.spare}


def test_spares_of_the_raycluster_are_for_repairs_and_for_nobody_else() -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.kube.annotate_raycluster({SPARES_ANNOTATION: "1", ON_FAULT_LABEL: f"replace,grace={GRACE:g}"})
    world.turn()
    assert len(marked(world)) == 2
    world.with_gang(None)  # type: ignore[arg-type]  # as the RayCluster says
    other = world.coordinator.submit(world.order()).gang  # the other rack
    third = world.coordinator.submit(world.order(bundles=1)).gang
    for _ in range(5):
        world.turn()
    assert world.coordinator.status(third).phase is Phase.QUEUED
    group, node = world.status.group, world.nodes[1]
    world.kube.taint(node, "NoExecute")
    until_moved(world)
    assert world.until_ready() is Phase.READY
    assert (world.status.group, node in world.nodes) == (group, False)
    world.kube.taint(node, "")
    for _ in range(5):
        world.turn()
    assert node in marked(world), "what is repaired is the spare now"
    assert world.coordinator.status(third).phase is Phase.QUEUED
    world.kube.annotate_raycluster({SPARES_ANNOTATION: "0"})
    for _ in range(5):
        world.turn()
    assert not marked(world)
    assert world.coordinator.status(third).phase is not Phase.QUEUED
    for gang_id in (NAME, other, third):
        world.coordinator.release(gang_id)
    world.settle()


def lent() -> tuple[KubeWorld, str, str]:
    """A gang over two nodes of a clique of three, whose third node is a spare that is lent to a gang of a higher
    priority; the other clique is full."""
    world = KubeWorld(nodes=6, cliques=2)
    spare = sorted(world.kube.nodes)[0]
    world.kube.label(spare, **{SPARE_LABEL: "true"})
    world.turn()
    assert marked(world) == {spare}
    order = world.order(bundles=1, name="lent", on_fault=on_fault("degrade", GRACE))
    request = replace(order.request, gang=group_id("lent"), priority=9, preemptible=True)
    order = replace(order, request=request, maker=HERE)
    borrower = world.coordinator.submit(order).gang
    assert world.drive(borrower) is Phase.READY
    held = world.coordinator.status(borrower).allocation
    assert held is not None
    assert held.nodes == (spare,)
    full = world.coordinator.submit(world.order(bundles=3)).gang
    assert world.drive(full) is Phase.READY
    world.with_gang(REPLACE)
    assert spare not in world.nodes
    return world, borrower, spare


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_who_is_lent_a_spare_gives_it_back_for_a_repair(after: bool) -> None:
    """After notice, whatever its priority is; killed at any write of it."""
    at, died = 0, True
    while died:
        world, borrower, spare = lent()
        group, node = world.status.group, world.nodes[1]
        world.kube.taint(node, "NoExecute")
        for _ in range(int(FLAP_SECONDS + GRACE) + 8):
            world.turn()
            notice = world.coordinator.status(borrower).notice
            if notice is not None:
                break
        assert notice is not None
        assert notice.reason == "its place is for the repair of train"
        assert world.coordinator.status(borrower).phase is Phase.READY
        assert world.status.moves == 0
        world.kube.die_at(at, after=after)
        before = world.coordinator
        until_moved(world)
        assert world.until_ready(120) is Phase.READY
        died = world.coordinator is not before
        world.kube._left = None
        assert (world.status.group, spare in world.nodes) == (group, True), f"killed at {at}"
        gang = world.coordinator.gangs[borrower]
        assert (gang.preempted, gang.waits, gang.eviction) == (1, True, None), f"killed at {at}"
        world.kube.taint(node, "")
        for _ in range(80):
            world.turn()
            if world.coordinator.status(borrower).phase is Phase.READY:
                break
        at += 1
    assert at > 3


def test_who_is_lent_a_spare_keeps_it_while_there_is_a_wave_of_signs() -> None:
    """It comes after their notice: nothing is done about any fault then."""
    world, borrower, spare = lent()
    others = set(world.kube.nodes) - {*world.nodes, spare}
    for node in others:
        world.kube.cordon(node)
    world.later(3)
    world.kube.taint(world.nodes[1], "NoExecute")
    world.later(int(FLAP_SECONDS + 2 * GRACE))
    assert world.coordinator.observer.drains.tripped
    gang = world.coordinator.gangs[borrower]
    assert (gang.eviction is not None, gang.preempted, world.status.moves) == (True, 0, 0)
    for node in others:
        world.kube.cordon(node, closed=False)
    assert world.until_ready() is Phase.READY
    assert (spare in world.nodes, world.coordinator.gangs[borrower].preempted) == (True, 1)


def test_who_is_lent_a_spare_keeps_it_where_the_fault_has_gone() -> None:
    world, borrower, _ = lent()
    node = world.nodes[1]
    world.kube.taint(node, "NoExecute")
    for _ in range(int(FLAP_SECONDS + GRACE) + 8):
        world.turn()
        if world.coordinator.gangs[borrower].eviction is not None:
            break
    assert world.coordinator.gangs[borrower].eviction is not None
    world.coordinator.release(NAME)
    for _ in range(int(2 * GRACE)):
        world.turn()
    gang = world.coordinator.gangs[borrower]
    assert (gang.eviction, gang.notice, gang.preempted) == (None, None, 0)
    assert world.coordinator.status(borrower).phase is Phase.READY


def test_a_node_that_is_labelled_so_is_a_spare() -> None:
    world = KubeWorld(nodes=6, cliques=2)
    name = sorted(world.kube.nodes)[0]
    world.kube.label(name, **{SPARE_LABEL: "true"})
    world.turn()
    assert marked(world) == {name}
    world.kube.label(name, **{SPARE_LABEL: "false"})
    world.turn()
    assert not marked(world)


@pytest.mark.parametrize("said", [{SPARES_ANNOTATION: "some"}, {SPARES_ANNOTATION: "18"}, {ON_FAULT_LABEL: "mend"}])
def test_what_the_raycluster_cannot_say_is_told_once_and_counts_as_not_said(said: dict[str, str]) -> None:
    world = KubeWorld(nodes=6, cliques=2)
    world.kube.annotate_raycluster(said)
    world.later(5)
    assert [reason for reason, _ in world.kube.told].count("FaultSettingInvalid") == 1
    assert any(next(iter(said)) in problem for problem in world.coordinator.backend.problems())
    world.with_gang(None)  # type: ignore[arg-type]
    assert not world.coordinator.gangs[NAME].on_fault.acts


def test_an_ordinary_placement_group_is_repaired_without_its_program() -> None:
    world = KubeWorld(nodes=6, cliques=2)
    asked = world.order(on_fault=BOTH)
    world.coordinator.submit(replace(asked, request=replace(asked.request, gang=NAME), ordinary=OrdinaryGroup(NAME)))
    assert world.until_ready() is Phase.READY
    node, kept = world.nodes[1], pods(world)[world.nodes[0]]
    world.kube.taint(node, "NoExecute")
    until_moved(world)
    assert world.until_ready() is Phase.READY
    assert world.status.group == NAME
    assert node not in world.nodes
    assert pods(world)[world.nodes[0]] == kept
    world.coordinator.release(NAME)
    world.settle()


def test_workers_that_were_there_before_are_not_replaced() -> None:
    world = World()
    world.with_gang(BOTH)
    before = world.status
    world.report(min(world.nodes), xids=(79,))
    world.pass_time(GRACE + 3)
    assert world.status.phase is Phase.READY
    assert world.status.group != before.group, "started again: the next way"


def kill_new(world: KubeWorld) -> None:
    for pod in world.kube.view().pods:
        if "-r" in pod.name:
            world.kube.drop("Pod", pod.name)


VICTIMS: dict[str, Callable[[KubeWorld], None]] = {
    "the other's pod": lambda world: world.kill_pod(world.nodes[0]),
    "the other's node": lambda world: world.kube.taint(world.nodes[0], "NoExecute"),
    "the other's kubelet": lambda world: world.kube.lose_node(world.nodes[0]),
    "the new pod": kill_new,
    "the new node": lambda world: world.kube.delete_node(world.nodes[1]),
    "the coordinator": KubeWorld.restart,
}


@pytest.mark.parametrize("declared", [REPLACE, BOTH], ids=["replace", "replace, restart"])
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("turns", range(0, 12, 2))
def test_whatever_else_is_lost_meanwhile_it_is_ready_again_or_says_why(
    declared: object, victim: str, turns: int
) -> None:
    world = KubeWorld(nodes=10, cliques=2)
    world.with_gang(declared)  # type: ignore[arg-type]
    world.kube.taint(world.nodes[1], "NoExecute")
    until_moved(world)
    for _ in range(turns):
        world.turn()
    gone = world.nodes
    VICTIMS[victim](world)
    for _ in range(400):
        world.turn()
        if world.status.phase is Phase.READY and world.clock.now > 160:
            break
    assert world.status.phase is Phase.READY, world.status.history
    assert not world.status.lost
    assert world.status.notice is None
    for node in gone:
        if node in world.kube.nodes:
            world.kube.regain_node(node)
    world.coordinator.release(NAME)
    world.settle()


def test_a_gang_that_spares_leave_no_room_for_is_refused_though_all_of_them_are_in_use_now() -> None:
    """It waited for ever, and whoever came after it, too."""
    world = KubeWorld(nodes=6, cliques=2)
    everything = world.coordinator.submit(replace(world.order(), request=gang(*[4] * 6, name="all"))).gang
    assert world.drive(everything) is Phase.READY
    world.kube.annotate_raycluster({SPARES_ANNOTATION: "1"})
    world.later(2)
    assert not any(state.node.spare for state in world.coordinator.inventory.node_states.values())
    with pytest.raises(UnsatisfiableError):
        world.coordinator.submit(world.order(3))
    small = world.coordinator.submit(world.order(2)).gang
    world.coordinator.release(everything)
    assert world.drive(small) is Phase.READY
    world.kube.annotate_raycluster({SPARES_ANNOTATION: "0"})
    world.later(2)
    assert world.coordinator.submit(world.order(3)).phase is not None, "it may have all of a rack now"
