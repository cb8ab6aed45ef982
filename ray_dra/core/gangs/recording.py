"""What becomes of a gang's record: with each change of it, its history, its stages and what is told of them.

Neighbours: `records.py` has the records, `lifecycle.py` reads phase and stage off them; `engine.py` and its parts
(`queueing.py`, `starts.py`, `elsewhere.py`, `faults.py`, `reshaping.py`, `quota_answers.py`, `ends.py`) decide what
changes.
"""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.gangs.actions import Action, Note, Save, TellNotice, Timed
from ray_dra.core.gangs.drains import MOST_NAMED, to_drain
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.gang import MOST_CHANGES, MOST_WHY, Change, Gang
from ray_dra.core.gangs.lifecycle import Observed, phase, stage_of
from ray_dra.core.gangs.notice import noticed
from ray_dra.core.gangs.phases import ARROWS, Phase
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.reshape import ending_of
from ray_dra.core.gangs.runtime_notes import RuntimeNotes
from ray_dra.core.gangs.stages import READY, StageEnded
from ray_dra.core.model.shortfall import Shortfall
from ray_dra.errors import MOST_BYTES, cut


class Recording:
    """See the module."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def save(
        self,
        gang: Gang,
        why: str,
        now: Moment,
        waits_for: tuple[Shortfall, ...] | None = None,
        could_start: float | None = None,
        *,
        seen: Observed | None = None,
    ) -> list[Action]:
        """A record with this change in its history. `seen`: what the world shows of it just now, where it stays."""
        before = self.records.gangs.get(gang.id)
        begins = before is None or before.allocation is not gang.allocation
        progress = self.records.begins if begins else self.notes(gang).progress
        seen = seen or Observed(provisioned=progress.ready)
        gang, timed = _timed(changed(gang, phase(gang, seen), why, now), stage_of(gang, seen, progress), now)
        return [Save(gang, waits_for, could_start), Note(gang.id, gang.name, gang.history[-1]), *timed]

    def see(self, gang: Gang, seen: Observed, now: Moment) -> tuple[Gang, list[Action]]:
        """Take note of the phase and stage that the world says a gang is in, and of what it says of its end."""
        before, noted = gang, list[Action]()
        to, was = phase(gang, seen), gang.history[-1].to if gang.history else None
        if to is not was:
            why = "; ".join(seen.lost) if to is Phase.DEGRADED else ""
            why = why or (ARROWS.get((was, to), "") if was is not None else "found in the store")
            gang = changed(gang, to, why, now)
            noted.append(Note(gang.id, gang.name, gang.history[-1]))
        drained, notes = seen.drained - self.notes(gang).drained, self.notes(gang)
        notes.drained = seen.drained
        if drained:
            why = f"Ray drains its workers: bundles {', '.join(map(str, sorted(drained)[:MOST_NAMED]))}"
            more = f" and {len(drained) - MOST_NAMED} more" if len(drained) > MOST_NAMED else ""
            gang = changed(gang, to, why + more, now)
            noted.append(Note(gang.id, gang.name, gang.history[-1]))
        self._note_faults(gang, seen)
        if not gang.releasing:  # else it has heard of its end
            gang, told = _with_notice(gang, seen, now)
            noted += told
        gang, timed = _timed(gang, stage_of(gang, seen, self.notes(gang).progress), now)
        if gang is not before:
            self.records.put(gang, now.lived)
        return gang, [*noted, *timed]

    def _note_faults(self, gang: Gang, seen: Observed) -> None:
        """Once its placement group is gone, what was seen before counts too: the program may have been as quick."""
        notes = self.notes(gang)
        runs = seen.placed_once and not gang.releasing
        faulted = bool(seen.lost or to_drain(seen.ending)) and (seen.placed_once or seen.group_state == "ABSENT")
        notes.without = seen.without
        notes.faulted = seen.owner_alive and (faulted or (notes.faulted and not runs))

    def notes(self, gang: Gang) -> RuntimeNotes:
        return self.records.notes[gang.id]


def changed(gang: Gang, to: Phase, why: str, now: Moment) -> Gang:
    was = gang.history[-1].to if gang.history else None
    why = cut(why, MOST_BYTES)
    change = Change(now.wall, was, to, why if len(why) <= MOST_WHY else f"{why[: MOST_WHY - 3]}...")
    return replace(gang, history=(*gang.history[1 - MOST_CHANGES :], change))


def _with_notice(gang: Gang, seen: Observed, now: Moment) -> tuple[Gang, list[Action]]:
    """The gang with the notice of what the world shows of its end, and what is told of a new one. Stored at once: after
    a restart its deadline is what the program was told."""
    before, ending = gang.notice, ending_of(gang, seen, now.wall)
    notice = noticed(before, ending, now.wall)
    if notice is before or (ending is None and seen.still):
        return gang, []
    told: list[Action] = []
    if notice is not None:
        why = f"notice: {notice.reason}"
        told = [TellNotice(gang.id, notice)]
    else:
        why = f"the notice is taken back: {before.reason if before is not None else ''}"
    gang = changed(replace(gang, notice=notice), gang.history[-1].to if gang.history else phase(gang, seen), why, now)
    return gang, [Save(gang), Note(gang.id, gang.name, gang.history[-1]), *told]


def _timed(gang: Gang, stage: str | None, now: Moment) -> tuple[Gang, list[Action]]:
    """The gang in this stage of its way to readiness, and which one has ended with that."""
    times, ended = gang.times.entered(stage, now.wall)
    if times is gang.times:
        return gang, []
    timed: list[Action] = [Timed(gang.id, ended)] if ended is not None else []
    if times.stage == READY and not times.again:
        timed.append(Timed(gang.id, StageEnded(READY, times.total)))
    return replace(gang, times=times), timed
