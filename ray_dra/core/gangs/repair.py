"""What is done about a fault of a gang that is placed: what its program has declared (`on_fault`). Pure.

    a sign that stands -> notice, with a deadline after `grace` -> when that is over, and the sign still shows, the
    first declared way that is possible

- degrade: nothing; the gang keeps what is left of it.
- replace (where workers are made for gangs): the lost slots get new workers, under their labels, in the same placement
  group; the others live on (`replacing.py`).
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
from ray_dra.core.model.checked import many, number, one_of
from ray_dra.errors import InvalidRequest, shown

GRACE_SECONDS = 30.0  # unless the program says otherwise: what Kubernetes gives a pod
MOST_GRACE = 86_400.0
LOST = "lost: "


class Way(enum.Enum):
    """What may be done about a fault."""

    DEGRADE = "degrade"
    REPLACE = "replace"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class OnFault:
    """What a program has declared.

    Attributes:
        ways: in this order; the next one where the one before is not possible.
        grace: seconds from the notice until anything of the gang is ended.
    """

    ways: tuple[Way, ...] = (Way.DEGRADE,)
    grace: float = GRACE_SECONDS

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
    return replace(declared, ways=tuple(each for each in declared.ways if each is not way) or (Way.DEGRADE,))


def on_fault(ways: object, grace: object = GRACE_SECONDS, place: str = "on_fault") -> OnFault:
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
    return check_on_fault(
        OnFault(tuple(known[each] for each in said), number(grace, "grace", least=0.0, most=MOST_GRACE)), place
    )


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
    return ending is not None and (ending.reason.startswith(LOST) or to_drain(ending))


def group_after(gang: str, moves: int) -> str:
    """The id of the placement group that is made here for a gang that was planned again so often. It is of the same
    job, by its last four bytes, and the same whichever coordinator makes it."""
    return hashlib.sha256(f"{gang}/{moves}".encode()).hexdigest()[:28] + gang[28:]
