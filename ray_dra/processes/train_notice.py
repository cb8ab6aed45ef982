"""What runs beside a Ray Train run's watcher of preemptions: it waits for the notice of the run's gang, and tells it.

A run whose program has declared that something is done about faults hears so of one in time, and unchanged: by
`ray.train.get_preemption_info()`, and its controller starts the workers again before their placement group is ended.
Neighbours: `adapters/ray_train_notice.py` catches the watcher; `core/gangs/faults.py` says what is told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from ray_dra.errors import CoordinatorUnavailable, RayDraError
from ray_dra.processes.calls import ask, coordinator

CALL_SECONDS = 30.0  # of one call
AGAIN_SECONDS = 1.0  # to the next try, while the coordinator is being restarted
logger = logging.getLogger("ray_dra")


def watch(group_of: Callable[[], str], tell: Callable[[Mapping[str, float]], None]) -> None:
    """Until the run's gang has ended, or its placement group is no gang's.

    Args:
        group_of: the placement group of the run's workers.
        tell: tells the watcher until when nothing ends on which raylet, in Unix time.
    """
    try:
        group = group_of()
        told: dict[str, float] = {}
        while group:
            ends = _ends_at(group)
            if ends and ends != told:
                tell(ends)
                told = ends
            elif ends:
                time.sleep(AGAIN_SECONDS)  # the answer is the same until the notice changes
    except RayDraError as error:
        logger.info("Ray Train hears of Ray's drains alone: %s", error)
    except Exception:  # whatever it is: the run goes on without
        logger.warning("Ray Train hears of Ray's drains alone", exc_info=True)


def _ends_at(group: str) -> dict[str, float]:
    """What there is to tell; {} after CALL_SECONDS without. Raises GangGone where there is no such gang any more."""
    try:
        found: dict[str, float] = ask(coordinator().ends_at.remote(group, CALL_SECONDS), timeout=CALL_SECONDS + 30)
        return found
    except CoordinatorUnavailable:
        time.sleep(AGAIN_SECONDS)
        return {}
