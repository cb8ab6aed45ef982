"""An API server that refuses what is made for a gang on a fake Kubernetes, or does not answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from ray_dra.coordinator.backends.kubernetes.objects import Found
from ray_dra.coordinator.backends.kubernetes.teardown import Teardown
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.errors import ApiUnavailable, NotAllowed, OverQuota, Rejected, UnsatisfiableError
from ray_dra.ports.kube_objects import ComputeDomain
from ray_dra.ports.kubernetes import Object
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.translate.ray.bundles import request_from_bundles
from tests.coordinator.kubernetes_world import World
from tests.translate.kube.objects import cluster


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
    Teardown(kube, lambda: 0.0).step({name: Found(domains=[ComputeDomain(name)]) for name in "ab"}, ())
    assert asked == tried


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


def test_a_delete_that_is_refused_is_sent_again_ever_later() -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    assert world.drive(gang) is Phase.READY
    delete, asked = world.kube.delete, list[float]()

    def denied(kind: str, name: str) -> None:
        asked.append(world.clock.now)
        raise NotAllowed("This identity may not do that.", wanted=f"delete {kind}")

    world.kube.delete = denied  # type: ignore[method-assign]
    world.coordinator.release(gang)
    for _ in range(240):  # two minutes
        world.turn()
    assert 20 < len(asked) < 35
    world.kube.delete = delete  # type: ignore[method-assign]
    world.settle(turns=16)


@pytest.mark.parametrize(("seconds", "sent"), [(9, 1), (11, 2)])
def test_what_was_deleted_is_deleted_again_only_where_no_watch_shows_it(seconds: int, sent: int) -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    assert world.drive(gang) is Phase.READY
    view, delete, asked = world.kube.view(), world.kube.delete, list[tuple[str, str]]()

    def counted(kind: str, name: str) -> None:
        asked.append((kind, name))
        delete(kind, name)

    world.kube.delete, world.kube.view = counted, lambda: view  # type: ignore[method-assign]
    world.coordinator.release(gang)
    world.later(seconds)
    assert len(asked) == sent * len(set(asked)) == sent * 5, "two pods, two claims, a ComputeDomain"
