"""Gangs of programs for which places are kept after a fault: they get those, whoever else waits.

Neighbours: `kept.py` has the places; `admission.py` asks.
"""

from __future__ import annotations

from functools import partial
from itertools import islice

from ray_dra.core.gangs.answers import Answers
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.ordinary_turns import size_of
from ray_dra.core.gangs.planning import Answer
from ray_dra.core.gangs.sets import place_near
from ray_dra.core.gangs.standing import limit_of
from ray_dra.core.gangs.verdicts import Start
from ray_dra.core.model.allocation import Allocation

MOST_ON_KEPT_PLACES = 16  # gangs of a program that are tried on the places kept for it


class KeptTurns:
    """See the module."""

    def __init__(self, answers: Answers) -> None:
        self.answers, self.records, self.planning = answers, answers.records, answers.planning
        self._changes = -1  # of the inventory, by which nobody could have a place kept

    def next(self) -> tuple[Gang, Start] | None:
        """A gang of a program for which places are kept, whoever else waits; again once the inventory has changed."""
        records, inventory = self.records, self.planning.inventory
        if not records.kept.owners or self._changes == inventory.changes:
            return None
        for owner in records.kept.owners:
            waiting = [records.gangs[gang_id] for gang_id in islice(records.waiting_of(owner), MOST_ON_KEPT_PLACES)]
            for gang in filter(lambda each: each.waits, waiting):
                self.answers.turn = gang
                found = self.place(gang)
                if found is not None:
                    return gang, Start(found)
        self._changes = inventory.changes
        return None

    def place(self, gang: Gang) -> Allocation | None:
        """Devices for a gang that lie in a place kept for its program, which is let go then. What a gang would wait for
        it has to get: else it takes its turn, as if nothing were kept."""
        kept = self.records.kept
        if gang.request.pool or gang.owner not in kept.owners or gang.quota is not None or size_of(gang) > 1:
            return None
        if limit_of(self.records, gang) is not None:
            return None
        others = self.records.cliques_near(gang, batch=0)  # of a set that is no gang
        actor = gang.ordinary.actor if gang.ordinary is not None else ""

        def near(strict: bool) -> Answer:
            return place_near(self.planning, gang, others, gang.moves, strict=strict)

        waits = gang.request.locality.required or self.answers.patience(gang).most > 0
        for strict in (True,) if waits else (True, False):
            answer = kept.without(gang.owner, actor, partial(near, strict))
            if isinstance(answer, Allocation) and kept.take(gang.owner, actor, answer):
                return answer
        return None
