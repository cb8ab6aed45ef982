"""Named pools, a part of the records: the gang that holds each, and the gangs that wait for shares of it. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.pools import Pool, amount_of
from ray_dra.core.gangs.record_checks import same
from ray_dra.core.gangs.runtime_notes import RuntimeNotes
from ray_dra.core.gangs.turn import Turn, turn_of


class PoolIndex:
    """See the module. Whoever changes a record takes the old one out and puts the new one in."""

    def __init__(self, gangs: Mapping[str, Gang], notes: Mapping[str, RuntimeNotes], inventory: Inventory) -> None:
        self._gangs, self._notes, self._inventory = gangs, notes, inventory
        self._holders: dict[str, str] = {}  # name of a pool -> the live gang that holds it
        self._waiting: dict[str, list[Turn]] = {}  # by pool: gangs that wait for shares of it

    @property
    def names(self) -> Collection[str]:
        """Of those that there are."""
        return self._holders.keys()

    def get(self, name: str) -> Pool | None:
        """A pool as it is; None where there is none of this name, or it is given back."""
        gang = self._gangs.get(self._holders.get(name, ""))
        if gang is None or gang.request.sharing is None:
            return None
        phase = gang.history[-1].to if gang.history else None
        if phase is Phase.DEGRADED:  # what is left of it is as good as before
            without = self._notes[gang.id].without
            return Pool(name, gang.id, gang.request.sharing, without is not None, without or frozenset(), whole=False)
        return Pool(name, gang.id, gang.request.sharing, phase is Phase.READY)

    def program_has(self, pool: Pool, owner: str) -> int:
        """Thousandths of GPUs that a program's gangs have of a pool."""
        held = self._inventory.in_pool(pool.gang)
        return sum(amount_of(each) for each in held if self._gangs[each.gang].owner == owner)

    # -- who waits

    def waiting(self) -> list[list[Gang]]:
        """The gangs that wait for shares of each pool, in their order."""
        return [[self._gangs[gang_id] for _, _, gang_id in turns] for turns in self._waiting.values()]

    @property
    def awaited(self) -> bool:
        """Whether any gang waits for shares."""
        return bool(self._waiting)

    def waiting_for(self, name: str) -> int:
        """How many gangs wait for shares of a pool."""
        return len(self._waiting.get(name, ()))

    def before(self, gang: Gang) -> Sequence[Turn]:
        """Who waits before a gang for shares of the same pool."""
        turns = self._waiting.get(gang.request.pool, [])
        return turns[: bisect_left(turns, turn_of(gang))]

    # -- changes

    def put(self, gang: Gang) -> None:
        if gang.waits and gang.request.in_pool:
            insort(self._waiting.setdefault(gang.request.pool, []), turn_of(gang))
        if _makes_pool(gang) and not gang.releasing:
            self._holders[gang.request.pool] = gang.id

    def drop(self, gang: Gang) -> None:
        if self._holders.get(gang.request.pool) == gang.id:
            del self._holders[gang.request.pool]
        if gang.waits and gang.request.in_pool:
            turns = self._waiting[gang.request.pool]
            del turns[bisect_left(turns, turn_of(gang))]
            if not turns:
                del self._waiting[gang.request.pool]

    # -- invariants

    def validate(self) -> None:
        """Raises AssertionError where it is not what a scan of the records gives. For tests."""
        gangs = self._gangs.values()
        same("pools", self._holders, {g.request.pool: g.id for g in gangs if _makes_pool(g) and not g.releasing})
        wait: dict[str, list[Turn]] = {}
        for gang in gangs:
            if gang.waits and gang.request.in_pool:
                wait.setdefault(gang.request.pool, []).append(turn_of(gang))
        same("who waits for pools", self._waiting, {pool: sorted(turns) for pool, turns in wait.items()})
        for gang in gangs:
            held = gang.allocation
            if held is None or not held.pool:
                continue
            pool = self._gangs.get(held.pool)
            if pool is None or pool.allocation is None:
                raise AssertionError(f"gang {gang.id} has shares of {held.pool}, which holds nothing")
            own = {grant.device for grant in pool.allocation.grants}
            same(f"what gang {gang.id} has beyond its pool", {g.device for g in held.grants} - own, set())
            if min(self._inventory.pool_left(held.pool).values()) < 0:
                raise AssertionError(f"more than all of a device of {held.pool} is given")


def _makes_pool(gang: Gang) -> bool:
    return bool(gang.request.pool) and not gang.request.in_pool
