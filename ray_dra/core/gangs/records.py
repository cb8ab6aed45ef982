"""The gangs' records in memory, with all that is looked up of them: the queue, names, placement groups, what is held.

Pure. The store has the same records, and is written first (`coordinator/executor.py`); only then a record changes here,
and with it what its gang holds of the inventory. `changes.check_change` refuses what no record may do.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.backfill import Reservation
from ray_dra.core.gangs.changes import check_change
from ray_dra.core.gangs.gang import Gang, GroupSet, owner_ended
from ray_dra.core.gangs.kept import KeptPlaces
from ray_dra.core.gangs.phases import ARROWS, Phase
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.gangs.quota import Answer
from ray_dra.core.gangs.shapes import sense_of_reshape
from ray_dra.core.gangs.stages import VERIFIED
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.shortfall import Shortfall

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)
Turn = tuple[int, int, str]
"""A place in the queue: a higher priority first, then the earlier."""

Neighbours = str | tuple[GroupSet, int]
"""Those that an ordinary placement group is to be near: the id of its set, or its batch of a set that is a gang."""


@dataclass
class RuntimeNotes:
    """What is known of a gang besides its record; a restart may forget it.

    Attributes:
        since: when it was last planned or came a step further, or was seen after a restart.
        progress: how far its workers are.
        refused: why it waits.
        ending: its workers are being given back.
        could_start: since when it waits only for what it prefers.
        registered: Ray has taken the placement group that was made here, so that one which is not there was removed.
        answer: what the queue said last while the gang waited for it.
        faulted: Ray has placed it, and of its hardware something is lost or to be drained; of a gang that is given
            back: was when it was last seen.
        evicted: when that was first seen to have taken back what a running gang has, and why.
        amiss: since when each thing of it is lost that may be back by itself.
        no_place: the inventory's changes by which there was no other place for a gang that is to be drained.
        reservation: of the first in the queue: when and where it starts at the latest, if running gangs end when their
            programs guess.
    """

    since: float
    progress: Progress
    refused: tuple[Shortfall, ...] = ()
    ending: bool = False
    could_start: float | None = None
    registered: bool = False
    answer: Answer | None = None
    evicted: tuple[float, str] | None = None
    reservation: Reservation | None = None
    faulted: bool = False
    no_place: int = -1
    amiss: dict[str, float] = field(default_factory=dict)


class Records:
    """See the module.

    Attributes:
        gangs: by id, in order of arrival. notes: by id.
        changed: the gangs whose records have changed, until somebody takes note and clears it.
        left_sets: how often a group that waited with others of its set ceased to.
        groups: the placement groups that are ours, those included that a gang has left, and the gang of each.
        kept: places that are kept for programs after a fault.
        phases: how many gangs were last seen in each phase. stages: how many are in each stage of `stages.StageTimes`.
        guesses: how many gangs have said how long they run.

    Invariants: what is kept beside `gangs` is what a scan of them would give; the inventory holds the allocations of
    the records, the places kept, and no others. `validate` checks both.
    """

    def __init__(self, inventory: Inventory, begins: Progress) -> None:
        """`begins`: the progress of a gang whose devices were just held."""
        self.inventory, self.begins = inventory, begins
        self.gangs: dict[str, Gang] = {}
        self.notes: dict[str, RuntimeNotes] = {}
        self.changed: set[str] = set()
        self.groups: dict[str, str] = {}
        self.phases: Counter[Phase] = Counter()
        self.stages: Counter[str | None] = Counter()
        self.guesses = 0
        self._queue: list[Turn] = []  # of those that hold up who comes after them
        self._ordinary: list[Turn] = []  # of ordinary placement groups, which hold up nobody
        self._owners: dict[str, dict[str, None]] = {}  # of gangs in the queue, or in one outside
        self._past: dict[str, None] = {}  # gangs with an allocation, in a queue outside, or that are given back
        self._quotas: dict[str, None] = {}  # gangs that are paid from a queue outside
        self._besides: dict[str, None] = {}  # gangs that go with another
        self._names: dict[tuple[str, str], str] = {}  # (namespace, name) -> the live gang that has it
        self._cliques: dict[Neighbours, Counter[DomainId]] = {}  # how many of them have devices in each clique
        self._fresh: dict[GroupSet, list[Turn]] = {}  # of sets that are gangs, those in the queue
        self._batches: dict[GroupSet, Counter[int]] = {}  # the others, by batch
        self._short: dict[GroupSet, dict[int, None]] = {}  # batches that lack some
        self.left_sets = 0
        self._last = 0
        self.kept = KeptPlaces(inventory)

    # -- changes

    def put(self, gang: Gang, now: float) -> None:
        """A record as it is from here on; what it holds is held.

        Raises:
            ForbiddenChange: no record may change so.
            ValueError: it claims what another gang holds. Nothing is changed in either case.
        """
        check_change(self.gangs.get(gang.id), gang)
        self._put(gang, now)

    def restore(self, gang: Gang, now: float) -> None:
        """A record of the store, after a start; in order of arrival. Raises ValueError as `put` does."""
        self._put(gang, now)
        quota, notice = gang.quota, gang.notice
        if quota is not None and notice is not None and notice.reason.startswith(f"{quota.queue}: "):
            self.notes[gang.id].evicted = now, notice.reason  # so it is until the queue is heard again

    def _put(self, gang: Gang, now: float) -> None:
        before = self.gangs.get(gang.id)
        held = before.allocation if before is not None else None
        changes = before is not None and (before.reshape is not None or gang.reshape is not None)
        if gang.allocation is not held or changes:
            self._hold_instead(before.holds if before is not None else None, gang)
        if before is not None:
            self._unlist(before)
        self.gangs[gang.id] = gang
        self.changed.add(gang.id)
        self._list(gang)
        notes = self.notes.get(gang.id)
        if notes is None:
            self.notes[gang.id] = RuntimeNotes(now, self.begins)
            return
        if gang.allocation is not held:
            notes.progress = self.begins
        if before is None or gang.allocation is not held or gang.group != before.group:
            notes.since = now  # its time counts anew

    def drop(self, gang_id: str, *, keep_until: float | None = None) -> None:
        """The end of a gang; what it held is free, or kept for its program for a while."""
        self.changed.add(gang_id)
        gang = self.gangs.pop(gang_id, None)
        if gang is None:
            return
        check_change(gang, None)
        self._unlist(gang)
        self.notes.pop(gang_id, None)
        self.inventory.release(gang_id)
        if keep_until is not None and gang.allocation is not None:
            self.kept.keep(gang.owner, gang.allocation, keep_until)

    # -- the queue

    def next_sequence(self) -> int:
        return self._last + 1

    @property
    def first(self) -> Gang | None:
        """The gang whose turn it is, ordinary placement groups apart."""
        return self.gangs[self._queue[0][2]] if self._queue else None

    def behind_first(self, most: int) -> list[Gang]:
        """At most so many of those that wait behind the first, in their order."""
        return [self.gangs[gang_id] for _, _, gang_id in self._queue[1 : 1 + most]]

    @property
    def waiting(self) -> bool:
        """Whether any gang is in the queue."""
        return bool(self._queue or self._ordinary)

    def ordinary_after(self, turn: Turn | None) -> Gang | None:
        """The ordinary placement group that is next after this turn, unless a gang that holds it up comes first."""
        at = bisect_right(self._ordinary, turn) if turn is not None else 0
        if at == len(self._ordinary) or (self._queue and self._queue[0] < self._ordinary[at]):
            return None
        return self.gangs[self._ordinary[at][2]]

    def ahead(self, gang: Gang) -> int:
        """How many gangs wait before this one, and hold it up."""
        return bisect_left(self._queue, turn_of(gang))

    def waiting_of(self, owner: str) -> Collection[str]:
        """A program's gangs in the queue, or in one outside."""
        return self._owners.get(owner, {}).keys()

    def orphans(self, jobs: Collection[str], ended_actors: Collection[str] = ()) -> list[Gang]:
        """Gangs in a queue whose program has ended."""
        return [g for g in self._without_job(jobs) if not g.detached and owner_ended(g, jobs, ended_actors)]

    def kept_by_actors(self, jobs: Collection[str]) -> set[str]:
        """The actors that keep ordinary placement groups which no job keeps."""
        past = [g for g in self._past_queue() if g.ordinary is not None and not g.releasing]
        kept = [g for g in past if g.ordinary is not None and (g.ordinary.outlives_job or g.owner not in jobs)]
        found = self._without_job(jobs) + kept
        return {g.ordinary.actor for g in found if g.ordinary is not None and g.ordinary.actor and not g.detached}

    def _without_job(self, jobs: Collection[str]) -> list[Gang]:
        """Gangs in a queue that no job keeps there."""
        gone = (owned for owner, owned in self._owners.items() if owner and owner not in jobs)
        found = [self.gangs[gang_id] for owned in gone for gang_id in owned]
        ordinary = [self.gangs[gang_id] for _, _, gang_id in self._ordinary]
        return found + [g for g in ordinary if g.owner in jobs and g.ordinary is not None and g.ordinary.outlives_job]

    # -- gangs that go with another

    def partner_of(self, gang: Gang) -> Gang | None:
        """The gang that this one goes with; None where it goes with none, or that one has ended or is given back."""
        found = self.gangs.get(gang.beside.gang) if gang.beside is not None else None
        return found if found is not None and not found.releasing else None

    def left_alone(self) -> list[Gang]:
        """Gangs that end with another, which has ended."""
        found = (self.gangs[gang_id] for gang_id in self._besides)
        return [g for g in found if g.beside is not None and g.beside.ends and self.partner_of(g) is None]

    # -- sets of ordinary placement groups

    def cliques_near(self, gang: Gang, batch: int) -> frozenset[DomainId]:
        """The cliques in which others of its set have devices; of a set that is a gang, others of this batch. Of a gang
        that goes with another, that one's."""
        if gang.beside is not None and gang.beside.near and (partner := self.partner_of(gang)) is not None:
            return _cliques_of(partner)
        part_of = _set_of(gang)
        if part_of is None:
            return frozenset()
        found = self._cliques.get((part_of, batch) if part_of.size > 1 else part_of.id, Counter())
        own = _cliques_of(gang) if gang.id in self.gangs and batch == gang.batch else frozenset()
        return frozenset(clique for clique, count in found.items() if count > (clique in own))

    def in_queue(self, part_of: GroupSet) -> Sequence[Turn]:
        """The groups of a set that is a gang which have not started, in their order."""
        return self._fresh.get(part_of, ())

    def lacking(self, part_of: GroupSet) -> Collection[int]:
        """The batches of a set that is a gang of which some have started, and not all: a coordinator was ended between
        two of them, or one was lost."""
        return self._short.get(part_of, {}).keys()

    # -- those past it

    def with_quota(self) -> list[Gang]:
        """Gangs that are paid from a queue outside."""
        return [self.gangs[gang_id] for gang_id in self._quotas]

    def past_queue(self) -> list[Gang]:
        """Gangs with an allocation, in a queue outside, or that are given back; the earliest first."""
        return sorted(self._past_queue(), key=lambda g: g.sequence)

    def wanted(self) -> list[Allocation]:
        """The allocations for which workers are to be there; what is made for any other is undone."""
        return [
            gang.allocation
            for gang in self._past_queue()
            if gang.allocation is not None and not self.notes[gang.id].ending
        ]

    def holders(self) -> Iterable[tuple[Gang, Allocation]]:
        """The gangs that hold devices."""
        return ((gang, gang.allocation) for gang in self._past_queue() if gang.allocation is not None)

    @property
    def expects_proofs(self) -> bool:
        """Whether workers of a gang are about to prove what they have, in the store, which tells nobody of it."""
        return self.stages[VERIFIED] > 0 or self.phases[Phase.REPAIRING] > 0

    # -- by name and group

    def named(self, name: str, namespace: str) -> str | None:
        """The live gang that has a name."""
        return self._names.get((namespace, name)) if name else None

    def of_group(self, group: str) -> Gang | None:
        """The gang whose present placement group it is."""
        gang = self.gangs.get(self.groups.get(group, ""))
        return gang if gang is not None and gang.group == group else None

    # -- inside

    def _hold_instead(self, held: Allocation | None, gang: Gang) -> None:
        holds = gang.holds
        if holds == held:
            return
        self.inventory.release(gang.id)
        try:
            if holds is not None:
                self.inventory.hold(holds)
        except ValueError:
            if held is not None:
                self.inventory.hold(held)
            raise

    def _past_queue(self) -> list[Gang]:
        return [self.gangs[gang_id] for gang_id in self._past]

    def _list(self, gang: Gang) -> None:
        self._last = max(self._last, gang.sequence)
        if gang.waits:
            insort(self._queue_of(gang), turn_of(gang))
        else:
            self._past[gang.id] = None
        if gang.waits or gang.unpaid:
            self._owners.setdefault(gang.owner, {})[gang.id] = None
        if gang.quota is not None:
            self._quotas[gang.id] = None
        if gang.beside is not None and not gang.releasing:
            self._besides[gang.id] = None
        if gang.name and not gang.releasing:
            self._names[gang.namespace, gang.name] = gang.id
        for group in gang.groups:
            self.groups[group] = gang.id
        if (part_of := _set_of(gang)) is not None:
            self._list_in_set(gang, part_of, 1)
        self._count(gang, 1)

    def _queue_of(self, gang: Gang) -> list[Turn]:
        return self._queue if gang.ordinary is None else self._ordinary

    def _unlist(self, gang: Gang) -> None:
        if gang.waits:
            queue = self._queue_of(gang)
            del queue[bisect_left(queue, turn_of(gang))]
        if gang.waits or gang.unpaid:
            owned = self._owners[gang.owner]
            del owned[gang.id]
            if not owned:
                del self._owners[gang.owner]
        self._past.pop(gang.id, None)
        self._quotas.pop(gang.id, None)
        self._besides.pop(gang.id, None)
        if self._names.get((gang.namespace, gang.name)) == gang.id:
            del self._names[gang.namespace, gang.name]
        for group in gang.groups:
            self.groups.pop(group, None)
        if (part_of := _set_of(gang)) is not None:
            self._list_in_set(gang, part_of, -1)
        self._count(gang, -1)

    def _list_in_set(self, gang: Gang, part_of: GroupSet, by: int) -> None:
        """`by`: 1 to list it, -1 to have it listed no more."""
        near: list[Neighbours] = [part_of.id] if part_of.size < 2 else [part_of.id, (part_of, gang.batch)]
        for each in near:
            _add(self._cliques, each, _cliques_of(gang), by)
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

    def _count(self, gang: Gang, by: int) -> None:
        self.stages[gang.times.stage] += by
        self.guesses += by * (gang.runs_for is not None)
        if gang.history:
            self.phases[gang.history[-1].to] += by

    # -- invariants

    def validate(self) -> None:
        """Raises AssertionError where an invariant does not hold. Scans everything: for tests."""
        gangs = list(self.gangs.values())
        waiting = [g for g in gangs if g.waits]
        _same("order of arrival", [g.sequence for g in gangs], sorted(g.sequence for g in gangs))
        _same("queue", self._queue, sorted(turn_of(g) for g in waiting if g.ordinary is None))
        _same("ordinary groups", self._ordinary, sorted(turn_of(g) for g in waiting if g.ordinary is not None))
        in_queues = [g for g in gangs if g.waits or g.unpaid]
        _same("owners", {o: set(ids) for o, ids in self._owners.items()}, _by_owner(in_queues))
        _same("gangs that go with another", set(self._besides), {g.id for g in gangs if g.beside and not g.releasing})
        _same("quotas", set(self._quotas), {g.id for g in gangs if g.quota is not None})
        _same("past the queue", set(self._past), {g.id for g in gangs if not g.waits})
        _same("names", self._names, {(g.namespace, g.name): g.id for g in gangs if g.name and not g.releasing})
        _same("placement groups", self.groups, {group: g.id for g in gangs for group in g.groups})
        self._validate_sets(gangs)
        _same("phases", +self.phases, Counter(g.history[-1].to for g in gangs if g.history))
        _same("stages", +self.stages, Counter(g.times.stage for g in gangs))
        _same("guesses", self.guesses, sum(g.runs_for is not None for g in gangs))
        _same("notes", self.notes.keys(), self.gangs.keys())
        _same(
            "what is held",
            {gang: self.inventory.allocation(gang) for gang in self.inventory.gangs},
            {g.id: g.holds for g in gangs if g.holds is not None} | self.kept.holding(),
        )
        given: dict[object, tuple[str, bool]] = {}  # device -> a gang that has it, and whether all of it
        for gang in gangs:
            _validate_gang(gang)
            for grant in gang.holds.grants if gang.holds is not None else ():
                other, whole = given.setdefault(grant.device, (gang.id, grant.alone))
                if other != gang.id and (whole or grant.alone):
                    raise AssertionError(f"{grant.device} is given twice, to {other} and to {gang.id}")

    def _validate_sets(self, gangs: Sequence[Gang]) -> None:
        members = [(gang, part_of) for gang in gangs if (part_of := _set_of(gang)) is not None]
        near: dict[Neighbours, Counter[DomainId]] = {}
        batches: dict[GroupSet, Counter[int]] = {}
        for gang, part_of in members:
            for each in (part_of.id, (part_of, gang.batch)) if part_of.size > 1 else (part_of.id,):
                _add(near, each, _cliques_of(gang), 1)
            if part_of.size > 1 and not gang.waits:
                _add(batches, part_of, (gang.batch,), 1)
        _same("cliques of sets", self._cliques, near)
        _same("batches", self._batches, batches)
        short = {each: {batch for batch, n in found.items() if n % each.size} for each, found in batches.items()}
        _same(
            "short batches", {e: set(found) for e, found in self._short.items()}, {e: b for e, b in short.items() if b}
        )
        fresh = {part_of for gang, part_of in members if gang.waits and part_of.size > 1}
        turns = {each: sorted(turn_of(g) for g, part_of in members if part_of == each and g.waits) for each in fresh}
        _same("in the queue, by set", self._fresh, turns)


def _validate_gang(gang: Gang) -> None:
    if gang.unpaid and gang.allocation is not None:
        raise AssertionError(f"gang {gang.id} holds what nobody pays for")
    if gang.allocation is not None:
        counts = [len(placed.grants) for placed in gang.allocation.bundles]
        _same(f"devices of gang {gang.id}", counts, [bundle.count for bundle in gang.request.bundles])
    if gang.reshape is not None:
        wrong = sense_of_reshape(gang.reshape, gang.shape, gang.id, gang.moves)
        _same(f"the change of gang {gang.id}'s shape", wrong, "")
        held = {grant.device for grant in gang.reshape.holds.grants}
        for shape in (gang.reshape.leaves, gang.reshape.comes):
            lacking = {grant.device for grant in shape.allocation.grants} - held
            _same(f"GPUs of a shape of gang {gang.id} that are not held", lacking, set())
    if not gang.history:
        raise AssertionError(f"gang {gang.id} has no history")
    for before, change in zip(gang.history, gang.history[1:], strict=False):
        _same(f"history of gang {gang.id}", change.was, before.to)
        if before.to is not change.to and (before.to, change.to) not in ARROWS:
            raise AssertionError(f"gang {gang.id}: no arrow leads from {before.to} to {change.to}: {change.why}")


def _same(what: str, found: object, scanned: object) -> None:
    if found != scanned:
        raise AssertionError(f"{what}: {found} is kept, and {scanned} is so")


def _by_owner(waiting: Iterable[Gang]) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {}
    for gang in waiting:
        found.setdefault(gang.owner, set()).add(gang.id)
    return found


def _set_of(gang: Gang) -> GroupSet | None:
    """The set that a living ordinary placement group is of."""
    return gang.ordinary.part_of if gang.ordinary is not None and not gang.releasing else None


def _cliques_of(gang: Gang) -> frozenset[DomainId]:
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


def turn_of(gang: Gang) -> Turn:
    return (-gang.request.priority, gang.sequence, gang.id)
