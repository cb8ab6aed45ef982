"""How soon the coordinator looks again."""

from __future__ import annotations

LOOK_SECONDS = 0.5  # where nothing says that there is something to see: Ray is only asked
LEAST_SECONDS = 0.01
SHARE = 5  # of the processor's time that a look took


def pause(used: float) -> float:
    """Seconds until the next look where something has changed meanwhile, after one that used `used` of a processor.

    Many changes at once are one look, and looking takes a sixth of a core at most, however large a gang or a cluster.
    """
    return min(LOOK_SECONDS, max(LEAST_SECONDS, SHARE * used))
