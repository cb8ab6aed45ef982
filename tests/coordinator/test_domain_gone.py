"""A ComputeDomain that is deleted while its gang is ready: its workers' IMEX channels end with it, and one that is made
again is another domain. So it is a loss of all workers in it, about which is done what the gang has declared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_dra.core.gangs.repair import DEGRADE, OnFault, on_fault
from ray_dra.ports.kube_objects import Claim
from ray_dra.ports.kubernetes import KubeView
from ray_dra.translate.kube.claims import read_claim
from ray_dra.translate.names import DOMAIN_DRIVER

from .fault_worlds import GRACE, NAME, RESTART, KubeWorld
from .world import Phase

REPLACE = on_fault("replace", GRACE)


def domains(world: KubeWorld) -> list[str]:
    return [domain.name for domain in world.kube.view().domains]


def show_channels(world: KubeWorld) -> None:
    """As on real nodes: the claim of each pod's channel tells its node, and the domain that was there when the pod
    came, as long as the pod is there."""
    view, joined = world.kube.view, dict[str, str]()

    def channel(pod: str, node: str | None, domain: str) -> Claim:
        owner = {"apiVersion": "v1", "kind": "Pod", "uid": pod, "controller": True}
        parameters = {"kind": "ComputeDomainChannelConfig", "domainID": domain}
        result = {"driver": DOMAIN_DRIVER, "pool": node, "device": "channel-0"}
        return read_claim(
            {
                "metadata": {
                    "name": f"{pod}-imex",
                    "namespace": world.kube.namespace,
                    "uid": f"{pod}-imex",
                    "ownerReferences": [owner],
                },
                "spec": {"devices": {"config": [{"opaque": {"driver": DOMAIN_DRIVER, "parameters": parameters}}]}},
                "status": {"allocation": {"devices": {"results": [result]}}},
            }
        )

    def shown() -> KubeView:
        seen = view()
        for pod, _ in world.kube.running():
            joined.setdefault(pod.uid, next((domain.uid for domain in seen.domains), ""))
        channels = [channel(pod.uid, pod.node, joined[pod.uid]) for pod in seen.pods if pod.uid in joined]
        return replace(seen, claims=(*seen.claims, *channels))

    world.kube.view = shown  # type: ignore[method-assign]


def pods(world: KubeWorld) -> dict[str, str]:
    return {pod.node or "": pod.uid for pod, _ in world.kube.running()}


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("declared", [DEGRADE, REPLACE, RESTART], ids=["degrade", "replace", "restart"])
def test_it_is_noticed_and_what_was_declared_is_done(declared: OnFault, restarted: bool, channels: bool) -> None:
    world = KubeWorld()
    if channels:
        show_channels(world)
    world.with_gang(declared)
    before, held, was = world.status, world.nodes, pods(world)
    (domain,) = domains(world)
    assert not world.status.lost
    world.kube.drop("ComputeDomain", domain)
    if restarted:
        world.restart()
    world.turn()
    if declared is DEGRADE:
        assert (world.status.phase, world.status.lost) == (Phase.DEGRADED, (f"its ComputeDomain {domain} is gone",))
        for _ in range(20):
            world.turn()
        assert domains(world) == [], "of another one its workers would get no channels"
        assert pods(world) == was
        return
    notice = world.status.notice
    assert notice is not None
    assert (notice.ranks, notice.faulty, world.status.phase) == ((0, 1), (0, 1), Phase.DRAINING)
    assert domain in notice.reason
    for _ in range(int(2 * GRACE) + 4):
        world.turn()
    assert world.until_ready() is Phase.READY
    assert not world.status.lost
    assert len(domains(world)) == 1
    assert not set(pods(world).values()) & set(was.values()), "all workers are new"
    if declared is REPLACE:
        assert (world.status.group, world.nodes) == (before.group, held)
        assert domains(world) == [domain]
    else:
        assert world.status.group != before.group
    world.coordinator.release(NAME)
    world.settle()


def test_one_that_is_being_deleted_is_gone_and_the_next_is_made_once_it_has_ended() -> None:
    world = KubeWorld()
    world.with_gang(REPLACE)
    (domain,) = domains(world)
    held = world.kube._things["ComputeDomain", domain]
    held["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.kube._version += 1
    for _ in range(int(2 * GRACE) + 20):
        world.turn()
    assert world.status.phase is Phase.REPAIRING
    assert not pods(world), "none is made into a domain that ends"
    world.kube.drop("ComputeDomain", domain)
    assert world.until_ready() is Phase.READY
    assert "deletionTimestamp" not in world.kube._things["ComputeDomain", domain]["metadata"]
    world.coordinator.release(NAME)
    world.settle()


def test_one_that_cannot_be_read_is_not_gone() -> None:
    world = KubeWorld()
    world.with_gang(REPLACE)
    view = world.kube.view

    def unread() -> KubeView:
        return replace(view(), domains=(), domains_unread=True, version=view().version + 1)

    world.kube.view = unread  # type: ignore[method-assign]
    world.later(20)
    assert (world.status.phase, world.status.notice) == (Phase.READY, None)


def test_gangs_without_one_lose_nothing() -> None:
    """On one node, and beside one that has lost its own."""
    world = KubeWorld(nodes=6)
    world.with_gang(DEGRADE)
    alone = world.coordinator.submit(world.order(bundles=1)).gang
    assert world.drive(alone) is Phase.READY
    world.kube.drop("ComputeDomain", domains(world)[0])
    world.later(3)
    assert world.status.phase is Phase.DEGRADED
    assert world.coordinator.status(alone).phase is Phase.READY
