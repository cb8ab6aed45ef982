"""How far the workers of a gang are, as their backend says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """See the module.

    Attributes:
        ready: all are there and have what was planned; they join when they are let. joined: all have.
        failed: why this attempt will not get there; final: nor will any other.
        gave_way: to another RayCluster's gang, which costs no try.
        said: what is being waited for, in this stage.
    """

    ready: bool = False
    joined: bool = False
    failed: str = ""
    final: bool = False
    gave_way: bool = False
    stage: str = ""
    said: str = ""


STARTS = Progress()  # nothing is made yet
THERE = Progress(ready=True, joined=True)  # the workers were there before the gang
