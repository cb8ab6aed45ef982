"""What an operator sets of the queue, as text in the environment of the head's raylet."""

from __future__ import annotations

from collections.abc import Mapping

from ray_dra.core.gangs.backfill import BOUNDS, MOST_WAITING, OFF, Bounds
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.names import BACKFILL_VARIABLE


def backfill_of(environment: Mapping[str, str]) -> Bounds:
    """How far the queue is looked through for gangs that may start before their turn: a number of gangs, or `off`.

    Raises:
        InvalidRequest: it says something else.
    """
    said = environment.get(BACKFILL_VARIABLE, "").strip()
    if not said:
        return BOUNDS
    if said == "off":
        return OFF
    if not (said.isascii() and said.isdigit() and len(said) < 10 and 0 <= int(said) <= MOST_WAITING):
        raise InvalidRequest(
            "It is the number of waiting gangs that may be asked to start before their turn, or off.",
            place=BACKFILL_VARIABLE,
            wanted=shown(said),
            available=f"off, or 0 to {MOST_WAITING}",
        )
    return Bounds(waiting=int(said))
