"""Which shape is due when: compared with what each minute of days says, also where a day has 23 or 25 hours."""

from __future__ import annotations

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.errors import InvalidRequest
from ray_dra.translate.schedule import Schedule, read_schedule, schedule_of

TIMES = st.dictionaries(st.integers(0, 1439), st.sampled_from(["day", "night", "a.b-c_9"]), min_size=1, max_size=6)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])
SUMMER = int(datetime(2026, 3, 29, tzinfo=timezone.utc).timestamp())  # Berlin's clocks go forward on that day
WALLS = st.integers(SUMMER - 90_000, SUMMER + 90_000) | st.integers(0, 4_000_000_000)


def schedules() -> st.SearchStrategy[Schedule]:
    return st.builds(lambda times, zone: Schedule(tuple(sorted(times.items())), zone), TIMES, ZONES)


@given(schedules())
def test_what_is_written_is_read_again(schedule: Schedule) -> None:
    assert read_schedule(str(schedule), "it") == schedule
    assert read_schedule(str(schedule).replace(",", " , ").replace("day=", "day = "), "it") == schedule


@given(schedules(), WALLS)
def test_due_is_the_last_entry_of_the_day_so_far_or_of_the_day_before(schedule: Schedule, wall: int) -> None:
    now = datetime.fromtimestamp(wall, ZoneInfo(schedule.zone))
    by_minute = dict(schedule.times)
    minute = now.hour * 60 + now.minute
    entry = next(at % 1440 for at in range(minute, minute - 1440, -1) if at % 1440 in by_minute)
    assert schedule.due(wall) == by_minute[entry]


@given(schedules(), WALLS)
def test_nothing_else_is_due_before_the_next_change(schedule: Schedule, wall: int) -> None:
    change = schedule.next_change(wall)
    assert wall < change <= wall + 2 * 86_400
    zone = ZoneInfo(schedule.zone)
    shifts = {datetime.fromtimestamp(at, zone).utcoffset() for at in range(wall - 3600, int(change) + 3600, 1800)}
    if len(shifts) == 1:  # an hour that comes twice has its entries twice
        assert {schedule.due(at) for at in range(wall, int(change), 61)} <= {schedule.due(wall)}


@pytest.mark.parametrize(
    "said",
    [
        *("day", "day=8:00", "day=24:00", "day=08:60", "day=08:00,", "=08:00", "day=08:00, day=08:00", "zone=UTC"),
        *("day=08:00, zone=Nowhere/Town", "day=08:00, zone=../etc/passwd", "zone=UTC, day=08:00", "d" * 64 + "=08:00"),
        *(",".join(f"d={n // 60:02}:{n % 60:02}" for n in range(65)), "a b=08:00", "x" * 5_000),
    ],
)
def test_what_is_no_schedule_is_refused_where_it_is_said(said: str) -> None:
    with pytest.raises(InvalidRequest) as no:
        read_schedule(said, "the place")
    assert no.value.place == "the place"
    with pytest.raises(InvalidRequest):
        schedule_of({"RAY_DRA_SCHEDULE": said})


def test_without_the_setting_there_is_none() -> None:
    assert schedule_of({}) is schedule_of({"RAY_DRA_SCHEDULE": " "}) is None
