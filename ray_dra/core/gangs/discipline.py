"""What an operator sets of the queue: who may go when. Each part can be off, and then the queue is as without it.

Neighbours: `translate/settings.py` reads it; `admission.py` and `benchmarks/replay.py` go by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_dra.core.gangs.backfill import BOUNDS, OFF, Bounds
from ray_dra.core.gangs.consolidation import CONSOLIDATION, NO_CONSOLIDATION, Consolidation
from ray_dra.core.gangs.patience import WORTH, Worth
from ray_dra.core.gangs.preemption import NOBODY, PREEMPTION, Preemption


@dataclass(frozen=True, slots=True)
class Discipline:
    """See the module.

    Attributes:
        backfill: how far is looked for gangs that may start before their turn.
        worth: what a clique is worth to gangs that prefer one and say how long they run; None: they do not wait for it
            but where their programs say so.
        preemption: how often, and after what time, a gang may be preempted.
        learn: how long a gang runs is guessed from earlier runs of its name, where its program does not say.
        consolidation: how many gangs, and how often each, are moved for one that has GPUs enough and no clique.
    """

    backfill: Bounds = BOUNDS
    worth: Worth | None = WORTH
    preemption: Preemption = PREEMPTION
    consolidation: Consolidation = CONSOLIDATION
    learn: bool = True


DISCIPLINE = Discipline()
FIRST_COME = Discipline(OFF, None, NOBODY, NO_CONSOLIDATION, False)
"""First come, first served, within a priority."""
