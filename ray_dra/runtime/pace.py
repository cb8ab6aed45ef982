"""How soon the coordinator looks again."""

from __future__ import annotations

LOOK_SECONDS = 0.5  # where nothing says that there is something to see: Ray is only asked
LEAST_SECONDS = 0.01
SHARE = 5  # of the processor's time that a look took


def pause(took: float, used: float) -> float:
    """Seconds until the next look where something has changed meanwhile, after one of `took` seconds, `used` of them on
    a processor.

    Many changes at once are one look, and looking takes half of the time and a sixth of a core at most, however large a
    gang or a cluster, or slow an answer: programs are to be answered in between.
    """
    return min(LOOK_SECONDS, max(LEAST_SECONDS, took, SHARE * used))
