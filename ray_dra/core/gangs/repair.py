"""What is done about a fault of a gang that is placed: what its program has declared (`on_fault`). Pure.

    a sign that stands -> notice, with a deadline after `grace` -> when that is over, and the sign still shows, the
    first declared way that is possible

- degrade: nothing; the gang keeps what is left of it.
- replace (where workers are made for gangs): the lost slots get new workers, under their labels, in the same placement
  group; the others live on (`replacing.py`).
- shrink: whole segments that are well go on in a new placement group, as long as they are enough (`shrinking.py`);
  the gang grows back once there is room in its cliques (`growing.py`).
- restart: the whole gang is planned again, with its turn; where no other place is free it waits for one, and what it
  had is kept for its program for a while. What is only to be drained runs on until there is another place. An ordinary
  placement group is in its program's hands: it ends, only where its program's own policy says so, and the program makes
  it anew.

The notice in the gang's record is all that a coordinator which starts again needs: its deadline goes on. Neighbours:
`drains.py` says which signs stand, `notice.py` what a notice is, `faults.py` acts.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from ray_dra.core.gangs.drains import MOST_NAMED, TO_DRAIN, to_drain
from ray_dra.core.gangs.notice import Ending, Notice
from ray_dra.core.model.checked import many, number, one_of, whole
from ray_dra.core.model.request import MAX_BUNDLES, GangRequest
from ray_dra.errors import InvalidRequest, shown

GRACE_SECONDS = 30.0  # unless the program says otherwise: what Kubernetes gives a pod
MOST_GRACE = 86_400.0
LOST = "lost: "


class Way(enum.Enum):
    """What may be done about a fault."""

    DEGRADE = "degrade"
    REPLACE = "replace"
    RESTART = "restart"
    SHRINK = "shrink"


@dataclass(frozen=True, slots=True)
class OnFault:
    """What a program has declared.

    Attributes:
        ways: in this order; the next one where the one before is not possible.
        grace: seconds from the notice until anything of the gang is ended.
        min_bundles: with shrink, how many bundles are enough to go on; None without.
    """

    ways: tuple[Way, ...] = (Way.DEGRADE,)
    grace: float = GRACE_SECONDS
    min_bundles: int | None = None

    @property
    def acts(self) -> bool:
        """Whether anything is done at all."""
        return self.ways[0] is not Way.DEGRADE


DEGRADE = OnFault()


class FaultRule(NamedTuple):
    """What is done about faults of the gangs whose name is like `pattern`; "" for all."""

    pattern: str
    declared: OnFault


def declared_for(name: str, rules: Iterable[FaultRule]) -> OnFault | None:
    """What holds for a gang of this name: a rule for its name comes before what is said of all; of either kind, the
    first. None where none speaks."""
    found = [rule for rule in rules if not rule.pattern or fnmatchcase(name, rule.pattern)]
    found.sort(key=lambda rule: not rule.pattern)
    return found[0].declared if found else None


def without(declared: OnFault, way: Way) -> OnFault:
    """The same without a way that is not possible."""
    ways = tuple(each for each in declared.ways if each is not way) or (Way.DEGRADE,)
    return replace(declared, ways=ways, min_bundles=declared.min_bundles if Way.SHRINK in ways else None)


def on_fault(
    ways: object, grace: object = GRACE_SECONDS, place: str = "on_fault", *, min_bundles: object = None
) -> OnFault:
    """What a program says, or an operator: one way by its name, or several in order.

    Raises:
        InvalidRequest: it is none, or one comes twice, or after degrade, which is always possible.
    """
    known = {way.value: way for way in Way}
    said = (ways,) if isinstance(ways, str) else tuple(many(ways, place, most=len(Way)))
    for each in said:
        if not isinstance(each, str) or each not in known:
            raise InvalidRequest(
                "Nothing of this name can be done about a fault.",
                place=place,
                wanted=shown(each),
                available=", ".join(known),
            )
    least = None if min_bundles is None else whole(min_bundles, "min_bundles", least=1, most=MAX_BUNDLES)
    seconds = number(grace, "grace", least=0.0, most=MOST_GRACE)
    return check_on_fault(OnFault(tuple(known[each] for each in said), seconds, least), place)


def check_on_fault(found: OnFault, place: str = "on_fault") -> OnFault:
    """The same, if it is what it should be. Raises InvalidRequest otherwise."""
    if not isinstance(found, OnFault):
        raise InvalidRequest(
            f"{place} is no declaration of what is done about faults.", place=place, wanted=shown(found)
        )
    for way in many(found.ways, place, most=len(Way)):
        one_of(Way, way, place)
    number(found.grace, "grace", least=0.0, most=MOST_GRACE)
    if not found.ways or len(set(found.ways)) < len(found.ways) or Way.DEGRADE in found.ways[:-1]:
        raise InvalidRequest(
            "What is done about a fault is one way or several in order, each once, and degrade the last: it is always"
            " possible.",
            place=place,
            wanted=", ".join(way.value for way in found.ways) or "none",
            available=", ".join(way.value for way in Way),
        )
    if Way.SHRINK in found.ways and Way.RESTART in found.ways[: found.ways.index(Way.SHRINK)]:
        raise InvalidRequest(
            "A restart is always possible, so nothing comes to shrinking after it.",
            place=place,
            wanted=", ".join(way.value for way in found.ways),
            available="shrink, restart",
        )
    if found.min_bundles is not None:
        whole(found.min_bundles, "min_bundles", least=1, most=MAX_BUNDLES)
    if (found.min_bundles is None) is (Way.SHRINK in found.ways):
        raise InvalidRequest(
            "A gang that may shrink says how many of its bundles are enough, as its program alone can; no other does.",
            place="min_bundles" if Way.SHRINK not in found.ways else place,
            wanted=", ".join(way.value for way in found.ways) + f", min_bundles={found.min_bundles}",
            available='placement_group(..., on_fault="shrink", min_bundles=N)',
        )
    return found


def with_drained(
    draining: Ending | None, drained: Mapping[int, str], told: Notice | None, *, shown: bool
) -> Ending | None:
    """What is to be drained, with the bundles whose raylet Ray drains: nothing new runs there, and Ray cannot take it
    back, so that the workers end though nothing else shows a sign any more.

    Args:
        drained: by bundle, what is said of it.
        told: the gang's notice; Ray was told of its bundles for what it says.
        shown: its reason, or another, still shows.
    """
    if shown and told is not None and drained.keys() <= set(told.ranks):
        return draining
    more = sorted(drained.keys() - set(draining.ranks if draining is not None else ()))
    if not more:
        return draining
    said = dict.fromkeys(drained[rank] for rank in more)
    if draining is None:
        return Ending(TO_DRAIN + "; ".join(list(said)[:MOST_NAMED]), None, tuple(more))
    return replace(draining, ranks=tuple(sorted({*draining.ranks, *more})))


def check_shrink(declared: OnFault, request: GangRequest, *, ordinary: bool = False) -> None:
    """Whether a gang of this request can shrink so. Raises InvalidRequest otherwise. `ordinary`: its placement group is
    in its program's hands."""
    least, count, size = declared.min_bundles, len(request.bundles), segment_of(request)
    if least is None:
        return
    each = {id(bundle): bundle for bundle in request.bundles}.values()
    if ordinary or any(bundle.part is not None or bundle.share is not None for bundle in each):
        raise InvalidRequest(
            "An ordinary placement group keeps its bundles, and a gang of parts or shares of GPUs does, too.",
            place="on_fault",
            wanted=Way.SHRINK.value,
            available="ray_dra.placement_group(...) of whole GPUs, or another way",
        )
    if least % size or least >= count:
        raise InvalidRequest(
            "What is enough of a gang are whole segments, and fewer bundles than it has.",
            place="min_bundles",
            wanted=f"{least} of {count} bundles",
            available=f"multiples of {size} from {size} to {count - size}"
            if count > size
            else "none: it is one segment",
        )


def segment_of(request: GangRequest) -> int:
    """How many bundles of a gang go, or stay, together when it shrinks."""
    return request.locality.segment or 1


def fault_of(
    declared: OnFault, losses: Sequence[tuple[int, str]], draining: Ending | None, nodes: Sequence[str]
) -> Ending | None:
    """What of a gang will be ended for a fault of its hardware.

    Args:
        losses: what is lost and stands, by bundle.
        draining: what is to be drained (`Drains.ending`).
        nodes: where its bundles lie.
    """
    ranks = {rank for rank, _ in losses} | set(draining.ranks if draining is not None else ())
    if not ranks:
        return None
    if losses:
        said = list(dict.fromkeys(said for _, said in losses))
        more = f"; and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
        reason = LOST + "; ".join(said[:MOST_NAMED]) + more
    else:
        assert draining is not None
        reason = draining.reason
    ends = {nodes[rank] for rank in ranks} if declared.ways[0] is Way.REPLACE else set(nodes)
    together = tuple(rank for rank, node in enumerate(nodes) if node in ends)
    return Ending(reason, declared.grace, together, tuple(sorted(ranks)))


def for_fault(ending: Ending | None) -> bool:
    """Whether it is for a fault that something of a gang will end: of hardware that is lost, or to be drained."""
    return is_lost(ending) or to_drain(ending)


def is_lost(ending: Ending | None) -> bool:
    """Whether something of it is lost, and has been for so long that it will not be back."""
    return ending is not None and ending.reason.startswith(LOST)


def group_after(gang: str, moves: int) -> str:
    """The id of the placement group that is made here for a gang that was planned again so often. It is of the same
    job, by its last four bytes, and the same whichever coordinator makes it."""
    return hashlib.sha256(f"{gang}/{moves}".encode()).hexdigest()[:28] + gang[28:]
