"""What follows from the answer of a queue outside that pays for a gang.

Neighbours: `quota.py` has the answers, `coordinator/backends/kubernetes/kueue.py` the way to Kueue.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ray_dra.core.gangs.actions import Action, AskQuota, DeleteMap, RemoveGroup, Tell
from ray_dra.core.gangs.ends import Ends
from ray_dra.core.gangs.events import Moment
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.lifecycle import Observed
from ray_dra.core.gangs.quota import GRACE_SECONDS, Answer, Quota, Said, wanting
from ray_dra.core.gangs.recording import Recording
from ray_dra.core.model.shortfall import Shortfall


class QuotaAnswers:
    """See the module."""

    def __init__(self, recording: Recording, ends: Ends) -> None:
        self.recording = recording
        self.ends = ends

    def quota_answered(self, gang: Gang, answer: Answer, seen: Observed, now: Moment) -> list[Action]:
        """Admitted, it comes into our own queue, for the nodes that are paid for. What is taken back is given back
        whole before it is asked for again, in the same order as if it had failed."""
        quota, notes = gang.quota, self.recording.notes(gang)
        if quota is None or gang.releasing:
            return []
        waits_for = (wanting(gang.request, quota.queue, answer.why),)
        if quota.granted is None and answer.said is Said.NOTHING:
            return [AskQuota(gang.id)]
        if quota.granted is None and answer.said is Said.WAITS:
            told, notes.answer, notes.refused = notes.answer == answer, answer, waits_for
            return [] if told else [Tell(gang.id)]
        if answer.said is Said.ADMITTED:
            notes.answer = notes.evicted = None  # what it said before counts no more
            if quota.granted is not None:
                return []
            admitted = replace(gang, quota=replace(quota, granted=answer.granted))
            return [*self.recording.save(admitted, f"admitted by {quota.queue}", now, ()), Tell(gang.id)]
        if answer.said is Said.LATER and (gang.group is not None or seen.placed_once):
            notes.answer = answer
            return []  # its workers were there: some that take others' places wait
        if seen.group_state == "ABSENT":
            return []  # its program has removed it, so it is given back next
        gang, noted = self.recording.see(gang, seen, now)
        why = f"{quota.queue}: {answer.why or 'the request is gone'}"
        waits = answer.said is Said.EVICTED and not answer.ended
        if seen.placed_once and waits and not self._grace_is_over(gang, why, now):
            return noted
        # Whoever has a placement group that Ray has placed does not expect another one.
        if answer.said is Said.REFUSED or seen.placed_once or (gang.ordinary is not None and gang.group is not None):
            return [*noted, *self.ends.give_back(gang, why, now, failed=True)]
        because = f"no quota yet from {why}" if answer.said is Said.LATER else f"quota taken back by {why}"
        return [*noted, *self._ask_again(gang, quota, because, now, waits_for)]

    def _grace_is_over(self, gang: Gang, why: str, now: Moment) -> bool:
        """Of a gang that runs and is evicted: its program has had notice of it (`Observed.ending`) for so long; after a
        restart, too, by the deadline in its record."""
        notes, notice = self.recording.notes(gang), gang.notice
        if notes.evicted is None:
            notes.evicted = now.lived, why
        told = notice is not None and notice.reason == notes.evicted[1] and (notice.deadline or math.inf) <= now.wall
        return told or now.lived - notes.evicted[0] >= GRACE_SECONDS

    def _ask_again(
        self, gang: Gang, quota: Quota, why: str, now: Moment, waits_for: tuple[Shortfall, ...]
    ) -> list[Action]:
        """It holds nothing any more, and costs no try; the next request is made once nothing is left of the last."""
        moved = int(gang.allocation is not None)
        again = replace(
            gang,
            quota=Quota(quota.queue, quota.asks + 1),
            allocation=None,
            ends=None,
            started=None,
            eviction=None,
            group=None,
            moves=gang.moves + moved,
            gave_way=gang.gave_way + moved,
            old_groups=gang.groups,
            notice=None,
            replacing=(),
        )
        actions = self.recording.save(again, why, now, waits_for)
        if gang.group is not None:
            actions += [RemoveGroup(gang.group), DeleteMap(gang.group)]
        return [*actions, Tell(gang.id)]
