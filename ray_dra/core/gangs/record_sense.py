"""What of a record that reads well can be no gang's: whoever reads records from the store asks `sense_of`.

Neighbours: `gang.py` is the record, `translate/files/records.py` its form in the store.
"""

from __future__ import annotations

import math
import re

from ray_dra.core.gangs.gang import Gang, nodes_of
from ray_dra.core.gangs.quota import Quota, kinds
from ray_dra.core.gangs.shapes import sense_of_kept, sense_of_reshape, sense_of_shrunk

MOST_SECONDS = 365 * 86400.0  # that a program may guess for a gang
LAST_MOVE = 1_000_000  # no gang comes so far; of one that is given back, each attempt is looked for
MOST_COUNTED = 2**53  # of gangs: the next one's number is one more, and has to be written

_GROUP = re.compile("[0-9a-f]{36}")
_ACTOR = re.compile("([0-9a-f]{32})?")
_FIRST_TIME, _LAST_TIME = -62_135_596_800.0, 253_402_300_799.0  # the years 1 to 9999


def is_group(text: object) -> bool:
    """Whether it can be the id of one of Ray's placement groups: 18 bytes in hex."""
    return isinstance(text, str) and _GROUP.fullmatch(text) is not None


def is_actor(text: object) -> bool:
    """Whether it can be the id of one of Ray's actors, 16 bytes in hex; "" is none."""
    return isinstance(text, str) and _ACTOR.fullmatch(text) is not None


def sense_of(gang: Gang) -> str:
    """What of a record that reads well can be no gang's; "" where nothing is. Such a gang could not be given back: its
    group cannot be removed, or its next record not be written."""
    if not all(map(is_group, gang.old_groups)) or not (gang.group is None or is_group(gang.group)):
        return "it names a placement group that Ray cannot have"
    if len(set(gang.groups)) < len(gang.groups):
        return "it names a placement group twice"
    if gang.ordinary is not None:
        if gang.ordinary.id != gang.id or gang.group not in (None, gang.id) or not is_group(gang.id) or gang.old_groups:
            return "its ordinary placement group is another one"
        if not is_actor(gang.ordinary.actor):
            return "it names an actor that Ray cannot have"
    if gang.maker is not None and not (is_group(gang.id) and is_actor(gang.maker.actor)):
        return "it was made in the name of an actor that Ray cannot have"
    if not all(_FIRST_TIME <= change.at <= _LAST_TIME for change in gang.history):
        return "its history has a time that is none"
    if not (_FIRST_TIME <= gang.times.since <= _LAST_TIME and 0 <= gang.times.total <= _LAST_TIME):
        return "its stages have a time that is none"
    if gang.waits and gang.group is not None:
        return "it has a placement group and no devices"
    if gang.runs_for is not None and not 0 < gang.runs_for <= MOST_SECONDS:
        return "it runs for a time that is none"
    if gang.ends is not None and not (gang.runs_for and gang.allocation and _FIRST_TIME <= gang.ends <= _LAST_TIME):
        return "it ends at a time that is none"
    promised = (gang.promised.could, gang.promised.by) if gang.promised is not None else ()
    if not all(_FIRST_TIME <= at <= _LAST_TIME for at in (*promised, gang.could_start or 0.0)):
        return "it waits for a time that is none"
    if gang.started is not None and not (gang.allocation and _FIRST_TIME <= gang.started <= _LAST_TIME):
        return "it started at a time that is none"
    if gang.eviction is not None and not (
        gang.allocation and gang.eviction.by and _FIRST_TIME <= gang.eviction.deadline <= _LAST_TIME
    ):
        return "it is evicted as no gang can be"
    if min(gang.preempted, gang.consolidated) < 0 or gang.preempted + gang.consolidated > gang.restarts:
        return "it was preempted or moved more often than it was started again"
    if gang.notice is not None:
        if not all(_FIRST_TIME <= at <= _LAST_TIME for at in (gang.notice.since, gang.notice.deadline or 0.0)):
            return "its notice has a time that is none"
        if not all(0 <= rank < len(gang.request.bundles) for rank in gang.notice.ranks):
            return "its notice names a bundle that it does not have"
    if not 0 <= gang.gave_way <= gang.moves:
        return "it gave way more often than it moved"
    if not 0 <= gang.restarts <= gang.moves:
        return "it was started again more often than it moved"
    if not (gang.on_fault.ways and 0 <= gang.on_fault.grace < math.inf) or (gang.ordinary and gang.restarts):
        return "it says nothing that can be done about a fault"
    if gang.replacing and (gang.group is None or gang.allocation is None or not {*gang.replacing} <= {*nodes_of(gang)}):
        return "workers are replaced that it does not have"
    if not (0 <= gang.sequence <= MOST_COUNTED and gang.moves <= LAST_MOVE and 0 <= gang.batch <= MOST_COUNTED):
        return "it has counted further than anybody can"
    amounts = [bundle.resources for bundle in gang.request.bundles]
    amounts += [placed.resources for placed in (gang.allocation.bundles if gang.allocation is not None else ())]
    if not all(0 <= amount < math.inf for resources in amounts for amount in resources.values()):
        return "it has an amount that is no number"
    if gang.quota is not None and not _is_quota(gang.quota, gang):
        return "its quota is for another gang"
    if gang.allocation is not None and (wrong := sense_of_kept(gang.allocation)):
        return wrong
    if not 0 <= gang.spares <= MOST_COUNTED:
        return "it has so many spares as nobody can have"
    if gang.shrunk is not None:
        wrong = sense_of_shrunk(gang.shrunk, gang.request)
        if wrong or gang.shrunk.whole.gang != gang.id or gang.ordinary is not None or not gang.reshaped:
            return wrong or "it has shrunk from another gang"
    if gang.reshape is not None:
        if gang.ordinary is not None:
            return "it changes a shape that cannot change"
        return sense_of_reshape(gang.reshape, gang.shape, gang.id, gang.moves)
    return ""


def _is_quota(quota: Quota, gang: Gang) -> bool:
    if not (quota.queue and 0 <= quota.asks <= LAST_MOVE):
        return False
    if quota.granted is None:
        return gang.allocation is None and gang.group is None
    return len(quota.granted) == len(kinds(gang.request))
