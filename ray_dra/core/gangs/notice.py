"""Notice: a gang, or a part of it, will end by no doing of its program, and the program hears of it before.

An Ending is what the world shows now; `noticed` makes of it, once, what the gang's program is told. The gang's record
keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ending:
    """What the world shows of a gang that will end.

    Attributes:
        reason: a sentence.
        within: seconds until it may end, from now on; None: nobody knows.
        ranks: the indices of the bundles that end.
        faulty: those among them whose hardware is why; () where it is not for a fault.
    """

    reason: str
    within: float | None
    ranks: tuple[int, ...]
    faulty: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """What a gang's program is told.

    Attributes:
        reason: why the gang, or a part of it, will end; a sentence.
        deadline: the Unix time up to which nothing of it ends, as far as is known; None: nobody knows.
        ranks: the indices of the bundles that end, in order.
        since: the Unix time at which the coordinator noticed.
        faulty: the bundles among them whose hardware is why, where anything will be done about it.
    """

    reason: str
    deadline: float | None
    ranks: tuple[int, ...]
    since: float
    faulty: tuple[int, ...] = ()


def noticed(before: Notice | None, ending: Ending | None, wall: float) -> Notice | None:
    """The notice as it is now; `before` itself where the world still shows the same. `wall`: the Unix time."""
    if ending is None:
        return None
    said = (ending.reason, ending.ranks, ending.faulty)
    if before is not None and (before.reason, before.ranks, before.faulty) == said:
        return before
    deadline = None if ending.within is None else wall + ending.within
    if deadline is not None and before is not None and before.deadline is not None and before.faulty and ending.faulty:
        deadline = min(deadline, before.deadline)  # one fault after the other does not put it off
    return Notice(ending.reason, deadline, ending.ranks, wall, ending.faulty)
