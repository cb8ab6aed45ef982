"""What admission says of a gang. Neighbours: `admission.py` and its parts say so; `queueing.py` acts on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ray_dra.core.gangs.actions import Refuse
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.quota import Quota
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import Shortfall


@dataclass(frozen=True, slots=True)
class Start:
    """It gets these devices now. `batch`: of its set, if that is a gang (`Gang.batch`)."""

    allocation: Allocation
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """It does not fit now, or others come first. `could_start`: since when it waits only for what it prefers."""

    why: tuple[Shortfall, ...]
    could_start: float | None = None


@dataclass(frozen=True, slots=True)
class StartTogether:
    """The groups of a set, each with its devices, which they get now."""

    each: tuple[tuple[Gang, Allocation], ...]


Verdict = Start | Wait | Refuse


class No(NamedTuple):
    """What was a no: a gang, its moves, the nodes that are paid for, and the inventory."""

    gang: str
    moves: int
    quota: Quota | None
    changes: int
