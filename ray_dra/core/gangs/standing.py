"""Where a gang stands in the queue, for whoever asks.

Neighbours: `records.py` has the queue, `backfill.py` what the first in it is promised.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.pools import amount_of
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.team_queues import DEFAULT, Entitlement, borrowed, entitlement, over_limit
from ray_dra.core.gangs.turn import turn_of
from ray_dra.core.model.request import WHOLE
from ray_dra.core.model.shortfall import QUEUE, Shortfall, ShortfallKind, short


def behind(records: Records, gang: Gang) -> Shortfall | None:
    """That others come before a gang in the queue, as it is now, or that its team's limit does; None where nothing
    does."""
    declared = records.team_order.declared and not gang.request.in_pool
    limited = limit_of(records, gang) if declared else None
    if limited is not None:
        return limited
    ahead, first = records.ahead(gang), records.first_before(gang)
    if not ahead or first is None:
        return None
    return short(ShortfallKind.QUEUE, QUEUE, gang.id, first.id, ahead=ahead, first=first.name)


def limit_of(records: Records, gang: Gang, more: Collection[Gang] = ()) -> Shortfall | None:
    """That a gang, with `more` of its team, waits for its team's limit; None where it does not."""
    order = records.team_order
    queue = order.queue(gang.team)
    wants = sum((records.amounts(each).gpus for each in more), records.amounts(gang).gpus)
    has = order.has(gang.team).gpus
    if queue is None or entitlement(queue, has, wants) is not Entitlement.OVER_LIMIT:
        return None
    return over_limit(queue, has, wants, order.queues)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a gang stands in the queue.

    Attributes:
        ahead: gangs that wait before it.
        starts: when it starts at the latest if running gangs end as their programs guess, in seconds since 1970; None:
            nobody can tell, or others wait before it.
        after: names of gangs that have ended by then, and have something that it needs.
        guessed: its program has said how long it runs.
        takes: names of gangs that have notice that they end for it; `starts` is when they do.
    """

    ahead: int
    starts: float | None = None
    after: tuple[str, ...] = ()
    guessed: bool = False
    takes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TeamStanding:
    """A team's queue, what the team has, and what of it waits. GPUs.

    Attributes:
        declared: False: gangs name it, and it is declared no more.
        used: that the team's gangs have.
        borrowed: of these, beyond its guarantee.
        limited: the first of the team waits for its limit.
        waiting: gangs that wait.
        wanted: that these ask for.
    """

    name: str
    declared: bool
    guarantee: float
    weight: float
    limit: float | None
    used: float
    borrowed: float
    waiting: int
    wanted: float
    limited: bool


def team_standings(records: Records) -> tuple[TeamStanding, ...]:
    """All queues of teams that are declared, or of which gangs are there, by name."""
    order = records.team_order
    if not order.queues:
        return ()
    waiting: dict[str, list[Gang]] = {}
    for ordinary in (False, True):
        for _, _, gang_id in order.turns(ordinary=ordinary):
            gang = records.gangs[gang_id]
            waiting.setdefault(order.team(gang.team), []).append(gang)
    found = []
    for name in sorted({DEFAULT, *order.queues.each, *order.teams, *waiting}):
        queue, has, waits = order.queues.queue(name), order.has(name).gpus, waiting.get(name, [])
        first = order.first_of(name)
        ahead = records.gangs[first[2]] if first is not None else min(waits, key=turn_of, default=None)
        found.append(
            TeamStanding(
                name=name,
                declared=order.queues.declared(name),
                guarantee=queue.guarantee / WHOLE,
                weight=queue.weight,
                limit=queue.limit / WHOLE if queue.limit is not None else None,
                used=has / WHOLE,
                borrowed=borrowed(queue, has) / WHOLE,
                waiting=len(waits),
                wanted=sum(records.amounts(each).gpus for each in waits) / WHOLE,
                limited=ahead is not None and limit_of(records, ahead) is not None,
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class PoolStanding:
    """A pool, for whoever asks. Amounts are GPUs.

    Attributes:
        gang: that holds it.
        sharing: by what its GPUs are shared, in words.
        gpus: that it has, or asks for.
        ready: whether gangs can have shares of it.
        tasks: what its own placement group has of it.
        shared: what gangs have of it; `gangs`: how many. waiting: gangs that wait for shares of it.
        per_gang, per_program: the most that one gang, or all of a program, may have; None: all that is left.
    """

    name: str
    gang: str
    sharing: str
    gpus: int
    ready: bool
    tasks: float
    shared: float
    gangs: int
    waiting: int
    per_gang: float | None
    per_program: float | None


def pool_standings(records: Records) -> tuple[PoolStanding, ...]:
    """The pools, by name."""
    found = []
    for name in sorted(records.pools.names):
        pool = records.pools.get(name)
        if pool is None:
            continue
        bundles = records.gangs[pool.gang].request.bundles
        held = records.inventory.in_pool(pool.gang)
        terms = pool.terms
        found.append(
            PoolStanding(
                name=name,
                gang=pool.gang,
                sharing=str(replace(pool.sharing, pool=None)),
                gpus=len(bundles),
                ready=pool.ready,
                tasks=sum(bundle.share or 0 for bundle in bundles) / WHOLE,
                shared=sum(map(amount_of, held)) / WHOLE,
                gangs=len(held),
                waiting=records.pools.waiting_for(name),
                per_gang=terms.per_gang / WHOLE if terms.per_gang else None,
                per_program=terms.per_program / WHOLE if terms.per_program else None,
            )
        )
    return tuple(found)


def standing(records: Records, gang: Gang) -> Standing | None:
    """Where a gang stands; None for one that is not in the queue, or holds up nobody there."""
    if not gang.waits or gang.ordinary is not None:
        return None
    leaving = records.leaving() if records.evicted else ()
    victims = [each for each in leaving if each.eviction is not None and each.eviction.by == gang.id] if leaving else []
    if victims:
        ends = max(each.eviction.deadline for each in victims if each.eviction is not None)
        takes = tuple(each.name or each.id for each in victims)
        return Standing(records.ahead(gang), ends, guessed=gang.runs_for is not None, takes=takes)
    ahead, reservation = records.ahead(gang), records.notes[gang.id].reservation
    if ahead or reservation is None:
        return Standing(ahead, guessed=gang.runs_for is not None)
    named = (records.gangs[other].name or other for other in reservation.after if other in records.gangs)
    return Standing(0, reservation.at, tuple(named), gang.runs_for is not None)
