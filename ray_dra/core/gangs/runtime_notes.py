"""What is known of a gang besides its record. Neighbours: `records.py` has one for each gang."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_dra.core.gangs.backfill import Reservation
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.progress import Progress
from ray_dra.core.gangs.quota import Answer
from ray_dra.core.model.shortfall import Shortfall


@dataclass
class RuntimeNotes:
    """What is known of a gang besides its record; a restart may forget it.

    Attributes:
        since: when it was last planned or came a step further, or was seen after a restart.
        progress: how far its workers are.
        refused: why it waits.
        ending: its workers are being given back.
        could_start: since when it waits only for what it prefers, by this coordinator's time; None: as its record says.
        registered: Ray has taken the placement group that was made here, so that one which is not there was removed.
        answer: what the queue said last while the gang waited for it.
        faulted: Ray has placed it, and of its hardware something is lost or to be drained; of a gang that is given
            back: was when it was last seen.
        without: the nodes on which its worker was gone, or its bundles were not placed again, when it was last seen;
            None: it was not seen yet.
        kept_lost: as in `Observed`, when its workers were last seen to. kept_made: these, and no others, are made anew.
        unplaced: since when Ray has not placed bundles again whose raylets are there; None: it has.
        at_loss: the notice about which nothing that was declared could be done; None: there is none.
        evicted: when that was first seen to have taken back what a running gang has, and why.
        could_grow: since when there has been room for it to grow back, at every look.
        cannot_grow: as `no_place`, for that.
        amiss: since when each thing of it is lost that may be back by itself.
        comes_back: until when, in monotonic seconds, its program is likely to give it back for one of another size.
        no_place: the inventory's changes by which there was no other place for a gang that is to be drained.
        may_end: the same, by which it was not certain that anything of the gang will end for its fault.
        told: the notice of which Ray's libraries were told; as long as it is the gang's, something ends by it.
        drained: the bundles of which Ray drained the workers when it was last seen.
        checkpoint: the Unix time at which its program last said that its work is saved; 0.0: it did not.
        reservation: of the first in the queue: when and where it starts at the latest, if running gangs end when their
            programs guess.
    """

    since: float
    progress: Progress
    refused: tuple[Shortfall, ...] = ()
    ending: bool = False
    could_start: float | None = None
    registered: bool = False
    without: frozenset[str] | None = None
    kept_lost: frozenset[str] = frozenset()
    kept_made: bool = False
    unplaced: float | None = None
    at_loss: Notice | None = None
    answer: Answer | None = None
    evicted: tuple[float, str] | None = None
    reservation: Reservation | None = None
    faulted: bool = False
    comes_back: float = 0.0
    no_place: int = -1
    may_end: int = -1
    told: Notice | None = None
    drained: frozenset[int] = frozenset()
    checkpoint: float = 0.0
    could_grow: float | None = None
    cannot_grow: int = -1
    amiss: dict[str, float] = field(default_factory=dict)
