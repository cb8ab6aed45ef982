"""A gang's place in the queue. Neighbours: `records.py` has the queue in this order."""

from __future__ import annotations

from ray_dra.core.gangs.gang import Gang

Turn = tuple[int, int, str]
"""A place in the queue: a higher priority first, then the earlier."""


def turn_of(gang: Gang) -> Turn:
    return (-gang.request.priority, gang.sequence, gang.id)
