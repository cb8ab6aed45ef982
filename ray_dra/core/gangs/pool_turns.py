"""Whose turn it is among gangs that wait for shares of a pool: they wait for that pool alone, and hold up nobody else.

Neighbours: `pools.py` says what a gang can have of a pool; `admission.py` asks.
"""

from __future__ import annotations

from ray_dra.core.gangs.answers import Answers
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.planning import Answer
from ray_dra.core.gangs.pools import program_may_have
from ray_dra.core.gangs.standing import behind
from ray_dra.core.gangs.verdicts import Start
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import Shortfall, Unsatisfiable


class PoolTurns:
    """See the module."""

    def __init__(self, answers: Answers) -> None:
        self.answers, self.records, self.planning = answers, answers.records, answers.planning
        self._noes: dict[str, object] = {}  # by pool: by what it was a no to the first that waits for it

    def next(self) -> tuple[Gang, Start] | None:
        """The first that waits for a pool, where that has become ready, or has other gangs."""
        for waiting in self.records.pools.waiting():
            gang = next((each for each in waiting if self._limit(each) is None), None)
            if gang is None:
                continue
            asked = gang.id, gang.moves, self.planning.inventory.changes, self.records.pools.get(gang.request.pool)
            if self._noes.get(gang.request.pool) == asked:
                continue
            self.answers.turn = gang
            answer = self.answer(gang)
            if isinstance(answer, Allocation):
                return gang, Start(answer)
            self._noes[gang.request.pool] = asked
            self.records.notes[gang.id].refused = answer.shortfalls
        return None

    def answer(self, gang: Gang) -> Answer:
        """Shares for a gang now, in its turn among those that wait for the same pool."""
        limited = self._limit(gang)
        if limited is not None:
            return Unsatisfiable(gang.id, (limited,))
        before = (self.records.gangs[gang_id] for _, _, gang_id in self.records.pools.before(gang))
        if any(self._limit(each) is None for each in before):
            turn = behind(self.records, gang)
            assert turn is not None
            return Unsatisfiable(gang.id, (turn,))
        return self.planning.plan(gang.request, gang.moves)

    def _limit(self, gang: Gang) -> Shortfall | None:
        """That a gang waits for others of its own program; it holds up nobody else then."""
        pool = self.records.pools.get(gang.request.pool)
        if pool is None or not pool.terms.per_program:
            return None
        return program_may_have(pool, self.records.pools.program_has(pool, gang.owner), gang.request)
