"""The end of a gang: what it has is given back, and what was made for it undone, look by look.

Neighbours: `engine.py` and its parts say when; `records.py` frees its devices, or keeps them for its
program (`kept.py`).
"""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.gangs.actions import Action, BuryGroup, Drop, EndWorkers, RemoveGroup
from ray_dra.core.gangs.events import Moment, WorkersLeft
from ray_dra.core.gangs.gang import Gang, made_here
from ray_dra.core.gangs.kept import KEPT_SECONDS
from ray_dra.core.gangs.past_runs import PastRuns
from ray_dra.core.gangs.recording import Recording
from ray_dra.errors import MOST_BYTES, cut


class Ends:
    """See the module."""

    def __init__(self, recording: Recording, past_runs: PastRuns, *, own_workers: bool) -> None:
        self.recording, self.past_runs = recording, past_runs
        self.own_workers = own_workers

    def give_back(self, gang: Gang, why: str, now: Moment, *, failed: bool = False) -> list[Action]:
        """Its placement group is removed; its devices are free once Ray has ended its workers. `failed`: nothing more
        is tried for it, and whoever waits hears why."""
        why = cut(why, MOST_BYTES)  # it may be a container's last words, and goes into the record
        registered = bool(gang.group) and self.recording.notes(gang).registered
        unknown = made_here(gang) and not registered and (gang.ordinary is not None or gang.group is not None)
        buried: list[Action] = [BuryGroup(gang.id)] if unknown else []
        actions: list[Action] = []
        # Without workers to undo, a placement group that is gone is record enough for a coordinator that starts again;
        # not so where one is made to be removed, which it would take for the gang's own if it died in between.
        if failed or (not gang.releasing and (buried or (_made(gang) and (gang.group is None or self.own_workers)))):
            actions = self.recording.save(
                replace(gang, releasing=True, failed=why if failed else gang.failed), why, now
            )
        if not _made(gang):
            return [*actions, *buried, Drop(gang.id, why)]  # it held nothing
        return [*actions, *buried, *map(RemoveGroup, gang.groups), EndWorkers(gang.id, why)]

    def workers_left(self, gang: Gang, event: WorkersLeft, now: Moment) -> list[Action]:
        if not event.busy:
            return self.end(gang, event.undone, event.why, now)
        return [] if gang.releasing else self.recording.save(replace(gang, releasing=True), event.why, now)

    def end(self, gang: Gang, undone: bool, why: str, now: Moment) -> list[Action]:
        """Once the workers made for it are given back, look by look. A program that gives back what has met a fault, or
        for another size, is likely to ask again; one whose gang was ended is not."""
        notes = self.recording.notes(gang)
        notes.ending = True
        if self.recording.records.inventory.in_pool(gang.id):
            return []  # who has shares of its GPUs ends first
        likely = notes.faulted or now.lived < notes.comes_back
        comes_back = likely and not (gang.request.pool or gang.failed or gang.detached or gang.quota is not None)
        keep_until = now.lived + KEPT_SECONDS if comes_back else None
        if not undone and _made(gang):
            return []
        self.past_runs.ended(gang, now.wall)
        return [Drop(gang.id, why, keep_until)]


def _made(gang: Gang) -> bool:
    """Whether anything may have been made for a gang."""
    return bool(gang.moves) or gang.allocation is not None
