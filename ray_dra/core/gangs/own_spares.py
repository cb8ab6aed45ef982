"""Nodes that are held for the repairs of one gang, which asked for so many spares of its own. Pure.

A gang with `spares=n` has n free nodes of each of its cliques kept for it, as far as they have so many; a gang on boxes
that are cliques of one node has n other boxes. Nobody else is planned on them, and its own repairs, restarts and growth
find them free. They are in memory alone: a coordinator that starts again chooses anew. Neighbours: `records.py` says
which gangs may have any; `core.cluster.spares` chooses those that are every gang's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import NodeState
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.selector import labels_match

MayKeep = Callable[[Gang, int], bool]
"""Whether a gang may have so many devices held for it, besides those of the gangs asked about before."""


class OwnSpares:
    """See the module. The inventory holds them under names of their own, together with what the gangs have: whoever
    tries how it would be without a gang, or once it has ended, has them free, too."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._held: dict[str, Allocation] = {}  # by gang
        self._chosen_by: object = None

    def look(self, gangs: Collection[Gang], may: MayKeep) -> None:
        """What is held for these gangs, the first of them before the others, and for nobody else; where something has
        changed since the last look."""
        asked = [(gang.id, gang.spares, gang.allocation, gang.request) for gang in gangs]
        if self._chosen_by == (self._inventory.changes, asked):
            return
        there = {gang.id for gang in gangs}
        for gang_id in [each for each in self._held if each not in there]:
            self._put(gang_id, ())
        for gang in gangs:
            before = self.nodes_of(gang.id)
            self._put(gang.id, ())
            found = list(self._choose(gang, gang.allocation, before)) if gang.allocation is not None else []
            while found and not may(gang, sum(state.size for state in found)):
                found.pop()
            self._put(gang.id, tuple(Placed(state.name, state.granted(state.free)) for state in found))
        self._chosen_by = (self._inventory.changes, asked)

    def nodes_of(self, gang: str) -> tuple[str, ...]:
        """The nodes that are held for a gang."""
        held = self._held.get(gang)
        return held.nodes if held is not None else ()

    def holding(self) -> dict[str, Allocation]:
        """By the name under which the inventory has it."""
        return {held.gang: held for held in self._held.values()}

    def let_go(self, gang: str) -> None:
        self._put(gang, ())

    def give(self, gang: str, nodes: Collection[str]) -> None:
        """The gang gets something on these nodes, so that they are not held for it besides."""
        held = self._held.get(gang)
        if held is not None and not {*held.nodes}.isdisjoint(nodes):
            self._put(gang, tuple(placed for placed in held.bundles if placed.node not in nodes))

    @contextmanager
    def lent(self, gang: str) -> Iterator[None]:
        """As long as this lasts, they are free, and what the gang has is not."""
        held = self._held.get(gang)
        if held is not None:
            self._inventory.release(held.gang)
        try:
            yield
        finally:
            if held is not None:
                self._inventory.hold(held)

    def _put(self, gang: str, nodes: tuple[Placed, ...]) -> None:
        held = Allocation(f"spares/{gang}", nodes) if nodes else None
        if held is not None:
            self._held[gang] = held
        elif self._held.pop(gang, None) is None:
            return
        self._inventory.hold_besides(gang, held)

    def _choose(self, gang: Gang, held: Allocation, before: Collection[str]) -> Iterator[NodeState]:
        """Free nodes that have room for any of the gang's workers in the clique; those that were spares of it before,
        then the last in topology order, as those are that nobody needs first."""
        sizes: Counter[str] = Counter()
        for clique in self._inventory.clique_states.values():
            sizes[clique.name] += len(clique.node_states)

        def among(clique: DomainId | None) -> DomainId | None:
            """The clique in which a spare has to be; None: any box will do."""
            return clique if clique is not None and sizes[clique] > 1 else None

        most: dict[DomainId | None, int] = {}  # the most devices that it has on a node there
        counts: dict[str, int] = {}
        for grant in held.held_grants:
            counts[grant.node] = counts.get(grant.node, 0) + 1
            most[among(grant.clique)] = max(most.get(among(grant.clique), 0), counts[grant.node])
        own = {placed.node for placed in held.holdings}
        for where, count in most.items():
            fit = [
                state
                for state in self._inventory.node_states.values()
                if state.name not in own
                and among(state.node.clique) == where
                and _is_free(state)
                and _will_do(state, gang, count)
            ]
            fit.sort(key=lambda state: state.key, reverse=True)
            fit.sort(key=lambda state: state.name not in before)
            yield from fit[: gang.spares]


def _is_free(state: NodeState) -> bool:
    whole = state.node.ready and not state.node.spare and not state.tenants and state.imex_gang is None
    return whole and state.free.bit_count() == state.size > 0


def _will_do(state: NodeState, gang: Gang, count: int) -> bool:
    """Whether a node could have any of the gang's workers."""
    if state.size < count or state.name in gang.request.exclude:
        return False
    for bundle in {id(bundle): bundle for bundle in gang.request.bundles}.values():
        if not labels_match(bundle.labels, state.node.labels):
            return False
        if state.accepted(state.free, bundle.criteria).bit_count() < bundle.count:
            return False
    return True
