"""The queues of teams as rows, and as plain values: what `ray-dra queues` shows. Neighbour: `gang_table.py`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ray_dra.core.gangs.standing import TeamStanding
from ray_dra.core.gangs.team_queues import TeamQueues
from ray_dra.core.model.request import WHOLE
from ray_dra.translate.lines import several

QUEUE_HEADERS = ("QUEUE", "GUARANTEE", "WEIGHT", "LIMIT", "USED", "BORROWED", "WAITING", "REASON")


def queue_row(team: TeamStanding) -> list[str]:
    """The cells under QUEUE_HEADERS: GPUs, and gangs that wait with the GPUs that they ask for."""
    waiting = f"{several(team.waiting, 'gang')}, {team.wanted:g} GPUs" if team.waiting else "0"
    limit = "" if team.limit is None else f"{team.limit:g}"
    numbers = (team.guarantee, team.weight, team.used, team.borrowed)
    guarantee, weight, used, borrowed = (f"{number:g}" for number in numbers)
    return [team.name, guarantee, weight, limit, used, borrowed, waiting, _reason(team)]


def _reason(team: TeamStanding) -> str:
    if not team.declared:
        return "not declared any more: what runs is borrowed, what waits goes on to"
    return "waits for its limit" if team.limited else ""


def too_much_guaranteed(queues: TeamQueues, gpus: int) -> str:
    """That a cluster of so many GPUs, in thousandths of one, cannot give all teams what they are guaranteed; "" where
    it can."""
    if queues.guaranteed <= gpus:
        return ""
    return (
        f"queues of teams: {queues.guaranteed / WHOLE:g} GPUs are guaranteed together, and the cluster has "
        f"{gpus / WHOLE:g}: not all teams can have their guarantees at once"
    )


def plain_queue(team: TeamStanding) -> dict[str, Any]:
    """A queue for programs; `limit`: None where there is none."""
    return asdict(team)
