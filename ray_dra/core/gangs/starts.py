"""The start of a gang: it holds devices, and Ray is told of the placement group that is made here.

Neighbours: `queueing.py` starts gangs in their turn, `faults.py` again after a fault, `reshaping.py` in another shape.
"""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.gangs.actions import Action, DeleteMap, MakeGroup, RemoveGroup, WriteMap
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.gang import Gang, group_made_here, made_here
from ray_dra.core.gangs.patience import Worth, runs_with
from ray_dra.core.gangs.recording import Recording
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.shortfall import Shortfall


class Starts:
    """See the module."""

    def __init__(self, recording: Recording, worth: Worth | None) -> None:
        """`worth`: what says how slow a gang is outside of what it prefers; None: as fast as inside."""
        self._worth = worth
        self.recording = recording
        self.records = recording.records

    def start(
        self, gang: Gang, allocation: Allocation, why: str, now: Moment, waits_for: tuple[Shortfall, ...] | None = None
    ) -> list[Action]:
        """It holds these devices from here on. Where its workers are there already, Ray is told at once of a placement
        group that is made here."""
        ends = self.guessed_end(gang, allocation, now)
        gang = replace(gang, allocation=allocation, started=now.wall, ends=ends, could_start=None, promised=None)
        if made_here(gang) and self.records.begins.ready:
            return self.register(gang, why, now, waits_for)
        return self.recording.save(gang, why, now, waits_for)

    def register(
        self, gang: Gang, why: str, now: Moment, waits_for: tuple[Shortfall, ...] | None = None, left: str | None = None
    ) -> list[Action]:
        """Ray is told of a placement group, once its workers can find its map; before that the one is removed that the
        gang has `left`, which may have the same name."""
        if gang.allocation is None:
            return []
        group = group_made_here(gang)
        again = gang.id in self.records.gangs  # a coordinator before this one may have been ended in the middle
        saved = self.recording.save(replace(gang, group=group), why, now, waits_for)
        removed: list[Action] = [RemoveGroup(left), DeleteMap(left)] if left is not None else []
        return [WriteMap(group, gang.allocation), *saved, *removed, MakeGroup(gang.id, again)]

    def started_again(self, gang: Gang, found: Allocation | None, now: Moment) -> Gang:
        """A gang whose placement group is given up, on other devices, or in the queue with its turn. It has all its
        tries again."""
        moves = gang.moves + 1
        return replace(
            gang,
            allocation=found,
            started=now.wall if found is not None else None,
            ends=self.guessed_end(gang, found, now) if found is not None else None,
            group=None,
            moves=moves,
            gave_way=moves,
            restarts=gang.restarts + 1,
            old_groups=gang.groups,
            notice=None,
            eviction=None,
            replacing=(),
            times=StageTimes(again=True),
        )

    def guessed_end(self, gang: Gang, allocation: Allocation, now: Moment) -> float | None:
        """When a gang that gets these devices now has ended, as its program guesses: later outside of what it
        prefers."""
        runs = runs_with(allocation, gang.request.locality, gang.runs_for, self._worth)
        return now.wall + runs if runs is not None else None
