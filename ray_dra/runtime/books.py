"""The gangs' records, in memory and in the store, which say the same at any time; and the queue that they form.

Neighbours: `coordinator.py` decides what becomes of a gang, `watch.py` sees what has become of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_dra.core.allocation import Allocation, Shortfall
from ray_dra.core.lifecycle import Gang
from ray_dra.errors import GangGone, NameTaken, UnsatisfiableError
from ray_dra.ports import MAP, Clock, Ray, RayView, Store
from ray_dra.runtime.making import Progress
from ray_dra.translate.records import gang_from_bytes, gang_to_bytes

GANG = "gang/"


@dataclass
class Notes:
    """What is known of a gang besides its record; a restart may forget it.

    Attributes:
        since: when it was last planned or came a step further, or was seen after a restart.
        refused: why it waits.
        progress: how far its workers are.
        ending: its workers are being given back.
        told: the last event about it, and the move it was in.
        could_start: since when it waits only for what it prefers.
    """

    since: float
    refused: tuple[Shortfall, ...] = ()
    progress: Progress = field(default_factory=Progress)
    ending: bool = False
    told: tuple[str, int] | None = None
    could_start: float | None = None


class Books:
    """See the module. `gangs` and `notes` by the gang's id; `failures`: why gangs were given up."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.gangs: dict[str, Gang] = {}
        self.notes: dict[str, Notes] = {}
        self.failures: dict[str, str] = {}  # until whoever waits has heard of it
        for key in store.keys(GANG):
            data = store.get(key)
            if data is not None:
                gang = gang_from_bytes(data)
                self.gangs[gang.id] = gang
                self.notes[gang.id] = Notes(clock())

    def save(self, gang: Gang) -> None:
        """In the store first: what has been answered is there after a kill."""
        self.store.put(GANG + gang.id, gang_to_bytes(gang))
        self.gangs[gang.id] = gang
        self.notes.setdefault(gang.id, Notes(self.clock()))

    def drop(self, gang: Gang) -> None:
        """The record goes last, so that a kill before it only repeats the rest."""
        if gang.failed:
            self.failures[gang.id] = gang.failed
        for group in groups_of(gang):
            self.store.delete(MAP + group)
        self.store.delete(GANG + gang.id)
        self.gangs.pop(gang.id, None)
        self.notes.pop(gang.id, None)

    def touch(self, gang_id: str) -> None:
        """From now on its time counts anew."""
        self.notes[gang_id].since = self.clock()

    def get(self, gang_id: str) -> Gang:
        """Raises UnsatisfiableError for a gang that was given up, GangGone for one that is not there."""
        gang = self.gangs.get(gang_id)
        if gang is None and gang_id in self.failures:
            raise UnsatisfiableError(f"The gang was given up: {self.failures[gang_id]}", place=gang_id)
        if gang is None:
            raise GangGone(
                "The gang is not there any more: it was removed, its program ended, or its wait was over.",
                place=gang_id,
            )
        return gang

    def refuse_taken(self, name: str, namespace: str) -> None:
        """Raises NameTaken where a live gang of the namespace has the name."""
        if name and any(g.name == name and g.namespace == namespace and not g.releasing for g in self.gangs.values()):
            raise NameTaken(
                f"A gang named {name!r} exists already; choose another name or remove that one.",
                place=f"namespace {namespace}",
                wanted=name,
            )

    # -- the queue

    def in_order(self) -> list[Gang]:
        """All gangs, the earliest first."""
        return sorted(self.gangs.values(), key=lambda g: g.sequence)

    def next_sequence(self) -> int:
        return 1 + max((g.sequence for g in self.gangs.values()), default=0)

    def waiting(self) -> list[Gang]:
        """Those without an allocation, in the order of their turns: a higher priority first, then the earlier."""
        return sorted((g for g in self.gangs.values() if g.allocation is None and not g.releasing), key=_turn)

    def ahead(self, gang: Gang) -> list[Gang]:
        """The gangs that wait before this one."""
        return [g for g in self.waiting() if g.id != gang.id and _turn(g) < _turn(gang)]

    # -- what they hold

    def wanted(self) -> list[Allocation]:
        """The allocations for which workers are to be there."""
        return [g.allocation for g in self.gangs.values() if g.allocation is not None and not self.notes[g.id].ending]

    def held_nodes(self) -> set[str]:
        return {node for g in self.gangs.values() if g.allocation is not None for node in g.allocation.nodes}

    def groups(self) -> set[str]:
        """The placement groups that are ours, those included that a gang has left."""
        return {group for g in self.gangs.values() for group in groups_of(g)}

    def placed_devices(self, view: RayView) -> dict[str, float]:
        """Node -> GPUs that Ray counts as taken for our gangs."""
        found: dict[str, float] = {}
        for gang in self.gangs.values():
            group = view.groups.get(gang.group or "")
            if gang.allocation is not None and group is not None and group.state == "CREATED":
                for placed in gang.allocation.bundles:
                    found[placed.node] = found.get(placed.node, 0.0) + len(placed.grants)
        return found

    def sweep(self, ray: Ray) -> None:
        """Undo what a kill left half done: maps that no gang has, groups that a gang has left."""
        current = {g.group for g in self.gangs.values()}
        for key in self.store.keys(MAP):
            if key.removeprefix(MAP) not in current:
                self.store.delete(key)
        for gang in self.gangs.values():
            for group in gang.old_groups:
                ray.remove_group(group)


def groups_of(gang: Gang) -> tuple[str, ...]:
    """The placement groups that a gang has left behind, its present one included."""
    return gang.old_groups + ((gang.group,) if gang.group else ())


def _turn(gang: Gang) -> tuple[int, int]:
    return (-gang.request.priority, gang.sequence)
