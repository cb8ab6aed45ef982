"""Somebody else's quota that a gang is paid from: what is asked of a queue, what it answers, where the gang may go.

Pure. A queue outside (Kueue's) admits a gang before anything of it is planned or held, for nodes with certain labels;
what it has admitted it may take back. Neighbours: `quota_answers.py` decides what follows, `ports/quota.py` is the way
to the queue.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ray_dra.core.model.request import Bundle, GangRequest
from ray_dra.core.model.selector import labels_match
from ray_dra.core.model.shortfall import Place, PlaceKind, Shortfall, ShortfallKind, short

Labels = tuple[tuple[str, str], ...]
"""Labels of nodes, sorted."""

GRACE_SECONDS = 30.0  # for a gang that runs, from its eviction on: as long as Kubernetes gives pods

NOWHERE = "in( )"
"""A selector's term that no label fulfils: where a bundle selects other nodes than those that are paid for."""


class Said(enum.Enum):
    """What a queue says to a request."""

    NOTHING = "nothing"  # there is no such request
    WAITS = "waits"
    ADMITTED = "admitted"
    LATER = "later"  # its workers get nothing for now, though nothing was taken back; asked again
    EVICTED = "evicted"  # it was admitted, or not, and is not any more; asked again
    REFUSED = "refused"  # for good


@dataclass(frozen=True, slots=True)
class Answer:
    """A queue's answer.

    Attributes:
        why: in the queue's own words.
        granted: where it was admitted, the labels of nodes that are paid for, by kind of bundle.
        ended: where it is evicted, its workers have been ended with it, so that no grace is of use.
    """

    said: Said
    why: str = ""
    granted: tuple[Labels, ...] = ()
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Quota:
    """What a gang's record says of its quota.

    Attributes:
        queue: whose, e.g. kueue/team-a; it never changes.
        asks: how many requests there were before the present one.
        granted: labels of the nodes that are paid for, for each of `kinds`; None until the queue has admitted it.
    """

    queue: str
    asks: int = 0
    granted: tuple[Labels, ...] | None = None


def wanting(request: GangRequest, queue: str, why: str) -> Shortfall:
    """That a queue outside has not admitted a gang, in its own words."""
    devices = sum(bundle.count for bundle in request.bundles)
    return short(ShortfallKind.QUOTA, Place(PlaceKind.OUTSIDE, queue), devices, None, reason=why)


def kinds(request: GangRequest) -> Mapping[Bundle, int]:
    """The different bundles of a request, in its order, and how many there are of each."""
    found: dict[Bundle, int] = {}
    for bundle in request.bundles:
        found[bundle] = found.get(bundle, 0) + 1
    return found


def paid(request: GangRequest, quota: Quota | None) -> GangRequest:
    """The request, on nodes that are paid for alone."""
    if quota is None or not any(quota.granted or ()):
        return request
    limited = {
        bundle: replace(bundle, labels=_limited(bundle.labels, dict(labels)))
        for bundle, labels in zip(kinds(request), quota.granted or (), strict=True)
    }
    return replace(request, bundles=tuple(limited[bundle] for bundle in request.bundles))


def _limited(wanted: Mapping[str, str], granted: Mapping[str, str]) -> dict[str, str]:
    """Both selectors at once."""
    both = dict(wanted)
    for name, value in granted.items():
        meets = name not in wanted or labels_match({name: wanted[name]}, granted)
        both[name] = value if meets else NOWHERE
    return both
