"""Shapes of a gang under names, and which of them is due.

Neighbours: `gang_handle.py` has a gang's, and changes from one to another; `translate/schedule.py` says when.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_dra.core.model.checked import table
from ray_dra.core.model.device_selector import DeviceCriteria
from ray_dra.core.model.gpu_sharing import GpuSharing
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.parts import PartCriteria
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import InvalidRequest, shown
from ray_dra.processes.calls import ask, coordinator
from ray_dra.translate.names import SCHEDULE_ANNOTATION, SCHEDULE_VARIABLE
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.schedule import NAME, Schedule

MOST_SHAPES = 64
LOOK_SECONDS = 60.0  # between two looks at what the schedule says: an operator may change it


@dataclass(frozen=True, slots=True)
class GangShape:
    """What a gang may be made of; made by `shape`, which has the arguments."""

    request: GangRequest


def shape(
    bundles: Sequence[Mapping[str, float]],
    *,
    strategy: str | None = None,
    part: PartCriteria | None = None,
    sharing: GpuSharing | None = None,
    devices: DeviceCriteria | None = None,
    locality: Locality | None = None,
) -> GangShape:
    """A shape for `gang.phases`, which has a name there. Arguments as of `placement_group`.

    Raises:
        InvalidRequest: no gang can have it, whatever its GPUs are.
    """
    return GangShape(
        request_from_bundles(bundles, strategy=strategy, part=part, sharing=sharing, devices=devices, locality=locality)
    )


def check_named(shapes: object) -> dict[str, GangShape]:
    """The same, checked. Raises InvalidRequest."""
    found: dict[str, GangShape] = {}
    for name, each in table(shapes, "shapes", most=MOST_SHAPES).items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name == "zone":
            raise InvalidRequest(
                "This is no name of a shape.",
                place="shapes",
                wanted=shown(name),
                available="1 to 63 letters, digits and _ . -, and not zone",
            )
        if not isinstance(each, GangShape):
            raise InvalidRequest(
                "A shape is what shape(...) returns.",
                place=f"shapes[{name}]",
                wanted=shown(each),
                available="ray_dra.shape(...)",
            )
        found[name] = each
    if not found:
        raise InvalidRequest("There is no shape.", place="shapes", available="a shape under a name")
    return found


def schedule_now(names: Mapping[str, object]) -> Schedule:
    """What the cluster says now. Raises InvalidRequest: it says nothing, or of other shapes."""
    found: Any = ask(coordinator().schedule.remote())
    if not isinstance(found, Schedule):
        raise InvalidRequest(
            "Nobody says when a gang has which shape.",
            place="schedule",
            available=f"the RayCluster's annotation {SCHEDULE_ANNOTATION}, or {SCHEDULE_VARIABLE} on the head",
        )
    unknown = sorted(found.names - names.keys())
    if unknown:
        raise InvalidRequest(
            "The schedule names a shape that the gang does not have.",
            place=str(found),
            wanted=unknown[0],
            available=", ".join(sorted(names)),
        )
    return found


def await_due(names: Mapping[str, object], present: str, timeout: float | None) -> str:
    """The shape that is due, once it is another than the present one, or when the time is over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        schedule, now = schedule_now(names), time.time()
        due = schedule.due(now)
        left = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, deadline - time.monotonic())
        if due != present or left <= 0:
            return due
        time.sleep(max(0.0, min(left, schedule.next_change(now) - now)))
