"""That a running gang gives its devices back for another one, after notice: what its record says of it.

Neighbours: `preemption.py` says who may be taken, `preempting.py` for whom and when, `evictions.py` acts.
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
    """

    by: str
    why: str
    deadline: float
