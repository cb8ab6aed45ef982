"""The notice that a gang will end, as its handle and its workers (`api.get_notice`) ask the coordinator for it."""

from __future__ import annotations

import time

from ray_dra.core.gangs.notice import Notice
from ray_dra.core.model.checked import number
from ray_dra.processes.calls import ask, coordinator

CALL_SECONDS = 30.0  # of one call; a longer wait asks again
MOST_SECONDS = 365 * 86400.0


def notice_of(gang: str, timeout: float) -> Notice | None:
    """Of a gang named by its id or its placement group's; waits so many seconds for one where there is none yet.

    Raises:
        InvalidRequest: `timeout` is no number of seconds, or more than a year.
        GangGone: the gang has ended. UnsatisfiableError: it was given up.
    """
    until = time.monotonic() + number(timeout, "timeout", least=0.0, most=MOST_SECONDS)
    while True:
        left = max(0.0, min(CALL_SECONDS, until - time.monotonic()))
        found: Notice | None = ask(coordinator().notice.remote(gang, left), timeout=left + 30)
        if found is not None or time.monotonic() >= until:
            return found
