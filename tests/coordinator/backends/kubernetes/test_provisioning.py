"""Workers for gangs made and given back on a fake Kubernetes, also through crashes at each write; nothing leaks,
nothing is taken twice, no gang stands on a part."""

from __future__ import annotations

import pytest

from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.errors import InvalidRequest, UnsatisfiableError
from ray_dra.ports.kubernetes import KubeView, Object
from ray_dra.translate.names import GANG_LABEL
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.vendors import NVIDIA
from tests.coordinator.kubernetes_world import World
from tests.coordinator.world import Crash


def test_a_bundles_labels_are_those_of_kubernetes_nodes() -> None:
    """What docs/kubernetes.md says to ask for in place of a DeviceClass that selects nodes' GPUs."""
    world = World()
    node = world.coordinator.inventory.node_states["gb200-r1-t00"].node
    clique = node.labels[NVIDIA.clique_label]
    request = request_from_bundles([{"GPU": 4}], selectors=[{NVIDIA.clique_label: f"in(other,{clique})"}])
    status = world.coordinator.submit(Order(request, owner="job"))
    assert status.allocation is not None
    assert status.allocation.cliques == (clique,)
    assert world.drive(status.gang) is Phase.READY
    with pytest.raises(UnsatisfiableError, match="node labels"):
        world.coordinator.submit(Order(request_from_bundles([{"GPU": 4}], selectors=[{"pool": "h100"}]), owner="job"))
    world.coordinator.release(status.gang)
    world.settle()


def test_a_gang_gets_its_workers_and_gives_them_back() -> None:
    world = World()
    status = world.coordinator.submit(world.order())
    assert status.phase is Phase.PROVISIONING
    assert world.drive(status.gang) is Phase.READY
    assert len(world.kube.claimed()) == 8
    assert len({node for node, _ in world.kube.claimed()}) == 2
    world.coordinator.release(status.gang)
    world.settle()
    assert world.kube.claimed() == []


def crashes(release: bool) -> int:
    """How many writes to Kubernetes a gang's way there (or there and back) takes."""
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    assert world.drive(gang) is Phase.READY
    if release:
        world.coordinator.release(gang)
        world.settle()
    return world.kube.writes


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(crashes(False)))
def test_a_coordinator_killed_at_any_write_of_the_making_goes_on(number: int, after: bool) -> None:
    world = World()
    world.kube.die_at(number, after=after)
    gang = world.coordinator.submit(world.order()).gang
    assert world.drive(gang) is Phase.READY
    assert world.coordinator.status(gang).moves == 0
    world.coordinator.release(gang)
    world.settle()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(crashes(True) - crashes(False)))
def test_a_coordinator_killed_at_any_write_of_the_undoing_goes_on(number: int, after: bool) -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    assert world.drive(gang) is Phase.READY
    world.kube.die_at(number, after=after)
    try:
        world.coordinator.release(gang)
    except Crash:
        world.restart()
    world.settle()


def test_a_gangs_pods_are_all_made_before_the_next_gangs() -> None:
    """Two that come at once do not each get a half."""
    world = World(nodes=8, cliques=2)
    made: list[str] = []
    create = world.kube.create

    def noted(thing: Object) -> str:
        if thing["kind"] == "Pod":
            made.append(thing["metadata"]["labels"][GANG_LABEL])
        return create(thing)

    world.kube.create = noted  # type: ignore[method-assign]
    gangs = [world.coordinator.submit(world.order(bundles=3)).gang for _ in range(2)]
    for _ in range(5):
        world.turn()
    assert made == [gang for gang in gangs for _ in range(3)]


@pytest.mark.parametrize(("late", "opened"), [(0, 2), (8, 2), (30, 4)])
def test_gates_are_opened_once_though_the_watch_is_late(late: int, opened: int) -> None:
    """Again only after ten seconds: the patch may have been lost."""
    world = World()
    world.kube.lag(late)
    gang = world.coordinator.submit(world.order()).gang
    assert world.drive(gang) is Phase.READY
    assert len(world.kube.opened) == opened
    assert world.coordinator.status(gang).moves == 0


@pytest.mark.parametrize(("looks", "made"), [(0, 1), (8, 1), (25, 2)])
def test_a_compute_domain_is_made_once_though_the_watch_is_late(looks: int, made: int) -> None:
    world = World()
    before, view, create, asked = world.kube.view(), world.kube.view, world.kube.create, list[str]()

    def counted(thing: Object) -> str:
        asked.append(thing["kind"])
        return create(thing)

    def late() -> KubeView:
        nonlocal looks
        looks -= bool(asked)
        return before if looks > 0 else view()

    world.kube.create, world.kube.view = counted, late  # type: ignore[method-assign]
    gang = world.coordinator.submit(world.order()).gang
    assert world.drive(gang) is Phase.READY
    assert asked.count("ComputeDomain") == made
    assert world.coordinator.status(gang).moves == 0


def test_a_compute_domain_that_somebody_deletes_is_made_again_at_once() -> None:
    world = World()
    world.kube.stop_scheduling()
    world.coordinator.submit(world.order())
    for _ in range(4):
        world.turn()
    assert len(world.kube.view().domains) == 1
    world.kube.drop("ComputeDomain")
    world.turn()
    assert len(world.kube.view().domains) == 1


def test_a_worker_that_ends_well_has_failed_all_the_same() -> None:
    """Nothing that comes after it would, and it was waited for until the patience was over."""
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    while not world.kube.running():
        world.turn()
    world.kube.end_well(world.kube.running()[0][0].name)
    for _ in range(2):
        world.turn()
    status = world.coordinator.status(gang)
    assert status.moves == 1
    assert any("its containers ended without an error" in change.why for change in status.history)
    assert world.drive(gang) is Phase.READY


@pytest.mark.parametrize("lost_first", [False, True])
def test_an_image_that_two_sets_of_nodes_cannot_have_is_a_no(lost_first: bool) -> None:
    """Two that were seen to: a gang that moved for another reason has seen none."""
    world = World(nodes=8, cliques=4)
    status = world.coordinator.submit(world.order())
    assert status.allocation is not None
    if lost_first:
        world.turn()
        world.kube.lose_node(status.allocation.nodes[0])
    world.kube.break_registry(*world.kube.nodes)
    tried = set()
    while status.gang in world.coordinator.gangs:
        now = world.coordinator.status(status.gang)
        if "image" in now.said and now.allocation is not None:
            tried.add(now.allocation.nodes)
        world.turn()
    assert len(tried) == 2
    with pytest.raises(UnsatisfiableError, match="ErrImagePull"):
        world.coordinator.status(status.gang)


def test_events_tell_a_gangs_way() -> None:
    world = World()
    gang = world.coordinator.submit(world.order(name="mine")).gang
    assert world.drive(gang) is Phase.READY
    world.coordinator.release(gang)
    world.settle()
    reasons = [reason for reason, _ in world.kube.told]
    assert len(reasons) == len(set(reasons)), "each once"
    assert world.coordinator.executor._told == {}, "what was told of a gang is forgotten with it"
    order = ["GangPlanned", "GangApplied", "GangLetIn", "GangBound", "GangStarted", "GangVerified", "GangReady"]
    assert [reason for reason in reasons if reason in order] == [reason for reason in order if reason in reasons]
    assert {"GangPlanned", "GangVerified", "GangReady", "GangReleasing"} <= set(reasons)
    assert all("gang mine" in message for _, message in world.kube.told)


def test_a_cluster_without_a_group_to_copy_is_said_before_anything_is_held() -> None:
    world = World()
    world.kube.apply_raycluster(workerGroupSpecs=[])
    world.turn()
    with pytest.raises(InvalidRequest, match="no worker group to copy"):
        world.coordinator.submit(world.order())
    assert world.left() == []


def test_raylets_are_let_in_only_when_the_placement_group_waits_for_them() -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(30):
        world.turn()
    assert world.coordinator.status(gang).phase is Phase.HELD
    assert not world.ray.nodes
    assert world.drive(gang) is Phase.READY
    world.coordinator.release(gang)
    world.settle()
