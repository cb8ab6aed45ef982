"""Where the time from a gang's call to its readiness goes, by stage. For people: nothing is decided by it.

    quota -> queued -> applied -> pods -> bound -> prepared -> started -> verified -> grouped -> joined -> placed
                       '---------- on Kubernetes, as the backend says (Progress.stage) ---------'

The time of a stage is how long the gang waited for it to be over. A gang that is planned again comes to a stage twice,
and both count. `lifecycle.stage_of` says in which stage a gang is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

QUOTA = "quota"  # a queue outside that pays for it
QUEUED = "queued"  # its turn, or room
APPLIED = "applied"  # the first stage of workers that are made
VERIFIED = "verified"  # the workers' proof, which they write into the store
GROUPED = "grouped"  # its program makes the placement group
JOINED = "joined"  # its raylets start, and join
PLACED = "placed"  # Ray places its bundles
READY = ""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """A gang's way to its first readiness, or after a restart to the next one, in wall-clock time.

    Attributes:
        spent: seconds in each stage that it has left, in the order in which it first came to them.
        stage: where it is now, and since when; READY: it has been ready once, and its times stay as they are.
        again: since a restart after a fault, not since the call.
    """

    spent: tuple[tuple[str, float], ...] = ()
    stage: str | None = None
    since: float = 0.0
    again: bool = False

    @property
    def total(self) -> float:
        return sum(seconds for _, seconds in self.spent)

    def entered(self, stage: str | None, wall: float) -> tuple[StageTimes, StageEnded | None]:
        """The times once the gang is in `stage`, and which one that ends. None: it is on no way to readiness."""
        if stage in (None, self.stage) or self.stage == READY:
            return self, None
        if self.stage is None:
            return replace(self, stage=stage, since=wall), None
        seconds = max(0.0, wall - self.since)
        spent = dict(self.spent)
        spent[self.stage] = spent.get(self.stage, 0.0) + seconds
        return replace(self, spent=tuple(spent.items()), stage=stage, since=wall), StageEnded(self.stage, seconds)


@dataclass(frozen=True, slots=True)
class StageEnded:
    """A gang has been in a stage for so many seconds."""

    stage: str
    seconds: float
