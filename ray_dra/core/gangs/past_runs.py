"""How long gangs of a name ran before: a guess for the next one whose program does not say. Pure.

A job that is run again calls its gangs the same, up to a number at the end, and they have as many GPUs. Only runs count
that became ready and that their programs ended. A coordinator that starts again learns anew: a guess that was made is
in the record of its gang. Neighbours: `queueing.py` asks for one; `discipline.py` says whether.
"""

from __future__ import annotations

import re

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.record_sense import MOST_SECONDS

LAST_RUNS = 3
"""The guess is the longest of so many: one that is too short keeps others from overtaking once it is over."""
MOST_NAMES = 10_000  # whoever ran longest ago is forgotten
LEAST_SECONDS = 1.0

_NUMBERED = re.compile(r"(.*?)[:_.-]?\d*", re.DOTALL)
_WAITS = (None, Phase.QUEUED, Phase.QUOTA)


class PastRuns:
    """See the module."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str, int], tuple[float, ...]] = {}

    def ended(self, gang: Gang, wall: float) -> None:
        """A gang has ended now."""
        key, runs = _key(gang), ran(gang, wall)
        if key is None or runs is None or gang.eviction is not None or gang.failed:
            return
        before = self._runs.pop(key, ())
        self._runs[key] = (*before, runs)[-LAST_RUNS:]
        if len(self._runs) > MOST_NAMES:
            self._runs.pop(next(iter(self._runs)))

    def guess(self, gang: Gang) -> float | None:
        """How long a gang runs, as those before it did; None where there were none."""
        key = _key(gang)
        found = self._runs.get(key) if key is not None else None
        return min(MOST_SECONDS, max(LEAST_SECONDS, *found)) if found else None


def ran(gang: Gang, wall: float) -> float | None:
    """For how long it has had its devices; None for one that was never ready, or of which that is forgotten."""
    began = [change.at for change in gang.history if change.was in _WAITS and change.to not in _WAITS]
    given_back = [change.at for change in gang.history if change.to is Phase.RELEASING]
    ready = any(change.to is Phase.READY for change in gang.history)
    return min([wall, *given_back]) - began[-1] if began and ready else None


def _key(gang: Gang) -> tuple[str, str, int] | None:
    match = _NUMBERED.fullmatch(gang.name)
    family = match[1] if match is not None else ""
    return (gang.namespace, family, gang.request.device_count) if family else None
