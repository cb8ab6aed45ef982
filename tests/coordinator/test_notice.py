"""A RayCluster that will end: its gangs' programs hear of it before, as people do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.phases import Phase
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.translate.text import explain_history
from tests.coordinator.kubernetes_world import World

GOES_OVER = "RayService serve is being upgraded, and goes over to RayCluster next once that serves"
HAS_GONE = "RayService serve has gone over to RayCluster next"


def with_gang() -> tuple[World, str]:
    world = World()
    world.kube.say_rayservice(active="c", delay=7)
    gang = world.coordinator.submit(world.order(name="train")).gang
    assert world.drive(gang) is Phase.READY
    return world, gang


def notice(world: World, gang: str) -> Notice | None:
    world.coordinator.observe()
    return world.coordinator.status(gang).notice


def told(world: World) -> list[str]:
    return [message for reason, message in world.kube.told if reason == "GangNotice"]


def test_a_rayservices_upgrade_is_told_before_it_ends_a_gang() -> None:
    world, gang = with_gang()
    assert notice(world, gang) is None
    world.kube.say_rayservice(active="c", pending="next", delay=7)
    first = notice(world, gang)
    assert first is not None
    assert (first.reason, first.deadline, first.ranks) == (GOES_OVER, None, (0, 1))
    world.later(5)
    assert notice(world, gang) == first
    world.restart()
    world.kube.say_rayservice(active="next", delay=7)
    now = notice(world, gang)
    assert now is not None
    assert (now.reason, now.deadline, now.ranks) == (HAS_GONE, now.since + 7, (0, 1))
    world.kube.drop_raycluster()
    last = notice(world, gang)
    assert last is not None
    assert (last.reason, last.deadline) == ("RayCluster c was deleted", last.since)
    assert world.coordinator.status(gang).phase is Phase.READY
    history = "\n".join(explain_history(world.coordinator.status(gang).history))
    assert all(f"ready{' ' * 5}" in line for line in history.splitlines() if "notice" in line)
    for reason in (GOES_OVER, HAS_GONE, last.reason):
        assert f"notice: {reason}" in history
        assert [reason in said for said in told(world)].count(True) == 1
    assert all(said.startswith("gang train: notice: the gang will end") for said in told(world))


def test_an_upgrade_that_is_taken_back_ends_nothing() -> None:
    world, gang = with_gang()
    world.kube.say_rayservice(active="c", pending="next")
    assert notice(world, gang) is not None
    world.kube.say_rayservice(active="c")
    assert notice(world, gang) is None
    assert "the notice is taken back" in world.coordinator.status(gang).history[-1].why


def service(**said: str) -> Callable[[FakeKube], None]:
    return lambda kube: kube.say_rayservice(**said)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("befalls", "reason", "within"),
    [
        (service(active="c"), None, None),
        (service(active="c", pending="c"), None, None),
        (service(active="", pending="c"), None, None),
        (service(active="", pending=""), None, None),
        (service(active="old", pending="c"), None, None),
        (service(active="", pending="next"), "RayService serve has gone over to RayCluster next", 60),
        (service(active="next"), "RayService serve has gone over to RayCluster next", 60),
        (FakeKube.delete_raycluster, "RayCluster c is being deleted", 0),
        (FakeKube.drop_raycluster, "RayCluster c was deleted", 0),
        (lambda kube: kube.apply_raycluster(suspend=True), "RayCluster c is suspended", 0),
    ],
)
def test_what_ends_a_raycluster(befalls: Callable[[FakeKube], None], reason: str | None, within: float | None) -> None:
    world = World()
    gang = world.coordinator.submit(world.order()).gang
    befalls(world.kube)
    found = notice(world, gang)
    assert (found.reason if found is not None else None) == reason
    if found is not None:
        assert within is not None
        assert found.deadline == found.since + within


def test_a_raycluster_that_cannot_be_read_is_not_taken_for_gone() -> None:
    world, gang = with_gang()
    view = world.kube.view

    def unreadable() -> object:
        from dataclasses import replace

        return replace(view(), raycluster=None, raycluster_gone=False, version=view().version + 1)

    world.kube.view = unreadable  # type: ignore[method-assign,assignment]
    assert notice(world, gang) is None
