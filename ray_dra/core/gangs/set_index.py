"""Sets of ordinary placement groups, by what is looked up of them: the cliques, the batches, those in the queue.

Neighbours: `records.py` counts each record in and out; `sets.py` says where a set goes, `ordinary_turns.py` when.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import TypeVar

from ray_dra.core.gangs.gang import Gang, GroupSet
from ray_dra.core.gangs.record_checks import same
from ray_dra.core.gangs.turn import Turn, turn_of
from ray_dra.core.model.device import DomainId

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)

Neighbours = str | tuple[GroupSet, int]
"""Those that an ordinary placement group is to be near: the id of its set, or its batch of a set that is a gang."""


class SetIndex:
    """See the module. `left_sets`: how often a group that waited with others of its set ceased to."""

    def __init__(self) -> None:
        self._cliques: dict[Neighbours, Counter[DomainId]] = {}  # how many of them have devices in each clique
        self._fresh: dict[GroupSet, list[Turn]] = {}  # of sets that are gangs, those in the queue
        self._batches: dict[GroupSet, Counter[int]] = {}  # the others, by batch
        self._short: dict[GroupSet, dict[int, None]] = {}  # batches that lack some
        self.left_sets = 0

    def cliques_near(self, part_of: GroupSet, batch: int, own: frozenset[DomainId]) -> frozenset[DomainId]:
        """The cliques in which groups of a set have devices; of a set that is a gang, those of this batch. `own`: where
        the group that asks is counted itself."""
        found = self._cliques.get((part_of, batch) if part_of.size > 1 else part_of.id, Counter())
        return frozenset(clique for clique, count in found.items() if count > (clique in own))

    def in_queue(self, part_of: GroupSet) -> Sequence[Turn]:
        """The groups of a set that is a gang which have not started, in their order."""
        return self._fresh.get(part_of, ())

    def lacking(self, part_of: GroupSet) -> Collection[int]:
        """The batches of a set that is a gang of which some have started, and not all: a coordinator was ended between
        two of them, or one was lost."""
        return self._short.get(part_of, {}).keys()

    def count(self, gang: Gang, part_of: GroupSet, by: int) -> None:
        """`by`: 1 to list it, -1 to have it listed no more."""
        near: list[Neighbours] = [part_of.id] if part_of.size < 2 else [part_of.id, (part_of, gang.batch)]
        for each in near:
            _add(self._cliques, each, cliques_of(gang), by)
        if part_of.size < 2:
            return
        if not gang.waits:
            _add(self._batches, part_of, (gang.batch,), by)
            short = self._short.setdefault(part_of, {})
            if self._batches.get(part_of, Counter())[gang.batch] % part_of.size:
                short[gang.batch] = None
            else:
                short.pop(gang.batch, None)
            if not short:
                del self._short[part_of]
            return
        turns = self._fresh.setdefault(part_of, [])
        if by > 0:
            insort(turns, turn_of(gang))
        else:
            del turns[bisect_left(turns, turn_of(gang))]
            self.left_sets += 1
        if not turns:
            del self._fresh[part_of]

    def validate(self, gangs: Sequence[Gang]) -> None:
        """Raises AssertionError where it is not what a scan of the gangs would give."""
        members = [(gang, part_of) for gang in gangs if (part_of := set_of(gang)) is not None]
        near: dict[Neighbours, Counter[DomainId]] = {}
        batches: dict[GroupSet, Counter[int]] = {}
        for gang, part_of in members:
            for each in (part_of.id, (part_of, gang.batch)) if part_of.size > 1 else (part_of.id,):
                _add(near, each, cliques_of(gang), 1)
            if part_of.size > 1 and not gang.waits:
                _add(batches, part_of, (gang.batch,), 1)
        same("cliques of sets", self._cliques, near)
        same("batches", self._batches, batches)
        short = {each: {batch for batch, n in found.items() if n % each.size} for each, found in batches.items()}
        same(
            "short batches", {e: set(found) for e, found in self._short.items()}, {e: b for e, b in short.items() if b}
        )
        fresh = {part_of for gang, part_of in members if gang.waits and part_of.size > 1}
        turns = {each: sorted(turn_of(g) for g, part_of in members if part_of == each and g.waits) for each in fresh}
        same("in the queue, by set", self._fresh, turns)


def set_of(gang: Gang) -> GroupSet | None:
    """The set that a living ordinary placement group is of."""
    return gang.ordinary.part_of if gang.ordinary is not None and not gang.releasing else None


def cliques_of(gang: Gang) -> frozenset[DomainId]:
    """The cliques in which it has devices."""
    grants = gang.allocation.grants if gang.allocation is not None else ()
    return frozenset(grant.clique for grant in grants if grant.clique is not None)


def _add(counts: dict[K, Counter[V]], key: K, values: Iterable[V], by: int) -> None:
    """What is counted no more is not kept."""
    found = counts.setdefault(key, Counter())
    for value in values:
        found[value] += by
        if not found[value]:
            del found[value]
    if not found:
        del counts[key]
