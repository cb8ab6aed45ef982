"""A gang's place in the queue. Neighbours: `records.py` has the queue in this order."""

from __future__ import annotations

from ray_dra.core.gangs.gang import Gang

Turn = tuple[int, int, str]
"""A place in the queue: a higher priority first, then those that were preempted, then the earlier."""

_FRONT = 2**60  # more than gangs can be counted


def turn_of(gang: Gang) -> Turn:
    return (-gang.request.priority, gang.sequence - (_FRONT if gang.preempted else 0), gang.id)
