"""The queues of teams: how many GPUs each is guaranteed, how they share the rest, and what none of them may exceed.

    1. Guaranteed: a gang with which its team has no more than its guarantee. First come, first served.
    2. Borrowed: any other. The team with the least beyond its guarantee, by its weight, comes first.
    3. Over its limit: it waits, and holds up its own team alone.

What a team has beyond its guarantee is its dominant share of the cluster, of GPUs, CPUs or memory, less the share of
GPUs that it is guaranteed. Pure. Neighbours: `team_order.py` has the waiting gangs in this order; somebody else's quota
(Kueue's) is in `quota.py`.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ray_dra.core.model.request import WHOLE, Bundle, GangRequest
from ray_dra.core.model.shortfall import Place, PlaceKind, Shortfall, ShortfallKind, short

DEFAULT = "default"
"""The queue of gangs that name none. Where nobody declares it, nothing is guaranteed there and nothing limits it."""
CPU, MEMORY = "CPU", "memory"  # Ray's names of them
MOST_QUEUES = 1_000
MOST_GPUS = 1_000_000_000
MOST_WEIGHT = 1_000_000.0
MOST_NAMED = 20  # queues, in a refusal
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_COMPUTE_SLICES = re.compile(r"(\d{1,2})[gc]\.")  # of a MIG profile, e.g. 3g.40gb: three of a GPU's seven
_MOST_SLICES = 7


class Amounts(NamedTuple):
    """What a gang asks for, a team has, or the cluster has. `gpus`: in thousandths of one."""

    gpus: int = 0
    cpus: float = 0.0
    memory: float = 0.0

    def plus(self, other: Amounts) -> Amounts:
        return Amounts(self.gpus + other.gpus, self.cpus + other.cpus, self.memory + other.memory)

    def minus(self, other: Amounts) -> Amounts:
        return Amounts(self.gpus - other.gpus, self.cpus - other.cpus, self.memory - other.memory)


NOTHING = Amounts()


@dataclass(frozen=True, slots=True)
class TeamQueue:
    """A team's queue. GPUs in thousandths of one.

    Attributes:
        guarantee: the team has so many as soon as they can be had.
        weight: of what nobody is guaranteed, or does not use, a team of twice the weight gets twice as much; 0: only
            what nobody else waits for.
        limit: no gang starts with which the team would have more; None: there is none.
    """

    name: str
    guarantee: int = 0
    weight: float = 1.0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class TeamQueues:
    """The queues that are declared, by name. Without any, the queue is one, by priority and arrival."""

    each: Mapping[str, TeamQueue] = field(default_factory=dict)

    @staticmethod
    def of(queues: Iterable[TeamQueue]) -> TeamQueues:
        return TeamQueues({queue.name: queue for queue in queues})

    def __bool__(self) -> bool:
        return bool(self.each)

    def queue(self, name: str) -> TeamQueue:
        """The queue of gangs that name this one; "": that name none. One that is not declared any more is as one that
        was shrunk to nothing: what runs there is borrowed, and what waits goes on to."""
        found = self.each.get(name or DEFAULT)
        if found is not None:
            return found
        return TeamQueue(DEFAULT) if (name or DEFAULT) == DEFAULT else TeamQueue(name, weight=0.0, limit=0)

    def declared(self, name: str) -> bool:
        """Whether a gang may name it."""
        return name in self.each or (bool(self.each) and name == DEFAULT)

    @property
    def guaranteed(self) -> int:
        """What all of them are guaranteed together."""
        return sum(queue.guarantee for queue in self.each.values())

    def names(self) -> str:
        """The names that there are, for a refusal."""
        known = sorted({DEFAULT, *self.each} if self.each else ())
        more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
        return ", ".join(known[:MOST_NAMED]) + more


NO_QUEUES = TeamQueues()


class Entitlement(enum.IntEnum):
    """With what right a gang would start now."""

    GUARANTEED = 0
    BORROWED = 1
    OVER_LIMIT = 2


def entitlement(queue: TeamQueue, has: int, wants: int) -> Entitlement:
    """Of a gang of so many GPUs, whose team has so many."""
    if queue.limit is not None and has + wants > queue.limit:
        return Entitlement.OVER_LIMIT
    return Entitlement.GUARANTEED if has + wants <= queue.guarantee else Entitlement.BORROWED


def beyond(queue: TeamQueue, has: Amounts, total: Amounts) -> float:
    """What a team has beyond its guarantee, by its weight: the lower, the sooner it may borrow."""
    if queue.weight <= 0:
        return math.inf
    guaranteed = queue.guarantee / total.gpus if total.gpus else 0.0
    others = ((has.cpus, total.cpus), (has.memory, total.memory))
    shares = [(mine / all_of_it - guaranteed) / queue.weight for mine, all_of_it in others if all_of_it > 0]
    if total.gpus:  # in whole numbers as far as can be, so that equal ones are equal, and arrival decides
        shares.append((has.gpus - queue.guarantee) / queue.weight / total.gpus)
    return max(0.0, *shares) if shares else 0.0


def borrowed(queue: TeamQueue, has: int) -> int:
    """What a team has of GPUs beyond its guarantee."""
    return max(0, has - queue.guarantee)


def over_limit(queue: TeamQueue, has: int, wants: int, queues: TeamQueues) -> Shortfall:
    """That a gang waits for its own team's limit, or for its team's queue to be declared."""
    limit = queue.limit or 0
    left = max(0, limit - has) / WHOLE
    place = Place(PlaceKind.QUEUE, queue.name)
    facts = {} if queues.declared(queue.name) else {"declared": queues.names()}
    return short(ShortfallKind.LIMIT, place, wants / WHOLE, left, limit=limit / WHOLE, used=has / WHOLE, **facts)


# -- what a gang counts


def amounts_of(request: GangRequest) -> Amounts:
    """What a gang counts. Shares count as the GPUs that they fill together, which are the gang's own; a part counts by
    its profile, and as a whole GPU where it is asked for by its memory."""
    gpus, shares, cpus, memory = 0, 0, 0.0, 0.0
    for bundle, number in _counted(request.bundles):
        for device in bundle.devices:
            if device.share is not None:
                shares += number * device.count * device.share
            else:
                gpus += number * device.count * _size_of_part(device.part.profile if device.part else None)
        cpus += number * bundle.resources.get(CPU, 0.0)
        memory += number * bundle.resources.get(MEMORY, 0.0)
    return Amounts(gpus + -(-shares // WHOLE) * WHOLE, cpus, memory)


def _size_of_part(profile: str | None) -> int:
    """In thousandths of a GPU; None: a whole one."""
    found = _COMPUTE_SLICES.match(profile) if profile is not None else None
    return min(WHOLE, -(-WHOLE * int(found[1]) // _MOST_SLICES)) if found is not None else WHOLE


def _counted(bundles: Sequence[Bundle]) -> Iterable[tuple[Bundle, int]]:
    """Equal bundles are mostly one object."""
    first = bundles[0]
    if bundles.count(first) == len(bundles):
        return ((first, len(bundles)),)
    numbers: dict[int, tuple[Bundle, int]] = {}
    for bundle in bundles:
        numbers[id(bundle)] = bundle, numbers.get(id(bundle), (bundle, 0))[1] + 1
    return numbers.values()
