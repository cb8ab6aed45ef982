"""A coordinator on a fake Kubernetes: workers made and given back, through crashes at each write, lost nodes, stolen
devices and lost pods; nothing leaks, nothing is taken twice, no gang stands on a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ray_dra.coordinator.backends.kubernetes.backend import KubernetesBackend
from ray_dra.coordinator.backends.kubernetes.objects import Found
from ray_dra.coordinator.backends.kubernetes.teardown import give_back
from ray_dra.core.gangs.lifecycle import Phase
from ray_dra.core.gangs.order import Order
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import ApiUnavailable, InvalidRequest, NotAllowed, OverQuota, Rejected, UnsatisfiableError
from ray_dra.ports.kube_objects import ComputeDomain, Pod
from ray_dra.ports.kubernetes import Object
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.simulated.fakes import FakeRay
from ray_dra.translate.names import CLIQUE_LABEL, GANG_LABEL, VERIFIED_KEY
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator.kubernetes_world import World
from tests.coordinator.world import Crash, tray
from tests.translate.kube.objects import cluster


def test_a_bundles_labels_are_those_of_kubernetes_nodes() -> None:
    """What docs/kubernetes.md says to ask for in place of a DeviceClass that selects nodes' GPUs."""
    world = World()
    node = world.coordinator.inventory.node_states["gb200-r1-t00"].node
    clique = node.labels[CLIQUE_LABEL]
    request = request_from_bundles([{"GPU": 4}], selectors=[{CLIQUE_LABEL: f"in(other,{clique})"}])
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


@pytest.mark.parametrize("turn", range(2, 5))
def test_a_worker_lost_in_the_making_is_made_anew_in_its_slot_while_the_others_stay(turn: int) -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(turn):
        world.turn()
    first, other = world.kube.view().pods
    assert world.coordinator.status(gang).phase is not Phase.READY
    world.kube.delete("Pod", first.name)
    assert world.drive(gang) is Phase.READY
    made = {pod.name: pod.uid for pod in world.kube.view().pods}
    assert made.keys() == {first.name, other.name}
    assert made[other.name] == other.uid
    assert made[first.name] != first.uid
    assert world.coordinator.status(gang).moves == 0
    world.coordinator.release(gang)
    world.settle()


def test_a_gang_whose_workers_are_lost_again_and_again_gives_all_back_and_is_planned_anew() -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(20):  # 10 s: no stage's patience is as short
        known = world.kube.view().pods
        world.turn()
        for pod in known:
            world.kube.drop("Pod", pod.name)
        if world.coordinator.status(gang).moves:
            break
    assert world.coordinator.status(gang).moves == 1
    assert world.drive(gang) is Phase.READY


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


KINDS = ("ResourceClaimTemplate", "ComputeDomain", "ResourceClaim", "RayCluster")


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("victim", ["node", "gone", "device", "pod", "control store", *KINDS])
def test_what_is_lost_at_any_moment_moves_the_whole_gang_or_ends_it(turn: int, victim: str) -> None:
    world = World(nodes=6, cliques=2)  # three trays a rack: one to spare
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(turn):
        world.turn()
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    node = allocation.nodes[0]
    if victim == "node":
        world.kube.lose_node(node)
    elif victim == "gone":
        world.kube.delete_node(node)
    elif victim == "device" and (node, "gpu-0") not in world.kube.claimed():
        world.kube.take(node, "gpu-0")
    elif victim == "pod":
        for pod in world.kube.view().pods[:1]:
            world.kube.delete("Pod", pod.name)
    elif victim == "ResourceClaim":
        for claim in world.kube.view().claims[:1]:
            world.kube.delete(victim, claim.name)
    elif victim in KINDS[:2]:
        world.kube.drop(victim)
    elif victim == "RayCluster":
        world.kube.apply_raycluster(upgradeStrategy={"type": "Recreate"})
    elif victim == "control store":
        world.store.data.clear()
        world.ray = FakeRay()
        world.restart()
        world.settle()
        return
    found = world.drive(gang, turns=200)
    if found is Phase.DEGRADED:  # it stood already, and what is lost of it shows
        assert world.coordinator.status(gang).lost
    else:
        assert found is Phase.READY
        chosen = world.coordinator.status(gang).allocation
        assert chosen is not None
        if victim in ("node", "gone"):
            assert node not in chosen.nodes
    world.coordinator.release(gang)
    for _ in range(100):
        world.turn()
    assert not world.coordinator.gangs  # what lingers on a lost node holds up nobody
    world.kube.regain_node(node)
    world.settle()


def test_devices_that_the_scheduler_gave_out_twice_are_given_back_at_once() -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    while not (ours := world.kube.claimed()):
        world.turn()
    world.kube.doubled = True
    world.kube.take(*ours[0])
    assert world.drive(gang, turns=40) is Phase.READY  # 20 s; no pod would be missed for two minutes
    assert world.coordinator.status(gang).moves == 1
    assert ours[0] not in world.kube.claimed()[1:]
    world.kube.give_back(*ours[0])
    world.kube.doubled = False
    world.coordinator.release(gang)
    world.settle()


def test_a_coordinator_without_the_lease_writes_nothing() -> None:
    world = World()
    world.kube.seize_lease("another coordinator has the lease")
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(10):
        world.turn()
    assert not world.kube.writes
    assert world.coordinator.status(gang).said == "another coordinator has the lease"
    world.kube.free_lease()
    assert world.drive(gang) is Phase.READY
    world.kube.seize_lease("another coordinator has the lease")
    before = world.kube.writes
    world.coordinator.release(gang)
    for _ in range(10):
        world.turn()
    assert world.kube.writes == before
    world.kube.free_lease()
    world.settle()


@pytest.mark.parametrize(("late", "opened"), [(0, 2), (8, 2), (30, 4)])
def test_gates_are_opened_once_though_the_watch_is_late(late: int, opened: int) -> None:
    """Again only after ten seconds: the patch may have been lost."""
    world = World()
    world.kube.lag(late)
    gang = world.coordinator.submit(world.order()).gang
    assert world.drive(gang) is Phase.READY
    assert len(world.kube.opened) == opened
    assert world.coordinator.status(gang).moves == 0


@pytest.mark.parametrize(("status", "tried"), [(0, ["a"]), (500, ["a", "b"])])
def test_a_server_that_does_not_answer_is_waited_for_once_a_look(status: int, tried: list[str]) -> None:
    """One that fails for an object (a webhook that is down) keeps nobody else's from being given back."""
    asked = []

    class Failing(FakeKube):
        def delete(self, kind: str, name: str) -> None:
            asked.append(name)
            error = ApiUnavailable("The Kubernetes API cannot answer now.")
            error.status = status
            raise error

    kube = Failing(cluster(), [])
    give_back(kube, {name: Found(domains=[ComputeDomain(name)]) for name in "ab"}, ())
    assert asked == tried


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


def test_what_nvml_finds_in_a_gangs_worker_shows_and_keeps_others_off_the_gpu() -> None:
    world = World(nodes=2, cliques=1)
    gang = world.coordinator.submit(world.order(bundles=1)).gang
    assert world.drive(gang) is Phase.READY
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    raylet = next(n for n in world.ray.nodes.values() if n.alive)
    faulty = tray("x", rack=str(allocation.grants[0].clique).rpartition(".")[0], xids=(79,))
    uuids = [grant.uuid for grant in allocation.grants]
    clique = int(str(allocation.grants[0].clique).rpartition(".")[2])
    gpus = tuple(
        replace(g, uuid=u, fabric=replace(g.fabric, clique_id=clique)) if g.fabric else g
        for g, u in zip(faulty.gpus, uuids, strict=True)
    )
    world.coordinator.report(raylet.id, replace(faulty, gpus=gpus))
    world.turn()
    status = world.coordinator.status(gang)
    assert status.phase is Phase.DEGRADED
    assert len(status.lost) == 1
    assert "XID 79" in status.lost[0]
    world.coordinator.release(gang)
    world.settle()
    more = world.coordinator.submit(world.order(bundles=2))
    assert more.phase is Phase.QUEUED  # one of the eight is left out
    world.coordinator.report(raylet.id, tray("x"))  # nobody's worker any more: not heard
    world.later(601)
    world.turn()
    assert world.coordinator.status(more.gang).phase is Phase.PROVISIONING


def test_a_cluster_without_a_group_to_copy_is_said_before_anything_is_held() -> None:
    world = World()
    world.kube.apply_raycluster(workerGroupSpecs=[])
    world.turn()
    with pytest.raises(InvalidRequest, match="no worker group to copy"):
        world.coordinator.submit(world.order())
    assert world.left() == []


def test_nodes_that_are_left_out_for_a_while_refuse_nobody_for_ever() -> None:
    world = World(nodes=2, cliques=1)
    backend = world.coordinator.backend
    assert isinstance(backend, KubernetesBackend)
    backend.machines.avoid(["gb200-r0-t00"], "a test")
    world.turn()
    status = world.coordinator.submit(world.order())
    assert status.phase is Phase.QUEUED
    assert "4 free of 8" in "; ".join(map(str, status.waits_for))
    world.later(61)
    assert world.drive(status.gang) is Phase.READY


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


@pytest.mark.parametrize(("stage", "seconds"), [("bound", 20), ("verified", 120), ("joined", 60)])
def test_a_gang_that_waits_in_vain_for_one_node_is_planned_without_it(stage: str, seconds: int) -> None:
    world = World(nodes=6, cliques=2)
    gang = world.coordinator.submit(world.order()).gang
    allocation = world.coordinator.status(gang).allocation
    assert allocation is not None
    bad, good = allocation.nodes
    running, add_node, schedule = world.kube.running, world.ray.add_node, world.kube._schedule

    def hanging() -> list[tuple[Pod, frozenset[str]]]:
        return [(pod, devices) for pod, devices in running() if pod.node != bad]

    def add_others(raylet: str, **more: Any) -> None:
        if {pod.name: pod.node for pod in world.kube.view().pods}[raylet] != bad:
            add_node(raylet, **more)

    def schedule_others(pod: dict[str, Any]) -> None:
        if bad not in str(pod["spec"]["affinity"]):
            schedule(pod)

    if stage == "bound":
        world.kube._schedule = schedule_others  # type: ignore[method-assign]
    elif stage == "verified":
        world.kube.running = hanging  # type: ignore[method-assign]
    else:
        world.ray.add_node = add_others  # type: ignore[method-assign]
    assert world.drive(gang, turns=2 * seconds + 60) is Phase.READY
    status = world.coordinator.status(gang)
    assert status.moves == 1
    assert status.allocation is not None
    assert bad not in status.allocation.nodes
    assert good in status.allocation.nodes, "only the one that was behind"


def test_a_gang_on_a_node_where_another_gang_failed_has_lost_nothing() -> None:
    world = World(nodes=2, cliques=1)
    first, second = (world.coordinator.submit(world.order(bundles=1, gpus=2)).gang for _ in range(2))
    nodes = [allocation.nodes for g in (first, second) if (allocation := world.coordinator.status(g).allocation)]
    assert nodes[0] == nodes[1]
    assert world.drive(first) is Phase.READY
    failing = next(pod for pod in world.kube._of("Pod") if pod["metadata"]["labels"][GANG_LABEL] == second)
    failing["status"] = {"phase": "Failed", "message": "a test"}
    world.kube.put(failing)
    world.coordinator.observe()
    world.turn()
    moved = world.coordinator.status(second).allocation
    assert moved is not None
    assert moved.nodes != nodes[0]
    assert world.coordinator.status(first).phase is Phase.READY
    world.kube.lose_node(nodes[0][0])
    world.turn()
    assert world.coordinator.status(first).phase is Phase.DEGRADED


def test_a_worker_that_ends_because_it_is_deleted_has_not_failed() -> None:
    """A kubelet writes how its containers ended, then lets the pod go."""
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(4):
        world.turn()
    pod = world.kube._of("Pod")[0]
    pod["metadata"]["deletionTimestamp"] = "now"
    pod["status"] = {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 143}}}]}
    world.kube.put(pod)
    world.coordinator.observe()
    assert world.drive(gang) is Phase.READY
    assert world.coordinator.status(gang).moves == 0


def test_while_nothing_can_be_written_no_patience_is_tried() -> None:
    world = World()
    world.kube.stop_scheduling()
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(30):  # 15 s of the 20 that it has
        world.turn()
    world.kube.seize_lease("the lease could not be renewed")
    for _ in range(200):
        world.turn()
    assert world.coordinator.status(gang).said == "the lease could not be renewed"
    world.kube.free_lease()
    for _ in range(4):
        world.turn()
    assert world.coordinator.status(gang).moves == 0
    for _ in range(20):
        world.turn()
    assert world.coordinator.status(gang).moves == 1, "the rest is tried as before"


@pytest.mark.parametrize("others", [True, False])
def test_a_gate_that_somebody_opens_while_we_open_ours_fails_nobody(others: bool) -> None:
    """The API server lets gates go and takes none, so a patch that names one that is gone is refused."""
    world = World()
    (group,) = cluster()["spec"]["workerGroupSpecs"]
    group["template"]["spec"]["schedulingGates"] = [{"name": "mine/gate"}]
    world.kube.apply_raycluster(workerGroupSpecs=[group])
    patch = world.kube.patch

    def of(gates: Sequence[dict[str, str]] | None) -> set[str]:
        return {gate["name"] for gate in gates or ()}

    def strict(kind: str, name: str, change: Object) -> None:
        (pod,) = (pod for pod in world.kube._of("Pod") if pod["metadata"]["name"] == name)
        if others:  # the other controller is quicker than our write
            gates = pod["spec"].get("schedulingGates") or ()
            pod["spec"]["schedulingGates"] = [gate for gate in gates if gate["name"] != "mine/gate"]
        refused = not others or of(change["spec"]["schedulingGates"]) - of(pod["spec"].get("schedulingGates"))
        if refused:
            raise Rejected("The API server refuses the object.", available="only deletion is allowed")
        patch(kind, name, change)

    world.kube.patch = strict  # type: ignore[method-assign]
    gang = world.coordinator.submit(world.order()).gang
    if others:
        assert world.drive(gang) is Phase.READY
        assert world.coordinator.status(gang).moves == 0
        return
    before = world.kube.writes
    with pytest.raises(UnsatisfiableError, match="only deletion is allowed"):
        world.drive(gang)
    assert world.kube.writes - before < 20


def test_what_a_lost_worker_has_proved_does_not_count_after_a_restart_either() -> None:
    world = World()
    world.coordinator.submit(world.order())
    while len(world.store.keys(VERIFIED_KEY)) < 2:
        world.turn()
    first, other = world.kube.view().pods
    world.kube.stop_scheduling()
    world.kube.drop("Pod", first.name)
    world.restart()
    assert len(world.store.keys(VERIFIED_KEY)) == 1
    assert other.name.rpartition("-")[2] in world.store.keys(VERIFIED_KEY)[0]


def test_what_the_api_server_says_no_to_is_named_with_its_place() -> None:
    world = World()

    def denied(thing: Object) -> str:
        raise NotAllowed("This identity may not do that.", wanted=f"create {thing['kind']}")

    world.kube.create = denied  # type: ignore[method-assign]
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(3):
        world.turn()
    assert world.coordinator.status(gang).said == "This identity may not do that. (create ComputeDomain)"


def test_what_is_refused_is_sent_again_ever_later_and_at_once_when_all_is_well() -> None:
    world = World()
    create, asked = world.kube.create, list[float]()

    def failing(thing: Object) -> str:
        asked.append(world.clock.now)
        raise ApiUnavailable("The Kubernetes API cannot answer now.")

    world.kube.create = failing  # type: ignore[method-assign]
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(240):  # two minutes
        world.turn()
    assert asked[1] - asked[0] == 0.5
    assert 20 < len(asked) < 35
    assert world.coordinator.status(gang).said == "The Kubernetes API cannot answer now."
    world.kube.create = create  # type: ignore[method-assign]
    assert world.drive(gang, turns=24) is Phase.READY
    assert world.coordinator.status(gang).moves == 0


def test_a_gang_that_finds_no_room_in_a_quota_gives_all_back_and_tries_again_later() -> None:
    world = World()
    create, full = world.kube.create, True

    def counted(thing: Object) -> str:
        if full and thing["kind"] == "Pod":
            raise OverQuota("No room.", available="exceeded quota: q")
        return create(thing)

    world.kube.create = counted  # type: ignore[method-assign]
    gang = world.coordinator.submit(world.order()).gang
    for _ in range(80):  # 40 s, in which somebody else's pods end
        world.turn()
    status = world.coordinator.status(gang)
    assert status.moves <= 3
    assert status.said == "Kubernetes refuses the workers for now: exceeded quota: q"
    assert not world.kube.left()
    full = False
    assert world.drive(gang) is Phase.READY
    full = True
    world.coordinator.release(gang)
    world.settle()
    gang = world.coordinator.submit(world.order()).gang
    with pytest.raises(UnsatisfiableError, match="exceeded quota: q"):
        world.drive(gang, turns=300)


def test_an_attempt_that_never_gets_on_is_given_up_a_bounded_number_of_times() -> None:
    """Pods that never start: planned again on other nodes, and in the end a typed error that says why."""
    world = World(nodes=2, cliques=1)
    gang = world.coordinator.submit(world.order(bundles=1)).gang
    world.kube.stop_scheduling()
    for _ in range(2000):
        world.turn()
        world.later(5)
        if gang not in world.coordinator.gangs:
            break
    with pytest.raises(UnsatisfiableError, match=r"given up: .*without progress"):
        world.coordinator.status(gang)
    assert isinstance(world.order().request, GangRequest)
    world.settle()


@pytest.mark.parametrize(("bundles", "asked"), [(2, 2), (40, 1)])
def test_a_no_to_pods_that_are_alike_costs_few_requests(bundles: int, asked: int) -> None:
    world = World(nodes=54, cliques=3)
    tried: list[str] = []

    def refused(thing: Object) -> str:
        tried.append(thing["kind"])
        raise Rejected("The API server refuses the object.", available="no such image policy")

    def together(calls: Sequence[Callable[[], object]]) -> None:
        """As the adapter does: all are made, whatever comes of the first."""
        errors = []
        for call in calls:
            try:
                call()
            except Rejected as error:
                errors.append(error)
        if errors:
            raise errors[0]

    world.kube.create, world.kube.together = refused, together  # type: ignore[method-assign]
    world.kube.compute_domains = False
    world.restart()
    request = request_from_bundles([{"GPU": 4.0}] * bundles)
    gang = world.coordinator.submit(Order(request, owner="job")).gang
    for _ in range(4):
        world.turn()
    with pytest.raises(UnsatisfiableError, match="no such image policy"):
        world.coordinator.status(gang)
    assert tried == ["Pod"] * asked
