"""The coordinator's time: how soon it looks again, and how much of the time between two looks counts."""

from __future__ import annotations

from ray_dra.ports.clock import Clock

LOOK_SECONDS = 0.5  # where nothing says that there is something to see: Ray is only asked
EXPECTS_SECONDS = 0.1  # where something is expected of which nobody tells
LEAST_SECONDS = 0.01
SHARE = 5  # of the processor's time that a look took


def pause(took: float, used: float) -> float:
    """Seconds until the next look where something has changed meanwhile, after one of `took` seconds, `used` of them on
    a processor.

    Many changes at once are one look, and looking takes half of the time and a sixth of a core at most, however large a
    gang or a cluster, or slow an answer: programs are to be answered in between.
    """
    return min(LOOK_SECONDS, max(LEAST_SECONDS, took, SHARE * used))


MOST_SECONDS = 1.0  # between two looks; they come every half second


class OwnTime:
    """Seconds that the coordinator has lived through: of a gap between two looks, MOST_SECONDS count.

    A coordinator that was stopped, or busy, has heard nobody meanwhile. By this clock nobody was silent in that time,
    and no hold has run out: whatever it remembers is as old as it was when the gap began.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked = self._lived = clock()

    def __call__(self) -> float:
        return self._lived + min(MOST_SECONDS, max(0.0, self._clock() - self._looked))

    def look(self) -> None:
        """A look begins."""
        self._lived, self._looked = self(), self._clock()
