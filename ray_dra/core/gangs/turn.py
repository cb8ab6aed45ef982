"""A gang's place in the queue. Neighbours: `records.py` has the queue in this order."""

from __future__ import annotations

from ray_dra.core.gangs.gang import Gang

Turn = tuple[int, int, str]
"""A place in the queue: a higher priority first, then those that were preempted, then the earlier."""

_FRONT = 2**60  # more than gangs can be counted


def arrival(turn: Turn) -> int:
    """When the gang with this turn came, among all gangs."""
    return turn[1] + _FRONT if turn[1] < 0 else turn[1]


def turn_of(gang: Gang) -> Turn:
    return (-gang.request.priority, gang.sequence - (_FRONT if gang.preempted else 0), gang.id)
