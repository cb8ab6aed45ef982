"""What an eviction leads to: notice, and after that the gang gives its devices back and waits at the front of its
priority; or the notice is taken back.

Neighbours: `preempting.py` says who is evicted for whom; `Starts.started_again` is the gang after it, as after a fault.
"""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.gangs.actions import Action, DeleteMap, Note, RemoveGroup, Save, Tell, TellNotice
from ray_dra.core.gangs.borrowing import still_owed
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.eviction import Eviction
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.recording import Recording, changed
from ray_dra.core.gangs.starts import Starts


class Evictions:
    """See the module."""

    def __init__(self, recording: Recording, starts: Starts) -> None:
        self.recording, self.starts = recording, starts
        self.records = recording.records

    def tell(self, gang: Gang, eviction: Eviction, now: Moment) -> list[Action]:
        """Notice to a gang's program: all of it will end."""
        notice = Notice(eviction.why, eviction.deadline, tuple(range(len(gang.request.bundles))), now.wall)
        evicted = replace(gang, eviction=eviction, notice=notice)
        return [*_noted(evicted, f"notice: {eviction.why}", now), TellNotice(gang.id, notice)]

    def take_back(self, gang: Gang, now: Moment) -> list[Action]:
        """The gang goes on. What else it has notice of stays."""
        why = gang.eviction.why if gang.eviction is not None else ""
        notice = gang.notice if gang.notice is not None and gang.notice.reason != why else None
        return _noted(replace(gang, eviction=None, notice=notice), f"the notice is taken back: {why}", now)

    def look(self, gang: Gang, now: Moment) -> list[Action]:
        """What is next for a gang that has such notice: it goes on once the other gang waits no more, or has no right
        to its devices any more; it ends once its notice is over."""
        eviction = gang.eviction
        if eviction is None:
            return []
        if not still_owed(self.records, gang, eviction):
            return self.take_back(gang, now)
        return self.end(gang, now) if eviction.deadline <= now.wall else []

    def end(self, gang: Gang, now: Moment) -> list[Action]:
        """In one write it holds nothing any more, and is in the queue."""
        why = gang.eviction.why if gang.eviction is not None else ""
        again = replace(self.starts.started_again(gang, None, now), preempted=gang.preempted + 1)
        self.recording.notes(gang).registered = False
        left: list[Action] = [RemoveGroup(gang.group), DeleteMap(gang.group)] if gang.group is not None else []
        return [*self.recording.save(again, why, now, ()), *left, Tell(gang.id)]


def _noted(gang: Gang, why: str, now: Moment) -> list[Action]:
    """A record with another notice, in the phase in which it is."""
    gang = changed(gang, gang.history[-1].to, why, now)
    return [Save(gang), Note(gang.id, gang.name, gang.history[-1])]
