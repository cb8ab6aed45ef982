"""The gangs' records, in memory and in the store, which say the same at any time; and the queue that they form.

Neighbours: `coordinator.py` decides what becomes of a gang, `observer.py` sees what has become of it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ray_dra.coordinator.aside import Aside, Unread
from ray_dra.core.gangs.lifecycle import MOST_MOVES, Gang
from ray_dra.core.gangs.progress import STARTS, Progress
from ray_dra.core.model.allocation import Allocation, Grant
from ray_dra.core.model.shortfall import QUEUE, Shortfall, ShortfallKind, short
from ray_dra.errors import GangGone, NameTaken, RayDraError, UnsatisfiableError, unsatisfiable
from ray_dra.ports.clock import Clock
from ray_dra.ports.ray import Ray, RayView
from ray_dra.ports.store import Store
from ray_dra.translate.files.records import Traces, gang_from_bytes, gang_to_bytes, traces_of
from ray_dra.translate.names import GANG_KEY, MAP_KEY

MOST_FAILURES = 1_000  # the last ones; a program that waits asks each second
MOST_WAITING = 10_000
"""Gangs of one program in the queue: far more than a program can mean, and so few that what they cost everybody (a few
KB each, a write to the store when the program ends) stays small."""

Turn = tuple[int, int, str]
"""A place in the queue: a higher priority first, then the earlier."""


@dataclass
class RuntimeNotes:
    """What is known of a gang besides its record; a restart may forget it.

    Attributes:
        since: when it was last planned or came a step further, or was seen after a restart.
        refused: why it waits.
        progress: how far its workers are.
        ending: its workers are being given back.
        told: the last event about it, and the move it was in.
        gave_way: how often it was planned again for another RayCluster's gang, which costs no try.
        could_start: since when it waits only for what it prefers.
    """

    since: float
    refused: tuple[Shortfall, ...] = ()
    progress: Progress = STARTS
    ending: bool = False
    told: tuple[str, int] | None = None
    gave_way: int = 0
    could_start: float | None = None


class GangStore:
    """See the module.

    `gangs`, in order of arrival, and `notes` by the gang's id; `failures`: why gangs were given up, the last ones;
    `changed`: the gangs whose records have changed, until somebody takes note and clears it.
    What is asked at every look or submit is kept beside them: names, placement groups, the queue, its owners, and the
    gangs that are past it. Invariant: each of these is what a scan of `gangs` would give.
    """

    def __init__(self, store: Store, clock: Clock, aside: Aside, begins: Progress) -> None:
        self.store = store
        self.begins = begins  # the progress of a gang of which nothing is known yet
        self.clock = clock
        self.aside = aside
        self.gangs: dict[str, Gang] = {}
        self.notes: dict[str, RuntimeNotes] = {}
        self.failures: dict[str, str] = {}
        self.changed: set[str] = set()
        self._queue: list[Turn] = []
        self._owners: dict[str, dict[str, None]] = {}  # of gangs in the queue
        self._past: dict[str, None] = {}  # gangs with an allocation, or that are given back
        self._names: dict[tuple[str, str], str] = {}  # (namespace, name) -> the live gang that has it
        self._groups: dict[str, str] = {}  # placement group -> gang, those included that a gang has left
        self._traces: dict[str, Traces] = {}  # by the key of a record that lies aside
        self._last = 0
        held: dict[object, str] = {}
        found = list(aside.read(GANG_KEY, lambda key, data: _readable(key, data, held)))
        for gang in sorted(found, key=lambda g: g.sequence):
            self._put(gang)

    def save(self, gang: Gang) -> None:
        """In the store first: what has been answered is there after a kill.

        Raises InvalidRequest for a gang that could not be read back; nothing is changed then.
        """
        self.store.put(GANG_KEY + gang.id, gang_to_bytes(gang))
        self._put(gang)

    def set_aside(self, gang_id: str, reason: str) -> None:
        """A gang whose record reads well and cannot be true."""
        self.aside.put(GANG_KEY + gang_id, self.store.get(GANG_KEY + gang_id) or b"", reason)
        self._take(gang_id)
        self.notes.pop(gang_id, None)

    def drop(self, gang: Gang) -> None:
        """The record goes last, so that a kill before it only repeats the rest."""
        if gang.failed:
            self.failures[gang.id] = gang.failed
            if len(self.failures) > MOST_FAILURES:
                del self.failures[next(iter(self.failures))]
        for group in groups_of(gang):
            self.store.delete(MAP_KEY + group)
        self.store.delete(GANG_KEY + gang.id)
        self._take(gang.id)
        self.notes.pop(gang.id, None)

    def give_back_queued(self, jobs: Collection[str]) -> None:
        """Gangs in the queue whose program has ended, all of them at once, are in it no more.

        In memory alone: a coordinator that starts again finds the same. Their records go look by look.
        """
        for owner in [owner for owner in self._owners if owner and owner not in jobs]:
            for gang in [self.gangs[gang_id] for gang_id in self._owners[owner]]:
                if not gang.detached:
                    self._put(replace(gang, releasing=True))

    def give_back(self, gang: Gang) -> Gang:
        """The gang as one that is given back; final, and in the store where anything was made for it."""
        gang = replace(gang, releasing=True)
        if gang.moves or gang.allocation is not None:
            self.save(gang)
        else:  # nothing is to be undone: its record goes next
            self._put(gang)
        return gang

    def new_notes(self) -> RuntimeNotes:
        """Of a gang whose time begins now."""
        return RuntimeNotes(self.clock(), progress=self.begins)

    def touch(self, gang_id: str) -> None:
        """From now on its time counts anew."""
        self.notes[gang_id].since = self.clock()

    def get(self, gang_id: str) -> Gang:
        """Raises UnsatisfiableError for a gang that was given up, GangGone for one that is not there."""
        gang = self.gangs.get(gang_id)
        if gang is not None:
            return gang
        if gang_id in self.failures:
            raise UnsatisfiableError(f"The gang was given up: {self.failures[gang_id]}", place=gang_id)
        if GANG_KEY + gang_id in self.aside.records:
            raise GangGone(
                "The gang's record cannot be read and was set aside. Its workers run on until its placement group is "
                f"removed; `ray-dra release {gang_id}` lets the record go.",
                place=gang_id,
                available=self.aside.records[GANG_KEY + gang_id].reason,
            )
        raise GangGone(
            "The gang is not there any more: it was removed, its program ended, or its wait was over.",
            place=gang_id,
        )

    def refuse_taken(self, name: str, namespace: str) -> None:
        """Raises NameTaken where a live gang of the namespace has the name."""
        if name and (namespace, name) in self._names:
            raise NameTaken(
                f"A gang named {name!r} exists already; choose another name or remove that one.",
                place=f"namespace {namespace}",
                wanted=name,
            )

    def refuse_crowd(self, owner: str) -> None:
        """Raises UnsatisfiableError where a program has as many gangs in the queue as it may have."""
        waiting = len(self._owners.get(owner, ()))
        if waiting >= MOST_WAITING:
            crowd = short(ShortfallKind.QUEUE, QUEUE, waiting + 1, MOST_WAITING)
            raise unsatisfiable(
                f"A program has at most {MOST_WAITING} gangs in the queue; wait for some of them, or remove some.",
                (crowd,),
            )

    # -- the queue

    def next_sequence(self) -> int:
        return self._last + 1

    @property
    def first(self) -> Gang | None:
        """The gang whose turn it is."""
        return self.gangs[self._queue[0][2]] if self._queue else None

    def ahead(self, gang: Gang) -> int:
        """How many gangs wait before this one."""
        return bisect_left(self._queue, _turn(gang))

    # -- those past it

    def past_queue(self) -> list[Gang]:
        """Gangs with an allocation, or that are given back; the earliest first."""
        return sorted((self.gangs[gang_id] for gang_id in self._past), key=lambda g: g.sequence)

    # -- what they hold

    def wanted(self) -> list[Allocation]:
        """The allocations for which workers are to be there."""
        return [g.allocation for g in self._holders() if g.allocation is not None and not self.notes[g.id].ending]

    def spared(self, view: RayView) -> list[Allocation]:
        """For gangs whose record lies aside, every attempt at workers that they may have: these are left alone, until
        the gang's program or placement group is known to be gone, or somebody lets the record go."""
        found = []
        for key, unread in self.aside.records.items():
            traces = self.traces(unread)
            group = view.groups.get(traces.group or "")
            ended = traces.group is not None and (group is None or group.state == "REMOVED")
            orphaned = traces.owner is not None and traces.owner not in view.jobs
            if key.startswith(GANG_KEY) and not ended and not orphaned:
                epochs = range(1 + (MOST_MOVES if traces.moves is None else traces.moves))
                found += [Allocation(key.removeprefix(GANG_KEY), (), epoch) for epoch in epochs]
        return found

    def traces(self, unread: Unread) -> Traces:
        """What can be told of a gang whose record lies aside."""
        if unread.key not in self._traces:
            self._traces[unread.key] = traces_of(unread.data)
        return self._traces[unread.key]

    def held_nodes(self) -> set[str]:
        return {node for g in self._holders() if g.allocation is not None for node in g.allocation.nodes}

    @property
    def groups(self) -> Mapping[str, str]:
        """The placement groups that are ours, those included that a gang has left, and the gang of each."""
        return self._groups

    def of_group(self, group: str) -> Gang | None:
        """The gang whose present placement group it is."""
        gang = self.gangs.get(self._groups.get(group, ""))
        return gang if gang is not None and gang.group == group else None

    def placed_devices(self, view: RayView) -> dict[str, float]:
        """Node -> GPUs that Ray counts as taken for our gangs."""
        found: dict[str, float] = {}
        for gang in self._holders():
            group = view.groups.get(gang.group or "")
            if gang.allocation is not None and group is not None and group.state == "CREATED":
                for placed in gang.allocation.bundles:
                    found[placed.node] = found.get(placed.node, 0.0) + len(placed.grants)
        return found

    def sweep(self, ray: Ray) -> None:
        """Undo what a kill left half done: groups that a gang has left."""
        for gang in self.gangs.values():
            for group in gang.old_groups:
                ray.remove_group(group)

    # -- inside

    def _holders(self) -> list[Gang]:
        return [self.gangs[gang_id] for gang_id in self._past]

    def _put(self, gang: Gang) -> None:
        """As `gangs[...] = gang`, with all that is kept beside."""
        before = self.gangs.get(gang.id)
        if before is not None:
            self._unlist(before)
        self.gangs[gang.id] = gang
        self.changed.add(gang.id)
        if gang.id not in self.notes:
            self.notes[gang.id] = self.new_notes()
        self._last = max(self._last, gang.sequence)
        if gang.allocation is None and not gang.releasing:
            insort(self._queue, _turn(gang))
            self._owners.setdefault(gang.owner, {})[gang.id] = None
        else:
            self._past[gang.id] = None
        if gang.name and not gang.releasing:
            self._names[gang.namespace, gang.name] = gang.id
        self._groups |= dict.fromkeys(groups_of(gang), gang.id)

    def _take(self, gang_id: str) -> None:
        self.changed.add(gang_id)
        gang = self.gangs.pop(gang_id, None)
        if gang is not None:
            self._unlist(gang)

    def _unlist(self, gang: Gang) -> None:
        if gang.allocation is None and not gang.releasing:
            del self._queue[bisect_left(self._queue, _turn(gang))]
            owned = self._owners[gang.owner]
            del owned[gang.id]
            if not owned:
                del self._owners[gang.owner]
        self._past.pop(gang.id, None)
        if self._names.get((gang.namespace, gang.name)) == gang.id:
            del self._names[gang.namespace, gang.name]
        for group in groups_of(gang):
            self._groups.pop(group, None)


def groups_of(gang: Gang) -> tuple[str, ...]:
    """The placement groups that a gang has left behind, its present one included."""
    return gang.old_groups + ((gang.group,) if gang.group else ())


def _turn(gang: Gang) -> Turn:
    return (-gang.request.priority, gang.sequence, gang.id)


def _readable(key: str, data: bytes, held: dict[object, str]) -> Gang:
    """The gang of a record. `held`: device -> gang, of the records before; two that claim one device cannot both be
    true, and the one read first is kept. Raises RayDraError."""
    gang = gang_from_bytes(data)
    if gang.id != key:
        raise RayDraError("The record is of another gang than its key says.", wanted=ascii(key), available=gang.id)
    devices = [] if gang.allocation is None else [_device(g) for g in gang.allocation.grants if g.amount is None]
    twice = next((held[device] for device in devices if device in held), None)
    if twice is not None:
        raise RayDraError("The record claims a device that another gang has.", wanted=gang.id, available=twice)
    held |= dict.fromkeys(devices, gang.id)
    return gang


def _device(grant: Grant) -> object:
    return (grant.node, grant.device)
