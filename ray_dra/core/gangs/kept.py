"""Places kept: what a gang gives back after a fault, or for another size, stays its program's own for a while. Pure.

A training run that restarts after a fault removes its placement group and asks for another one. Without this the next
in the queue takes the clique that it leaves. The same goes for an elastic run that takes another size. Places are in
memory alone: a coordinator that starts again keeps none. Neighbours: `recording.py` says which gangs have met a fault,
`elastic.py` which are given back for another size; `kept_turns.py` tries a program's gangs on what is kept for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, TypeVar

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation, Grant

KEPT_SECONDS = 60.0
_Found = TypeVar("_Found")


class Kept(NamedTuple):
    """`allocation`: with a gang's id of its own, under which the inventory has it. `until`: monotonic seconds. `actor`:
    the one of the program's actors to whose elastic run it was promised, and `team` that run's; "" for anything of the
    program's."""

    owner: str
    allocation: Allocation
    until: float
    actor: str = ""
    team: str = ""


class KeptPlaces:
    """See the module. The inventory holds them, as it does gangs' devices."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._places: dict[str, Kept] = {}

    def keep(self, owner: str, allocation: Allocation, until: float, *, actor: str = "", team: str = "") -> None:
        """For a program, from the moment at which its gang holds the devices no more. The rest as in `Kept`."""
        held = allocation._replace(gang=_name(allocation.gang))
        self.let_go(allocation.gang)
        self._inventory.hold(held)
        self._places[held.gang] = Kept(owner, held, until, actor, team)

    def look(self, jobs: Collection[str], now: float) -> None:
        """Let go what is over, or whose program has ended."""
        for name, kept in list(self._places.items()):
            if now >= kept.until or kept.owner not in jobs:
                self._let_go(name)

    @property
    def owners(self) -> list[str]:
        """The programs for which something is kept, the earliest first."""
        return list(dict.fromkeys(kept.owner for kept in self._places.values()))

    def let_go(self, gang: str) -> None:
        """What is kept of a gang; harmless where nothing is."""
        if _name(gang) in self._places:
            self._let_go(_name(gang))

    def grants_of(self, owner: str, actor: str) -> list[Grant]:
        """The devices kept for one of a program's actors."""
        return [grant for kept in self._of(owner, actor) for grant in kept.allocation.grants]

    def promised(self, is_team: Callable[[str], bool], actor: str) -> int:
        """How many devices are promised to a team's other elastic runs."""
        others = [kept for kept in self._places.values() if kept.actor not in ("", actor) and is_team(kept.team)]
        return sum(len(kept.allocation.grants) for kept in others)

    def holding(self) -> dict[str, Allocation]:
        """By the name under which the inventory has it."""
        return {name: kept.allocation for name, kept in self._places.items()}

    def without(self, owner: str, actor: str, place: Callable[[], _Found]) -> _Found:
        """What `place` finds as if nothing were kept for the program, or for this actor of it."""
        held = [kept.allocation for kept in self._of(owner, actor)]
        for allocation in held:
            self._inventory.release(allocation.gang)
        try:
            return place()
        finally:
            for allocation in held:
                self._inventory.hold(allocation)

    def take(self, owner: str, actor: str, allocation: Allocation) -> bool:
        """Let go what of the actor's places the allocation lies in; False where it lies in none, or has more devices
        than these: whoever had one GPU would pass the queue with a gang of a hundred."""
        devices = {grant.device for grant in allocation.grants}
        own = [kept.allocation for kept in self._of(owner, actor)]
        taken = [each for each in own if not devices.isdisjoint(grant.device for grant in each.grants)]
        if not taken or len(allocation.grants) > sum(len(each.grants) for each in taken):
            return False
        for each in taken:
            self._let_go(each.gang)
        return True

    def _of(self, owner: str, actor: str) -> Iterator[Kept]:
        places = self._places.values()
        return iter([kept for kept in places if kept.owner == owner and kept.actor in ("", actor)])

    def _let_go(self, name: str) -> None:
        del self._places[name]
        self._inventory.release(name)


def _name(gang: str) -> str:
    """Under which the inventory has what is kept of a gang."""
    return f"kept/{gang}"
