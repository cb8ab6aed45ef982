"""A schedule: which of its named shapes a gang has at which time of the day. Pure.

As text `day=08:00, night=20:00`, and as the last part where that is not UTC `zone=Europe/Berlin`. Whoever follows it
has the clock. Neighbours: `program/named_shapes.py` follows it; it is said by a RayCluster's annotation or a setting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.names import SCHEDULE_VARIABLE

MOST_TIMES = 64
MOST_TEXT = 4_000
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
ZONE = "zone"


@dataclass(frozen=True, slots=True)
class Schedule:
    """`times`: (minutes since midnight, name of the shape from then on), the earliest first; `zone`: whose midnight."""

    times: tuple[tuple[int, str], ...]
    zone: str = "UTC"

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for _, name in self.times)

    def due(self, wall: float) -> str:
        """The shape that is due at a Unix time."""
        now = datetime.fromtimestamp(wall, ZoneInfo(self.zone))
        minute = now.hour * 60 + now.minute
        return next((name for at, name in reversed(self.times) if at <= minute), self.times[-1][1])

    def next_change(self, wall: float) -> float:
        """The Unix time of the first entry after one."""
        zone = ZoneInfo(self.zone)
        today = datetime.fromtimestamp(wall, zone).date()
        starts = (
            datetime.combine(today + timedelta(days=day), time(at // 60, at % 60), zone).timestamp()
            for day in range(3)
            for at, _ in self.times
        )
        return min(at for at in starts if at > wall)

    def __str__(self) -> str:
        said = [f"{name}={at // 60:02}:{at % 60:02}" for at, name in self.times]
        return ", ".join([*said, *([f"{ZONE}={self.zone}"] if self.zone != "UTC" else [])])


def schedule_of(environment: Mapping[str, str]) -> Schedule | None:
    """The schedule of a cluster by the setting. Raises InvalidRequest for a variable that says something else."""
    said = environment.get(SCHEDULE_VARIABLE, "").strip()
    return read_schedule(said, SCHEDULE_VARIABLE) if said else None


def read_schedule(said: str, place: str) -> Schedule:
    """Raises InvalidRequest for what is no schedule, with `place` as where it was said."""
    times: dict[int, str] = {}
    zone = "UTC"
    if len(said) > MOST_TEXT:
        raise _no(said[:100], place)
    *parts, last = [part.strip() for part in said.split(",")]
    if last.startswith(f"{ZONE}="):
        zone = last.removeprefix(f"{ZONE}=")
        try:
            ZoneInfo(zone)
        except (ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
            raise _no(last, place) from error
        except KeyError as error:
            raise _no(last, place) from error
    else:
        parts.append(last)
    for part in parts:
        name, _, at = (each.strip() for each in part.partition("="))
        found = _TIME.fullmatch(at)
        if found is None or not NAME.fullmatch(name):
            raise _no(part, place)
        minute = int(found[1]) * 60 + int(found[2])
        if minute in times:
            raise _no(f"{at} twice", place)
        times[minute] = name
    if not 0 < len(times) <= MOST_TIMES:
        raise _no(said, place)
    return Schedule(tuple(sorted(times.items())), zone)


def _no(said: str, place: str) -> InvalidRequest:
    return InvalidRequest(
        "It is which shape gangs have from which time of the day on.",
        place=place,
        wanted=shown(said),
        available=f"day=08:00, night=20:00, at most {MOST_TIMES} times; and at the end zone=Europe/Berlin, say",
    )
