"""What a team has borrowed, and who may have it back: a gang whose team is guaranteed its GPUs. Pure.

Of a team that has more than its guarantee, those gangs are within it that come first by the order of its queue, as many
as fit; the others have borrowed. Neighbours: `preemption.py` has who may be taken, and at what price; `team_queues.py`
what a guarantee is.
"""

from __future__ import annotations

from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.team_queues import Entitlement, beyond
from ray_dra.core.gangs.turn import turn_of


def is_guaranteed(records: Records, first: Gang) -> bool:
    """Whether a gang that waits is within its team's guarantee."""
    order = records.team_order
    return order.declared and order.entitlement(first.team, records.amounts(first)) is Entitlement.GUARANTEED


def may_end(gang: Gang) -> bool:
    """Whether a gang that runs may end for another: it is in the middle of nothing else, and nobody else decides about
    it, neither a queue outside nor the gang that it goes with."""
    return (
        gang.quota is None
        and not gang.request.pool
        and gang.beside is None
        and gang.reshape is None
        and gang.notice is None
        and not gang.replacing
    )


def borrowed_by(records: Records, first: Gang) -> dict[str, int]:
    """The gangs of other teams that have borrowed and may end for this one, each with its team's place: 0 for the team
    that has most beyond its guarantee, by its weight. Ordinary placement groups are their programs' to end."""
    order = records.team_order
    own = order.team(first.team)
    teams: dict[str, list[Gang]] = {}
    for gang, _ in records.holders():
        team = order.team(gang.team)
        if team != own and not gang.releasing and gang.eviction is None:
            teams.setdefault(team, []).append(gang)
    most_first = sorted(teams, key=lambda name: (-beyond(order.queues.queue(name), order.has(name), order.total), name))
    return {
        gang.id: place
        for place, name in enumerate(most_first)
        for gang in _beyond_guarantee(records, order.queues.queue(name).guarantee, teams[name])
        if gang.ordinary is None and gang.maker is not None and may_end(gang)
    }


def _beyond_guarantee(records: Records, guarantee: int, gangs: list[Gang]) -> list[Gang]:
    found, within = [], 0
    for gang in sorted(gangs, key=turn_of):
        gpus = records.amounts(gang).gpus
        if within + gpus <= guarantee:
            within += gpus
        else:
            found.append(gang)
    return found


def still_owed(records: Records, gang: Gang, by: Gang) -> bool:
    """Whether a gang that has notice for another still has to end for it, as far as their teams are concerned."""
    if not records.same_team(gang, by):
        return is_guaranteed(records, by)
    return gang.request.preemptible and gang.request.priority < by.request.priority
