"""That a running gang gives its devices back for another one, after notice: what its record says of it.

Neighbours: `preempting.py` and `consolidating.py` say whose and for whom, `evictions.py` acts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Eviction:
    """What a gang's record says of the end of its stay; its program has notice of it.

    Attributes:
        by: the id of the gang for which it is.
        why: a sentence.
        deadline: the Unix time up to which nothing of it ends.
        moves: it gets other devices at once.
        repairs: the other gang runs, and gets its devices for a repair.
    """

    by: str
    why: str
    deadline: float
    moves: bool = False
    repairs: bool = False
