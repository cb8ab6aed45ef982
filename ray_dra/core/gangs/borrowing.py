"""What a team has borrowed, and who may have it back: a gang whose team is guaranteed its GPUs. Pure.

Of a team that has more than its guarantee, those gangs are within it that come first by the order of its queue, as many
as fit; the others have borrowed. Neighbours: `preemption.py` has who may be taken, and at what price; `team_queues.py`
what a guarantee is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray_dra.core.gangs.eviction import Eviction
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.records import Records
from ray_dra.core.gangs.team_order import TeamOrder
from ray_dra.core.gangs.team_queues import Entitlement, beyond
from ray_dra.core.gangs.turn import Turn, turn_of


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
    teams: dict[str, list[tuple[Turn, int]]] = {}
    for gang, _ in records.holders():
        if not gang.releasing and gang.eviction is None:
            teams.setdefault(order.team(gang.team), []).append((turn_of(gang), records.amounts(gang).gpus))
    return {
        gang_id: place
        for gang_id, place in borrowed_from(order, order.team(first.team), teams).items()
        if _may_be_taken(records.gangs[gang_id])
    }


def _may_be_taken(gang: Gang) -> bool:
    return gang.ordinary is None and gang.maker is not None and may_end(gang)


def borrowed_from(order: TeamOrder, own: str, running: Mapping[str, Sequence[tuple[Turn, int]]]) -> dict[str, int]:
    """The gangs that other teams than `own` have borrowed, each with its team's place, of those that run: of each team
    their turns, and GPUs in thousandths of one. The replay of traces asks, too."""
    others = [team for team in running if team != own]
    most_first = sorted(
        others, key=lambda team: (-beyond(order.queues.queue(team), order.has(team), order.total), team)
    )
    return {
        gang: place
        for place, team in enumerate(most_first)
        for gang in _beyond_guarantee(order.queues.queue(team).guarantee, running[team])
    }


def _beyond_guarantee(guarantee: int, gangs: Sequence[tuple[Turn, int]]) -> list[str]:
    found, within = [], 0
    for (_, _, gang), gpus in sorted(gangs):
        if within + gpus <= guarantee:
            within += gpus
        else:
            found.append(gang)
    return found


def still_owed(records: Records, gang: Gang, eviction: Eviction) -> bool:
    """Whether a gang that has notice for another that waits still has to end for it: that one waits yet, and has the
    right to its devices, as far as their teams are concerned."""
    by = records.gangs.get(eviction.by)
    if by is None or not by.waits:
        return False
    if not records.same_team(gang, by):
        return is_guaranteed(records, by)
    return gang.request.preemptible and gang.request.priority < by.request.priority
