"""A gang's shapes under names, and the schedule by which it changes from one to another: over fakes, and no Ray."""

from __future__ import annotations

from typing import Any

import pytest

import ray_dra
from ray_dra.core.gangs.phases import Phase
from ray_dra.program import named_shapes
from ray_dra.translate.schedule import Schedule, read_schedule
from tests.coordinator.world import World
from tests.program.test_gang_handle import handle as handle  # a fixture

DAY, NIGHT = ray_dra.shape([{"GPU": 1}] * 8), ray_dra.shape([{"GPU": 4}] * 2)


class Now:
    """A clock, and what the cluster says of shapes."""

    def __init__(self) -> None:
        self.wall, self.said = 0.0, "day=08:00, night=20:00"

    def time(self) -> float:
        return self.wall

    monotonic = time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0, "it would ask without end"
        self.wall += seconds

    @property
    def schedule(self) -> Schedule | None:
        return read_schedule(self.said, "it") if self.said else None


@pytest.fixture
def now(handle: tuple[World, Any], monkeypatch: pytest.MonkeyPatch) -> Now:
    made = Now()

    class Remote:
        def remote(self) -> Schedule | None:
            return made.schedule

    class Actor:
        schedule = Remote()

    at = "ray_dra.program.named_shapes"
    monkeypatch.setattr(f"{at}.coordinator", Actor)
    monkeypatch.setattr(f"{at}.ask", lambda answer: answer)
    monkeypatch.setattr(f"{at}.time", made)
    monkeypatch.setattr("ray_dra.program.gang_handle.time.time", made.time)
    return made


def test_a_gang_switches_between_its_shapes_by_their_names(handle: tuple[World, Any]) -> None:
    world, made = handle
    made.phases({"day": DAY, "night": NIGHT})
    assert made.bundle_count == 2, "to name shapes changes nothing"
    before = 2
    for name, count in (("day", 8), ("day", 8), ("night", 2), ("day", 8)):
        moves = world.coordinator.gangs[made.id].moves
        assert made.switch(name, grace=0) == name
        assert made.bundle_count == count
        assert made.phase is Phase.READY
        assert (world.coordinator.gangs[made.id].moves == moves) is (count == before), "only where it is another"
        before = count
    world.check()


def test_between_shapes_with_names_what_one_does_not_use_is_kept_for_the_others(handle: tuple[World, Any]) -> None:
    world, made = handle
    free = world.coordinator.inventory.free_devices
    made.phases({"few": ray_dra.shape([{"GPU": 1}]), "night": NIGHT})
    for name in ("few", "night", "few"):
        made.switch(name, grace=0)
        assert world.coordinator.inventory.free_devices == free
    assert "kept for another shape" in made.explain()
    made.phases({"few": ray_dra.shape([{"GPU": 1}])}, keep=False)
    made.switch("few", grace=0)
    assert world.coordinator.inventory.free_devices == free + 7
    made.reshape([{"GPU": 1}], keep=True)
    with pytest.raises(ray_dra.UnsatisfiableError, match="own GPUs"):
        made.reshape([{"GPU": 2}], keep=True)
    with pytest.raises(ray_dra.InvalidRequest, match="keep is True or False"):
        made.reshape([{"GPU": 2}], keep="devices")
    world.check()


def test_what_cannot_be_is_refused_before_anything_is_asked_of_the_gang(handle: tuple[World, Any]) -> None:
    world, made = handle
    before = world.coordinator.gangs[made.id]
    large = ray_dra.shape([{"GPU": 4}] * 3)
    parts = ray_dra.shape([{"GPU": 1}] * 8, part=ray_dra.mig("1g.10gb"))
    for shapes, error in (
        ({}, ray_dra.InvalidRequest),
        ({"": DAY}, ray_dra.InvalidRequest),
        ({"zone": DAY}, ray_dra.InvalidRequest),
        ({"a=b": DAY}, ray_dra.InvalidRequest),
        ({1: DAY}, ray_dra.InvalidRequest),
        ({"day": [{"GPU": 1}]}, ray_dra.InvalidRequest),
        ({"day": DAY, "night": parts}, ray_dra.InvalidRequest),
        ({"day": DAY, "night": large}, ray_dra.UnsatisfiableError),
        ("day", ray_dra.InvalidRequest),
    ):
        with pytest.raises(error):
            made.phases(shapes)
    with pytest.raises(ray_dra.InvalidRequest, match="no shape of this name"):
        made.switch("day")
    with pytest.raises(ray_dra.InvalidRequest, match="no shape of this name"):
        made.switch(["day"])
    with pytest.raises(ray_dra.InvalidRequest):
        ray_dra.shape([{"GPU": 2}], part=ray_dra.mig("1g.10gb"))
    assert world.coordinator.gangs[made.id] == before


def test_by_the_schedule_it_has_the_shape_that_is_due(handle: tuple[World, Any], now: Now) -> None:
    _, made = handle
    made.phases({"day": DAY, "night": NIGHT})
    hour = 3600.0
    now.wall = 7 * hour
    assert made.switch(grace=0) == "night"
    assert made.bundle_count == 2
    assert made.await_switch() == "day"
    assert now.wall == 8 * hour
    assert made.switch(grace=0) == "day"
    assert made.await_switch(timeout=60) == "day"
    now.said = "day=06:00, night=09:00"  # an operator's word counts from the next look on
    assert made.await_switch() == "night"
    assert 9 * hour <= now.wall <= 9 * hour + named_shapes.LOOK_SECONDS
    for said, why in (("", "Nobody says"), ("day=08:00, noon=12:00", "does not have")):
        now.said = said
        with pytest.raises(ray_dra.InvalidRequest, match=why):
            made.await_switch()
        with pytest.raises(ray_dra.InvalidRequest, match=why):
            made.switch()
