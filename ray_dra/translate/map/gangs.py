"""A gang as the map shows it: a card for the list, and the details that are asked for when somebody opens it.

Plain values. Names and reasons come from programs: they are text, and whoever shows them escapes them. Neighbours:
`cells.py` has the nodes, `page.py` puts both together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ray_dra.core.gangs.forecast import Expected
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import DomainId
from ray_dra.core.model.request import WHOLE, GangRequest
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.translate.gang_table import ListedGang, asked_at, gang_reason
from ray_dra.translate.text import (
    explain_expected,
    explain_notice,
    explain_reshape,
    explain_standing,
    explain_times,
)

MOST_RANKS = 2_048  # bundles of a gang that are listed one by one
MOST_REASON = 600  # characters

Card = dict[str, Any]


def gang_card(status: ListedGang, team: str = "") -> Card:
    """A gang in the list. What is not there is left out: None stands for nothing."""
    allocation, times, standing = status.allocation, status.times, status.standing
    card: Card = {
        "name": status.name,
        "namespace": status.namespace,
        "owner": status.owner,
        "team": team,
        "phase": status.phase.value,
        "stage": times.stage or "",
        "since": times.since if times.stage else None,
        "spent": [[stage, round(seconds, 3)] for stage, seconds in times.spent],
        "asked": asked_at(status),
        "bundles": status.bundles,
        "gpus": status.gpus,
        "priority": status.priority,
        "locality": status.locality,
        "moves": status.moves,
        "reason": gang_reason(status, when=False)[:MOST_REASON],
        "notice": explain_notice(status.notice, status.bundles) if status.notice is not None else "",
        "lost": len(status.lost),
    }
    if allocation is not None:
        card["nodes"] = len(set(allocation.nodes))
        card["cliques"] = _cliques(allocation)
        card["in_pool"] = allocation.pool
    elif standing is not None:
        card["ahead"] = standing.ahead
        card["starts"] = standing.starts
        card["after"] = list(standing.after)
        card["takes"] = list(standing.takes)
    return {name: value for name, value in card.items() if value not in (None, "", [], 0)}


def allocation_card(allocation: Allocation) -> Card:
    """A gang of which only its allocation is known, in a snapshot."""
    return {
        "phase": "held",
        "bundles": len(allocation.bundles),
        "gpus": len({(grant.node, grant.device) for grant in allocation.grants}),
        "nodes": len(set(allocation.nodes)),
        **{
            name: value
            for name, value in (
                ("cliques", _cliques(allocation)),
                ("priority", allocation.priority),
                ("in_pool", allocation.pool),
            )
            if value
        },
    }


def ranks(allocation: Allocation) -> dict[str, Any]:
    """Bundle by bundle: its node, its clique, its GPUs."""
    found = [
        {
            "rank": rank,
            "node": placed.node,
            "clique": placed.clique or "",
            "gpus": [
                {
                    "number": grant.position if grant.index is None else grant.index,
                    "uuid": grant.uuid or "",
                    **({"share": grant.amount / WHOLE} if grant.amount is not None else {}),
                    **({"part": grant.part.profile} if grant.part is not None else {}),
                }
                for grant in placed.grants
            ],
        }
        for rank, placed in enumerate(allocation.bundles[:MOST_RANKS])
    ]
    return {"ranks": found, "more_ranks": max(0, len(allocation.bundles) - MOST_RANKS)}


def gang_details(status: ListedGang, expected: Expected | None) -> dict[str, Any]:
    """All that the map tells of one gang. `expected`: when it should start, of one that waits."""
    told = status.standing is not None and bool(status.standing.takes)
    waits = explain_expected(expected) if expected is not None and not told else explain_standing(status.standing)
    found: dict[str, Any] = {
        "history": [
            {
                "at": change.at,
                "was": change.was.value if change.was is not None else "",
                "to": change.to.value,
                "why": change.why,
            }
            for change in status.history
        ],
        "times": explain_times(status.times),
        "shape": explain_reshape(status.reshape, status.shape_failed, status.shrunk),
        "waits": waits if status.allocation is None else [],
        "group": status.group or "",
    }
    return found | (ranks(status.allocation) if status.allocation is not None else {"ranks": []})


def what_if(answer: Allocation | Unsatisfiable, said: str, request: GangRequest) -> dict[str, Any]:
    """An answer of the planner as ghost cells, by node, or why not. `said`: the answer in words."""
    found: dict[str, Any] = {"fits": isinstance(answer, Allocation), "said": said, "gpus": request.device_count}
    ghost = answer
    if isinstance(answer, Unsatisfiable) and answer.counterfactual is not None and answer.counterfactual.instead:
        ghost = answer.counterfactual.instead[0].allocation
        found["instead"] = answer.counterfactual.instead[0].change
    leaving = answer.counterfactual.leaving if isinstance(answer, Unsatisfiable) and answer.counterfactual else None
    found["leaving"] = list(leaving.gangs) if leaving is not None else []
    cells: dict[str, list[int]] = {}
    for grant in ghost.grants if isinstance(ghost, Allocation) else ():
        if grant.part is None:
            cells.setdefault(grant.node, []).append(grant.position)
    found["ghost"] = {node: sorted(set(positions)) for node, positions in cells.items()}
    return found


def _cliques(allocation: Allocation) -> Sequence[DomainId]:
    return list(dict.fromkeys(clique for clique in allocation.cliques if clique is not None))


def queue_order(cards: Mapping[str, Card], ids: Iterable[str]) -> list[str]:
    """Those that wait, as they have their turn; those of which it is not known come last."""
    waiting: Collection[str] = [gang for gang in ids if cards[gang]["phase"] in ("queued", "quota")]
    return sorted(waiting, key=lambda gang: (cards[gang]["phase"] == "quota", cards[gang].get("ahead", 0)))
